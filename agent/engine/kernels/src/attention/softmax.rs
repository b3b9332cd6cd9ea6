//! The online softmax of 32 rows, 64 tokens at a time.

use super::BLOCK_TOKENS;
use super::bfloat16::STEP;
use super::kernel::NOTHING_SEEN;
use crate::exp::exp;
use crate::matmul::bfloat16::SIDE;

/// Of each row: the largest score so far, and the sums of all weights in lanes.
pub(super) struct Softmax {
    peaks: [f32; SIDE],
    totals: [[f32; BLOCK_TOKENS]; SIDE],
}

impl Softmax {
    pub(super) const NEW: Self = Self { peaks: [NOTHING_SEEN; SIDE], totals: [[0.0; BLOCK_TOKENS]; SIDE] };

    /// Makes weights of the scores of tokens from `base` on, of which each row sees those from, to. `scales` are of the keys, where
    /// they have some. Returns by what the sums before shrink.
    #[inline(always)]
    pub(super) fn weigh(
        &mut self,
        scores: &mut [[f32; STEP]; SIDE],
        seen: &[(usize, usize)],
        base: usize,
        scales: Option<&[f32; STEP]>,
    ) -> [f32; SIDE] {
        let mut peaks = self.peaks;
        for ((scores, (from, to)), peak) in scores.iter_mut().zip(seen).zip(&mut peaks) {
            if let Some(scales) = scales {
                scores.iter_mut().zip(scales).for_each(|(score, scale)| *score *= scale);
            }
            if base < *from || base + STEP - 1 > *to {
                hide(scores, from.saturating_sub(base), (to + 1).saturating_sub(base));
            }
            *peak = largest(scores, *peak);
        }
        let mut shrink = [0.0; SIDE];
        for ((shrink, before), peak) in shrink.iter_mut().zip(&self.peaks).zip(&peaks) {
            *shrink = exp(before - peak);
        }
        self.peaks = peaks;
        for (row, scores) in scores.iter_mut().enumerate().take(seen.len()) {
            for weight in scores.iter_mut() {
                *weight = exp(*weight - peaks[row]);
            }
            let [first, second, third, fourth] = scores.as_chunks::<BLOCK_TOKENS>().0 else { continue };
            for (lane, total) in self.totals[row].iter_mut().enumerate() {
                let sum = (first[lane] + second[lane]) + (third[lane] + fourth[lane]);
                *total = *total * shrink[row] + sum;
            }
        }
        shrink
    }

    /// The sum of all of a row's weights.
    #[inline(always)]
    pub(super) fn total(&self, row: usize) -> f32 {
        self.totals[row].iter().sum()
    }
}

/// Hides scores before `from`, and from `end` on.
#[inline(always)]
fn hide(scores: &mut [f32; STEP], from: usize, end: usize) {
    let (from, end) = (from.min(STEP) as u32, end.min(STEP) as u32);
    for (token, score) in (0..STEP as u32).zip(scores) {
        *score = if token < from || token >= end { f32::NEG_INFINITY } else { *score };
    }
}

/// The largest of all; what is not a number is none of them.
#[inline(always)]
fn largest(scores: &[f32; STEP], before: f32) -> f32 {
    let larger = |one: f32, other: f32| if other > one { other } else { one };
    let mut most = [before; BLOCK_TOKENS];
    for part in scores.as_chunks::<BLOCK_TOKENS>().0 {
        for (most, score) in most.iter_mut().zip(part) {
            *most = larger(*most, *score);
        }
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            most[lane] = larger(most[lane], most[lane + half]);
        }
    }
    most[0]
}
