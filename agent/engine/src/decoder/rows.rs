//! What happens to rows between products.

use std::ops::Range;

use llmdeck_kernels::Pool;
use llmdeck_kernels::elementwise::{add, rms_norm, rms_norm_in_place};

use crate::scratch::Scratch;

/// Rows below which one thread is quicker than several.
const LEAST_SHARED_ROWS: usize = 8;

/// On the pool where there are enough rows to pay for it.
pub(super) fn for_each<T: Send>(pool: &Pool, rows: &mut [T], work: impl Fn(&mut T) + Sync) {
    if rows.len() < LEAST_SHARED_ROWS { rows.iter_mut().for_each(work) } else { pool.run_each(rows, work) }
}

/// Norms rows for the products that are next.
pub(super) fn normalize(
    pool: &Pool,
    weight: &[f32],
    eps: f32,
    bfloat16_rows: &[Range<usize>],
    scratch: &mut Scratch,
) {
    let (width, hidden) = (weight.len(), &scratch.hidden);
    scratch.normed.reshape(hidden.len() / width, width);
    scratch.normed.ask_for_bfloat16(bfloat16_rows);
    let mut rows: Vec<_> = scratch.normed.each().into_iter().zip(hidden.chunks_exact(width)).collect();
    for_each(pool, &mut rows, |(row, hidden)| {
        rms_norm(hidden, weight, eps, row.floats);
        row.round();
    });
}

/// Adds a block's output, normed where the family does that, to the residual stream.
pub(super) fn join(pool: &Pool, norm: Option<&[f32]>, width: usize, eps: f32, scratch: &mut Scratch) {
    let (hidden, output) = (&mut scratch.hidden, &mut scratch.output);
    let mut rows: Vec<_> = hidden.chunks_exact_mut(width).zip(output.chunks_exact_mut(width)).collect();
    for_each(pool, &mut rows, |(hidden, output)| join_row(hidden, output, norm, eps));
}

/// Both, while a row is close by.
pub(super) fn join_and_normalize(
    pool: &Pool,
    norm: Option<&[f32]>,
    next_norm: &[f32],
    eps: f32,
    bfloat16_rows: &[Range<usize>],
    scratch: &mut Scratch,
) {
    let width = next_norm.len();
    let (hidden, output) = (&mut scratch.hidden, &mut scratch.output);
    scratch.normed.reshape(hidden.len() / width, width);
    scratch.normed.ask_for_bfloat16(bfloat16_rows);
    let streams = hidden.chunks_exact_mut(width).zip(output.chunks_exact_mut(width));
    let mut rows: Vec<_> = scratch.normed.each().into_iter().zip(streams).collect();
    for_each(pool, &mut rows, |(row, (hidden, output))| {
        join_row(hidden, output, norm, eps);
        rms_norm(hidden, next_norm, eps, row.floats);
        row.round();
    });
}

fn join_row(hidden: &mut [f32], output: &mut [f32], norm: Option<&[f32]>, eps: f32) {
    if let Some(norm) = norm {
        rms_norm_in_place(output, norm, eps);
    }
    add(hidden, output);
}
