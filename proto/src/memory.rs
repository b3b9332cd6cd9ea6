//! Where a revision's model holds memory.

use crate::v1::Revision;

impl Revision {
    /// What it holds of the host's memory, in bytes.
    pub fn host_memory_bytes(&self) -> u64 {
        self.resident_weights_bytes + self.host_cache_bytes() + self.scratch_bytes
    }

    /// What its cache takes of the host's memory, in bytes.
    pub fn host_cache_bytes(&self) -> u64 {
        if self.on_gpu.is_some() { 0 } else { self.kv_total_bytes }
    }

    /// What it holds of a GPU's memory, in bytes.
    pub fn gpu_memory_bytes(&self) -> u64 {
        self.on_gpu.as_ref().map_or(0, |gpu| gpu.weights_bytes + self.kv_total_bytes)
    }
}
