//! Which kernel of `product.cu` takes a product of rounded rows, and its grid of thread blocks. All give the same bits.

use super::tiles::TILE_ROWS;
use crate::Rows;
use crate::line::PANEL_ROWS;

/// As `product.cu` has them.
const WARPS: usize = 8;
pub(in super::super) const THREADS: usize = WARPS * 32;
const THREADS_OF_FLOAT_PANEL: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum ProductKernel {
    Few1,
    Few2,
    Few4,
    Many4,
}

impl ProductKernel {
    #[cfg(all(test, feature = "cuda-on-host"))]
    pub(super) const ALL: [Self; 4] = [Self::Few1, Self::Few2, Self::Few4, Self::Many4];

    #[cfg(feature = "cuda")]
    pub(in super::super) fn of(rows: usize) -> Self {
        match rows.div_ceil(TILE_ROWS) {
            0 | 1 => Self::Few1,
            2 => Self::Few2,
            3 | 4 => Self::Few4,
            _ => Self::Many4,
        }
    }

    fn tiles(self) -> usize {
        match self {
            Self::Few1 => 1,
            Self::Few2 => 2,
            Self::Few4 | Self::Many4 => 4,
        }
    }

    pub(in super::super) fn grid(self, outputs: usize, rows: usize) -> [usize; 2] {
        let (panels, tiles) = (outputs.div_ceil(PANEL_ROWS), rows.div_ceil(self.tiles() * TILE_ROWS));
        match self {
            Self::Many4 => [tiles, panels.div_ceil(WARPS)],
            _ => [panels, tiles],
        }
    }
}

/// That of rounding rows, with those behind the last.
pub(in super::super) fn rounding_grid(rows: usize, columns: usize) -> [usize; 2] {
    [(rows.next_multiple_of(TILE_ROWS) * Rows::blocks_of(columns)).div_ceil(WARPS), 1]
}

/// That of a product of floats.
pub(in super::super) fn floats_grid(outputs: usize, rows: usize) -> [usize; 2] {
    let panels = outputs.div_ceil(PANEL_ROWS);
    [rows.div_ceil(TILE_ROWS), panels.div_ceil(THREADS / THREADS_OF_FLOAT_PANEL)]
}
