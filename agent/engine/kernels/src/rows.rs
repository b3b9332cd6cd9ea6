use std::ops::Range;

use crate::bfloat16_rows::{Bfloat16Row, Bfloat16Rows, BlocksMut, round as round_to_bfloat16};
use crate::format::{BLOCK, GROUPS};
use crate::pool::SendPointer;
use crate::quantize::quantize;
use crate::{Isa, Pool};

/// The rows that a matrix is multiplied with: as floats, and in eight bits with a scale for each 32 numbers, or in bfloat16.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    count: usize,
    columns: usize,
    blocks: usize,
    floats: Vec<f32>,
    pub(crate) bfloat16: Bfloat16Rows,
    /// `[count, blocks, 8]`, four numbers to a word.
    pub(crate) words: Vec<u32>,
    /// `[count, blocks]`
    pub(crate) scales: Vec<f32>,
    /// `[count, blocks, 2]`: sums of the quants of each half block.
    pub(crate) sums: Vec<[i32; 2]>,
}

/// Blocks are padded to the longest unit of any format.
const UNIT_BLOCKS: usize = 8;

fn padded_blocks(columns: usize) -> usize {
    columns.div_ceil(BLOCK * UNIT_BLOCKS) * UNIT_BLOCKS
}

/// Where nothing asks for bfloat16, nothing is kept for it.
fn most_in_bfloat16(rows: usize) -> usize {
    if Isa::widest().bfloat16_is_fast() { rows } else { 0 }
}

impl Rows {
    /// Room for `count` rows of `columns`, without rows yet.
    ///
    /// # Errors
    /// When the system has not so much memory.
    pub fn with_room(count: usize, columns: usize) -> std::io::Result<Self> {
        let mut rows = Self::default();
        let blocks = count.saturating_mul(padded_blocks(columns));
        let reserved = rows
            .floats
            .try_reserve_exact(count.saturating_mul(columns))
            .and_then(|()| rows.words.try_reserve_exact(blocks.saturating_mul(GROUPS)))
            .and_then(|()| rows.scales.try_reserve_exact(blocks))
            .and_then(|()| rows.sums.try_reserve_exact(blocks))
            .and_then(|()| rows.bfloat16.reserve_exact(most_in_bfloat16(count), columns));
        reserved.map_err(|error| std::io::Error::new(std::io::ErrorKind::OutOfMemory, error))?;
        Ok(rows)
    }

    /// Takes the pages of its room from the system, which else come when they are first written.
    pub fn touch(&mut self) {
        self.floats.resize(self.floats.capacity(), 0.0);
        self.words.resize(self.words.capacity(), 0);
        self.scales.resize(self.scales.capacity(), 0.0);
        self.sums.resize(self.sums.capacity(), [0; 2]);
        self.bfloat16.touch();
        self.reshape(0, self.columns);
    }

    /// Bytes that [`Rows::with_room`] asks for.
    pub fn bytes_for(count: usize, columns: usize) -> u64 {
        let block = GROUPS * size_of::<u32>() + size_of::<f32>() + size_of::<[i32; 2]>();
        let row = columns * size_of::<f32>() + padded_blocks(columns) * block;
        let bfloat16 = Bfloat16Rows::bytes_for(most_in_bfloat16(count), columns);
        (count as u64).saturating_mul(row as u64).saturating_add(bfloat16)
    }

    /// Bytes that are reserved.
    pub fn size_bytes(&self) -> u64 {
        let bytes = self.floats.capacity() * size_of::<f32>()
            + self.words.capacity() * size_of::<u32>()
            + self.scales.capacity() * size_of::<f32>()
            + self.sums.capacity() * size_of::<[i32; 2]>()
            + self.bfloat16.size_bytes();
        bytes as u64
    }

