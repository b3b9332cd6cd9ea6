//! Load for OpenAI-compatible servers, and its measures: a steady load for demos and tests, and [`bench`].
//!
//! Requests arrive as a Poisson process whatever the server does, so that a slow server shows as latency and not as a
//! lower rate; latency counts from the moment at which a request was due (no coordinated omission).

pub mod bench;
mod client;
mod connector;
mod load;
mod refusal;
mod report;

pub use client::{ChatClient, ChatError, ChatOutcome, StreamClient, Usage};
pub use connector::{Connector, connector};
pub use load::{Load, LoadPlan, Prompt};
pub use refusal::refusal_message;
pub use report::{Report, RevisionReport};
