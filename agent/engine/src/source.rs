//! A model on disk, its headers read: what it is made of before anything is loaded.

use std::path::{Path, PathBuf};

use crate::description::DecoderDescription;
use crate::gguf::Header;
use crate::tensors::Tensors;
use crate::tokenizer::Tokenizer;
use crate::{EngineError, gguf, hf_config};

/// A GGUF file, or a folder with `config.json`, `tokenizer.json` and safetensors.
pub(crate) struct Source {
    path: PathBuf,
    description: DecoderDescription,
    tensors: Tensors,
    /// `config.json`; only in folders.
    config: serde_json::Value,
}

impl Source {
    /// Reads headers and configuration.
    ///
    /// # Errors
    /// What is missing or malformed, by file.
    pub(crate) fn open(path: &Path) -> Result<Self, EngineError> {
        let kind =
            std::fs::metadata(path).map_err(|source| EngineError::Read { path: path.to_owned(), source })?;
        if kind.is_dir() { Self::open_folder(path) } else { Self::open_gguf(path) }
    }

    fn open_gguf(path: &Path) -> Result<Self, EngineError> {
        let tensors = Tensors::of_gguf(path)?;
        let Tensors::Gguf { header, .. } = &tensors else {
            return Err(EngineError::malformed(path, "is not a GGUF file"));
        };
        let description = gguf::description(path, header)?;
        Ok(Self { path: path.to_owned(), description, tensors, config: serde_json::Value::Null })
    }

    fn open_folder(folder: &Path) -> Result<Self, EngineError> {
        let path = folder.join("config.json");
        let text = read_text(&path)?;
        let description = hf_config::parse(&text).map_err(|reason| EngineError::malformed(&path, reason))?;
        let config = serde_json::from_str(&text).map_err(|error| EngineError::malformed(&path, error))?;
        let tensors = Tensors::of_folder(folder)?;
        Ok(Self { path: folder.to_owned(), description, tensors, config })
    }

    fn header(&self) -> Option<&Header> {
        match &self.tensors {
            Tensors::Gguf { header, .. } => Some(header),
            Tensors::Safetensors { .. } => None,
        }
    }

    /// What the decoder is made of.
    pub(crate) fn description(&self) -> &DecoderDescription {
        &self.description
    }

    /// Where its tensors are.
    pub(crate) fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// Bytes that its weights take once they are loaded.
    ///
    /// # Errors
    /// The first tensor that is missing or has another shape.
    pub(crate) fn resident_bytes(&self) -> Result<u64, EngineError> {
        self.tensors.resident_bytes(&self.description)
    }

    /// Builds its tokenizer.
    ///
    /// # Errors
    /// When a part of it is missing or malformed.
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer, EngineError> {
        match self.header() {
            Some(header) => Tokenizer::from_gguf(&self.path, header),
            None => Tokenizer::from_folder(&self.path, &self.config),
        }
    }

    /// The source of its chat template; base models have none.
    ///
    /// # Errors
    /// When a file of the folder is malformed.
    pub(crate) fn chat_template(&self) -> Result<Option<String>, EngineError> {
        match self.header() {
            Some(header) => Ok(header.text("tokenizer.chat_template").map(str::to_owned)),
            None => folder_chat_template(&self.path),
        }
    }
}

fn read_text(path: &Path) -> Result<String, EngineError> {
    std::fs::read_to_string(path).map_err(|source| EngineError::Read { path: path.to_owned(), source })
}

/// `chat_template.jinja`, or the field of `tokenizer_config.json`.
fn folder_chat_template(folder: &Path) -> Result<Option<String>, EngineError> {
    let file = folder.join("chat_template.jinja");
    if file.exists() {
        return read_text(&file).map(Some);
    }
    let path = folder.join("tokenizer_config.json");
    if !path.exists() {
        return Ok(None);
    }
    let config: serde_json::Value =
        serde_json::from_str(&read_text(&path)?).map_err(|error| EngineError::malformed(&path, error))?;
    Ok(config.get("chat_template").and_then(serde_json::Value::as_str).map(str::to_owned))
}
