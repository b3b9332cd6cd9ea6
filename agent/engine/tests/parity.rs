//! The engine agrees with candle-transformers on the same random weights: logits at every step, and 32 greedy tokens.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics and says where")]

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{gemma3, llama, qwen2, qwen3};
use llmdeck_engine::Pool;
use llmdeck_engine::model::Model;
use llmdeck_engine::session::Session;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

const VOCABULARY: usize = 100;
const WIDTH: usize = 64;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const FFN: usize = 96;
const PROMPT: [u32; 12] = [5, 17, 42, 8, 99, 3, 64, 21, 77, 30, 12, 50];
const GREEDY_TOKENS: usize = 32;
const LEAST_COSINE: f64 = 0.999;

/// What sets a family apart.
struct Shape {
    layers: usize,
    head_dim: usize,
    qkv_bias: bool,
    qk_norm: bool,
    sandwich_norms: bool,
    tied: bool,
}

fn tensors(shape: &Shape) -> HashMap<String, Tensor> {
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
fn write_folder(folder: &Path, config: &Value, tensors: &HashMap<String, Tensor>) {
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

fn cosine(left: &[f32], right: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    dot(left, right) / (dot(left, left) * dot(right, right)).sqrt()
}

fn likeliest(row: &[f32]) -> u32 {
    (0..row.len()).max_by(|left, right| row[*left].total_cmp(&row[*right])).unwrap() as u32
}

/// Feeds both the prompt and then the reference's greedy tokens.
fn compare(name: &str, folder: &Path, mut reference: impl FnMut(&[u32], usize) -> Result<Tensor>) {
    let pool = Arc::new(Pool::new(2).unwrap());
    let model = Arc::new(Model::load(folder, &pool).unwrap());
    let mut session = Session::new(&model, PROMPT.len() + GREEDY_TOKENS).unwrap();
    let (mut tokens, mut position) = (PROMPT.to_vec(), 0);
    for step in 0..GREEDY_TOKENS {
        let theirs = reference(&tokens, position).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let ours = session.next(&tokens).unwrap();
        let agreement = cosine(ours, &theirs);
        assert!(agreement >= LEAST_COSINE, "{name}, step {step}: cosine {agreement}");
        assert_eq!(likeliest(ours), likeliest(&theirs), "{name}, step {step}");
        position += tokens.len();
        tokens = vec![likeliest(&theirs)];
    }
}

fn input(tokens: &[u32]) -> Result<Tensor> {
    Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)
}

fn plain(layers: usize) -> Shape {
    Shape { layers, head_dim: 16, qkv_bias: false, qk_norm: false, sandwich_norms: false, tied: false }
}

#[test]
fn llama() {
    for tied in [false, true] {
        let shape = Shape { tied, ..plain(3) };
        let scaling = json!({ "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }});
        for more in [json!({}), scaling] {
            let (config, tensors) = (config("llama", &shape, &more), tensors(&shape));
            let folder = tempfile::tempdir().unwrap();
            write_folder(folder.path(), &config, &tensors);
            let settings: llama::LlamaConfig = serde_json::from_value(config).unwrap();
            let settings = settings.into_config(false);
            let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
            let model = llama::Llama::load(weights, &settings).unwrap();
            let mut cache = llama::Cache::new(true, DType::F32, &settings, &Device::Cpu).unwrap();
            compare("llama", folder.path(), |tokens, position| {
                model.forward(&input(tokens)?, position, &mut cache)
            });
        }
    }
}

#[test]
fn qwen2_with_its_biases() {
    let shape = Shape { qkv_bias: true, ..plain(3) };
    let more = json!({ "sliding_window": 4096, "max_window_layers": 3, "use_sliding_window": false });
    let (config, tensors) = (config("qwen2", &shape, &more), tensors(&shape));
    let folder = tempfile::tempdir().unwrap();
    write_folder(folder.path(), &config, &tensors);
    let settings: qwen2::Config = serde_json::from_value(config).unwrap();
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let mut model = qwen2::ModelForCausalLM::new(&settings, weights).unwrap();
    compare("qwen2", folder.path(), |tokens, position| model.forward(&input(tokens)?, position));
}

#[test]
fn qwen3_with_its_head_norms() {
    let shape = Shape { qk_norm: true, head_dim: 32, tied: true, ..plain(3) };
    let more = json!({
        "head_dim": 32, "attention_bias": false, "sliding_window": null, "max_window_layers": 3,
        "use_sliding_window": false,
    });
    let (config, tensors) = (config("qwen3", &shape, &more), tensors(&shape));
    let folder = tempfile::tempdir().unwrap();
    write_folder(folder.path(), &config, &tensors);
    let settings: qwen3::Config = serde_json::from_value(config).unwrap();
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let mut model = qwen3::ModelForCausalLM::new(&settings, weights).unwrap();
    compare("qwen3", folder.path(), |tokens, position| model.forward(&input(tokens)?, position));
}

#[test]
fn gemma3_across_its_local_windows() {
    let shape = Shape { qk_norm: true, sandwich_norms: true, head_dim: 32, tied: true, ..plain(6) };
    // The reference takes the head's size for `query_pre_attn_scalar`, whatever that says; here they are the same.
    let more = json!({
        "head_dim": 32, "attention_bias": false, "hidden_activation": "gelu_pytorch_tanh",
        "rope_local_base_freq": 5_000.0, "rope_theta": 100_000.0, "query_pre_attn_scalar": 32,
        "sliding_window": 16, "sliding_window_pattern": 3, "final_logit_softcapping": null,
        "attn_logit_softcapping": null,
    });
    let (config, tensors) = (config("gemma3_text", &shape, &more), tensors(&shape));
    let folder = tempfile::tempdir().unwrap();
    write_folder(folder.path(), &config, &tensors);
    let settings: gemma3::Config = serde_json::from_value(config).unwrap();
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let mut model = gemma3::Model::new(false, &settings, weights).unwrap();
    compare("gemma3", folder.path(), |tokens, position| {
        // Token by token: its rotating cache refuses longer inputs.
        let mut logits = None;
        for (index, token) in tokens.iter().enumerate() {
            logits = Some(model.forward(&input(&[*token])?, position + index)?);
        }
        logits.ok_or_else(|| candle_core::Error::Msg("no token".into()))
    });
}
