//! Open-loop load for OpenAI-compatible servers, and its measures.
//!
//! Requests arrive as a Poisson process whatever the server does, so that a slow server shows as latency and not as a
//! lower rate; latency counts from the moment at which a request was due (no coordinated omission).

mod client;
mod load;
mod report;

pub use client::{ChatClient, ChatError, ChatOutcome};
pub use load::{Load, LoadPlan, Prompt};
pub use report::{Report, RevisionReport};
