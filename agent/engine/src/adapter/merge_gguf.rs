//! A GGUF file anew, with what an adapter adds.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::merge::{MergedFormat, added};
use super::weights::AdapterWeights;
use crate::EngineError;
use crate::description::TensorRole;
use crate::model::Model;

/// What the adapter does not change stays as it is, bytes and metadata; what it changes is written in the format.
pub(super) fn merge_gguf(
    base: &Path,
    model: &Model,
    adapter: &AdapterWeights,
    format: MergedFormat,
    out: &Path,
) -> Result<(), EngineError> {
    let dtype = match format {
        MergedFormat::F32 => GgmlDType::F32,
        MergedFormat::BF16 => GgmlDType::BF16,
    };
    let read = |source| EngineError::Read { path: base.to_owned(), source };
    let mut file = File::open(base).map_err(read)?;
    let content = Content::read(&mut file)?;
    let mut tensors = BTreeMap::new();
    for name in content.tensor_infos.keys() {
        tensors.insert(name.clone(), content.tensor(&mut file, name, &Device::Cpu)?);
    }
    for ((layer, linear), thin) in &adapter.matrices {
        let name = TensorRole::Layer(*layer, linear.part()).gguf_name();
        let numbers = added(model, *layer, *linear, Some(thin));
        let columns = linear.shape(model.decoder.description()).1;
        let tensor = Tensor::from_vec(numbers.clone(), (numbers.len() / columns, columns), &Device::Cpu)?;
        tensors.insert(name, QTensor::quantize(&tensor, dtype)?);
    }
    let metadata: BTreeMap<&str, &Value> =
        content.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let metadata: Vec<(&str, &Value)> = metadata.into_iter().collect();
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let failed = |source| EngineError::Read { path: out.to_owned(), source };
    let mut written = BufWriter::new(File::create(out).map_err(failed)?);
    write(&mut written, &metadata, &tensors)?;
    written.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)
}
