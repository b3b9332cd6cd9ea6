use llmdeck_proto::v1::{Gpu, Host};

use super::series::Timed;

/// Host readings at a moment.
#[derive(Clone, Copy, Debug)]
pub struct HostPoint {
    /// When.
    pub time_unix_ms: i64,
    /// Busy share of all cores, 0 to 1.
    pub cpu: Option<f64>,
    /// Used share of memory, 0 to 1.
    pub memory: f64,
    /// Bytes a second.
    pub received_per_s: f64,
    /// Bytes a second.
    pub sent_per_s: f64,
}

impl HostPoint {
    /// Of a frame's host.
    pub fn of(host: &Host, time_unix_ms: i64, interval_ms: u32) -> Self {
        let seconds = f64::from(interval_ms.max(1)) / 1_000.0;
        Self {
            time_unix_ms,
            cpu: host.cpu_utilization,
            memory: host.memory_used_bytes as f64 / host.memory_total_bytes.max(1) as f64,
            received_per_s: host.network_received_bytes as f64 / seconds,
            sent_per_s: host.network_sent_bytes as f64 / seconds,
        }
    }
}

/// GPU readings at a moment; what the card does not tell is absent.
#[derive(Clone, Copy, Debug)]
pub struct GpuPoint {
    /// When.
    pub time_unix_ms: i64,
    /// Busy share, 0 to 1.
    pub utilization: Option<f64>,
    /// Used share of memory, 0 to 1.
    pub memory: Option<f64>,
    /// Power draw.
    pub power_mw: Option<u32>,
    /// Temperature.
    pub temperature_c: Option<u32>,
}

impl GpuPoint {
    /// Of a frame's GPU.
    pub fn of(gpu: &Gpu, time_unix_ms: i64) -> Self {
        let memory = gpu.memory_used_bytes.zip(gpu.memory_total_bytes);
        Self {
            time_unix_ms,
            utilization: gpu.utilization,
            memory: memory.map(|(used, total)| used as f64 / total.max(1) as f64),
            power_mw: gpu.power_mw,
            temperature_c: gpu.temperature_c,
        }
    }
}

impl Timed for HostPoint {
    fn time_unix_ms(&self) -> i64 {
        self.time_unix_ms
    }
}

impl Timed for GpuPoint {
    fn time_unix_ms(&self) -> i64 {
        self.time_unix_ms
    }
}
