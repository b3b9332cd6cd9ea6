//! Byte-level BPE as GGUF files describe it (`gpt2`), on the tokenizers crate.

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::{AddedToken, SplitDelimiterBehavior};

use crate::gguf::{Header, Strings};
use crate::tokenizer::{TYPE_CONTROL, TYPE_USER_DEFINED};

/// Builds the tokenizer.
///
/// # Errors
/// When the metadata lacks a part, or names a cut that is not known.
pub(super) fn from_gguf(header: &Header) -> Result<tokenizers::Tokenizer, String> {
    let tokens = header.texts("tokenizer.ggml.tokens").ok_or("tokenizer.ggml.tokens is missing")?;
    let merges = header.texts("tokenizer.ggml.merges").ok_or("tokenizer.ggml.merges is missing")?;
    let merges: Merges = merges
        .iter()
        .map(|merge| {
            let (left, right) =
                merge.split_once(' ').ok_or_else(|| format!("merge {merge:?} has no space"))?;
            Ok((left.to_owned(), right.to_owned()))
        })
        .collect::<Result<_, String>>()?;
    let vocabulary: Vocab = (0u32..).zip(tokens.iter()).map(|(id, token)| (token.to_owned(), id)).collect();
    // Without the library's memory of words (see `huggingface::read`); most words are found whole.
    let model = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .ignore_merges(true)
        .cache_capacity(0)
        .build()
        .map_err(|error| error.to_string())?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    let pre = header.text("tokenizer.ggml.pre").unwrap_or("default");
    tokenizer.with_pre_tokenizer(Some(byte_level_pre_tokenizer(pre)?));
    tokenizer.with_decoder(Some(ByteLevel::new(false, false, false)));
    let kinds = header.integers("tokenizer.ggml.token_type").unwrap_or_default();
    add_special_tokens(&mut tokenizer, kinds, tokens)?;
    Ok(tokenizer)
}

fn add_special_tokens(
    tokenizer: &mut tokenizers::Tokenizer,
    kinds: &[i64],
    tokens: &Strings,
) -> Result<(), String> {
    let of_kind = |wanted: i64, special: bool| -> Vec<AddedToken> {
        kinds
            .iter()
            .zip(tokens.iter())
            .filter(|(kind, _)| **kind == wanted)
            .map(|(_, token)| AddedToken::from(token, special).normalized(false))
            .collect()
    };
    tokenizer.add_special_tokens(of_kind(TYPE_CONTROL, true)).map_err(|error| error.to_string())?;
    tokenizer.add_tokens(of_kind(TYPE_USER_DEFINED, false)).map_err(|error| error.to_string())?;
    Ok(())
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
