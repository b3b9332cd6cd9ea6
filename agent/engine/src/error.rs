use std::path::PathBuf;

use crate::blocks::OutOfBlocks;

/// What can go wrong between a file on disk and a generated token.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A file could not be read.
    #[error("{path}: {source}; check that the path exists and that the agent may read it")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is there but is not what it should be.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what would mend it.
        reason: String,
    },
    /// The model's architecture is not one that this engine runs.
    #[error(
        "architecture {architecture:?} is not supported; this engine runs llama, qwen2, qwen3 and gemma3"
    )]
    UnsupportedArchitecture {
        /// The name that the file gave.
        architecture: String,
    },
    /// A tensor that the description needs is missing or has another shape.
    #[error("tensor {name:?}: {reason}")]
    Tensor {
        /// Its name in the file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer could not be built or applied.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// What an answer should be held to is not supported, or too large.
    #[error("{0}")]
    Constraint(String),
    /// The chat template failed.
    #[error("chat template: {0}")]
    ChatTemplate(String),
    /// A prompt that does not fit.
    #[error("the prompt has {prompt_tokens} tokens, the context holds {context_tokens}; shorten the prompt")]
    PromptTooLong {
        /// Tokens asked for.
        prompt_tokens: usize,
        /// Tokens that fit.
        context_tokens: usize,
    },
    /// A prompt without a token.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// Too many requests wait already.
    #[error("the engine's queue is full; try again later")]
    QueueFull,
    /// The engine's thread has stopped.
    #[error("the engine has stopped; the agent's log says why")]
    Stopped,
    /// A GPU cannot be used, has not the memory, or failed.
    #[error("GPU: {0}")]
    Gpu(String),
    /// The room for keys and values is used up.
    #[error(transparent)]
    OutOfBlocks(#[from] OutOfBlocks),
    /// The system has not the memory, or not the thread.
    #[error("the system refused what the engine needs: {0}")]
    System(#[from] std::io::Error),
    /// The tensor library refused an operation.
    #[error("compute: {0}")]
    Compute(#[from] candle_core::Error),
}

impl EngineError {
    pub(crate) fn malformed(path: impl Into<PathBuf>, reason: impl ToString) -> Self {
        Self::Malformed { path: path.into(), reason: reason.to_string() }
    }

    pub(crate) fn tensor(name: impl Into<String>, reason: impl ToString) -> Self {
        Self::Tensor { name: name.into(), reason: reason.to_string() }
    }
}
