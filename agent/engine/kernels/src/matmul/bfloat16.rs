//! Products of bfloat16 for the rows that ask for them: weights are unpacked and rounded panel by panel, and multiplied with 32 rows
//! at once. Sums are those of Intel's `TDPBF16PS` (Instruction Set Reference, volume 2D): of each 32 numbers the even and the odd
//! ones are summed apart, one after the other, in 32 bits.

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;

use super::Product;
#[cfg(target_arch = "x86_64")]
use super::amx;
use super::output::Output;
use crate::bfloat16::nearest;
use crate::bfloat16_rows::TILE_ROWS;
use crate::format::BLOCK;
use crate::line::{Line, PANEL_ROWS};
use crate::{Isa, Matrix, Rows, WeightFormat, repack};

/// Rows, and outputs, that are multiplied at a time.
pub(crate) const SIDE: usize = 2 * TILE_ROWS;
/// Most blocks of two panels that are unpacked at a time: half a MiB, which a core has room for close by.
pub(super) const MOST_BLOCKS: usize = 256;

/// 32 numbers of each of two panels' outputs, as pairs: `[panel, pair, output]`.
pub(crate) type Weights = [[Line; TILE_ROWS]; 2];
/// Of 32 rows and 32 outputs.
pub(super) type Sums = [[f32; SIDE]; SIDE];

thread_local! {
    /// Unpacked weights, kept from task to task.
    static WEIGHTS: RefCell<Vec<Weights>> = const { RefCell::new(Vec::new()) };
}

/// Two tiles of rows, as many blocks of each as there are weights: `[blocks, 16 rows]`.
pub(crate) type RowTiles<'a> = [&'a [[Line; TILE_ROWS]]; 2];

/// Multiplies the rows that ask for bfloat16 with some panels of a matrix.
pub(super) fn multiply(isa: Isa, rows: &Rows, product: Product<'_>, panels: Range<usize>, output: &Output) {
    let asking: Vec<usize> = rows.bfloat16.asking().iter().cloned().flatten().collect();
    let mut multiplier = Multiplier::new(isa);
    let blocks = rows.columns().div_ceil(BLOCK);
    let most_deep = blocks.min(MOST_BLOCKS);
    // Rows are read once for as many panels as there is room for.
    let most_pairs = (MOST_BLOCKS / most_deep.max(1)).min(panels.len().div_ceil(2));
    with_weights(most_pairs * most_deep, |weights| {
        for panels in groups(panels, most_pairs) {
            for begin in (0..blocks).step_by(most_deep) {
                let depth = begin..(begin + most_deep).min(blocks);
                for (pair, weights) in groups(panels.clone(), 1).zip(weights.chunks_exact_mut(depth.len())) {
                    unpack(isa, product.matrix, pair, depth.clone(), weights);
                }
                for (index, of) in asking.chunks(SIDE).enumerate() {
                    let tiles = row_tiles(rows, index, of.len(), depth.clone());
                    for (panels, weights) in groups(panels.clone(), 1).zip(weights.chunks_exact(depth.len()))
                    {
                        let results = Results { rows: of, product, panels, output };
                        results.add(begin == 0, &mut multiplier, tiles, weights);
                    }
                }
            }
        }
    });
}

/// Calls with room for at least so many unpacked weights.
pub(super) fn with_weights(count: usize, work: impl FnOnce(&mut [Weights])) {
    WEIGHTS.with_borrow_mut(|weights| {
        weights.resize(weights.len().max(count), Weights::default());
        work(weights);
    });
}

/// Panels by so many pairs; the last may have fewer, and half a pair.
pub(super) fn groups(panels: Range<usize>, pairs: usize) -> impl Iterator<Item = Range<usize>> {
    panels.clone().step_by(2 * pairs).map(move |first| first..(first + 2 * pairs).min(panels.end))
}

/// Blocks `depth` of the `index`th 32 rows that ask, or of `count` if there are fewer. What comes of a tile that is taken twice is
/// not kept.
pub(super) fn row_tiles(rows: &Rows, index: usize, count: usize, depth: Range<usize>) -> RowTiles<'_> {
    let second = usize::from(count > TILE_ROWS);
    [2 * index, 2 * index + second].map(|tile| rows.bfloat16.tile(tile, depth.clone()).as_chunks().0)
}

/// Where the sums of up to 32 rows and two panels belong.
struct Results<'a> {
    rows: &'a [usize],
    product: Product<'a>,
    panels: Range<usize>,
    output: &'a Output,
}

impl Results<'_> {
    /// Outputs that are there.
    fn columns(&self) -> usize {
        (self.panels.end * PANEL_ROWS).min(self.product.matrix.rows()) - self.panels.start * PANEL_ROWS
    }

    /// Of a row's first sum.
    fn place(&self, row: usize) -> *mut f32 {
        let column = self.product.column + self.panels.start * PANEL_ROWS;
        self.output.first.at(row * self.output.stride + column)
    }

    /// Adds products to sums in the output itself, if all 32 by 32 are side by side there; `fresh` ones begin at zero.
    fn add(&self, fresh: bool, multiplier: &mut Multiplier, tiles: RowTiles<'_>, weights: &[Weights]) {
        let columns = self.columns();
        let neighbours = self.rows.len() == SIDE && self.rows[SIDE - 1] - self.rows[0] == SIDE - 1;
        if neighbours && columns == SIDE {
            let first = self.place(self.rows[0]);
            // SAFETY: `matmul_with` has checked that the product's columns lie within rows of the output, and no other task has these
            // panels of this matrix.
            return unsafe { multiplier.multiply_at(tiles, weights, fresh, first, self.output.stride) };
        }
        let mut sums = Sums::default();
        let places = || self.rows.iter().map(|row| self.place(*row));
        if !fresh {
            for (sums, place) in sums.iter_mut().zip(places()) {
                // SAFETY: as above; these were written before.
                unsafe { std::ptr::copy_nonoverlapping(place, sums.as_mut_ptr(), columns) };
            }
        }
        multiplier.multiply(tiles, weights, fresh, sums.as_flattened_mut(), SIDE);
        for (sums, place) in sums.iter().zip(places()) {
            // SAFETY: as above; so many columns are the product's.
            unsafe { std::ptr::copy_nonoverlapping(sums.as_ptr(), place, columns) };
        }
    }
}

