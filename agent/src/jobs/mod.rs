//! Long work with progress that operators ask for, one at a time: scoring a revision, measuring a deployment under load,
//! measuring the node.

mod bench;
mod bench_node;
mod cost_meter;
mod disk;
mod evaluate;
mod list;

pub use bench::BenchPlan;
pub use bench_node::{MeasuredModel, ModelBench, NodeBench};
pub use list::{Jobs, TooManyJobs, UnknownJob};
