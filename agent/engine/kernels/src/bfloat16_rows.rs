//! The rows that ask for products of bfloat16, laid out in tiles of 16.

use std::marker::PhantomData;
use std::ops::Range;

use crate::bfloat16::{Plain, Rounding};
use crate::format::BLOCK;
use crate::line::{Line, PANEL_ROWS};
use crate::pool::SendPointer;

/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = PANEL_ROWS;

/// Numbers of bfloat16, `[tiles, blocks, 16 rows]`, a block of 32 to a line: what a kernel reads together lies together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bfloat16Rows {
    /// Which rows of all, in order.
    asking: Vec<Range<usize>>,
    blocks: usize,
    lines: Vec<Line>,
}

impl Bfloat16Rows {
    pub(crate) fn reserve_exact(
        &mut self,
        count: usize,
        columns: usize,
    ) -> Result<(), std::collections::TryReserveError> {
        self.lines.try_reserve_exact(lines_for(count, columns))
    }

    pub(crate) fn touch(&mut self) {
        self.lines.resize(self.lines.capacity(), Line::default());
    }

    pub(crate) fn bytes_for(count: usize, columns: usize) -> u64 {
        (lines_for(count, columns) as u64).saturating_mul(size_of::<Line>() as u64)
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.lines.capacity() * size_of::<Line>()
    }

    /// What rows hold is unspecified until they are written.
    pub(crate) fn ask(&mut self, rows: &[Range<usize>], columns: usize) {
        self.asking.clear();
        self.asking.extend(rows.iter().filter(|range| !range.is_empty()).cloned());
        self.blocks = columns.div_ceil(BLOCK);
        let count = self.count();
        let lines = self.lines.len().max(lines_for(count, columns));
        self.lines.resize(lines, Line::default());
    }

    pub(crate) fn asking(&self) -> &[Range<usize>] {
        &self.asking
    }

    /// Rows that ask.
    pub(crate) fn count(&self) -> usize {
        self.asking.iter().map(ExactSizeIterator::len).sum()
    }

    /// Blocks `depth` of the rows of a tile.
    pub(crate) fn tile(&self, index: usize, depth: Range<usize>) -> &[Line] {
        &self.lines[index * self.blocks * TILE_ROWS..][depth.start * TILE_ROWS..depth.end * TILE_ROWS]
    }

    /// Where its blocks are, for tasks that write them apart from each other.
    pub(crate) fn blocks_mut(&mut self) -> BlocksMut<'_> {
        let count = self.count();
        let lines = SendPointer(self.lines.as_mut_ptr());
        BlocksMut { lines, count, blocks: self.blocks, rows: PhantomData }
    }

    /// Those of `count` rows that ask, each for writing; others as `None`.
    pub(crate) fn each(&mut self, count: usize) -> impl Iterator<Item = Option<Bfloat16Row<'_>>> {
        let Self { asking, blocks, lines } = self;
        let (mut asking, blocks) = (asking.as_slice(), *blocks);
        let mut rows = lines.chunks_exact_mut((blocks * TILE_ROWS).max(1)).flat_map(move |tile| {
            let first = tile.as_mut_ptr();
            (0..TILE_ROWS).map(move |row| Bfloat16Row {
                first: first.wrapping_add(row),
                blocks,
                lines: PhantomData,
            })
        });
        (0..count).map(move |row| {
            while asking.first().is_some_and(|range| range.end <= row) {
                asking = &asking[1..];
            }
            let asks = asking.first().is_some_and(|range| range.start <= row);
            if asks { rows.next() } else { None }
        })
    }
}

/// The blocks of all rows that ask.
pub(crate) struct BlocksMut<'a> {
    lines: SendPointer<Line>,
    /// Rows that ask.
    count: usize,
    /// Blocks of a row.
    blocks: usize,
    rows: PhantomData<&'a mut [Line]>,
}

