//! Who holds which blocks of the key and value cache: sequences, and prefixes that may be asked for again.
//!
//! A block has 16 tokens of one layer; a column is the blocks of all layers for the same 16 tokens. A layer with a sliding
//! window gives a sequence's blocks back as soon as no later token can see them. Full columns are remembered by the hash
//! of all tokens up to them, so that another sequence with the same beginning takes them as they are; the least recently
//! used are forgotten when room is needed.

use std::collections::{BTreeMap, HashMap};

use llmdeck_kernels::attention::BLOCK_TOKENS;
use sha2::{Digest, Sha256};

/// No block: its tokens are out of the window.
const NONE: u32 = u32::MAX;

/// Names a column by all tokens up to its end. A collision would show one user another's text, hence SHA-256.
type ColumnKey = [u8; 32];

/// Stands before all tokens: what else than them keys and values depend on. Zero for the model as it is.
pub type PrefixRoot = [u8; 32];

/// What the keys and values of a sequence depend on.
#[derive(Clone, Copy, Debug)]
pub struct Beginning<'a> {
    /// What else than tokens.
    pub root: PrefixRoot,
    /// All that is known of it.
    pub tokens: &'a [u32],
    /// How many of the first are multiplied in bfloat16: keys and values differ from those of the same tokens in eight bits.
    pub bfloat16_tokens: usize,
}

impl Beginning<'_> {
    /// Keys of the columns that the tokens fill, all but the last token's.
    fn keys(self) -> impl Iterator<Item = ColumnKey> {
        let tokens = &self.tokens[..self.tokens.len().saturating_sub(1)];
        let columns = tokens.chunks_exact(BLOCK_TOKENS).enumerate();
        columns.scan(self.root, move |key, (index, tokens)| {
            *key = column_key(key, tokens, in_bfloat16(index, self.bfloat16_tokens));
            Some(*key)
        })
    }
}

/// Tokens of a column that are multiplied in bfloat16.
fn in_bfloat16(column: usize, bfloat16_tokens: usize) -> usize {
    bfloat16_tokens.saturating_sub(column * BLOCK_TOKENS).min(BLOCK_TOKENS)
}

/// Hands out blocks, and counts every one.
pub struct BlockPool {
    /// Each layer's window.
    windows: Vec<Option<usize>>,
    free: Vec<u32>,
    /// Of each block: who holds it, sequences and the memory of prefixes alike.
    holders: Vec<u32>,
    /// Of each block: whether a remembered prefix is among the holders.
    remembered: Vec<bool>,
    /// Blocks that only remembered prefixes hold.
    reclaimable: usize,
    columns: HashMap<ColumnKey, Column>,
    by_age: BTreeMap<u64, ColumnKey>,
    clock: u64,
}

struct Column {
    blocks: Vec<u32>,
    used: u64,
}

/// The blocks of one sequence. Give it back with [`BlockPool::release`].
#[derive(Debug, Default)]
pub struct SequenceBlocks {
    /// By layer, then by column.
    tables: Vec<Vec<u32>>,
    len: usize,
    root: PrefixRoot,
    bfloat16_tokens: usize,
    /// Keys of the full columns.
    keys: Vec<ColumnKey>,
    /// Tokens of the column that is not full.
    tail: Vec<u32>,
}

impl SequenceBlocks {
    /// Tokens whose keys and values are stored.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A layer's blocks in order; those out of its window are not valid.
    pub(crate) fn table(&self, layer: usize) -> &[u32] {
        self.tables.get(layer).map_or(&[], Vec::as_slice)
    }

    /// Blocks that it holds.
    pub fn held(&self) -> usize {
        self.tables.iter().flatten().filter(|block| **block != NONE).count()
    }
}

/// Not enough blocks are free, and no prefix is left to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the room for keys and values is used up")]
pub struct OutOfBlocks;

impl BlockPool {
    /// `blocks` blocks for layers with these windows.
    pub fn new(blocks: usize, windows: Vec<Option<usize>>) -> Self {
        let count = u32::try_from(blocks).unwrap_or(NONE).min(NONE - 1);
        Self {
            windows,
            free: (0..count).rev().collect(),
            holders: vec![0; count as usize],
            remembered: vec![false; count as usize],
            reclaimable: 0,
            columns: HashMap::new(),
            by_age: BTreeMap::new(),
            clock: 0,
        }
    }

    /// Blocks in all.
    pub fn total(&self) -> usize {
        self.holders.len()
    }

    /// Blocks that can be had: free ones and those of remembered prefixes that nobody uses.
    pub fn available(&self) -> usize {
        self.free.len() + self.reclaimable
    }

    /// Blocks that only remembered prefixes hold.
    pub fn reclaimable(&self) -> usize {
        self.reclaimable
    }

