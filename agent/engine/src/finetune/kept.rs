//! What waits for the way back, in 32 bits or in 16.

use half::bf16;
use half::slice::HalfFloatSliceExt;
use llmdeck_kernels::Pool;

/// Numbers that a thread converts at a time.
const CHUNK: usize = 1 << 14;

/// Numbers that were computed on the way forwards.
pub(crate) enum Kept {
    Full(Vec<f32>),
    /// Rounded to the nearest.
    Half(Vec<bf16>),
}

impl Kept {
    pub(crate) fn new(in_bf16: bool) -> Self {
        if in_bf16 { Self::Half(Vec::new()) } else { Self::Full(Vec::new()) }
    }

    /// Keeps these instead of those that are here; their counts say how to part them again.
    pub(crate) fn keep<'a>(&mut self, pool: &Pool, parts: impl Iterator<Item = &'a [f32]> + Clone) {
        let count = parts.clone().map(<[f32]>::len).sum();
        match self {
            Self::Full(kept) => {
                kept.clear();
                parts.for_each(|part| kept.extend_from_slice(part));
            }
            Self::Half(kept) => {
                kept.resize(count, bf16::ZERO);
                let mut rest = kept.as_mut_slice();
                let mut chunks = Vec::new();
                for part in parts {
                    let (own, behind) = rest.split_at_mut(part.len());
                    chunks.extend(own.chunks_mut(CHUNK).zip(part.chunks(CHUNK)));
                    rest = behind;
                }
                pool.run_each(&mut chunks, |(kept, numbers)| kept.convert_from_f32_slice(numbers));
            }
        }
    }

    /// Puts them back into parts of the same counts.
    pub(crate) fn restore<'a>(&'a self, pool: &Pool, parts: impl Iterator<Item = &'a mut [f32]>) {
        match self {
            Self::Full(kept) => {
                let mut rest = kept.as_slice();
                for part in parts {
                    let (own, behind) = rest.split_at(part.len());
                    part.copy_from_slice(own);
                    rest = behind;
                }
            }
            Self::Half(kept) => {
                let mut rest = kept.as_slice();
                let mut chunks = Vec::new();
                for part in parts {
                    let (own, behind) = rest.split_at(part.len());
                    chunks.extend(part.chunks_mut(CHUNK).zip(own.chunks(CHUNK)));
                    rest = behind;
                }
                pool.run_each(&mut chunks, |(numbers, kept)| kept.convert_to_f32_slice(numbers));
            }
        }
    }
}
