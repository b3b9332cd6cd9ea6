//! Products of weights with rows: one kernel for one row or many, so that decoding and prefill share it, and another for rows that
//! ask for bfloat16. A row's result does not depend on the rows beside it.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod bfloat16;
#[cfg(target_arch = "aarch64")]
mod neon;
mod plain;
mod tiles;

use tiles::{RowTile, tiles};

use crate::line::PANEL_ROWS;
use crate::matrix::Output;
use crate::pool::SendPointer;
use crate::{Isa, Matrix, Pool, Rows, WeightFormat};

/// Products below which one thread is quicker than several.
const LEAST_SHARED_PRODUCTS: usize = 1 << 18;

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
    let panels: usize = products.iter().map(|product| product.matrix.panels()).sum();
    let products_in_all = rows.count() * panels * PANEL_ROWS * rows.columns();
    let panels_a_task = if products_in_all < LEAST_SHARED_PRODUCTS {
        panels.max(1)
    } else {
        // Two at once where products are of bfloat16.
        (panels / (pool.threads() * 6)).next_multiple_of(2).clamp(1, 64)
    };
    let tasks: Vec<(Product<'_>, usize)> = products
        .iter()
        .flat_map(|product| {
            (0..product.matrix.panels()).step_by(panels_a_task).map(|first| (*product, first))
        })
        .collect();
    let tiles = Tiles::new(isa, pool, rows, products);
    let output = Output { first: SendPointer(out.as_mut_ptr()), stride: out_columns };
    let whole = panels_a_task == panels.max(1);
    let each = |index: usize| {
        let (product, first) = tasks[index];
        let last = (first + panels_a_task).min(product.matrix.panels());
        let (tiles, in_bfloat16) = tiles.of(product);
        for panel in first..last {
            multiply_panel(isa, rows, tiles, product, panel, &output);
        }
        if in_bfloat16 {
            bfloat16::multiply(isa, rows, product, first..last, &output);
        }
    };
    if whole { (0..tasks.len()).for_each(each) } else { pool.run(tasks.len(), each) }
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
    for tile in tiles {
        match tile.count {
            12 => multiply_tile::<12>(isa, rows, tile, product, panel, output),
            8 => multiply_tile::<8>(isa, rows, tile, product, panel, output),
            4 => multiply_tile::<4>(isa, rows, tile, product, panel, output),
            2 => multiply_tile::<2>(isa, rows, tile, product, panel, output),
            _ => multiply_tile::<1>(isa, rows, tile, product, panel, output),
        }
    }
}