    /// Blocks in a column.
    pub fn layers(&self) -> usize {
        self.windows.len()
    }

    /// Most blocks that a sequence of `tokens` holds at a time when no step has more than `step_tokens` of it.
    pub fn most_for(windows: &[Option<usize>], tokens: usize, step_tokens: usize) -> usize {
        let columns = tokens.div_ceil(BLOCK_TOKENS);
        let of_layer = |window: &Option<usize>| {
            window.map_or(columns, |window| columns.min((window + step_tokens).div_ceil(BLOCK_TOKENS) + 2))
        };
        windows.iter().map(of_layer).sum()
    }

    /// Blocks that a sequence with `seen` tokens needs beside its own to store `more`.
    pub fn growth(layers: usize, seen: usize, more: usize) -> usize {
        ((seen + more).div_ceil(BLOCK_TOKENS) - seen.div_ceil(BLOCK_TOKENS)) * layers
    }

    /// Tokens of a prompt that are remembered; the last token is always left to compute.
    pub fn remembered_tokens(&self, of: Beginning<'_>) -> usize {
        self.known_columns(of).len() * BLOCK_TOKENS
    }

    /// Begins a sequence with what is remembered of its prompt.
    pub fn begin(&mut self, of: Beginning<'_>) -> SequenceBlocks {
        let keys = self.known_columns(of);
        let len = keys.len() * BLOCK_TOKENS;
        let mut tables = vec![Vec::with_capacity(of.tokens.len().div_ceil(BLOCK_TOKENS)); self.windows.len()];
        for (index, key) in keys.iter().enumerate() {
            let Some(blocks) = self.columns.get(key).map(|column| column.blocks.clone()) else { continue };
            for (layer, block) in blocks.into_iter().enumerate() {
                let visible = !self.is_out_of_window(layer, index, len);
                tables[layer].push(if visible { block } else { NONE });
                if visible {
                    self.hold(block);
                }
            }
        }
        self.touch(&keys);
        let Beginning { root, bfloat16_tokens, .. } = of;
        SequenceBlocks { tables, len, root, bfloat16_tokens, keys, tail: Vec::new() }
    }

    fn known_columns(&self, of: Beginning<'_>) -> Vec<ColumnKey> {
        of.keys().take_while(|key| self.columns.contains_key(key)).collect()
    }

    /// Makes room for `more` tokens.
    ///
    /// # Errors
    /// When there are not enough blocks; then nothing has changed but what is remembered.
    pub fn grow(&mut self, sequence: &mut SequenceBlocks, more: usize) -> Result<(), OutOfBlocks> {
        sequence.tables.resize(self.windows.len(), Vec::new());
        let columns = (sequence.len + more).div_ceil(BLOCK_TOKENS);
        let needed: usize = sequence.tables.iter().map(|table| columns.saturating_sub(table.len())).sum();
        self.reclaim(needed)?;
        for table in &mut sequence.tables {
            while table.len() < columns {
                let block = self.free.pop().ok_or(OutOfBlocks)?;
                self.holders[block as usize] = 1;
                table.push(block);
            }
        }
        Ok(())
    }

    /// Forgets prefixes until `needed` blocks are free.
    fn reclaim(&mut self, needed: usize) -> Result<(), OutOfBlocks> {
        if needed > self.available() {
            return Err(OutOfBlocks);
        }
        let mut oldest = 0;
        while self.free.len() < needed {
            let (age, key) =
                self.by_age.range(oldest..).next().map(|(age, key)| (*age, *key)).ok_or(OutOfBlocks)?;
            oldest = age + 1;
            // One whose blocks are all in use gives nothing back.
            let gives = self.columns.get(&key).is_some_and(|column| {
                column.blocks.iter().any(|block| *block != NONE && self.holders[*block as usize] == 1)
            });
            if gives {
                self.forget(age, &key);
            }
        }
        Ok(())
    }

    fn forget(&mut self, age: u64, key: &ColumnKey) {
        self.by_age.remove(&age);
        let Some(column) = self.columns.remove(key) else { return };
        for block in column.blocks.into_iter().filter(|block| *block != NONE) {
            if self.holders[block as usize] == 1 {
                self.reclaimable -= 1;
            }
            self.remembered[block as usize] = false;
            self.let_go(block);
        }
    }

