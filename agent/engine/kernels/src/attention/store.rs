use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::Pool;
use crate::pool::SendPointer;
use crate::zeroed::Zeroed;

/// Tokens in a block.
pub const BLOCK_TOKENS: usize = 16;
/// Tokens below which one thread is quicker than several.
const LEAST_SHARED_TOKENS: usize = 16;
/// Numbers in a vector.
const LANES: usize = 16;
/// Of bytes: the largest number of a head becomes this.
const LARGEST_BYTE: f32 = 127.0;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheFormat {
    /// 16-bit floats.
    #[default]
    F16,
    /// bfloat16: the range of 32 bits, fewer digits.
    Bf16,
    /// Bytes with a scale for each token and head: half the memory.
    Int8,
}

impl CacheFormat {
    /// Words of a head in a block: keys, values, and the scales of both where there are any.
    fn head_words(self, dim: usize) -> usize {
        let numbers = (dim + dim.next_multiple_of(LANES)) * BLOCK_TOKENS;
        match self {
            Self::F16 | Self::Bf16 => numbers,
            Self::Int8 => numbers / 2 + 2 * BLOCK_TOKENS,
        }
    }

    /// Words that so many numbers take.
    fn words(self, numbers: usize) -> usize {
        match self {
            Self::F16 | Self::Bf16 => numbers,
            Self::Int8 => numbers / 2,
        }
    }
}

/// Keys and values in blocks of 16 tokens of one layer. In a block each head has its keys as `[head_dim, 16]`, so that scores of
/// 16 tokens are one vector, and then its values as `[16, head_dim]`, padded to whole vectors; behind bytes are their scales, of
/// 16 keys and of 16 values, as 16-bit floats.
pub struct KeyValueStore {
    format: CacheFormat,
    kv_heads: usize,
    head_dim: usize,
    words: Zeroed<u16>,
}

/// What a block has of one head.
#[derive(Clone, Copy)]
pub(super) struct HeadBlock<'a> {
    pub(super) keys: &'a [u16],
    pub(super) values: &'a [u16],
    /// Of keys, then of values; only where they are bytes.
    pub(super) scales: &'a [u16],
}

impl KeyValueStore {
    /// Room for `blocks` blocks; memory is touched as it is written. `head_dim` is even.
    ///
    /// # Errors
    /// When the system has not so much memory.
    pub fn new(
        format: CacheFormat,
        blocks: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> std::io::Result<Self> {
        let words = Zeroed::new(blocks.saturating_mul(kv_heads * format.head_words(head_dim)))?;
        Ok(Self { format, kv_heads, head_dim, words })
    }

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Numbers a head has.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// How they are stored.
    pub fn format(&self) -> CacheFormat {
        self.format
    }

    /// The same with what rounds it up to whole vectors.
    pub(super) fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// Bytes that a block takes.
    pub fn block_bytes(format: CacheFormat, kv_heads: usize, head_dim: usize) -> u64 {
        (kv_heads * format.head_words(head_dim) * size_of::<u16>()) as u64
    }

    /// Writes keys and values of many tokens. Token `n` goes to `places[n]`, a block and a slot; its keys are in row `n`
    /// of `rows`, `stride` numbers apart, from `column` on, `[kv_heads, head_dim]`, and its values follow.
    ///
    /// # Panics
    /// When a block does not exist, two tokens go to one place, or rows are missing: those are bugs of the caller.
    pub fn write(
        &mut self,
        pool: &Pool,
        places: &[(u32, usize)],
        rows: &[f32],
        stride: usize,
        column: usize,
    ) {
        let (format, dim) = (self.format, self.head_dim);
        let of_head = format.head_words(dim);
        let of_block = self.kv_heads * of_head;
        let width = self.kv_heads * dim;
        assert!(stride >= column + 2 * width && rows.len() >= places.len() * stride, "rows are missing");
        let blocks = self.words.len() / of_block;
        let mut sorted = places.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert!(sorted.len() == places.len(), "two tokens go to one place");
        assert!(
            places.iter().all(|(block, slot)| (*block as usize) < blocks && *slot < BLOCK_TOKENS),
            "no such place"
        );
        let first = SendPointer(self.words.as_mut_ptr());
        let write = |token: usize| {
            let (block, slot) = places[token];
            let (keys, values) = rows[token * stride + column..][..2 * width].split_at(width);
            for head in 0..self.kv_heads {
                let of_token = head * dim..(head + 1) * dim;
                let (keys, values) = (&keys[of_token.clone()], &values[of_token]);
                // SAFETY: the block is there, so all of this head's words are; a slot of a block is written by one task,
                // since no two tokens go to one place.
                unsafe {
                    let head = first.at(block as usize * of_block + head * of_head);
                    match format {
                        CacheFormat::F16 => write_floats::<f16>(head, slot, keys, values),
                        CacheFormat::Bf16 => write_floats::<bf16>(head, slot, keys, values),
                        CacheFormat::Int8 => write_bytes(head, slot, keys, values),
                    }
                }
            }
        };
        if places.len() < LEAST_SHARED_TOKENS {
            return (0..places.len()).for_each(write);
        }
        // Keys of a block's tokens lie side by side, too close for two threads.
        let mut end = 0;
        let runs = places.chunk_by(|one, next| one.0 == next.0).map(|run| {
            end += run.len();
            end - run.len()..end
        });
        let runs: Vec<_> = runs.collect();
        pool.run(runs.len(), |run| runs[run].clone().for_each(write));
    }

    pub(super) fn head(&self, block: u32, kv_head: usize) -> HeadBlock<'_> {
        let of_head = self.format.head_words(self.head_dim);
        let first = (block as usize * self.kv_heads + kv_head) * of_head;
        let (keys, rest) =
            self.words[first..][..of_head].split_at(self.format.words(self.head_dim * BLOCK_TOKENS));
        let (values, scales) = rest.split_at(self.format.words(self.padded_dim() * BLOCK_TOKENS));
        HeadBlock { keys, values, scales }
    }
}

