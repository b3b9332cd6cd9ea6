//! One sequence on its own, without an engine: for evaluation programs and tests.

use std::sync::Arc;

use llmdeck_kernels::attention::CacheFormat;

use crate::EngineError;
use crate::adapter::Adapter;
use crate::blocks::{BlockPool, SequenceBlocks};
use crate::decoder::Chunk;
use crate::executor::Executor;
use crate::model::Model;
use crate::scratch::Scratch;

/// A sequence and room for it. What it runs first is its prompt.
pub struct Session {
    model: Arc<Model>,
    adapter: Option<Arc<Adapter>>,
    pool: BlockPool,
    executor: Executor,
    blocks: SequenceBlocks,
}

impl Session {
    /// Room for `capacity` tokens.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn new(model: &Arc<Model>, capacity: usize) -> Result<Self, EngineError> {
        Self::with_cache(model, CacheFormat::F16, capacity)
    }

    /// The same with keys and values stored so.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn with_cache(model: &Arc<Model>, format: CacheFormat, capacity: usize) -> Result<Self, EngineError> {
        let description = model.decoder.description();
        let windows = description.windows();
        let blocks = BlockPool::most_for(&windows, capacity, capacity);
        Ok(Self {
            executor: Executor::new(model, format, blocks, Scratch::default())?,
            pool: BlockPool::new(blocks, windows),
            blocks: SequenceBlocks::default(),
            adapter: None,
            model: Arc::clone(model),
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
    /// When the capacity is used up, or a GPU fails.
    pub fn next(&mut self, tokens: &[u32]) -> Result<&mut [f32], EngineError> {
        self.run(tokens, 1)
    }

    /// The same with logits of every token, `[tokens, vocabulary]`.
    ///
    /// # Errors
    /// When the capacity is used up, or a GPU fails.
    pub fn all(&mut self, tokens: &[u32]) -> Result<&mut [f32], EngineError> {
        self.run(tokens, tokens.len())
    }

    fn run(&mut self, tokens: &[u32], logit_rows: usize) -> Result<&mut [f32], EngineError> {
        self.pool.grow(&mut self.blocks, tokens.len())?;
        let adapter = self.adapter.as_deref();
        let bfloat16_tokens =
            if self.blocks.is_empty() { self.model.bfloat16_tokens(tokens.len()) } else { 0 };
        let chunk = Chunk { tokens, blocks: &self.blocks, logit_rows, adapter, bfloat16_tokens };
        let logits = self.executor.forward(&[chunk])?;
        self.pool.advance(&mut self.blocks, tokens);
        Ok(logits)
    }
}
