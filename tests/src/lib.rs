//! What the end-to-end tests share: the real binaries, agents as processes, the console in a pseudo-terminal.

mod agent;
mod binaries;
mod command;
mod disk;
mod gpu_node;
mod http;
mod processes;
mod pty;
mod scripted;
mod training;

use std::time::{Duration, Instant};

pub use agent::{ASSISTANT, AgentProcess, change, context, traffic};
pub use binaries::{Binaries, binaries};
pub use command::words;
pub use disk::{SmallDisk, fill};
pub use gpu_node::GpuNode;
pub use http::{Response, raw, send, send_with};
pub use processes::processes;
pub use pty::Console;
pub use scripted::scripted;
pub use training::{UNTAUGHT, begin_finetune, end_of_job, step_of};

/// Longest that a test waits for a fact.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `fact` has a value.
///
/// # Panics
/// When it has none within `PATIENCE`.
pub async fn wait_for<T>(what: &str, mut fact: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = fact().await {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
