//! The kernels of `step.cu`, run thread by thread on the CPU (`on_host/`).

use std::ffi::{c_int, c_uint};
use std::ptr;

use candle_core::{Result, Tensor};

use super::fenced::Fenced;
use super::ops::Ops;
use crate::attention::{CacheFormat, Heads};
use crate::gpu::attention::{Attend, PART_TOKENS};
use crate::gpu::heads::{HeadShape, Pairs};
use crate::gpu::residual::Gate;
use crate::gpu::step_kernels::{AttendKernel, heads_grid, join_grid, numbers_grid, rows_grid};
use crate::gpu::{GpuStore, Places, with_host};

unsafe extern "C" {
    fn turn_queries_on_host(
        x: c_uint,
        queries: *const f32,
        bias: *const f32,
        norm: *const f32,
        angles: *const f32,
        out: *mut f32,
        rows: c_int,
        heads: c_int,
        dim: c_int,
        neighbours: c_int,
        eps: f32,
        scale: f32,
    );
    fn store_keys_values_on_host(
        x: c_uint,
        cache: c_uint,
        store: *mut u8,
        keys: *const f32,
        values: *const f32,
        key_bias: *const f32,
        value_bias: *const f32,
        norm: *const f32,
        angles: *const f32,
        table: *const u32,
        places: *const u32,
        rows: c_int,
        kv_heads: c_int,
        dim: c_int,
        neighbours: c_int,
        eps: f32,
    );
    fn attend_on_host(
        x: c_uint,
        y: c_uint,
        z: c_uint,
        cache: c_uint,
        together: c_uint,
        queries: *const f32,
        store: *const u8,
        table: *const u32,
        places: *const u32,
        out: *mut f32,
        parts: *mut f32,
        statistics: *mut f32,
        heads: c_int,
        kv_heads: c_int,
        dim: c_int,
        window: c_int,
        part: c_int,
    );
    fn join_parts_on_host(
        x: c_uint,
        y: c_uint,
        parts: *const f32,
        statistics: *const f32,
        out: *mut f32,
        heads: c_int,
        dim: c_int,
        splits: c_int,
    );
    fn gate_on_host(
        x: c_uint,
        gates: *const f32,
        ups: *const f32,
        out: *mut f32,
        numbers: usize,
        gelu: c_int,
    );
    fn join_residual_on_host(
        x: c_uint,
        hidden: *const f32,
        output: *const f32,
        post: *const f32,
        next: *const f32,
        out: *mut f32,
        rows: c_int,
        width: c_int,
        eps: f32,
    );
}

pub(super) struct OnHost;

fn int(number: usize) -> c_int {
    c_int::try_from(number).unwrap()
}

fn grid(blocks: [usize; 3]) -> [c_uint; 3] {
    blocks.map(|number| c_uint::try_from(number).unwrap())
}

fn fenced<T: candle_core::WithDType>(tensor: &Tensor) -> Fenced<T> {
    with_host(tensor, Fenced::of).unwrap()
}

fn optional(tensor: Option<&Tensor>) -> Option<Fenced<f32>> {
    tensor.map(fenced)
}

fn pointer(numbers: &Option<Fenced<f32>>) -> *const f32 {
    numbers.as_ref().map_or(ptr::null(), |numbers| numbers.as_ptr())
}

/// What shows where a kernel reads it, or leaves it.
fn unwritten(numbers: usize) -> Fenced<f32> {
    Fenced::of(&vec![f32::NAN; numbers])
}

/// In the tables of `on_host/step.cpp`.
fn place(format: CacheFormat) -> c_uint {
    match format {
        CacheFormat::F16 => 0,
        CacheFormat::Bf16 => 1,
        CacheFormat::Int8 => 2,
    }
}

fn neighbours(shape: HeadShape) -> c_int {
    c_int::from(shape.pairs == Pairs::Neighbours)
}

impl Ops for OnHost {
    fn turn_queries(
        &self,
        queries: &Tensor,
        bias: Option<&Tensor>,
        norm: Option<&Tensor>,
        angles: &Tensor,
        shape: HeadShape,
        scale: f32,
    ) -> Result<Tensor> {
        let rows = queries.dim(0)?;
        let mut out = unwritten(queries.elem_count());
        let (x, bias, norm, angles) = (fenced(queries), optional(bias), optional(norm), fenced(angles));
        // SAFETY: they have the sizes that the kernel reads and writes.
        unsafe {
            turn_queries_on_host(
                grid(heads_grid(rows * shape.heads))[0],
                x.as_ptr(),
                pointer(&bias),
                pointer(&norm),
                angles.as_ptr(),
                out.as_mut_ptr(),
                int(rows),
                int(shape.heads),
                int(shape.dim),
                neighbours(shape),
                shape.eps,
                scale,
            );
        }
        Tensor::from_slice(&out, queries.shape(), queries.device())
    }

