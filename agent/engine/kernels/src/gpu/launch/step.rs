//! The kernels of `step.cu`.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaView, LaunchConfig, PushKernelArg};
use candle_core::{CudaStorage, Layout, Result, Shape, Storage, Tensor, bail};

use super::super::attention::{Attend, PART_TOKENS};
use super::super::heads::{Pairs, StoreKeysValues, TurnQueries};
use super::super::residual::{Gate, JoinResidual};
use super::super::step_kernels::{
    AttendKernel, THREADS, cache_name, heads_grid, join_grid, numbers_grid, rows_grid,
};
use super::{Part, arguments, empty, int, view};

const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/step.ptx"));
const MODULE: &str = "llmdeck-step";
/// Stands for an argument that is absent.
const NULL: u64 = 0;

fn grid(blocks: [usize; 3]) -> Result<LaunchConfig> {
    super::grid(blocks, THREADS)
}

/// Reads an argument that is a tensor; a macro, since its storage has to stay borrowed.
macro_rules! borrow {
    ($name:ident : $type:ty = $tensor:expr) => {
        let held = $tensor.storage_and_layout();
        let $name: CudaView<'_, $type> = match &*held.0 {
            Storage::Cuda(storage) => view((storage, held.1))?,
            Storage::Cpu(_) | Storage::Metal(_) => bail!("a step's tensors are on one device"),
        };
    };
}

macro_rules! borrow_optional {
    ($name:ident = $tensor:expr) => {
        let tensor: Option<&Tensor> = $tensor;
        let held = tensor.map(Tensor::storage_and_layout);
        let $name: Option<CudaView<'_, f32>> = match &held {
            None => None,
            Some((storage, layout)) => match &**storage {
                Storage::Cuda(storage) => Some(view((storage, layout))?),
                Storage::Cpu(_) | Storage::Metal(_) => bail!("a step's tensors are on one device"),
            },
        };
    };
}

macro_rules! optional {
    ($builder:ident, $argument:expr) => {
        match &$argument {
            Some(view) => $builder.arg(view),
            None => $builder.arg(&NULL),
        };
    };
}

pub(in super::super) fn turn_queries(
    op: &TurnQueries,
    storage: &CudaStorage,
    layout: &Layout,
) -> Result<(CudaStorage, Shape)> {
    let device = storage.device.clone();
    let queries = view::<f32>((storage, layout))?;
    let (heads, dim) = (op.shape.heads, op.shape.dim);
    let rows = queries.len() / (heads * dim);
    let mut out = empty(&device, queries.len())?;
    borrow_optional!(bias = op.bias.as_ref());
    borrow_optional!(norm = op.norm.as_ref());
    borrow!(angles: f32 = op.angles);
    if angles.len() < rows * dim {
        bail!("angles are missing");
    }
    let function = device.get_or_load_custom_func("turn_queries", MODULE, PTX)?;
    let (rows_i, heads_i, dim_i) = (int(rows)?, int(heads)?, int(dim)?);
    let neighbours = i32::from(op.shape.pairs == Pairs::Neighbours);
    let mut builder = function.builder();
    builder.arg(&queries);
    optional!(builder, bias);
    optional!(builder, norm);
    arguments!(builder, &angles, &mut out, &rows_i, &heads_i, &dim_i, &neighbours, &op.shape.eps, &op.scale);
    // SAFETY: the views have the sizes that the kernel reads and writes.
    unsafe { builder.launch(grid(heads_grid(rows * heads))?) }.w()?;
    Ok((CudaStorage::wrap_cuda_slice(out, device), layout.shape().clone()))
}

pub(in super::super) fn store_keys_values(
    op: &StoreKeysValues,
    (store, store_layout): (&mut CudaStorage, &Layout),
    keys: Part<'_>,
    values: Part<'_>,
) -> Result<()> {
    let device = store.device.clone();
    let (keys, values) = (view::<f32>(keys)?, view::<f32>(values)?);
    if store_layout.start_offset() != 0 {
        bail!("a store is a tensor of its own");
    }
    let (heads, dim) = (op.shape.heads, op.shape.dim);
    let rows = keys.len() / (heads * dim);
    let (key_bias, value_bias) = op.bias.as_ref().map(|(keys, values)| (keys, values)).unzip();
    borrow_optional!(key_bias = key_bias);
    borrow_optional!(value_bias = value_bias);
    borrow_optional!(norm = op.norm.as_ref());
    borrow!(angles: f32 = op.angles);
    borrow!(table: u32 = op.table);
    borrow!(places: u32 = op.rows);
    if angles.len() < rows * dim || places.len() < rows * 2 || values.len() < keys.len() {
        bail!("angles, places or values are missing");
    }
    let name = format!("store_keys_values_{}", cache_name(op.store.format));
    let function = device.get_or_load_custom_func(&name, MODULE, PTX)?;
    let (rows_i, heads_i, dim_i) = (int(rows)?, int(heads)?, int(dim)?);
    let neighbours = i32::from(op.shape.pairs == Pairs::Neighbours);
    let store = store.as_cuda_slice_mut::<u8>()?;
    let mut builder = function.builder();
    arguments!(builder, store, &keys, &values);
    optional!(builder, key_bias);
    optional!(builder, value_bias);
    optional!(builder, norm);
    arguments!(builder, &angles, &table, &places, &rows_i, &heads_i, &dim_i, &neighbours, &op.shape.eps);
    // SAFETY: the views have the sizes that the kernel reads; the caller's pool hands out blocks of this store only.
    unsafe { builder.launch(grid(heads_grid(rows * heads * 2))?) }.w()?;
    Ok(())
}

