//! Weights for tests.

use half::{bf16, f16};
use rand::Rng;
use rand::rngs::StdRng;

use crate::WeightFormat;

/// A file's bytes: any quants, scales of a size that weights have.
pub(crate) fn bytes(format: WeightFormat, rows: usize, columns: usize, rng: &mut StdRng) -> Vec<u8> {
    let (numbers, block_bytes) = format.file_block();
    let mut all = Vec::new();
    for _ in 0..rows * columns / numbers {
        let mut block: Vec<u8> = (0..block_bytes).map(|_| rng.random()).collect();
        let mut scale = || f16::from_f32(rng.random_range(-0.01..0.01)).to_le_bytes();
        match format {
            WeightFormat::F32 => block = rng.random_range(-1.0f32..1.0).to_le_bytes().into(),
            WeightFormat::F16 => block = f16::from_f32(rng.random_range(-1.0..1.0)).to_le_bytes().into(),
            WeightFormat::BF16 => block = bf16::from_f32(rng.random_range(-1.0..1.0)).to_le_bytes().into(),
            WeightFormat::Q6K => block[208..].copy_from_slice(&scale()),
            WeightFormat::Q4K | WeightFormat::Q5K => {
                block[..2].copy_from_slice(&scale());
                block[2..4].copy_from_slice(&scale());
            }
            _ => block[..2].copy_from_slice(&scale()),
        }
        all.extend(block);
    }
    all
}
