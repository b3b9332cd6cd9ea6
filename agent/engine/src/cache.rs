//! Keys and values of one sequence.

use candle_core::{DType, Device, Tensor};

use crate::description::DecoderDescription;

/// What attention has seen of one sequence: per layer, keys and values of shape `[kv_heads, capacity, head_dim]`.
pub struct SequenceCache {
    layers: Vec<(Tensor, Tensor)>,
    capacity: usize,
    len: usize,
}

impl SequenceCache {
    /// Room for `capacity` tokens.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn new(description: &DecoderDescription, capacity: usize) -> candle_core::Result<Self> {
        let shape = (description.kv_heads, capacity, description.head_dim);
        let layers = (0..description.layers)
            .map(|_| {
                Ok((
                    Tensor::zeros(shape, DType::F32, &Device::Cpu)?,
                    Tensor::zeros(shape, DType::F32, &Device::Cpu)?,
                ))
            })
            .collect::<candle_core::Result<_>>()?;
        Ok(Self { layers, capacity, len: 0 })
    }

    /// Tokens seen so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was seen yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that fit in all.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Writes `[kv_heads, new, head_dim]` behind what is there and returns all from `start`, as views.
    pub(crate) fn append(
        &mut self,
        layer: usize,
        keys: &Tensor,
        values: &Tensor,
        start: usize,
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let (stored_keys, stored_values) = &self.layers[layer];
        stored_keys.slice_set(keys, 1, self.len)?;
        stored_values.slice_set(values, 1, self.len)?;
        let seen = self.len + keys.dim(1)? - start;
        Ok((stored_keys.narrow(1, start, seen)?, stored_values.narrow(1, start, seen)?))
    }

    /// Says that every layer has seen `tokens` more.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}
