//! 256-bit kernels of the quantized formats. A register has a word of four quants, or one sum, for each of eight rows of a
//! panel; the other eight are done behind them. There is no instruction that sums four products of bytes in 32 bits:
//! two are summed in 16 bits first, as often as that cannot overflow.

use std::arch::x86_64::{
    __m256, __m256i, _mm_loadl_epi64, _mm_loadu_si128, _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32,
    _mm256_and_si256, _mm256_castsi256_ps, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32,
    _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16,
    _mm256_mul_ps, _mm256_or_si256, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32,
    _mm256_setzero_ps, _mm256_setzero_si256, _mm256_sign_epi8, _mm256_slli_epi32, _mm256_srli_epi16,
    _mm256_storeu_ps, _mm256_xor_si256,
};

use super::Tile;
use super::ahead::Ahead;
use super::formats::{Q4_0, Q4K, Q5_0, Q5K, Q6K, Q8_0, layout_of};
use super::tiles::{BLOCK_WORDS, MINUS_SCALED_SUM, RowTile, SCALE, offset_word};
use crate::WeightFormat;
use crate::format::GROUPS;
use crate::line::{Line, PANEL_ROWS};

const LANES: usize = PANEL_ROWS / 2;
/// Rows whose sums stay in registers.
const MOST_ROWS: usize = 4;

/// Groups of four whose products are summed in 16 bits: with quants of `b` bits two products are at most
/// `2 (2^b - 1) 127`, which fits into 15 bits so many times.
const fn groups_in_16_bits(format: u8) -> usize {
    match format {
        Q4_0 | Q4K => 8,
        Q5_0 | Q5K => 4,
        Q6K => 2,
        _ => 1,
    }
}