pub(in super::super) fn attend(
    op: &Attend,
    queries: Part<'_>,
    store: Part<'_>,
) -> Result<(CudaStorage, Shape)> {
    let (device, shape) = (queries.0.device.clone(), queries.1.shape().clone());
    let (queries, store) = (view::<f32>(queries)?, view::<u8>(store)?);
    let (heads, dim, parts) = (op.heads.query, op.store.dim, op.parts);
    let rows = queries.len() / (heads * dim);
    borrow!(table: u32 = op.table);
    borrow!(places: u32 = op.rows);
    let mut out = empty(&device, queries.len())?;
    // Sums of parts, and their statistics.
    let partial = rows * parts * heads;
    let mut joined = match parts {
        1 => None,
        _ => Some((empty(&device, partial * dim)?, empty(&device, 2 * partial)?)),
    };
    let kernel = AttendKernel::of(op);
    let (heads_i, kv_heads_i, dim_i) = (int(heads)?, int(op.store.kv_heads)?, int(dim)?);
    let (window, part) = (int(op.heads.window.unwrap_or(0))?, int(PART_TOKENS)?);
    let name = format!("attend_{}_{}", cache_name(op.store.format), kernel.heads);
    let function = device.get_or_load_custom_func(&name, MODULE, PTX)?;
    let mut builder = function.builder();
    arguments!(builder, &queries, &store, &table, &places, &mut out);
    match &mut joined {
        Some((sums, statistics)) => arguments!(builder, sums, statistics),
        None => arguments!(builder, &NULL, &NULL),
    }
    arguments!(builder, &heads_i, &kv_heads_i, &dim_i, &window, &part);
    // SAFETY: the views have the sizes that the kernel reads and writes; every position's block is in its table.
    unsafe { builder.launch(grid(kernel.grid(op, rows))?) }.w()?;
    if let Some((sums, statistics)) = &joined {
        let function = device.get_or_load_custom_func("join_parts", MODULE, PTX)?;
        let parts_i = int(parts)?;
        let mut builder = function.builder();
        arguments!(builder, sums, statistics, &mut out, &heads_i, &dim_i, &parts_i);
        // SAFETY: as above.
        unsafe { builder.launch(grid(join_grid(rows, heads))?) }.w()?;
    }
    Ok((CudaStorage::wrap_cuda_slice(out, device), shape))
}

pub(in super::super) fn gate(
    activation: Gate,
    gates: Part<'_>,
    ups: Part<'_>,
) -> Result<(CudaStorage, Shape)> {
    let (device, shape) = (gates.0.device.clone(), gates.1.shape().clone());
    let (gates, ups) = (view::<f32>(gates)?, view::<f32>(ups)?);
    if gates.len() != ups.len() {
        bail!("gates and ups differ in size");
    }
    let mut out = empty(&device, gates.len())?;
    let function = device.get_or_load_custom_func("gate", MODULE, PTX)?;
    let (numbers, gelu) = (gates.len(), i32::from(activation == Gate::GeluTanh));
    let mut builder = function.builder();
    arguments!(builder, &gates, &ups, &mut out, &numbers, &gelu);
    // SAFETY: all three have so many numbers.
    unsafe { builder.launch(grid(numbers_grid(numbers))?) }.w()?;
    Ok((CudaStorage::wrap_cuda_slice(out, device), shape))
}

pub(in super::super) fn join_residual(
    op: &JoinResidual,
    hidden: Part<'_>,
    output: Part<'_>,
) -> Result<(CudaStorage, Shape)> {
    let device = hidden.0.device.clone();
    let (rows, width) = hidden.1.shape().dims2()?;
    let (hidden, output) = (view::<f32>(hidden)?, view::<f32>(output)?);
    borrow_optional!(post = op.post.as_ref());
    borrow!(next: f32 = op.next);
    if output.len() != hidden.len() || next.len() != width {
        bail!("a block's output or a norm is of another width");
    }
    let mut out = empty(&device, 2 * hidden.len())?;
    let function = device.get_or_load_custom_func("join_residual", MODULE, PTX)?;
    let (rows_i, width_i) = (int(rows)?, int(width)?);
    let mut builder = function.builder();
    arguments!(builder, &hidden, &output);
    optional!(builder, post);
    arguments!(builder, &next, &mut out, &rows_i, &width_i, &op.eps);
    // SAFETY: the views have the sizes that the kernel reads and writes.
    unsafe { builder.launch(grid(rows_grid(rows))?) }.w()?;
    Ok((CudaStorage::wrap_cuda_slice(out, device), (2, rows, width).into()))
}
