//! The kernels of `product.cu`.

use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute;
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{CudaStorage, Layout, Result, Shape, bail};

use super::super::product::PanelShape;
use super::super::product::kernel::{ProductKernel, THREADS, floats_grid, rounding_grid};
use super::super::product::tiles::words_for;
use super::{Part, arguments, empty, grid, int, view};
use crate::{Rows, WeightFormat};

const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/product.ptx"));
const MODULE: &str = "llmdeck-product";
/// Compute capability whose tensor cores multiply 16 by 8 by 32 bytes at a time.
const LEAST_CAPABILITY: i32 = 8;

pub(in super::super) fn check(device: &CudaDevice) -> Result<()> {
    let major = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
    let capability = device.cuda_stream().context().attribute(major).w()?;
    if capability < LEAST_CAPABILITY {
        bail!("products in bytes need compute capability {LEAST_CAPABILITY}.0, and it has {capability}");
    }
    Ok(())
}

pub(in super::super) fn round_rows(storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
    let device = storage.device.clone();
    let (count, columns) = layout.shape().dims2()?;
    let rows = view::<f32>((storage, layout))?;
    let blocks = Rows::blocks_of(columns);
    // SAFETY: the kernel writes all of it.
    let mut out = unsafe { device.alloc::<u32>(words_for(count, columns)) }?;
    let shape = out.len().into();
    let function = device.get_or_load_custom_func("round_rows", MODULE, PTX)?;
    let (count_i, columns_i, blocks_i) = (int(count)?, int(columns)?, int(blocks)?);
    let mut builder = function.builder();
    arguments!(builder, &rows, &mut out, &count_i, &columns_i, &blocks_i);
    let [x, y] = rounding_grid(count, columns);
    // SAFETY: the views have the sizes that the kernel reads and writes.
    unsafe { builder.launch(grid([x, y, 1], THREADS)?) }.w()?;
    Ok((CudaStorage::wrap_cuda_slice(out, device), shape))
}

pub(in super::super) fn multiply_rounded(
    shape: PanelShape,
    count: usize,
    tiles: Part<'_>,
    lines: Part<'_>,
) -> Result<(CudaStorage, Shape)> {
    let device = tiles.0.device.clone();
    let (tiles, lines) = (view::<u32>(tiles)?, view::<u32>(lines)?);
    let PanelShape { format, outputs, columns } = shape;
    let blocks = Rows::blocks_of(columns);
    if tiles.len() != words_for(count, columns) {
        bail!("rounded rows are of another shape");
    }
    let mut out = empty(&device, count * outputs)?;
    let kernel = ProductKernel::of(count);
    let kind = match kernel {
        ProductKernel::Few1 => "few_1",
        ProductKernel::Few2 => "few_2",
        ProductKernel::Few4 => "few_4",
        ProductKernel::Many4 => "many_4",
    };
    let name = format!("multiply_{}_{kind}", name(format));
    let function = device.get_or_load_custom_func(&name, MODULE, PTX)?;
    let (outputs_i, count_i, columns_i, blocks_i) = (int(outputs)?, int(count)?, int(columns)?, int(blocks)?);
    let mut builder = function.builder();
    arguments!(builder, &lines, &tiles, &mut out, &outputs_i, &count_i, &columns_i, &blocks_i);
    let [x, y] = kernel.grid(outputs, count);
    // SAFETY: the views have the sizes that the kernel reads and writes: panels are of the shape that they were made with.
    unsafe { builder.launch(grid([x, y, 1], THREADS)?) }.w()?;
    Ok((CudaStorage::wrap_cuda_slice(out, device), (count, outputs).into()))
}

pub(in super::super) fn multiply_floats(
    shape: PanelShape,
    rows: Part<'_>,
    lines: Part<'_>,
) -> Result<(CudaStorage, Shape)> {
    let device = rows.0.device.clone();
    let count = rows.1.dims()[0];
    let (rows, lines) = (view::<f32>(rows)?, view::<u32>(lines)?);
    let PanelShape { format, outputs, columns } = shape;
    let mut out = empty(&device, count * outputs)?;
    let function =
        device.get_or_load_custom_func(&format!("multiply_floats_{}", name(format)), MODULE, PTX)?;
    let (outputs_i, count_i, columns_i) = (int(outputs)?, int(count)?, int(columns)?);
    let mut builder = function.builder();
    arguments!(builder, &lines, &rows, &mut out, &outputs_i, &count_i, &columns_i);
    let [x, y] = floats_grid(outputs, count);
    // SAFETY: as above.
    unsafe { builder.launch(grid([x, y, 1], THREADS)?) }.w()?;
    Ok((CudaStorage::wrap_cuda_slice(out, device), (count, outputs).into()))
}

/// As `product.cu` calls it.
fn name(format: WeightFormat) -> &'static str {
    match format {
        WeightFormat::F32 => "F32",
        WeightFormat::F16 => "F16",
        WeightFormat::BF16 => "BF16",
        WeightFormat::Q4_0 => "Q4_0",
        WeightFormat::Q5_0 => "Q5_0",
        WeightFormat::Q8_0 => "Q8_0",
        WeightFormat::Q4K => "Q4K",
        WeightFormat::Q5K => "Q5K",
        WeightFormat::Q6K => "Q6K",
    }
}
