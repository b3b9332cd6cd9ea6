use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::Pool;
use crate::pool::SendPointer;
use crate::zeroed::Zeroed;

/// Tokens in a block.
pub const BLOCK_TOKENS: usize = 16;
/// Tokens below which one thread is quicker than several.
const LEAST_SHARED_TOKENS: usize = 16;
/// Numbers in a vector.
const LANES: usize = 16;

/// Keys and values in 16-bit floats, in blocks of 16 tokens of one layer. In a block each head has its keys as
/// `[head_dim, 16]`, so that scores of 16 tokens are one vector, and then its values as `[16, head_dim]`, padded to whole
/// vectors.
pub struct KeyValueStore {
    kv_heads: usize,
    head_dim: usize,
    halves: Zeroed<u16>,
}

impl KeyValueStore {
    /// Room for `blocks` blocks; memory is touched as it is written. `head_dim` is even.
    ///
    /// # Errors
    /// When the system has not so much memory.
    pub fn new(blocks: usize, kv_heads: usize, head_dim: usize) -> std::io::Result<Self> {
        let halves = Zeroed::new(blocks.saturating_mul(block_halves(kv_heads, head_dim)))?;
        Ok(Self { kv_heads, head_dim, halves })
    }

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Numbers a head has.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// The same with what rounds it up to whole vectors.
    pub(super) fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// Bytes that a block takes.
    pub fn block_bytes(kv_heads: usize, head_dim: usize) -> u64 {
        (block_halves(kv_heads, head_dim) * size_of::<u16>()) as u64
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
        let (dim, padded) = (self.head_dim, self.padded_dim());
        let (of_head, of_block) = (head_halves(dim), block_halves(self.kv_heads, dim));
        let width = self.kv_heads * dim;
        assert!(stride >= column + 2 * width && rows.len() >= places.len() * stride, "rows are missing");
        let blocks = self.halves.len() / of_block;
        let mut sorted = places.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert!(sorted.len() == places.len(), "two tokens go to one place");
        assert!(
            places.iter().all(|(block, slot)| (*block as usize) < blocks && *slot < BLOCK_TOKENS),
            "no such place"
        );
        let first = SendPointer(self.halves.as_mut_ptr());
        let write = |token: usize| {
            let (block, slot) = places[token];
            let (keys, values) = rows[token * stride + column..][..2 * width].split_at(width);
            for head in 0..self.kv_heads {
                let start = block as usize * of_block + head * of_head;
                let of_token = head * dim..(head + 1) * dim;
                // SAFETY: the block is there, so all of its halves are; a slot of a block is written by one task, since
                // no two tokens go to one place.
                unsafe {
                    for (index, key) in keys[of_token.clone()].iter().enumerate() {
                        *first.at(start + index * BLOCK_TOKENS + slot) = f16::from_f32(*key).to_bits();
                    }
                    let place = first.at(start + dim * BLOCK_TOKENS + slot * padded);
                    let place = std::slice::from_raw_parts_mut(place.cast::<f16>(), dim);
                    place.convert_from_f32_slice(&values[of_token]);
                }
            }
        };
        if places.len() < LEAST_SHARED_TOKENS {
            (0..places.len()).for_each(write);
        } else {
            pool.run(places.len(), write);
        }
    }

    /// Keys, then values, of a head in a block.
    pub(super) fn head(&self, block: u32, kv_head: usize) -> (&[u16], &[u16]) {
        let of_head = head_halves(self.head_dim);
        let first = block as usize * block_halves(self.kv_heads, self.head_dim) + kv_head * of_head;
        self.halves[first..][..of_head].split_at(self.head_dim * BLOCK_TOKENS)
    }
}

fn block_halves(kv_heads: usize, head_dim: usize) -> usize {
    kv_heads * head_halves(head_dim)
}

fn head_halves(head_dim: usize) -> usize {
    (head_dim + head_dim.next_multiple_of(LANES)) * BLOCK_TOKENS
}
