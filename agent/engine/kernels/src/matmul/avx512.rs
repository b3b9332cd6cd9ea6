//! 512-bit kernels. A register has a word of four quants, or one sum, for each of a panel's 16 rows.

use std::arch::x86_64::{
    __m512, __m512i, _mm_loadu_si128, _mm256_loadu_si256, _mm512_add_ps, _mm512_and_si512,
    _mm512_castsi512_ps, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32,
    _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_load_si512,
    _mm512_loadu_ps, _mm512_mul_ps, _mm512_or_si512, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_slli_epi32, _mm512_srli_epi16, _mm512_storeu_ps,
};

use super::Tile;
use super::ahead::Ahead;
use super::formats::{BF16, F16, F32, Q4_0, Q4K, Q5_0, Q5K, Q6K, Q8_0, format_of, layout_of};
use super::plain::PARTIAL_SUMS;
use super::tiles::{BLOCK_WORDS, MINUS_SCALED_SUM, RowTile, SCALE, offset_word};
use crate::format::GROUPS;
use crate::line::{Line, PANEL_ROWS};
use crate::{Rows, WeightFormat};

pub(super) fn tile<const M: usize>(
    format: WeightFormat,
    panel: &[Line],
    rows: &Rows,
    tile: &RowTile,
) -> Tile<M> {
    assert!(tile.count == M && tile.row + M <= rows.count(), "the tile is not of the rows");
    // SAFETY: the caller names an instruction set that the machine has. `floating` reads `M` rows from the
    // tile's, all of which are there.
    unsafe {
        match format {
            WeightFormat::F32 => floating::<F32, M>(panel, rows, tile.row),
            WeightFormat::F16 => floating::<F16, M>(panel, rows, tile.row),
            WeightFormat::BF16 => floating::<BF16, M>(panel, rows, tile.row),
            WeightFormat::Q4_0 => quantized::<Q4_0, M>(panel, &tile.words),
            WeightFormat::Q5_0 => quantized::<Q5_0, M>(panel, &tile.words),
            WeightFormat::Q8_0 => quantized::<Q8_0, M>(panel, &tile.words),
            WeightFormat::Q4K => quantized::<Q4K, M>(panel, &tile.words),
            WeightFormat::Q5K => quantized::<Q5K, M>(panel, &tile.words),
            WeightFormat::Q6K => quantized::<Q6K, M>(panel, &tile.words),
        }
    }
}

/// `words` are those of a tile of `M` rows.
#[allow(clippy::needless_range_loop, reason = "constant bounds are what the compiler unrolls")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn quantized<const F: u8, const M: usize>(panel: &[Line], words: &[u32]) -> Tile<M> {
    let layout = layout_of(F);
    let units = panel.len() / layout.unit_lines();
    assert!(words.len() >= units * layout.unit_blocks * BLOCK_WORDS * M, "rows are narrower than the panel");
    let mut sums = [_mm512_setzero_ps(); M];
    let ahead = Ahead::here();
    let (mut unit, mut words) = (panel.as_ptr(), words.as_ptr());
    for _ in 0..units {
        for block in 0..layout.unit_blocks {
            // SAFETY: the unit has its lines, and the tile has `BLOCK_WORDS * M` words for each block of each unit, by
            // the assertion.
            unsafe {
                let lines = unit.add(layout.scale_lines + block * layout.quant_lines);
                ahead.fetch(lines, layout.quant_lines);
                let word = |which: usize, m: usize| (*words.add(which * M + m)).cast_signed();
                let float = |which, m| _mm512_castsi512_ps(_mm512_set1_epi32(word(which, m)));
                let halves = if F == Q6K { 2 } else { 1 };
                for half in 0..halves {
                    let mut dots = [_mm512_setzero_si512(); M];
                    if layout.offset != 0 {
                        for m in 0..M {
                            dots[m] = _mm512_set1_epi32(word(offset_word(layout, half), m));
                        }
                    }
                    for group in half * GROUPS / halves..(half + 1) * GROUPS / halves {
                        let weights = group_words::<F>(lines, group);
                        for m in 0..M {
                            dots[m] =
                                _mm512_dpbusd_epi32(dots[m], weights, _mm512_set1_epi32(word(group, m)));
                        }
                    }
                    let (scale, minimum) = scales_of::<F>(unit, block, half);
                    for m in 0..M {
                        let both = _mm512_mul_ps(scale, float(SCALE, m));
                        sums[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[m]), both, sums[m]);
                        if F == Q4K || F == Q5K {
                            sums[m] = _mm512_fmadd_ps(minimum, float(MINUS_SCALED_SUM, m), sums[m]);
                        }
                    }
                }
                words = words.add(BLOCK_WORDS * M);
            }
        }
        // SAFETY: at most one past the end.
        unit = unsafe { unit.add(layout.unit_lines()) };
    }
    store(&sums)
}

