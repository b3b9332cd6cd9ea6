use std::collections::BTreeMap;

use crate::client::ChatError;

/// Kinds that are told apart; further ones count as [`OTHER`].
const MOST_KINDS: usize = 32;
const OTHER: &str = "other";

/// Requests that failed, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// How many.
    pub counts: BTreeMap<String, u64>,
    /// What the first of each said.
    pub examples: BTreeMap<String, String>,
}

impl Failures {
    pub(super) fn count(&mut self, error: &ChatError) {
        self.add(&error.kind(), 1, &error.to_string());
    }

    pub(super) fn add(&mut self, kind: &str, times: u64, example: &str) {
        let known = self.counts.contains_key(kind) || self.counts.len() < MOST_KINDS;
        let kind = if known { kind } else { OTHER };
        *self.counts.entry(kind.to_owned()).or_default() += times;
        self.examples.entry(kind.to_owned()).or_insert_with(|| example.to_owned());
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (kind, times) in &other.counts {
            self.add(kind, *times, other.examples.get(kind).unwrap_or(kind));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Failures, MOST_KINDS, OTHER};
    use crate::client::ChatError;

    #[test]
    fn the_first_of_a_kind_speaks_for_it() {
        let refused = |message: &str| ChatError::Status { status: 400, message: message.into() };
        let (mut failures, mut later) = (Failures::default(), Failures::default());
        failures.count(&refused("too long"));
        failures.count(&refused("too long by 3"));
        later.count(&refused("too short"));
        later.count(&ChatError::Unfinished);
        failures.merge(&later);
        assert_eq!(failures.counts["status 400"], 3);
        assert_eq!(failures.examples["status 400"], "status 400: too long");
        assert_eq!(failures.counts["unfinished"], 1);
    }

    #[test]
    fn kinds_are_limited() {
        let mut failures = Failures::default();
        for number in 0..100 {
            failures.count(&ChatError::Broken(format!("broken {number}")));
        }
        assert_eq!(failures.counts.len(), MOST_KINDS + 1);
        assert_eq!(failures.counts[OTHER], 100 - MOST_KINDS as u64);
    }
}
