//! The arithmetic of the engine: on the CPU, and in [`gpu`] what a GPU computes beside candle's products, or in their place.
//!
//! [`Matrix`] holds weights as their file has them, laid out anew for the widest instructions, and multiplies them with
//! any number of rows; [`attention`] reads a key and value cache in blocks; [`logits`] are what tokens are chosen by;
//! [`elementwise`] has the rest. A [`Pool`] of
//! threads runs them all.
//!
//! This crate is the only one with `unsafe`. Every kernel that uses vector instructions has a plain twin, in safe Rust,
//! that gives the same bits; properties compare the two.

pub mod allocator;
pub mod attention;
mod background;
mod bfloat16;
mod bfloat16_rows;
pub mod dense;
pub mod elementwise;
#[cfg(test)]
mod exactness;
mod exp;
mod format;
pub mod gpu;
pub mod gradients;
mod isa;
mod large_pages;
pub mod limits;
mod line;
pub mod logits;
mod low_rank;
mod matmul;
mod matrix;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pool;
mod quantize;
mod repack;
mod rows;
#[cfg(test)]
mod sizes;
mod zeroed;

pub use background::give_way_to_others;
pub use format::WeightFormat;
pub use isa::Isa;
pub use low_rank::LowRank;
pub use matmul::{Gate, GateAndUp, Product, matmul, matmul_gated};
pub use matrix::Matrix;
pub use pool::Pool;
pub use rows::{RowMut, Rows};
