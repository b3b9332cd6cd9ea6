//! Products that give a row the same bits whatever rows are beside it, where candle's differ with the number of rows. Those of
//! quantized weights are the CPU's to the bit; those of weights in floating point are as near to its as 16 bits of a number allow.

#[cfg(any(feature = "cuda", all(test, feature = "cuda-on-host")))]
pub(super) mod kernel;
mod ops;
mod rounded;
mod self_test;
mod split;
#[cfg(test)]
mod tests;
pub(super) mod tiles;

use std::cell::OnceCell;

use candle_core::{DType, Device, Result, Tensor, bail};

use self::ops::{MakeTiles, MultiplyTiles};
use self::tiles::Tiles;
use crate::line::{Line, PANEL_ROWS};
use crate::{Matrix, WeightFormat};
pub use self_test::require_right_products;

/// Weights `[outputs, inputs]` on a device, in panels of 16 outputs as [`Matrix`] has them.
pub struct Panels {
    shape: PanelShape,
    /// Lines of 16 words.
    lines: Tensor,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct PanelShape {
    pub(super) format: WeightFormat,
    pub(super) outputs: usize,
    pub(super) columns: usize,
}

/// Rows `[rows, inputs]` that matrices are multiplied with; tiles are made of them for the first that asks.
pub struct Activations<'a> {
    rows: &'a Tensor,
    rounded: OnceCell<Tensor>,
    split: OnceCell<Tensor>,
}

impl<'a> Activations<'a> {
    /// Rows of 32-bit floats.
    pub fn new(rows: &'a Tensor) -> Self {
        Self { rows, rounded: OnceCell::new(), split: OnceCell::new() }
    }

    /// As they are.
    pub fn rows(&self) -> &'a Tensor {
        self.rows
    }

    fn tiles(&self, tiles: Tiles) -> Result<&Tensor> {
        let cell = match tiles {
            Tiles::Rounded => &self.rounded,
            Tiles::Split => &self.split,
        };
        if let Some(made) = cell.get() {
            return Ok(made);
        }
        let made = self.rows.apply_op1_no_bwd(&MakeTiles(tiles))?;
        Ok(cell.get_or_init(|| made))
    }
}

impl Panels {
    /// Brings a matrix to a device.
    ///
    /// # Errors
    /// When the device has no room, or no tensor cores that multiply bytes and bfloat16.
    pub fn new(matrix: &Matrix, device: &Device) -> Result<Self> {
        let shape = PanelShape { format: matrix.format(), outputs: matrix.rows(), columns: matrix.columns() };
        Self::of(shape, matrix.lines(), device)
    }

    /// The same of 32-bit floats, row by row.
    ///
    /// # Errors
    /// As [`Panels::new`].
    pub fn from_floats(floats: &[f32], (outputs, columns): (usize, usize), device: &Device) -> Result<Self> {
        let shape = PanelShape { format: WeightFormat::F32, outputs, columns };
        let mut lines = vec![Line::default(); outputs.div_ceil(PANEL_ROWS) * columns];
        for (output, row) in floats.chunks_exact(columns.max(1)).enumerate() {
            for (number, line) in row.iter().zip(&mut lines[output / PANEL_ROWS * columns..]) {
                line.0[output % PANEL_ROWS] = number.to_bits();
            }
        }
        Self::of(shape, &lines, device)
    }

    fn of(shape: PanelShape, lines: &[Line], device: &Device) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(cuda) = device {
            super::launch::product::check(cuda)?;
        }
        Ok(Self { shape, lines: Tensor::from_slice(Line::words(lines), lines.len() * PANEL_ROWS, device)? })
    }

    /// `[rows, outputs]`: `out[r, n] = Σ_k weights[n, k] rows[r, k]`. Of quantized weights as [`crate::matmul`] gives it for rows in
    /// eight bits; of others, numbers and rows count with 16 bits each.
    ///
    /// # Errors
    /// When shapes do not fit, or the device fails.
    pub fn product(&self, activations: &Activations<'_>) -> Result<Tensor> {
        let (rows, columns) = activations.rows.dims2()?;
        if columns != self.shape.columns {
            bail!("rows of {columns} numbers by a matrix of {}", self.shape.columns);
        }
        let tiles = activations.tiles(Tiles::of(self.shape.format))?;
        tiles.apply_op2_no_bwd(&self.lines, &MultiplyTiles(self.shape, rows))
    }

    /// Memory of the device that it takes.
    pub fn size_bytes(&self) -> u64 {
        (self.lines.elem_count() * DType::U32.size_in_bytes()) as u64
    }
}
