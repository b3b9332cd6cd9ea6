//! All that a trainer has started.

use std::path::Path;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::backend::processes_with;

/// The job's folder, in the environment of its trainer and of all that it starts: launchers put theirs into sessions of their own.
pub(super) const FOLDER: &str = "LLMDECK_TRAINER_JOB";

/// What was started for a job, by its folder; whatever is left of it ends when nobody follows it any more.
pub(super) struct Processes<'a>(pub(super) &'a Path);

impl Processes<'_> {
    pub(super) fn list(&self) -> Vec<Pid> {
        processes_with(FOLDER, self.0)
    }

    pub(super) fn signal(&self, signal: Signal) {
        for process in self.list() {
            // Gone already is as good.
            let _ = kill(process, signal);
        }
    }
}

impl Drop for Processes<'_> {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// Memory of processes, in bytes; what several share counts once.
pub(super) fn memory_bytes(processes: &[Pid]) -> u64 {
    let of_one = |pid: &Pid| {
        let rollup = procfs::process::Process::new(pid.as_raw()).ok()?.smaps_rollup().ok()?;
        let maps = rollup.memory_map_rollup.0.into_iter();
        Some(maps.filter_map(|map| map.extension.map.get("Pss").copied()).sum::<u64>())
    };
    processes.iter().filter_map(of_one).sum()
}

/// Holds a process, and all that it starts from now on, to the last so many of the agent's cores: users' threads are pinned to the
/// first.
pub(super) fn hold_to_cores(process: Pid, cores: usize) -> nix::Result<()> {
    let all = sched_getaffinity(Pid::from_raw(0))?;
    let allowed = (0..CpuSet::count()).rev().filter(|core| all.is_set(*core) == Ok(true));
    let mut held = CpuSet::new();
    allowed.take(cores).try_for_each(|core| held.set(core))?;
    sched_setaffinity(process, &held)
}
