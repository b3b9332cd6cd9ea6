//! What a step computes on a GPU beside candle's matrix products, or in their place. Each op runs as a CUDA kernel (`step.cu`,
//! `product/*.cu`) where its tensors are on a GPU, and as a plain twin where they are on the CPU; properties compare the twins with the
//! rest of this crate, and a machine with a GPU compares the kernels with the twins.
//!
//! Activations are 32-bit floats in rows.

mod attention;
mod heads;
mod host_numbers;
#[cfg(feature = "cuda")]
mod launch;
pub mod limits;
mod open_device;
mod product;
mod residual;
mod state;
#[cfg(any(feature = "cuda", all(test, feature = "cuda-on-host")))]
mod step_kernels;
mod store;
#[cfg(test)]
mod tests;

use candle_core::{CpuStorage, Device, Layout, Result, Storage, Tensor, bail};

pub use attention::{PART_TOKENS, attend};
pub use heads::{HeadShape, Pairs, store_keys_values, turn_queries};
pub use host_numbers::HostNumbers;
pub use open_device::OpenDevice;
pub use product::{Activations, Panels, require_right_products};
pub use residual::{Gate, gate, join_residual};
pub use state::{GpuState, gpu_count, gpu_state};
pub use store::GpuStore;

/// Most numbers of a head.
pub const MOST_HEAD_DIM: usize = 256;

/// Where the rows of a step belong; every layer reads it.
pub struct Places {
    /// `[layers, columns]`: the blocks of all sequences side by side.
    tables: Tensor,
    /// `[rows, 2]`: the first column of a row's sequence, and the row's position in it.
    rows: Tensor,
    most_seen: usize,
}

impl Places {
    /// `tables` is `[layers, columns]`, row by row; each of `rows` is the first column of its sequence, and its position.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn new(device: &Device, tables: &[u32], layers: usize, rows: &[[u32; 2]]) -> Result<Self> {
        let most_seen = rows.iter().map(|row| row[1] as usize + 1).max().unwrap_or(0);
        let columns = tables.len() / layers.max(1);
        Ok(Self {
            tables: Tensor::from_slice(tables, (layers, columns), device)?,
            rows: Tensor::from_slice(rows.as_flattened(), (rows.len(), 2), device)?,
            most_seen,
        })
    }

    fn len(&self) -> Result<usize> {
        self.rows.dim(0)
    }

    fn table(&self, layer: usize) -> Result<Tensor> {
        self.tables.get(layer)
    }
}

/// The numbers of a tensor on the CPU.
fn host<'a, T: candle_core::WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let Some((from, to)) = layout.contiguous_offsets() else { bail!("a step's tensors are contiguous") };
    Ok(&storage.as_slice::<T>()?[from..to])
}

/// Those of a tensor that is an argument.
fn with_host<T: candle_core::WithDType, R>(tensor: &Tensor, read: impl FnOnce(&[T]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(read(host(storage, layout)?)),
        Storage::Cuda(_) | Storage::Metal(_) => bail!("a step's tensors are on one device"),
    }
}

/// The same of one that may be absent.
fn copied(tensor: Option<&Tensor>) -> Result<Option<Vec<f32>>> {
    tensor.map(|tensor| with_host(tensor, <[f32]>::to_vec)).transpose()
}
