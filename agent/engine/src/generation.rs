//! What is asked of an engine and what comes back.

use std::sync::Arc;

use crate::adapter::Adapter;
use crate::constraint::Constraint;
use crate::cpu_time::CpuTime;
use crate::sampling::SamplingOptions;
use crate::scheduler::Priority;

/// One answer to generate.
pub struct GenerationRequest {
    /// The prompt, at least one token.
    pub prompt: Vec<u32>,
    /// Most tokens of the answer, at least one.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
    /// The answer ends before any of these.
    pub stops: Vec<String>,
    /// Who is served first.
    pub priority: Priority,
    /// Whose request it is: those of one key share what those of others leave.
    pub fairness_key: u64,
    /// What the answer is held to.
    pub constraint: Option<Constraint>,
    /// Whether the answer goes on beyond tokens that end it, to its length; for measurements.
    pub ignore_end: bool,
    /// What the model is changed by.
    pub adapter: Option<Arc<Adapter>>,
    /// Where its part of each step is counted: that of the tokens it computed, of all of the step's.
    pub cpu_time: Option<Arc<CpuTime>>,
}

/// A token with its text, as OpenAI's `logprobs` report it.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// As written in the vocabulary.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// One generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratedToken {
    /// Its id.
    pub id: u32,
    /// Text that became final with it; may be empty, or hold text of earlier tokens.
    pub text: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Entropy of the distribution it was drawn from, in nats.
    pub entropy: f32,
    /// Itself and the likeliest alternatives by name; only where logprobs were asked for.
    pub named: Option<NamedLogprobs>,
}

/// A token's own name and its likeliest rivals.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedLogprobs {
    /// The token as written in the vocabulary.
    pub token: String,
    /// Likeliest first.
    pub top: Vec<TokenLogprob>,
}

/// Why an answer ended; the words are OpenAI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// By an end token or a stop string.
    Stop,
    /// By `max_tokens` or the end of the context.
    Length,
}

impl FinishReason {
    /// OpenAI's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// What happens to a request, in order: `Started`, tokens, then `Finished` or `Failed`.
#[derive(Clone, Debug, PartialEq)]
pub enum GenerationEvent {
    /// It left the queue.
    Started,
    /// A token came.
    Token(GeneratedToken),
    /// It ended well.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Text that was held back for a stop string that did not come.
        text: String,
    },
    /// It ended badly; in words.
    Failed(String),
}

/// Whether anyone still listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Go on.
    Present,
    /// The client went away; stop generating.
    Gone,
}

/// Takes events on the engine's thread; must not block.
pub type EventSink = Box<dyn FnMut(GenerationEvent) -> Listener + Send>;
