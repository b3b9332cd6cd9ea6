//! The attention of rows that ask for bfloat16: many of them at once, over 64 tokens at a time, so that what is stored is unpacked for
//! all of them once. Queries, keys, values and the weights of the softmax are rounded to bfloat16 and multiplied so; scores, sums and
//! the softmax itself have 32 bits.

use std::cell::RefCell;
use std::ops::Range;

use super::kernel::rows_and_seen;
use super::softmax::Softmax;
use super::store::HeadBlock;
use super::stored::{Bf16, Bytes, Halves, Stored};
use super::unpack::{unpack_keys, unpack_values};
use super::vector::{Plain, Vector};
use super::{Attention, BLOCK_TOKENS, CacheFormat, KeyValueStore, Task};
use crate::bfloat16::{self, Rounding};
use crate::bfloat16_rows::{TILE_ROWS, for_each_block};
use crate::format::BLOCK;
use crate::isa::Isa;
use crate::line::{Line, PANEL_ROWS};
use crate::matmul::bfloat16::{Multiplier, SIDE, Weights};

/// Most rows of a task.
pub(super) const MOST_ROWS: usize = 4 * SIDE;
/// Tokens that are multiplied at a time: two blocks, in the places of two panels of weights.
const PART: usize = 2 * BLOCK_TOKENS;
const PARTS: usize = 2;
/// Tokens that a softmax takes at a time.
pub(super) const STEP: usize = PARTS * PART;

const _: () = assert!(PART == SIDE && PART == BLOCK && BLOCK_TOKENS == PANEL_ROWS);

thread_local! {
    /// Kept from task to task.
    static ROOM: RefCell<Room> = RefCell::default();
}

#[derive(Default)]
struct Room {
    /// `[groups of 32 rows, 2, blocks of a head]`
    queries: Vec<[Line; TILE_ROWS]>,
    /// `[PARTS, blocks of a head]`
    keys: Vec<Weights>,
    /// `[blocks of a head, PARTS]`
    values: Vec<Weights>,
    /// `[rows, 32 * blocks of a head]`
    sums: Vec<f32>,
}

/// Calls `put` for each of a task's rows, by its index, with its head's numbers and zeros that round them up to whole blocks.
pub(super) fn run(isa: Isa, of: Attention<'_>, task: Task<'_>, put: impl FnMut(usize, &[f32])) {
    let mut multiplier = Multiplier::new(isa);
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
        fn avx512(multiplier: &mut Multiplier, of: Attention<'_>, task: Task<'_>, room: &mut Room) {
            by_format::<super::vector::avx512::Register, bfloat16::avx512::Register>(
                multiplier, of, task, room,
            );
        }
        if isa == Isa::Amx {
            // SAFETY: the caller names an instruction set that the machine has.
            return in_room(of, task, put, |room| unsafe { avx512(&mut multiplier, of, task, room) });
        }
    }
    in_room(of, task, put, |room| by_format::<Plain, bfloat16::Plain>(&mut multiplier, of, task, room));
}

fn in_room(
    of: Attention<'_>,
    task: Task<'_>,
    mut put: impl FnMut(usize, &[f32]),
    work: impl FnOnce(&mut Room),
) {
    let depth = of.store.head_dim().div_ceil(BLOCK);
    let groups = task.count.div_ceil(SIDE);
    ROOM.with_borrow_mut(|room| {
        room.queries.clear();
        room.queries.resize(groups * 2 * depth, [Line::default(); TILE_ROWS]);
        room.keys.resize(PARTS * depth, Weights::default());
        room.values.resize(depth * PARTS, Weights::default());
        room.sums.clear();
        room.sums.resize(groups * SIDE * depth * BLOCK, 0.0);
        work(room);
        for (row, sums) in room.sums.chunks_exact(depth * BLOCK).take(task.count).enumerate() {
            put(row, sums);
        }
    });
}

#[inline(always)]
fn by_format<V: Vector, R: Rounding>(
    multiplier: &mut Multiplier,
    of: Attention<'_>,
    task: Task<'_>,
    room: &mut Room,
) {
    match of.store.format() {
        CacheFormat::F16 => attend::<Halves, V, R>(multiplier, of, task, room),
        CacheFormat::Bf16 => attend::<Bf16, V, R>(multiplier, of, task, room),
        CacheFormat::Int8 => attend::<Bytes, V, R>(multiplier, of, task, room),
    }
}

