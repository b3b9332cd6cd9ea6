//! Steps of a ragged batch on a device.

use candle_core::Tensor;
use llmdeck_kernels::attention::CacheFormat;
use llmdeck_kernels::gpu::{GpuStore, HostNumbers, OpenDevice, Places};

use super::adapters::GpuAdapters;
use super::decoder::{GpuDecoder, Step, require_free};
use crate::EngineError;
use crate::decoder::{Chunk, Decoder, adapted};

/// Keys and values on a device, and what else stays from step to step.
pub(crate) struct GpuSteps {
    store: GpuStore,
    adapters: GpuAdapters,
    /// Of the last step, on the host.
    logits: HostNumbers,
    embeddings: Vec<f32>,
    rotations: Vec<f32>,
    _device: OpenDevice,
}

impl GpuSteps {
    /// With room for so many blocks of keys and values.
    ///
    /// # Errors
    /// When they do not fit, with what is free.
    pub(crate) fn new(
        decoder: &GpuDecoder,
        host: &Decoder,
        format: CacheFormat,
        blocks: usize,
    ) -> Result<Self, EngineError> {
        let (kv_heads, head_dim) = (host.description().kv_heads, host.description().head_dim);
        let bytes = (blocks as u64).saturating_mul(GpuStore::block_bytes(format, kv_heads, head_dim));
        let needed = bytes.saturating_add(decoder.unpacked_bytes());
        require_free(&decoder.device, needed, "keys and values, and room to unpack a matrix,")?;
        Ok(Self {
            store: GpuStore::new(&decoder.device, format, blocks, kv_heads, head_dim)?,
            adapters: GpuAdapters::default(),
            logits: HostNumbers::default(),
            embeddings: Vec::new(),
            rotations: Vec::new(),
            _device: decoder.device.clone(),
        })
    }

    /// As [`Decoder::forward`].
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn forward(
        &mut self,
        decoder: &GpuDecoder,
        host: &Decoder,
        chunks: &[Chunk<'_>],
    ) -> Result<&mut [f32], EngineError> {
        let (device, description) = (&*decoder.device, host.description());
        let (mut tables, mut rows, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        for layer in 0..description.layers {
            tables.extend(chunks.iter().flat_map(|chunk| chunk.blocks.table(layer)));
        }
        let mut column = 0;
        for chunk in chunks {
            let (seen, new) = (chunk.blocks.len() as u32, chunk.tokens.len() as u32);
            rows.extend((seen..seen + new).map(|position| [column, position]));
            let end = rows.len() as u32;
            wanted.extend(end - (chunk.logit_rows as u32).min(new)..end);
            column += chunk.blocks.table(0).len() as u32;
        }
        let places = Places::new(device, &tables, description.layers, &rows)?;
        let (count, dim) = (rows.len(), description.head_dim);
        let positions = rows.iter().map(|row| row[1] as usize);
        let local = host.angles(positions, &mut self.rotations);
        let angles =
            |from: usize| Tensor::from_slice(&self.rotations[from..][..count * dim], (count, dim), device);
        let angles = (angles(0)?, (local < self.rotations.len()).then(|| angles(local)).transpose()?);
        host.embed(chunks, &mut self.embeddings);
        let hidden = Tensor::from_slice(&self.embeddings, (count, description.width), device)?;
        let adapted = adapted(chunks);
        self.adapters.prepare(&adapted, description.layers, (device, decoder.products))?;
        let (store, adapters) = (&self.store, &self.adapters);
        let step = Step { description, store, places: &places, angles, adapted: &adapted, adapters };
        match decoder.forward(hidden, &wanted, &step)? {
            Some(logits) => Ok(self.logits.read(&logits)?),
            None => Ok(&mut []),
        }
    }
}
