//! 128-bit kernels of the quantized formats, with Armv8.2's products of four bytes (`SDOT`). A register has a word of four quants, or one
//! sum, for each of four rows of a panel, a quarter of it.

use std::arch::aarch64::{
    float32x4_t, int8x16_t, int32x4_t, uint8x16_t, vandq_u8, vcreate_u8, vcvtq_f32_s32, vdupq_n_f32,
    vdupq_n_s8, vdupq_n_s32, vdupq_n_u8, veorq_u8, vfmaq_f32, vget_low_s16, vget_low_u16, vld1_u16,
    vld1q_s32, vld1q_u8, vmovl_s8, vmovl_s16, vmovl_u8, vmovl_u16, vmulq_f32, vorrq_u8, vreinterpret_s8_u8,
    vreinterpretq_s8_u8, vreinterpretq_s32_u32, vshlq_u8, vshrq_n_u8, vst1q_f32,
};
use std::arch::asm;

use super::Tile;
use super::formats::{Q4_0, Q4K, Q5_0, Q5K, Q6K, Q8_0, layout_of};
use super::tiles::{BLOCK_WORDS, MINUS_SCALED_SUM, RowTile, SCALE, offset_word};
use crate::WeightFormat;
use crate::format::GROUPS;
use crate::line::{Line, PANEL_ROWS};
use crate::neon::from_halves;

/// Rows of a panel in a register, and bytes of their words.
const LANES: usize = 4;
const REGISTER_BYTES: usize = 16;

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

/// As many quarters of the panel at once as there are registers for.
#[target_feature(enable = "neon,dotprod")]
fn quantized<const F: u8, const M: usize>(panel: &[Line], words: &[u32]) -> Tile<M> {
    let mut tile = [[0.0; PANEL_ROWS]; M];
    match M {
        1 | 2 => quarters::<F, M, 4>(panel, words, 0, &mut tile),
        3 | 4 => (0..4).step_by(2).for_each(|first| quarters::<F, M, 2>(panel, words, first, &mut tile)),
        _ => (0..4).for_each(|first| quarters::<F, M, 1>(panel, words, first, &mut tile)),
    }
    tile
}

/// `Q` quarters from `first` on.
#[inline]
#[allow(clippy::needless_range_loop, reason = "constant bounds are what the compiler unrolls")]
#[target_feature(enable = "neon,dotprod")]
fn quarters<const F: u8, const M: usize, const Q: usize>(
    panel: &[Line],
    words: &[u32],
    first: usize,
    out: &mut Tile<M>,
) {
    let mut sums = [[vdupq_n_f32(0.0); M]; Q];
    let layout = layout_of(F);
    let units = panel.len() / layout.unit_lines();
    assert!(words.len() >= units * layout.unit_blocks * BLOCK_WORDS * M, "rows are narrower than the panel");
    let (mut unit, mut words) = (panel.as_ptr(), words.as_ptr());
    for _ in 0..units {
        for block in 0..layout.unit_blocks {
            // SAFETY: the unit has its lines, and the tile has `BLOCK_WORDS * M` words for each block of each unit, as `tile` has
            // asserted.
            unsafe {
                let lines = unit.add(layout.scale_lines + block * layout.quant_lines);
                let word = |which: usize, m: usize| (*words.add(which * M + m)).cast_signed();
                let float = |which: usize, m: usize| vdupq_n_f32(f32::from_bits(*words.add(which * M + m)));
                let halves = if F == Q6K { 2 } else { 1 };
                for half in 0..halves {
                    let mut dots = [[vdupq_n_s32(0); M]; Q];
                    // The bytes of Q8_0 are multiplied as signed ones, without an offset.
                    if layout.offset != 0 && F != Q8_0 {
                        for m in 0..M {
                            let offset = vdupq_n_s32(word(offset_word(layout, half), m));
                            dots.iter_mut().for_each(|dots| dots[m] = offset);
                        }
                    }
                    for group in half * GROUPS / halves..(half + 1) * GROUPS / halves {
                        for q in 0..Q {
                            let weights = group_words::<F>(lines, group, first + q);
                            let dots = &mut dots[q];
                            if M.is_multiple_of(LANES) {
                                for four in (0..M).step_by(LANES) {
                                    let quants = vld1q_s32(words.add(group * M + four).cast());
                                    dots[four] = dot::<0>(dots[four], weights, quants);
                                    dots[four + 1] = dot::<1>(dots[four + 1], weights, quants);
                                    dots[four + 2] = dot::<2>(dots[four + 2], weights, quants);
                                    dots[four + 3] = dot::<3>(dots[four + 3], weights, quants);
                                }
                            } else {
                                for m in 0..M {
                                    dots[m] = dot::<0>(dots[m], weights, vdupq_n_s32(word(group, m)));
                                }
                            }
                        }
                    }
                    for q in 0..Q {
                        let (scale, minimum) = scales_of::<F>(unit, block, half, first + q);
                        for m in 0..M {
                            let both = vmulq_f32(scale, float(SCALE, m));
                            sums[q][m] = vfmaq_f32(sums[q][m], vcvtq_f32_s32(dots[q][m]), both);
                            if F == Q4K || F == Q5K {
                                sums[q][m] = vfmaq_f32(sums[q][m], minimum, float(MINUS_SCALED_SUM, m));
                            }
                        }
                    }
                }
                words = words.add(BLOCK_WORDS * M);
            }
        }
        // SAFETY: at most one past the end.
        unit = unsafe { unit.add(layout.unit_lines()) };
    }
    for q in 0..Q {
        for m in 0..M {
            // SAFETY: a row has 16 results, four of each quarter.
            unsafe { vst1q_f32(out[m].as_mut_ptr().add((first + q) * LANES), sums[q][m]) };
        }
    }
}