/// A 16-bit float.
trait Half: Copy + Default {
    fn convert(to: &mut [Self], from: &[f32]);
}

impl Half for f16 {
    fn convert(to: &mut [Self], from: &[f32]) {
        to.convert_from_f32_slice(from);
    }
}

impl Half for bf16 {
    fn convert(to: &mut [Self], from: &[f32]) {
        to.convert_from_f32_slice(from);
    }
}

/// # Safety
/// `head` has the words of a head in a block, and nobody else writes to the slot.
unsafe fn write_floats<H: Half>(head: *mut u16, slot: usize, keys: &[f32], values: &[f32]) {
    let (head, dim) = (head.cast::<H>(), keys.len());
    // SAFETY: the caller gives a head's words, which both kinds of halves are.
    unsafe {
        for (chunk, keys) in keys.chunks(LANES).enumerate() {
            let mut halves = [H::default(); LANES];
            H::convert(&mut halves[..keys.len()], keys);
            for (index, half) in halves[..keys.len()].iter().enumerate() {
                *head.add((chunk * LANES + index) * BLOCK_TOKENS + slot) = *half;
            }
        }
        let place = head.add(dim * BLOCK_TOKENS + slot * dim.next_multiple_of(LANES));
        H::convert(std::slice::from_raw_parts_mut(place, dim), values);
    }
}

/// # Safety
/// As [`write_floats`].
unsafe fn write_bytes(head: *mut u16, slot: usize, keys: &[f32], values: &[f32]) {
    let (bytes, dim) = (head.cast::<i8>(), keys.len());
    let padded = dim.next_multiple_of(LANES);
    let (key_scale, value_scale) = (scale_of(keys), scale_of(values));
    // SAFETY: the caller gives a head's words: bytes of keys and of values, then scales.
    unsafe {
        for (index, key) in keys.iter().enumerate() {
            *bytes.add(index * BLOCK_TOKENS + slot) = byte_of(*key, key_scale);
        }
        let place = bytes.add(dim * BLOCK_TOKENS + slot * padded);
        for (index, value) in values.iter().enumerate() {
            *place.add(index) = byte_of(*value, value_scale);
        }
        let scales = head.add((dim + padded) * BLOCK_TOKENS / 2);
        *scales.add(slot) = key_scale.to_bits();
        *scales.add(BLOCK_TOKENS + slot) = value_scale.to_bits();
    }
}

/// What is not a number makes the scale one that is not, and so shows in the result.
pub(crate) fn scale_of(numbers: &[f32]) -> f16 {
    let largest = numbers.iter().fold(0, |most, number| most.max(number.to_bits() & 0x7fff_ffff));
    f16::from_f32(f32::from_bits(largest) / LARGEST_BYTE)
}

/// `number` in units of `scale`.
pub(crate) fn byte_of(number: f32, scale: f16) -> i8 {
    let scale = scale.to_f32();
    if scale == 0.0 { 0 } else { (number / scale).round().clamp(-LARGEST_BYTE, LARGEST_BYTE) as i8 }
}
