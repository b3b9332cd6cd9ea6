use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape};

use super::PanelShape;
use super::tiles::Tiles;
use crate::gpu::host;
use crate::{Matrix, Pool, Product, matmul};

/// Tiles of rows.
pub(super) struct MakeTiles(pub(super) Tiles);

impl CustomOp1 for MakeTiles {
    fn name(&self) -> &'static str {
        "make-tiles"
    }

    fn cpu_fwd(&self, rows: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let tiles = self.0.make(host(rows, layout)?, layout.dims()[1]);
        let shape = tiles.len().into();
        Ok((CpuStorage::U32(tiles), shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        rows: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        crate::gpu::launch::product::make_tiles(self.0, (rows, layout))
    }
}

/// Of so many rows that [`MakeTiles`] made.
pub(super) struct MultiplyTiles(pub(super) PanelShape, pub(super) usize);

impl CustomOp2 for MultiplyTiles {
    fn name(&self) -> &'static str {
        "multiply-tiles"
    }

    fn cpu_fwd(
        &self,
        tiles: &CpuStorage,
        tiles_layout: &Layout,
        lines: &CpuStorage,
        lines_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let Self(PanelShape { format, outputs, columns }, count) = *self;
        let rows = Tiles::of(format).rows(host(tiles, tiles_layout)?, count, columns);
        let lines = host(lines, lines_layout)?.as_chunks().0;
        let matrix = Matrix::from_lines(format, outputs, columns, lines)?;
        let mut out = vec![0.0; count * outputs];
        matmul(&Pool::new(1)?, &rows, &[Product { matrix: &matrix, column: 0 }], &mut out, outputs);
        Ok((CpuStorage::F32(out), (count, outputs).into()))
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
        crate::gpu::launch::product::multiply_tiles(
            shape,
            count,
            (tiles, tiles_layout),
            (lines, lines_layout),
        )
    }
}