/// # Safety
/// `lines` are those of a block of the format.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn group_words<const F: u8>(lines: *const Line, group: usize) -> __m512i {
    // SAFETY: the caller gives a block's lines, and lines are aligned.
    let line = |index: usize| unsafe { _mm512_load_si512(lines.add(index).cast()) };
    if F == Q8_0 {
        return line(group);
    }
    let nibbles = line(group / 2);
    let nibbles = if group % 2 == 1 { _mm512_srli_epi16::<4>(nibbles) } else { nibbles };
    let low = _mm512_and_si512(nibbles, _mm512_set1_epi8(15));
    if F == Q5_0 || F == Q5K {
        let plane = line(4);
        let bit = |plane| _mm512_and_si512(plane, _mm512_set1_epi8(16));
        let high = match group {
            0 => bit(_mm512_slli_epi32::<4>(plane)),
            1 => bit(_mm512_slli_epi32::<3>(plane)),
            2 => bit(_mm512_slli_epi32::<2>(plane)),
            3 => bit(_mm512_slli_epi32::<1>(plane)),
            4 => bit(plane),
            5 => bit(_mm512_srli_epi16::<1>(plane)),
            6 => bit(_mm512_srli_epi16::<2>(plane)),
            _ => bit(_mm512_srli_epi16::<3>(plane)),
        };
        return _mm512_or_si512(low, high);
    }
    if F == Q6K {
        let plane = line(4 + group / 4);
        let bits = |plane| _mm512_and_si512(plane, _mm512_set1_epi8(48));
        let high = match group % 4 {
            0 => bits(_mm512_slli_epi32::<4>(plane)),
            1 => bits(_mm512_slli_epi32::<2>(plane)),
            2 => bits(plane),
            _ => bits(_mm512_srli_epi16::<2>(plane)),
        };
        return _mm512_or_si512(low, high);
    }
    low
}

/// # Safety
/// `unit` has the lines of a unit of the format.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn scales_of<const F: u8>(
    unit: *const Line,
    block: usize,
    half: usize,
) -> (__m512, __m512) {
    // SAFETY: the caller gives a unit; 16 halves are half a line, 16 bytes a quarter.
    unsafe {
        let halves = |index: usize| {
            _mm512_cvtph_ps(_mm256_loadu_si256(unit.cast::<u16>().add(index * PANEL_ROWS).cast()))
        };
        let bytes = |line: usize, index: usize| {
            _mm_loadu_si128(unit.add(line).cast::<u8>().add(index * PANEL_ROWS).cast())
        };
        if F == Q4K || F == Q5K {
            let scale = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes(1, block)));
            let minimum = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes(3, block)));
            return (_mm512_mul_ps(halves(0), scale), _mm512_mul_ps(halves(1), minimum));
        }
        if F == Q6K {
            let scale = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes(1, 2 * block + half)));
            return (_mm512_mul_ps(halves(0), scale), _mm512_setzero_ps());
        }
        (halves(block), _mm512_setzero_ps())
    }
}

/// # Safety
/// Rows `row` to `row + M` exist.
#[allow(clippy::needless_range_loop, reason = "constant bounds are what the compiler unrolls")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn floating<const F: u8, const M: usize>(panel: &[Line], rows: &Rows, row: usize) -> Tile<M> {
    let columns = rows.columns();
    assert!(panel.len() >= format_of(F).panel_lines(columns), "the panel is too short");
    let floats = rows.floats()[row * columns..][..M * columns].as_ptr();
    let panel = panel.as_ptr();
    let ahead = Ahead::here();
    let mut partial = [[_mm512_setzero_ps(); M]; PARTIAL_SUMS];
    let mut column = 0;
    while column < columns {
        let lines = PARTIAL_SUMS * format_of(F).panel_lines(2) / 2;
        ahead.fetch(panel.wrapping_add(column / PARTIAL_SUMS * lines), lines);
        for part in 0..PARTIAL_SUMS {
            if column + part >= columns {
                break;
            }
            // SAFETY: the panel has a word, or half of one, for each column; `floats` has `M` rows of them.
            unsafe {
                let at = column + part;
                let half = || _mm256_loadu_si256(panel.cast::<u16>().add(at * PANEL_ROWS).cast());
                let weights = match F {
                    F32 => _mm512_loadu_ps(panel.cast::<f32>().add(at * PANEL_ROWS)),
                    F16 => _mm512_cvtph_ps(half()),
                    _ => _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half()))),
                };
                for m in 0..M {
                    let number = _mm512_set1_ps(*floats.add(m * columns + at));
                    partial[part][m] = _mm512_fmadd_ps(weights, number, partial[part][m]);
                }
            }
        }
        column += PARTIAL_SUMS;
    }
    let mut sums = [_mm512_setzero_ps(); M];
    for m in 0..M {
        let [a, b, c, d] = partial.map(|part| part[m]);
        sums[m] = _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d));
    }
    store(&sums)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store<const M: usize>(sums: &[__m512; M]) -> Tile<M> {
    let mut tile = [[0.0; PANEL_ROWS]; M];
    for (results, sum) in tile.iter_mut().zip(sums) {
        // SAFETY: `results` has 16 numbers.
        unsafe { _mm512_storeu_ps(results.as_mut_ptr(), *sum) };
    }
    tile
}
