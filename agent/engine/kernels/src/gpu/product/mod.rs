//! Products that are the CPU's to the bit, whatever rows are beside a row; candle's differ with the number of rows.

#[cfg(any(feature = "cuda", all(test, feature = "cuda-on-host")))]
pub(super) mod kernel;
mod self_test;
#[cfg(test)]
mod tests;
pub(super) mod tiles;

use std::cell::OnceCell;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result, Shape, Tensor, bail};

use super::host;
use crate::line::{Line, PANEL_ROWS};
use crate::{Matrix, Pool, Product, Rows, WeightFormat, matmul};
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

/// Rows `[rows, inputs]` that matrices are multiplied with; rounded for the first that asks.
pub struct Activations<'a> {
    rows: &'a Tensor,
    rounded: OnceCell<Tensor>,
}

impl<'a> Activations<'a> {
    /// Rows of 32-bit floats.
    pub fn new(rows: &'a Tensor) -> Self {
        Self { rows, rounded: OnceCell::new() }
    }

    /// As they are.
    pub fn rows(&self) -> &'a Tensor {
        self.rows
    }

    fn rounded(&self) -> Result<&Tensor> {
        if let Some(rounded) = self.rounded.get() {
            return Ok(rounded);
        }
        let made = self.rows.apply_op1_no_bwd(&RoundRows)?;
        Ok(self.rounded.get_or_init(|| made))
    }
}

impl Panels {
    /// Brings a matrix to a device.
    ///
    /// # Errors
    /// When the device has no room, or no tensor cores that multiply bytes.
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

    /// `[rows, outputs]`: `out[r, n] = Σ_k weights[n, k] rows[r, k]`, as [`crate::matmul`] gives it for rows in eight bits, or floats.
    ///
    /// # Errors
    /// When shapes do not fit, or the device fails.
    pub fn product(&self, activations: &Activations<'_>) -> Result<Tensor> {
        let (rows, columns) = activations.rows.dims2()?;
        if columns != self.shape.columns {
            bail!("rows of {columns} numbers by a matrix of {}", self.shape.columns);
        }
        match self.shape.format.layout() {
            Some(_) => {
                activations.rounded()?.apply_op2_no_bwd(&self.lines, &MultiplyRounded(self.shape, rows))
            }
            None => activations.rows.apply_op2_no_bwd(&self.lines, &MultiplyFloats(self.shape)),
        }
    }

    /// Memory of the device that it takes.
    pub fn size_bytes(&self) -> u64 {
        (self.lines.elem_count() * DType::U32.size_in_bytes()) as u64
    }
}

/// Rows in eight bits, in tiles.
struct RoundRows;

impl CustomOp1 for RoundRows {
    fn name(&self) -> &'static str {
        "round-rows"
    }

    fn cpu_fwd(&self, rows: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let tiles = tiles::tiles(&Rows::rounded(layout.dims()[1], host::<f32>(rows, layout)?));
        let shape = tiles.len().into();
        Ok((CpuStorage::U32(tiles), shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        rows: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        super::launch::product::round_rows(rows, layout)
    }
}

/// Of so many rows that [`RoundRows`] made.
struct MultiplyRounded(PanelShape, usize);

impl CustomOp2 for MultiplyRounded {
    fn name(&self) -> &'static str {
        "multiply-rounded"
    }

    fn cpu_fwd(
        &self,
        tiles: &CpuStorage,
        tiles_layout: &Layout,
        lines: &CpuStorage,
        lines_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let Self(shape, count) = *self;
        let rows = tiles::rows(host(tiles, tiles_layout)?, count, shape.columns);
        multiply_as_the_cpu(shape, host(lines, lines_layout)?, &rows)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        tiles: &candle_core::CudaStorage,
        tiles_layout: &Layout,
        lines: &candle_core::CudaStorage,
        lines_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let Self(shape, count) = *self;
        super::launch::product::multiply_rounded(shape, count, (tiles, tiles_layout), (lines, lines_layout))
    }
}

struct MultiplyFloats(PanelShape);

impl CustomOp2 for MultiplyFloats {
    fn name(&self) -> &'static str {
        "multiply-floats"
    }

    fn cpu_fwd(
        &self,
        rows: &CpuStorage,
        rows_layout: &Layout,
        lines: &CpuStorage,
        lines_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let rows = Rows::rounded(self.0.columns, host(rows, rows_layout)?);
        multiply_as_the_cpu(self.0, host(lines, lines_layout)?, &rows)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        rows: &candle_core::CudaStorage,
        rows_layout: &Layout,
        lines: &candle_core::CudaStorage,
        lines_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        super::launch::product::multiply_floats(self.0, (rows, rows_layout), (lines, lines_layout))
    }
}

fn multiply_as_the_cpu(shape: PanelShape, lines: &[u32], rows: &Rows) -> Result<(CpuStorage, Shape)> {
    let PanelShape { format, outputs, columns } = shape;
    let matrix = Matrix::from_lines(format, outputs, columns, lines.as_chunks().0)?;
    let mut out = vec![0.0; rows.count() * outputs];
    matmul(&Pool::new(1)?, rows, &[Product { matrix: &matrix, column: 0 }], &mut out, outputs);
    Ok((CpuStorage::F32(out), (rows.count(), outputs).into()))
}
