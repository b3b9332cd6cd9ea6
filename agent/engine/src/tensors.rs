//! Where tensors are: in a GGUF file or in a folder with safetensors. Only headers are read here.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use llmdeck_kernels::{Matrix, WeightFormat};
use safetensors::tensor::{Dtype, Metadata};

use crate::EngineError;
use crate::description::{DecoderDescription, Family, TensorRole};
use crate::gguf::Header;

/// Largest header of a safetensors file, as the format's own reader has it.
const MOST_HEADER_BYTES: u64 = 100_000_000;

/// Every tensor of a model by name.
pub(crate) enum Tensors {
    Gguf { file: TensorFile, header: Header },
    Safetensors { shards: Vec<TensorFile>, tensors: HashMap<String, StoredTensor> },
}

pub(crate) struct TensorFile {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
}

pub(crate) struct StoredTensor {
    shard: usize,
    offset: u64,
    shape: Vec<usize>,
    dtype: Dtype,
}

/// Where the numbers of a tensor are.
pub(crate) struct Place<'a> {
    pub(crate) file: &'a TensorFile,
    pub(crate) offset: u64,
    pub(crate) encoding: Encoding,
}

/// How they are written.
#[derive(Clone, Copy)]
pub(crate) enum Encoding {
    /// As the kernels multiply them.
    Kept(WeightFormat),
    /// To be expanded to 32-bit floats when they are read.
    Expanded(GgmlDType),
}

impl Encoding {
    /// What they are in memory.
    fn resident(self) -> WeightFormat {
        match self {
            Self::Kept(format) => format,
            Self::Expanded(_) => WeightFormat::F32,
        }
    }
}

impl Tensors {
    /// The tensors of a GGUF file.
    ///
    /// # Errors
    /// When it cannot be read or its header is off.
    pub(crate) fn of_gguf(path: &Path) -> Result<Self, EngineError> {
        let read = |source| EngineError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read)?;
        let bytes = file.metadata().map_err(read)?.len();
        let header = Header::read(&file, bytes).map_err(|reason| EngineError::malformed(path, reason))?;
        Ok(Self::Gguf { file: TensorFile { path: path.to_owned(), file }, header })
    }

    /// The tensors of every `*.safetensors` of a folder.
    ///
    /// # Errors
    /// When there is none, or the header of one cannot be read.
    pub(crate) fn of_folder(folder: &Path) -> Result<Self, EngineError> {
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
        Ok(Self::Safetensors { shards, tensors })
    }

    /// What a tensor is called here.
    pub(crate) fn name(&self, role: TensorRole, family: Family) -> String {
        match self {
            Self::Gguf { .. } => role.gguf_name(),
            Self::Safetensors { .. } => role.hf_name(family),
        }
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Self::Gguf { header, .. } => header.tensor(name).is_some(),
            Self::Safetensors { tensors, .. } => tensors.contains_key(name),
        }
    }

    /// Finds a tensor, and holds its shape to the wanted one.
    ///
    /// # Errors
    /// When it is missing, has another shape, or is of a type that is not read.
    pub(crate) fn place(&self, name: &str, shape: &[usize]) -> Result<Place<'_>, EngineError> {
        let missing = || EngineError::tensor(name, "is missing");
        match self {
            Self::Gguf { file, header } => {
                let place = header.tensor(name).ok_or_else(missing)?;
                check_shape(name, &place.shape, shape)?;
                let kept = WeightFormat::from_gguf(place.ggml_type).map(Encoding::Kept);
                let encoding = kept.or_else(|| expanded(place.ggml_type)).ok_or_else(|| {
                    EngineError::tensor(
                        name,
                        format!("is of GGML's type {}, which is not read", place.ggml_type),
                    )
                })?;
                Ok(Place { file, offset: place.offset, encoding })
            }
            Self::Safetensors { shards, tensors } => {
                let tensor = tensors.get(name).ok_or_else(missing)?;
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
                Ok(Place { file, offset: tensor.offset, encoding: Encoding::Kept(format) })
            }
        }
    }

    /// Bytes that all tensors of a description take once they are read.
    ///
    /// # Errors
    /// The first that is missing or has another shape.
    pub(crate) fn resident_bytes(&self, description: &DecoderDescription) -> Result<u64, EngineError> {
        let bytes = |(role, shape): &(TensorRole, Vec<usize>)| {
            let place = self.place(&self.name(*role, description.family), shape)?;
            Ok(match *shape.as_slice() {
                [rows, columns] => Matrix::bytes_for(place.encoding.resident(), rows, columns),
                _ => (shape.iter().product::<usize>() * size_of::<f32>()) as u64,
            })
        };
        description.tensors().iter().map(bytes).sum()
    }

    /// Bytes of all files.
    pub(crate) fn stored_bytes(&self) -> u64 {
        let files = match self {
            Self::Gguf { file, .. } => std::slice::from_ref(file),
            Self::Safetensors { shards, .. } => shards.as_slice(),
        };
        files.iter().filter_map(|file| file.file.metadata().ok()).map(|metadata| metadata.len()).sum()
    }
}

/// Types that the kernels do not know, by GGML's numbers.
fn expanded(ggml_type: u32) -> Option<Encoding> {
    let dtype = match ggml_type {
        3 => GgmlDType::Q4_1,
        7 => GgmlDType::Q5_1,
        9 => GgmlDType::Q8_1,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        15 => GgmlDType::Q8K,
        _ => return None,
    };
    Some(Encoding::Expanded(dtype))
}

/// Reads the header of a GGUF or safetensors file and holds it to the file: counts, names, sizes, and that every tensor lies
/// within the file. Nothing of the tensors is read. How many there are.
///
/// # Errors
/// When it cannot be read, or what is off.
pub fn check_header(path: &Path) -> Result<usize, EngineError> {
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        let (_, (metadata, _)) = open_safetensors(path.to_owned())?;
        return Ok(metadata.tensors().len());
    }
    match Tensors::of_gguf(path)? {
        Tensors::Gguf { header, file } => {
            let read = |source| EngineError::Read { path: path.to_owned(), source };
            let bytes = file.file.metadata().map_err(read)?.len();
            match header.beyond(bytes) {
                Some(name) => Err(EngineError::malformed(
                    path,
                    format!("has {bytes} bytes, and tensor {name:?} starts behind its end; fetch it again"),
                )),
                None => Ok(header.count()),
            }
        }
        Tensors::Safetensors { tensors, .. } => Ok(tensors.len()),
    }
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
