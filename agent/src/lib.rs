//! The per-node agent: hosts models, serves them over HTTP, measures them, and acts on them over gRPC.
//!
//! A request flows `api -> serving -> engine`; what it measured flows `telemetry -> frames -> rpc`; an operator's
//! action flows `rpc -> security -> rollout -> serving`.

pub mod agent;
pub mod alerts;
pub mod api;
pub mod cli;
pub mod config;
pub mod data_dir;
mod frames;
pub mod jobs;
pub mod quality;
pub mod registry;
pub mod rollout;
pub mod rpc;
pub mod security;
pub mod serving;
pub mod store;
pub mod telemetry;
pub mod time;
