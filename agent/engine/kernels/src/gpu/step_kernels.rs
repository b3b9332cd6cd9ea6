//! Grids of thread blocks of the kernels of `step.cu`, and which of those of attention takes a step.

use super::attention::Attend;
#[cfg(feature = "cuda")]
use crate::attention::CacheFormat;

/// As `step.cu` has them.
pub(super) const THREADS: usize = 128;
const WARPS: usize = THREADS / 32;
/// Heads that a thread block takes, largest last.
const GROUPS: [usize; 4] = [1, 2, 4, 8];

/// Of a kernel whose warps have a head each.
pub(super) fn heads_grid(heads: usize) -> [usize; 3] {
    [heads.div_ceil(WARPS), 1, 1]
}

/// Of a kernel whose threads have a number each.
pub(super) fn numbers_grid(numbers: usize) -> [usize; 3] {
    [numbers.div_ceil(THREADS), 1, 1]
}

/// Of a kernel whose blocks have a row each.
pub(super) fn rows_grid(rows: usize) -> [usize; 3] {
    [rows, 1, 1]
}

/// Of the kernel that joins what the parts of a row gave.
pub(super) fn join_grid(rows: usize, heads: usize) -> [usize; 3] {
    [rows, heads, 1]
}

/// As `step.cu` calls it.
#[cfg(feature = "cuda")]
pub(super) fn cache_name(format: CacheFormat) -> &'static str {
    match format {
        CacheFormat::F16 => "F16",
        CacheFormat::Bf16 => "BF16",
        CacheFormat::Int8 => "INT8",
    }
}

/// Attention for so many of the heads that share their keys.
#[derive(Clone, Copy)]
pub(super) struct AttendKernel {
    pub(super) heads: usize,
}

impl AttendKernel {
    /// The smallest that takes a whole group, or the largest.
    pub(super) fn of(op: &Attend) -> Self {
        let largest = GROUPS[GROUPS.len() - 1];
        Self { heads: GROUPS.into_iter().find(|heads| *heads >= op.group()).unwrap_or(largest) }
    }

    pub(super) fn grid(self, op: &Attend, rows: usize) -> [usize; 3] {
        [rows, op.store.kv_heads * op.group().div_ceil(self.heads), op.parts]
    }
}
