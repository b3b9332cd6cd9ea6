//! Two products with a gate between them. Sums go to the gate in a core's closest cache: written out in between, they would be most of
//! what a feed-forward reads and writes.

use std::ops::Range;

use super::bfloat16::{MOST_BLOCKS, Multiplier, SIDE, Sums, groups, row_tiles, unpack, with_weights};
use super::output::Output;
use super::portions::portions;
use super::tiles::{OfTile, RowTile, for_each_tile};
use super::{Product, Tiles, with_results};
use crate::bfloat16_rows::{BlocksMut, round_blocks};
use crate::format::BLOCK;
use crate::line::{Line, PANEL_ROWS};
use crate::{Isa, Matrix, Pool, Rows};

/// `out = activation(gate) * up`, as many of each.
pub type Gate = fn(gate: &[f32], up: &[f32], out: &mut [f32]);

/// What the gate is computed from, and what goes through it, of one shape.
#[derive(Clone, Copy)]
pub struct GateAndUp<'a> {
    /// Goes through the activation.
    pub gate: &'a Matrix,
    /// Is multiplied with what comes of that.
    pub up: &'a Matrix,
}

/// Multiplies every row with both matrices, and writes what the gate makes of the products, `[rows, outputs]`, to `out`, rounded. Of
/// rows that ask for bfloat16 the floats are not written.
///
/// # Panics
/// When shapes do not fit, other rows ask in `out`, or some ask and a matrix has no products of bfloat16: those are bugs of the caller.
pub fn matmul_gated(pool: &Pool, rows: &Rows, matrices: GateAndUp<'_>, gate: Gate, out: &mut Rows) {
    matmul_gated_with(Isa::widest(), pool, rows, matrices, gate, out);
}

pub(crate) fn matmul_gated_with(
    isa: Isa,
    pool: &Pool,
    rows: &Rows,
    matrices: GateAndUp<'_>,
    gate: Gate,
    out: &mut Rows,
) {
    let outputs = matrices.gate.rows();
    let products = [matrices.gate, matrices.up].map(|matrix| Product { matrix, column: 0 });
    let some_ask = !rows.bfloat16.asking().is_empty();
    for Product { matrix, .. } in products {
        assert_eq!(matrix.columns(), rows.columns(), "the rows are not of the matrix's width");
        assert_eq!(matrix.rows(), outputs, "the matrices are not of one shape");
        assert!(!some_ask || matrix.format().has_bfloat16_products(), "a matrix has no products of bfloat16");
    }
    assert!(out.count() == rows.count() && out.columns() == outputs, "the output is of another shape");
    assert_eq!(rows.bfloat16.asking(), out.bfloat16.asking(), "other rows ask");
    let tiles = Tiles::new(isa, pool, rows, &products);
    let (tiles, _) = tiles.of(products[0]);
    let (floats, blocks) = out.floats_and_blocks();
    let output = Output { first: floats, stride: outputs };
    // A pair of panels gives one block, which one task writes; both matrices are cut alike.
    portions(pool, rows, &products[..1]).run(pool, |_, panels| {
        for panel in panels.clone() {
            for_each_tile(tiles, &GatedPanel { isa, rows, matrices, gate, panel, output: &output });
        }
        if some_ask {
            multiply(isa, rows, matrices, panels, gate, &blocks);
        }
    });
    out.round(pool, |row| !row.asks_for_bfloat16());
}

struct GatedPanel<'a> {
    isa: Isa,
    rows: &'a Rows,
    matrices: GateAndUp<'a>,
    gate: Gate,
    panel: usize,
    output: &'a Output,
}

impl OfTile for GatedPanel<'_> {
    fn of_tile<const M: usize>(&self, tile: &RowTile) {
        let Self { isa, rows, matrices, panel, .. } = *self;
        let first = panel * PANEL_ROWS;
        let count = (matrices.gate.rows() - first).min(PANEL_ROWS);
        let (mut gates, mut gated) = ([[0.0; PANEL_ROWS]; M], [[0.0; PANEL_ROWS]; M]);
        with_results(isa, rows, tile, matrices.gate, panel, |results| gates = *results);
        with_results::<M>(isa, rows, tile, matrices.up, panel, |ups| {
            (self.gate)(gates.as_flattened(), ups.as_flattened(), gated.as_flattened_mut());
        });
        // SAFETY: `matmul_gated_with` has checked the output's shape, and no other task has this panel.
        unsafe { self.output.put(&gated, tile.row, first, count) };
    }
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