    /// Sets the shape; what rows hold is then unspecified until they are written, and none asks for bfloat16.
    pub fn reshape(&mut self, count: usize, columns: usize) {
        (self.count, self.columns) = (count, columns);
        self.bfloat16.ask(&[], columns);
        self.blocks = padded_blocks(columns);
        self.floats.resize(count * columns, 0.0);
        self.words.resize(count * self.blocks * GROUPS, 0);
        self.scales.resize(count * self.blocks, 0.0);
        self.sums.resize(count * self.blocks, [0; 2]);
    }

    /// Rows.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Numbers in a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Blocks of a row of so many numbers, with those behind it that are zero.
    pub(crate) fn blocks_of(columns: usize) -> usize {
        padded_blocks(columns)
    }

    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Rows of floats that are rounded.
    pub(crate) fn rounded(columns: usize, floats: &[f32]) -> Self {
        let mut rows = Self::default();
        rows.reshape(floats.len() / columns.max(1), columns);
        for (mut row, floats) in rows.each().into_iter().zip(floats.chunks_exact(columns.max(1))) {
            row.floats.copy_from_slice(floats);
            row.round();
        }
        rows
    }

    /// The numbers, `[count, columns]`.
    pub fn floats(&self) -> &[f32] {
        &self.floats
    }

    /// Asks for products of bfloat16 for these rows, where weights have them ([`crate::WeightFormat::has_bfloat16_products`]).
    ///
    /// # Panics
    /// When they are not in order, or not of the shape: that is a bug of the caller.
    pub fn ask_for_bfloat16(&mut self, rows: &[Range<usize>]) {
        let mut end = 0;
        for range in rows {
            assert!(end <= range.start && range.start <= range.end && range.end <= self.count);
            end = range.end;
        }
        self.bfloat16.ask(rows, self.columns);
    }

    /// The numbers, and the blocks of rows that ask for bfloat16, for tasks that write both apart from each other.
    pub(crate) fn floats_and_blocks(&mut self) -> (SendPointer<f32>, BlocksMut<'_>) {
        (SendPointer(self.floats.as_mut_ptr()), self.bfloat16.blocks_mut())
    }

    /// Rounds the numbers of those rows.
    pub(crate) fn round(&mut self, pool: &Pool, those: impl Fn(&RowMut<'_>) -> bool) {
        let mut rows: Vec<_> = self.each().into_iter().filter(those).collect();
        if rows.len() < LEAST_SHARED_ROWS {
            rows.iter_mut().for_each(RowMut::round);
        } else {
            pool.run_each(&mut rows, RowMut::round);
        }
    }

    /// Every row for writing, each apart from the others.
    pub fn each(&mut self) -> Vec<RowMut<'_>> {
        let (columns, blocks) = (self.columns.max(1), self.blocks.max(1));
        self.floats
            .chunks_exact_mut(columns)
            .zip(self.words.chunks_exact_mut(blocks * GROUPS))
            .zip(self.scales.chunks_exact_mut(blocks).zip(self.sums.chunks_exact_mut(blocks)))
            .zip(self.bfloat16.each(self.count))
            .map(|(((floats, words), (scales, sums)), bfloat16)| RowMut {
                floats,
                words,
                scales,
                sums,
                bfloat16,
            })
            .collect()
    }
}

/// Rows below which one thread rounds them faster than several.
const LEAST_SHARED_ROWS: usize = 8;

/// One row of [`Rows`].
pub struct RowMut<'a> {
    /// The numbers; [`RowMut::round`] when they are set.
    pub floats: &'a mut [f32],
    words: &'a mut [u32],
    scales: &'a mut [f32],
    sums: &'a mut [[i32; 2]],
    bfloat16: Option<Bfloat16Row<'a>>,
}

impl RowMut<'_> {
    /// Whether it asks for bfloat16.
    pub fn asks_for_bfloat16(&self) -> bool {
        self.bfloat16.is_some()
    }

    /// Rounds the numbers to eight bits, or to bfloat16 if the row asks for it.
    pub fn round(&mut self) {
        match &mut self.bfloat16 {
            Some(row) => round_to_bfloat16(self.floats, row),
            None => quantize(self.floats, self.words, self.scales, self.sums),
        }
    }
}
