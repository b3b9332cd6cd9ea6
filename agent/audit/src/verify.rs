//! Proves a log, or says where it was changed.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::chain::{digest, files, lines};
use crate::note::{NoteError, Verifier};
use crate::record::Record;
use crate::{CHECKPOINT, PUBLIC_KEY};

/// Flaws that are told; behind the first, everything may be wrong.
const MOST_FLAWS: usize = 20;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Files.
    pub files: usize,
    /// Records that can be read.
    pub records: u64,
    /// The key that the checkpoint was checked with.
    pub key: String,
    /// What is wrong, in order; empty when nothing is.
    pub flaws: Vec<Flaw>,
}

/// Something that was changed, removed or reordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// In which file.
    pub path: PathBuf,
    /// In which line, from 1; `None` of the file as a whole.
    pub line: Option<usize>,
    /// What, in words.
    pub what: String,
}

impl fmt::Display for Flaw {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(formatter, "{}, line {line}: {}", self.path.display(), self.what),
            None => write!(formatter, "{}: {}", self.path.display(), self.what),
        }
    }
}

/// Proves the log in a folder. `key` is a copy of its public key that was kept elsewhere; without one, the key beside the
/// log is believed.
///
/// # Errors
/// When a file cannot be read.
pub fn verify(folder: &Path, key: Option<&Verifier>) -> std::io::Result<Proof> {
    let mut flaws = Vec::new();
    let files = files(folder)?;
    let (mut records, mut expected, mut head) = (0, 1, String::new());
    for path in &files {
        lines(path, |number, line, ended| {
            let mut flaw = |what: String| {
                if flaws.len() < MOST_FLAWS {
                    flaws.push(Flaw { path: path.clone(), line: Some(number), what });
                }
            };
            match serde_json::from_slice::<Record>(line) {
                Ok(record) => {
                    records += 1;
                    if record.sequence != expected {
                        flaw(format!(
                            "record {} stands where record {expected} should be: records were removed, added or reordered",
                            record.sequence
                        ));
                    }
                    if record.previous != head {
                        flaw(format!(
                            "record {} does not follow from the line before it, which was changed, or is not the one that was there",
                            record.sequence
                        ));
                    }
                    if serde_json::to_vec(&record).ok().as_deref() != Some(line) || !ended {
                        flaw(format!("record {} is not as it was written", record.sequence));
                    }
                    expected = record.sequence + 1;
                }
                // Only a crash leaves such a line; the record behind it vouches for it, or the checkpoint does not.
                Err(_) if line.is_empty() => flaw("a line is empty".into()),
                Err(_) => {}
            }
            head = digest(line);
            Ok(())
        })?;
    }
    let (verifier, known) = match key {
        Some(key) => (Some(key.clone()), key.to_string()),
        None => {
            let text = std::fs::read_to_string(folder.join(PUBLIC_KEY)).unwrap_or_default();
            (Verifier::parse(&text).ok(), text.trim().to_owned())
        }
    };
    let path = folder.join(CHECKPOINT);
    let whole = |what: String| Flaw { path: path.clone(), line: None, what };
    match (verifier, std::fs::read_to_string(&path)) {
        (None, _) => flaws.push(Flaw {
            path: folder.join(PUBLIC_KEY),
            line: None,
            what: "is missing or no key; give the one that was kept elsewhere".into(),
        }),
        (_, Err(error)) => flaws.push(whole(format!("the signed head of the log cannot be read: {error}"))),
        (Some(verifier), Ok(signed)) => {
            flaws.extend(checkpoint_flaw(&verifier, &signed, expected - 1, &head).map(whole));
        }
    }
    Ok(Proof { files: files.len(), records, key: known, flaws })
}

fn checkpoint_flaw(verifier: &Verifier, signed: &str, last: u64, head: &str) -> Option<String> {
    match verifier.open(signed) {
        Err(NoteError::Forged(name)) => Some(format!("was changed, or was not signed by {name}")),
        Err(error) => Some(error.to_string()),
        Ok(note) if note.count > last => {
            Some(format!("the log had {} records, and has {last}: the last ones were removed", note.count))
        }
        Ok(note) if note.count < last => Some(format!(
            "the log has {last} records, of which {} are signed: the others were added, or the agent was killed as it wrote",
            note.count
        )),
        Ok(note) if note.head != head => Some("the last record is not the one that was signed".into()),
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::{AuditLog, NewRecord, verify};

    fn log(folder: &std::path::Path) {
        let log = AuditLog::open(folder, "node-a").unwrap().with_full_bytes(700);
        for number in 0..6 {
            let record = NewRecord {
                operator: "alice".into(),
                action: "deploy".into(),
                subject: format!("chat@{number}"),
                reason: "a test".into(),
                ..NewRecord::default()
            };
            log.append(&record).unwrap();
        }
    }

    /// Whatever byte of whatever file is changed, it is found, and the file is named.
    #[test]
    fn a_change_to_any_byte_is_found() {
        let folder = tempfile::tempdir().unwrap();
        log(folder.path());
        let key = crate::Verifier::parse(&std::fs::read_to_string(folder.path().join("audit.pub")).unwrap())
            .unwrap();
        let mut seen = 0;
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if !name.ends_with(".jsonl") && name != "audit.checkpoint" {
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                std::fs::write(&path, &changed).unwrap();
                let proof = verify(folder.path(), Some(&key)).unwrap();
                assert!(!proof.flaws.is_empty(), "{name}, byte {at}");
                seen += 1;
            }
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(verify(folder.path(), Some(&key)).unwrap().flaws, vec![]);
        }
        assert!(seen > 1_000);
    }

    #[test]
    fn what_was_removed_reordered_or_signed_by_another_is_found() {
        let folder = tempfile::tempdir().unwrap();
        log(folder.path());
        let path = folder.path().join("audit.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        let words = |folder: &std::path::Path| {
            let proof = verify(folder, None).unwrap();
            proof.flaws.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() >= 2, "{lines:?}");
        let without_last = lines[..lines.len() - 1].join("\n") + "\n";
        std::fs::write(&path, without_last).unwrap();
        assert!(words(folder.path()).contains("had 6 records, and has 5"), "{}", words(folder.path()));
        let reordered = lines.iter().rev().copied().collect::<Vec<_>>().join("\n") + "\n";
        std::fs::write(&path, reordered).unwrap();
        assert!(words(folder.path()).contains("line 1: record 6 stands where"), "{}", words(folder.path()));
        std::fs::write(&path, &text).unwrap();
        let first = crate::chain::files(folder.path()).unwrap().remove(0);
        std::fs::remove_file(first).unwrap();
        assert!(words(folder.path()).contains("stands where record 1 should be"), "{}", words(folder.path()));
    }
}
