//! From the rows of a file to panels of 16 rows, and back to single numbers.

use half::{bf16, f16};

use crate::WeightFormat;
use crate::format::{BLOCK, GROUPS, Layout};
use crate::line::{Line, PANEL_ROWS};

/// Lays out up to 16 rows of a file. `panel` has the lines of a panel, all zero; `rows` has whole rows.
pub(crate) fn pack(format: WeightFormat, columns: usize, rows: &[u8], panel: &mut [Line]) {
    let (numbers, bytes) = format.file_block();
    let row_bytes = columns / numbers * bytes;
    for (row, source) in rows.chunks_exact(row_bytes).enumerate() {
        let blocks = source.chunks_exact(bytes);
        match format.layout() {
            None => pack_floats(source, bytes, row, panel),
            Some(layout) if numbers == BLOCK => {
                for (index, block) in blocks.enumerate() {
                    let unit = &mut panel[index / layout.unit_blocks * layout.unit_lines()..];
                    pack_block(format, layout, block, row, index % layout.unit_blocks, unit);
                }
            }
            Some(layout) => {
                for (block, unit) in blocks.zip(panel.chunks_exact_mut(layout.unit_lines())) {
                    pack_super_block(format, layout, block, row, unit);
                }
            }
        }
    }
}

fn pack_floats(source: &[u8], bytes: usize, row: usize, panel: &mut [Line]) {
    if bytes == 4 {
        for (number, line) in source.chunks_exact(4).zip(panel) {
            line.0[row] = u32::from_le_bytes([number[0], number[1], number[2], number[3]]);
        }
        return;
    }
    for (index, number) in source.chunks_exact(2).enumerate() {
        let half = u16::from_le_bytes([number[0], number[1]]);
        panel[index / 2].set_half(index % 2 * PANEL_ROWS + row, half);
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn pack_block(
    format: WeightFormat,
    layout: Layout,
    source: &[u8],
    row: usize,
    block: usize,
    unit: &mut [Line],
) {
    unit[0].set_half(block * PANEL_ROWS + row, u16_at(source, 0));
    let lines = &mut unit[layout.scale_lines + block * layout.quant_lines..];
    let mut quants = [0u8; BLOCK];
    match format {
        WeightFormat::Q8_0 => {
            for (line, word) in lines.iter_mut().zip(source[2..].chunks_exact(4)) {
                line.0[row] = u32::from_le_bytes([word[0], word[1], word[2], word[3]]) ^ 0x8080_8080;
            }
            return;
        }
        WeightFormat::Q5_0 => {
            let high = u32::from_le_bytes([source[2], source[3], source[4], source[5]]);
            split_nibbles(&source[6..22], &mut quants);
            for (index, quant) in quants.iter_mut().enumerate() {
                *quant |= ((high >> index & 1) as u8) << 4;
            }
        }
        _ => split_nibbles(&source[2..18], &mut quants),
    }
    pack_quants(&quants, layout.quant_lines, row, lines);
}

/// Low nibbles are the first half, high ones the second.
fn split_nibbles(bytes: &[u8], quants: &mut [u8; BLOCK]) {
    for (index, byte) in bytes.iter().enumerate() {
        quants[index] = byte & 15;
        quants[index + BLOCK / 2] = byte >> 4;
    }
}

/// Four lines of nibbles, each with two groups of four numbers for each row; further lines have the bits above, one bit
/// of each group to a line of five-bit quants, two bits of half the groups to each line of six-bit ones.
fn pack_quants(quants: &[u8; BLOCK], quant_lines: usize, row: usize, lines: &mut [Line]) {
    for (group, word) in quants.chunks_exact(4).enumerate() {
        let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        lines[group / 2].0[row] |= (word & 0x0f0f_0f0f) << (4 * (group % 2));
        match quant_lines {
            5 => lines[4].0[row] |= (word >> 4 & 0x0101_0101) << group,
            6 => lines[4 + group / 4].0[row] |= (word >> 4 & 0x0303_0303) << (2 * (group % 4)),
            _ => {}
        }
    }
}

/// The word of four quants that the kernels multiply.
pub(crate) fn group_word(format: WeightFormat, lines: &[Line], group: usize, row: usize) -> u32 {
    if format == WeightFormat::Q8_0 {
        return lines[group].0[row];
    }
    let low = lines[group / 2].0[row] >> (4 * (group % 2)) & 0x0f0f_0f0f;
    let high = match format {
        WeightFormat::Q5_0 | WeightFormat::Q5K => (lines[4].0[row] >> group & 0x0101_0101) << 4,
        WeightFormat::Q6K => (lines[4 + group / 4].0[row] >> (2 * (group % 4)) & 0x0303_0303) << 4,
        _ => 0,
    };
    low | high
}

/// The scale line has `d` and `dmin` of each row; two lines have the blocks' scales, two their minima.
fn pack_super_block(format: WeightFormat, layout: Layout, source: &[u8], row: usize, unit: &mut [Line]) {
    if format == WeightFormat::Q6K {
        return pack_q6k(layout, source, row, unit);
    }
    unit[0].set_half(row, u16_at(source, 0));
    unit[0].set_half(PANEL_ROWS + row, u16_at(source, 2));
    let (high, low) =
        if format == WeightFormat::Q5K { (&source[16..48], &source[48..]) } else { (&[][..], &source[16..]) };
    for block in 0..layout.unit_blocks {
        let (scale, minimum) = scale_and_minimum(&source[4..16], block);
        unit[1 + block / 4].set_byte(block % 4 * PANEL_ROWS + row, scale);
        unit[3 + block / 4].set_byte(block % 4 * PANEL_ROWS + row, minimum);
        let mut quants = [0; BLOCK];
        for (index, quant) in quants.iter_mut().enumerate() {
            *quant = low[block / 2 * BLOCK + index] >> (4 * (block % 2)) & 15;
            if let Some(bits) = high.get(index) {
                *quant |= (bits >> block & 1) << 4;
            }
        }
        let lines = &mut unit[layout.scale_lines + block * layout.quant_lines..];
        pack_quants(&quants, layout.quant_lines, row, lines);
    }
}

/// Six bits each, in twelve bytes (ggml's `get_scale_min_k4`).
fn scale_and_minimum(packed: &[u8], block: usize) -> (u8, u8) {
    if block < 4 {
        (packed[block] & 63, packed[block + 4] & 63)
    } else {
        let both = packed[block + 4];
        (both & 15 | packed[block - 4] >> 6 << 4, both >> 4 | packed[block] >> 6 << 4)
    }
}

fn pack_q6k(layout: Layout, source: &[u8], row: usize, unit: &mut [Line]) {
    let (low, high, scales) = (&source[..128], &source[128..192], &source[192..208]);
    unit[0].set_half(row, u16_at(source, 208));
    for (index, scale) in scales.iter().enumerate() {
        unit[1 + index / 4].set_byte(index % 4 * PANEL_ROWS + row, *scale);
    }
    for block in 0..layout.unit_blocks {
        let (half, quarter) = (block / 4, block % 4);
        let mut quants = [0; BLOCK];
        for (index, quant) in quants.iter_mut().enumerate() {
            let nibble = low[half * 64 + quarter % 2 * BLOCK + index] >> (4 * (quarter / 2)) & 15;
            let bits = high[half * BLOCK + index] >> (2 * quarter) & 3;
            *quant = nibble | bits << 4;
        }
        let lines = &mut unit[layout.scale_lines + block * layout.quant_lines..];
        pack_quants(&quants, layout.quant_lines, row, lines);
    }
}

/// The scale of a block's half and what is taken off its products: numbers are `quant * scale - minimum`, where the
/// quant has its offset taken off.
#[inline(always)]
pub(crate) fn scale_of(
    format: WeightFormat,
    unit: &[Line],
    block: usize,
    half: usize,
    row: usize,
) -> (f32, f32) {
    let float = |index: usize| f16::from_bits(unit[0].half(index)).to_f32_const();
    match format {
        WeightFormat::Q4K | WeightFormat::Q5K => {
            let of = |line: usize| f32::from(unit[line + block / 4].byte(block % 4 * PANEL_ROWS + row));
            (float(row) * of(1), float(PANEL_ROWS + row) * of(3))
        }
        WeightFormat::Q6K => {
            let index = 2 * block + half;
            let scale = unit[1 + index / 4].byte(index % 4 * PANEL_ROWS + row) as i8;
            (float(row) * f32::from(scale), 0.0)
        }
        _ => (float(block * PANEL_ROWS + row), 0.0),
    }
}

/// One row of a panel as numbers; `out` has the columns.
pub(crate) fn unpack_row(format: WeightFormat, panel: &[Line], row: usize, out: &mut [f32]) {
    let Some(layout) = format.layout() else {
        for (index, number) in out.iter_mut().enumerate() {
            *number = float_at(format, panel, index, row);
        }
        return;
    };
    for (index, numbers) in out.chunks_mut(BLOCK).enumerate() {
        let unit = &panel[index / layout.unit_blocks * layout.unit_lines()..];
        let block = index % layout.unit_blocks;
        let lines = &unit[layout.scale_lines + block * layout.quant_lines..];
        for (group, four) in numbers.chunks_mut(4).enumerate() {
            let (scale, minimum) = scale_of(format, unit, block, group / (GROUPS / 2), row);
            let word = group_word(format, lines, group, row).to_le_bytes();
            for (number, quant) in four.iter_mut().zip(word) {
                *number = (i32::from(quant) - layout.offset) as f32 * scale - minimum;
            }
        }
    }
}

#[inline(always)]
pub(crate) fn float_at(format: WeightFormat, panel: &[Line], column: usize, row: usize) -> f32 {
    let half = || panel[column / 2].half(column % 2 * PANEL_ROWS + row);
    match format {
        WeightFormat::BF16 => bf16::from_bits(half()).to_f32_const(),
        WeightFormat::F16 => f16::from_bits(half()).to_f32_const(),
        _ => f32::from_bits(panel[column].0[row]),
    }
}
