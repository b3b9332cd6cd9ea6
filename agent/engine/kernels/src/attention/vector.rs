//! Sixteen floats at once: in plain arrays, in two 256-bit registers, or in one of 512 bits. All round the same way.

use half::f16;

use super::BLOCK_TOKENS;

/// Operations on sixteen floats. The register form must be used only in code compiled for its instructions.
pub(super) trait Vector: Copy {
    fn splat(number: f32) -> Self;
    /// `numbers` has at least 16.
    fn load(numbers: &[f32]) -> Self;
    /// 16-bit floats; `halves` has at least 16.
    fn load_halves(halves: &[u16]) -> Self;
    /// The same of bfloat16.
    fn load_bf16(halves: &[u16]) -> Self;
    /// Signed bytes, two in each of at least eight words, the lower one first.
    fn load_bytes(pairs: &[u16]) -> Self;
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
    fn load_bf16(halves: &[u16]) -> Self {
        let mut all = [0.0; BLOCK_TOKENS];
        for (number, half) in all.iter_mut().zip(&halves[..BLOCK_TOKENS]) {
            *number = f32::from_bits(u32::from(*half) << 16);
        }
        Self(all)
    }

    #[inline(always)]
    fn load_bytes(pairs: &[u16]) -> Self {
        let mut all = [0.0; BLOCK_TOKENS];
        for (numbers, pair) in all.chunks_exact_mut(2).zip(&pairs[..BLOCK_TOKENS / 2]) {
            let [first, second] = pair.to_le_bytes();
            numbers[0] = f32::from(first.cast_signed());
            numbers[1] = f32::from(second.cast_signed());
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
        __m512, _mm_loadu_si128, _mm256_loadu_si256, _mm512_add_ps, _mm512_castsi512_ps,
        _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_fmadd_ps,
        _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_slli_epi32, _mm512_storeu_ps,
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
        fn load_bf16(halves: &[u16]) -> Self {
            let halves = &halves[..BLOCK_TOKENS];
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(halves.as_ptr().cast()));
                Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
            }
        }

