//! Benchmarks of OpenAI-compatible servers: what is sent and when, what was measured, and how sure that is.

mod arrivals;
mod block;
mod bootstrap;
mod compare;
mod cost;
mod failures;
mod outcome;
mod pacing;
mod prompts;
mod run;
mod search;

pub use arrivals::Arrivals;
pub use block::{Block, Counts, Latency};
pub use compare::{Comparison, Row, compare};
pub use cost::RunCost;
pub use failures::Failures;
pub use outcome::{Generator, LatencyOutcome, Outcome, Quantile, Quantity, SCHEMA};
pub use prompts::{Length, Prompts, Question};
pub use run::{Api, BenchError, LoadShape, Measured, Objectives, Plan, Progress, calibrate, run};
pub use search::{Step, next_rate};
