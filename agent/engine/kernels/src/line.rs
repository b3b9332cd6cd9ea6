/// Rows of a matrix that are laid out together.
pub(crate) const PANEL_ROWS: usize = 16;

/// What one vector register holds: a word for each of the rows of a panel, or 32 halves, or 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u32; PANEL_ROWS]);

impl Line {
    /// All words of some lines, one line after the other.
    pub(crate) fn words(lines: &[Self]) -> &[u32] {
        // SAFETY: a line is its words and nothing else.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * PANEL_ROWS) }
    }

    pub(crate) fn half(&self, index: usize) -> u16 {
        (self.0[index / 2] >> (16 * (index % 2))) as u16
    }

    pub(crate) fn set_half(&mut self, index: usize, value: u16) {
        let shift = 16 * (index % 2);
        self.0[index / 2] = self.0[index / 2] & !(0xffff << shift) | u32::from(value) << shift;
    }

    pub(crate) fn byte(&self, index: usize) -> u8 {
        (self.0[index / 4] >> (8 * (index % 4))) as u8
    }

    pub(crate) fn set_byte(&mut self, index: usize, value: u8) {
        let shift = 8 * (index % 4);
        self.0[index / 4] = self.0[index / 4] & !(0xff << shift) | u32::from(value) << shift;
    }
}
