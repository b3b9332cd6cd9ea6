//! GGUF metadata read into a [`DecoderDescription`].
//! Source of the keys: the GGUF specification, "Standardized key-value pairs".

use candle_core::quantized::gguf_file::{Content, Value};

use crate::EngineError;
use crate::description::{
    Activation, DecoderDescription, Family, LocalAttention, NormWeight, RopeLayout, RopeScaling, TensorRole,
};

/// Typed access to a GGUF file's metadata.
pub(crate) struct Metadata<'a> {
    content: &'a Content,
    architecture: &'a str,
}

impl<'a> Metadata<'a> {
    pub(crate) fn new(content: &'a Content) -> Result<Self, String> {
        let architecture =
            string(content, "general.architecture").ok_or("general.architecture is missing")?;
        Ok(Self { content, architecture })
    }

    fn of_architecture(&self, key: &str) -> Option<&'a Value> {
        self.content.metadata.get(&format!("{}.{key}", self.architecture))
    }

    fn size(&self, key: &str) -> Result<usize, String> {
        self.optional_size(key)
            .ok_or_else(|| format!("{}.{key} is missing or not a number", self.architecture))
    }

    fn optional_size(&self, key: &str) -> Option<usize> {
        self.of_architecture(key).and_then(unsigned).and_then(|value| usize::try_from(value).ok())
    }

    fn float(&self, key: &str) -> Option<f64> {
        self.of_architecture(key).and_then(|value| match value {
            Value::F32(value) => Some(f64::from(*value)),
            Value::F64(value) => Some(*value),
            _ => None,
        })
    }
}

/// A metadata value that is text.
pub(crate) fn string<'a>(content: &'a Content, key: &str) -> Option<&'a str> {
    content.metadata.get(key).and_then(|value| value.to_string().ok()).map(String::as_str)
}

/// A metadata value that is true or false.
pub(crate) fn boolean(content: &Content, key: &str) -> Option<bool> {
    content.metadata.get(key).and_then(|value| value.to_bool().ok())
}

/// A metadata value that is a whole number of any width.
pub(crate) fn number(content: &Content, key: &str) -> Option<u64> {
    content.metadata.get(key).and_then(unsigned)
}

/// A metadata value that is a list.
pub(crate) fn list<'a>(content: &'a Content, key: &str) -> Option<&'a [Value]> {
    content.metadata.get(key).and_then(|value| value.to_vec().ok()).map(Vec::as_slice)
}

fn unsigned(value: &Value) -> Option<u64> {
    match value {
        Value::U8(value) => Some(u64::from(*value)),
        Value::U16(value) => Some(u64::from(*value)),
        Value::U32(value) => Some(u64::from(*value)),
        Value::U64(value) => Some(*value),
        Value::I8(value) => u64::try_from(*value).ok(),
        Value::I16(value) => u64::try_from(*value).ok(),
        Value::I32(value) => u64::try_from(*value).ok(),
        Value::I64(value) => u64::try_from(*value).ok(),
        _ => None,
    }
}

/// Reads the description out of the metadata.
///
/// # Errors
/// [`EngineError::UnsupportedArchitecture`], or in [`EngineError::Malformed`] the key that is missing or off.
pub(crate) fn description(
    path: &std::path::Path,
    content: &Content,
) -> Result<DecoderDescription, EngineError> {
    let metadata = Metadata::new(content).map_err(|reason| EngineError::malformed(path, reason))?;
    let family = match metadata.architecture {
        "llama" => Family::Llama,
        "qwen2" => Family::Qwen2,
        "qwen3" => Family::Qwen3,
        "gemma3" => Family::Gemma3,
        other => return Err(EngineError::UnsupportedArchitecture { architecture: other.to_owned() }),
    };
    describe(&metadata, family).map_err(|reason| EngineError::malformed(path, reason))
}

fn describe(metadata: &Metadata<'_>, family: Family) -> Result<DecoderDescription, String> {
    let gemma = family == Family::Gemma3;
    let width = metadata.size("embedding_length")?;
    let heads = metadata.size("attention.head_count")?;
    let head_dim = match metadata.optional_size("attention.key_length") {
        Some(head_dim) => head_dim,
        None => width.checked_div(heads).ok_or("attention.head_count is 0")?,
    };
    let tensors = &metadata.content.tensor_infos;
    let vocabulary = tensors
        .get(&TensorRole::Embedding.gguf_name())
        .and_then(|info| info.shape.dims().first().copied())
        .ok_or("token_embd.weight is missing")?;
    let rope_scaling =
        match (metadata_string(metadata, "rope.scaling.type"), metadata.float("rope.scaling.factor")) {
            (Some("linear"), Some(factor)) => RopeScaling::Linear { factor },
            (None | Some("none"), _) => RopeScaling::None,
            (Some(other), _) => {
                return Err(format!("rope.scaling.type {other:?} is not supported; none and linear are"));
            }
        };
    let description = DecoderDescription {
        family,
        layers: metadata.size("block_count")?,
        width,
        heads,
        kv_heads: metadata.optional_size("attention.head_count_kv").unwrap_or(heads),
        head_dim,
        ffn_width: metadata.size("feed_forward_length")?,
        vocabulary,
        context: metadata.size("context_length")?,
        norm_eps: metadata.float("attention.layer_norm_rms_epsilon").unwrap_or(1e-6),
        norm_weight: NormWeight::AsIs,
        activation: if gemma { Activation::GeluTanh } else { Activation::Silu },
        rope: if family == Family::Llama { RopeLayout::Interleaved } else { RopeLayout::Halves },
        rope_base: metadata.float("rope.freq_base").unwrap_or(if gemma { 1_000_000.0 } else { 10_000.0 }),
        rope_scaling,
        local: metadata.optional_size("attention.sliding_window").filter(|_| gemma).map(|window| {
            LocalAttention {
                window,
                global_every: metadata.optional_size("attention.sliding_window_pattern").unwrap_or(6),
                rope_base: metadata.float("rope.local_freq_base").unwrap_or(10_000.0),
            }
        }),
        qkv_bias: family == Family::Qwen2,
        qk_norm: matches!(family, Family::Qwen3 | Family::Gemma3),
        sandwich_norms: gemma,
        embedding_scale: if gemma { (width as f64).sqrt() } else { 1.0 },
        attention_scale: attention_scale(family, metadata.size("block_count")?, width, heads, head_dim),
        tied_output: !tensors.contains_key(&TensorRole::Output.gguf_name()),
    };
    description.validate()?;
    Ok(description)
}

/// GGUF does not carry Gemma's `query_pre_attn_scalar`. It is the head size in every published size but 27B (the one
/// with 62 layers), where it is the width by the heads.
fn attention_scale(family: Family, layers: usize, width: usize, heads: usize, head_dim: usize) -> f64 {
    let scalar =
        if family == Family::Gemma3 && layers == 62 { width as f64 / heads as f64 } else { head_dim as f64 };
    scalar.powf(-0.5)
}

fn metadata_string<'a>(metadata: &Metadata<'a>, key: &str) -> Option<&'a str> {
    metadata.of_architecture(key).and_then(|value| value.to_string().ok()).map(String::as_str)
}
