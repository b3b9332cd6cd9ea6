//! Which GPUs there are, and what their memory holds.

use candle_core::{Device, Result};

/// A GPU at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuState {
    /// As its driver calls it.
    pub name: String,
    /// Memory that nobody has.
    pub free_bytes: u64,
    /// All of its memory.
    pub total_bytes: u64,
}

/// Of the device's GPU; `None` where it is the CPU.
///
/// # Errors
/// When the driver does not say.
pub fn gpu_state(device: &Device) -> Result<Option<GpuState>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => super::launch::state(cuda).map(Some),
        _ => Ok(None),
    }
}

/// Opens a GPU of NVIDIA's, by CUDA's number.
///
/// # Errors
/// When there is none, or this program was built without CUDA.
pub fn open(index: usize) -> Result<Device> {
    // Candle's usual stream is each thread's own: what two threads do with one model would not be in order, and its products keep rows that
    // they rounded in one place for all.
    let device = Device::new_cuda_with_stream(index)?;
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = &device {
        super::launch::order_by_stream(cuda);
    }
    Ok(device)
}

/// Waits for a device when it is dropped, so that memory of tensors which were dropped before is free for others. A last field.
pub struct GivesBack(pub Device);

impl Drop for GivesBack {
    fn drop(&mut self) {
        // A device that fails has lost its memory anyway.
        let _ = self.0.synchronize();
    }
}

/// GPUs that this program can use: none where it was built without CUDA, or the driver is missing.
pub fn gpu_count() -> usize {
    #[cfg(feature = "cuda")]
    return super::launch::count();
    #[cfg(not(feature = "cuda"))]
    0
}
