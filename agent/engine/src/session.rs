//! One sequence on its own, without an engine: for evaluation programs and tests.

use std::sync::Arc;

use llmdeck_kernels::attention::KeyValueStore;

use crate::adapter::Adapter;
use crate::blocks::{BlockPool, OutOfBlocks, SequenceBlocks};
use crate::decoder::{Chunk, Decoder};
use crate::model::Model;
use crate::scratch::Scratch;

/// A sequence and room for it.
pub struct Session {
    model: Arc<Model>,
    adapter: Option<Arc<Adapter>>,
    pool: BlockPool,
    store: KeyValueStore,
    blocks: SequenceBlocks,
    scratch: Scratch,
}

impl Session {
    /// Room for `capacity` tokens.
    ///
    /// # Errors
    /// When the system has not so much memory.
    pub fn new(model: &Arc<Model>, capacity: usize) -> std::io::Result<Self> {
        let description = model.decoder.description();
        let windows = description.windows();
        let blocks = BlockPool::most_for(&windows, capacity, capacity);
        Ok(Self {
            store: model.decoder.store(blocks)?,
            pool: BlockPool::new(blocks, windows),
            blocks: SequenceBlocks::default(),
            scratch: Scratch::default(),
            model: Arc::clone(model),
            adapter: None,
        })
    }

    /// The same with what an adapter changes.
    #[must_use]
    pub fn with_adapter(self, adapter: &Arc<Adapter>) -> Self {
        Self { adapter: Some(Arc::clone(adapter)), ..self }
    }

    /// Runs tokens behind those before; logits of the last, `[vocabulary]`.
    ///
    /// # Errors
    /// When the capacity is used up.
    pub fn next(&mut self, tokens: &[u32]) -> Result<&mut [f32], OutOfBlocks> {
        self.run(tokens, 1)
    }

    /// The same with logits of every token, `[tokens, vocabulary]`.
    ///
    /// # Errors
    /// When the capacity is used up.
    pub fn all(&mut self, tokens: &[u32]) -> Result<&mut [f32], OutOfBlocks> {
        self.run(tokens, tokens.len())
    }

    fn run(&mut self, tokens: &[u32], logit_rows: usize) -> Result<&mut [f32], OutOfBlocks> {
        self.pool.grow(&mut self.blocks, tokens.len())?;
        let decoder: &Decoder = &self.model.decoder;
        let adapter = self.adapter.as_deref();
        let chunk = Chunk { tokens, blocks: &self.blocks, logit_rows, adapter };
        let logits = decoder.forward(&mut self.store, &[chunk], &mut self.scratch);
        self.pool.advance(&mut self.blocks, tokens);
        Ok(logits)
    }
}
