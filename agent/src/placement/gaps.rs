//! Gaps that many small allocations leave between others, given back to the system.

use std::time::Duration;

use llmdeck_engine::give_gaps_back;

/// Often enough that what rollouts, suites and bursts of requests leave does not add up; each time takes milliseconds of a thread
/// that nobody waits for.
const EVERY: Duration = Duration::from_secs(60);

/// Gives gaps back when it is dropped: for what goes at once, such as an engine.
pub(super) struct Gaps;

impl Drop for Gaps {
    fn drop(&mut self) {
        give_gaps_back();
    }
}

/// Gives gaps back now and then, until the task is dropped.
pub async fn give_gaps_back_now_and_then() {
    loop {
        tokio::time::sleep(EVERY).await;
        // It cannot fail, and its panic would be the allocator's.
        let _ = tokio::task::spawn_blocking(give_gaps_back).await;
    }
}