/// What multiplies tiles, on the thread that made it.
pub(crate) enum Multiplier {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Amx(amx::Unit),
}

impl Multiplier {
    pub(crate) fn new(isa: Isa) -> Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Self::Amx(amx::Unit::take()),
            _ => Self::Plain,
        }
    }

    /// Adds the products of two tiles of rows with two panels to 32 rows of 32 sums, `stride` numbers from each to the next; `fresh`
    /// ones begin at zero.
    ///
    /// # Panics
    /// When shapes do not fit: that is a bug of the caller.
    pub(crate) fn multiply(
        &mut self,
        rows: RowTiles<'_>,
        weights: &[Weights],
        fresh: bool,
        sums: &mut [f32],
        stride: usize,
    ) {
        assert!(sums.len() >= (SIDE - 1) * stride + SIDE, "there is no room for all sums");
        // SAFETY: the sums have room for all, by the assertion.
        unsafe { self.multiply_at(rows, weights, fresh, sums.as_mut_ptr(), stride) }
    }

    /// # Safety
    /// `sums` is where such rows begin, which nobody else has.
    unsafe fn multiply_at(
        &mut self,
        rows: RowTiles<'_>,
        weights: &[Weights],
        fresh: bool,
        sums: *mut f32,
        stride: usize,
    ) {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as the caller promises.
            Self::Amx(unit) => unsafe { unit.multiply(rows, weights, fresh, sums, stride) },
            Self::Plain => {
                let mut all = Sums::default();
                for (row, all) in all.iter_mut().enumerate().filter(|_| !fresh) {
                    // SAFETY: as the caller promises.
                    unsafe { std::ptr::copy_nonoverlapping(sums.add(row * stride), all.as_mut_ptr(), SIDE) };
                }
                multiply_plain(rows, weights, &mut all);
                for (row, all) in all.iter().enumerate() {
                    // SAFETY: as the caller promises.
                    unsafe { std::ptr::copy_nonoverlapping(all.as_ptr(), sums.add(row * stride), SIDE) };
                }
            }
        }
    }
}

/// Some blocks of a pair of panels. One without a neighbour has what was there last beside it; what comes of that is not kept.
pub(super) fn unpack(
    isa: Isa,
    matrix: &Matrix,
    pair: Range<usize>,
    blocks: Range<usize>,
    out: &mut [Weights],
) {
    for (place, panel) in pair.enumerate() {
        let (format, panel, blocks) = (matrix.format(), matrix.panel(panel), blocks.clone());
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => amx::unpack(format, panel, blocks, out, place),
            _ => unpack_plain(format, matrix.columns(), panel, blocks, out, place),
        }
    }
}

fn unpack_plain(
    format: WeightFormat,
    columns: usize,
    panel: &[Line],
    blocks: Range<usize>,
    out: &mut [Weights],
    place: usize,
) {
    let mut numbers = vec![0.0; columns];
    for output in 0..PANEL_ROWS {
        repack::unpack_row(format, panel, output, &mut numbers);
        for (block, weights) in blocks.clone().zip(&mut *out) {
            for at in 0..BLOCK {
                let number = numbers.get(block * BLOCK + at).copied().unwrap_or(0.0);
                weights[place][at / 2].set_half(2 * output + at % 2, nearest(number));
            }
        }
    }
}

/// Adds the products of two tiles of rows with two panels. Products of two such numbers are exact in 32 bits.
pub(super) fn multiply_plain(rows: RowTiles<'_>, weights: &[Weights], sums: &mut Sums) {
    let float = |line: &Line, index: usize| bf16::from_bits(line.half(index)).to_f32();
    for (block, weights) in weights.iter().enumerate() {
        // By number of the block, then by output.
        let mut floats = [[0.0; SIDE]; BLOCK];
        for (at, floats) in floats.iter_mut().enumerate() {
            for (output, weight) in floats.iter_mut().enumerate() {
                let line = &weights[output / PANEL_ROWS][at / 2];
                *weight = float(line, 2 * (output % PANEL_ROWS) + at % 2);
            }
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            let numbers = &rows[row / TILE_ROWS][block][row % TILE_ROWS];
            let mut of_kind = [[0.0; SIDE]; 2];
            for (at, weights) in floats.iter().enumerate() {
                let number = float(numbers, at);
                for (sum, weight) in of_kind[at % 2].iter_mut().zip(weights) {
                    *sum += number * weight;
                }
            }
            for (sum, (even, odd)) in sums.iter_mut().zip(of_kind[0].iter().zip(of_kind[1])) {
                *sum += even + odd;
            }
        }
    }
}