#[inline(always)]
fn attend<S: Stored, V: Vector, R: Rounding>(
    multiplier: &mut Multiplier,
    of: Attention<'_>,
    task: Task<'_>,
    room: &mut Room,
) {
    let store = of.store;
    let depth = store.head_dim().div_ceil(BLOCK);
    let (rows, seen) = rows_and_seen::<MOST_ROWS>(of, task);
    round_rows::<R>(&rows[..task.count], depth, &mut room.queries);
    let mut softmax = [const { Softmax::NEW }; MOST_ROWS / SIDE];
    // Positions grow with the index.
    let seen_by_any = seen[0].0..seen[task.count - 1].1 + 1;
    for base in (seen_by_any.start / STEP * STEP..seen_by_any.end).step_by(STEP) {
        let blocks = blocks(store, task, base, &seen_by_any);
        for (part, blocks) in blocks.as_chunks::<2>().0.iter().enumerate() {
            let keys = &mut room.keys[part * depth..][..depth];
            for (place, block) in blocks.iter().enumerate() {
                if let Some(block) = block {
                    unpack_keys::<S, V, R>(block.keys, store.head_dim(), place, keys);
                }
            }
            for lane in 0..depth {
                let (values, padded) = (&mut room.values[lane * PARTS + part], store.padded_dim());
                unpack_values::<S, V, R>(
                    blocks,
                    padded,
                    lane * BLOCK,
                    base + part * PART,
                    &seen_by_any,
                    values,
                );
            }
        }
        let scales = scales::<S, V>(&blocks, base, &seen_by_any);
        let queries = room.queries.chunks_exact(2 * depth);
        let sums = room.sums.chunks_exact_mut(SIDE * depth * BLOCK);
        let groups = seen[..task.count].chunks(SIDE).zip(queries).zip(sums).zip(&mut softmax);
        for (((seen, queries), sums), softmax) in groups {
            let parts = parts(base, seen);
            if parts.is_empty() {
                continue;
            }
            let queries = queries.split_at(depth);
            let mut scores = [[0.0; STEP]; SIDE];
            for part in parts.clone() {
                let (keys, of_part) =
                    (&room.keys[part * depth..][..depth], &mut scores.as_flattened_mut()[part * PART..]);
                multiplier.multiply([queries.0, queries.1], keys, true, of_part, STEP);
            }
            let shrink = softmax.weigh(&mut scores, seen, base, S::SCALED.then_some(&scales.0));
            let mut weights = [[[Line::default(); TILE_ROWS]; PARTS]; 2];
            for (row, all) in scores[..seen.len()].iter_mut().enumerate() {
                if S::SCALED {
                    all.iter_mut().zip(&scales.1).for_each(|(weight, scale)| *weight *= scale);
                }
                for part in parts.clone() {
                    weights[row / TILE_ROWS][part][row % TILE_ROWS] = R::line(&all.as_chunks().0[part]);
                }
                if shrink[row] != 1.0 {
                    let sums = &mut sums[row * depth * BLOCK..][..depth * BLOCK];
                    sums.iter_mut().for_each(|sum| *sum *= shrink[row]);
                }
            }
            for lane in 0..depth {
                let weights = [&weights[0][parts.clone()], &weights[1][parts.clone()]];
                let values = &room.values[lane * PARTS..][parts.clone()];
                multiplier.multiply(weights, values, false, &mut sums[lane * BLOCK..], depth * BLOCK);
            }
        }
    }
    let sums = room.sums.chunks_exact_mut(depth * BLOCK).take(task.count);
    for (row, sums) in sums.enumerate() {
        let total = softmax[row / SIDE].total(row % SIDE);
        sums.iter_mut().for_each(|sum| *sum /= total);
    }
}

/// The blocks of a step. One that nobody sees may not even be there.
#[inline(always)]
fn blocks<'a>(
    store: &'a KeyValueStore,
    task: Task<'_>,
    base: usize,
    seen: &Range<usize>,
) -> [Option<HeadBlock<'a>>; 2 * PARTS] {
    let mut blocks = [None; 2 * PARTS];
    for (index, block) in blocks.iter_mut().enumerate() {
        let begin = base + index * BLOCK_TOKENS;
        if begin < seen.end && begin + BLOCK_TOKENS > seen.start {
            *block = Some(store.head(task.span.blocks[begin / BLOCK_TOKENS], task.kv_head));
        }
    }
    blocks
}

/// The parts of a step of which some of these rows see something.
#[inline(always)]
fn parts(base: usize, seen: &[(usize, usize)]) -> Range<usize> {
    let (first, end) = (seen[0].0, seen[seen.len() - 1].1 + 1);
    let (first, end) = (first.saturating_sub(base), end.saturating_sub(base).min(STEP));
    if first < end { first / PART..end.div_ceil(PART) } else { 0..0 }
}

/// Two tiles of each 32 rows, `[2, depth]`.
#[inline(always)]
fn round_rows<R: Rounding>(rows: &[&[f32]], depth: usize, tiles: &mut [[Line; TILE_ROWS]]) {
    for (index, row) in rows.iter().enumerate() {
        for_each_block(row, |block, numbers| {
            tiles[index / TILE_ROWS * depth + block][index % TILE_ROWS] = R::line(numbers);
        });
    }
}

/// Of the keys and the values of a step's blocks; zero where nobody sees a token.
#[inline(always)]
fn scales<S: Stored, V: Vector>(
    blocks: &[Option<HeadBlock<'_>>],
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
