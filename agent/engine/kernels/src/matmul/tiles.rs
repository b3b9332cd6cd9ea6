use std::ops::Range;

use crate::format::GROUPS;
use crate::{Pool, Rows};

/// Words of a block in a tile, by row of the tile: its quants, its scale, and what takes an offset of the weights off again: minus
/// the sum of its quants, minus the sums of its halves.
pub(super) const BLOCK_WORDS: usize = GROUPS + 4;
pub(super) const SCALE: usize = GROUPS;
pub(super) const MINUS_SUM: usize = GROUPS + 1;
pub(super) const MINUS_HALF_SUMS: usize = GROUPS + 2;

/// Most rows that a kernel takes at once: sums and products of so many fill the registers of the widest.
const MOST_ROWS: usize = 12;

/// A few rows, laid out so that a kernel reads them in one stream: `[blocks, BLOCK_WORDS, count]`.
pub(super) struct RowTile {
    pub(super) row: usize,
    pub(super) count: usize,
    pub(super) words: Vec<u32>,
}

/// Cuts rows, but for those `without`, into tiles of twelve, and what is left into eight, four, two and one.
pub(super) fn tiles(pool: &Pool, rows: &Rows, packed: bool, without: &[Range<usize>]) -> Vec<RowTile> {
    let mut tiles = Vec::new();
    let mut row = 0;
    for next in without.iter().chain([&(rows.count()..rows.count())]) {
        while row < next.start {
            let left = next.start - row;
            let count = if left >= MOST_ROWS { MOST_ROWS } else { 1 << left.ilog2() };
            tiles.push(RowTile { row, count, words: Vec::new() });
            row += count;
        }
        row = next.end;
    }
    if packed {
        pool.run_each(&mut tiles, |tile| tile.words = pack(rows, tile.row, tile.count));
    }
    tiles
}

fn pack(rows: &Rows, row: usize, count: usize) -> Vec<u32> {
    let blocks = rows.blocks();
    let mut words = vec![0; blocks * BLOCK_WORDS * count];
    for (block, place) in words.chunks_exact_mut(BLOCK_WORDS * count).enumerate() {
        for index in 0..count {
            let at = (row + index) * blocks + block;
            for (group, word) in rows.words[at * GROUPS..][..GROUPS].iter().enumerate() {
                place[group * count + index] = *word;
            }
            let [first, second] = rows.sums[at];
            place[SCALE * count + index] = rows.scales[at].to_bits();
            place[MINUS_SUM * count + index] = (-(first + second)).cast_unsigned();
            place[MINUS_HALF_SUMS * count + index] = (-first).cast_unsigned();
            place[(MINUS_HALF_SUMS + 1) * count + index] = (-second).cast_unsigned();
        }
    }
    words
}
