use candle_core::{Result, Storage, Tensor, bail};

/// Numbers that come from a device step by step, into memory that stays.
#[derive(Default)]
pub struct HostNumbers {
    plain: Vec<f32>,
    /// Memory that a GPU writes itself.
    #[cfg(feature = "cuda")]
    pinned: Option<candle_core::cuda_backend::cudarc::driver::PinnedHostSlice<f32>>,
}

impl HostNumbers {
    /// Waits for a tensor of 32-bit floats and brings it here, in order.
    ///
    /// # Errors
    /// When the device fails, then or before.
    pub fn read(&mut self, tensor: &Tensor) -> Result<&mut [f32]> {
        let (storage, layout) = tensor.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => {
                self.plain.clear();
                self.plain.extend_from_slice(super::host(storage, layout)?);
                Ok(&mut self.plain)
            }
            #[cfg(feature = "cuda")]
            Storage::Cuda(storage) => super::launch::read((storage, layout), &mut self.pinned),
            _ => bail!("numbers come from the CPU or from a GPU of NVIDIA's"),
        }
    }
}