    /// Says that keys and values of `tokens` are now stored behind what was there. Remembers columns that became full,
    /// and gives back what is out of a window.
    pub fn advance(&mut self, sequence: &mut SequenceBlocks, tokens: &[u32]) {
        for token in tokens {
            sequence.tail.push(*token);
            if sequence.tail.len() == BLOCK_TOKENS {
                let index = sequence.keys.len();
                let in_bfloat16 = in_bfloat16(index, sequence.bfloat16_tokens);
                let parent = sequence.keys.last().unwrap_or(&sequence.root);
                let key = column_key(parent, &sequence.tail, in_bfloat16);
                let blocks =
                    sequence.tables.iter().map(|table| table.get(index).copied().unwrap_or(NONE)).collect();
                self.remember(key, blocks);
                sequence.keys.push(key);
                sequence.tail.clear();
            }
        }
        let before = sequence.len / BLOCK_TOKENS;
        sequence.len += tokens.len();
        for layer in 0..sequence.tables.len() {
            let Some(window) = self.windows[layer] else { continue };
            let out = (sequence.len + 1).saturating_sub(window) / BLOCK_TOKENS;
            let first = (before * BLOCK_TOKENS + 1).saturating_sub(window) / BLOCK_TOKENS;
            for index in first.saturating_sub(1)..out.min(sequence.tables[layer].len()) {
                let block = std::mem::replace(&mut sequence.tables[layer][index], NONE);
                if block != NONE {
                    self.let_go(block);
                }
            }
        }
    }

    /// Gives a sequence's blocks back; its full columns stay remembered.
    pub fn release(&mut self, sequence: &mut SequenceBlocks) {
        self.touch(&sequence.keys);
        for block in sequence.tables.drain(..).flatten().filter(|block| *block != NONE) {
            self.let_go(block);
        }
        *sequence = SequenceBlocks::default();
    }

    fn is_out_of_window(&self, layer: usize, column: usize, len: usize) -> bool {
        self.windows[layer]
            .is_some_and(|window| (column + 1) * BLOCK_TOKENS <= (len + 1).saturating_sub(window))
    }

    fn remember(&mut self, key: ColumnKey, blocks: Vec<u32>) {
        // One without all its blocks could not be taken up; one that is known already stays as it is.
        if blocks.contains(&NONE) || self.columns.contains_key(&key) {
            return;
        }
        for block in &blocks {
            self.remembered[*block as usize] = true;
            self.holders[*block as usize] += 1;
        }
        self.clock += 1;
        self.by_age.insert(self.clock, key);
        self.columns.insert(key, Column { blocks, used: self.clock });
    }

    /// Last columns first: of a prefix that was not used for long, its end is forgotten before its beginning.
    fn touch(&mut self, keys: &[ColumnKey]) {
        for key in keys.iter().rev() {
            if let Some(column) = self.columns.get_mut(key) {
                self.by_age.remove(&column.used);
                self.clock += 1;
                column.used = self.clock;
                self.by_age.insert(self.clock, *key);
            }
        }
    }

    fn hold(&mut self, block: u32) {
        let holders = &mut self.holders[block as usize];
        if *holders == 1 && self.remembered[block as usize] {
            self.reclaimable -= 1;
        }
        *holders += 1;
    }

    fn let_go(&mut self, block: u32) {
        let holders = &mut self.holders[block as usize];
        *holders -= 1;
        match *holders {
            0 => self.free.push(block),
            1 if self.remembered[block as usize] => self.reclaimable += 1,
            _ => {}
        }
    }
}

