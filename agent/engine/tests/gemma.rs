//! A real model: Gemma 3 270M, quantized; a base model, without a chat template.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics and says where")]

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use candle_core::quantized::gguf_file::Content;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::gemma3;
use llmdeck_engine::Pool;
use llmdeck_engine::engine::{CacheFormat, Engine, EngineOptions};
use llmdeck_engine::generation::{GenerationEvent, GenerationRequest, Listener};
use llmdeck_engine::model::Model;
use llmdeck_engine::sampling::SamplingOptions;
use llmdeck_engine::scheduler::Priority;
use llmdeck_engine::session::Session;
use llmdeck_kernels::logits::summarize_logits;
use serde_json::{Value, json};

const GREEDY_TOKENS: usize = 32;
const LEAST_COSINE: f64 = 0.999;

fn path() -> PathBuf {
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    workspace.join("target/gemma/gemma-3-270m-q4_k_m.gguf")
}

fn cosine(left: &[f32], right: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    dot(left, right) / (dot(left, left) * dot(right, right)).sqrt()
}

fn likeliest(row: &[f32]) -> u32 {
    (0..row.len()).max_by(|left, right| row[*left].total_cmp(&row[*right])).unwrap() as u32
}

/// The weights of the file as 32-bit floats under the names that the reference asks for.
fn dequantized() -> HashMap<String, Tensor> {
    let mut reader = BufReader::new(File::open(path()).unwrap());
    let content = Content::read(&mut reader).unwrap();
    let names: Vec<String> = content.tensor_infos.keys().cloned().collect();
    let mut tensors = HashMap::new();
    for name in names {
        let tensor =
            content.tensor(&mut reader, &name, &Device::Cpu).unwrap().dequantize(&Device::Cpu).unwrap();
        // GGUF has added the one that the reference adds to norm weights.
        let tensor = if name.contains("norm") { (tensor - 1.0).unwrap() } else { tensor };
        tensors.insert(reference_name(&name), tensor);
    }
    tensors
}

fn reference_name(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        ["token_embd", ..] => "model.embed_tokens.weight".into(),
        ["output_norm", ..] => "model.norm.weight".into(),
        ["blk", layer, part, ..] => {
            let part = match part {
                "attn_q" => "self_attn.q_proj",
                "attn_k" => "self_attn.k_proj",
                "attn_v" => "self_attn.v_proj",
                "attn_output" => "self_attn.o_proj",
                "attn_q_norm" => "self_attn.q_norm",
                "attn_k_norm" => "self_attn.k_norm",
                "attn_norm" => "input_layernorm",
                "post_attention_norm" => "post_attention_layernorm",
                "ffn_norm" => "pre_feedforward_layernorm",
                "post_ffw_norm" => "post_feedforward_layernorm",
                "ffn_gate" => "mlp.gate_proj",
                "ffn_up" => "mlp.up_proj",
                "ffn_down" => "mlp.down_proj",
                other => panic!("tensor {other}"),
            };
            format!("model.layers.{layer}.{part}.weight")
        }
        _ => panic!("tensor {name}"),
    }
}

/// `config.json` of the published model.
fn config() -> Value {
    json!({
        "model_type": "gemma3_text", "attention_bias": false, "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 640, "intermediate_size": 2048,
        "num_attention_heads": 4, "num_hidden_layers": 18, "num_key_value_heads": 1, "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0, "vocab_size": 262_144,
        "final_logit_softcapping": null, "attn_logit_softcapping": null, "query_pre_attn_scalar": 256,
        "sliding_window": 512, "sliding_window_pattern": 6, "max_position_embeddings": 32_768,
    })
}

fn load(path: &Path) -> Arc<Model> {
    let pool = Arc::new(Pool::of_machine().unwrap());
    Arc::new(Model::load(path, &pool).unwrap())
}

