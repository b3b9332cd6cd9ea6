//! Text to tokens and back, from `tokenizer.json` or from the metadata of a GGUF file.

use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::replace::Replace;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::{AddedToken, SplitDelimiterBehavior};

use crate::EngineError;
use crate::gguf_metadata::{boolean, list, number, string};

/// A tokenizer with what generation needs to know of it.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    add_bos: bool,
    ends: Vec<u32>,
}

/// GGUF's token types that matter here (GGUF specification, `tokenizer.ggml.token_type`).
const TYPE_CONTROL: u64 = 3;
const TYPE_USER_DEFINED: u64 = 4;

/// Tokens that end an answer in one of the supported families, beside the declared end of sequence.
const END_OF_TURN: [&str; 5] =
    ["<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end_of_text|>", "<|endoftext|>"];

impl Tokenizer {
    /// Reads `tokenizer.json` beside its `config.json`, which names the special tokens.
    ///
    /// # Errors
    /// When either is missing or malformed.
    pub fn from_folder(folder: &Path, config: &serde_json::Value) -> Result<Self, EngineError> {
        let path = folder.join("tokenizer.json");
        let inner =
            tokenizers::Tokenizer::from_file(&path).map_err(|error| EngineError::malformed(&path, error))?;
        let id = |key: &str| {
            config.get(key).and_then(serde_json::Value::as_u64).and_then(|id| u32::try_from(id).ok())
        };
        let mut ends: Vec<u32> = match config.get("eos_token_id") {
            Some(serde_json::Value::Array(ids)) => ids
                .iter()
                .filter_map(serde_json::Value::as_u64)
                .filter_map(|id| u32::try_from(id).ok())
                .collect(),
            _ => id("eos_token_id").into_iter().collect(),
        };
        extend_with_turn_ends(&inner, &mut ends);
        // The post-processor of tokenizer.json adds the beginning where the model wants one.
        Ok(Self { inner, bos: id("bos_token_id"), add_bos: false, ends })
    }

    /// Builds the tokenizer that a GGUF file describes: byte-level BPE (`gpt2`) or SentencePiece BPE (`llama`).
    ///
    /// # Errors
    /// When the metadata lacks a part or names another model.
    pub fn from_gguf(path: &Path, content: &Content) -> Result<Self, EngineError> {
        Self::read_gguf(content).map_err(|reason| EngineError::malformed(path, reason))
    }

    fn read_gguf(content: &Content) -> Result<Self, String> {
        let tokens = list(content, "tokenizer.ggml.tokens").ok_or("tokenizer.ggml.tokens is missing")?;
        let tokens: Vec<&str> = tokens
            .iter()
            .map(|token| token.to_string().map(String::as_str))
            .collect::<Result<_, _>>()
            .map_err(|error| format!("tokenizer.ggml.tokens: {error}"))?;
        let mut inner = match string(content, "tokenizer.ggml.model") {
            Some("gpt2") => byte_level(content, &tokens)?,
            Some("llama") => sentence_piece(content, &tokens)?,
            other => return Err(format!("tokenizer.ggml.model is {other:?}; gpt2 and llama are supported")),
        };
        add_special_tokens(&mut inner, content, &tokens)?;
        let id = |key: &str| number(content, key).and_then(|id| u32::try_from(id).ok());
        let bos = id("tokenizer.ggml.bos_token_id");
        let mut ends: Vec<u32> = [id("tokenizer.ggml.eos_token_id"), id("tokenizer.ggml.eot_token_id")]
            .into_iter()
            .flatten()
            .collect();
        extend_with_turn_ends(&inner, &mut ends);
        let add_bos = boolean(content, "tokenizer.ggml.add_bos_token")
            .unwrap_or(string(content, "tokenizer.ggml.model") == Some("llama"));
        Ok(Self { inner, bos, add_bos, ends })
    }

    /// Text to tokens. A prompt made by a chat template that writes the beginning-of-sequence token itself is not
    /// given a second one.
    ///
    /// # Errors
    /// When the tokenizer's own rules refuse the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let encoding =
            self.inner.encode_fast(text, true).map_err(|error| EngineError::Tokenizer(error.to_string()))?;
        let mut ids = encoding.get_ids().to_vec();
        if let Some(bos) = self.bos {
            if self.add_bos && ids.first() != Some(&bos) {
                ids.insert(0, bos);
            } else if ids.len() > 1 && ids[0] == bos && ids[1] == bos {
                ids.remove(0);
            }
        }
        Ok(ids)
    }

    /// Tokens to text, special tokens left out.
    ///
    /// # Errors
    /// When a token is unknown.
    pub fn decode(&self, ids: &[u32]) -> Result<String, EngineError> {
        self.inner.decode(ids, true).map_err(|error| EngineError::Tokenizer(error.to_string()))
    }

    /// One token as it is written in the vocabulary, for logprobs.
    pub fn token_text(&self, id: u32) -> String {
        self.inner.decode(&[id], false).unwrap_or_default()
    }

    /// The id of a token by its exact name.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether a token ends the answer.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// The beginning-of-sequence token as text, for chat templates.
    pub fn bos_text(&self) -> String {
        self.bos.and_then(|id| self.inner.id_to_token(id)).unwrap_or_default()
    }

    /// The first end token as text, for chat templates.
    pub fn end_text(&self) -> String {
        self.ends.first().and_then(|id| self.inner.id_to_token(*id)).unwrap_or_default()
    }
}

fn extend_with_turn_ends(inner: &tokenizers::Tokenizer, ends: &mut Vec<u32>) {
    for id in END_OF_TURN.iter().filter_map(|token| inner.token_to_id(token)) {
        if !ends.contains(&id) {
            ends.push(id);
        }
    }
}

