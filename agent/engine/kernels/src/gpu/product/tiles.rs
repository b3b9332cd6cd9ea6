//! Rows in eight bits as `product.cu` has them: `[tiles of 8 rows][blocks]`, each the words of all its rows, and then for each row the
//! block's scale, that times the sum of its quants, and the sums of both halves of them.

use crate::Rows;
use crate::format::GROUPS;

pub(super) const TILE_ROWS: usize = 8;
const OF_ROW: usize = 4;
/// Words of a tile's block.
const BLOCK_WORDS: usize = TILE_ROWS * (GROUPS + OF_ROW);

/// Words that so many rows of so many numbers take.
pub(in super::super) fn words_for(rows: usize, columns: usize) -> usize {
    rows.div_ceil(TILE_ROWS) * Rows::blocks_of(columns) * BLOCK_WORDS
}

/// Where a row's words of a block and the rest of it begin.
fn places(blocks: usize, row: usize, block: usize) -> (usize, usize) {
    let tile = (row / TILE_ROWS * blocks + block) * BLOCK_WORDS;
    let of_tile = row % TILE_ROWS;
    (tile + of_tile * GROUPS, tile + TILE_ROWS * GROUPS + of_tile * OF_ROW)
}

pub(super) fn tiles(rows: &Rows) -> Vec<u32> {
    let blocks = rows.blocks();
    let mut out = vec![0; words_for(rows.count(), rows.columns())];
    for (index, words) in rows.words.chunks_exact(GROUPS).enumerate() {
        let (at, rest) = places(blocks, index / blocks, index % blocks);
        let (scale, sums) = (rows.scales[index], rows.sums[index]);
        let taken = scale * (sums[0] + sums[1]) as f32;
        out[at..][..GROUPS].copy_from_slice(words);
        let sums = sums.map(i32::cast_unsigned);
        out[rest..][..OF_ROW].copy_from_slice(&[scale.to_bits(), taken.to_bits(), sums[0], sums[1]]);
    }
    out
}

/// Rows without floats.
pub(super) fn rows(tiles: &[u32], count: usize, columns: usize) -> Rows {
    let mut rows = Rows::default();
    rows.reshape(count, columns);
    let blocks = rows.blocks();
    for (index, words) in rows.words.chunks_exact_mut(GROUPS).enumerate() {
        let (at, rest) = places(blocks, index / blocks, index % blocks);
        words.copy_from_slice(&tiles[at..][..GROUPS]);
        rows.scales[index] = f32::from_bits(tiles[rest]);
        rows.sums[index] = [tiles[rest + 2], tiles[rest + 3]].map(u32::cast_signed);
    }
    rows
}
