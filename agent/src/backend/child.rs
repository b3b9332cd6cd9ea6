//! A server as a child: in a process group of its own, so that all of it goes when it goes.

use std::net::TcpListener;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::leftover::MARK;
use super::log::{LastLines, follow};
use super::spec::ProcessSpec;

/// How often a group that was told to go is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long the last words of a child that has ended are waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long the system may take to clear a killed group away.
const CLEARING: Duration = Duration::from_secs(10);

/// A running child.
pub(super) struct ServerProcess {
    child: Child,
    group: Pid,
    stop_timeout: Duration,
    name: String,
    gone: bool,
    logs: JoinSet<()>,
    pub(super) port: u16,
    pub(super) last_lines: Arc<LastLines>,
}

impl ServerProcess {
    /// Starts it on a free port.
    pub(super) fn start(spec: &ProcessSpec, name: &str, data_dir: &Path) -> std::io::Result<Self> {
        let port = free_port()?;
        let filled = |word: &String| word.replace("{port}", &port.to_string());
        let mut words = spec.command.iter().map(filled);
        let program = words.next().unwrap_or_default();
        let mut command = Command::new(&program);
        command
            .args(words)
            .envs(spec.environment.iter().map(|(name, value)| (name, filled(value))))
            .env(MARK, data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(directory) = &spec.directory {
            command.current_dir(directory);
        }
        let mut child = command
            .spawn()
            .map_err(|error| std::io::Error::new(error.kind(), format!("{program}: {error}")))?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or_default();
        let last_lines = Arc::<LastLines>::default();
        // They end with the child's own ends of the pipes.
        let mut logs = JoinSet::new();
        if let Some(output) = child.stdout.take() {
            logs.spawn(follow(output, name.to_owned(), Arc::clone(&last_lines)));
        }
        if let Some(errors) = child.stderr.take() {
            logs.spawn(follow(errors, name.to_owned(), Arc::clone(&last_lines)));
        }
        Ok(Self {
            child,
            group: Pid::from_raw(id),
            stop_timeout: Duration::from_secs(spec.stop_timeout_s),
            name: name.to_owned(),
            gone: false,
            logs,
            port,
            last_lines,
        })
    }

    /// All of its processes but those that left it.
    pub(super) fn group(&self) -> Pid {
        self.group
    }

    /// Waits until it ends by itself; how, in words.
    pub(super) async fn ended(&mut self) -> String {
        let status = self.child.wait().await;
        // Its last words may still be in the pipe; children of its own may hold the pipe open.
        let _ =
            tokio::time::timeout(LAST_WORDS, async { while self.logs.join_next().await.is_some() {} }).await;
        let how = status.map_or_else(|error| error.to_string(), in_words);
        format!("{how}{}", self.last_lines.hint())
    }

    /// Asks it to go, insists when it does not, and returns when its whole group is gone. True when it had to be killed.
    pub(super) async fn stop(mut self) -> bool {
        let _ = killpg(self.group, Signal::SIGTERM);
        if self.gone_within(self.stop_timeout).await {
            return false;
        }
        tracing::warn!(child = self.name, "did not end on SIGTERM in time, and is killed");
        let _ = killpg(self.group, Signal::SIGKILL);
        if !self.gone_within(CLEARING).await {
            tracing::error!(child = self.name, "some of its processes are still there after SIGKILL");
        }
        true
    }

    /// Kills what is left of its group after the child itself has ended.
    pub(super) async fn clear(mut self) {
        let _ = killpg(self.group, Signal::SIGKILL);
        self.gone_within(CLEARING).await;
    }

    async fn gone_within(&mut self, patience: Duration) -> bool {
        let (child, group) = (&mut self.child, self.group);
        let gone = async {
            loop {
                // Collects the child, which otherwise stays in the group as a zombie.
                let _ = child.try_wait();
                if killpg(group, None) == Err(Errno::ESRCH) {
                    return;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        self.gone = tokio::time::timeout(patience, gone).await.is_ok();
        self.gone
    }
}

/// Whoever is not there to see it end has it killed, with everything that it started.
impl Drop for ServerProcess {
    fn drop(&mut self) {
        if !self.gone {
            let _ = killpg(self.group, Signal::SIGKILL);
        }
    }
}

fn in_words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with status {code}"),
        (None, Some(signal)) => {
            let name =
                Signal::try_from(signal).map_or_else(|_| signal.to_string(), |signal| signal.to_string());
            let why = if signal == Signal::SIGKILL as i32 { ", perhaps for want of memory" } else { "" };
            format!("it was ended by {name}{why}")
        }
        (None, None) => "it ended".into(),
    }
}

/// A port that nobody listens on. Someone may take it before the child does; then the child fails and is started anew on
/// another.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
