//! Rows in eight bits: the largest number of each 32 becomes 127.

use crate::Isa;
use crate::format::{BLOCK, GROUPS};

const LARGEST: f32 = 127.0;
/// Of a sum with this the lowest byte is a whole number in two's complement, rounded to the nearest. What is not a number gives any,
/// which cannot overflow a sum of them.
const ROUND: f32 = 12_582_912.0;

/// Writes a row's quants, four to a word, and for each 32 their scale and the sums of both halves; what `words`, `scales` and `sums`
/// have beyond the row becomes zero.
pub(crate) fn quantize(floats: &[f32], words: &mut [u32], scales: &mut [f32], sums: &mut [[i32; 2]]) {
    quantize_with(Isa::widest(), floats, words, scales, sums);
}

fn quantize_with(isa: Isa, floats: &[f32], words: &mut [u32], scales: &mut [f32], sums: &mut [[i32; 2]]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2(floats: &[f32], words: &mut [u32], scales: &mut [f32], sums: &mut [[i32; 2]]) {
            by_block(floats, words, scales, sums, plain);
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn avx512(floats: &[f32], words: &mut [u32], scales: &mut [f32], sums: &mut [[i32; 2]]) {
            by_block(floats, words, scales, sums, |block| avx512::quantized(block));
        }
        match isa {
            // SAFETY: the caller names an instruction set that the machine has.
            Isa::Avx512Vnni | Isa::Amx => return unsafe { avx512(floats, words, scales, sums) },
            // SAFETY: as above.
            Isa::Avx2 => return unsafe { avx2(floats, words, scales, sums) },
            Isa::Plain | Isa::Neon => {}
        }
    }
    // Other machines' vectors are the compiler's.
    let _ = isa;
    by_block(floats, words, scales, sums, plain);
}

/// Thirty-two numbers in eight bits.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Quantized {
    quants: [u8; BLOCK],
    scale: f32,
    sums: [i32; 2],
}

#[inline(always)]
fn by_block(
    floats: &[f32],
    words: &mut [u32],
    scales: &mut [f32],
    sums: &mut [[i32; 2]],
    quantized: impl Fn(&[f32; BLOCK]) -> Quantized,
) {
    let (blocks, rest) = floats.as_chunks();
    let mut last = [0.0; BLOCK];
    last[..rest.len()].copy_from_slice(rest);
    let last = (!rest.is_empty()).then_some(&last);
    let used = blocks.len() + usize::from(last.is_some());
    let places = words.as_chunks_mut::<GROUPS>().0.iter_mut().zip(scales.iter_mut()).zip(sums.iter_mut());
    for (block, ((words, scale), sums)) in blocks.iter().chain(last).zip(places) {
        let quantized = quantized(block);
        for (word, four) in words.iter_mut().zip(quantized.quants.as_chunks().0) {
            *word = u32::from_le_bytes(*four);
        }
        (*scale, *sums) = (quantized.scale, quantized.sums);
    }
    words[used * GROUPS..].fill(0);
    scales[used..].fill(0.0);
    sums[used..].fill([0; 2]);
}

/// By their bits, so that what is not a number is the largest and shows in the result.
#[inline(always)]
fn scale_and_inverse(largest_bits: u32) -> (f32, f32) {
    let largest = f32::from_bits(largest_bits);
    (largest / LARGEST, if largest == 0.0 { 0.0 } else { LARGEST / largest })
}

