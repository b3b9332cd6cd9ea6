//! Rows in eight bits as `quantized.cu` has them: `[tiles of 8 rows][blocks]`, each the words of all its rows, and then for each row the
//! block's scale, that times the sum of its quants, and the sums of both halves of them.

use super::tiles::TILE_ROWS;
use crate::Rows;
use crate::format::GROUPS;

const OF_ROW: usize = 4;
/// Words of a tile's block.
pub(super) const BLOCK_WORDS: usize = TILE_ROWS * (GROUPS + OF_ROW);

/// Where a row's words of a block and the rest of it begin.
fn places(blocks: usize, row: usize, block: usize) -> (usize, usize) {
    let tile = (row / TILE_ROWS * blocks + block) * BLOCK_WORDS;
    let of_tile = row % TILE_ROWS;
    (tile + of_tile * GROUPS, tile + TILE_ROWS * GROUPS + of_tile * OF_ROW)
}

pub(super) fn put(rows: &Rows, tiles: &mut [u32]) {
    let blocks = rows.blocks();
    for (index, words) in rows.words.chunks_exact(GROUPS).enumerate() {
        let (at, rest) = places(blocks, index / blocks, index % blocks);
        let (scale, sums) = (rows.scales[index], rows.sums[index]);
        let taken = scale * (sums[0] + sums[1]) as f32;
        tiles[at..][..GROUPS].copy_from_slice(words);
        let sums = sums.map(i32::cast_unsigned);
        tiles[rest..][..OF_ROW].copy_from_slice(&[scale.to_bits(), taken.to_bits(), sums[0], sums[1]]);
    }
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
