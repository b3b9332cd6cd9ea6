//! Starts CUDA kernels. Arguments are in the kernels' order.

pub(super) mod product;
pub(super) mod step;

use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaSlice, CudaView, DeviceRepr, LaunchConfig, PinnedHostSlice, result,
};
use candle_core::cuda_backend::{CudaDType, CudaDevice, WrapErr};
use candle_core::{CudaStorage, Layout, Result, bail};

use super::state::GpuState;

type Part<'a> = (&'a CudaStorage, &'a Layout);

fn view<'a, T: CudaDType + DeviceRepr>((storage, layout): Part<'a>) -> Result<CudaView<'a, T>> {
    let Some((from, to)) = layout.contiguous_offsets() else { bail!("a step's tensors are contiguous") };
    Ok(storage.as_cuda_slice::<T>()?.slice(from..to))
}

macro_rules! arguments {
    ($builder:ident, $($argument:expr),+ $(,)?) => {{
        $( $builder.arg($argument); )+
    }};
}

use arguments;

fn int(number: usize) -> Result<i32> {
    i32::try_from(number).map_err(|_| candle_core::Error::Msg(format!("{number} is too large for a kernel")))
}

fn grid([x, y, z]: [usize; 3], threads: usize) -> Result<LaunchConfig> {
    let most = |number: usize| {
        u32::try_from(number)
            .map_err(|_| candle_core::Error::Msg(format!("{number} is too large for a kernel's grid")))
    };
    Ok(LaunchConfig {
        grid_dim: (most(x)?, most(y)?, most(z)?),
        block_dim: (most(threads)?, 1, 1),
        shared_mem_bytes: 0,
    })
}

fn empty(device: &CudaDevice, numbers: usize) -> Result<CudaSlice<f32>> {
    // SAFETY: whoever asks launches a kernel that writes all of it before anything reads it.
    unsafe { device.alloc::<f32>(numbers) }
}

pub(super) fn state(device: &CudaDevice) -> Result<GpuState> {
    let stream = device.cuda_stream();
    let name = stream.context().name().w()?;
    stream.context().bind_to_thread().w()?;
    let (free, total) = result::mem_get_info().w()?;
    Ok(GpuState { name, free_bytes: free as u64, total_bytes: total as u64 })
}

/// Leaves it to the device's stream in which order its memory is read and written, rather than to an event for each tensor.
pub(super) fn order_by_stream(device: &CudaDevice) {
    // SAFETY: a device has one stream, and everything that is done with its tensors goes through it.
    unsafe { device.disable_event_tracking() };
}

pub(super) fn count() -> usize {
    usize::try_from(CudaContext::device_count().unwrap_or(0)).unwrap_or(0)
}

/// Brings numbers into memory that the GPU writes itself, which grows where it is too small.
pub(super) fn read<'a>(
    numbers: Part<'_>,
    pinned: &'a mut Option<PinnedHostSlice<f32>>,
) -> Result<&'a mut [f32]> {
    let stream = numbers.0.device.cuda_stream();
    let numbers = view::<f32>(numbers)?;
    if pinned.as_ref().is_none_or(|pinned| pinned.len() < numbers.len()) {
        *pinned = None;
        // Readable memory: without flags it is cached, which cudarc's own choice is not.
        // SAFETY: it is written before anything of it is read.
        *pinned = Some(unsafe { stream.context().alloc_pinned_with_flags::<f32>(numbers.len(), 0) }.w()?);
    }
    let Some(pinned) = pinned else { bail!("memory that was just had is gone") };
    // A copy is as long as where it goes.
    let here = &mut pinned.as_mut_slice().w()?[..numbers.len()];
    stream.memcpy_dtoh(&numbers, here).w()?;
    stream.synchronize().w()?;
    Ok(here)
}
