//! Devices that are in use, and those that wait to be used again.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Device, Result};

/// GPUs that were opened and are not in use, by CUDA's number. Candle never gives back what its products take of a device's memory
/// beside their results (17 MB, a device), so that a device is not opened again for every model that comes and goes.
static IDLE: Mutex<Vec<(usize, Device)>> = Mutex::new(Vec::new());

/// A device that nobody else uses: what is done there is done in order. Each clone waits for it when it is dropped, so that memory of
/// tensors which were dropped before is free for others: a last field.
#[derive(Clone)]
pub struct OpenDevice(Arc<Opened>);

struct Opened {
    device: Device,
    gpu: Option<usize>,
}

impl OpenDevice {
    /// A GPU of NVIDIA's, by CUDA's number.
    ///
    /// # Errors
    /// When there is none, or this program was built without CUDA.
    pub fn gpu(index: usize) -> Result<Self> {
        let device = take_idle(index).map_or_else(|| open(index), Ok)?;
        Ok(Self(Arc::new(Opened { device, gpu: Some(index) })))
    }

    /// Candle's own CPU device.
    pub fn cpu() -> Self {
        Self(Arc::new(Opened { device: Device::Cpu, gpu: None }))
    }
}

impl Deref for OpenDevice {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.0.device
    }
}

impl Drop for OpenDevice {
    fn drop(&mut self) {
        // A device that fails has lost its memory anyway.
        let _ = self.synchronize();
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // One that fails is not used again.
        if let (Some(index), Ok(())) = (self.gpu, self.device.synchronize()) {
            idle().push((index, self.device.clone()));
        }
    }
}

fn idle() -> MutexGuard<'static, Vec<(usize, Device)>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take_idle(index: usize) -> Option<Device> {
    let mut idle = idle();
    let at = idle.iter().position(|(gpu, _)| *gpu == index)?;
    Some(idle.swap_remove(at).1)
}

fn open(index: usize) -> Result<Device> {
    // Candle's usual stream is each thread's own: what two threads do with one model would not be in order, and its products keep rows that
    // they rounded in one place for all.
    let device = Device::new_cuda_with_stream(index)?;
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = &device {
        super::launch::order_by_stream(cuda);
    }
    Ok(device)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::Device;

    use super::{OpenDevice, Opened, take_idle};

    #[test]
    fn a_device_waits_for_its_next_user_once_nobody_has_it() {
        const GPU: usize = 1_000;
        let device = OpenDevice(Arc::new(Opened { device: Device::Cpu, gpu: Some(GPU) }));
        let other = device.clone();
        drop(device);
        assert!(take_idle(GPU).is_none(), "somebody still has it");
        drop(other);
        assert!(take_idle(GPU - 1).is_none(), "another GPU's");
        let again = OpenDevice::gpu(GPU).unwrap();
        assert!(take_idle(GPU).is_none(), "it is not given to two");
        drop(again);
        assert!(take_idle(GPU).is_some());
    }
}
