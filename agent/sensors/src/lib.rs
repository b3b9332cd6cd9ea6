//! Readings of a node: its GPUs through NVML, its host, and the energy of both. They know nothing of models, so that a
//! console without an agent can show them too.

mod cpu_energy;
pub mod gpu;
mod host;

pub use host::HostSampler;
