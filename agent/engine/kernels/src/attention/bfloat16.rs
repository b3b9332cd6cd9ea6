//! The attention of rows that ask for bfloat16: 32 of them at once, over 32 tokens at a time. Queries, keys, values and the weights of
//! the softmax are rounded to bfloat16 and multiplied so; scores, sums and the softmax itself have 32 bits.

use std::ops::Range;

use super::kernel::{NOTHING_SEEN, rows_and_seen};
use super::store::HeadBlock;
use super::stored::{Bf16, Bytes, Halves, Stored};
use super::vector::{Plain, Vector};
use super::{BLOCK_TOKENS, CacheFormat, Heads, KeyValueStore, Queries, Task};
use crate::Isa;
use crate::bfloat16_rows::{TILE_ROWS, for_each_block, rounded_line, rounded_pair};
use crate::exp::exp;
use crate::format::BLOCK;
use crate::line::{Line, PANEL_ROWS};
use crate::matmul::bfloat16::{Multiplier, SIDE, Weights};

/// Rows of a task.
pub(super) const MOST_ROWS: usize = SIDE;
/// Tokens at a time: two blocks, in the places of two panels of weights.
const STEP: usize = 2 * BLOCK_TOKENS;

const _: () = assert!(STEP == SIDE && STEP == BLOCK && BLOCK_TOKENS == PANEL_ROWS);

/// A row of results has its head's numbers, and what rounds them up to whole blocks.
pub(super) fn result_stride(head_dim: usize) -> usize {
    head_dim.next_multiple_of(BLOCK)
}

/// Writes `[MOST_ROWS, result_stride]`, of which the task's rows come first; `out` is all zero.
pub(super) fn run(
    isa: Isa,
    store: &KeyValueStore,
    heads: Heads,
    queries: Queries<'_>,
    task: Task<'_>,
    out: &mut [f32],
) {
    let mut multiplier = Multiplier::new(isa);
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn avx512(
            multiplier: &mut Multiplier,
            store: &KeyValueStore,
            heads: Heads,
            queries: Queries<'_>,
            task: Task<'_>,
            out: &mut [f32],
        ) {
            by_format::<super::vector::avx512::Register>(multiplier, store, heads, queries, task, out);
        }
        if isa == Isa::Amx {
            // SAFETY: the caller names an instruction set that the machine has.
            return unsafe { avx512(&mut multiplier, store, heads, queries, task, out) };
        }
    }
    by_format::<Plain>(&mut multiplier, store, heads, queries, task, out);
}

#[inline(always)]
fn by_format<V: Vector>(
    multiplier: &mut Multiplier,
    store: &KeyValueStore,
    heads: Heads,
    queries: Queries<'_>,
    task: Task<'_>,
    out: &mut [f32],
) {
    match store.format() {
        CacheFormat::F16 => tile::<Halves, V>(multiplier, store, heads, queries, task, out),
        CacheFormat::Bf16 => tile::<Bf16, V>(multiplier, store, heads, queries, task, out),
        CacheFormat::Int8 => tile::<Bytes, V>(multiplier, store, heads, queries, task, out),
    }
}

#[inline(always)]
fn tile<S: Stored, V: Vector>(
    multiplier: &mut Multiplier,
    store: &KeyValueStore,
    heads: Heads,
    queries: Queries<'_>,
    task: Task<'_>,
    out: &mut [f32],
) {
    let stride = result_stride(store.head_dim());
    let depth = stride / BLOCK;
    let (rows, seen) = rows_and_seen::<MOST_ROWS>(store, heads, queries, task);
    let asking = rounded_rows(&rows[..task.count], depth);
    let asking = asking.split_at(depth);
    // Positions grow with the index.
    let (first, last) = (seen[0].0, seen[task.count - 1].1);
    let seen_by_any = first..last + 1;
    let mut softmax = [Softmax::default(); MOST_ROWS];
    let mut keys = vec![Weights::default(); depth];
    let mut scores = [[0.0; STEP]; MOST_ROWS];
    for base in (first / STEP * STEP..=last).step_by(STEP) {
        // A block that nobody sees may not even be there. Of its tokens, scores are of those before; nobody looks at them.
        let blocks: [Option<HeadBlock<'_>>; 2] = std::array::from_fn(|place| {
            let begin = base + place * BLOCK_TOKENS;
            let seen = begin <= last && begin + BLOCK_TOKENS > first;
            seen.then(|| store.head(task.span.blocks[begin / BLOCK_TOKENS], task.kv_head))
        });
        for (place, block) in blocks.iter().enumerate() {
            if let Some(block) = block {
                unpack_keys::<S, V>(block.keys, store.head_dim(), place, &mut keys);
            }
        }
        multiplier.multiply([asking.0, asking.1], &keys, true, scores.as_flattened_mut(), STEP);
        let (of_keys, of_values) = scales::<S, V>(&blocks, base, &seen_by_any);
        let mut weights = [[[Line::default(); TILE_ROWS]; 1]; 2];
        for (row, softmax) in softmax[..task.count].iter_mut().enumerate() {
            let mut scores = scores[row];
            if S::SCALED {
                scores.iter_mut().zip(of_keys).for_each(|(score, scale)| *score *= scale);
            }
            if base < seen[row].0 || base + STEP - 1 > seen[row].1 {
                for (token, score) in scores.iter_mut().enumerate() {
                    if base + token < seen[row].0 || base + token > seen[row].1 {
                        *score = f32::NEG_INFINITY;
                    }
                }
            }
            let (mut of_row, shrink) = softmax.add(&scores);
            if shrink != 1.0 {
                out[row * stride..][..stride].iter_mut().for_each(|sum| *sum *= shrink);
            }
            if S::SCALED {
                of_row.iter_mut().zip(of_values).for_each(|(weight, scale)| *weight *= scale);
            }
            weights[row / TILE_ROWS][0][row % TILE_ROWS] = rounded_line(&of_row);
        }
        for lane in (0..stride).step_by(BLOCK) {
            let values = unpack_values::<S, V>(&blocks, store.padded_dim(), lane, base, &seen_by_any);
            multiplier.multiply([&weights[0], &weights[1]], &[values], false, &mut out[lane..], stride);
        }
    }
    for (out, softmax) in out.chunks_exact_mut(stride).zip(softmax).take(task.count) {
        let total: f32 = softmax.totals.iter().sum();
        out.iter_mut().for_each(|number| *number /= total);
    }
}

