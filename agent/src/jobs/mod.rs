//! Long work with progress that operators ask for, one at a time: scoring a revision, measuring a deployment under load,
//! measuring the node; and fine-tuning, which has a line of its own.

mod bench;
mod bench_node;
mod cost_meter;
mod disk;
mod evaluate;
mod finetune;
mod handle;
mod line;
mod list;

pub use bench::BenchPlan;
pub use bench_node::{MeasuredModel, ModelBench, NodeBench};
pub use finetune::{FinetuneAsked, FinetuneConfig, FinetuneError, Finetunes};
pub use list::{Jobs, NotHeld, TooManyJobs, UnknownJob};
