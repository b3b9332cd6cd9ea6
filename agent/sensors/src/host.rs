use std::path::{Path, PathBuf};
use std::time::Instant;

use llmdeck_proto::v1::Host;
use procfs::{Current, CurrentSI};

use super::cpu_energy::CpuEnergy;

const POWERCAP: &str = "/sys/class/powercap";

/// Reads the host from `/proc` and `/sys`; rates are over the time between two samples.
pub struct HostSampler {
    data_dir: PathBuf,
    before: Option<Counters>,
    energy: CpuEnergy,
}

struct Counters {
    taken: Instant,
    cpu_total: u64,
    cpu_idle: u64,
    received: u64,
    sent: u64,
    agent_cpu_ticks: u64,
}

impl HostSampler {
    /// The disk reported is the one with `data_dir`.
    pub fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned(), before: None, energy: CpuEnergy::find(Path::new(POWERCAP)) }
    }

    /// Reads everything; what cannot be read is zero or absent.
    pub fn sample(&mut self) -> Host {
        let now = Counters::read();
        let memory = procfs::Meminfo::current().ok();
        let disk = nix::sys::statvfs::statvfs(&self.data_dir).ok();
        let total_bytes = memory.as_ref().map_or(0, |memory| memory.mem_total);
        let available = memory.as_ref().and_then(|memory| memory.mem_available).unwrap_or(0);
        let block = disk.as_ref().map_or(0, nix::sys::statvfs::Statvfs::fragment_size);
        let mut host = Host {
            cpu_count: std::thread::available_parallelism().map_or(0, |count| count.get() as u32),
            load_1m: procfs::LoadAverage::current().map_or(0.0, |load| f64::from(load.one)),
            memory_used_bytes: total_bytes.saturating_sub(available),
            memory_total_bytes: total_bytes,
            disk_total_bytes: disk.as_ref().map_or(0, |disk| disk.blocks() * block),
            disk_used_bytes: disk
                .as_ref()
                .map_or(0, |disk| disk.blocks().saturating_sub(disk.blocks_available()) * block),
            agent_memory_bytes: procfs::process::Process::myself()
                .and_then(|process| process.statm())
                .map_or(0, |statm| statm.resident * procfs::page_size()),
            cpu_energy_mj: self.energy.spent_mj(),
            uptime_s: procfs::Uptime::current().map_or(0, |uptime| uptime.uptime as u64),
            ..Host::default()
        };
        if let (Some(now), Some(before)) = (&now, &self.before) {
            now.rates_since(before, &mut host);
        }
        self.before = now;
        host
    }
}

impl Counters {
    fn read() -> Option<Self> {
        let cpu = procfs::KernelStats::current().ok()?.total;
        let idle = cpu.idle + cpu.iowait.unwrap_or(0);
        let busy = cpu.user
            + cpu.nice
            + cpu.system
            + cpu.irq.unwrap_or(0)
            + cpu.softirq.unwrap_or(0)
            + cpu.steal.unwrap_or(0);
        let interfaces = procfs::net::dev_status().unwrap_or_default();
        let real = || interfaces.values().filter(|interface| interface.name != "lo");
        let agent = procfs::process::Process::myself().and_then(|process| process.stat()).ok()?;
        Some(Self {
            taken: Instant::now(),
            cpu_total: idle + busy,
            cpu_idle: idle,
            received: real().map(|interface| interface.recv_bytes).sum(),
            sent: real().map(|interface| interface.sent_bytes).sum(),
            agent_cpu_ticks: agent.utime + agent.stime,
        })
    }

    fn rates_since(&self, before: &Self, host: &mut Host) {
        let total = self.cpu_total.saturating_sub(before.cpu_total);
        let idle = self.cpu_idle.saturating_sub(before.cpu_idle);
        if total > 0 {
            host.cpu_utilization = Some(1.0 - idle as f64 / total as f64);
        }
        let seconds = self.taken.duration_since(before.taken).as_secs_f64();
        if seconds > 0.0 {
            let ticks = self.agent_cpu_ticks.saturating_sub(before.agent_cpu_ticks);
            host.agent_cpu_cores = Some(ticks as f64 / procfs::ticks_per_second() as f64 / seconds);
        }
        host.network_received_bytes = self.received.saturating_sub(before.received);
        host.network_sent_bytes = self.sent.saturating_sub(before.sent);
    }
}

#[cfg(test)]
mod tests {
    use super::HostSampler;

    #[test]
    fn the_second_sample_has_rates() {
        let mut sampler = HostSampler::new(std::path::Path::new("/"));
        let first = sampler.sample();
        assert!(first.cpu_utilization.is_none() && first.memory_total_bytes > first.memory_used_bytes);
        let mut host = sampler.sample();
        while host.cpu_utilization.is_none() {
            host = sampler.sample();
        }
        assert!((0.0..=1.0).contains(&host.cpu_utilization.unwrap()));
        assert!(host.agent_memory_bytes > 0 && host.disk_total_bytes > 0 && host.cpu_count > 0);
    }
}
