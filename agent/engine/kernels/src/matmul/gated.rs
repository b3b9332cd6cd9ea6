//! Two products with a gate between them. Rows that ask for bfloat16 go from sums to what the next product takes in a core's closest
//! cache: written out in between, they would be most of what a feed-forward reads and writes.

use std::ops::Range;

use super::bfloat16::{MOST_BLOCKS, Multiplier, SIDE, Sums, groups, row_tiles, unpack, with_weights};
use super::portions::portions;
use super::{Product, Tiles, multiply_panel};
use crate::bfloat16_rows::{BlocksMut, round_blocks};
use crate::format::BLOCK;
use crate::line::{Line, PANEL_ROWS};
use crate::matrix::Output;
use crate::pool::SendPointer;
use crate::{Isa, Matrix, Pool, Rows};

/// `out = activation(gate) * up`, as many of each.
pub type Gate = fn(gate: &[f32], up: &[f32], out: &mut [f32]);

/// Multiplies every row with both matrices. Rows that ask for bfloat16 get what the gate makes of the products, rounded, in `out`;
/// its floats do not. Of the others, both products go to `gates`, `[rows, 2 * outputs]`.
///
/// # Panics
/// When shapes do not fit, other rows ask in `out`, or a matrix has no products of bfloat16: those are bugs of the caller.
pub fn matmul_gated(
    pool: &Pool,
    rows: &Rows,
    matrices: GateAndUp<'_>,
    gate: Gate,
    gates: &mut [f32],
    out: &mut Rows,
) {
    matmul_gated_with(Isa::widest(), pool, rows, matrices, gate, gates, out);
}

/// What the gate is computed from, and what goes through it, of one shape.
#[derive(Clone, Copy)]
pub struct GateAndUp<'a> {
    /// Goes through the activation.
    pub gate: &'a Matrix,
    /// Is multiplied with what comes of that.
    pub up: &'a Matrix,
}

pub(crate) fn matmul_gated_with(
    isa: Isa,
    pool: &Pool,
    rows: &Rows,
    matrices: GateAndUp<'_>,
    gate: Gate,
    gates: &mut [f32],
    out: &mut Rows,
) {
    let outputs = matrices.gate.rows();
    let products =
        [Product { matrix: matrices.gate, column: 0 }, Product { matrix: matrices.up, column: outputs }];
    for Product { matrix, .. } in products {
        assert_eq!(matrix.columns(), rows.columns(), "the rows are not of the matrix's width");
        assert!(matrix.rows() == outputs && outputs == out.columns(), "the matrices are not of one shape");
        assert!(matrix.format().has_bfloat16_products(), "a matrix has no products of bfloat16");
    }
    assert_eq!(rows.bfloat16.asking(), out.bfloat16.asking(), "other rows ask");
    let others = rows.count() - out.bfloat16.count();
    assert!(others == 0 || gates.len() >= rows.count() * 2 * outputs, "the output is too small");
    let tiles = Tiles::new(isa, pool, rows, &products);
    let output = Output { first: SendPointer(gates.as_mut_ptr()), stride: 2 * outputs };
    let out = out.bfloat16.blocks_mut();
    // A pair of panels gives one block, which one task writes; both matrices are cut alike.
    portions(pool, rows, &products[..1]).run(pool, |_, panels| {
        for product in products {
            let (tiles, _) = tiles.of(product);
            for panel in panels.clone() {
                multiply_panel(isa, rows, tiles, product, panel, &output);
            }
        }
        multiply(isa, rows, matrices, panels, gate, &out);
    });
}

/// Rows that ask, and some panels of both matrices, the first of which has an even number.
fn multiply(
    isa: Isa,
    rows: &Rows,
    matrices: GateAndUp<'_>,
    panels: Range<usize>,
    gate: Gate,
    out: &BlocksMut<'_>,
) {
    let mut multiplier = Multiplier::new(isa);
    let blocks = rows.columns().div_ceil(BLOCK);
    let most_pairs = (MOST_BLOCKS / (2 * blocks)).clamp(1, panels.len().div_ceil(2));
    let (mut gates, mut ups, mut gated) = (Sums::default(), Sums::default(), Sums::default());
    let mut lines = [Line::default(); SIDE];
    with_weights(2 * most_pairs * blocks, |weights| {
        for panels in groups(panels, most_pairs) {
            for (pair, weights) in groups(panels.clone(), 1).zip(weights.chunks_exact_mut(2 * blocks)) {
                let (of_gate, of_up) = weights.split_at_mut(blocks);
                unpack(isa, matrices.gate, pair.clone(), 0..blocks, of_gate);
                unpack(isa, matrices.up, pair, 0..blocks, of_up);
            }
            for first_row in (0..out.count()).step_by(SIDE) {
                let count = (out.count() - first_row).min(SIDE);
                let tiles = row_tiles(rows, first_row / SIDE, count, 0..blocks);
                for (pair, weights) in groups(panels.clone(), 1).zip(weights.chunks_exact(2 * blocks)) {
                    let (of_gate, of_up) = weights.split_at(blocks);
                    multiplier.multiply(tiles, of_gate, true, gates.as_flattened_mut(), SIDE);
                    multiplier.multiply(tiles, of_up, true, ups.as_flattened_mut(), SIDE);
                    gate(gates.as_flattened(), ups.as_flattened(), gated.as_flattened_mut());
                    // Behind the last output there is nothing.
                    let outputs = (pair.end * PANEL_ROWS).min(matrices.gate.rows()) - pair.start * PANEL_ROWS;
                    gated.iter_mut().for_each(|row| row[outputs..].fill(0.0));
                    round_blocks(&gated, &mut lines);
                    // SAFETY: no other task has this pair of panels.
                    unsafe { out.put(first_row, pair.start * PANEL_ROWS / BLOCK, &lines[..count]) };
                }
            }
        }
    });
}
