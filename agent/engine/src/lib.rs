//! Language models on candle: load, batch, sample and train.
//!
//! One [`description::DecoderDescription`] covers every family; [`decoder::Decoder`] runs it for inference over a
//! ragged batch of sequences, [`train::TrainableDecoder`] runs the same description with differentiable operations.
//! [`engine::Engine`] owns the compute thread. This crate knows no network, no database and no wall clock.

pub mod cache;
pub mod chat_template;
pub mod decoder;
pub mod description;
pub mod engine;
mod error;
pub mod generation;
mod gguf_metadata;
mod hf_config;
pub mod model;
pub mod sampling;
pub mod scheduler;
mod text_stream;
pub mod tokenizer;
pub mod train;
pub mod weights;

pub use error::EngineError;
