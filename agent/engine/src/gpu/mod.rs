//! A decoder on a GPU: its weights there as their file has them, its keys and values in blocks there. The scheduler, the pool
//! of blocks and sampling are those of the CPU; a step is products, candle's or ours, and the other ops of
//! [`llmdeck_kernels::gpu`].
//!
//! It runs on candle's CPU device as well, which is how it is tested where there is no GPU.

mod adapters;
mod decoder;
mod matrix;
mod steps;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on panics and says where")]
mod tests;

pub use decoder::GpuDecoder;
pub use llmdeck_kernels::gpu::OpenDevice;
pub use matrix::Products;
pub(crate) use steps::GpuSteps;