/// Of one row: the largest score so far, and the sums of all weights in lanes.
#[derive(Clone, Copy)]
struct Softmax {
    peak: f32,
    totals: [f32; BLOCK_TOKENS],
}

impl Default for Softmax {
    fn default() -> Self {
        Self { peak: NOTHING_SEEN, totals: [0.0; BLOCK_TOKENS] }
    }
}

impl Softmax {
    /// Weights of more scores, and by what those before shrink.
    #[inline(always)]
    fn add(&mut self, scores: &[f32; STEP]) -> ([f32; STEP], f32) {
        let (first, second) = scores.split_at(BLOCK_TOKENS);
        let mut most = [self.peak; BLOCK_TOKENS];
        for half in [first, second] {
            for (most, score) in most.iter_mut().zip(half) {
                *most = if *score > *most { *score } else { *most };
            }
        }
        let peak = most.iter().fold(self.peak, |most, score| if *score > most { *score } else { most });
        let shrink = exp(self.peak - peak);
        self.peak = peak;
        let mut weights = [0.0; STEP];
        for (weight, score) in weights.iter_mut().zip(scores) {
            *weight = exp(score - peak);
        }
        let (first, second) = weights.split_at(BLOCK_TOKENS);
        for (total, (first, second)) in self.totals.iter_mut().zip(first.iter().zip(second)) {
            *total = *total * shrink + (first + second);
        }
        (weights, shrink)
    }
}

/// Two tiles of rows, `[2, depth]`.
#[inline(always)]
fn rounded_rows(rows: &[&[f32]], depth: usize) -> Vec<[Line; TILE_ROWS]> {
    let mut tiles = vec![[Line::default(); TILE_ROWS]; 2 * depth];
    for (index, row) in rows.iter().enumerate() {
        for_each_block(row, |block, numbers| {
            tiles[index / TILE_ROWS * depth + block][index % TILE_ROWS] = rounded_line(numbers);
        });
    }
    tiles
}

/// A block's keys, `[head_dim, 16]`, in one of two places.
#[inline(always)]
fn unpack_keys<S: Stored, V: Vector>(keys: &[u16], head_dim: usize, place: usize, out: &mut [Weights]) {
    for (block, weights) in out.iter_mut().enumerate() {
        for (pair, line) in weights[place].iter_mut().enumerate() {
            let at = block * BLOCK + 2 * pair;
            if at < head_dim {
                let [first, second] = [at, at + 1].map(|at| S::load::<V>(keys, at * BLOCK_TOKENS).to_array());
                *line = rounded_pair(&first, &second);
            }
        }
    }
}

/// Numbers from `lane` on of the values of two blocks, `[16, padded_dim]` each, of tokens that somebody sees.
#[inline(always)]
fn unpack_values<S: Stored, V: Vector>(
    blocks: &[Option<HeadBlock<'_>>; 2],
    padded: usize,
    lane: usize,
    base: usize,
    seen: &Range<usize>,
) -> Weights {
    let mut weights = Weights::default();
    for (place, lines) in weights.iter_mut().enumerate() {
        let lane = lane + place * PANEL_ROWS;
        if lane >= padded {
            continue;
        }
        for (pair, line) in lines.iter_mut().enumerate() {
            let Some(block) = blocks[2 * pair / BLOCK_TOKENS] else { continue };
            let token = 2 * pair % BLOCK_TOKENS;
            // Places outside of what is seen may hold anything, even what is not a number.
            let [first, second] = [0, 1].map(|next| {
                if seen.contains(&(base + 2 * pair + next)) {
                    S::load::<V>(block.values, (token + next) * padded + lane).to_array()
                } else {
                    [0.0; PANEL_ROWS]
                }
            });
            *line = rounded_pair(&first, &second);
        }
    }
    weights
}

/// Of the keys and the values of two blocks; zero where nobody sees a token.
#[inline(always)]
fn scales<S: Stored, V: Vector>(
    blocks: &[Option<HeadBlock<'_>>; 2],
    base: usize,
    seen: &Range<usize>,
) -> ([f32; STEP], [f32; STEP]) {
    let (mut of_keys, mut of_values) = ([0.0; STEP], [0.0; STEP]);
    if S::SCALED {
        for (place, block) in blocks.iter().enumerate() {
            let Some(block) = block else { continue };
            let part = place * BLOCK_TOKENS..(place + 1) * BLOCK_TOKENS;
            of_keys[part.clone()].copy_from_slice(&V::load_halves(block.scales).to_array());
            of_values[part].copy_from_slice(&V::load_halves(&block.scales[BLOCK_TOKENS..]).to_array());
        }
        for token in (0..STEP).filter(|token| !seen.contains(&(base + token))) {
            (of_keys[token], of_values[token]) = (0.0, 0.0);
        }
    }
    (of_keys, of_values)
}
