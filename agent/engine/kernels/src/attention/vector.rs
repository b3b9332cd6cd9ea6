//! Sixteen floats at once: in plain arrays, or in a 512-bit register. Both round the same way.

use half::f16;

use super::BLOCK_TOKENS;

/// Operations on sixteen floats. The register form must be used only in code compiled for its instructions.
pub(super) trait Vector: Copy {
    fn splat(number: f32) -> Self;
    /// `numbers` has at least 16.
    fn load(numbers: &[f32]) -> Self;
    /// `halves` has at least 16.
    fn load_halves(halves: &[u16]) -> Self;
    fn to_array(self) -> [f32; BLOCK_TOKENS];
    fn add(self, other: Self) -> Self;
    fn multiply(self, other: Self) -> Self;
    /// `self * other + sum`, rounded once.
    fn fused(self, other: Self, sum: Self) -> Self;
}

#[derive(Clone, Copy)]
pub(super) struct Plain([f32; BLOCK_TOKENS]);

impl Vector for Plain {
    #[inline(always)]
    fn splat(number: f32) -> Self {
        Self([number; BLOCK_TOKENS])
    }

    #[inline(always)]
    fn load(numbers: &[f32]) -> Self {
        let mut all = [0.0; BLOCK_TOKENS];
        all.copy_from_slice(&numbers[..BLOCK_TOKENS]);
        Self(all)
    }

    #[inline(always)]
    fn load_halves(halves: &[u16]) -> Self {
        let mut all = [0.0; BLOCK_TOKENS];
        for (number, half) in all.iter_mut().zip(&halves[..BLOCK_TOKENS]) {
            *number = f16::from_bits(*half).to_f32_const();
        }
        Self(all)
    }

    #[inline(always)]
    fn to_array(self) -> [f32; BLOCK_TOKENS] {
        self.0
    }

    #[inline(always)]
    fn add(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a += b);
        self
    }

    #[inline(always)]
    fn multiply(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a *= b);
        self
    }

    #[inline(always)]
    fn fused(mut self, other: Self, sum: Self) -> Self {
        self.0.iter_mut().zip(other.0).zip(sum.0).for_each(|((a, b), c)| *a = a.mul_add(b, c));
        self
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use std::arch::x86_64::{
        __m512, _mm256_loadu_si256, _mm512_add_ps, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_mul_ps, _mm512_set1_ps, _mm512_storeu_ps,
    };

    use super::{BLOCK_TOKENS, Vector};

    #[derive(Clone, Copy)]
    pub(in crate::attention) struct Register(__m512);

    // SAFETY, for every block: only the kernel compiled for these instructions names this type, and it runs only where
    // the machine has them; loads and stores are of 16 numbers that the slices have.
    #[allow(clippy::undocumented_unsafe_blocks, reason = "said once above")]
    impl Vector for Register {
        #[inline(always)]
        fn splat(number: f32) -> Self {
            unsafe { Self(_mm512_set1_ps(number)) }
        }

        #[inline(always)]
        fn load(numbers: &[f32]) -> Self {
            let numbers = &numbers[..BLOCK_TOKENS];
            unsafe { Self(_mm512_loadu_ps(numbers.as_ptr())) }
        }

        #[inline(always)]
        fn load_halves(halves: &[u16]) -> Self {
            let halves = &halves[..BLOCK_TOKENS];
            unsafe { Self(_mm512_cvtph_ps(_mm256_loadu_si256(halves.as_ptr().cast()))) }
        }

        #[inline(always)]
        fn to_array(self) -> [f32; BLOCK_TOKENS] {
            let mut all = [0.0; BLOCK_TOKENS];
            unsafe { _mm512_storeu_ps(all.as_mut_ptr(), self.0) };
            all
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            unsafe { Self(_mm512_add_ps(self.0, other.0)) }
        }

        #[inline(always)]
        fn multiply(self, other: Self) -> Self {
            unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
        }

        #[inline(always)]
        fn fused(self, other: Self, sum: Self) -> Self {
            unsafe { Self(_mm512_fmadd_ps(self.0, other.0, sum.0)) }
        }
    }
}
