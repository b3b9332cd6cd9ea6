//! The kernels of `quantized.cu` and `floats.cu`, run thread by thread on the CPU (`on_host/`).

use std::ffi::{c_int, c_uint};

use proptest::prelude::*;

use super::super::PanelShape;
use super::super::kernel::{FloatsKernel, QuantizedKernel, tiles_grid};
use super::super::tiles::Tiles;
use super::Case;
use crate::WeightFormat;
use crate::gpu::tests::fenced::Fenced;
use crate::line::Line;

/// Makes tiles of rows.
type Make = unsafe extern "C" fn(
    x: c_uint,
    y: c_uint,
    rows: *const f32,
    out: *mut u32,
    count: c_int,
    columns: c_int,
    blocks: c_int,
);

/// Multiplies tiles; format and kernel are places in the table of its file.
type Multiply = unsafe extern "C" fn(
    x: c_uint,
    y: c_uint,
    format: c_uint,
    kernel: c_uint,
    lines: *const u32,
    tiles: *const u32,
    out: *mut f32,
    outputs: c_int,
    count: c_int,
    columns: c_int,
    blocks: c_int,
);

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
    fn split_rows_on_host(
        x: c_uint,
        y: c_uint,
        rows: *const f32,
        out: *mut u32,
        count: c_int,
        columns: c_int,
        blocks: c_int,
    );
    fn multiply_quantized_on_host(
        x: c_uint,
        y: c_uint,
        format: c_uint,
        kernel: c_uint,
        lines: *const u32,
        tiles: *const u32,
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
        kernel: c_uint,
        lines: *const u32,
        tiles: *const u32,
        out: *mut f32,
        outputs: c_int,
        count: c_int,
        columns: c_int,
        blocks: c_int,
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

/// In the table of its file in `on_host/`.
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

fn make(tiles: Tiles, columns: usize, rows: &[f32]) -> Vec<u32> {
    let count = rows.len() / columns;
    let mut out = Fenced::of(&vec![u32::MAX; tiles.words(count, columns)]);
    let [x, y] = grid(tiles_grid(tiles, count, columns));
    let make: Make = match tiles {
        Tiles::Rounded => round_rows_on_host,
        Tiles::Split => split_rows_on_host,
    };
    // SAFETY: they have the sizes that the kernel reads and writes.
    unsafe {
        make(x, y, rows.as_ptr(), out.as_mut_ptr(), int(count), int(columns), int(tiles.blocks(columns)))
    };
    out.to_vec()
}

/// What each of the kernels for a format gives.
fn products(
    PanelShape { format, outputs, columns }: PanelShape,
    lines: &[u32],
    (made, count): (&[u32], usize),
) -> Vec<Vec<f32>> {
    let tiles = Tiles::of(format);
    let (multiply, grids): (Multiply, Vec<_>) = match tiles {
        Tiles::Rounded => {
            let grids = QuantizedKernel::ALL.map(|kernel| kernel.grid(outputs, count));
            (multiply_quantized_on_host, grids.into())
        }
        Tiles::Split => {
            let grids = FloatsKernel::ALL.map(|kernel| kernel.grid(outputs, count));
            (multiply_floats_on_host, grids.into())
        }
    };
    let of_kernel = |(kernel, blocks): (usize, [usize; 2])| {
        let mut out = Fenced::of(&vec![UNWRITTEN; count * outputs]);
        let [x, y] = grid(blocks);
        // SAFETY: as above.
        unsafe {
            multiply(
                x,
                y,
                place(format),
                c_uint::try_from(kernel).unwrap(),
                lines.as_ptr(),
                made.as_ptr(),
                out.as_mut_ptr(),
                int(outputs),
                int(count),
                int(columns),
                int(tiles.blocks(columns)),
            );
        }
        out.to_vec()
    };
    grids.into_iter().enumerate().map(of_kernel).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn kernels_give_what_the_cpu_does_and_the_same_bits_in_any_company(
        format in prop::sample::select(WeightFormat::ALL.to_vec()), outputs in 1usize..140, units in 1usize..12,
        count in 1usize..80, seed in any::<u64>(), fewer in any::<prop::sample::Index>(),
    ) {
        let case = Case::new(format, outputs, units, count, seed);
        let (tiles, shape) = (Tiles::of(format), PanelShape { format, outputs, columns: case.matrix.columns() });
        let (lines, rows) = (Fenced::of(Line::words(case.matrix.lines())), Fenced::of(&case.rows));
        let made = Fenced::of(&make(tiles, shape.columns, &rows));
        prop_assert_eq!(&*made, &tiles.make(&case.rows, shape.columns));
        let all = products(shape, &lines, (&made, count));
        for (kernel, products) in all.iter().enumerate() {
            prop_assert!(case.expects(products), "kernel {}", kernel);
            prop_assert_eq!(products, &all[0], "kernel {}", kernel);
        }
        let fewer = 1 + fewer.index(count);
        let rows = Fenced::of(&case.rows[..fewer * shape.columns]);
        let made = Fenced::of(&make(tiles, shape.columns, &rows));
        for (kernel, products) in products(shape, &lines, (&made, fewer)).iter().enumerate() {
            prop_assert_eq!(products, &all[0][..fewer * outputs], "kernel {} for {} rows", kernel, fewer);
        }
    }
}
