//! The widest products, in registers alone.

use std::arch::x86_64::{
    __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_set1_epi8,
    _mm512_set1_epi32, _mm512_set1_ps,
};
use std::hint::black_box;

/// Sums beside each other: an instruction takes four to six cycles, and two begin in each.
const CHAINS: usize = 16;

pub(super) const INT8_OPERATIONS_A_ROUND: usize = 2 * 64 * CHAINS;
pub(super) const F32_OPERATIONS_A_ROUND: usize = 2 * 16 * CHAINS;
pub(super) const BF16_OPERATIONS_A_ROUND: usize = 2 * 32 * CHAINS;

pub(super) fn has_bf16() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
}

/// Only where the machine has AVX-512 with VNNI.
pub(super) fn int8_rounds(rounds: usize) {
    // SAFETY: the caller has looked for the instructions.
    unsafe { int8(rounds) }
}

/// Only where the machine has AVX-512.
pub(super) fn f32_rounds(rounds: usize) {
    // SAFETY: the caller has looked for the instructions.
    unsafe { f32(rounds) }
}

/// Only where the machine has AVX-512 with BF16.
pub(super) fn bf16_rounds(rounds: usize) {
    // SAFETY: the caller has looked for the instructions.
    unsafe { bf16(rounds) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn int8(rounds: usize) {
    let (left, right) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(5)));
    let mut sums = [_mm512_set1_epi32(black_box(1)); CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, left, right);
        }
    }
    black_box(sums);
}

#[target_feature(enable = "avx512f")]
fn f32(rounds: usize) {
    let (factor, addend) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
    let mut sums = [_mm512_set1_ps(black_box(0.5)); CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, factor, addend);
        }
    }
    black_box(sums);
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16(rounds: usize) {
    // SAFETY: both are 512 bits, and any bits are numbers.
    let (left, right) = unsafe {
        (
            std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(black_box(0x3f80_3f80))),
            std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(black_box(0x3c00_3c00))),
        )
    };
    let mut sums = [_mm512_set1_ps(black_box(0.5)); CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, left, right);
        }
    }
    black_box(sums);
}
