use std::borrow::Cow;
use std::os::unix::fs::FileExt;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};
use llmdeck_kernels::gpu::{Activations, Panels};
use llmdeck_kernels::{Matrix, WeightFormat};

use crate::EngineError;
use crate::description::{DecoderDescription, TensorRole};
use crate::tensors::{Encoding, Place};
use crate::weights::Weights;

/// Rows from which on a matrix is unpacked to 32-bit floats: products that round rows to eight bits are further from its numbers, and
/// no faster for so many.
const LEAST_UNPACKED_ROWS: usize = 128;
/// Most bytes that are taken to unpack a matrix; a larger one is multiplied as it is.
const MOST_UNPACKED_BYTES: u64 = 1 << 30;

/// Whose kernels multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// Candle's: for each number of rows those that are fastest, which differ in the last bits.
    Fastest,
    /// Ours, which give the same bits for a row in any company.
    BatchInvariant,
}

/// A matrix `[out, in]` in the memory of a device.
pub(super) enum GpuMatrix {
    /// In the panels of the CPU.
    Panels(Panels),
    /// In GGML's blocks.
    Quantized(Box<QTensor>),
    /// In floating point; products are computed in it.
    Floats(Tensor),
}

impl GpuMatrix {
    /// Reads it from its file. What no kernel of the device knows is taken from `host`, as 32-bit floats.
    pub(super) fn load(
        (device, products): (&Device, Products),
        weights: &Weights<'_>,
        description: &DecoderDescription,
        role: TensorRole,
        host: &Matrix,
    ) -> Result<Self, EngineError> {
        if products == Products::BatchInvariant {
            return Ok(Self::Panels(Panels::new(host, device)?));
        }
        let shape = [host.rows(), host.columns()];
        let name = weights.tensors.name(role, description.family);
        let place = weights.tensors.place(&name, &shape)?;
        match stored_as(place.encoding) {
            Some(Stored::Blocks(dtype)) => {
                let bytes = read(&place, shape, (dtype.block_size(), dtype.type_size()), &name)?;
                let storage = QStorage::from_data(Cow::Owned(bytes), device, dtype)?;
                Ok(Self::Quantized(Box::new(QTensor::new(storage, (shape[0], shape[1]))?)))
            }
            Some(Stored::Floats(dtype)) => {
                let bytes = read(&place, shape, (1, dtype.size_in_bytes()), &name)?;
                Ok(Self::Floats(Tensor::from_raw_buffer(&bytes, dtype, &shape, device)?))
            }
            None => {
                let mut numbers = vec![0.0; shape[0] * shape[1]];
                for (index, row) in numbers.chunks_exact_mut(shape[1]).enumerate() {
                    host.row(index, row);
                }
                Ok(Self::Floats(Tensor::from_vec(numbers, (shape[0], shape[1]), device)?))
            }
        }
    }

    /// Of 32-bit floats, row by row.
    pub(super) fn of_floats(
        (device, products): (&Device, Products),
        floats: &[f32],
        shape: (usize, usize),
    ) -> candle_core::Result<Self> {
        Ok(match products {
            Products::Fastest => Self::Floats(Tensor::from_slice(floats, shape, device)?),
            Products::BatchInvariant => Self::Panels(Panels::from_floats(floats, shape, device)?),
        })
    }

    /// Rows `[rows, in]` of 32-bit floats by it, `[rows, out]`.
    pub(super) fn product(&self, activations: &Activations<'_>) -> candle_core::Result<Tensor> {
        let x = activations.rows();
        match self {
            Self::Panels(panels) => panels.product(activations),
            Self::Quantized(blocks) if x.dim(0)? >= LEAST_UNPACKED_ROWS && self.unpacked_bytes() > 0 => {
                x.matmul(&blocks.dequantize(x.device())?.t()?)
            }
            Self::Quantized(blocks) => x.apply_op1_no_bwd(blocks.as_ref()),
            Self::Floats(numbers) => x.to_dtype(numbers.dtype())?.matmul(&numbers.t()?)?.to_dtype(DType::F32),
        }
    }

    /// Memory that is taken for a moment when many rows are multiplied; zero where it is never unpacked.
    pub(super) fn unpacked_bytes(&self) -> u64 {
        let bytes = match self {
            Self::Quantized(blocks) => (blocks.shape().elem_count() * size_of::<f32>()) as u64,
            Self::Panels(_) | Self::Floats(_) => 0,
        };
        if bytes <= MOST_UNPACKED_BYTES { bytes } else { 0 }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        match self {
            Self::Panels(panels) => panels.size_bytes(),
            Self::Quantized(blocks) => blocks.storage_size_in_bytes() as u64,
            Self::Floats(numbers) => (numbers.elem_count() * numbers.dtype().size_in_bytes()) as u64,
        }
    }
}

enum Stored {
    Blocks(GgmlDType),
    Floats(DType),
}

/// `None` for what candle multiplies on the CPU only.
fn stored_as(encoding: Encoding) -> Option<Stored> {
    Some(match encoding {
        Encoding::Kept(format) => match format {
            WeightFormat::F32 => Stored::Floats(DType::F32),
            WeightFormat::F16 => Stored::Floats(DType::F16),
            WeightFormat::BF16 => Stored::Floats(DType::BF16),
            WeightFormat::Q4_0 => Stored::Blocks(GgmlDType::Q4_0),
            WeightFormat::Q5_0 => Stored::Blocks(GgmlDType::Q5_0),
            WeightFormat::Q8_0 => Stored::Blocks(GgmlDType::Q8_0),
            WeightFormat::Q4K => Stored::Blocks(GgmlDType::Q4K),
            WeightFormat::Q5K => Stored::Blocks(GgmlDType::Q5K),
            WeightFormat::Q6K => Stored::Blocks(GgmlDType::Q6K),
        },
        Encoding::Expanded(GgmlDType::Q8_1 | GgmlDType::Q8K) => return None,
        Encoding::Expanded(dtype) => Stored::Blocks(dtype),
    })
}

/// The bytes of a matrix whose blocks have so many numbers and bytes. The same was read into the host's memory before, so
/// its size is known to be sound.
fn read(
    place: &Place<'_>,
    [rows, columns]: [usize; 2],
    (numbers, bytes): (usize, usize),
    name: &str,
) -> Result<Vec<u8>, EngineError> {
    if !columns.is_multiple_of(numbers) {
        return Err(EngineError::tensor(name, format!("rows of {columns} do not fill blocks of {numbers}")));
    }
    let mut buffer = vec![0; rows * (columns / numbers) * bytes];
    let failed = |source| EngineError::Read { path: place.file.path.clone(), source };
    place.file.file.read_exact_at(&mut buffer, place.offset).map_err(failed)?;
    Ok(buffer)
}
