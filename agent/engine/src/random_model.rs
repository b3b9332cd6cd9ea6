//! Models of random weights, one of each family, for tests.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

const VOCABULARY: usize = 100;
const WIDTH: usize = 64;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const FFN: usize = 96;
/// What sets a family apart.
pub(crate) struct Shape {
    layers: usize,
    head_dim: usize,
    qkv_bias: bool,
    qk_norm: bool,
    sandwich_norms: bool,
    tied: bool,
}

pub(crate) fn tensors(shape: &Shape) -> HashMap<String, Tensor> {
    let mut rng = StdRng::seed_from_u64(3);
    let mut all = HashMap::new();
    let mut add = |name: String, dims: &[usize]| {
        let fan_in = *dims.last().unwrap() as f32;
        // Norm weights are far from where they start, so that one that is not applied shows.
        let reach = if dims.len() == 1 { 0.5 } else { 3.0 / fan_in.sqrt() };
        let middle =
            if dims.len() == 1 && !shape.sandwich_norms && !name.ends_with("bias") { 1.0 } else { 0.0 };
        let count = dims.iter().product();
        let values: Vec<f32> = (0..count).map(|_| middle + rng.random_range(-reach..reach)).collect();
        all.insert(name, Tensor::from_vec(values, dims, &Device::Cpu).unwrap());
    };
    add("model.embed_tokens.weight".into(), &[VOCABULARY, WIDTH]);
    add("model.norm.weight".into(), &[WIDTH]);
    if !shape.tied {
        add("lm_head.weight".into(), &[VOCABULARY, WIDTH]);
    }
    for layer in 0..shape.layers {
        let mut add = |name: &str, dims: &[usize]| add(format!("model.layers.{layer}.{name}"), dims);
        let (query, key) = (HEADS * shape.head_dim, KV_HEADS * shape.head_dim);
        for (name, rows) in [("q_proj", query), ("k_proj", key), ("v_proj", key)] {
            add(&format!("self_attn.{name}.weight"), &[rows, WIDTH]);
            if shape.qkv_bias {
                add(&format!("self_attn.{name}.bias"), &[rows]);
            }
        }
        add("self_attn.o_proj.weight", &[WIDTH, query]);
        if shape.qk_norm {
            add("self_attn.q_norm.weight", &[shape.head_dim]);
            add("self_attn.k_norm.weight", &[shape.head_dim]);
        }
        add("mlp.gate_proj.weight", &[FFN, WIDTH]);
        add("mlp.up_proj.weight", &[FFN, WIDTH]);
        add("mlp.down_proj.weight", &[WIDTH, FFN]);
        add("input_layernorm.weight", &[WIDTH]);
        add("post_attention_layernorm.weight", &[WIDTH]);
        if shape.sandwich_norms {
            add("pre_feedforward_layernorm.weight", &[WIDTH]);
            add("post_feedforward_layernorm.weight", &[WIDTH]);
        }
    }
    all
}

fn config(model_type: &str, shape: &Shape, more: &Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "hidden_size": WIDTH, "intermediate_size": FFN,
        "num_hidden_layers": shape.layers, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCABULARY, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0, "tie_word_embeddings": shape.tied, "hidden_act": "silu",
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// Writes a model folder as Hugging Face lays it out.
pub(crate) fn write_folder(folder: &Path, config: &Value, tensors: &HashMap<String, Tensor>) {
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let vocabulary: serde_json::Map<String, Value> =
        (0..VOCABULARY).map(|id| (format!("t{id}"), id.into())).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "t0" },
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    candle_core::safetensors::save(tensors, folder.join("model.safetensors")).unwrap();
}

fn plain(layers: usize) -> Shape {
    Shape { layers, head_dim: 16, qkv_bias: false, qk_norm: false, sandwich_norms: false, tied: false }
}

pub(crate) fn llama_with(tied: bool, more: &Value) -> (Shape, Value) {
    let shape = Shape { tied, ..plain(3) };
    let config = config("llama", &shape, more);
    (shape, config)
}

/// Has biases.
pub(crate) fn qwen2() -> (Shape, Value) {
    let shape = Shape { qkv_bias: true, ..plain(3) };
    let more = json!({ "sliding_window": 4096, "max_window_layers": 3, "use_sliding_window": false });
    let config = config("qwen2", &shape, &more);
    (shape, config)
}

/// Has norms over heads.
pub(crate) fn qwen3() -> (Shape, Value) {
    let shape = Shape { qk_norm: true, head_dim: 32, tied: true, ..plain(3) };
    let more = json!({
        "head_dim": 32, "attention_bias": false, "sliding_window": null, "max_window_layers": 3,
        "use_sliding_window": false,
    });
    let config = config("qwen3", &shape, &more);
    (shape, config)
}

/// Has local windows, and norms behind its blocks.
pub(crate) fn gemma3() -> (Shape, Value) {
    let shape = Shape { qk_norm: true, sandwich_norms: true, head_dim: 32, tied: true, ..plain(6) };
    // candle's takes the head's size for `query_pre_attn_scalar`, whatever that says; here they are the same.
    let more = json!({
        "head_dim": 32, "attention_bias": false, "hidden_activation": "gelu_pytorch_tanh",
        "rope_local_base_freq": 5_000.0, "rope_theta": 100_000.0, "query_pre_attn_scalar": 32,
        "sliding_window": 16, "sliding_window_pattern": 3, "final_logit_softcapping": null,
        "attn_logit_softcapping": null,
    });
    let config = config("gemma3_text", &shape, &more);
    (shape, config)
}
