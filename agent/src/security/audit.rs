//! The audit file: one JSON object a line, each with the digest of the line before, so that a missing or changed line
//! shows. A record is durable before the action that it allows.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use llmdeck_proto::v1;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::identity::Operator;
use crate::time::unix_ms;

/// Why a record could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("audit file {path}: {source}; the action was not done, since it could not be recorded")]
pub struct AuditError {
    path: PathBuf,
    source: std::io::Error,
}

/// What is recorded of an action or of its outcome.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Who.
    pub operator: &'a Operator,
    /// What: `deploy`, `rollback`, `abort`, `outcome`.
    pub action: &'a str,
    /// Of what: `chat@7`.
    pub subject: &'a str,
    /// Why.
    pub reason: &'a str,
    /// `accepted`, `refused`, `done` or `failed`, and how.
    pub outcome: &'a str,
}

#[derive(Serialize, Deserialize)]
struct Record {
    sequence: u64,
    time_unix_ms: i64,
    time: String,
    operator: String,
    uid: u32,
    action: String,
    subject: String,
    reason: String,
    outcome: String,
    /// sha256 of the line before, in hex; empty on the first.
    previous: String,
}

/// The open file.
pub struct Audit {
    path: PathBuf,
    tail: Mutex<Tail>,
}

struct Tail {
    file: File,
    sequence: u64,
    digest: String,
}

impl Audit {
    /// Opens or creates the file. A last line that a crash left incomplete was never acknowledged, and is ended so that
    /// the next record begins a line of its own.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        let fail = |source| AuditError { path: path.to_owned(), source };
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path).map_err(fail)?;
        let (mut sequence, mut digest) = (0, String::new());
        let mut ends_in_newline = true;
        let mut reader = BufReader::new(File::open(path).map_err(fail)?);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).map_err(fail)? > 0 {
            ends_in_newline = line.ends_with(b"\n");
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            if let Ok(record) = serde_json::from_slice::<Record>(text) {
                sequence = record.sequence;
            }
            digest = hex_digest(text);
            line.clear();
        }
        if !ends_in_newline {
            file.write_all(b"\n").map_err(fail)?;
        }
        Ok(Self { path: path.to_owned(), tail: Mutex::new(Tail { file, sequence, digest }) })
    }

    /// Appends a record and waits until it is on disk.
    ///
    /// # Errors
    /// When it could not be made durable; then the action must not happen.
    pub fn append(&self, entry: &Entry<'_>) -> Result<(), AuditError> {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let time_unix_ms = unix_ms();
        let record = Record {
            sequence: tail.sequence + 1,
            time_unix_ms,
            time: jiff::Timestamp::from_millisecond(time_unix_ms)
                .map(|time| time.to_string())
                .unwrap_or_default(),
            operator: entry.operator.name.clone(),
            uid: entry.operator.uid,
            action: entry.action.to_owned(),
            subject: entry.subject.to_owned(),
            reason: entry.reason.to_owned(),
            outcome: entry.outcome.to_owned(),
            previous: tail.digest.clone(),
        };
        let fail = |source| AuditError { path: self.path.clone(), source };
        let mut line = serde_json::to_vec(&record).map_err(|error| fail(error.into()))?;
        let digest = hex_digest(&line);
        line.push(b'\n');
        tail.file.write_all(&line).and_then(|()| tail.file.sync_data()).map_err(fail)?;
        tail.sequence = record.sequence;
        tail.digest = digest;
        Ok(())
    }

    /// The newest records first, at most `limit`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn newest(&self, limit: usize) -> Result<Vec<v1::AuditRecord>, AuditError> {
        let fail = |source| AuditError { path: self.path.clone(), source };
        let mut records = std::collections::VecDeque::new();
        for line in BufReader::new(File::open(&self.path).map_err(fail)?).lines() {
            if let Ok(record) = serde_json::from_str::<Record>(&line.map_err(fail)?) {
                if records.len() == limit {
                    records.pop_front();
                }
                records.push_back(record);
            }
        }
        Ok(records.into_iter().rev().map(Record::into_message).collect())
    }
}

impl Record {
    fn into_message(self) -> v1::AuditRecord {
        v1::AuditRecord {
            sequence: self.sequence,
            time_unix_ms: self.time_unix_ms,
            operator: self.operator,
            uid: self.uid,
            action: self.action,
            subject: self.subject,
            reason: self.reason,
            outcome: self.outcome,
        }
    }
}

fn hex_digest(line: &[u8]) -> String {
    crate::registry::digest::hex(&Sha256::digest(line))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{Audit, Entry, Operator};

    #[test]
    fn records_go_on_behind_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let operator = Operator::of_uid(0);
        let entry = Entry {
            operator: &operator,
            action: "deploy",
            subject: "chat@2",
            reason: "why",
            outcome: "accepted",
        };
        Audit::open(&path).unwrap().append(&entry).unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"torn").unwrap();
        let audit = Audit::open(&path).unwrap();
        audit.append(&Entry { action: "rollback", ..entry }).unwrap();
        let actions: Vec<(u64, String)> =
            audit.newest(10).unwrap().into_iter().map(|record| (record.sequence, record.action)).collect();
        assert_eq!(actions, [(2, "rollback".to_owned()), (1, "deploy".to_owned())]);
    }
}
