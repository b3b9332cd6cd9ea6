//! GGUF metadata read into a [`DecoderDescription`].
//! Source of the keys: the GGUF specification, "Standardized key-value pairs".

use crate::EngineError;
use crate::description::{
    Activation, DecoderDescription, Family, LocalAttention, NormWeight, RopeLayout, RopeScaling, TensorRole,
};
use crate::gguf::Header;

/// The metadata under the architecture's own name.
struct Metadata<'a> {
    header: &'a Header,
    architecture: &'a str,
}

impl<'a> Metadata<'a> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn size(&self, key: &str) -> Result<usize, String> {
        self.optional_size(key).ok_or_else(|| format!("{} is missing or not a number", self.key(key)))
    }

    fn optional_size(&self, key: &str) -> Option<usize> {
        self.header.number(&self.key(key)).and_then(|value| usize::try_from(value).ok())
    }

    fn float(&self, key: &str) -> Option<f64> {
        self.header.float(&self.key(key))
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.header.text(&self.key(key))
    }
}

/// Reads the description out of the metadata.
///
/// # Errors
/// [`EngineError::UnsupportedArchitecture`], or in [`EngineError::Malformed`] the key that is missing or off.
pub(crate) fn description(
    path: &std::path::Path,
    header: &Header,
) -> Result<DecoderDescription, EngineError> {
    let architecture = header
        .text("general.architecture")
        .ok_or_else(|| EngineError::malformed(path, "general.architecture is missing"))?;
    let metadata = Metadata { header, architecture };
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
    let vocabulary = metadata
        .header
        .tensor(&TensorRole::Embedding.gguf_name())
        .and_then(|place| place.shape.first().copied())
        .ok_or("token_embd.weight is missing")?;
    let rope_scaling = match (metadata.text("rope.scaling.type"), metadata.float("rope.scaling.factor")) {
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
        tied_output: metadata.header.tensor(&TensorRole::Output.gguf_name()).is_none(),
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
