//! The per-node agent: hosts models, serves them over HTTP, measures them, and acts on them over gRPC.
//!
//! A request flows `api -> serving -> engine`; what it measured flows `telemetry -> frames -> rpc`; an operator's
//! action flows `rpc -> security -> rollout -> serving`. What is loaded, and into whose memory, is `placement`'s.

pub mod agent;
pub mod alerts;
pub mod api;
pub mod backend;
pub mod cli;
pub mod config;
pub mod data_dir;
mod doors;
mod frames;
pub mod jobs;
pub mod placement;
pub mod quality;
pub mod registry;
pub mod rollout;
pub mod rpc;
pub mod security;
pub mod serving;
pub mod store;
pub mod telemetry;
pub mod time;
