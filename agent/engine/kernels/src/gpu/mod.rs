//! What a step computes on a GPU beside candle's matrix products, or in their place. Each op runs as a CUDA kernel (`step.cu`,
//! `product/*.cu`) where its tensors are on a GPU, and as a plain twin where they are on the CPU; properties compare the twins with the
//! rest of this crate, and a machine with a GPU compares the kernels with the twins.
//!
//! Activations are 32-bit floats in rows. A store of keys and values is one tensor of 16-bit floats,
//! `[blocks, 2, kv_heads, 16, head_dim]`: keys, then values.

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
#[cfg(test)]
mod tests;

use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor, bail};

pub use attention::{PART_TOKENS, attend};
pub use heads::{HeadShape, Pairs, store_keys_values, turn_queries};
pub use host_numbers::HostNumbers;
pub use open_device::OpenDevice;
pub use product::{Activations, Panels, require_right_products};
pub use residual::{Gate, gate, join_residual};
pub use state::{GpuState, gpu_count, gpu_state};

use crate::attention::BLOCK_TOKENS;

/// Most numbers of a head.
pub const MOST_HEAD_DIM: usize = 256;
/// Numbers that one load reads: a head has a multiple of them.
const LOADED_AT_ONCE: usize = 8;

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

/// A store of keys and values.
///
/// # Errors
/// When the head's numbers are too many or no multiple of 8, or the device has no room.
pub fn key_value_store(device: &Device, blocks: usize, kv_heads: usize, head_dim: usize) -> Result<Tensor> {
    if head_dim > MOST_HEAD_DIM || !head_dim.is_multiple_of(LOADED_AT_ONCE) {
        bail!("heads of {head_dim} numbers: a GPU takes multiples of {LOADED_AT_ONCE} up to {MOST_HEAD_DIM}");
    }
    Tensor::zeros((blocks, 2, kv_heads, BLOCK_TOKENS, head_dim), DType::F16, device)
}

/// Bytes of a block of [`key_value_store`].
pub fn block_bytes(kv_heads: usize, head_dim: usize) -> u64 {
    (2 * kv_heads * BLOCK_TOKENS * head_dim * DType::F16.size_in_bytes()) as u64
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
