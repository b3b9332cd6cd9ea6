//! What a child writes: into the agent's log, not faster than a person can read, and its last lines kept for errors.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// Lines of a while that are logged; the rest is counted. Fifty a second, yet a stack trace comes whole.
const MOST_LINES: u32 = 500;
const WHILE: Duration = Duration::from_secs(10);
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

    /// What it said, to be put behind how it ended: the last line that speaks of an error, or the very last that says something.
    pub(super) fn hint(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = || lines.iter().rev().map(|line| line.trim()).filter(|line| !line.is_empty());
        match (told().find(|line| speaks_of_an_error(line)), told().next()) {
            (Some(line), _) => format!("; it said: {line}"),
            (None, Some(line)) => format!("; its last line: {line}"),
            (None, None) => String::new(),
        }
    }
}

/// Servers say where to read more, how they go down, and whom they still answered, behind what is wrong.
fn speaks_of_an_error(line: &str) -> bool {
    if line.contains("INFO") {
        return false;
    }
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut words = line.split(|letter| !is_word(letter));
    words.any(|word| {
        let word = word.to_ascii_lowercase();
        matches!(word.as_str(), "panicked" | "fatal") || word.ends_with("error") && !word.contains('_')
    })
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

/// Holds the log to so many lines in a while.
struct Pace {
    of: String,
    since: Instant,
    logged: u32,
    dropped: u64,
}

impl Pace {
    fn line(&mut self, text: &str) {
        if self.since.elapsed() >= WHILE {
            self.tell_dropped();
            (self.since, self.logged, self.dropped) = (Instant::now(), 0, 0);
        }
        if self.logged < MOST_LINES {
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

#[cfg(test)]
mod tests {
    use super::LastLines;

    fn hint(lines: &[&str]) -> String {
        let last = LastLines::default();
        lines.iter().for_each(|line| last.push(line));
        last.hint()
    }

    #[test]
    fn what_is_wrong_comes_before_what_was_said_last() {
        let vllm = [
            "pydantic_core.ValidationError: 1 validation error for ModelConfig",
            "  Value error, Sleep mode is not supported on current platform. [type=value_error]",
            "    For further information visit https://errors.pydantic.dev/2.14/v/value_error",
        ];
        assert!(
            hint(&vllm).starts_with("; it said: Value error, Sleep mode is not supported"),
            "{}",
            hint(&vllm)
        );
        let engine = [
            "ERROR 11-26 [async_llm.py:906] vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.",
            "INFO:     127.0.0.1:57348 - \"POST /v1/completions HTTP/1.1\" 500 Internal Server Error",
        ];
        assert!(hint(&engine).ends_with("EngineCore encountered an issue."), "{}", hint(&engine));
        let python = ["Traceback (most recent call last):", "ModuleNotFoundError: No module named 'x'", ""];
        assert_eq!(hint(&python), "; it said: ModuleNotFoundError: No module named 'x'");
        assert_eq!(hint(&["loading", "CUDA out of memory"]), "; its last line: CUDA out of memory");
        assert_eq!(hint(&[]), "");
    }
}
