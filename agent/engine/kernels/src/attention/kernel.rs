use std::cell::RefCell;

use super::store::HeadBlock;
use super::stored::{Bf16, Bytes, Halves, Stored};
use super::vector::{Plain, Vector};
use super::{Attention, BLOCK_TOKENS, CacheFormat, MOST_TILE, Task};
use crate::Isa;
use crate::exp::exp;

/// Less than any score, yet a number, so that a row that has seen nothing takes part without a special case.
pub(super) const NOTHING_SEEN: f32 = -1e30;

thread_local! {
    /// Room for a task's rows; tasks are many and short.
    static ROWS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Calls `put` for each of a task's rows, by its index, with its head's numbers and zeros that round them up to whole vectors.
pub(super) fn run(isa: Isa, of: Attention<'_>, task: Task<'_>, mut put: impl FnMut(usize, &[f32])) {
    let padded = of.store.padded_dim();
    ROWS.with_borrow_mut(|out| {
        out.clear();
        out.resize(task.count * padded, 0.0);
        compute(isa, of, task, out);
        for (row, numbers) in out.chunks_exact(padded).enumerate() {
            put(row, numbers);
        }
    });
}

/// Writes `[task.count, padded head_dim]`.
fn compute(isa: Isa, of: Attention<'_>, task: Task<'_>, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2(of: Attention<'_>, task: Task<'_>, out: &mut [f32]) {
            by_format::<super::vector::avx2::Registers>(of, task, out);
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn avx512(of: Attention<'_>, task: Task<'_>, out: &mut [f32]) {
            by_format::<super::vector::avx512::Register>(of, task, out);
        }
        match isa {
            // SAFETY: the caller names an instruction set that the machine has.
            Isa::Avx512Vnni | Isa::Amx => return unsafe { avx512(of, task, out) },
            // SAFETY: as above.
            Isa::Avx2 => return unsafe { avx2(of, task, out) },
            Isa::Plain | Isa::Neon => {}
        }
    }
    #[cfg(target_arch = "aarch64")]
    if isa == Isa::Neon {
        return by_format::<super::vector::neon::Registers>(of, task, out);
    }
    by_format::<Plain>(of, task, out);
}

#[inline(always)]
fn by_format<V: Vector>(of: Attention<'_>, task: Task<'_>, out: &mut [f32]) {
    match of.store.format() {
        CacheFormat::F16 => by_count::<Halves, V>(of, task, out),
        CacheFormat::Bf16 => by_count::<Bf16, V>(of, task, out),
        CacheFormat::Int8 => by_count::<Bytes, V>(of, task, out),
    }
}

#[inline(always)]
fn by_count<S: Stored, V: Vector>(of: Attention<'_>, task: Task<'_>, out: &mut [f32]) {
    match task.count {
        1 => tile::<S, V, 1>(of, task, out),
        2 => tile::<S, V, 2>(of, task, out),
        4 => tile::<S, V, 4>(of, task, out),
        MOST_TILE => tile::<S, V, MOST_TILE>(of, task, out),
        count => unreachable!("no tile has {count} rows"),
    }
}

#[inline(always)]
fn tile<S: Stored, V: Vector, const R: usize>(of: Attention<'_>, task: Task<'_>, out: &mut [f32]) {
    let store = of.store;
    let padded = store.padded_dim();
    let (rows, seen) = rows_and_seen::<R>(of, task);
    // Positions grow with the index.
    let (first, last) = (seen[0].0, seen[R - 1].1);
    let mut peaks = [NOTHING_SEEN; R];
    let mut totals = [V::splat(0.0); R];
    for block in first / BLOCK_TOKENS..=last / BLOCK_TOKENS {
        let HeadBlock { keys, values, scales } = store.head(task.span.blocks[block], task.kv_head);
        let mut scores = scores::<S, V, R>(keys, &rows);
        if S::SCALED {
            let scales = V::load_halves(scales);
            scores.iter_mut().for_each(|scores| *scores = scores.multiply(scales));
        }
        let mut weights = [[0.0; BLOCK_TOKENS]; R];
        let mut shrink = [0.0; R];
        for row in 0..R {
            let mut scores = scores[row].to_array();
            let base = block * BLOCK_TOKENS;
            if base < seen[row].0 || base + BLOCK_TOKENS - 1 > seen[row].1 {
                for (token, score) in scores.iter_mut().enumerate() {
                    if base + token < seen[row].0 || base + token > seen[row].1 {
                        *score = f32::NEG_INFINITY;
                    }
                }
            }
            let peak =
                scores.iter().fold(peaks[row], |most, score| if *score > most { *score } else { most });
            shrink[row] = exp(peaks[row] - peak);
            peaks[row] = peak;
            for (weight, score) in weights[row].iter_mut().zip(scores) {
                *weight = exp(score - peak);
            }
            totals[row] = totals[row].multiply(V::splat(shrink[row])).add(V::load(&weights[row]));
            if S::SCALED {
                weights[row] =
                    V::load(&weights[row]).multiply(V::load_halves(&scales[BLOCK_TOKENS..])).to_array();
            }
        }
        // Places outside of what is seen may hold anything, even what is not a number.
        let tokens =
            first.saturating_sub(block * BLOCK_TOKENS)..(last + 1 - block * BLOCK_TOKENS).min(BLOCK_TOKENS);
        for lane in (0..padded).step_by(BLOCK_TOKENS) {
            let mut sums = [V::splat(0.0); R];
            for row in 0..R {
                sums[row] = V::load(&out[row * padded + lane..]).multiply(V::splat(shrink[row]));
            }
            for token in tokens.clone() {
                let value: V = S::load(values, token * padded + lane);
                for row in 0..R {
                    sums[row] = value.fused(V::splat(weights[row][token]), sums[row]);
                }
            }
            for row in 0..R {
                out[row * padded + lane..][..BLOCK_TOKENS].copy_from_slice(&sums[row].to_array());
            }
        }
    }
    for (out, total) in out.chunks_exact_mut(padded).zip(totals) {
        let total: f32 = total.to_array().iter().sum();
        out.iter_mut().for_each(|number| *number /= total);
    }
}

/// The rows of a task, of which there are at most `R`, and what each sees: from, to.
#[inline(always)]
pub(super) fn rows_and_seen<'a, const R: usize>(
    of: Attention<'a>,
    task: Task<'_>,
) -> ([&'a [f32]; R], [(usize, usize); R]) {
    let Attention { store, heads, queries } = of;
    let (dim, group) = (store.head_dim(), heads.query / store.kv_heads());
    let mut rows: [&[f32]; R] = [&[]; R];
    let mut seen = [(0, 0); R];
    for (index, (row, seen)) in rows.iter_mut().zip(&mut seen).take(task.count).enumerate() {
        let (token, head) = ((task.first + index) / group, (task.first + index) % group);
        let at = (task.span.row + token) * queries.stride + (task.kv_head * group + head) * dim;
        *row = &queries.rows[at..][..dim];
        let position = task.span.position + token;
        *seen = (heads.window.map_or(0, |window| (position + 1).saturating_sub(window)), position);
    }
    (rows, seen)
}

/// Products of each row with a block's sixteen keys.
#[inline(always)]
fn scores<S: Stored, V: Vector, const R: usize>(keys: &[u16], rows: &[&[f32]; R]) -> [V; R] {
    // Two sums a row, so that additions do not wait for each other.
    let mut even = [V::splat(0.0); R];
    let mut odd = [V::splat(0.0); R];
    let dim = rows.first().map_or(0, |row| row.len());
    for pair in 0..dim / 2 {
        let at = 2 * pair * BLOCK_TOKENS;
        let (first, second): (V, V) = (S::load(keys, at), S::load(keys, at + BLOCK_TOKENS));
        for row in 0..R {
            even[row] = first.fused(V::splat(rows[row][2 * pair]), even[row]);
            odd[row] = second.fused(V::splat(rows[row][2 * pair + 1]), odd[row]);
        }
    }
    for row in 0..R {
        even[row] = even[row].add(odd[row]);
    }
    even
}
