//! What answers a revision's requests: our own engine, or another server, which may be a child of this agent.

mod child;
mod client;
mod gpu_memory;
mod leftover;
mod log;
mod own_metrics;
mod processes;
mod sleep;
mod spec;
mod upstream;

use std::sync::Arc;

pub use client::{ClientError, ServerClient};
pub(crate) use client::{innermost, whole};
pub use gpu_memory::GpuMemory;
pub use leftover::{MARK, end_leftover_children, processes_with};
pub use spec::{BackendKind, BackendSpec, ProcessSpec, RemoteSpec, SpecError, Standby};
pub use upstream::{StartError, Upstream};

use crate::placement::Variant;

/// What answers.
#[derive(Clone)]
pub enum Backend {
    /// Our engine.
    Engine(Variant),
    /// Another server.
    Upstream(Arc<Upstream>),
}
