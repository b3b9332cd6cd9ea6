use super::Tile;
use crate::format::{BLOCK, GROUPS, Layout};
use crate::line::{Line, PANEL_ROWS};
use crate::repack::{float_at, group_word, scale_of};
use crate::{Rows, WeightFormat};

/// Partial sums of a floating-point product, so that additions do not wait for each other.
pub(super) const PARTIAL_SUMS: usize = 4;

/// The plain twin of the vector kernels.
pub(super) fn tile<const M: usize>(format: WeightFormat, panel: &[Line], rows: &Rows, row: usize) -> Tile<M> {
    match format.layout() {
        Some(layout) => quantized(format, layout, panel, rows, row),
        None => floating(format, panel, rows, row),
    }
}

/// The floating-point formats compiled for AVX2.
#[cfg(target_arch = "x86_64")]
pub(super) fn floats_avx2<const M: usize>(
    format: WeightFormat,
    panel: &[Line],
    rows: &Rows,
    row: usize,
) -> Tile<M> {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn compiled<const M: usize>(format: WeightFormat, panel: &[Line], rows: &Rows, row: usize) -> Tile<M> {
        floating(format, panel, rows, row)
    }
    // SAFETY: the caller names an instruction set that the machine has.
    unsafe { compiled(format, panel, rows, row) }
}

#[inline(always)]
fn quantized<const M: usize>(
    format: WeightFormat,
    layout: Layout,
    panel: &[Line],
    rows: &Rows,
    row: usize,
) -> Tile<M> {
    // Halves of a block have scales of their own in one format only.
    let halves = if format == WeightFormat::Q6K { 2 } else { 1 };
    let mut sums = [[0.0; PANEL_ROWS]; M];
    for (index, unit) in panel.chunks_exact(layout.unit_lines()).enumerate() {
        for block in 0..layout.unit_blocks {
            let at = index * layout.unit_blocks + block;
            if at >= rows.blocks() {
                break;
            }
            let lines = &unit[layout.scale_lines + block * layout.quant_lines..][..layout.quant_lines];
            for half in 0..halves {
                let groups = half * GROUPS / halves..(half + 1) * GROUPS / halves;
                let mut words = [[0u32; PANEL_ROWS]; GROUPS];
                for group in groups.clone() {
                    for (lane, word) in words[group].iter_mut().enumerate() {
                        *word = group_word(format, lines, group, lane);
                    }
                }
                let mut scales = [(0.0, 0.0); PANEL_ROWS];
                for (lane, scale) in scales.iter_mut().enumerate() {
                    *scale = scale_of(format, unit, block, half, lane);
                }
                for (tile_row, sums) in sums.iter_mut().enumerate() {
                    let block_of_row = (row + tile_row) * rows.blocks() + at;
                    let [first, second] = rows.sums[block_of_row];
                    let quants_sum = if halves == 1 { first + second } else { [first, second][half] };
                    let mut dots = [-layout.offset * quants_sum; PANEL_ROWS];
                    for group in groups.clone() {
                        let four = rows.words[block_of_row * GROUPS + group].to_le_bytes();
                        for (dot, word) in dots.iter_mut().zip(words[group]) {
                            for (weight, quant) in word.to_le_bytes().into_iter().zip(four) {
                                *dot += i32::from(weight) * i32::from(quant as i8);
                            }
                        }
                    }
                    let scale_of_row = rows.scales[block_of_row];
                    let taken = scale_of_row * quants_sum as f32;
                    for (lane, sum) in sums.iter_mut().enumerate() {
                        let (scale, minimum) = scales[lane];
                        *sum = (dots[lane] as f32).mul_add(scale * scale_of_row, *sum);
                        if matches!(format, WeightFormat::Q4K | WeightFormat::Q5K) {
                            *sum = (-minimum).mul_add(taken, *sum);
                        }
                    }
                }
            }
        }
    }
    sums
}

#[inline(always)]
fn floating<const M: usize>(format: WeightFormat, panel: &[Line], rows: &Rows, row: usize) -> Tile<M> {
    let mut partial = [[[0.0f32; PANEL_ROWS]; M]; PARTIAL_SUMS];
    let columns = rows.columns();
    for column in 0..columns {
        let mut weights = [0.0; PANEL_ROWS];
        for (lane, weight) in weights.iter_mut().enumerate() {
            *weight = float_at(format, panel, column, lane);
        }
        for (tile_row, sums) in partial[column % PARTIAL_SUMS].iter_mut().enumerate() {
            let number = rows.floats()[(row + tile_row) * columns + column];
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = weight.mul_add(number, *sum);
            }
        }
    }
    let mut sums = [[0.0; PANEL_ROWS]; M];
    for (tile_row, sums) in sums.iter_mut().enumerate() {
        for (lane, sum) in sums.iter_mut().enumerate() {
            let [a, b, c, d] = partial.map(|part| part[tile_row][lane]);
            *sum = (a + b) + (c + d);
        }
    }
    sums
}

const _: () = assert!(BLOCK == 4 * GROUPS);
