//! The kernels of `product.cu`, run thread by thread on the CPU (`on_host/`).

use std::ffi::{c_int, c_uint};

use proptest::prelude::*;

use super::super::PanelShape;
use super::super::kernel::{ProductKernel, floats_grid, rounding_grid};
use super::super::tiles::{tiles, words_for};
use super::Case;
use crate::gpu::tests::fenced::Fenced;
use crate::line::Line;
use crate::{Rows, WeightFormat};

unsafe extern "C" {
    fn round_rows_on_host(
        x: c_uint,
        y: c_uint,
        rows: *const f32,
        out: *mut u32,
        count: c_int,
        columns: c_int,
        blocks: c_int,
    );
    fn multiply_on_host(
        x: c_uint,
        y: c_uint,
        format: c_uint,
        kernel: c_uint,
        lines: *const u32,
        rounded: *const u32,
        out: *mut f32,
        outputs: c_int,
        count: c_int,
        columns: c_int,
        blocks: c_int,
    );
    fn multiply_floats_on_host(
        x: c_uint,
        y: c_uint,
        format: c_uint,
        lines: *const u32,
        rows: *const f32,
        out: *mut f32,
        outputs: c_int,
        count: c_int,
        columns: c_int,
    );
}

/// What no kernel leaves where it writes.
const UNWRITTEN: f32 = -12_345.0;

fn int(number: usize) -> c_int {
    c_int::try_from(number).unwrap()
}

fn grid([x, y]: [usize; 2]) -> [c_uint; 2] {
    [x, y].map(|number| c_uint::try_from(number).unwrap())
}

/// In the table of its kind in `on_host/product.cpp`.
fn place(format: WeightFormat) -> c_uint {
    use WeightFormat::{BF16, F16, F32, Q4_0, Q4K, Q5_0, Q5K, Q6K, Q8_0};
    match format {
        Q4_0 | F32 => 0,
        Q5_0 | F16 => 1,
        Q8_0 | BF16 => 2,
        Q4K => 3,
        Q5K => 4,
        Q6K => 5,
    }
}

fn round_rows(columns: usize, rows: &[f32]) -> Vec<u32> {
    let (count, blocks) = (rows.len() / columns, Rows::blocks_of(columns));
    let mut out = Fenced::of(&vec![u32::MAX; words_for(count, columns)]);
    let [x, y] = grid(rounding_grid(count, columns));
    // SAFETY: they have the sizes that the kernel reads and writes.
    unsafe {
        round_rows_on_host(x, y, rows.as_ptr(), out.as_mut_ptr(), int(count), int(columns), int(blocks));
    }
    out.to_vec()
}

fn multiply(
    kernel: ProductKernel,
    PanelShape { format, outputs, columns }: PanelShape,
    lines: &[u32],
    (tiles, count): (&[u32], usize),
) -> Vec<f32> {
    let blocks = Rows::blocks_of(columns);
    let mut out = Fenced::of(&vec![UNWRITTEN; count * outputs]);
    let [x, y] = grid(kernel.grid(outputs, count));
    // SAFETY: as above.
    unsafe {
        multiply_on_host(
            x,
            y,
            place(format),
            kernel as c_uint,
            lines.as_ptr(),
            tiles.as_ptr(),
            out.as_mut_ptr(),
            int(outputs),
            int(count),
            int(columns),
            int(blocks),
        );
    }
    out.to_vec()
}

fn multiply_floats(
    PanelShape { format, outputs, columns }: PanelShape,
    lines: &[u32],
    rows: &[f32],
) -> Vec<f32> {
    let count = rows.len() / columns;
    let mut out = Fenced::of(&vec![UNWRITTEN; count * outputs]);
    let [x, y] = grid(floats_grid(outputs, count));
    // SAFETY: as above.
    unsafe {
        multiply_floats_on_host(
            x,
            y,
            place(format),
            lines.as_ptr(),
            rows.as_ptr(),
            out.as_mut_ptr(),
            int(outputs),
            int(count),
            int(columns),
        );
    }
    out.to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn kernels_give_the_bits_of_the_cpu(
        format in prop::sample::select(WeightFormat::ALL.to_vec()), outputs in 1usize..70, units in 1usize..12,
        count in 1usize..40, seed in any::<u64>(),
    ) {
        let Case { matrix, rows, expected } = Case::new(format, outputs, units, count, seed);
        let shape = PanelShape { format, outputs, columns: matrix.columns() };
        let (lines, rows) = (Fenced::of(Line::words(matrix.lines())), Fenced::of(&rows));
        if format.layout().is_none() {
            prop_assert_eq!(&multiply_floats(shape, &lines, &rows), &expected);
            return Ok(());
        }
        let rounded = Fenced::of(&round_rows(shape.columns, &rows));
        prop_assert_eq!(&*rounded, &tiles(&Rows::rounded(shape.columns, &rows)));
        for kernel in ProductKernel::ALL {
            prop_assert_eq!(&multiply(kernel, shape, &lines, (&rounded, count)), &expected, "{:?}", kernel);
        }
    }
}
