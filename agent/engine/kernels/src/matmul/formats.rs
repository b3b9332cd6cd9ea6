//! Formats as numbers, which kernels are compiled for one by one.

use crate::WeightFormat;
use crate::format::Layout;

pub(super) const F32: u8 = 0;
pub(super) const F16: u8 = 1;
pub(super) const BF16: u8 = 2;
pub(super) const Q4_0: u8 = 3;
pub(super) const Q5_0: u8 = 4;
pub(super) const Q8_0: u8 = 5;
pub(super) const Q4K: u8 = 6;
pub(super) const Q5K: u8 = 7;
pub(super) const Q6K: u8 = 8;

pub(super) const fn format_of(number: u8) -> WeightFormat {
    match number {
        F32 => WeightFormat::F32,
        F16 => WeightFormat::F16,
        BF16 => WeightFormat::BF16,
        Q4_0 => WeightFormat::Q4_0,
        Q5_0 => WeightFormat::Q5_0,
        Q8_0 => WeightFormat::Q8_0,
        Q4K => WeightFormat::Q4K,
        Q5K => WeightFormat::Q5K,
        _ => WeightFormat::Q6K,
    }
}

/// Of a quantized format; the others have none.
pub(super) const fn layout_of(number: u8) -> Layout {
    match format_of(number).layout() {
        Some(layout) => layout,
        None => Layout { unit_blocks: 1, scale_lines: 0, quant_lines: 1, offset: 0 },
    }
}
