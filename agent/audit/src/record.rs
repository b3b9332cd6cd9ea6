use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What is to be recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRecord {
    /// Who: a name as the system, a certificate or a key has it.
    pub operator: String,
    /// The peer's user id, where it is a user; 0 is root.
    pub uid: Option<u32>,
    /// What: `deploy`, `rollback`, `abort`, `outcome`.
    pub action: String,
    /// Of what: `chat@7`.
    pub subject: String,
    /// Why.
    pub reason: String,
    /// `accepted`, `refused`, `done` or `failed`, and how.
    pub outcome: String,
}

/// One line.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Counts records, from 1.
    pub sequence: u64,
    /// Unix time in milliseconds.
    pub time_unix_ms: i64,
    /// The same for people.
    pub time: String,
    /// Who.
    pub operator: String,
    /// The peer's user id, where it is a user.
    pub uid: Option<u32>,
    /// What.
    pub action: String,
    /// Of what.
    pub subject: String,
    /// Why.
    pub reason: String,
    /// How it went.
    pub outcome: String,
    /// SHA-256 of the line before, in hex; empty on the first.
    pub previous: String,
}

impl Record {
    pub(crate) fn new(record: &NewRecord, sequence: u64, previous: String, now: Timestamp) -> Self {
        let NewRecord { operator, uid, action, subject, reason, outcome } = record.clone();
        let (time_unix_ms, time) = (now.as_millisecond(), now.to_string());
        Self { sequence, time_unix_ms, time, operator, uid, action, subject, reason, outcome, previous }
    }
}
