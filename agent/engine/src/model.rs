//! A model that is ready to run: decoder, tokenizer and chat template from one path.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use llmdeck_kernels::Pool;

use crate::EngineError;
use crate::chat_template::ChatTemplate;
use crate::decoder::Decoder;
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;
use crate::{gguf, hf_config};

/// A loaded model, shared between engines.
pub struct Model {
    /// Runs tokens.
    pub decoder: Decoder,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// Absent in base models, which serve completions only.
    pub chat_template: Option<ChatTemplate>,
    /// Bytes of weights as stored.
    pub weights_bytes: u64,
    /// The threads that run it.
    pub pool: Arc<Pool>,
}

impl Model {
    /// Loads a GGUF file, or a folder with `config.json`, `tokenizer.json` and safetensors.
    ///
    /// # Errors
    /// What is missing or malformed, by file.
    pub fn load(path: &Path, pool: &Arc<Pool>) -> Result<Self, EngineError> {
        Self::load_telling(path, pool, &mut |_| {})
    }

    /// The same; `progress` hears the share that is loaded, 0 to 1.
    ///
    /// # Errors
    /// What is missing or malformed, by file.
    pub fn load_telling(
        path: &Path,
        pool: &Arc<Pool>,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Self, EngineError> {
        let kind =
            std::fs::metadata(path).map_err(|source| EngineError::Read { path: path.to_owned(), source })?;
        if kind.is_dir() {
            Self::load_folder(path, pool, progress)
        } else {
            Self::load_gguf(path, pool, progress)
        }
    }

    fn load_gguf(path: &Path, pool: &Arc<Pool>, progress: &mut dyn FnMut(f64)) -> Result<Self, EngineError> {
        let read = |source| EngineError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read)?;
        let weights_bytes = file.metadata().map_err(read)?.len();
        let header = gguf::Header::read(&file, weights_bytes)
            .map_err(|reason| EngineError::malformed(path, reason))?;
        let description = gguf::description(path, &header)?;
        let weights = Weights::gguf(path, file, &header, pool);
        // Large vocabularies take as long as the weights: one thread reads them beside those that read the matrices.
        let (tokenizer, decoder) = std::thread::scope(|scope| {
            let tokenizer = scope.spawn(|| Tokenizer::from_gguf(path, &header));
            let decoder = Decoder::load(description, &weights, pool, progress);
            (tokenizer.join(), decoder)
        });
        let panicked =
            |_| EngineError::malformed(path, "its tokenizer could not be read; the log has the panic");
        let (tokenizer, decoder) = (tokenizer.map_err(panicked)??, decoder?);
        let chat_template = header
            .text("tokenizer.chat_template")
            .map(|source| ChatTemplate::new(source.to_owned(), tokenizer.bos_text(), tokenizer.end_text()))
            .transpose()?;
        Ok(Self { decoder, tokenizer, chat_template, weights_bytes, pool: Arc::clone(pool) })
    }

    fn load_folder(
        folder: &Path,
        pool: &Arc<Pool>,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Self, EngineError> {
        let config_path = folder.join("config.json");
        let text = read_text(&config_path)?;
        let description =
            hf_config::parse(&text).map_err(|reason| EngineError::malformed(&config_path, reason))?;
        let config: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| EngineError::malformed(&config_path, error))?;
        let tokenizer = Tokenizer::from_folder(folder, &config)?;
        let chat_template = chat_template_source(folder)?
            .map(|source| ChatTemplate::new(source, tokenizer.bos_text(), tokenizer.end_text()))
            .transpose()?;
        let weights = Weights::safetensors(folder, pool)?;
        let weights_bytes = safetensors_bytes(folder);
        let decoder = Decoder::load(description, &weights, pool, progress)?;
        Ok(Self { decoder, tokenizer, chat_template, weights_bytes, pool: Arc::clone(pool) })
    }
}

fn read_text(path: &Path) -> Result<String, EngineError> {
    std::fs::read_to_string(path).map_err(|source| EngineError::Read { path: path.to_owned(), source })
}

/// `chat_template.jinja`, or the field of `tokenizer_config.json`.
fn chat_template_source(folder: &Path) -> Result<Option<String>, EngineError> {
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

fn safetensors_bytes(folder: &Path) -> u64 {
    std::fs::read_dir(folder).map_or(0, |entries| {
        entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "safetensors"))
            .filter_map(|entry| entry.metadata().ok())
            .map(|metadata| metadata.len())
            .sum()
    })
}
