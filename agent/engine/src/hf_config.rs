//! `config.json` of a Hugging Face model folder, read into a [`DecoderDescription`].

use serde::Deserialize;

use crate::description::{
    Activation, DecoderDescription, Family, LocalAttention, NormWeight, RopeLayout, RopeScaling,
};

#[derive(Deserialize)]
struct Config {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_local_base_freq: Option<f64>,
    rope_scaling: Option<Scaling>,
    sliding_window: Option<usize>,
    sliding_window_pattern: Option<usize>,
    #[serde(rename = "_sliding_window_pattern")]
    private_sliding_window_pattern: Option<usize>,
    query_pre_attn_scalar: Option<f64>,
    tie_word_embeddings: Option<bool>,
}

#[derive(Deserialize)]
struct Scaling {
    #[serde(alias = "type")]
    rope_type: String,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

/// Reads the text of `config.json`.
///
/// # Errors
/// In words: the field that is missing, malformed or not supported.
pub(crate) fn parse(text: &str) -> Result<DecoderDescription, String> {
    let config: Config = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let family = match config.model_type.as_str() {
        "llama" => Family::Llama,
        "qwen2" => Family::Qwen2,
        "qwen3" => Family::Qwen3,
        "gemma3_text" => Family::Gemma3,
        other => {
            return Err(format!(
                "model_type {other:?} is not supported; this engine runs llama, qwen2, qwen3 and gemma3_text"
            ));
        }
    };
    let gemma = family == Family::Gemma3;
    let head_dim = match config.head_dim {
        Some(head_dim) => head_dim,
        None if gemma => 256,
        None => {
            config.hidden_size.checked_div(config.num_attention_heads).ok_or("num_attention_heads is 0")?
        }
    };
    let description = DecoderDescription {
        family,
        layers: config.num_hidden_layers,
        width: config.hidden_size,
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads.unwrap_or(config.num_attention_heads),
        head_dim,
        ffn_width: config.intermediate_size,
        vocabulary: config.vocab_size,
        context: config.max_position_embeddings,
        norm_eps: config.rms_norm_eps,
        norm_weight: if gemma { NormWeight::PlusOne } else { NormWeight::AsIs },
        activation: if gemma { Activation::GeluTanh } else { Activation::Silu },
        rope: RopeLayout::Halves,
        rope_base: config.rope_theta.unwrap_or(if gemma { 1_000_000.0 } else { 10_000.0 }),
        rope_scaling: config.rope_scaling.as_ref().map_or(Ok(RopeScaling::None), scaling)?,
        local: config.sliding_window.filter(|_| gemma).map(|window| LocalAttention {
            window,
            global_every: config
                .sliding_window_pattern
                .or(config.private_sliding_window_pattern)
                .unwrap_or(6),
            rope_base: config.rope_local_base_freq.unwrap_or(10_000.0),
        }),
        qkv_bias: family == Family::Qwen2,
        qk_norm: matches!(family, Family::Qwen3 | Family::Gemma3),
        sandwich_norms: gemma,
        embedding_scale: if gemma { (config.hidden_size as f64).sqrt() } else { 1.0 },
        attention_scale: config.query_pre_attn_scalar.unwrap_or(head_dim as f64).powf(-0.5),
        tied_output: config.tie_word_embeddings.unwrap_or(gemma),
    };
    description.validate()?;
    Ok(description)
}

fn scaling(scaling: &Scaling) -> Result<RopeScaling, String> {
    let need =
        |value: Option<f64>, name: &str| value.ok_or_else(|| format!("rope_scaling.{name} is missing"));
    match scaling.rope_type.as_str() {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: need(scaling.factor, "factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: need(scaling.factor, "factor")?,
            low_freq_factor: need(scaling.low_freq_factor, "low_freq_factor")?,
            high_freq_factor: need(scaling.high_freq_factor, "high_freq_factor")?,
            original_context: need(
                scaling.original_max_position_embeddings,
                "original_max_position_embeddings",
            )?,
        }),
        other => Err(format!("rope_scaling type {other:?} is not supported; default, linear and llama3 are")),
    }
}