impl BlocksMut<'_> {
    /// Rows that ask.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Rounds numbers to blocks of one of the rows that ask, counted among these.
    ///
    /// # Safety
    /// As [`Self::put`].
    pub(crate) unsafe fn round(&self, row: usize, first_block: usize, numbers: &[f32]) {
        let mut lines = [Line::default(); 8];
        for (index, numbers) in numbers.as_chunks().0.chunks(lines.len()).enumerate() {
            round_blocks(numbers, &mut lines);
            for (block, line) in lines.iter().take(numbers.len()).enumerate() {
                // SAFETY: as the caller promises.
                unsafe {
                    self.put(row, first_block + index * lines.len() + block, std::slice::from_ref(line))
                };
            }
        }
    }

    /// Writes a block of some of the rows that ask, counted among these.
    ///
    /// # Panics
    /// When there are no such blocks: that is a bug of the caller.
    ///
    /// # Safety
    /// No other thread uses these blocks at the same time.
    pub(crate) unsafe fn put(&self, first_row: usize, block: usize, lines: &[Line]) {
        assert!(first_row + lines.len() <= self.count && block < self.blocks, "there are no such blocks");
        for (row, line) in (first_row..).zip(lines) {
            let (tile, row) = (row / TILE_ROWS, row % TILE_ROWS);
            // SAFETY: the block is there by the assertion, and nobody else has it, as the caller promises.
            unsafe { self.lines.at((tile * self.blocks + block) * TILE_ROWS + row).write(*line) };
        }
    }
}

fn lines_for(rows: usize, columns: usize) -> usize {
    rows.next_multiple_of(TILE_ROWS).saturating_mul(columns.div_ceil(BLOCK))
}

/// One row's lines, each 16 behind the one before.
pub(crate) struct Bfloat16Row<'a> {
    first: *mut Line,
    blocks: usize,
    lines: PhantomData<&'a mut Line>,
}

// SAFETY: it is the only one with its lines, like a reference to each of them.
unsafe impl Send for Bfloat16Row<'_> {}

/// Rounds numbers; what the last block has beyond them becomes zero.
///
/// # Panics
/// When there are more than the row has.
pub(crate) fn round(floats: &[f32], row: &mut Bfloat16Row<'_>) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
        fn avx512(floats: &[f32], row: &mut Bfloat16Row<'_>) {
            round_by::<crate::bfloat16::avx512::Register>(floats, row);
        }
        if crate::Isa::widest() == crate::Isa::Amx {
            // SAFETY: the machine has what the function needs; `widest` has looked.
            return unsafe { avx512(floats, row) };
        }
    }
    round_by::<Plain>(floats, row);
}

#[inline(always)]
fn round_by<R: Rounding>(floats: &[f32], row: &mut Bfloat16Row<'_>) {
    assert!(floats.len() <= row.blocks * BLOCK, "a row is longer than its place");
    for_each_block(floats, |index, block| {
        // SAFETY: the row has so many blocks, and no other row has lines of them.
        unsafe { row.first.add(index * TILE_ROWS).write(R::line(block)) };
    });
}

/// Rounds blocks.
pub(crate) fn round_blocks(blocks: &[[f32; BLOCK]], lines: &mut [Line]) {
    #[inline(always)]
    fn by<R: Rounding>(blocks: &[[f32; BLOCK]], lines: &mut [Line]) {
        for (block, line) in blocks.iter().zip(lines) {
            *line = R::line(block);
        }
    }
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
        fn avx512(blocks: &[[f32; BLOCK]], lines: &mut [Line]) {
            by::<crate::bfloat16::avx512::Register>(blocks, lines);
        }
        if crate::Isa::widest() == crate::Isa::Amx {
            // SAFETY: as above.
            return unsafe { avx512(blocks, lines) };
        }
    }
    by::<Plain>(blocks, lines);
}

/// Numbers in blocks of 32, with zeros behind the last.
#[inline(always)]
pub(crate) fn for_each_block(floats: &[f32], mut take: impl FnMut(usize, &[f32; BLOCK])) {
    let (blocks, rest) = floats.as_chunks::<BLOCK>();
    for (index, block) in blocks.iter().enumerate() {
        take(index, block);
    }
    if !rest.is_empty() {
        let mut last = [0.0; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        take(blocks.len(), &last);
    }
}
