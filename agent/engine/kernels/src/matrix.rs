use std::cell::RefCell;

use crate::line::{Line, PANEL_ROWS};
use crate::zeroed::Zeroed;
use crate::{Pool, WeightFormat, large_pages, repack};

/// What one task reads and lays out, in panels and in bytes; at least one panel.
const MOST_PANELS_A_TASK: usize = 32;
const MOST_BYTES_A_TASK: usize = 1 << 20;

thread_local! {
    /// What a thread reads into, kept from task to task and from matrix to matrix: memory that is taken from the system and
    /// given back each time costs more than what is read into it.
    static SOURCE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Weights `[rows, columns]`, kept in their format and laid out in panels of 16 rows.
pub struct Matrix {
    format: WeightFormat,
    rows: usize,
    columns: usize,
    panel_lines: usize,
    lines: Zeroed<Line>,
}

impl Matrix {
    /// Reads a matrix as its file has it, row by row. `read` fills a buffer from a byte offset within the matrix, on any
    /// thread. Nothing but the panels outlives the call, and memory for a few rows is used beside them.
    ///
    /// # Errors
    /// The first that `read` gave, or that memory cannot be had. `columns` must fill the format's blocks, which
    /// [`WeightFormat::file_row_bytes`] checks.
    pub fn read<E: Send + From<std::io::Error>>(
        pool: &Pool,
        format: WeightFormat,
        rows: usize,
        columns: usize,
        read: impl Fn(u64, &mut [u8]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let row_bytes = format.file_row_bytes(columns).unwrap_or(0);
        let panel_lines = format.panel_lines(columns);
        let panels = rows.div_ceil(PANEL_ROWS);
        let panels_a_task =
            (MOST_BYTES_A_TASK / (PANEL_ROWS * row_bytes).max(1)).clamp(1, MOST_PANELS_A_TASK);
        let mut lines = Zeroed::new(panels.saturating_mul(panel_lines))?;
        let mut tasks: Vec<(usize, &mut [Line], Result<(), E>)> = lines
            .chunks_mut((panels_a_task * panel_lines).max(1))
            .enumerate()
            .map(|(index, lines)| (index * panels_a_task * PANEL_ROWS, lines, Ok(())))
            .collect();
        pool.run_each(&mut tasks, |(first_row, lines, outcome)| {
            let count = (rows - *first_row).min(panels_a_task * PANEL_ROWS);
            SOURCE.with_borrow_mut(|buffer| {
                buffer.resize(buffer.len().max(count * row_bytes), 0);
                let source = &mut buffer[..count * row_bytes];
                *outcome = read((*first_row * row_bytes) as u64, source);
                if outcome.is_ok() {
                    let sources = source.chunks((PANEL_ROWS * row_bytes).max(1));
                    for (source, panel) in sources.zip(lines.chunks_exact_mut(panel_lines)) {
                        repack::pack(format, columns, source, panel);
                    }
                }
            });
        });
        tasks.into_iter().try_for_each(|(_, _, outcome)| outcome)?;
        Ok(Self { format, rows, columns, panel_lines, lines })
    }

    /// A matrix from bytes in memory, as a file would have them.
    pub fn from_bytes(
        pool: &Pool,
        format: WeightFormat,
        rows: usize,
        columns: usize,
        bytes: &[u8],
    ) -> Option<Self> {
        let needed = format.file_row_bytes(columns)?.checked_mul(rows)?;
        let bytes = bytes.get(..needed)?;
        let read = |offset: u64, buffer: &mut [u8]| {
            buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]);
            Ok::<(), std::io::Error>(())
        };
        Self::read(pool, format, rows, columns, read).ok()
    }

    /// A matrix of lines that another had.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub(crate) fn from_lines(
        format: WeightFormat,
        rows: usize,
        columns: usize,
        words: &[[u32; PANEL_ROWS]],
    ) -> std::io::Result<Self> {
        let mut lines = Zeroed::<Line>::new(words.len())?;
        for (line, words) in lines.iter_mut().zip(words) {
            line.0 = *words;
        }
        Ok(Self { format, rows, columns, panel_lines: format.panel_lines(columns), lines })
    }

    /// Has the system move the `part`th 2 MiB of it into one page, which takes it a millisecond or some; false when there is no such part.
    pub fn gather_pages(&self, part: usize) -> bool {
        large_pages::gather(&self.lines, part)
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// How its numbers are stored.
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// Memory that a matrix takes, in bytes.
    pub fn bytes_for(format: WeightFormat, rows: usize, columns: usize) -> u64 {
        let lines = rows.div_ceil(PANEL_ROWS).saturating_mul(format.panel_lines(columns));
        (lines as u64).saturating_mul(size_of::<Line>() as u64)
    }

    /// Memory that it takes, in bytes.
    pub fn size_bytes(&self) -> u64 {
        (self.lines.len() * size_of::<Line>()) as u64
    }

    /// Writes one row as numbers; `out` has as many as there are columns. Without the row, `out` is all zero.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        match self.lines.chunks_exact(self.panel_lines.max(1)).nth(row / PANEL_ROWS) {
            Some(panel) if row < self.rows => {
                repack::unpack_row(self.format, panel, row % PANEL_ROWS, &mut out[..self.columns]);
            }
            _ => out.fill(0.0),
        }
    }

    pub(crate) fn lines(&self) -> &[Line] {
        &self.lines
    }

    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    pub(crate) fn panel(&self, index: usize) -> &[Line] {
        &self.lines[index * self.panel_lines..][..self.panel_lines]
    }
}
