use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use crate::line::Line;

/// Two pages.
const AHEAD: usize = 128;

/// Begins to fetch as many lines of what is read a little later. Processors that do so by themselves stop where a page ends. They come into
/// the second cache: it can wait for several times as many lines as the first, and more lines on their way are more bytes a second.
#[inline(always)]
pub(super) fn fetch_ahead(lines: *const Line, count: usize) {
    for line in 0..count {
        // SAFETY: it changes nothing but caches, whatever the address is.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(lines.wrapping_add(AHEAD + line).cast()) };
    }
}
