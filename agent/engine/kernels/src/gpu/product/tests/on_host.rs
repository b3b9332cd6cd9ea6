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

unsafe extern "C" {
    fn make_tiles_on_host(
        x: c_uint,
        y: c_uint,
        split: c_uint,
        rows: *const f32,
        out: *mut u32,
        count: c_int,
        columns: c_int,
        blocks: c_int,
    );
    fn multiply_tiles_on_host(
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

/// In the table of `on_host/product.cpp`.
fn place(format: WeightFormat) -> c_uint {
    match format {
        WeightFormat::F32 => 0,
        WeightFormat::F16 => 1,
        WeightFormat::BF16 => 2,
        WeightFormat::Q4_0 => 3,
        WeightFormat::Q5_0 => 4,
        WeightFormat::Q8_0 => 5,
        WeightFormat::Q4K => 6,
        WeightFormat::Q5K => 7,
        WeightFormat::Q6K => 8,
    }
}

fn make(tiles: Tiles, columns: usize, rows: &[f32]) -> Vec<u32> {
    let count = rows.len() / columns;
    let mut out = Fenced::of(&vec![u32::MAX; tiles.words(count, columns)]);
    let [x, y] = grid(tiles_grid(tiles, count, columns));
    let split = c_uint::from(tiles == Tiles::Split);
    let (count, blocks) = (int(count), int(tiles.blocks(columns)));
    // SAFETY: they have the sizes that the kernel reads and writes.
    unsafe { make_tiles_on_host(x, y, split, rows.as_ptr(), out.as_mut_ptr(), count, int(columns), blocks) };
    out.to_vec()
}

/// What each of the kernels for a format gives.
fn products(
    PanelShape { format, outputs, columns }: PanelShape,
    lines: &[u32],
    (made, count): (&[u32], usize),
) -> Vec<Vec<f32>> {
    let tiles = Tiles::of(format);
    let grids = match tiles {
        Tiles::Rounded => QuantizedKernel::ALL.map(|kernel| kernel.grid(outputs, count)).to_vec(),
        Tiles::Split => FloatsKernel::ALL.map(|kernel| kernel.grid(outputs, count)).to_vec(),
    };
    let of_kernel = |(kernel, blocks): (usize, [usize; 2])| {
        let mut out = Fenced::of(&vec![UNWRITTEN; count * outputs]);
        let [x, y] = grid(blocks);
        // SAFETY: as above.
        unsafe {
            multiply_tiles_on_host(
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
