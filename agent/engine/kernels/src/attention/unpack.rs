//! Keys and values of blocks, rounded to bfloat16 and laid out as weights of products.

use std::ops::Range;

use super::BLOCK_TOKENS;
use super::store::HeadBlock;
use super::stored::Stored;
use super::vector::Vector;
use crate::bfloat16::Rounding;
use crate::format::BLOCK;
use crate::line::{Line, PANEL_ROWS};
use crate::matmul::bfloat16::Weights;

/// A block's keys, `[head_dim, 16]`, in one of two places; zero behind the last dimension.
#[inline(always)]
pub(super) fn unpack_keys<S: Stored, V: Vector, R: Rounding>(
    keys: &[u16],
    head_dim: usize,
    place: usize,
    out: &mut [Weights],
) {
    for (block, weights) in out.iter_mut().enumerate() {
        for (pair, line) in weights[place].iter_mut().enumerate() {
            let at = block * BLOCK + 2 * pair;
            *line = if at < head_dim {
                let first: V = S::load(keys, at * BLOCK_TOKENS);
                let second: V = S::load(keys, (at + 1) * BLOCK_TOKENS);
                R::pair(&first.to_array(), &second.to_array())
            } else {
                Line::default()
            };
        }
    }
}

/// Numbers from `lane` on of the values of two blocks, `[16, padded]` each, of tokens that somebody sees; zero of the others, whose
/// places may hold anything, even what is not a number. `base` is the first token's position.
#[inline(always)]
pub(super) fn unpack_values<S: Stored, V: Vector, R: Rounding>(
    blocks: &[Option<HeadBlock<'_>>; 2],
    padded: usize,
    lane: usize,
    base: usize,
    seen: &Range<usize>,
    out: &mut Weights,
) {
    for (place, lines) in out.iter_mut().enumerate() {
        let lane = lane + place * PANEL_ROWS;
        for (pair, line) in lines.iter_mut().enumerate() {
            let (token, block) = (2 * pair % BLOCK_TOKENS, &blocks[2 * pair / BLOCK_TOKENS]);
            let mut both = [[0.0; PANEL_ROWS]; 2];
            if let Some(block) = block.as_ref().filter(|_| lane < padded) {
                for (next, numbers) in both.iter_mut().enumerate() {
                    if seen.contains(&(base + 2 * pair + next)) {
                        let value: V = S::load(block.values, (token + next) * padded + lane);
                        *numbers = value.to_array();
                    }
                }
            }
            *line = R::pair(&both[0], &both[1]);
        }
    }
}
