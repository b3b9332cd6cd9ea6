//! Fine-tuning: what is learned are thin matrices beside the weights (LoRA, Hu et al. 2021), which stay as they are and in
//! their format, shared with whoever serves them; a block of them at a time is expanded on the way forwards and back (QLoRA,
//! Dettmers et al. 2023). Forward and backward passes are written out for the one decoder description that every family is a
//! value of.

mod attention;
mod base;
mod conversation;
mod dropout;
mod heads;
mod kept;
mod layer;
mod linear;
mod memory;
mod network;
mod parameters;
mod run;
mod sample;
mod settings;
mod state;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on panics and says where")]
mod tests;

pub use base::base_losses;
pub use conversation::{Turn, conversation, plain_text};
pub use memory::memory_bytes;
pub use network::{Loss, Mean};
pub use run::{FineTune, StepReport, TrainingData};
pub use sample::Sample;
pub use settings::{Schedule, TrainingSettings};
