//! Moving a deployment from one revision to another: a pure state machine, and the controller that runs its effects.

mod active;
mod controller;
mod machine;
mod memory;
mod plan;
mod refusal;
mod run;
mod start;

pub use controller::{Controller, RolloutSettings};
pub use machine::{Effect, Happening, Move, Step, step};
pub use refusal::Refused;
