//! What a child writes: into the agent's log, not faster than a person can read, and its last lines kept for errors.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// Lines of a second that are logged; the rest is counted.
const MOST_LINES_A_SECOND: u32 = 50;
const LONGEST_LINE_BYTES: u64 = 4 << 10;
const KEPT: usize = 20;

/// The last lines of a child.
#[derive(Default)]
pub(super) struct LastLines(Mutex<VecDeque<String>>);

impl LastLines {
    fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    /// The very last that says something.
    pub(super) fn last(&self) -> Option<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().rev().find(|line| !line.trim().is_empty()).cloned()
    }
}

/// Reads to the end. Reading never stops, however much comes, so that the child never waits for its log.
pub(super) async fn follow(from: impl AsyncRead + Unpin, of: String, last: Arc<LastLines>) {
    let mut reader = BufReader::new(from);
    let mut pace = Pace { of, since: Instant::now(), logged: 0, dropped: 0 };
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(LONGEST_LINE_BYTES).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        last.push(text);
        pace.line(text);
    }
    pace.tell_dropped();
}

/// Holds the log to so many lines a second.
struct Pace {
    of: String,
    since: Instant,
    logged: u32,
    dropped: u64,
}

impl Pace {
    fn line(&mut self, text: &str) {
        if self.since.elapsed() >= Duration::from_secs(1) {
            self.tell_dropped();
            (self.since, self.logged, self.dropped) = (Instant::now(), 0, 0);
        }
        if self.logged < MOST_LINES_A_SECOND {
            self.logged += 1;
            tracing::info!(child = self.of, "{text}");
        } else {
            self.dropped += 1;
        }
    }

    fn tell_dropped(&self) {
        if self.dropped > 0 {
            let dropped = self.dropped;
            tracing::info!(child = self.of, dropped, "lines were left out, since too many came at once");
        }
    }
}
