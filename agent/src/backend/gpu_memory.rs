//! The driver takes a moment to give back the memory of processes that are gone; nothing is to be started into it before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use llmdeck_proto::v1::gpu_driver::State;
use llmdeck_sensors::gpu::{GpuReadings, GpuSampler};

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A driver that has not given it back by then is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is known of the memory of the node's GPUs.
#[derive(Clone)]
pub struct GpuMemory(Arc<GpuSampler>);

impl GpuMemory {
    /// As this reads it.
    pub fn new(sampler: Arc<GpuSampler>) -> Self {
        Self(sampler)
    }

    /// Waits until no GPU names any of these processes, which are gone, among those that hold its memory.
    ///
    /// # Errors
    /// Which GPU still does after a while.
    pub(super) async fn given_back(&self, gone: &[i32]) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let readings = self.0.latest();
            if gone.is_empty() || readings.driver.state() != State::Ok || readings.gpus.is_empty() {
                return Ok(());
            }
            let holding = holding(&readings, gone);
            if holding.is_none() && readings.is_after(began) {
                return Ok(());
            }
            if began.elapsed() >= PATIENCE {
                return holding.map_or(Ok(()), |gpu| {
                    Err(format!(
                        "GPU {gpu} still holds the memory of its processes, which are gone for {} s; nvidia-smi shows whose it is",
                        PATIENCE.as_secs()
                    ))
                });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn holding(readings: &GpuReadings, gone: &[i32]) -> Option<u32> {
    let is_gone = |pid: u32| i32::try_from(pid).is_ok_and(|pid| gone.contains(&pid));
    let holds = readings.gpus.iter().find(|gpu| gpu.processes.iter().any(|process| is_gone(process.pid)));
    holds.map(|gpu| gpu.index)
}
