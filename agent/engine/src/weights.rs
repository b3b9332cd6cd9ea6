//! Where tensors come from: a GGUF file or a folder with safetensors. Matrices are read straight into the layout that
//! the kernels want, by positioned reads rather than a map: a file that shrinks meanwhile is an error, not a crash, and
//! nothing of the file stays in the process.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::TensorInfo;
use llmdeck_kernels::{Matrix, Pool, WeightFormat};
use safetensors::tensor::{Dtype, Metadata};

use crate::EngineError;
use crate::description::{DecoderDescription, Family, NormWeight, TensorRole};
use crate::gguf::{Header, TensorPlace};

/// Largest header of a safetensors file, as the format's own reader has it.
const MOST_HEADER_BYTES: u64 = 100_000_000;

/// Reads the tensors that a description asks for, each checked against its shape.
pub struct Weights<'a> {
    source: Source<'a>,
    pool: Arc<Pool>,
}

enum Source<'a> {
    Gguf { file: TensorFile, header: &'a Header },
    Safetensors { shards: Vec<TensorFile>, tensors: HashMap<String, StoredTensor> },
}

struct TensorFile {
    path: PathBuf,
    file: File,
}

#[derive(Clone)]
struct StoredTensor {
    shard: usize,
    offset: u64,
    shape: Vec<usize>,
    dtype: Dtype,
}

/// Where the numbers of a tensor are.
struct Place<'a> {
    file: &'a TensorFile,
    offset: u64,
    format: WeightFormat,
}

impl<'a> Weights<'a> {
    /// The tensors of a GGUF file whose header was read.
    pub(crate) fn gguf(path: &Path, file: File, header: &'a Header, pool: &Arc<Pool>) -> Self {
        let file = TensorFile { path: path.to_owned(), file };
        Self { source: Source::Gguf { file, header }, pool: Arc::clone(pool) }
    }