/// `in_bfloat16`: how many of the first tokens are multiplied so.
fn column_key(parent: &ColumnKey, tokens: &[u32], in_bfloat16: usize) -> ColumnKey {
    let mut hash = Sha256::new();
    hash.update(parent);
    for token in tokens {
        hash.update(token.to_le_bytes());
    }
    hash.update([in_bfloat16 as u8]);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use llmdeck_kernels::attention::BLOCK_TOKENS;
    use proptest::prelude::*;

    use super::{Beginning, BlockPool, NONE, OutOfBlocks, SequenceBlocks};

    fn prompt(tokens: &[u32]) -> Beginning<'_> {
        Beginning { root: [0; 32], tokens, bfloat16_tokens: 0 }
    }

    fn conserved(pool: &BlockPool, sequences: &[SequenceBlocks]) {
        let mut holders = vec![0; pool.total()];
        let of_sequences = sequences.iter().flat_map(|sequence| sequence.tables.iter().flatten());
        for block in of_sequences.chain(pool.columns.values().flat_map(|column| &column.blocks)) {
            if *block != NONE {
                holders[*block as usize] += 1;
            }
        }
        assert_eq!(holders, pool.holders, "every holder is counted, and nothing else");
        let free: Vec<usize> = pool.free.iter().map(|block| *block as usize).collect();
        assert!(free.iter().all(|block| holders[*block] == 0));
        assert_eq!(free.len(), holders.iter().filter(|holders| **holders == 0).count(), "nothing leaks");
        let only_remembered =
            (0..holders.len()).filter(|block| holders[*block] == 1 && pool.remembered[*block]).count();
        assert_eq!(pool.reclaimable, only_remembered);
        assert_eq!(pool.by_age.len(), pool.columns.len());
    }

    #[test]
    fn a_prompt_with_a_known_beginning_takes_it_up() {
        let mut pool = BlockPool::new(100, vec![None, Some(20)]);
        let tokens: Vec<u32> = (0..70).collect();
        let mut first = pool.begin(prompt(&tokens));
        assert!(first.is_empty());
        pool.grow(&mut first, 70).unwrap();
        pool.advance(&mut first, &tokens);
        assert_eq!(pool.remembered_tokens(prompt(&tokens)), 64);
        let second = pool.begin(prompt(&tokens));
        assert_eq!((second.len(), second.table(0)), (64, &first.table(0)[..4]));
        // A token at 64 sees from 45 on: the blocks of tokens 0 to 31 are out of the second layer's window.
        assert_eq!(second.table(1)[..2], [NONE, NONE]);
        let mut other = tokens.clone();
        other[20] = 99;
        assert_eq!(pool.remembered_tokens(prompt(&other)), 16);
        assert_eq!(pool.remembered_tokens(prompt(&tokens[..64])), 48, "the last token is left to compute");
        conserved(&pool, &[first, second]);
    }

    #[test]
    fn what_is_in_bfloat16_is_not_what_is_in_eight_bits() {
        let mut pool = BlockPool::new(100, vec![None]);
        let tokens: Vec<u32> = (0..64).collect();
        let mut asked = |bfloat16_tokens| {
            let of = Beginning { bfloat16_tokens, ..prompt(&tokens) };
            let remembered = pool.remembered_tokens(of);
            let mut sequence = pool.begin(of);
            pool.grow(&mut sequence, 64 - remembered).unwrap();
            pool.advance(&mut sequence, &tokens[remembered..]);
            pool.release(&mut sequence);
            remembered
        };
        assert_eq!([asked(20), asked(20), asked(64), asked(64), asked(33)], [0, 48, 16, 48, 32]);
    }

    #[test]
    fn prefixes_are_forgotten_when_room_is_needed_the_least_used_first() {
        let mut pool = BlockPool::new(4, vec![None]);
        for start in [0, 100] {
            let tokens: Vec<u32> = (start..start + 32).collect();
            let mut sequence = pool.begin(prompt(&tokens));
            pool.grow(&mut sequence, 32).unwrap();
            pool.advance(&mut sequence, &tokens);
            pool.release(&mut sequence);
        }
        assert_eq!((pool.free.len(), pool.available()), (0, 4));
        let mut sequence = SequenceBlocks::default();
        pool.grow(&mut sequence, 40).unwrap();
        let known = |start: u32| pool.remembered_tokens(prompt(&(start..start + 33).collect::<Vec<_>>()));
        assert_eq!((known(0), known(100)), (0, 16));
        assert_eq!(pool.grow(&mut sequence, 80), Err(OutOfBlocks));
        conserved(&pool, &[sequence]);
    }

    proptest! {
        /// Whatever sequences do, every block is free, held or remembered, and counted once for each.
        #[test]
        fn blocks_are_conserved(
            steps in prop::collection::vec((0usize..4, 0usize..4, 1usize..50), 1..60), window in 1usize..60,
        ) {
            let mut pool = BlockPool::new(40, vec![None, Some(window), Some(16)]);
            let mut sequences: Vec<SequenceBlocks> = (0..4).map(|_| SequenceBlocks::default()).collect();
            for (what, index, count) in steps {
                let sequence = &mut sequences[index];
                // Two prompts share a beginning.
                let tokens: Vec<u32> = (0..count as u32).map(|token| if token < 30 { token } else { token + index as u32 }).collect();
                match what {
                    0 => pool.release(sequence),
                    1 => {
                        pool.release(sequence);
                        *sequence = pool.begin(prompt(&tokens));
                    }
                    _ => {
                        let start = sequence.len();
                        let tokens: Vec<u32> = (start..start + count).map(|token| token as u32).collect();
                        let before = sequence.held();
                        match pool.grow(sequence, count) {
                            Ok(()) => pool.advance(sequence, &tokens),
                            Err(OutOfBlocks) => prop_assert_eq!(sequence.held(), before),
                        }
                        let most = BlockPool::most_for(&[None, Some(window), Some(16)], sequence.len(), 0);
                        prop_assert!(sequence.held() <= most, "{} of {}", sequence.held(), most);
                        let visible = (sequence.len() + 1).saturating_sub(window) / BLOCK_TOKENS;
                        prop_assert!(sequence.table(1).iter().skip(visible).all(|block| *block != NONE));
                    }
                }
                conserved(&pool, &sequences);
            }
        }
    }
}