/// The engine agrees with the reference on the same dequantized weights; and its logits agree on the file as it is, where
/// it rounds activations to eight bits. (`quantized_gemma3` is no reference: it applies SiLU where Gemma 3
/// has GELU.)
#[test]
#[ignore = "needs a file of 241 MiB: tests/fetch-gemma && cargo test -- --ignored"]
fn logits_and_greedy_tokens_are_those_of_candle_transformers() {
    let tensors = dequantized();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config().to_string()).unwrap();
    candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
    // Tokens are given by number; any tokenizer will do.
    let tokenizer = json!({ "version": "1.0", "added_tokens": [], "model": {
        "type": "WordLevel", "vocab": { "<unk>": 0 }, "unk_token": "<unk>",
    }});
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let exact = load(folder.path());
    let settings: gemma3::Config = serde_json::from_value(config()).unwrap();
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let mut reference = gemma3::Model::new(false, &settings, weights).unwrap();
    let quantized = load(&path());

    let mut tokens = quantized.tokenizer.encode("The sea at night is").unwrap();
    let capacity = tokens.len() + GREEDY_TOKENS;
    let mut exact = Session::new(&exact, capacity).unwrap();
    let mut rounding = Session::new(&quantized, capacity).unwrap();
    let mut position = 0;
    for step in 0..GREEDY_TOKENS {
        let mut theirs = Vec::new();
        // Token by token: its rotating cache refuses longer inputs.
        for token in &tokens {
            let logits =
                reference.forward(&Tensor::new(&[[*token]], &Device::Cpu).unwrap(), position).unwrap();
            theirs = logits.flatten_all().unwrap().to_vec1().unwrap();
            position += 1;
        }
        let ours = exact.next(&tokens).unwrap();
        let agreement = cosine(ours, &theirs);
        assert!(agreement >= LEAST_COSINE, "step {step}: cosine {agreement}");
        assert_eq!(likeliest(ours), likeliest(&theirs), "step {step}");
        let agreement = cosine(rounding.next(&tokens).unwrap(), &theirs);
        assert!(agreement >= LEAST_COSINE, "step {step}, quantized: cosine {agreement}");
        tokens = vec![likeliest(&theirs)];
    }
}

/// How surprised a model is by a text, with keys and values stored so.
fn perplexity(model: &Arc<Model>, format: CacheFormat, tokens: &[u32]) -> f64 {
    let mut session = Session::with_cache(model, format, tokens.len()).unwrap();
    let vocabulary = model.decoder.description().vocabulary;
    let rows = session.all(tokens).unwrap().chunks_exact(vocabulary).zip(&tokens[1..]);
    let surprise = |(row, next): (&[f32], &u32)| {
        f64::from(summarize_logits(row).log_normalizer) - f64::from(row[*next as usize])
    };
    (rows.map(surprise).sum::<f64>() / (tokens.len() - 1) as f64).exp()
}

#[test]
#[ignore = "needs a file of 241 MiB: tests/fetch-gemma && cargo test -- --ignored"]
fn smaller_caches_cost_less_than_a_hundredth_of_perplexity() {
    let model = load(&path());
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../LICENSE-APACHE")).unwrap();
    let mut tokens = model.tokenizer.encode(&text).unwrap();
    tokens.truncate(512);
    let [halves, bf16, bytes] = [CacheFormat::F16, CacheFormat::Bf16, CacheFormat::Int8]
        .map(|format| perplexity(&model, format, &tokens));
    println!("f16 {halves:.4}, bf16 {bf16:.4}, int8 {bytes:.4}");
    assert!((bf16 / halves - 1.0).abs() < 0.01, "{bf16} {halves}");
    assert!((bytes / halves - 1.0).abs() < 0.01, "{bytes} {halves}");
}

#[test]
#[ignore = "needs a file of 241 MiB: tests/fetch-gemma && cargo test -- --ignored"]
fn it_knows_a_capital() {
    let model = load(&path());
    let engine = Engine::start("gemma", Arc::clone(&model), EngineOptions::default()).unwrap();
    let (sender, events) = mpsc::channel();
    let request = GenerationRequest {
        prompt: model.tokenizer.encode("Paris is the capital of").unwrap(),
        max_tokens: 12,
        sampling: SamplingOptions::greedy(),
        stops: Vec::new(),
        priority: Priority::Interactive,
        fairness_key: 0,
        constraint: None,
        ignore_end: false,
        adapter: None,
        cpu_time: None,
    };
    let sink =
        Box::new(move |event| if sender.send(event).is_ok() { Listener::Present } else { Listener::Gone });
    engine.submit(request, sink).unwrap();
    let answer: String = events
        .iter()
        .map(|event| match event {
            GenerationEvent::Started => String::new(),
            GenerationEvent::Token(token) => token.text,
            GenerationEvent::Finished { text, .. } => text,
            GenerationEvent::Failed(why) => panic!("{why}"),
        })
        .collect();
    assert!(answer.contains("France"), "{answer}");
}
