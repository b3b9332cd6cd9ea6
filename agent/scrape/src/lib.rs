//! Other servers' Prometheus metrics as our signals: vLLM, SGLang, llama.cpp and TGI, whatever each calls them. The agent
//! reads them beside what it measures itself; the console reads them where there is no agent.
//!
//! `exposition` reads the text, `dialect` knows the names, `reading` is what one scrape says, `interval` what happened between
//! two, `server` asks, and `frames` makes of it what an agent would have sent.

mod dialect;
mod exposition;
mod frames;
mod interval;
mod reading;
mod server;

pub use dialect::Kind;
pub use exposition::ExpositionError;
pub use frames::ServerFrames;
pub use interval::{Counted, Interval};
pub use reading::{Buckets, ModelReading, Reading};
pub use server::{ScrapeError, Server};
