//! Where tensors come from: a GGUF file or a folder with safetensors.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{DType, Device, Module, Tensor};

use crate::EngineError;
use crate::description::{DecoderDescription, NormWeight, TensorRole};

/// A matrix product with optional bias, plain or quantized.
#[derive(Clone, Debug)]
pub enum Linear {
    /// Weights in f32, `[out, in]`.
    Plain {
        /// The matrix.
        weight: Tensor,
        /// One number an output.
        bias: Option<Tensor>,
    },
    /// Weights kept as their file has them.
    Quantized {
        /// The matrix.
        weight: QMatMul,
        /// One number an output, f32.
        bias: Option<Tensor>,
    },
}

impl Linear {
    /// `[rows, in]` to `[rows, out]`.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn forward(&self, input: &Tensor) -> candle_core::Result<Tensor> {
        let (output, bias) = match self {
            Self::Plain { weight, bias } => (input.matmul(&weight.t()?)?, bias),
            Self::Quantized { weight, bias } => (weight.forward(input)?, bias),
        };
        match bias {
            Some(bias) => output.broadcast_add(bias),
            None => Ok(output),
        }
    }
}

/// The token embedding: rows are gathered without unpacking the table.
#[derive(Clone, Debug)]
pub enum Embedding {
    /// A table in f32, `[vocabulary, width]`.
    Plain(Tensor),
    /// A table kept as its file has it.
    Quantized(Arc<QTensor>),
}

impl Embedding {
    /// `[n]` token ids (u32) to `[n, width]` in f32.
    ///
    /// # Errors
    /// When an id is beyond the vocabulary.
    pub fn forward(&self, ids: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Plain(table) => table.index_select(ids, 0),
            Self::Quantized(table) => table.embedding(ids)?.to_dtype(DType::F32),
        }
    }

    /// The same table as the output matrix.
    ///
    /// # Errors
    /// When the quantized type has no matrix product.
    pub fn as_output(&self) -> candle_core::Result<Linear> {
        Ok(match self {
            Self::Plain(table) => Linear::Plain { weight: table.clone(), bias: None },
            Self::Quantized(table) => {
                Linear::Quantized { weight: QMatMul::from_arc(Arc::clone(table))?, bias: None }
            }
        })
    }
}

/// Reads the tensors that a description asks for, each checked against its shape.
pub enum Weights {
    /// One GGUF file.
    Gguf {
        /// The file.
        path: PathBuf,
        /// Its header.
        content: Box<Content>,
        /// Open at any position.
        reader: BufReader<File>,
    },
    /// All tensors of a folder's safetensors.
    Safetensors {
        /// By their Hugging Face names.
        tensors: HashMap<String, Tensor>,
    },
}

