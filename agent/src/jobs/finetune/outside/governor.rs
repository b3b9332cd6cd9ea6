//! Holds a trainer to what the configuration leaves it, and behind users.

use std::time::{Duration, Instant};

use llmdeck_proto::v1::{Frame, Gpu};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::super::super::handle::JobHandle;
use super::super::FinetuneConfig;
use super::super::users::{LEAST_TOLD, LOOK_EVERY, MOST_HELD, Users};
use super::gpu_time::GpuTime;
use super::processes::{Processes, memory_bytes};

/// Time without a word of the trainer from any GPU after which that is said; it reads a model first.
const MOST_UNSEEN: Duration = Duration::from_secs(120);

/// Why a trainer stands still.
#[derive(Clone, Copy, PartialEq)]
enum Hold {
    Operator,
    Users,
    GpuShare,
}

pub(super) struct Governor<'a> {
    job: &'a JobHandle,
    config: &'a FinetuneConfig,
    processes: Processes<'a>,
    users: Users,
    gpu_time: Option<GpuTime>,
    hold: Option<Hold>,
    hold_changed: Instant,
    users_looked: Instant,
    held_for_users: Duration,
    held_to_share: Duration,
    /// How long no GPU has named it; `None` when that was said.
    unseen: Option<Duration>,
}

impl<'a> Governor<'a> {
    pub(super) fn new(
        job: &'a JobHandle,
        config: &'a FinetuneConfig,
        processes: Processes<'a>,
        users: Users,
    ) -> Self {
        Self {
            job,
            config,
            processes,
            users,
            gpu_time: config.gpu_share.filter(|share| *share < 1.0).map(GpuTime::new),
            hold: None,
            hold_changed: Instant::now(),
            users_looked: Instant::now(),
            held_for_users: Duration::ZERO,
            held_to_share: Duration::ZERO,
            unseen: limits_gpus(config).then_some(Duration::ZERO),
        }
    }

    pub(super) fn processes(&self) -> &Processes<'a> {
        &self.processes
    }

    /// Takes from its account what it used of the GPUs.
    ///
    /// # Errors
    /// That it took more memory than it may, with the remedy.
    pub(super) fn count(&mut self, frame: &Frame) -> Result<(), String> {
        let config = self.config;
        if config.memory_mib.is_none() && !limits_gpus(config) {
            return Ok(());
        }
        let interval = Duration::from_millis(frame.interval_ms.into());
        let processes = self.processes.list();
        if let Some(most) = config.memory_mib {
            let used = memory_bytes(&processes).div_ceil(1 << 20);
            within(used, most, "memory", "memory_mib")?;
        }
        let mut seen = false;
        for gpu in &frame.gpus {
            let Some(used) = GpuUse::of(gpu, &processes, self.hold.is_some()) else { continue };
            seen = true;
            if let Some(most) = config.gpu_memory_mib {
                within(used.memory_mib, most, &format!("GPU {}'s memory", gpu.index), "gpu_memory_mib")?;
            }
            if let Some(time) = &mut self.gpu_time {
                time.count(gpu.index, used.time, interval.as_secs_f64());
            }
        }
        let unseen = self.unseen.map(|unseen| if seen { Duration::ZERO } else { unseen + interval });
        self.unseen = unseen.filter(|unseen| *unseen < MOST_UNSEEN);
        if self.unseen != unseen {
            self.job.log(
                "no GPU names the trainer among its processes: it does not compute there, or the agent is in a container of its \
                 own; gpu_share and gpu_memory_mib cannot be held to",
            );
        }
        Ok(())
    }

    /// Stops it or lets it go on.
    pub(super) fn govern(&mut self) {
        let hold = self.wanted();
        if hold == self.hold {
            return;
        }
        let lasted = self.hold_changed.elapsed();
        self.hold_changed = Instant::now();
        match self.hold {
            Some(Hold::Users) => self.held_for_users += lasted,
            Some(Hold::GpuShare) => self.held_to_share += lasted,
            Some(Hold::Operator) => self.job.set_state("running"),
            None => {}
        }
        if hold == Some(Hold::Operator) {
            self.job.set_state("paused");
        }
        if hold.is_some() != self.hold.is_some() {
            self.processes.signal(if hold.is_some() { Signal::SIGSTOP } else { Signal::SIGCONT });
        }
        self.hold = hold;
    }

    fn wanted(&mut self) -> Option<Hold> {
        if self.job.is_held() {
            return Some(Hold::Operator);
        }
        if let Some(time) = &self.gpu_time
            && let Some(card) = time.overdrawn()
        {
            if self.held_to_share.is_zero() && self.hold != Some(Hold::GpuShare) {
                self.job.log(format!("is held to {:.0} % of the time of GPU {card}", time.share() * 100.0));
            }
            return Some(Hold::GpuShare);
        }
        self.users_suffer().then_some(Hold::Users)
    }

    fn users_suffer(&mut self) -> bool {
        let held = self.hold == Some(Hold::Users);
        if held && self.hold_changed.elapsed() >= MOST_HELD {
            self.users_looked = Instant::now();
            return false;
        }
        if !held && self.users_looked.elapsed() < LOOK_EVERY {
            return false;
        }
        self.users_looked = Instant::now();
        let why = self.users.suffering();
        if let Some(why) = &why {
            let text = format!("held: {why}");
            if !held {
                self.job.log(text.clone());
            }
            self.job.detail(text);
        }
        why.is_some()
    }

    /// How long it stood still for users, and for its share of the GPUs.
    pub(super) fn held(&self) -> (Duration, Duration) {
        (self.held_for_users, self.held_to_share)
    }

    /// The same in words, to go behind others.
    pub(super) fn words(&self) -> String {
        let mut words = String::new();
        for (held, why) in
            [(self.held_for_users, "for users"), (self.held_to_share, "to its share of the GPU")]
        {
            if held >= LEAST_TOLD {
                words.push_str(&format!(", held {:.0} s {why}", held.as_secs_f64()));
            }
        }
        words
    }
}

