use std::arch::x86_64::{__cpuid, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
use std::sync::OnceLock;

use crate::line::Line;

/// Lines from what is read to what is asked for: three quarters of a page.
const SHORTLY: usize = 48;
/// Two pages.
const EARLY: usize = 128;

/// How weights are asked for before they are read. Processors do so by themselves, but stop where a page ends, and not soon enough for
/// several rows.
#[derive(Clone, Copy)]
pub(super) enum Ahead {
    /// Into the first cache. AMD's: to ask the second for more makes it slower than not to ask at all (measured on Zen 4).
    Shortly,
    /// Into the second cache, which can wait for several times as many lines as the first. Intel's (measured on Sapphire Rapids).
    Early,
}

static HERE: OnceLock<Ahead> = OnceLock::new();

impl Ahead {
    /// What is quickest on this machine.
    pub(super) fn here() -> Self {
        *HERE.get_or_init(|| if is_of_amd() { Self::Shortly } else { Self::Early })
    }

    /// Begins to fetch as many lines of what is read a little later.
    #[inline(always)]
    pub(super) fn fetch(self, lines: *const Line, count: usize) {
        // SAFETY: it changes nothing but caches, whatever the address is.
        unsafe {
            match self {
                Self::Shortly => (0..count).for_each(|line| {
                    _mm_prefetch::<_MM_HINT_T0>(lines.wrapping_add(SHORTLY + line).cast());
                }),
                Self::Early => (0..count).for_each(|line| {
                    _mm_prefetch::<_MM_HINT_T1>(lines.wrapping_add(EARLY + line).cast());
                }),
            }
        }
    }
}

fn is_of_amd() -> bool {
    let leaf = __cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
}