/// Results of a tile of a quantized format; of floating point the compiler's own vectors do as well.
///
/// # Panics
/// When the format is not quantized: that is a bug of the caller.
pub(super) fn tile<const M: usize>(format: WeightFormat, panel: &[Line], tile: &RowTile) -> Tile<M> {
    assert!(tile.count == M, "the tile has other rows");
    let words = &tile.words;
    // SAFETY: the caller names an instruction set that the machine has.
    unsafe {
        match format {
            WeightFormat::Q4_0 => quantized::<Q4_0, M>(panel, words),
            WeightFormat::Q5_0 => quantized::<Q5_0, M>(panel, words),
            WeightFormat::Q8_0 => quantized::<Q8_0, M>(panel, words),
            WeightFormat::Q4K => quantized::<Q4K, M>(panel, words),
            WeightFormat::Q5K => quantized::<Q5K, M>(panel, words),
            WeightFormat::Q6K => quantized::<Q6K, M>(panel, words),
            _ => unreachable!("{format:?} is not quantized"),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn quantized<const F: u8, const M: usize>(panel: &[Line], words: &[u32]) -> Tile<M> {
    let mut tile = [[0.0; PANEL_ROWS]; M];
    for half in 0..2 {
        for (index, rows) in tile.chunks_mut(MOST_ROWS).enumerate() {
            let first = index * MOST_ROWS;
            match rows.len() {
                4 => few_rows::<F, M, 4>(panel, words, first, half, rows),
                3 => few_rows::<F, M, 3>(panel, words, first, half, rows),
                2 => few_rows::<F, M, 2>(panel, words, first, half, rows),
                _ => few_rows::<F, M, 1>(panel, words, first, half, rows),
            }
        }
    }
    tile
}

/// Eight lanes of `C` rows from `first` on, of a tile of `M`.
#[inline]
#[allow(clippy::needless_range_loop, reason = "constant bounds are what the compiler unrolls")]
#[target_feature(enable = "avx2,fma,f16c")]
fn few_rows<const F: u8, const M: usize, const C: usize>(
    panel: &[Line],
    words: &[u32],
    first: usize,
    half_of_panel: usize,
    out: &mut [[f32; PANEL_ROWS]],
) {
    let mut sums = [_mm256_setzero_ps(); C];
    let layout = layout_of(F);
    let units = panel.len() / layout.unit_lines();
    assert!(words.len() >= units * layout.unit_blocks * BLOCK_WORDS * M, "rows are narrower than the panel");
    let ahead = Ahead::here();
    let (mut unit, mut words) = (panel.as_ptr(), words.as_ptr());
    let ones = _mm256_set1_epi16(1);
    for _ in 0..units {
        for block in 0..layout.unit_blocks {
            // SAFETY: the unit has its lines, and the tile has `BLOCK_WORDS * M` words for each block of each unit, by
            // the assertion.
            unsafe {
                let lines = unit.add(layout.scale_lines + block * layout.quant_lines);
                // Those of the other half and of other rows are the same.
                if half_of_panel == 0 && first == 0 {
                    ahead.fetch(lines, layout.quant_lines);
                }
                let word = |which: usize, m: usize| (*words.add(which * M + first + m)).cast_signed();
                let float = |which, m| _mm256_castsi256_ps(_mm256_set1_epi32(word(which, m)));
                let halves = if F == Q6K { 2 } else { 1 };
                for half in 0..halves {
                    let mut dots = [_mm256_setzero_si256(); C];
                    // The bytes of Q8_0 are multiplied as signed ones, without an offset.
                    if layout.offset != 0 && F != Q8_0 {
                        for m in 0..C {
                            dots[m] = _mm256_set1_epi32(word(offset_word(layout, half), m));
                        }
                    }
                    let mut group = half * GROUPS / halves;
                    while group < (half + 1) * GROUPS / halves {
                        let mut short = [_mm256_setzero_si256(); C];
                        for next in group..group + groups_in_16_bits(F) {
                            let weights = group_words::<F>(lines, next, half_of_panel);
                            for m in 0..C {
                                let quants = _mm256_set1_epi32(word(next, m));
                                let two = if F == Q8_0 {
                                    let signed = _mm256_sign_epi8(quants, weights);
                                    _mm256_maddubs_epi16(_mm256_abs_epi8(weights), signed)
                                } else {
                                    _mm256_maddubs_epi16(weights, quants)
                                };
                                short[m] = _mm256_add_epi16(short[m], two);
                            }
                        }
                        for m in 0..C {
                            dots[m] = _mm256_add_epi32(dots[m], _mm256_madd_epi16(short[m], ones));
                        }
                        group += groups_in_16_bits(F);
                    }
                    let (scale, minimum) = scales_of::<F>(unit, block, half, half_of_panel);
                    for m in 0..C {
                        let both = _mm256_mul_ps(scale, float(SCALE, m));
                        sums[m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[m]), both, sums[m]);
                        if F == Q4K || F == Q5K {
                            sums[m] = _mm256_fmadd_ps(minimum, float(MINUS_SCALED_SUM, m), sums[m]);
                        }
                    }
                }
                words = words.add(BLOCK_WORDS * M);
            }
        }
        // SAFETY: at most one past the end.
        unit = unsafe { unit.add(layout.unit_lines()) };
    }
    for (results, sum) in out.iter_mut().zip(&sums) {
        // SAFETY: `results` has 16 numbers, of which these are the first or the last eight.
        unsafe { _mm256_storeu_ps(results.as_mut_ptr().add(half_of_panel * LANES), *sum) };
    }
}

/// The quants of a group, as signed bytes of Q8_0, otherwise as unsigned ones.
///
/// # Safety
/// `lines` are those of a block of the format.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn group_words<const F: u8>(lines: *const Line, group: usize, half_of_panel: usize) -> __m256i {
    // SAFETY: the caller gives a block's lines, of 64 bytes each.
    let line =
        |index: usize| unsafe { _mm256_loadu_si256(lines.add(index).cast::<__m256i>().add(half_of_panel)) };
    if F == Q8_0 {
        return _mm256_xor_si256(line(group), _mm256_set1_epi8(i8::MIN));
    }
    let nibbles = line(group / 2);
    let nibbles = if group % 2 == 1 { _mm256_srli_epi16::<4>(nibbles) } else { nibbles };
    let low = _mm256_and_si256(nibbles, _mm256_set1_epi8(15));
    if F == Q5_0 || F == Q5K {
        let plane = line(4);
        let bit = |plane| _mm256_and_si256(plane, _mm256_set1_epi8(16));
        let high = match group {
            0 => bit(_mm256_slli_epi32::<4>(plane)),
            1 => bit(_mm256_slli_epi32::<3>(plane)),
            2 => bit(_mm256_slli_epi32::<2>(plane)),
            3 => bit(_mm256_slli_epi32::<1>(plane)),
            4 => bit(plane),
            5 => bit(_mm256_srli_epi16::<1>(plane)),
            6 => bit(_mm256_srli_epi16::<2>(plane)),
            _ => bit(_mm256_srli_epi16::<3>(plane)),
        };
        return _mm256_or_si256(low, high);
    }
    if F == Q6K {
        let plane = line(4 + group / 4);
        let bits = |plane| _mm256_and_si256(plane, _mm256_set1_epi8(48));
        let high = match group % 4 {
            0 => bits(_mm256_slli_epi32::<4>(plane)),
            1 => bits(_mm256_slli_epi32::<2>(plane)),
            2 => bits(plane),
            _ => bits(_mm256_srli_epi16::<2>(plane)),
        };
        return _mm256_or_si256(low, high);
    }
    low
}

/// # Safety
/// `unit` has the lines of a unit of the format.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scales_of<const F: u8>(
    unit: *const Line,
    block: usize,
    half: usize,
    half_of_panel: usize,
) -> (__m256, __m256) {
    // SAFETY: the caller gives a unit; eight halves are a quarter of a line, eight bytes an eighth.
    unsafe {
        let halves = |index: usize| {
            let at = index * PANEL_ROWS + half_of_panel * LANES;
            _mm256_cvtph_ps(_mm_loadu_si128(unit.cast::<u16>().add(at).cast()))
        };
        let bytes = |line: usize, index: usize| {
            let at = index * PANEL_ROWS + half_of_panel * LANES;
            _mm_loadl_epi64(unit.add(line).cast::<u8>().add(at).cast())
        };
        if F == Q4K || F == Q5K {
            let scale = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes(1 + block / 4, block % 4)));
            let minimum = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes(3 + block / 4, block % 4)));
            return (_mm256_mul_ps(halves(0), scale), _mm256_mul_ps(halves(1), minimum));
        }
        if F == Q6K {
            let index = 2 * block + half;
            let scale = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes(1 + index / 4, index % 4)));
            return (_mm256_mul_ps(halves(0), scale), _mm256_setzero_ps());
        }
        (halves(block), _mm256_setzero_ps())
    }
}