    fn store_keys_values(
        &self,
        store: &GpuStore,
        keys: &Tensor,
        values: &Tensor,
        bias: Option<(&Tensor, &Tensor)>,
        norm: Option<&Tensor>,
        angles: &Tensor,
        (places, layer): (&Places, usize),
        shape: HeadShape,
    ) -> Result<()> {
        let rows = keys.dim(0)?;
        let mut stored = fenced::<u8>(&store.bytes);
        let (keys, values, angles) = (fenced(keys), fenced(values), fenced(angles));
        let (key_bias, value_bias) = bias.unzip();
        let (key_bias, value_bias, norm) = (optional(key_bias), optional(value_bias), optional(norm));
        let (table, places) = (fenced(&places.table(layer)?), fenced(&places.rows));
        // SAFETY: as above.
        unsafe {
            store_keys_values_on_host(
                grid(heads_grid(rows * shape.heads * 2))[0],
                place(store.shape.format),
                stored.as_mut_ptr(),
                keys.as_ptr(),
                values.as_ptr(),
                pointer(&key_bias),
                pointer(&value_bias),
                pointer(&norm),
                angles.as_ptr(),
                table.as_ptr(),
                places.as_ptr(),
                int(rows),
                int(shape.heads),
                int(shape.dim),
                neighbours(shape),
                shape.eps,
            );
        }
        let bytes = &store.bytes;
        bytes.slice_set(&Tensor::from_slice(&stored, bytes.shape(), bytes.device())?, 0, 0)
    }

    fn attend(
        &self,
        queries: &Tensor,
        store: &GpuStore,
        places: (&Places, usize),
        heads: Heads,
    ) -> Result<Tensor> {
        let op = Attend::new(queries, store, places, heads)?;
        let (kernel, rows) = (AttendKernel::of(&op), queries.dim(0)?);
        let (asking, stored) = (fenced(queries), fenced::<u8>(&store.bytes));
        let (table, places) = (fenced(&op.table), fenced(&op.rows));
        let partial = rows * op.parts * heads.query;
        let (mut sums, mut statistics) = (unwritten(partial * op.store.dim), unwritten(2 * partial));
        let mut out = unwritten(asking.len());
        let [x, y, z] = grid(kernel.grid(&op, rows));
        // SAFETY: as above; every position's block is in its table.
        unsafe {
            attend_on_host(
                x,
                y,
                z,
                place(op.store.format),
                kernel.heads as c_uint,
                asking.as_ptr(),
                stored.as_ptr(),
                table.as_ptr(),
                places.as_ptr(),
                out.as_mut_ptr(),
                sums.as_mut_ptr(),
                statistics.as_mut_ptr(),
                int(heads.query),
                int(op.store.kv_heads),
                int(op.store.dim),
                int(heads.window.unwrap_or(0)),
                int(PART_TOKENS),
            );
        }
        if op.parts > 1 {
            let [x, y, _] = grid(join_grid(rows, heads.query));
            let (dim, parts) = (int(op.store.dim), int(op.parts));
            let (sums, statistics) = (sums.as_ptr(), statistics.as_ptr());
            // SAFETY: as above.
            unsafe {
                join_parts_on_host(x, y, sums, statistics, out.as_mut_ptr(), int(heads.query), dim, parts);
            }
        }
        Tensor::from_slice(&out, queries.shape(), queries.device())
    }

    fn gate(&self, gates: &Tensor, ups: &Tensor, activation: Gate) -> Result<Tensor> {
        let mut out = unwritten(gates.elem_count());
        let (x, y) = (fenced(gates), fenced(ups));
        let (blocks, gelu) = (grid(numbers_grid(out.len()))[0], c_int::from(activation == Gate::GeluTanh));
        // SAFETY: all three have so many numbers.
        unsafe { gate_on_host(blocks, x.as_ptr(), y.as_ptr(), out.as_mut_ptr(), out.len(), gelu) };
        Tensor::from_slice(&out, gates.shape(), gates.device())
    }

    fn join_residual(
        &self,
        hidden: &Tensor,
        output: &Tensor,
        post: Option<&Tensor>,
        next: &Tensor,
        eps: f32,
    ) -> Result<(Tensor, Tensor)> {
        let (rows, width) = hidden.dims2()?;
        let mut out = unwritten(2 * rows * width);
        let (x, y, post, next) = (fenced(hidden), fenced(output), optional(post), fenced(next));
        // SAFETY: they have the sizes that the kernel reads and writes.
        unsafe {
            join_residual_on_host(
                grid(rows_grid(rows))[0],
                x.as_ptr(),
                y.as_ptr(),
                pointer(&post),
                next.as_ptr(),
                out.as_mut_ptr(),
                int(rows),
                int(width),
                eps,
            );
        }
        let both = Tensor::from_slice(&out, (2, rows, width), hidden.device())?;
        Ok((both.get(0)?, both.get(1)?))
    }
}
