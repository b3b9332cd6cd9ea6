//! Language models: load, batch, sample and train.
//!
//! One [`description::DecoderDescription`] covers every family; [`decoder::Decoder`] runs it for inference over a
//! ragged batch of sequences on the kernels, [`train::TrainableDecoder`] runs the same description with candle's differentiable operations.
//! [`gpu::GpuDecoder`] is its twin on a GPU.
//! [`engine::Engine`] owns the compute thread. This crate knows no network, no database and no wall clock.

pub mod adapter;
pub mod batch;
pub mod blocks;
pub mod chat_template;
pub mod constraint;
mod cpu_time;
pub mod decoder;
pub mod description;
pub mod device;
pub mod engine;
mod error;
mod executor;
pub mod finetune;
pub mod footprint;
pub mod generation;
mod gguf;
pub mod gpu;
mod hf_config;
pub mod large_pages;
pub mod model;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on panics and says where")]
mod random_model;
pub mod roofline;
pub mod sampling;
pub mod scheduler;
pub mod scratch;
mod sequence;
pub mod session;
mod source;
mod speculation;
mod tensors;
mod text_stream;
pub mod tokenizer;
pub mod train;
mod weights;

pub use cpu_time::CpuTime;
pub use error::EngineError;
pub use llmdeck_kernels::allocator::{Allocator, give_gaps_back, give_memory_back};
pub use llmdeck_kernels::{Isa, Pool, give_way_to_others};
pub use tensors::check_header;
