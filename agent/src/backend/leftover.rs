//! Children of an agent that was killed: they are found by a variable in their environment, and ended before new ones
//! start, since they hold the GPU's memory.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Set in the environment of every child, and so of its children: the agent's data directory.
pub const MARK: &str = "LLMDECK_AGENT_DATA";

const PATIENCE: Duration = Duration::from_secs(5);

/// Ends what an earlier agent on this data directory left running; how many there were.
pub fn end_leftover_children(data_dir: &Path) -> usize {
    let found = processes_with(MARK, data_dir);
    for pid in &found {
        // Gone already is as good.
        let _ = kill(*pid, Signal::SIGKILL);
    }
    let end = Instant::now() + PATIENCE;
    while !found.is_empty() && !processes_with(MARK, data_dir).is_empty() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    found.len()
}

/// Processes with a path in a variable of their environment, whatever group or session they are in. One that may not be looked
/// at is not ours.
pub fn processes_with(variable: &str, path: &Path) -> Vec<Pid> {
    let mark = format!("{variable}={}", path.display());
    let Ok(processes) = procfs::process::all_processes() else { return Vec::new() };
    let ours = |process: procfs::process::Process| {
        let environment = std::fs::read(format!("/proc/{}/environ", process.pid)).ok()?;
        let is_ours = environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes());
        (is_ours && process.stat().ok()?.state != 'Z').then(|| Pid::from_raw(process.pid))
    };
    processes.filter_map(Result::ok).filter_map(ours).collect()
}
