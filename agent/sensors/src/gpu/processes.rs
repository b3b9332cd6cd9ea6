use std::collections::HashMap;

use llmdeck_proto::v1::GpuProcess;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::{ProcessInfo, ProcessUtilizationSample};
use nvml_wrapper::{Device, Nvml};

const MOST_PROCESSES: usize = 64;
const LONGEST_NAME: usize = 256;
/// Each process is sampled at its own moments, up to a second apart.
const OVERLAP_US: u64 = 1_000_000;

/// Who computes on the cards, and how much.
#[derive(Debug, Default)]
pub(super) struct GpuProcesses {
    /// The driver's time of the newest sample of each card, by its index.
    newest_us: HashMap<u32, u64>,
}

impl GpuProcesses {
    pub(super) fn read(&mut self, nvml: &Nvml, card: &Device<'_>, index: u32) -> Vec<GpuProcess> {
        let running = card.running_compute_processes().unwrap_or_default();
        if running.is_empty() {
            return Vec::new();
        }
        let used = self.utilization(card, index);
        let process = |process: ProcessInfo| GpuProcess {
            pid: process.pid,
            name: nvml.sys_process_name(process.pid, LONGEST_NAME).unwrap_or_default(),
            memory_used_bytes: match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            },
            utilization: used.as_ref().map(|used| used.get(&process.pid).copied().unwrap_or(0.0)),
        };
        running.into_iter().take(MOST_PROCESSES).map(process).collect()
    }

    /// By process, those who were idle left out; `None` where the driver does not tell (MIG, some platforms).
    fn utilization(&mut self, card: &Device<'_>, index: u32) -> Option<HashMap<u32, f64>> {
        let newest_us = self.newest_us.entry(index).or_default();
        let samples = match card.process_utilization_stats(newest_us.saturating_sub(OVERLAP_US)) {
            Ok(samples) => samples,
            // Nobody computed since.
            Err(NvmlError::NotFound) => return Some(HashMap::new()),
            Err(_) => return None,
        };
        let since_us = newest_us.saturating_sub(OVERLAP_US);
        *newest_us = samples.iter().map(|sample| sample.timestamp).fold(*newest_us, u64::max);
        Some(latest(samples, since_us))
    }
}

/// The newest sample of each process. Drivers hand out entries that are none, with more than the whole card.
fn latest(mut samples: Vec<ProcessUtilizationSample>, since_us: u64) -> HashMap<u32, f64> {
    samples.retain(|sample| sample.sm_util <= 100 && sample.timestamp > since_us);
    samples.sort_unstable_by_key(|sample| sample.timestamp);
    samples.into_iter().map(|sample| (sample.pid, f64::from(sample.sm_util) / 100.0)).collect()
}

#[cfg(test)]
mod tests {
    use nvml_wrapper::struct_wrappers::device::ProcessUtilizationSample;

    use super::latest;

    #[test]
    fn the_newest_sample_of_a_process_counts_and_impossible_ones_do_not() {
        let sample = |pid, timestamp, sm_util| ProcessUtilizationSample {
            pid,
            timestamp,
            sm_util,
            mem_util: 0,
            enc_util: 0,
            dec_util: 0,
        };
        let samples =
            vec![sample(1, 30, 50), sample(1, 20, 90), sample(2, 25, 2_147_483_632), sample(3, 10, 7)];
        let used = latest(samples, 10);
        assert_eq!(used.into_iter().collect::<Vec<_>>(), [(1, 0.5)]);
    }
}
