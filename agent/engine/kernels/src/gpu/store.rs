//! Keys and values on a device, `[blocks, 2, kv_heads]` of heads: keys, then values. A head has the numbers of 16 tokens, one token after
//! the other, and behind bytes a scale of each token.

use candle_core::{DType, Device, Result, Tensor, bail};
use half::{bf16, f16};

use super::MOST_HEAD_DIM;
use crate::attention::{BLOCK_TOKENS, CacheFormat, byte_of, scale_of};

/// Numbers that one load reads: a head has a multiple of them.
const LOADED_AT_ONCE: usize = 8;

/// Keys and values of a model's layers in blocks of 16 tokens.
pub struct GpuStore {
    pub(super) bytes: Tensor,
    pub(super) shape: StoreShape,
}

/// How a store has its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoreShape {
    pub(super) format: CacheFormat,
    pub(super) kv_heads: usize,
    pub(super) dim: usize,
}

/// Where a token's keys or values of a head are.
#[derive(Clone, Copy, Debug)]
pub(super) struct StorePlace {
    pub(super) block: usize,
    /// 0 for keys, 1 for values.
    pub(super) which: usize,
    pub(super) head: usize,
    pub(super) slot: usize,
}

impl GpuStore {
    /// Room for so many blocks.
    ///
    /// # Errors
    /// When the head's numbers are too many or no multiple of 8, or the device has no room.
    pub fn new(
        device: &Device,
        format: CacheFormat,
        blocks: usize,
        kv_heads: usize,
        dim: usize,
    ) -> Result<Self> {
        if dim > MOST_HEAD_DIM || !dim.is_multiple_of(LOADED_AT_ONCE) {
            bail!("heads of {dim} numbers: a GPU takes multiples of {LOADED_AT_ONCE} up to {MOST_HEAD_DIM}");
        }
        let shape = StoreShape { format, kv_heads, dim };
        Ok(Self { bytes: Tensor::zeros((blocks, shape.block_bytes()), DType::U8, device)?, shape })
    }

    /// Bytes that a block takes.
    pub fn block_bytes(format: CacheFormat, kv_heads: usize, dim: usize) -> u64 {
        StoreShape { format, kv_heads, dim }.block_bytes() as u64
    }
}

impl StoreShape {
    fn number_bytes(self) -> usize {
        match self.format {
            CacheFormat::F16 | CacheFormat::Bf16 => 2,
            CacheFormat::Int8 => 1,
        }
    }

    fn head_bytes(self) -> usize {
        let scales = match self.format {
            CacheFormat::F16 | CacheFormat::Bf16 => 0,
            CacheFormat::Int8 => size_of::<f16>(),
        };
        (self.dim * self.number_bytes() + scales) * BLOCK_TOKENS
    }

    fn block_bytes(self) -> usize {
        2 * self.kv_heads * self.head_bytes()
    }

    /// Where a token's numbers begin, and where its scale does.
    fn at(self, StorePlace { block, which, head, slot }: StorePlace) -> (usize, usize) {
        let first = ((block * 2 + which) * self.kv_heads + head) * self.head_bytes();
        let numbers = self.dim * self.number_bytes();
        (first + slot * numbers, first + BLOCK_TOKENS * numbers + slot * size_of::<f16>())
    }

    pub(super) fn put(self, bytes: &mut [u8], place: StorePlace, numbers: &[f32]) {
        let (at, scale_at) = self.at(place);
        let to = &mut bytes[at..][..self.dim * self.number_bytes()];
        match self.format {
            CacheFormat::F16 => {
                for (to, number) in to.as_chunks_mut().0.iter_mut().zip(numbers) {
                    *to = f16::from_f32(*number).to_le_bytes();
                }
            }
            CacheFormat::Bf16 => {
                for (to, number) in to.as_chunks_mut().0.iter_mut().zip(numbers) {
                    *to = bf16::from_f32(*number).to_le_bytes();
                }
            }
            CacheFormat::Int8 => {
                let scale = scale_of(numbers);
                for (to, number) in to.iter_mut().zip(numbers) {
                    *to = byte_of(*number, scale).cast_unsigned();
                }
                bytes[scale_at..][..size_of::<f16>()].copy_from_slice(&scale.to_le_bytes());
            }
        }
    }

    /// Reads a token's numbers.
    pub(super) fn get(self, bytes: &[u8], place: StorePlace, numbers: &mut [f32]) {
        let (at, scale_at) = self.at(place);
        let from = &bytes[at..][..self.dim * self.number_bytes()];
        match self.format {
            CacheFormat::F16 => {
                for (number, from) in numbers.iter_mut().zip(from.as_chunks().0) {
                    *number = f16::from_le_bytes(*from).to_f32();
                }
            }
            CacheFormat::Bf16 => {
                for (number, from) in numbers.iter_mut().zip(from.as_chunks().0) {
                    *number = bf16::from_le_bytes(*from).to_f32();
                }
            }
            CacheFormat::Int8 => {
                let scale = f16::from_le_bytes([bytes[scale_at], bytes[scale_at + 1]]).to_f32();
                for (number, from) in numbers.iter_mut().zip(from) {
                    *number = f32::from(from.cast_signed()) * scale;
                }
            }
        }
    }
}
