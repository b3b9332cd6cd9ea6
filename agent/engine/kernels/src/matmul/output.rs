use crate::line::PANEL_ROWS;
use crate::pool::SendPointer;

/// Where a product's numbers go: rows of `stride` numbers, of which each task writes its own columns.
pub(super) struct Output {
    pub(super) first: SendPointer<f32>,
    pub(super) stride: usize,
}

impl Output {
    /// Writes the first `count` numbers of each row, from `first_row` and `column` on.
    ///
    /// # Safety
    /// The places are there, and nobody else uses them.
    pub(super) unsafe fn put(
        &self,
        rows: &[[f32; PANEL_ROWS]],
        first_row: usize,
        column: usize,
        count: usize,
    ) {
        let places = (first_row..).map(|row| self.first.at(row * self.stride + column));
        // SAFETY: as the caller promises.
        unsafe {
            if count == PANEL_ROWS {
                for (row, place) in rows.iter().zip(places) {
                    place.cast::<[f32; PANEL_ROWS]>().write_unaligned(*row);
                }
            } else {
                for (row, place) in rows.iter().zip(places) {
                    std::ptr::copy_nonoverlapping(row.as_ptr(), place, count);
                }
            }
        }
    }
}
