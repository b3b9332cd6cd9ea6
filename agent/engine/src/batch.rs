//! Several sequences step by step, without an engine: for programs that measure.

use std::sync::Arc;

use llmdeck_kernels::attention::CacheFormat;

use crate::EngineError;
use crate::blocks::{BlockPool, SequenceBlocks};
use crate::decoder::Chunk;
use crate::executor::Executor;
use crate::model::Model;
use crate::scratch::Scratch;

/// Sequences that begin empty, and room for them. What each runs first is its prompt.
pub struct Batch {
    model: Arc<Model>,
    pool: BlockPool,
    executor: Executor,
    sequences: Vec<SequenceBlocks>,
}

impl Batch {
    /// Room for `sequences` of `tokens` each.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn new(model: &Arc<Model>, sequences: usize, tokens: usize) -> Result<Self, EngineError> {
        let format = CacheFormat::F16;
        let windows = model.decoder.description().windows();
        let blocks = sequences * BlockPool::most_for(&windows, tokens, tokens);
        Ok(Self {
            executor: Executor::new(model, format, blocks, Scratch::default())?,
            pool: BlockPool::new(blocks, windows),
            sequences: (0..sequences).map(|_| SequenceBlocks::default()).collect(),
            model: Arc::clone(model),
        })
    }

    /// Begins anew, with nothing remembered.
    pub fn forget(&mut self) {
        let windows = self.model.decoder.description().windows();
        self.pool = BlockPool::new(self.pool.total(), windows);
        self.sequences.iter_mut().for_each(|sequence| *sequence = SequenceBlocks::default());
    }

    /// Runs these tokens of each sequence; logits of each one's last, `[sequences, vocabulary]`.
    ///
    /// # Errors
    /// When the room is used up, or a GPU fails.
    pub fn step(&mut self, tokens: &[Vec<u32>]) -> Result<&mut [f32], EngineError> {
        for (blocks, tokens) in self.sequences.iter_mut().zip(tokens) {
            self.pool.grow(blocks, tokens.len())?;
        }
        let chunks: Vec<Chunk<'_>> = self
            .sequences
            .iter()
            .zip(tokens)
            .map(|(blocks, tokens)| Chunk {
                tokens,
                blocks,
                logit_rows: 1,
                adapter: None,
                bfloat16_tokens: if blocks.is_empty() { self.model.bfloat16_tokens(tokens.len()) } else { 0 },
            })
            .collect();
        let logits = self.executor.forward(&chunks)?;
        for (blocks, tokens) in self.sequences.iter_mut().zip(tokens) {
            self.pool.advance(blocks, tokens);
        }
        Ok(logits)
    }
}