fn limits_gpus(config: &FinetuneConfig) -> bool {
    config.gpu_share.is_some() || config.gpu_memory_mib.is_some()
}

/// What a trainer uses of a card.
struct GpuUse {
    memory_mib: u64,
    /// 0 to 1.
    time: f64,
}

impl GpuUse {
    /// `None` where none of the processes is on the card.
    fn of(gpu: &Gpu, processes: &[Pid], stopped: bool) -> Option<Self> {
        let ours = |pid: u32| processes.iter().any(|process| u32::try_from(process.as_raw()) == Ok(pid));
        let on_card: Vec<_> = gpu.processes.iter().filter(|process| ours(process.pid)).collect();
        let memory_bytes: u64 = on_card.iter().filter_map(|process| process.memory_used_bytes).sum();
        let told: Option<f64> = on_card.iter().map(|process| process.utilization).sum();
        // Where the driver does not tell them apart, all that is used counts as the trainer's while it runs.
        let time = told.unwrap_or_else(|| if stopped { 0.0 } else { gpu.utilization.unwrap_or(1.0) });
        (!on_card.is_empty())
            .then(|| Self { memory_mib: memory_bytes.div_ceil(1 << 20), time: time.min(1.0) })
    }
}

fn within(used_mib: u64, most_mib: u64, of: &str, setting: &str) -> Result<(), String> {
    if used_mib <= most_mib {
        return Ok(());
    }
    Err(format!(
        "the trainer took {used_mib} MiB of {of}, and {setting} of [finetune] allows {most_mib}; it was ended: lower what it \
         computes at once, or raise {setting}"
    ))
}

#[cfg(test)]
mod tests {
    use llmdeck_proto::v1::{Gpu, GpuProcess};
    use nix::unistd::Pid;

    use super::GpuUse;

    fn card() -> Gpu {
        let process = |pid, utilization| GpuProcess {
            pid,
            memory_used_bytes: Some(100 << 20),
            utilization,
            ..GpuProcess::default()
        };
        Gpu {
            utilization: Some(0.9),
            processes: vec![process(7, Some(0.6)), process(8, Some(0.1)), process(9, None)],
            ..Gpu::default()
        }
    }

    #[test]
    fn only_what_is_the_trainers_counts() {
        let used = |pids: &[i32], stopped| {
            let pids: Vec<Pid> = pids.iter().copied().map(Pid::from_raw).collect();
            GpuUse::of(&card(), &pids, stopped).map(|used| (used.memory_mib, used.time))
        };
        assert_eq!(used(&[8, 5], false), Some((100, 0.1)));
        assert_eq!(used(&[5], false), None);
        assert_eq!(used(&[8, 9], false), Some((200, 0.9)), "not told apart: all of the card");
        assert_eq!(used(&[8, 9], true), Some((200, 0.0)));
    }
}
