//! What a child and all that it has started compute.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use procfs::process::Process;

/// More are left out.
const MOST_PROCESSES: usize = 256;
/// How often others than those that are known are looked for: servers have hundreds of threads, each of which may have started some.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The processes of a server that the agent runs.
#[derive(Default)]
pub(super) struct Processes {
    /// 0 while it is down.
    group: AtomicI32,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// CPU time of each process, in ticks, when it was last looked at.
    ticks: HashMap<Identity, u64>,
    /// When others were looked for.
    looked: Option<Instant>,
}

/// A process, whoever has its number later.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    pid: i32,
    started_ticks: u64,
}

impl Processes {
    /// The child came up with this group, or went.
    pub(super) fn set_group(&self, group: Option<Pid>) {
        self.group.store(group.map_or(0, Pid::as_raw), Ordering::Relaxed);
        self.lock().looked = None;
    }

    pub(super) fn group(&self) -> Option<Pid> {
        let group = self.group.load(Ordering::Relaxed);
        (group > 0).then(|| Pid::from_raw(group))
    }

    /// CPU time that they took since the last call.
    pub(super) fn take_cpu_time(&self) -> Duration {
        let mut known = self.lock();
        let now = if known.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            let stats = known.ticks.keys().filter_map(|identity| stat(identity.pid));
            stats.filter(|(identity, _)| known.ticks.contains_key(identity)).collect()
        } else {
            known.looked = Some(Instant::now());
            self.walk()
        };
        let before = |identity| known.ticks.get(identity).copied().unwrap_or(0);
        let taken: u64 = now.iter().map(|(identity, ticks)| ticks.saturating_sub(before(identity))).sum();
        known.ticks = now;
        Duration::from_secs_f64(taken as f64 / procfs::ticks_per_second() as f64)
    }

    /// Those that there are, and that there were when they were looked at last.
    pub(super) fn seen(&self) -> Vec<i32> {
        let known = self.lock().ticks.clone();
        known.into_keys().chain(self.walk().into_keys()).map(|identity| identity.pid).collect()
    }

    fn walk(&self) -> HashMap<Identity, u64> {
        let mut found = HashMap::new();
        let mut left: Vec<i32> = self.group().into_iter().map(Pid::as_raw).collect();
        while let Some(pid) = left.pop().filter(|_| found.len() < MOST_PROCESSES) {
            found.extend(stat(pid));
            let tasks = Process::new(pid).and_then(|process| process.tasks()).into_iter().flatten().flatten();
            left.extend(tasks.flat_map(|task| task.children().unwrap_or_default()).map(|child| child as i32));
        }
        found
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stat(pid: i32) -> Option<(Identity, u64)> {
    let stat = Process::new(pid).and_then(|process| process.stat()).ok()?;
    Some((Identity { pid, started_ticks: stat.starttime }, stat.utime + stat.stime))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use nix::sys::signal::{Signal, killpg};
    use nix::unistd::Pid;

    use super::Processes;

    #[test]
    fn what_children_of_the_child_compute_counts_too() {
        let script = "sh -c 'while :; do :; done' & echo started; wait";
        let mut child =
            Command::new("sh").args(["-c", script]).process_group(0).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
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
