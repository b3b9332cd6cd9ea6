//! Training with the same decoder description: a differentiable forward pass, AdamW, and batches that learn only
//! from answers.

mod adamw;
mod batch;
mod decoder;
mod export;
mod schedule;

pub use adamw::{AdamW, AdamWOptions};
pub(crate) use adamw::{adamw_update, clip_factor};
pub use batch::{TrainingExample, accumulate_gradients};
pub use decoder::TrainableDecoder;
pub use export::write_gguf;
pub use schedule::cosine_with_warmup;
