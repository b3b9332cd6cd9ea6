use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};

use super::TrainableDecoder;
use crate::EngineError;
use crate::description::Family;

/// Writes the weights as GGUF: matrices in `matrix_type`, vectors in f32. `metadata` holds what the description does
/// not: name, licence, tokenizer, chat template. The description must be of the Llama family with interleaved
/// rotary pairs, which is how GGUF stores it.
///
/// # Errors
/// When the family cannot be written or the file cannot.
pub fn write_gguf(
    decoder: &TrainableDecoder,
    matrix_type: GgmlDType,
    metadata: Vec<(String, Value)>,
    path: &Path,
) -> Result<(), EngineError> {
    let description = decoder.description();
    if description.family != Family::Llama {
        return Err(EngineError::malformed(path, "only Llama-shaped models are written as GGUF"));
    }
    let number = |value: usize| Value::U32(u32::try_from(value).unwrap_or(u32::MAX));
    let mut entries = vec![
        ("general.architecture".to_owned(), Value::String("llama".into())),
        ("llama.block_count".to_owned(), number(description.layers)),
        ("llama.embedding_length".to_owned(), number(description.width)),
        ("llama.attention.head_count".to_owned(), number(description.heads)),
        ("llama.attention.head_count_kv".to_owned(), number(description.kv_heads)),
        ("llama.attention.key_length".to_owned(), number(description.head_dim)),
        ("llama.attention.value_length".to_owned(), number(description.head_dim)),
        ("llama.rope.dimension_count".to_owned(), number(description.head_dim)),
        ("llama.feed_forward_length".to_owned(), number(description.ffn_width)),
        ("llama.context_length".to_owned(), number(description.context)),
        ("llama.vocab_size".to_owned(), number(description.vocabulary)),
        ("llama.attention.layer_norm_rms_epsilon".to_owned(), Value::F32(description.norm_eps as f32)),
        ("llama.rope.freq_base".to_owned(), Value::F32(description.rope_base as f32)),
    ];
    entries.extend(metadata);
    let tensors: Vec<(String, QTensor)> = decoder
        .variables()
        .map(|(role, variable)| {
            let dtype = if variable.rank() > 1 { matrix_type } else { GgmlDType::F32 };
            Ok((role.gguf_name(), QTensor::quantize(variable.as_tensor(), dtype)?))
        })
        .collect::<Result<_, candle_core::Error>>()?;
    let entries: Vec<(&str, &Value)> = entries.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let read = |source| EngineError::Read { path: path.to_owned(), source };
    let mut file = std::fs::File::create(path).map_err(read)?;
    gguf_file::write(&mut file, &entries, &tensors)?;
    file.sync_all().map_err(read)
}
