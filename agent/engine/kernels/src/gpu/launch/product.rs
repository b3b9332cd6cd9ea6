//! The kernels of `quantized.cu` and `floats.cu`.

use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute;
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{CudaStorage, Result, Shape, bail};

use super::super::product::PanelShape;
use super::super::product::kernel::{FloatsKernel, QuantizedKernel, THREADS, tiles_grid};
use super::super::product::tiles::Tiles;
use super::{Part, arguments, empty, grid, int, view};
use crate::WeightFormat;

/// Compute capability whose tensor cores multiply 16 by 8 by 32 bytes at a time, and 16 by 8 by 16 numbers of bfloat16.
const LEAST_CAPABILITY: i32 = 8;

pub(in super::super) fn check(device: &CudaDevice) -> Result<()> {
    let major = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
    let capability = device.cuda_stream().context().attribute(major).w()?;
    if capability < LEAST_CAPABILITY {
        bail!(
            "products in bytes and bfloat16 need compute capability {LEAST_CAPABILITY}.0, and it has {capability}"
        );
    }
    Ok(())
}

/// The name and the PTX of the module that has what concerns them.
fn module(tiles: Tiles) -> (&'static str, &'static str) {
    match tiles {
        Tiles::Rounded => ("llmdeck-quantized", include_str!(concat!(env!("OUT_DIR"), "/quantized.ptx"))),
        Tiles::Split => ("llmdeck-floats", include_str!(concat!(env!("OUT_DIR"), "/floats.ptx"))),
    }
}

pub(in super::super) fn make_tiles(tiles: Tiles, rows: Part<'_>) -> Result<(CudaStorage, Shape)> {
    let device = rows.0.device.clone();
    let (count, columns) = rows.1.shape().dims2()?;
    let rows = view::<f32>(rows)?;
    // SAFETY: the kernel writes all of it.
    let mut out = unsafe { device.alloc::<u32>(tiles.words(count, columns)) }?;
    let shape = out.len().into();
    let name = match tiles {
        Tiles::Rounded => "round_rows",
        Tiles::Split => "split_rows",
    };
    let (module, ptx) = module(tiles);
    let function = device.get_or_load_custom_func(name, module, ptx)?;
    let (count_i, columns_i, blocks_i) = (int(count)?, int(columns)?, int(tiles.blocks(columns))?);
    let mut builder = function.builder();
    arguments!(builder, &rows, &mut out, &count_i, &columns_i, &blocks_i);
    let [x, y] = tiles_grid(tiles, count, columns);
    // SAFETY: the views have the sizes that the kernel reads and writes.
    unsafe { builder.launch(grid([x, y, 1], THREADS)?) }.w()?;
    Ok((CudaStorage::wrap_cuda_slice(out, device), shape))
}

pub(in super::super) fn multiply_tiles(
    PanelShape { format, outputs, columns }: PanelShape,
    count: usize,
    rows: Part<'_>,
    lines: Part<'_>,
) -> Result<(CudaStorage, Shape)> {
    let tiles = Tiles::of(format);
    let device = rows.0.device.clone();
    let (rows, lines) = (view::<u32>(rows)?, view::<u32>(lines)?);
    if rows.len() != tiles.words(count, columns) {
        bail!("tiles are of rows of another shape");
    }
    let mut out = empty(&device, count * outputs)?;
    let (kernel, [x, y]) = match tiles {
        Tiles::Rounded => {
            let kernel = QuantizedKernel::of(count);
            let name = match kernel {
                QuantizedKernel::Few1 => "few_1",
                QuantizedKernel::Few2 => "few_2",
                QuantizedKernel::Few4 => "few_4",
                QuantizedKernel::Many4 => "many_4",
            };
            (name.to_owned(), kernel.grid(outputs, count))
        }
        Tiles::Split => {
            let kernel = FloatsKernel::of(count);
            (format!("{}_{}", kernel.panels, kernel.tiles), kernel.grid(outputs, count))
        }
    };
    let (module, ptx) = module(tiles);
    let function =
        device.get_or_load_custom_func(&format!("multiply_{}_{kernel}", name(format)), module, ptx)?;
    let (outputs_i, count_i) = (int(outputs)?, int(count)?);
    let (columns_i, blocks_i) = (int(columns)?, int(tiles.blocks(columns))?);
    let mut builder = function.builder();
    arguments!(builder, &lines, &rows, &mut out, &outputs_i, &count_i, &columns_i, &blocks_i);
    // SAFETY: the views have the sizes that the kernel reads and writes: panels are of the shape that they were made with.
    unsafe { builder.launch(grid([x, y, 1], THREADS)?) }.w()?;
    Ok((CudaStorage::wrap_cuda_slice(out, device), (count, outputs).into()))
}

/// As the kernels are called.
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