/// Adds, for each of four rows, its four weights' products with one of the four words of quants. (The compiler's own is not stable.)
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot<const LANE: i32>(mut sum: int32x4_t, weights: int8x16_t, quants: int32x4_t) -> int32x4_t {
    // SAFETY: the instruction is enabled, and touches registers only.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {weights:v}.16b, {quants:v}.4b[{lane}]",
            sum = inout(vreg) sum,
            weights = in(vreg) weights,
            quants = in(vreg) quants,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// The quants of a group; they have at most seven bits, but for those of Q8_0, which are signed.
///
/// # Safety
/// `lines` are those of a block of the format.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn group_words<const F: u8>(lines: *const Line, group: usize, quarter: usize) -> int8x16_t {
    // SAFETY: the caller gives a block's lines, of 64 bytes each.
    let line =
        |index: usize| unsafe { vld1q_u8(lines.add(index).cast::<u8>().add(quarter * REGISTER_BYTES)) };
    let moved = |plane: uint8x16_t, left: i8| vshlq_u8(plane, vdupq_n_s8(left));
    if F == Q8_0 {
        return vreinterpretq_s8_u8(veorq_u8(line(group), vdupq_n_u8(128)));
    }
    let nibbles = line(group / 2);
    let low = if group % 2 == 1 { vshrq_n_u8::<4>(nibbles) } else { vandq_u8(nibbles, vdupq_n_u8(15)) };
    let quants = if F == Q5_0 || F == Q5K {
        vorrq_u8(low, vandq_u8(moved(line(4), 4 - group as i8), vdupq_n_u8(16)))
    } else if F == Q6K {
        let plane = line(4 + group / 4);
        vorrq_u8(low, vandq_u8(moved(plane, 4 - 2 * (group % 4) as i8), vdupq_n_u8(48)))
    } else {
        low
    };
    vreinterpretq_s8_u8(quants)
}

/// # Safety
/// `unit` has the lines of a unit of the format.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn scales_of<const F: u8>(
    unit: *const Line,
    block: usize,
    half: usize,
    quarter: usize,
) -> (float32x4_t, float32x4_t) {
    // SAFETY: the caller gives a unit; four halves are an eighth of a line, four bytes a sixteenth.
    unsafe {
        let at = |index: usize| index * PANEL_ROWS + quarter * LANES;
        let halves = |index: usize| from_halves(vld1_u16(unit.cast::<u16>().add(at(index))));
        let bytes = |line: usize, index: usize| {
            let four = unit.add(line).cast::<u8>().add(at(index)).cast::<u32>().read_unaligned();
            vcreate_u8(u64::from(four))
        };
        let unsigned = |line: usize, index: usize| {
            let wide = vmovl_u16(vget_low_u16(vmovl_u8(bytes(line, index))));
            vcvtq_f32_s32(vreinterpretq_s32_u32(wide))
        };
        if F == Q4K || F == Q5K {
            let scale = unsigned(1 + block / 4, block % 4);
            let minimum = unsigned(3 + block / 4, block % 4);
            return (vmulq_f32(halves(0), scale), vmulq_f32(halves(1), minimum));
        }
        if F == Q6K {
            let index = 2 * block + half;
            let scale = vmovl_s8(vreinterpret_s8_u8(bytes(1 + index / 4, index % 4)));
            let scale = vcvtq_f32_s32(vmovl_s16(vget_low_s16(scale)));
            return (vmulq_f32(halves(0), scale), vdupq_n_f32(0.0));
        }
        (halves(block), vdupq_n_f32(0.0))
    }
}
