//! How good answers are: scorers over every answer, and golden suites run on a schedule.

mod ask;
mod golden;
mod online;
mod schedule;
pub mod suite;

pub use ask::{AskError, ask};
pub use golden::{run_suite, suite_shares};
pub use online::{AnswerText, judge};
pub use schedule::score_on_schedule;
pub use suite::{GoldenRun, GoldenScore, Suite};
