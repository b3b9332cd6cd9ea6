use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::client::{ChatError, ChatOutcome};
use crate::load::Prompt;

/// Different errors that are told apart; further ones count as `other`.
const MOST_ERRORS: usize = 32;

/// What a load has measured so far.
#[derive(Clone, Debug)]
pub struct Report {
    /// Requests that were due.
    pub due: u64,
    /// Whole answers.
    pub ok: u64,
    /// Requests without one.
    pub failed: u64,
    /// Of those, the ones that were not sent because too many ran already.
    pub not_sent: u64,
    /// Failures by their words.
    pub errors: BTreeMap<String, u64>,
    /// By the revision that answered; empty where the server does not tell.
    pub revisions: BTreeMap<String, RevisionReport>,
    /// From when a request was due to its first token, in microseconds.
    pub ttft_us: Histogram<u64>,
    /// Between two tokens, in microseconds.
    pub itl_us: Histogram<u64>,
    /// From when a request was due to the end of its answer, in microseconds.
    pub e2e_us: Histogram<u64>,
}

/// What one revision answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RevisionReport {
    /// Whole answers.
    pub ok: u64,
    /// Of those whose right answer is known, how many.
    pub judged: u64,
    /// And how many were right to the letter.
    pub exact: u64,
}

impl Default for Report {
    fn default() -> Self {
        let empty = || {
            let histogram = Histogram::new_with_bounds(1, 3_600_000_000, 3);
            histogram.unwrap_or_else(|_| unreachable!("the bounds are valid"))
        };
        Self {
            due: 0,
            ok: 0,
            failed: 0,
            not_sent: 0,
            errors: BTreeMap::new(),
            revisions: BTreeMap::new(),
            ttft_us: empty(),
            itl_us: empty(),
            e2e_us: empty(),
        }
    }
}

impl Report {
    pub(crate) fn answered(&mut self, due: tokio::time::Instant, prompt: &Prompt, outcome: &ChatOutcome) {
        self.ok += 1;
        if let Some(first) = outcome.tokens.first() {
            self.ttft_us.saturating_record(micros(first.saturating_duration_since(due)));
        }
        for pair in outcome.tokens.windows(2) {
            self.itl_us.saturating_record(micros(pair[1].saturating_duration_since(pair[0])));
        }
        self.e2e_us.saturating_record(micros(outcome.ended.saturating_duration_since(due)));
        let revision = self.revisions.entry(outcome.revision.clone().unwrap_or_default()).or_default();
        revision.ok += 1;
        if let Some(expected) = &prompt.expected {
            revision.judged += 1;
            revision.exact += u64::from(outcome.text.trim() == expected);
        }
    }

    pub(crate) fn failed(&mut self, error: &ChatError) {
        self.failed += 1;
        self.count_error(error.to_string());
    }

    pub(crate) fn not_sent(&mut self) {
        self.failed += 1;
        self.not_sent += 1;
        self.count_error("not sent: too many requests ran already".into());
    }

    fn count_error(&mut self, words: String) {
        let known = self.errors.contains_key(&words) || self.errors.len() < MOST_ERRORS;
        *self.errors.entry(if known { words } else { "other".into() }).or_default() += 1;
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}
