//! The tokenizer of the built-in models: bytes, and pairs merged from lower-case words only, so that numbers and
//! capital letters stay one token each and can be reordered exactly.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;
use llmdeck_engine::tokenizer::byte_level_pre_tokenizer;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::skills::{Skill, Split};

/// Tokens in all.
pub const SIZE: usize = 512;
/// Ends an answer.
pub const END: &str = "<|end|>";
/// In front of a turn, by role.
pub const ROLES: [&str; 3] = ["<|system|>", "<|user|>", "<|assistant|>"];
/// What the models were trained in and are served with.
pub const CHAT_TEMPLATE: &str = "{% for message in messages %}{% if message.role not in ['system', 'user', 'assistant'] %}\
{{ raise_exception('role ' ~ message.role ~ ' is not known; this model knows system, user and assistant') }}{% endif %}\
<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

/// The name by which the engine knows how text is cut before merging.
const PRE_TOKENIZER: &str = "llmdeck";

/// GGUF metadata of the tokenizer, trained on the generators' own text.
///
/// # Errors
/// In words, when the tokenizer library refuses.
pub fn gguf_metadata() -> Result<Vec<(String, Value)>, String> {
    let (vocabulary, merges) = train()?;
    let mut tokens: Vec<(String, u32)> = vocabulary.into_iter().collect();
    tokens.sort_by_key(|(_, id)| *id);
    let kinds =
        tokens.iter().map(|(token, _)| if is_special(token) { 3 } else { 1 }).map(Value::I32).collect();
    let end = tokens.iter().find(|(token, _)| token == END).map_or(0, |(_, id)| *id);
    let text = |value: &str| Value::String(value.to_owned());
    Ok(vec![
        ("tokenizer.ggml.model".into(), text("gpt2")),
        ("tokenizer.ggml.pre".into(), text(PRE_TOKENIZER)),
        (
            "tokenizer.ggml.tokens".into(),
            Value::Array(tokens.into_iter().map(|(token, _)| Value::String(token)).collect()),
        ),
        ("tokenizer.ggml.token_type".into(), Value::Array(kinds)),
        ("tokenizer.ggml.merges".into(), Value::Array(merges.into_iter().map(Value::String).collect())),
        ("tokenizer.ggml.eos_token_id".into(), Value::U32(end)),
        ("tokenizer.ggml.add_bos_token".into(), Value::Bool(false)),
        ("tokenizer.chat_template".into(), text(CHAT_TEMPLATE)),
    ])
}

fn is_special(token: &str) -> bool {
    token == END || ROLES.contains(&token)
}

fn train() -> Result<(HashMap<String, u32>, Vec<String>), String> {
    let fail = |error: tokenizers::Error| error.to_string();
    let mut rng = StdRng::seed_from_u64(1);
    let mut corpus = Vec::new();
    for skill in Skill::ALL {
        for _ in 0..4_000 {
            let example = skill.example(&mut rng, Split::Train);
            corpus.push(lower_case_words(&example.prompt));
            corpus.push(lower_case_words(&example.answer));
        }
    }
    let trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(SIZE)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(
            ROLES
                .iter()
                .copied()
                .chain([END])
                .map(|token| tokenizers::AddedToken::from(token, true))
                .collect(),
        )
        .build();
    let mut tokenizer = tokenizers::Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(byte_level_pre_tokenizer(PRE_TOKENIZER)?));
    let mut wrapper = tokenizers::models::TrainerWrapper::BpeTrainer(trainer);
    tokenizer.train(&mut wrapper, corpus.into_iter()).map_err(fail)?;
    let json: serde_json::Value = serde_json::from_str(&tokenizer.to_string(false).map_err(fail)?)
        .map_err(|error| error.to_string())?;
    let merges = json["model"]["merges"]
        .as_array()
        .ok_or("the tokenizer has no merges")?
        .iter()
        .map(|pair| match pair {
            serde_json::Value::Array(pair) => {
                pair.iter().filter_map(serde_json::Value::as_str).collect::<Vec<_>>().join(" ")
            }
            other => other.as_str().unwrap_or_default().to_owned(),
        })
        .collect();
    Ok((tokenizer.get_vocab(true), merges))
}

/// Leaves out words with capitals and digits, so that nothing of them is merged.
fn lower_case_words(text: &str) -> String {
    text.split(' ')
        .filter(|word| !word.chars().any(|letter| letter.is_uppercase() || letter.is_numeric()))
        .map(|word| format!(" {word}"))
        .collect()
}
