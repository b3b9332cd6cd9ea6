use std::ops::Range;

use crate::format::{GROUPS, Layout};
use crate::{Pool, Rows};

/// Words of a block in a tile, by row of the tile: its quants, its scale, and what takes minimums and offsets of the weights off
/// again. They are multiplied here once, and not by every panel.
pub(super) const BLOCK_WORDS: usize = GROUPS + 7;
pub(super) const SCALE: usize = GROUPS;
/// Minus the sum of the quants, times the scale.
pub(super) const MINUS_SCALED_SUM: usize = GROUPS + 1;
const MINUS_8_SUMS: usize = GROUPS + 2;
const MINUS_16_SUMS: usize = GROUPS + 3;
const MINUS_128_SUMS: usize = GROUPS + 4;
/// Of both halves.
const MINUS_32_HALF_SUMS: usize = GROUPS + 5;

/// The word with which products begin, so that what the weights' offset adds is off at the end: of a block, or of a half where halves
/// have scales of their own.
pub(super) const fn offset_word(layout: Layout, half: usize) -> usize {
    match layout.offset {
        8 => MINUS_8_SUMS,
        16 => MINUS_16_SUMS,
        32 => MINUS_32_HALF_SUMS + half,
        128 => MINUS_128_SUMS,
        _ => panic!("no word is of this offset"),
    }
}

/// Most rows that a kernel takes at once: sums and products of so many fill the registers of the widest.
const MOST_ROWS: usize = 12;

/// A few rows, laid out so that a kernel reads them in one stream: `[blocks, BLOCK_WORDS, count]`.
pub(super) struct RowTile {
    pub(super) row: usize,
    pub(super) count: usize,
    pub(super) words: Vec<u32>,
}

/// Cuts rows, but for those `without`, into as few tiles as can be: each reads all weights.
pub(super) fn tiles(pool: &Pool, rows: &Rows, packed: bool, without: &[Range<usize>]) -> Vec<RowTile> {
    let mut tiles = Vec::new();
    let mut row = 0;
    for next in without.iter().chain([&(rows.count()..rows.count())]) {
        while row < next.start {
            let count = (next.start - row).min(MOST_ROWS);
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

/// What is done with a tile, compiled for each number of rows.
pub(super) trait OfTile {
    fn of_tile<const M: usize>(&self, tile: &RowTile);
}

pub(super) fn for_each_tile(tiles: &[RowTile], work: &impl OfTile) {
    for tile in tiles {
        match tile.count {
            1 => work.of_tile::<1>(tile),
            2 => work.of_tile::<2>(tile),
            3 => work.of_tile::<3>(tile),
            4 => work.of_tile::<4>(tile),
            5 => work.of_tile::<5>(tile),
            6 => work.of_tile::<6>(tile),
            7 => work.of_tile::<7>(tile),
            8 => work.of_tile::<8>(tile),
            9 => work.of_tile::<9>(tile),
            10 => work.of_tile::<10>(tile),
            11 => work.of_tile::<11>(tile),
            _ => work.of_tile::<MOST_ROWS>(tile),
        }
    }
}

fn pack(rows: &Rows, row: usize, count: usize) -> Vec<u32> {
    let blocks = rows.blocks();
    let mut words = vec![0; blocks * BLOCK_WORDS * count];
    for (block, place) in words.chunks_exact_mut(BLOCK_WORDS * count).enumerate() {
        for index in 0..count {
            let block = words_of(rows, (row + index) * blocks + block);
            for (of_rows, word) in place.chunks_exact_mut(count).zip(block) {
                of_rows[index] = word;
            }
        }
    }
    words
}

/// Of a block, counted through all rows.
fn words_of(rows: &Rows, block: usize) -> [u32; BLOCK_WORDS] {
    let mut words = [0; BLOCK_WORDS];
    words[..GROUPS].copy_from_slice(&rows.words[block * GROUPS..][..GROUPS]);
    let (scale, [first, second]) = (rows.scales[block], rows.sums[block]);
    let sum = first + second;
    words[SCALE] = scale.to_bits();
    words[MINUS_SCALED_SUM] = (scale * -sum as f32).to_bits();
    words[MINUS_8_SUMS] = (-8 * sum).cast_unsigned();
    words[MINUS_16_SUMS] = (-16 * sum).cast_unsigned();
    words[MINUS_128_SUMS] = (-128 * sum).cast_unsigned();
    words[MINUS_32_HALF_SUMS] = (-32 * first).cast_unsigned();
    words[MINUS_32_HALF_SUMS + 1] = (-32 * second).cast_unsigned();
    words
}
