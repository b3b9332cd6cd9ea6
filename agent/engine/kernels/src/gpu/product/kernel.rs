//! Which kernel of `quantized.cu` or `floats.cu` takes a product, and its grid of thread blocks. For a row, all of a format give the
//! same bits.

use super::split;
use super::tiles::{TILE_ROWS, Tiles};
use crate::line::PANEL_ROWS;

/// As `panels.cuh` has them.
const WARPS: usize = 8;
pub(in super::super) const THREADS: usize = WARPS * 32;

/// Of `quantized.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum QuantizedKernel {
    Few1,
    Few2,
    Few4,
    Many4,
}

impl QuantizedKernel {
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

/// Of `floats.cu`: how many panels and tiles a thread block has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct FloatsKernel {
    pub(in super::super) panels: usize,
    pub(in super::super) tiles: usize,
}

impl FloatsKernel {
    /// Ordered by the rows that they are for.
    pub(super) const ALL: [Self; 5] =
        [Self::new(1, 1), Self::new(1, 2), Self::new(1, 4), Self::new(1, 8), Self::new(4, 8)];

    const fn new(panels: usize, tiles: usize) -> Self {
        Self { panels, tiles }
    }

    #[cfg(feature = "cuda")]
    pub(in super::super) fn of(rows: usize) -> Self {
        let [few @ .., many] = Self::ALL;
        few.into_iter().find(|kernel| rows <= kernel.tiles * TILE_ROWS).unwrap_or(many)
    }

    pub(in super::super) fn grid(self, outputs: usize, rows: usize) -> [usize; 2] {
        let panels = outputs.div_ceil(PANEL_ROWS);
        [rows.div_ceil(self.tiles * TILE_ROWS), panels.div_ceil(self.panels)]
    }
}

/// That of making tiles: a warp rounds a block, a thread splits two numbers.
pub(in super::super) fn tiles_grid(tiles: Tiles, rows: usize, columns: usize) -> [usize; 2] {
    let blocks = rows.next_multiple_of(TILE_ROWS) * tiles.blocks(columns);
    match tiles {
        Tiles::Rounded => [blocks.div_ceil(WARPS), 1],
        Tiles::Split => [(blocks * split::WORDS).div_ceil(THREADS), 1],
    }
}
