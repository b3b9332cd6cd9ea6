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

/// GPUs that this program can use: none where it was built without CUDA, or the driver is missing.
pub fn gpu_count() -> usize {
    #[cfg(feature = "cuda")]
    return super::launch::count();
    #[cfg(not(feature = "cuda"))]
    0
}
