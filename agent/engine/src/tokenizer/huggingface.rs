//! A tokenizer as Hugging Face's libraries read it: what they wrote, and for what trains or serves a model outside.

use std::path::Path;

use serde_json::json;
use tokenizers::processors::template::TemplateProcessing;

use super::{TokenModel, Tokenizer};
use crate::EngineError;

/// What pads batches in one of the supported families.
const PADS: [&str; 3] = ["<pad>", "<|finetune_right_pad_id|>", "<|endoftext|>"];

/// Reads `tokenizer.json`. The library would remember ten thousand words for each thread that encodes, and keeps them when the
/// tokenizer goes (`models/bpe/model.rs` of tokenizers 0.23.2): every load of a model would leave them behind. Merging them anew
/// takes a microsecond a word.
///
/// # Errors
/// When the file cannot be read or says something else.
pub(super) fn read(path: &Path) -> Result<tokenizers::Tokenizer, tokenizers::Error> {
    let mut tokenizer = tokenizers::Tokenizer::from_file(path)?;
    let mut model = tokenizer.get_model().clone();
    model.resize_cache(0);
    tokenizer.with_model(model);
    Ok(tokenizer)
}

impl Tokenizer {
    /// Writes `tokenizer.json`, `tokenizer_config.json` and, where there is one, `chat_template.jinja` into a folder that is
    /// there.
    ///
    /// # Errors
    /// When the vocabulary cannot be said in that format, or a file cannot be written.
    pub fn write(
        &self,
        folder: &Path,
        chat_template: Option<&str>,
        context_tokens: usize,
    ) -> Result<(), EngineError> {
        let library = self.as_library().map_err(EngineError::Tokenizer)?;
        let text = library.to_string(false).map_err(|error| EngineError::Tokenizer(error.to_string()))?;
        let named = |text: String| (!text.is_empty()).then_some(text);
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": named(self.bos_text()),
            "eos_token": named(self.end_text()),
            "pad_token": PADS.into_iter().find(|name| self.id(name).is_some()),
            "model_max_length": context_tokens,
            "clean_up_tokenization_spaces": false,
        });
        let template = chat_template.map(|template| ("chat_template.jinja", template.to_owned()));
        let files = [("tokenizer.json", text), ("tokenizer_config.json", config.to_string())];
        for (name, text) in files.into_iter().chain(template) {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|source| EngineError::Read { path, source })?;
        }
        Ok(())
    }

    fn as_library(&self) -> Result<tokenizers::Tokenizer, String> {
        let mut library = match &self.model {
            TokenModel::Library(library) => (**library).clone(),
            TokenModel::SentencePiece(pieces) => pieces.as_library()?,
        };
        if let Some(bos) = self.bos.filter(|_| self.add_bos) {
            let template = TemplateProcessing::builder()
                .try_single(format!("{} $A", self.bos_text()))
                .map_err(|error| error.to_string())?
                .special_tokens(vec![(self.bos_text(), bos)])
                .build()
                .map_err(|error| error.to_string())?;
            library.with_post_processor(Some(template));
        }
        Ok(library)
    }
}
