//! Loops that the compiler turns into the widest instructions it is told of.

use std::hint::black_box;

use crate::isa::compiled_for_each_isa;

/// Sums that go on beside each other, so that none waits for its own last addition.
const CHAINS: usize = 8;
const FLOATS: usize = 16;
const BYTES: usize = 64;

pub(super) const F32_OPERATIONS_A_ROUND: usize = 2 * CHAINS * FLOATS;
pub(super) const INT8_OPERATIONS_A_ROUND: usize = 2 * CHAINS * BYTES;

compiled_for_each_isa! {
    /// Adds up everything.
    pub(super) fn sum(words: &[u64]) -> u64 => sum_plain
}

compiled_for_each_isa! {
    /// Multiplies and adds in registers.
    pub(super) fn f32_rounds(rounds: usize) => f32_rounds_plain
}

compiled_for_each_isa! {
    /// The same with bytes.
    pub(super) fn int8_rounds(rounds: usize) => int8_rounds_plain
}

#[inline(always)]
fn sum_plain(words: &[u64]) -> u64 {
    let mut sums = [0u64; 64];
    let chunks = words.chunks_exact(64);
    let rest: u64 = chunks.remainder().iter().fold(0, |sum, word| sum.wrapping_add(*word));
    for chunk in chunks {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(rest, |sum, one| sum.wrapping_add(*one))
}

#[inline(always)]
fn f32_rounds_plain(rounds: usize) {
    let mut sums = [[black_box(0.5f32); FLOATS]; CHAINS];
    let (factor, addend) = ([black_box(0.999f32); FLOATS], [black_box(0.001f32); FLOATS]);
    for _ in 0..rounds {
        for sum in &mut sums {
            for lane in 0..FLOATS {
                sum[lane] = sum[lane].mul_add(factor[lane], addend[lane]);
            }
        }
    }
    black_box(sums);
}

#[inline(always)]
fn int8_rounds_plain(rounds: usize) {
    let mut sums = [[0i32; BYTES / 4]; CHAINS];
    let left: [i8; BYTES] = black_box([3; BYTES]);
    let mut right: [i8; BYTES] = black_box([5; BYTES]);
    for _ in 0..rounds {
        for sum in &mut sums {
            for (lane, sum) in sum.iter_mut().enumerate() {
                for byte in 0..4 {
                    let product = i32::from(left[4 * lane + byte]) * i32::from(right[4 * lane + byte]);
                    *sum = sum.wrapping_add(product);
                }
            }
        }
        right[0] = right[0].wrapping_add(1);
    }
    black_box(sums);
}