#[inline(always)]
fn plain(block: &[f32; BLOCK]) -> Quantized {
    let largest = block.iter().fold(0, |most, number| most.max(number.to_bits() & 0x7fff_ffff));
    let (scale, inverse) = scale_and_inverse(largest);
    let mut quants = [0; BLOCK];
    for (quant, number) in quants.iter_mut().zip(block) {
        *quant = (number * inverse + ROUND).to_bits() as u8;
    }
    let sum = |half: &[u8]| half.iter().map(|quant| i32::from(quant.cast_signed())).sum();
    let (first, second) = quants.split_at(BLOCK / 2);
    Quantized { quants, scale, sums: [sum(first), sum(second)] }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m128i, __m512, _mm_add_epi64, _mm_cvtsi128_si32, _mm_sad_epu8, _mm_set1_epi8, _mm_setzero_si128,
        _mm_storeu_si128, _mm_unpackhi_epi64, _mm_xor_si128, _mm512_add_ps, _mm512_and_si512,
        _mm512_castps_si512, _mm512_cvtepi32_epi8, _mm512_loadu_ps, _mm512_max_epu32, _mm512_mul_ps,
        _mm512_reduce_max_epu32, _mm512_set1_epi32, _mm512_set1_ps,
    };

    use super::{BLOCK, Quantized, ROUND, scale_and_inverse};

    /// The twin of `plain`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    pub(super) fn quantized(block: &[f32; BLOCK]) -> Quantized {
        // SAFETY: the block has two registers of 16 numbers.
        let (first, second) =
            unsafe { (_mm512_loadu_ps(block.as_ptr()), _mm512_loadu_ps(block.as_ptr().add(BLOCK / 2))) };
        let size = |numbers| _mm512_and_si512(_mm512_castps_si512(numbers), _mm512_set1_epi32(0x7fff_ffff));
        let (scale, inverse) =
            scale_and_inverse(_mm512_reduce_max_epu32(_mm512_max_epu32(size(first), size(second))));
        let whole = |numbers: __m512| {
            let scaled = _mm512_mul_ps(numbers, _mm512_set1_ps(inverse));
            _mm512_cvtepi32_epi8(_mm512_castps_si512(_mm512_add_ps(scaled, _mm512_set1_ps(ROUND))))
        };
        let (first, second) = (whole(first), whole(second));
        let mut quants = [0; BLOCK];
        // SAFETY: the quants are two registers of 16 bytes.
        unsafe {
            _mm_storeu_si128(quants.as_mut_ptr().cast(), first);
            _mm_storeu_si128(quants.as_mut_ptr().add(BLOCK / 2).cast(), second);
        }
        Quantized { quants, scale, sums: [sum(first), sum(second)] }
    }

    /// Of 16 signed bytes. Unsigned ones can be summed by one instruction: these are made so by adding 128 to each.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    fn sum(bytes: __m128i) -> i32 {
        let unsigned = _mm_xor_si128(bytes, _mm_set1_epi8(i8::MIN));
        let halves = _mm_sad_epu8(unsigned, _mm_setzero_si128());
        _mm_cvtsi128_si32(_mm_add_epi64(halves, _mm_unpackhi_epi64(halves, halves))) - 128 * 16
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::quantize_with;
    use crate::Isa;

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_same_bits(
            mut floats in prop::collection::vec(-1e3f32..1e3, 1..200), odd in prop::option::of(any::<f32>()),
        ) {
            if let Some(odd) = odd {
                let middle = floats.len() / 2;
                floats[middle] = odd;
            }
            let run = |isa| {
                let (mut words, mut scales, mut sums) = (vec![9; 8 * 8], vec![9.0; 8], vec![[9; 2]; 8]);
                quantize_with(isa, &floats, &mut words, &mut scales, &mut sums);
                let scales: Vec<u32> = scales.iter().map(|scale: &f32| scale.to_bits()).collect();
                (words, scales, sums)
            };
            let plain = run(Isa::Plain);
            for isa in Isa::available() {
                prop_assert_eq!(&run(isa), &plain, "{:?}", isa);
            }
        }
    }

    #[test]
    fn the_largest_number_becomes_127() {
        let floats: Vec<f32> = (0..33).map(|number| number as f32 - 16.0).collect();
        let (mut words, mut scales, mut sums) = ([0; 16], [0.0; 2], [[0; 2]; 2]);
        quantize_with(Isa::Plain, &floats, &mut words, &mut scales, &mut sums);
        assert_eq!(words[0].to_le_bytes().map(u8::cast_signed), [-127, -119, -111, -103]);
        assert_eq!((scales, words[8]), ([16.0 / 127.0; 2], 127));
        assert_eq!(sums[1], [127, 0]);
    }
}