        #[inline(always)]
        fn load_bytes(pairs: &[u16]) -> Self {
            let pairs = &pairs[..BLOCK_TOKENS / 2];
            unsafe { Self(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(pairs.as_ptr().cast())))) }
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

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use std::arch::x86_64::{
        __m256, _mm_loadl_epi64, _mm_loadu_si128, _mm256_add_ps, _mm256_castsi256_ps, _mm256_cvtepi8_epi32,
        _mm256_cvtepi32_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
        _mm256_mul_ps, _mm256_set1_ps, _mm256_slli_epi32, _mm256_storeu_ps,
    };

    use super::{BLOCK_TOKENS, Vector};

    const HALF: usize = BLOCK_TOKENS / 2;

    #[derive(Clone, Copy)]
    pub(in crate::attention) struct Registers(__m256, __m256);

    // SAFETY, for every block: as for the 512-bit register; each half is eight numbers that the slices have.
    #[allow(clippy::undocumented_unsafe_blocks, reason = "said once above")]
    impl Vector for Registers {
        #[inline(always)]
        fn splat(number: f32) -> Self {
            unsafe { Self(_mm256_set1_ps(number), _mm256_set1_ps(number)) }
        }

        #[inline(always)]
        fn load(numbers: &[f32]) -> Self {
            let numbers = &numbers[..BLOCK_TOKENS];
            unsafe { Self(_mm256_loadu_ps(numbers.as_ptr()), _mm256_loadu_ps(numbers[HALF..].as_ptr())) }
        }

        #[inline(always)]
        fn load_halves(halves: &[u16]) -> Self {
            let load = |halves: &[u16]| unsafe { _mm256_cvtph_ps(_mm_loadu_si128(halves.as_ptr().cast())) };
            let (first, second) = halves[..BLOCK_TOKENS].split_at(HALF);
            Self(load(first), load(second))
        }

        #[inline(always)]
        fn load_bf16(halves: &[u16]) -> Self {
            let load = |halves: &[u16]| unsafe {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(halves.as_ptr().cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            };
            let (first, second) = halves[..BLOCK_TOKENS].split_at(HALF);
            Self(load(first), load(second))
        }

        #[inline(always)]
        fn load_bytes(pairs: &[u16]) -> Self {
            let load = |pairs: &[u16]| unsafe {
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(pairs.as_ptr().cast())))
            };
            let (first, second) = pairs[..HALF].split_at(HALF / 2);
            Self(load(first), load(second))
        }

        #[inline(always)]
        fn to_array(self) -> [f32; BLOCK_TOKENS] {
            let mut all = [0.0; BLOCK_TOKENS];
            unsafe {
                _mm256_storeu_ps(all.as_mut_ptr(), self.0);
                _mm256_storeu_ps(all[HALF..].as_mut_ptr(), self.1);
            }
            all
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
        }

        #[inline(always)]
        fn multiply(self, other: Self) -> Self {
            unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
        }

        #[inline(always)]
        fn fused(self, other: Self, sum: Self) -> Self {
            unsafe { Self(_mm256_fmadd_ps(self.0, other.0, sum.0), _mm256_fmadd_ps(self.1, other.1, sum.1)) }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) mod neon {
    use std::arch::aarch64::{
        float32x4_t, vaddq_f32, vcvtq_f32_s32, vdupq_n_f32, vfmaq_f32, vget_high_s16, vget_low_s16, vld1_s8,
        vld1_u16, vld1q_f32, vmovl_s8, vmovl_s16, vmulq_f32, vreinterpretq_f32_u32, vshll_n_u16, vst1q_f32,
    };

    use super::{BLOCK_TOKENS, Vector};
    use crate::neon::from_halves;

    const LANES: usize = 4;

    #[derive(Clone, Copy)]
    pub(in crate::attention) struct Registers([float32x4_t; BLOCK_TOKENS / LANES]);

    impl Registers {
        #[inline(always)]
        fn of(part: impl FnMut(usize) -> float32x4_t) -> Self {
            Self(std::array::from_fn(part))
        }
    }

    // SAFETY, for every block: NEON belongs to every processor of the architecture; loads and stores are of numbers that the
    // slices have.
    #[allow(clippy::undocumented_unsafe_blocks, reason = "said once above")]
    #[allow(unused_unsafe, reason = "newer compilers have safe ones of some")]
    impl Vector for Registers {
        #[inline(always)]
        fn splat(number: f32) -> Self {
            Self::of(|_| unsafe { vdupq_n_f32(number) })
        }

        #[inline(always)]
        fn load(numbers: &[f32]) -> Self {
            let numbers = &numbers[..BLOCK_TOKENS];
            Self::of(|part| unsafe { vld1q_f32(numbers[part * LANES..].as_ptr()) })
        }

        #[inline(always)]
        fn load_halves(halves: &[u16]) -> Self {
            let halves = &halves[..BLOCK_TOKENS];
            Self::of(|part| unsafe { from_halves(vld1_u16(halves[part * LANES..].as_ptr())) })
        }

        #[inline(always)]
        fn load_bf16(halves: &[u16]) -> Self {
            let halves = &halves[..BLOCK_TOKENS];
            Self::of(|part| unsafe {
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(halves[part * LANES..].as_ptr())))
            })
        }

        #[inline(always)]
        fn load_bytes(pairs: &[u16]) -> Self {
            let pairs = &pairs[..BLOCK_TOKENS / 2];
            Self::of(|part| unsafe {
                let eight = vmovl_s8(vld1_s8(pairs[part / 2 * LANES..].as_ptr().cast()));
                let four = if part % 2 == 0 { vget_low_s16(eight) } else { vget_high_s16(eight) };
                vcvtq_f32_s32(vmovl_s16(four))
            })
        }

        #[inline(always)]
        fn to_array(self) -> [f32; BLOCK_TOKENS] {
            let mut all = [0.0; BLOCK_TOKENS];
            for (part, numbers) in self.0.into_iter().zip(all.as_chunks_mut::<LANES>().0) {
                unsafe { vst1q_f32(numbers.as_mut_ptr(), part) };
            }
            all
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            Self::of(|part| unsafe { vaddq_f32(self.0[part], other.0[part]) })
        }

        #[inline(always)]
        fn multiply(self, other: Self) -> Self {
            Self::of(|part| unsafe { vmulq_f32(self.0[part], other.0[part]) })
        }

        #[inline(always)]
        fn fused(self, other: Self, sum: Self) -> Self {
            Self::of(|part| unsafe { vfmaq_f32(sum.0[part], self.0[part], other.0[part]) })
        }
    }
}