impl Weights {
    /// Reads every `*.safetensors` of a folder into memory.
    ///
    /// # Errors
    /// When there is none, or one cannot be read.
    pub fn safetensors(folder: &Path) -> Result<Self, EngineError> {
        let read = |source| EngineError::Read { path: folder.to_owned(), source };
        let mut tensors = HashMap::new();
        for entry in std::fs::read_dir(folder).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                let shard = candle_core::safetensors::load(&path, &Device::Cpu)
                    .map_err(|error| EngineError::malformed(&path, error))?;
                tensors.extend(shard);
            }
        }
        if tensors.is_empty() {
            return Err(EngineError::malformed(folder, "has no *.safetensors file"));
        }
        Ok(Self::Safetensors { tensors })
    }

    /// A norm's weight in f32, ready to multiply.
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub fn norm(
        &mut self,
        description: &DecoderDescription,
        role: TensorRole,
        size: usize,
    ) -> Result<Tensor, EngineError> {
        let weight = self.vector(description, role, size)?;
        Ok(match description.norm_weight {
            NormWeight::AsIs => weight,
            NormWeight::PlusOne => (weight + 1.0)?,
        })
    }

    /// A vector in f32.
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub fn vector(
        &mut self,
        description: &DecoderDescription,
        role: TensorRole,
        size: usize,
    ) -> Result<Tensor, EngineError> {
        match self {
            Self::Gguf { .. } => {
                Ok(self.gguf_tensor(&role.gguf_name(), &[size])?.dequantize(&Device::Cpu)?)
            }
            Self::Safetensors { .. } => self.plain_tensor(&role.hf_name(description.family), &[size]),
        }
    }

    /// A matrix `[out, in]`, with its bias where one is named.
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub fn linear(
        &mut self,
        description: &DecoderDescription,
        role: TensorRole,
        shape: [usize; 2],
        bias: Option<TensorRole>,
    ) -> Result<Linear, EngineError> {
        let bias = bias.map(|role| self.vector(description, role, shape[0])).transpose()?;
        match self {
            Self::Gguf { .. } => {
                let weight = QMatMul::from_qtensor(self.gguf_tensor(&role.gguf_name(), &shape)?)?;
                Ok(Linear::Quantized { weight, bias })
            }
            Self::Safetensors { .. } => {
                let weight = self.plain_tensor(&role.hf_name(description.family), &shape)?;
                Ok(Linear::Plain { weight, bias })
            }
        }
    }

    /// The embedding.
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub fn embedding(&mut self, description: &DecoderDescription) -> Result<Embedding, EngineError> {
        let shape = [description.vocabulary, description.width];
        match self {
            Self::Gguf { .. } => {
                let table = self.gguf_tensor(&TensorRole::Embedding.gguf_name(), &shape)?;
                match table.dtype() {
                    GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => {
                        Ok(Embedding::Plain(table.dequantize(&Device::Cpu)?))
                    }
                    _ => Ok(Embedding::Quantized(Arc::new(table))),
                }
            }
            Self::Safetensors { .. } => Ok(Embedding::Plain(
                self.plain_tensor(&TensorRole::Embedding.hf_name(description.family), &shape)?,
            )),
        }
    }

    /// Divisors of the rotary frequencies, which Llama 3.1's GGUF files carry as a tensor.
    ///
    /// # Errors
    /// When the tensor is there with another shape.
    pub fn rope_divisors(&mut self, pairs: usize) -> Result<Option<Vec<f32>>, EngineError> {
        const NAME: &str = "rope_freqs.weight";
        match self {
            Self::Gguf { content, .. } if content.tensor_infos.contains_key(NAME) => {
                Ok(Some(self.gguf_tensor(NAME, &[pairs])?.dequantize(&Device::Cpu)?.to_vec1()?))
            }
            _ => Ok(None),
        }
    }

    fn gguf_tensor(&mut self, name: &str, shape: &[usize]) -> Result<QTensor, EngineError> {
        let Self::Gguf { path, content, reader } = self else {
            return Err(EngineError::tensor(name, "was asked of a file that is not GGUF"));
        };
        let info = content.tensor_infos.get(name).ok_or_else(|| EngineError::tensor(name, "is missing"))?;
        check_shape(name, info.shape.dims(), shape)?;
        content
            .tensor(reader, name, &Device::Cpu)
            .map_err(|error| EngineError::malformed(path.as_path(), format!("tensor {name:?}: {error}")))
    }

    fn plain_tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, EngineError> {
        let Self::Safetensors { tensors } = self else {
            return Err(EngineError::tensor(name, "was asked of a file that is not safetensors"));
        };
        let tensor = tensors.remove(name).ok_or_else(|| EngineError::tensor(name, "is missing"))?;
        check_shape(name, tensor.dims(), shape)?;
        Ok(tensor.to_dtype(DType::F32)?)
    }
}

fn check_shape(name: &str, found: &[usize], wanted: &[usize]) -> Result<(), EngineError> {
    if found == wanted {
        Ok(())
    } else {
        Err(EngineError::tensor(name, format!("has shape {found:?}, the configuration asks for {wanted:?}")))
    }
}
