//! What a child and all that it has started compute.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::Pid;
use procfs::process::Process;

/// More are left out.
const MOST_PROCESSES: usize = 256;

/// The processes of a server that the agent runs.
#[derive(Default)]
pub(super) struct Processes {
    /// 0 while it is down.
    group: AtomicI32,
    /// Of each process, in ticks, when it was last looked at.
    ticks: Mutex<HashMap<i32, u64>>,
}

impl Processes {
    /// The child came up with this group, or went.
    pub(super) fn set_group(&self, group: Option<Pid>) {
        self.group.store(group.map_or(0, Pid::as_raw), Ordering::Relaxed);
    }

    pub(super) fn group(&self) -> Option<Pid> {
        let group = self.group.load(Ordering::Relaxed);
        (group > 0).then(|| Pid::from_raw(group))
    }

    /// CPU time that they took since the last call.
    pub(super) fn take_cpu_time(&self) -> Duration {
        let now = self.walk();
        let mut before = self.ticks.lock().unwrap_or_else(PoisonError::into_inner);
        let taken: u64 =
            now.iter().map(|(pid, ticks)| ticks.saturating_sub(before.get(pid).copied().unwrap_or(0))).sum();
        *before = now;
        Duration::from_secs_f64(taken as f64 / procfs::ticks_per_second() as f64)
    }

    /// Those that there are, and that there were when they were looked at last.
    pub(super) fn seen(&self) -> Vec<i32> {
        let mut seen = self.ticks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        seen.extend(self.walk());
        seen.into_keys().collect()
    }

    /// Each with its CPU time, in ticks.
    fn walk(&self) -> HashMap<i32, u64> {
        let mut now = HashMap::new();
        let mut left: Vec<i32> = self.group().into_iter().map(Pid::as_raw).collect();
        while let Some(pid) = left.pop().filter(|_| now.len() < MOST_PROCESSES) {
            let Ok(process) = Process::new(pid) else { continue };
            let Ok(stat) = process.stat() else { continue };
            now.insert(pid, stat.utime + stat.stime);
            let tasks = process.tasks().into_iter().flatten().flatten();
            left.extend(tasks.flat_map(|task| task.children().unwrap_or_default()).map(|child| child as i32));
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    use std::time::Duration;

    use nix::sys::signal::{Signal, killpg};
    use nix::unistd::Pid;

    use super::Processes;

    #[test]
    fn what_children_of_the_child_compute_counts_too() {
        let script = "sh -c 'while :; do :; done' & wait";
        let mut child = Command::new("sh").args(["-c", script]).process_group(0).spawn().unwrap();
        let group = Pid::from_raw(child.id() as i32);
        let processes = Processes::default();
        assert_eq!(processes.take_cpu_time(), Duration::ZERO);
        processes.set_group(Some(group));
        let mut taken = Duration::ZERO;
        while taken < Duration::from_millis(50) {
            taken += processes.take_cpu_time();
        }
        killpg(group, Signal::SIGKILL).unwrap();
        child.wait().unwrap();
    }
}