fn multiply_tile<const M: usize>(
    isa: Isa,
    rows: &Rows,
    tile: &RowTile,
    product: Product<'_>,
    panel: usize,
    output: &Output,
) {
    let matrix = product.matrix;
    let count = (matrix.rows() - panel * PANEL_ROWS).min(PANEL_ROWS);
    let column = product.column + panel * PANEL_ROWS;
    // Not one variable for all of them: that would be a copy of each tile.
    let put = |results: &Tile<M>| {
        let places = (tile.row..).map(|row| row * output.stride + column);
        // SAFETY: `matmul_with` has checked that the product's columns lie within rows of the output, and no other task has
        // this panel of this matrix.
        unsafe {
            if count == PANEL_ROWS {
                for (results, at) in results.iter().zip(places) {
                    output.first.at(at).cast::<[f32; PANEL_ROWS]>().write_unaligned(*results);
                }
            } else {
                for (results, at) in results.iter().zip(places) {
                    std::ptr::copy_nonoverlapping(results.as_ptr(), output.first.at(at), count);
                }
            }
        }
    };
    let (format, panel) = (matrix.format(), matrix.panel(panel));
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::Amx => put(&avx512::tile(format, panel, rows, tile)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if format.layout().is_some() => put(&avx2::tile(format, panel, tile)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => put(&plain::floats_avx2(format, panel, rows, tile.row)),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon if format.layout().is_some() => put(&neon::tile(format, panel, tile)),
        _ => put(&plain::tile(format, panel, rows, tile.row)),
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::{Product, matmul_with};
    use crate::{Isa, Matrix, Pool, Rows, WeightFormat};

    const FORMATS: [WeightFormat; 9] = [
        WeightFormat::F32,
        WeightFormat::F16,
        WeightFormat::BF16,
        WeightFormat::Q4_0,
        WeightFormat::Q5_0,
        WeightFormat::Q8_0,
        WeightFormat::Q4K,
        WeightFormat::Q5K,
        WeightFormat::Q6K,
    ];

    /// A file's bytes: any quants, scales of a size that weights have.
    fn bytes(format: WeightFormat, rows: usize, columns: usize, rng: &mut StdRng) -> Vec<u8> {
        let (numbers, block_bytes) = format.file_block();
        let mut all = Vec::new();
        for _ in 0..rows * columns / numbers {
            let mut block: Vec<u8> = (0..block_bytes).map(|_| rng.random()).collect();
            let mut scale = || f16::from_f32(rng.random_range(-0.01..0.01)).to_le_bytes();
            match format {
                WeightFormat::F32 => block = rng.random_range(-1.0f32..1.0).to_le_bytes().into(),
                WeightFormat::F16 => block = f16::from_f32(rng.random_range(-1.0..1.0)).to_le_bytes().into(),
                WeightFormat::BF16 => {
                    block = bf16::from_f32(rng.random_range(-1.0..1.0)).to_le_bytes().into()
                }
                WeightFormat::Q6K => block[208..].copy_from_slice(&scale()),
                WeightFormat::Q4K | WeightFormat::Q5K => {
                    block[..2].copy_from_slice(&scale());
                    block[2..4].copy_from_slice(&scale());
                }
                _ => block[..2].copy_from_slice(&scale()),
            }
            all.extend(block);
        }
        all
    }

    /// A row for each of `asking`, which says whether it asks for bfloat16.
    fn rows(asking: &[bool], columns: usize, rng: &mut StdRng) -> Rows {
        let mut rows = Rows::default();
        rows.reshape(asking.len(), columns);
        let ranges: Vec<_> = (0..asking.len()).filter(|row| asking[*row]).map(|row| row..row + 1).collect();
        rows.ask_for_bfloat16(&ranges);
        for mut row in rows.each() {
            row.floats.iter_mut().for_each(|number| *number = rng.random_range(-2.0..2.0));
            row.round();
        }
        rows
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Vector kernels give what the plain one gives, bit for bit, whatever rows are beside a row.
        #[test]
        fn every_instruction_set_gives_the_same_bits(
            format in prop::sample::select(FORMATS.to_vec()), outputs in 1usize..70, units in 1usize..4,
            asking in prop::collection::vec(any::<bool>(), 1..50), deep in prop::bool::weighted(0.1), seed in any::<u64>(),
        ) {
            let (numbers, _) = format.file_block();
            let columns = match numbers {
                // More than is unpacked at a time.
                _ if deep => 8_448,
                1 => units * 37,
                32 => units * 32,
                _ => units * 256,
            };
            let mut rng = StdRng::seed_from_u64(seed);
            let pool = Pool::new(2).unwrap();
            let bytes = bytes(format, outputs, columns, &mut rng);
            let matrix = Matrix::from_bytes(&pool, format, outputs, columns, &bytes).unwrap();
            let rows = rows(&asking, columns, &mut rng);
            let run = |isa, rows: &Rows| {
                let mut out = vec![0.0; rows.count() * (outputs + 1)];
                matmul_with(isa, &pool, rows, &[Product { matrix: &matrix, column: 1 }], &mut out, outputs + 1);
                out
            };
            let plain = run(Isa::Plain, &rows);
            for isa in Isa::available() {
                prop_assert_eq!(&run(isa, &rows), &plain, "{:?} of {:?}", isa, format);
            }
            let last = asking.len() - 1;
            let mut alone = Rows::default();
            alone.reshape(1, columns);
            let own = 0..1;
            alone.ask_for_bfloat16(if asking[last] { std::slice::from_ref(&own) } else { &[] });
            for mut row in alone.each() {
                row.floats.copy_from_slice(&rows.floats()[last * columns..]);
                row.round();
            }
            prop_assert_eq!(&run(Isa::widest(), &alone)[..], &plain[last * (outputs + 1)..]);
        }

        /// The product is that of the numbers that the matrix stands for, as far as eight bits carry.
        #[test]
        fn a_product_is_a_sum_of_products(
            format in prop::sample::select(FORMATS.to_vec()), outputs in 1usize..40, asks in any::<bool>(), seed in any::<u64>(),
        ) {
            let columns = 256;
            let mut rng = StdRng::seed_from_u64(seed);
            let pool = Pool::new(1).unwrap();
            let bytes = bytes(format, outputs, columns, &mut rng);
            let matrix = Matrix::from_bytes(&pool, format, outputs, columns, &bytes).unwrap();
            let rows = rows(&[asks; 3], columns, &mut rng);
            let mut out = vec![0.0; 3 * outputs];
            matmul_with(Isa::widest(), &pool, &rows, &[Product { matrix: &matrix, column: 0 }], &mut out, outputs);
            let mut weights = vec![0.0; columns];
            for output in 0..outputs {
                matrix.row(output, &mut weights);
                let size = weights.iter().map(|weight| weight * weight).sum::<f32>().sqrt();
                for row in 0..3 {
                    let numbers = &rows.floats()[row * columns..][..columns];
                    let exact: f32 = weights.iter().zip(numbers).map(|(weight, number)| weight * number).sum();
                    let ours = out[row * outputs + output];
                    prop_assert!((ours - exact).abs() <= if asks { 0.02 } else { 0.05 } * size, "{ours} {exact} of {size}");
                }
            }
        }
    }
}
