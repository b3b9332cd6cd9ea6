//! Text to tokens and back, from `tokenizer.json` or from the metadata of a GGUF file.

mod byte_level;
mod huggingface;
mod library_tokens;
mod sentence_piece;

use std::path::Path;

pub use byte_level::byte_level_pre_tokenizer;
use sentence_piece::SentencePiece;

use crate::EngineError;
use crate::gguf::Header;

/// A tokenizer with what generation needs to know of it.
pub struct Tokenizer {
    model: TokenModel,
    bos: Option<u32>,
    add_bos: bool,
    ends: Vec<u32>,
}

enum TokenModel {
    /// Whatever `tokenizer.json` says, and byte-level BPE from GGUF files.
    Library(Box<tokenizers::Tokenizer>),
    SentencePiece(SentencePiece),
}

/// GGUF's token types that matter here (GGUF specification, `tokenizer.ggml.token_type`).
const TYPE_UNKNOWN: i64 = 2;
const TYPE_CONTROL: i64 = 3;
const TYPE_USER_DEFINED: i64 = 4;
const TYPE_BYTE: i64 = 6;

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
        let library = huggingface::read(&path).map_err(|error| EngineError::malformed(&path, error))?;
        let id = |key: &str| {
            config.get(key).and_then(serde_json::Value::as_u64).and_then(|id| u32::try_from(id).ok())
        };
        let ends: Vec<u32> = match config.get("eos_token_id") {
            Some(serde_json::Value::Array(ids)) => ids
                .iter()
                .filter_map(serde_json::Value::as_u64)
                .filter_map(|id| u32::try_from(id).ok())
                .collect(),
            _ => id("eos_token_id").into_iter().collect(),
        };
        // The post-processor of tokenizer.json adds the beginning where the model wants one.
        let model = TokenModel::Library(Box::new(library));
        Ok(Self { model, bos: id("bos_token_id"), add_bos: false, ends }.with_turn_ends())
    }

    /// Builds the tokenizer that a GGUF file describes: byte-level BPE (`gpt2`) or SentencePiece BPE (`llama`).
    ///
    /// # Errors
    /// When the metadata lacks a part or names another model.
    pub(crate) fn from_gguf(path: &Path, header: &Header) -> Result<Self, EngineError> {
        Self::read_gguf(header).map_err(|reason| EngineError::malformed(path, reason))
    }

    fn read_gguf(header: &Header) -> Result<Self, String> {
        let model = match header.text("tokenizer.ggml.model") {
            Some("gpt2") => TokenModel::Library(Box::new(byte_level::from_gguf(header)?)),
            Some("llama") => TokenModel::SentencePiece(SentencePiece::from_gguf(header)?),
            other => return Err(format!("tokenizer.ggml.model is {other:?}; gpt2 and llama are supported")),
        };
        let id = |key: &str| header.number(key).and_then(|id| u32::try_from(id).ok());
        let ends = [id("tokenizer.ggml.eos_token_id"), id("tokenizer.ggml.eot_token_id")];
        let add_bos = header
            .boolean("tokenizer.ggml.add_bos_token")
            .unwrap_or(matches!(model, TokenModel::SentencePiece(_)));
        let bos = id("tokenizer.ggml.bos_token_id");
        Ok(Self { model, bos, add_bos, ends: ends.into_iter().flatten().collect() }.with_turn_ends())
    }

    fn with_turn_ends(mut self) -> Self {
        for token in END_OF_TURN {
            if let Some(id) = self.id(token).filter(|id| !self.ends.contains(id)) {
                self.ends.push(id);
            }
        }
        self
    }

    /// Text to tokens. A prompt made by a chat template that writes the beginning-of-sequence token itself is not
    /// given a second one.
    ///
    /// # Errors
    /// When the tokenizer's own rules refuse the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let mut ids = match &self.model {
            TokenModel::Library(library) => library
                .encode_fast(text, true)
                .map_err(|error| EngineError::Tokenizer(error.to_string()))?
                .get_ids()
                .to_vec(),
            TokenModel::SentencePiece(pieces) => pieces.encode(text),
        };
        if let Some(bos) = self.bos {
            if self.add_bos && ids.first() != Some(&bos) {
                ids.insert(0, bos);
            } else if ids.len() > 1 && ids[0] == bos && ids[1] == bos {
                ids.remove(0);
            }
        }
        Ok(ids)
    }

    /// Text within an answer to tokens: nothing is put before it.
    ///
    /// # Errors
    /// When the tokenizer's own rules refuse the text.
    pub(crate) fn encode_inner(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        match &self.model {
            TokenModel::Library(library) => library
                .encode_fast(text, false)
                .map(|encoding| encoding.get_ids().to_vec())
                .map_err(|error| EngineError::Tokenizer(error.to_string())),
            TokenModel::SentencePiece(pieces) => Ok(pieces.encode_inner(text)),
        }
    }

    /// The bytes that a token adds to an answer; `None` for those that are no text.
    pub(crate) fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        match &self.model {
            TokenModel::Library(library) => library_tokens::bytes(library, id),
            TokenModel::SentencePiece(pieces) => pieces.bytes(id),
        }
    }

    /// Tokens to text, special tokens left out.
    ///
    /// # Errors
    /// When the tokenizer's own rules refuse the tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String, EngineError> {
        match &self.model {
            TokenModel::Library(library) => {
                library.decode(ids, true).map_err(|error| EngineError::Tokenizer(error.to_string()))
            }
            TokenModel::SentencePiece(pieces) => Ok(pieces.decode(ids)),
        }
    }

    /// One token as text, special tokens by their names; for logprobs.
    pub fn token_text(&self, id: u32) -> String {
        match &self.model {
            TokenModel::Library(library) => library.decode(&[id], false).unwrap_or_default(),
            TokenModel::SentencePiece(pieces) => {
                pieces.name(id).map_or_else(String::new, |name| match pieces.decode(&[id]) {
                    text if text.is_empty() => name.to_owned(),
                    text => text,
                })
            }
        }
    }

    /// The id of a token by its exact name.
    pub fn id(&self, token: &str) -> Option<u32> {
        match &self.model {
            TokenModel::Library(library) => library.token_to_id(token),
            TokenModel::SentencePiece(pieces) => pieces.id(token),
        }
    }

    /// A token by its name in the vocabulary.
    fn name(&self, id: u32) -> Option<String> {
        match &self.model {
            TokenModel::Library(library) => library.id_to_token(id),
            TokenModel::SentencePiece(pieces) => pieces.name(id).map(str::to_owned),
        }
    }

    /// The token that text begins with, where the model has one.
    pub(crate) fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Tokens that end an answer, the model's own first.
    pub(crate) fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Whether a token ends the answer.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// The beginning-of-sequence token as text, for chat templates.
    pub fn bos_text(&self) -> String {
        self.bos.and_then(|id| self.name(id)).unwrap_or_default()
    }

    /// The first end token as text, for chat templates.
    pub fn end_text(&self) -> String {
        self.ends.first().and_then(|id| self.name(*id)).unwrap_or_default()
    }
}
