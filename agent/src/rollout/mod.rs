//! Moving a deployment from one revision to another: a pure state machine, and the controller that runs its effects.

mod active;
mod compare;
mod compared;
mod controller;
mod deploy;
mod evidence;
mod machine;
mod memory;
mod metric;
mod plan;
mod refusal;
mod rollback;
mod run;
mod start;
mod steer;
mod stop;
mod strategy;

pub use controller::{Controller, RolloutSettings};
pub use machine::{Course, Effect, Happening, Move, Step, step};
pub use metric::Metric;
pub use refusal::Refused;
pub use steer::Steering;
pub use strategy::{RolloutConfig, StepConfig, StrategyName, StrategyPlan};
