//! Products of weights with rows: one kernel for one row or many, so that decoding and prefill share it, and another for rows that
//! ask for bfloat16. A row's result does not depend on the rows beside it.

#[cfg(target_arch = "x86_64")]
mod ahead;
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod bfloat16;
mod formats;
mod gated;
#[cfg(target_arch = "aarch64")]
mod neon;
mod output;
mod plain;
mod portions;
#[cfg(test)]
pub(crate) mod test_weights;
#[cfg(test)]
mod tests;
mod tiles;

pub use gated::{Gate, GateAndUp, matmul_gated};
use output::Output;
use portions::portions;
use tiles::{OfTile, RowTile, for_each_tile, tiles};

use crate::line::PANEL_ROWS;
use crate::pool::SendPointer;
use crate::{Isa, Matrix, Pool, Rows, WeightFormat};

/// A matrix and where its results go.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// The weights, `[rows, columns]`.
    pub matrix: &'a Matrix,
    /// Column of the output where its first result goes.
    pub column: usize,
}

/// Multiplies every row with every matrix: `out[r, column + n] = Σ_k matrix[n, k] rows[r, k]`, with `out` of shape
/// `[rows, out_columns]`. Quantized matrices see the rows rounded to eight bits, or to
/// bfloat16 those that ask for it, others as floats.
///
/// # Panics
/// When shapes do not fit: that is a bug of the caller.
pub fn matmul(pool: &Pool, rows: &Rows, products: &[Product<'_>], out: &mut [f32], out_columns: usize) {
    matmul_with(Isa::widest(), pool, rows, products, out, out_columns);
}

pub(crate) fn matmul_with(
    isa: Isa,
    pool: &Pool,
    rows: &Rows,
    products: &[Product<'_>],
    out: &mut [f32],
    out_columns: usize,
) {
    assert!(out.len() >= rows.count() * out_columns, "the output is too small");
    for product in products {
        assert_eq!(product.matrix.columns(), rows.columns(), "the rows are not of the matrix's width");
        assert!(product.column + product.matrix.rows() <= out_columns, "the output is too narrow");
    }
    let portions = portions(pool, rows, products);
    let tiles = Tiles::new(isa, pool, rows, products);
    let output = Output { first: SendPointer(out.as_mut_ptr()), stride: out_columns };
    portions.run(pool, |product, panels| {
        let (tiles, in_bfloat16) = tiles.of(product);
        for panel in panels.clone() {
            multiply_panel(isa, rows, tiles, product, panel, &output);
        }
        if in_bfloat16 {
            bfloat16::multiply(isa, rows, product, panels, &output);
        }
    });
}

/// The rows, cut and laid out as kernels take them.
struct Tiles {
    /// For weights without products of bfloat16, or where no row asks for them.
    all: Vec<RowTile>,
    /// Those that do not ask, where others do.
    others: Vec<RowTile>,
    some_ask: bool,
}

impl Tiles {
    fn new(isa: Isa, pool: &Pool, rows: &Rows, products: &[Product<'_>]) -> Self {
        let some =
            |wanted: fn(WeightFormat) -> bool| products.iter().any(|product| wanted(product.matrix.format()));
        let packed = isa != Isa::Plain && some(|format| format.layout().is_some());
        let some_ask = !rows.bfloat16.asking().is_empty();
        let split = some_ask && some(WeightFormat::has_bfloat16_products);
        let whole = !split || some(|format| !format.has_bfloat16_products());
        Self {
            all: if whole { tiles(pool, rows, packed, &[]) } else { Vec::new() },
            others: if split { tiles(pool, rows, packed, rows.bfloat16.asking()) } else { Vec::new() },
            some_ask,
        }
    }

    /// Those that a product takes in eight bits or floats, and whether it has others in bfloat16.
    fn of(&self, product: Product<'_>) -> (&[RowTile], bool) {
        let split = self.some_ask && product.matrix.format().has_bfloat16_products();
        (if split { &self.others } else { &self.all }, split)
    }
}

/// Results of a few rows and a panel.
type Tile<const M: usize> = [[f32; PANEL_ROWS]; M];

fn multiply_panel(
    isa: Isa,
    rows: &Rows,
    tiles: &[RowTile],
    product: Product<'_>,
    panel: usize,
    output: &Output,
) {
    for_each_tile(tiles, &PanelProduct { isa, rows, product, panel, output });
}

struct PanelProduct<'a> {
    isa: Isa,
    rows: &'a Rows,
    product: Product<'a>,
    panel: usize,
    output: &'a Output,
}

impl OfTile for PanelProduct<'_> {
    fn of_tile<const M: usize>(&self, tile: &RowTile) {
        let Self { product: Product { matrix, column }, panel, output, .. } = *self;
        let count = (matrix.rows() - panel * PANEL_ROWS).min(PANEL_ROWS);
        with_results::<M>(self.isa, self.rows, tile, matrix, panel, |results| {
            // SAFETY: `matmul_with` has checked that the product's columns lie within rows of the output, and no other task has
            // this panel of this matrix.
            unsafe { output.put(results, tile.row, column + panel * PANEL_ROWS, count) };
        });
    }
}

/// Calls `take` with what comes of a tile and a panel. (Were it returned, each would be copied.)
fn with_results<const M: usize>(
    isa: Isa,
    rows: &Rows,
    tile: &RowTile,
    matrix: &Matrix,
    panel: usize,
    take: impl FnOnce(&Tile<M>),
) {
    let (format, panel) = (matrix.format(), matrix.panel(panel));
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::Amx => take(&avx512::tile(format, panel, rows, tile)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if format.layout().is_some() => take(&avx2::tile(format, panel, tile)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => take(&plain::floats_avx2(format, panel, rows, tile.row)),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon if format.layout().is_some() => take(&neon::tile(format, panel, tile)),
        _ => take(&plain::tile(format, panel, rows, tile.row)),
    }
}
