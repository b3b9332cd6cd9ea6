//! Rounding to bfloat16, as Intel's `VCVTNE2PS2BF16` does it (Instruction Set Reference, volume 2C): to the nearest, the even one of
//! two; numbers too small for a full mantissa become zero, and what is not a number stays none.

use crate::format::BLOCK;
use crate::line::{Line, PANEL_ROWS};

/// Ways to round many numbers. The register form must be used only in code compiled for its instructions.
pub(crate) trait Rounding {
    /// Thirty-two numbers side by side.
    fn line(numbers: &[f32; BLOCK]) -> Line;
    /// Sixteen numbers with sixteen others, first with first.
    fn pair(first: &[f32; PANEL_ROWS], second: &[f32; PANEL_ROWS]) -> Line;
}

/// The nearest bfloat16, in the upper half.
#[inline(always)]
fn rounded(number: f32) -> u32 {
    const SIGN: u32 = 1 << 31;
    let bits = number.to_bits();
    if number.is_nan() {
        bits | 0x0040_0000
    } else if number.abs() < f32::MIN_POSITIVE {
        bits & SIGN
    } else {
        bits + 0x7fff + (bits >> 16 & 1)
    }
}

/// The nearest bfloat16, as its bits.
pub(crate) fn nearest(number: f32) -> u16 {
    (rounded(number) >> 16) as u16
}

pub(crate) struct Plain;

impl Rounding for Plain {
    #[inline(always)]
    fn line(numbers: &[f32; BLOCK]) -> Line {
        let mut line = Line::default();
        for (word, pair) in line.0.iter_mut().zip(numbers.as_chunks::<2>().0) {
            *word = rounded(pair[0]) >> 16 | rounded(pair[1]) & 0xffff_0000;
        }
        line
    }

    #[inline(always)]
    fn pair(first: &[f32; PANEL_ROWS], second: &[f32; PANEL_ROWS]) -> Line {
        let mut line = Line::default();
        for (word, (first, second)) in line.0.iter_mut().zip(first.iter().zip(second)) {
            *word = rounded(*first) >> 16 | rounded(*second) & 0xffff_0000;
        }
        line
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512 {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_loadu_ps, _mm512_loadu_si512,
        _mm512_permutexvar_epi16, _mm512_store_si512,
    };

    use super::Rounding;
    use crate::format::BLOCK;
    use crate::line::{Line, PANEL_ROWS};

    pub(crate) struct Register;

    // SAFETY, for every block: only code compiled for AVX-512 with bfloat16 names this type, and it runs only where the machine has
    // them; loads are of the 16 numbers of an array, stores to a line, which is a register.
    #[allow(clippy::undocumented_unsafe_blocks, reason = "said once above")]
    impl Rounding for Register {
        #[inline(always)]
        fn line(numbers: &[f32; BLOCK]) -> Line {
            let halves = numbers.as_ptr();
            unsafe { stored(rounded(_mm512_loadu_ps(halves), _mm512_loadu_ps(halves.add(PANEL_ROWS)))) }
        }

        #[inline(always)]
        fn pair(first: &[f32; PANEL_ROWS], second: &[f32; PANEL_ROWS]) -> Line {
            unsafe {
                stored(side_by_side(rounded(
                    _mm512_loadu_ps(first.as_ptr()),
                    _mm512_loadu_ps(second.as_ptr()),
                )))
            }
        }
    }

    #[inline(always)]
    unsafe fn stored(halves: __m512i) -> Line {
        let mut line = Line::default();
        // SAFETY: a line is a register.
        unsafe { _mm512_store_si512((&raw mut line).cast(), halves) };
        line
    }

    /// Sixteen numbers, rounded, and sixteen more behind them.
    ///
    /// # Safety
    /// The machine has AVX-512 with bfloat16.
    #[inline(always)]
    pub(crate) unsafe fn rounded(first: __m512, second: __m512) -> __m512i {
        // SAFETY: as the caller promises; both types are 512 bits.
        unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first)) }
    }

    /// Puts sixteen halves beside the sixteen behind them: first with first.
    ///
    /// # Safety
    /// The machine has AVX-512 with words.
    #[inline(always)]
    pub(crate) unsafe fn side_by_side(halves: __m512i) -> __m512i {
        const ORDER: [u16; 2 * PANEL_ROWS] = {
            let mut order = [0; 2 * PANEL_ROWS];
            let mut index = 0;
            while index < order.len() {
                order[index] = (index / 2 + index % 2 * PANEL_ROWS) as u16;
                index += 1;
            }
            order
        };
        // SAFETY: the order is 32 halves, a register; the rest as the caller promises.
        unsafe { _mm512_permutexvar_epi16(_mm512_loadu_si512(ORDER.as_ptr().cast()), halves) }
    }
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn it_is_the_nearest_of_normal_numbers() {
        for bits in (0..=u32::MAX).step_by(65_521) {
            let number = f32::from_bits(bits);
            let expected = if number.is_subnormal() {
                half::bf16::from_f32(0.0f32.copysign(number))
            } else {
                half::bf16::from_f32(number)
            };
            assert_eq!(nearest(number), expected.to_bits(), "{number}");
        }
    }
}
