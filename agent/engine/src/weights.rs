//! Tensors into memory. Matrices are read straight into the layout that the kernels want, by positioned reads rather
//! than a map: a file that shrinks meanwhile is an error, not a crash, and nothing of the file stays in the process.

use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;

use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::TensorInfo;
use llmdeck_kernels::{Matrix, Pool, WeightFormat};

use crate::EngineError;
use crate::description::{DecoderDescription, NormWeight, TensorRole};
use crate::tensors::{Encoding, Place, Tensors};

/// Reads the tensors that a description asks for, each checked against its shape.
pub(crate) struct Weights<'a> {
    pub(crate) tensors: &'a Tensors,
    /// The threads that read.
    pub(crate) pool: &'a Pool,
}

impl Weights<'_> {
    /// A norm's weight, ready to multiply.
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub(crate) fn norm(
        &self,
        description: &DecoderDescription,
        role: TensorRole,
        size: usize,
    ) -> Result<Vec<f32>, EngineError> {
        let mut weight = self.vector(description, role, size)?;
        if description.norm_weight == NormWeight::PlusOne {
            weight.iter_mut().for_each(|weight| *weight += 1.0);
        }
        Ok(weight)
    }

    /// A vector.
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub(crate) fn vector(
        &self,
        description: &DecoderDescription,
        role: TensorRole,
        size: usize,
    ) -> Result<Vec<f32>, EngineError> {
        self.numbers(&self.tensors.name(role, description.family), size)
    }

    /// A matrix `[out, in]`.
    ///
    /// # Errors
    /// When it is missing, has another shape, or its file ends too early.
    pub(crate) fn matrix(
        &self,
        description: &DecoderDescription,
        role: TensorRole,
        shape: [usize; 2],
    ) -> Result<Matrix, EngineError> {
        let name = self.tensors.name(role, description.family);
        let place = self.tensors.place(&name, &shape)?;
        self.read(&name, &place, shape[0], shape[1])
    }

    /// Divisors of the rotary frequencies, which Llama 3.1's GGUF files carry as a tensor.
    ///
    /// # Errors
    /// When the tensor is there with another shape.
    pub(crate) fn rope_divisors(&self, pairs: usize) -> Result<Option<Vec<f32>>, EngineError> {
        const NAME: &str = "rope_freqs.weight";
        self.tensors.has(NAME).then(|| self.numbers(NAME, pairs)).transpose()
    }

    fn numbers(&self, name: &str, size: usize) -> Result<Vec<f32>, EngineError> {
        let matrix = self.read(name, &self.tensors.place(name, &[size])?, 1, size)?;
        let mut numbers = vec![0.0; size];
        matrix.row(0, &mut numbers);
        Ok(numbers)
    }

    fn read(
        &self,
        name: &str,
        place: &Place<'_>,
        rows: usize,
        columns: usize,
    ) -> Result<Matrix, EngineError> {
        match place.encoding {
            Encoding::Kept(format) => self.kept(name, place, format, rows, columns),
            Encoding::Expanded(dtype) => self.expanded(name, place, dtype, rows, columns),
        }
    }

    fn kept(
        &self,
        name: &str,
        place: &Place<'_>,
        format: WeightFormat,
        rows: usize,
        columns: usize,
    ) -> Result<Matrix, EngineError> {
        let Some(row_bytes) = format.file_row_bytes(columns) else {
            let reason = format!("rows of {columns} do not fill the blocks of {format:?}");
            return Err(EngineError::tensor(name, reason));
        };
        let failed = |source| EngineError::Read { path: place.file.path.clone(), source };
        // A header may say anything; memory is only asked for what the file has.
        let end = (rows as u64).saturating_mul(row_bytes as u64).saturating_add(place.offset);
        let has = place.file.file.metadata().map_err(failed)?.len();
        if end > has {
            let reason = format!("ends at byte {end}, the file has {has}; fetch it again");
            return Err(EngineError::malformed(&place.file.path, format!("tensor {name:?} {reason}")));
        }
        let read =
            |offset: u64, buffer: &mut [u8]| place.file.file.read_exact_at(buffer, place.offset + offset);
        Matrix::read(self.pool, format, rows, columns, read).map_err(failed)
    }

    /// A format that the kernels do not know is kept as 32-bit floats.
    fn expanded(
        &self,
        name: &str,
        place: &Place<'_>,
        ggml_dtype: GgmlDType,
        rows: usize,
        columns: usize,
    ) -> Result<Matrix, EngineError> {
        let path = &place.file.path;
        let broken = |error| EngineError::malformed(path, format!("tensor {name:?}: {error}"));
        let info = TensorInfo { ggml_dtype, shape: (rows, columns).into(), offset: place.offset };
        let file = File::open(path).map_err(|source| EngineError::Read { path: path.clone(), source })?;
        let tensor = info.read(&mut BufReader::new(file), 0, &Device::Cpu).map_err(broken)?;
        let numbers: Vec<f32> =
            tensor.dequantize(&Device::Cpu).and_then(|t| t.flatten_all()?.to_vec1()).map_err(broken)?;
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Matrix::from_bytes(self.pool, WeightFormat::F32, rows, columns, &bytes)
            .ok_or_else(|| EngineError::tensor(name, "is shorter than its shape"))
    }
}
