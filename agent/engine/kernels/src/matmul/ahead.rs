use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use crate::line::Line;

/// A page.
const AHEAD: usize = 64;

/// Begins to fetch as many lines of what is read a little later. Processors that do so by themselves stop where a page ends.
#[inline(always)]
pub(super) fn fetch_ahead(lines: *const Line, count: usize) {
    for line in 0..count {
        // SAFETY: it changes nothing but caches, whatever the address is.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(lines.wrapping_add(AHEAD + line).cast()) };
    }
}
