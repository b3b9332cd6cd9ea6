use half::f16;
use half::slice::HalfFloatSliceExt;

/// Tokens in a block.
pub const BLOCK_TOKENS: usize = 16;
/// Numbers in a vector.
const LANES: usize = 16;

/// Keys and values in 16-bit floats, in blocks of 16 tokens of one layer. In a block each head has its keys as
/// `[head_dim, 16]`, so that scores of 16 tokens are one vector, and then its values as `[16, head_dim]`, padded to whole
/// vectors.
pub struct KeyValueStore {
    kv_heads: usize,
    head_dim: usize,
    halves: Vec<u16>,
    rounded: Vec<f16>,
}

impl KeyValueStore {
    /// Room for `blocks` blocks; memory is touched as it is written. `head_dim` is even.
    pub fn new(blocks: usize, kv_heads: usize, head_dim: usize) -> Self {
        let halves = vec![0; blocks * block_halves(kv_heads, head_dim)];
        Self { kv_heads, head_dim, halves, rounded: vec![f16::ZERO; kv_heads * head_dim] }
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

    /// Writes one token's keys and values, `[kv_heads, head_dim]` each.
    ///
    /// # Panics
    /// When the block does not exist: that is a bug of the caller.
    pub fn write(&mut self, block: u32, slot: usize, keys: &[f32], values: &[f32]) {
        let (dim, padded) = (self.head_dim, self.padded_dim());
        let (of_head, of_block) = (head_halves(dim), block_halves(self.kv_heads, dim));
        let block = &mut self.halves[block as usize * of_block..][..of_block];
        self.rounded.convert_from_f32_slice(keys);
        for (head, keys) in block.chunks_exact_mut(of_head).zip(self.rounded.chunks_exact(dim)) {
            for (places, key) in head.chunks_exact_mut(BLOCK_TOKENS).zip(keys) {
                places[slot] = key.to_bits();
            }
        }
        self.rounded.convert_from_f32_slice(values);
        for (head, values) in block.chunks_exact_mut(of_head).zip(self.rounded.chunks_exact(dim)) {
            for (place, value) in head[BLOCK_TOKENS * dim + slot * padded..][..dim].iter_mut().zip(values) {
                *place = value.to_bits();
            }
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
