//! Rows as the tensor cores take them, in tiles of eight.

use super::{rounded, split};
use crate::{Rows, WeightFormat};

/// Rows that the tensor cores take at a time, as `panels.cuh` has them.
pub(super) const TILE_ROWS: usize = 8;

/// What is made of a row's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Tiles {
    /// Eight bits and a scale for each 32, for quantized weights.
    Rounded,
    /// Two numbers of bfloat16 each, for weights in floating point.
    Split,
}

impl Tiles {
    pub(in super::super) fn of(format: WeightFormat) -> Self {
        if format.layout().is_some() { Self::Rounded } else { Self::Split }
    }

    /// Blocks of a row of so many numbers.
    pub(in super::super) fn blocks(self, columns: usize) -> usize {
        match self {
            Self::Rounded => Rows::blocks_of(columns),
            Self::Split => split::blocks(columns),
        }
    }

    /// Words that so many rows of so many numbers take.
    pub(in super::super) fn words(self, rows: usize, columns: usize) -> usize {
        let block_words = match self {
            Self::Rounded => rounded::BLOCK_WORDS,
            Self::Split => split::BLOCK_WORDS,
        };
        rows.div_ceil(TILE_ROWS) * self.blocks(columns) * block_words
    }

    /// Those of numbers, row by row.
    pub(super) fn make(self, numbers: &[f32], columns: usize) -> Vec<u32> {
        let mut tiles = vec![0; self.words(numbers.len() / columns.max(1), columns)];
        match self {
            Self::Rounded => rounded::put(&Rows::rounded(columns, numbers), &mut tiles),
            Self::Split => split::put(numbers, columns, &mut tiles),
        }
        tiles
    }

    /// The rows that they stand for, of which a product of their kind reads what it needs.
    pub(super) fn rows(self, tiles: &[u32], count: usize, columns: usize) -> Rows {
        match self {
            Self::Rounded => rounded::rows(tiles, count, columns),
            Self::Split => Rows::rounded(columns, &split::numbers(tiles, count, columns)),
        }
    }
}
