//! Rows as `floats.cu` has them: `[tiles of 8 rows][blocks of 16 numbers]`, each a number as the sum of two of bfloat16. A block has the
//! nearest ones of all its rows, two to a word, and then those nearest to what is left.

use half::bf16;

use super::tiles::TILE_ROWS;

/// Numbers that the tensor cores take at a time.
const BLOCK: usize = 16;
/// Words of a block of a row, of one kind.
pub(super) const WORDS: usize = BLOCK / 2;
/// Words of a tile's block.
pub(super) const BLOCK_WORDS: usize = 2 * TILE_ROWS * WORDS;

pub(super) fn blocks(columns: usize) -> usize {
    columns.div_ceil(BLOCK)
}

/// Where the word with a number is, and the bits of it that are before.
fn place(columns: usize, row: usize, column: usize) -> (usize, u32) {
    let tile = (row / TILE_ROWS * blocks(columns) + column / BLOCK) * BLOCK_WORDS;
    let word = row % TILE_ROWS * WORDS + column % BLOCK / 2;
    (tile + word, if column.is_multiple_of(2) { 0 } else { 16 })
}

pub(super) fn put(numbers: &[f32], columns: usize, tiles: &mut [u32]) {
    for (row, numbers) in numbers.chunks_exact(columns.max(1)).enumerate() {
        for (column, number) in numbers.iter().enumerate() {
            let nearest = bf16::from_f32(*number);
            let rest = bf16::from_f32(number - nearest.to_f32());
            let (at, before) = place(columns, row, column);
            tiles[at] |= u32::from(nearest.to_bits()) << before;
            tiles[at + TILE_ROWS * WORDS] |= u32::from(rest.to_bits()) << before;
        }
    }
}

/// The sums, `[count, columns]`.
pub(super) fn numbers(tiles: &[u32], count: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; count * columns];
    for (row, numbers) in out.chunks_exact_mut(columns.max(1)).enumerate() {
        for (column, number) in numbers.iter_mut().enumerate() {
            let (at, before) = place(columns, row, column);
            let part = |word: u32| bf16::from_bits((word >> before) as u16).to_f32();
            *number = part(tiles[at]) + part(tiles[at + TILE_ROWS * WORDS]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tiles::Tiles;
    use super::numbers;

    proptest! {
        #[test]
        fn two_parts_keep_sixteen_bits_of_a_number(
            rows in prop::collection::vec(-1e6f32..1e6, 1..60), columns in 1usize..20,
        ) {
            let count = rows.len() / columns;
            let rows = &rows[..count * columns];
            for (number, kept) in rows.iter().zip(numbers(&Tiles::Split.make(rows, columns), count, columns)) {
                prop_assert!((number - kept).abs() <= number.abs() / f32::from(1u16 << 15) / 4.0, "{} {}", number, kept);
            }
        }
    }
}