/// How text is cut before byte pairs are merged. The expressions are those that each family's `tokenizer.json`
/// declares; the names are those of `tokenizer.ggml.pre`.
fn pre_tokenizer_pattern(name: &str) -> Option<&'static str> {
    Some(match name {
        "qwen2" | "llmdeck" => {
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        }
        "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" => {
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        }
        "default" | "gpt-2" => r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        _ => return None,
    })
}

/// The cut in front of byte-level pair merging.
///
/// # Errors
/// When the name is not known.
pub fn byte_level_pre_tokenizer(name: &str) -> Result<Sequence, String> {
    let pattern = pre_tokenizer_pattern(name).ok_or_else(|| {
        format!("tokenizer.ggml.pre {name:?} is not supported; use the model's safetensors")
    })?;
    let split = Split::new(SplitPattern::Regex(pattern.into()), SplitDelimiterBehavior::Isolated, false)
        .map_err(|error| error.to_string())?;
    Ok(Sequence::new(vec![
        PreTokenizerWrapper::Split(split),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, false)),
    ]))
}

fn byte_level(content: &Content, tokens: &[&str]) -> Result<tokenizers::Tokenizer, String> {
    let merges = list(content, "tokenizer.ggml.merges").ok_or("tokenizer.ggml.merges is missing")?;
    let merges: Merges = merges
        .iter()
        .map(|merge| {
            let merge = merge.to_string().map_err(|error| error.to_string())?;
            let (left, right) =
                merge.split_once(' ').ok_or_else(|| format!("merge {merge:?} has no space"))?;
            Ok((left.to_owned(), right.to_owned()))
        })
        .collect::<Result<_, String>>()?;
    let model = BPE::builder()
        .vocab_and_merges(vocabulary(tokens), merges)
        .ignore_merges(true)
        .build()
        .map_err(|error| error.to_string())?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    let pre = string(content, "tokenizer.ggml.pre").unwrap_or("default");
    tokenizer.with_pre_tokenizer(Some(byte_level_pre_tokenizer(pre)?));
    tokenizer.with_decoder(Some(ByteLevel::new(false, false, false)));
    Ok(tokenizer)
}

/// SentencePiece merges the pair whose joined piece scores highest. As a list of merges that is: every split of every
/// piece into two other pieces, best score first.
fn sentence_piece(content: &Content, tokens: &[&str]) -> Result<tokenizers::Tokenizer, String> {
    let scores = list(content, "tokenizer.ggml.scores").ok_or("tokenizer.ggml.scores is missing")?;
    if scores.len() != tokens.len() {
        return Err(format!("{} scores for {} tokens", scores.len(), tokens.len()));
    }
    let score = |id: usize| match scores[id] {
        Value::F32(score) => score,
        _ => f32::NEG_INFINITY,
    };
    let vocabulary = vocabulary(tokens);
    let mut ranked: Vec<(f32, u32, u32, &str, &str)> = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        for (cut, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(cut);
            if let (Some(left_id), Some(right_id)) = (vocabulary.get(left), vocabulary.get(right)) {
                ranked.push((score(id), *left_id, *right_id, left, right));
            }
        }
    }
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2))));
    let merges: Merges =
        ranked.into_iter().map(|(_, _, _, left, right)| (left.to_owned(), right.to_owned())).collect();
    let unknown = number(content, "tokenizer.ggml.unknown_token_id")
        .and_then(|id| tokens.get(usize::try_from(id).ok()?))
        .copied()
        .unwrap_or("<unk>");
    let model = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .unk_token(unknown.to_owned())
        .fuse_unk(true)
        .byte_fallback(true)
        .build()
        .map_err(|error| error.to_string())?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    let space = |from: &str, to: &str| Replace::new(from, to).map_err(|error| error.to_string());
    tokenizer.with_normalizer(Some(space(" ", "▁")?)).map_err(|error| error.to_string())?;
    tokenizer.with_decoder(Some(DecoderSequence::new(vec![
        DecoderWrapper::Replace(space("▁", " ")?),
        DecoderWrapper::ByteFallback(ByteFallback::new()),
        DecoderWrapper::Fuse(Fuse::new()),
    ])));
    Ok(tokenizer)
}

fn vocabulary(tokens: &[&str]) -> Vocab {
    (0u32..).zip(tokens).map(|(id, token)| ((*token).to_owned(), id)).collect()
}

fn add_special_tokens(
    tokenizer: &mut tokenizers::Tokenizer,
    content: &Content,
    tokens: &[&str],
) -> Result<(), String> {
    let Some(types) = list(content, "tokenizer.ggml.token_type") else { return Ok(()) };
    let of_type = |wanted: u64| {
        types.iter().zip(tokens).filter(move |(kind, _)| {
            matches!(kind, Value::I32(kind) if u64::try_from(*kind) == Ok(wanted))
                || matches!(kind, Value::U32(kind) if u64::from(*kind) == wanted)
        })
    };
    let control: Vec<AddedToken> =
        of_type(TYPE_CONTROL).map(|(_, token)| AddedToken::from(*token, true).normalized(false)).collect();
    let defined: Vec<AddedToken> = of_type(TYPE_USER_DEFINED)
        .map(|(_, token)| AddedToken::from(*token, false).normalized(false))
        .collect();
    tokenizer.add_special_tokens(control).map_err(|error| error.to_string())?;
    tokenizer.add_tokens(defined).map_err(|error| error.to_string())?;
    Ok(())
}
