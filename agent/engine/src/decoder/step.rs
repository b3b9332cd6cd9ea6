use std::ops::Range;

use llmdeck_kernels::Matrix;

use crate::adapter::{Adapted, Adapter};
use crate::blocks::SequenceBlocks;

/// Tokens of one sequence to run in this step, behind those whose keys and values are stored.
#[derive(Clone, Copy)]
pub struct Chunk<'a> {
    /// At least one.
    pub tokens: &'a [u32],
    /// Has room for them.
    pub blocks: &'a SequenceBlocks,
    /// How many of the last tokens get logits; the output matrix is the dearest of all.
    pub logit_rows: usize,
    /// What its products are changed by.
    pub adapter: Option<&'a Adapter>,
    /// How many of the first are multiplied in bfloat16, see [`super::Decoder::bfloat16_tokens`].
    pub bfloat16_tokens: usize,
}

/// What the layers of one step share.
pub(super) struct Step<'a> {
    pub(super) chunks: &'a [Chunk<'a>],
    pub(super) places: &'a [Place],
    pub(super) adapted: Adapted<'a>,
    /// Rows that are multiplied in bfloat16.
    pub(super) bfloat16_rows: &'a [Range<usize>],
}

impl Step<'_> {
    /// Whether nothing but products of bfloat16 of these matrices is wanted of the rows that ask for it.
    pub(super) fn asks_only_for_bfloat16(&self, matrices: &[&Matrix]) -> bool {
        self.adapted.spans.is_empty() && matrices.iter().all(|matrix| matrix.format().has_bfloat16_products())
    }
}

pub(super) fn bfloat16_rows(chunks: &[Chunk<'_>]) -> Vec<Range<usize>> {
    let mut begin = 0;
    let rows = chunks.iter().map(|chunk| {
        let rows = begin..begin + chunk.bfloat16_tokens.min(chunk.tokens.len());
        begin += chunk.tokens.len();
        rows
    });
    rows.collect()
}

/// The rows of a step that run with adapters.
pub(crate) fn adapted<'a>(chunks: &[Chunk<'a>]) -> Adapted<'a> {
    let mut end = 0;
    let spans = chunks.iter().filter_map(|chunk| {
        let begin = end;
        end += chunk.tokens.len();
        chunk.adapter.map(|adapter| (begin..end, adapter))
    });
    Adapted { spans: spans.collect() }
}

/// Where a row belongs.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) chunk: usize,
    pub(super) position: usize,
}
