//! Several sequences step by step, without an engine: for programs that measure.

use std::sync::Arc;

use llmdeck_kernels::attention::KeyValueStore;

use crate::blocks::{BlockPool, OutOfBlocks, SequenceBlocks};
use crate::decoder::Chunk;
use crate::model::Model;
use crate::scratch::Scratch;

/// Sequences that begin empty, and room for them.
pub struct Batch {
    model: Arc<Model>,
    pool: BlockPool,
    store: KeyValueStore,
    sequences: Vec<SequenceBlocks>,
    scratch: Scratch,
}

impl Batch {
    /// Room for `sequences` of `tokens` each.
    ///
    /// # Errors
    /// When the system has not so much memory.
    pub fn new(model: &Arc<Model>, sequences: usize, tokens: usize) -> std::io::Result<Self> {
        let windows = model.decoder.description().windows();
        let blocks = sequences * BlockPool::most_for(&windows, tokens, tokens);
        Ok(Self {
            store: model.decoder.store(blocks)?,
            pool: BlockPool::new(blocks, windows),
            sequences: (0..sequences).map(|_| SequenceBlocks::default()).collect(),
            scratch: Scratch::default(),
            model: Arc::clone(model),
        })
    }

    /// Begins anew, with nothing remembered.
    pub fn forget(&mut self) {
        let windows = self.model.decoder.description().windows();
        self.pool = BlockPool::new(self.pool.total(), windows);
        self.sequences.iter_mut().for_each(|sequence| *sequence = SequenceBlocks::default());
    }

    /// Runs these tokens of each sequence, and computes the logits of each one's last.
    ///
    /// # Errors
    /// When the room is used up.
    pub fn step(&mut self, tokens: &[Vec<u32>]) -> Result<(), OutOfBlocks> {
        for (blocks, tokens) in self.sequences.iter_mut().zip(tokens) {
            self.pool.grow(blocks, tokens.len())?;
        }
        let chunks: Vec<Chunk<'_>> = self
            .sequences
            .iter()
            .zip(tokens)
            .map(|(blocks, tokens)| Chunk { tokens, blocks, logit_rows: 1, adapter: None })
            .collect();
        self.model.decoder.forward(&mut self.store, &chunks, &mut self.scratch);
        for (blocks, tokens) in self.sequences.iter_mut().zip(tokens) {
            self.pool.advance(blocks, tokens);
        }
        Ok(())
    }
}
