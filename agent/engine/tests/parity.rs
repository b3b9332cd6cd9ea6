//! The engine agrees with candle-transformers on the same random weights: logits at every step, and 32 greedy tokens.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics and says where")]

#[path = "../src/random_model.rs"]
mod random_model;

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{gemma3, llama, qwen2, qwen3};
use llmdeck_engine::Pool;
use llmdeck_engine::model::Model;
use llmdeck_engine::session::Session;
use random_model::{llama_with, tensors, write_folder};
use serde_json::json;

const PROMPT: [u32; 12] = [5, 17, 42, 8, 99, 3, 64, 21, 77, 30, 12, 50];
const GREEDY_TOKENS: usize = 32;
const LEAST_COSINE: f64 = 0.999;

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

#[test]
fn llama() {
    for tied in [false, true] {
        let scaling = json!({ "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }});
        for more in [json!({}), scaling] {
            let (shape, config) = llama_with(tied, &more);
            let tensors = tensors(&shape);
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
    let (shape, config) = random_model::qwen2();
    let tensors = tensors(&shape);
    let folder = tempfile::tempdir().unwrap();
    write_folder(folder.path(), &config, &tensors);
    let settings: qwen2::Config = serde_json::from_value(config).unwrap();
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let mut model = qwen2::ModelForCausalLM::new(&settings, weights).unwrap();
    compare("qwen2", folder.path(), |tokens, position| model.forward(&input(tokens)?, position));
}

#[test]
fn qwen3_with_its_head_norms() {
    let (shape, config) = random_model::qwen3();
    let tensors = tensors(&shape);
    let folder = tempfile::tempdir().unwrap();
    write_folder(folder.path(), &config, &tensors);
    let settings: qwen3::Config = serde_json::from_value(config).unwrap();
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let mut model = qwen3::ModelForCausalLM::new(&settings, weights).unwrap();
    compare("qwen3", folder.path(), |tokens, position| model.forward(&input(tokens)?, position));
}

#[test]
fn gemma3_across_its_local_windows() {
    let (shape, config) = random_model::gemma3();
    let tensors = tensors(&shape);
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
