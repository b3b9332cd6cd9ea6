//! A model that is ready to run: decoder, tokenizer and chat template from one path.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use llmdeck_kernels::Pool;
use llmdeck_kernels::gpu::OpenDevice;

use crate::EngineError;
use crate::chat_template::ChatTemplate;
use crate::constraint::{AnswerFormat, Constraint, Grammars};
use crate::decoder::Decoder;
use crate::device::Device;
use crate::engine::EngineOptions;
use crate::gpu::{GpuDecoder, Products};
use crate::source::Source;
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;

/// A loaded model, shared between engines.
pub struct Model {
    /// Runs tokens.
    pub decoder: Decoder,
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Absent in base models, which serve completions only.
    pub chat_template: Option<ChatTemplate>,
    /// Bytes of weights as stored.
    pub weights_bytes: u64,
    /// Runs tokens on a GPU; the decoder is the host's copy then.
    pub gpu: Option<GpuDecoder>,
    /// Where it computes.
    pub device: Device,
    /// The threads that run it.
    pub pool: Arc<Pool>,
    /// Made with the first constraint.
    grammars: OnceLock<Grammars>,
}

impl Model {
    /// Loads a GGUF file, or a folder with `config.json`, `tokenizer.json` and safetensors.
    ///
    /// # Errors
    /// What is missing or malformed, by file.
    pub fn load(path: &Path, pool: &Arc<Pool>) -> Result<Self, EngineError> {
        Self::load_on(&EngineOptions::default(), path, pool, &mut |_| {})
    }

    /// The same where and how the options say that it is to compute; `progress` hears the share that is loaded, 0 to 1.
    ///
    /// # Errors
    /// What is missing or malformed, by file; a GPU that is not there, has not the memory, or cannot compute so.
    pub fn load_on(
        options: &EngineOptions,
        path: &Path,
        pool: &Arc<Pool>,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Self, EngineError> {
        let device = options.device;
        let products = if options.batch_invariant { Products::BatchInvariant } else { Products::Fastest };
        let gpu = if device == Device::Cpu { None } else { Some((device.open()?, products)) };
        Ok(Self { device, ..Self::load_with(gpu, path, pool, progress)? })
    }

    /// The same on a device of candle's, of whatever kind: its own CPU device computes as a GPU does.
    ///
    /// # Errors
    /// As [`Model::load_on`].
    pub fn load_with(
        gpu: Option<(OpenDevice, Products)>,
        path: &Path,
        pool: &Arc<Pool>,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Self, EngineError> {
        let source = Source::open(path)?;
        let weights = Weights { tensors: source.tensors(), pool };
        let description = source.description().clone();
        // Large vocabularies take as long as the weights: one thread reads them beside those that read the matrices.
        let (tokenizer, decoder) = std::thread::scope(|scope| {
            let tokenizer = scope.spawn(|| source.tokenizer());
            let decoder = Decoder::load(description, &weights, pool, progress);
            (tokenizer.join(), decoder)
        });
        let panicked =
            |_| EngineError::malformed(path, "its tokenizer could not be read; the log has the panic");
        let (tokenizer, decoder) = (tokenizer.map_err(panicked)??, decoder?);
        let gpu = gpu
            .map(|(device, products)| GpuDecoder::load(device, products, &decoder, &weights, progress))
            .transpose()?;
        let chat_template = source
            .chat_template()?
            .map(|template| ChatTemplate::new(template, tokenizer.bos_text(), tokenizer.end_text()))
            .transpose()?;
        let weights_bytes = source.tensors().stored_bytes();
        let (tokenizer, pool) = (Arc::new(tokenizer), Arc::clone(pool));
        let (device, grammars) = (Device::Cpu, OnceLock::new());
        Ok(Self { decoder, gpu, device, tokenizer, chat_template, weights_bytes, pool, grammars })
    }

    /// How many of a prompt's first tokens are multiplied in bfloat16; other tokens are in eight bits, and their keys and values
    /// differ.
    pub(crate) fn bfloat16_tokens(&self, prompt_tokens: usize) -> usize {
        if self.gpu.is_none() { self.decoder.bfloat16_tokens(prompt_tokens) } else { 0 }
    }

    /// Holds an answer to a format. The first constraint of a model takes longest; keep it off threads that must not
    /// block.
    ///
    /// # Errors
    /// What of the format is not supported or too large.
    pub fn constraint(&self, format: &AnswerFormat) -> Result<Constraint, EngineError> {
        if let Some(grammars) = self.grammars.get() {
            return grammars.constraint(format);
        }
        let made = Grammars::new(&self.tokenizer, self.decoder.description().vocabulary)?;
        self.grammars.get_or_init(|| made).constraint(format)
    }
}
