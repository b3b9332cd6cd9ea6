use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Due requests that the sender has not taken up; more than that, and the machine is too slow for the rate.
const MOST_UNTAKEN: usize = 1 << 16;
/// Longest sleep, so that the thread hears soon when it is to stop.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);

/// Sends the number and time of each request when it is due, from a thread of its own: an async runtime's timer has
/// steps of a millisecond.
pub(super) fn pace(
    due: impl Iterator<Item = Duration> + Send + 'static,
    start: Instant,
    end: Option<Duration>,
    stop: CancellationToken,
) -> std::io::Result<mpsc::Receiver<(u64, Instant)>> {
    let (sender, receiver) = mpsc::channel(MOST_UNTAKEN);
    std::thread::Builder::new().name("pacing".into()).spawn(move || {
        for (number, after) in (0..).zip(due) {
            if end.is_some_and(|end| after >= end) {
                return;
            }
            let at = start + after;
            while let Some(left) = at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                if stop.is_cancelled() {
                    return;
                }
                std::thread::sleep(left.min(LONGEST_SLEEP));
            }
            // A full queue holds the thread up, which shows as lateness of all that follow.
            if stop.is_cancelled() || sender.blocking_send((number, at)).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}