    /// The tensors of every `*.safetensors` of a folder.
    ///
    /// # Errors
    /// When there is none, or the header of one cannot be read.
    pub fn safetensors(folder: &Path, pool: &Arc<Pool>) -> Result<Self, EngineError> {
        let read = |source| EngineError::Read { path: folder.to_owned(), source };
        let (mut shards, mut tensors) = (Vec::new(), HashMap::new());
        for entry in std::fs::read_dir(folder).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                let (shard, header) = open_safetensors(path)?;
                let (metadata, start) = header;
                for (name, info) in metadata.tensors() {
                    let offset = start + info.data_offsets.0 as u64;
                    let tensor = StoredTensor {
                        shard: shards.len(),
                        offset,
                        shape: info.shape.clone(),
                        dtype: info.dtype,
                    };
                    tensors.insert(name, tensor);
                }
                shards.push(shard);
            }
        }
        if tensors.is_empty() {
            return Err(EngineError::malformed(folder, "has no *.safetensors file with tensors"));
        }
        Ok(Self { source: Source::Safetensors { shards, tensors }, pool: Arc::clone(pool) })
    }

    /// A norm's weight, ready to multiply.
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub fn norm(
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
    pub fn vector(
        &self,
        description: &DecoderDescription,
        role: TensorRole,
        size: usize,
    ) -> Result<Vec<f32>, EngineError> {
        self.numbers(&self.name(role, description.family), size)
    }

    /// A matrix `[out, in]`.
    ///
    /// # Errors
    /// When it is missing, has another shape, or its file ends too early.
    pub fn matrix(
        &self,
        description: &DecoderDescription,
        role: TensorRole,
        shape: [usize; 2],
    ) -> Result<Matrix, EngineError> {
        self.matrix_named(&self.name(role, description.family), shape)
    }

    /// Divisors of the rotary frequencies, which Llama 3.1's GGUF files carry as a tensor.
    ///
    /// # Errors
    /// When the tensor is there with another shape.
    pub fn rope_divisors(&self, pairs: usize) -> Result<Option<Vec<f32>>, EngineError> {
        const NAME: &str = "rope_freqs.weight";
        match &self.source {
            Source::Gguf { header, .. } if header.tensor(NAME).is_some() => {
                self.numbers(NAME, pairs).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn name(&self, role: TensorRole, family: Family) -> String {
        match self.source {
            Source::Gguf { .. } => role.gguf_name(),
            Source::Safetensors { .. } => role.hf_name(family),
        }
    }

    fn numbers(&self, name: &str, size: usize) -> Result<Vec<f32>, EngineError> {
        let matrix = match self.place(name, &[size])? {
            Some(place) => self.read(name, &place, 1, size)?,
            None => self.expanded(name, 1, size)?,
        };
        let mut numbers = vec![0.0; size];
        matrix.row(0, &mut numbers);
        Ok(numbers)
    }

    fn matrix_named(&self, name: &str, shape: [usize; 2]) -> Result<Matrix, EngineError> {
        match self.place(name, &shape)? {
            Some(place) => self.read(name, &place, shape[0], shape[1]),
            None => self.expanded(name, shape[0], shape[1]),
        }
    }

    /// `None` for a format that the kernels do not know.
    fn place(&self, name: &str, shape: &[usize]) -> Result<Option<Place<'_>>, EngineError> {
        match &self.source {
            Source::Gguf { file, header } => {
                let place = header.tensor(name).ok_or_else(|| EngineError::tensor(name, "is missing"))?;
                check_shape(name, &place.shape, shape)?;
                Ok(format_of(place.ggml_type).map(|format| Place { file, offset: place.offset, format }))
            }
            Source::Safetensors { shards, tensors } => {
                let tensor = tensors.get(name).ok_or_else(|| EngineError::tensor(name, "is missing"))?;
                check_shape(name, &tensor.shape, shape)?;
                let format = match tensor.dtype {
                    Dtype::F32 => WeightFormat::F32,
                    Dtype::F16 => WeightFormat::F16,
                    Dtype::BF16 => WeightFormat::BF16,
                    other => {
                        let reason = format!("is of type {other:?}; F32, F16 and BF16 are read");
                        return Err(EngineError::tensor(name, reason));
                    }
                };
                let file = &shards[tensor.shard];
                Ok(Some(Place { file, offset: tensor.offset, format }))
            }
        }
    }

    fn read(
        &self,
        name: &str,
        place: &Place<'_>,
        rows: usize,
        columns: usize,
    ) -> Result<Matrix, EngineError> {
        let Some(row_bytes) = place.format.file_row_bytes(columns) else {
            let reason = format!("rows of {columns} do not fill the blocks of {:?}", place.format);
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
        Matrix::read(&self.pool, place.format, rows, columns, read).map_err(failed)
    }

    /// A format that the kernels do not know is kept as 32-bit floats.
    fn expanded(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix, EngineError> {
        let Source::Gguf { file, header } = &self.source else {
            return Err(EngineError::tensor(name, "is of a type that is not read"));
        };
        let TensorPlace { offset, shape, ggml_type } =
            header.tensor(name).ok_or_else(|| EngineError::tensor(name, "is missing"))?;
        let ggml_dtype = expanded_format_of(*ggml_type).ok_or_else(|| {
            EngineError::tensor(name, format!("is of GGML's type {ggml_type}, which is not read"))
        })?;
        let info = TensorInfo { ggml_dtype, shape: shape.as_slice().into(), offset: *offset };
        let broken = |error| EngineError::malformed(file.path.as_path(), format!("tensor {name:?}: {error}"));
        let again =
            File::open(&file.path).map_err(|source| EngineError::Read { path: file.path.clone(), source })?;
        let tensor = info.read(&mut BufReader::new(again), 0, &Device::Cpu).map_err(broken)?;
        let numbers: Vec<f32> =
            tensor.dequantize(&Device::Cpu).and_then(|t| t.flatten_all()?.to_vec1()).map_err(broken)?;
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Matrix::from_bytes(&self.pool, WeightFormat::F32, rows, columns, &bytes)
            .ok_or_else(|| EngineError::tensor(name, "is shorter than its shape"))
    }
}

/// GGML's numbers of the types that the kernels know (`enum ggml_type`).
fn format_of(ggml_type: u32) -> Option<WeightFormat> {
    Some(match ggml_type {
        0 => WeightFormat::F32,
        1 => WeightFormat::F16,
        2 => WeightFormat::Q4_0,
        6 => WeightFormat::Q5_0,
        8 => WeightFormat::Q8_0,
        12 => WeightFormat::Q4K,
        13 => WeightFormat::Q5K,
        14 => WeightFormat::Q6K,
        30 => WeightFormat::BF16,
        _ => return None,
    })
}

/// Those that are expanded when they are read.
fn expanded_format_of(ggml_type: u32) -> Option<GgmlDType> {
    Some(match ggml_type {
        3 => GgmlDType::Q4_1,
        7 => GgmlDType::Q5_1,
        9 => GgmlDType::Q8_1,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        15 => GgmlDType::Q8K,
        _ => return None,
    })
}

/// Opens a file and checks its header before anything of its tensors is read.
fn open_safetensors(path: PathBuf) -> Result<(TensorFile, (Metadata, u64)), EngineError> {
    let read = |source| EngineError::Read { path: path.clone(), source };
    let mut file = File::open(&path).map_err(read)?;
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(read)?;
    let length = u64::from_le_bytes(length);
    if length > MOST_HEADER_BYTES {
        return Err(EngineError::malformed(
            &path,
            format!("claims a header of {length} bytes; it is not safetensors"),
        ));
    }
    let mut header = Vec::new();
    (&mut file).take(length).read_to_end(&mut header).map_err(read)?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|error| EngineError::malformed(&path, format!("is not a safetensors file: {error}")))?;
    let needed = 8 + length + metadata.data_len() as u64;
    let has = file.metadata().map_err(read)?.len();
    if has < needed {
        return Err(EngineError::malformed(
            &path,
            format!("has {has} bytes, its header speaks of {needed}; fetch it again"),
        ));
    }
    Ok((TensorFile { path, file }, (metadata, 8 + length)))
}

fn check_shape(name: &str, found: &[usize], wanted: &[usize]) -> Result<(), EngineError> {
    if found == wanted {
        Ok(())
    } else {
        Err(EngineError::tensor(name, format!("has shape {found:?}, the configuration asks for {wanted:?}")))
    }
}
