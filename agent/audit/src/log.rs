use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::chain::{digest, files, full_file, lines};
use crate::note::{Note, Signer, Verifier};
use crate::record::{NewRecord, Record};
use crate::{CHECKPOINT, CURRENT, PRIVATE_KEY, PUBLIC_KEY};

/// A file that is longer is full.
const FULL_BYTES: u64 = 64 << 20;

/// Why a record could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("audit {path}: {source}; the action was not done, since it could not be recorded")]
pub struct AuditError {
    path: PathBuf,
    source: std::io::Error,
}

/// A log that is written.
pub struct AuditLog {
    folder: PathBuf,
    name: String,
    signer: Signer,
    full_bytes: u64,
    tail: Mutex<Tail>,
}

struct Tail {
    file: File,
    /// Of what was acknowledged.
    length: u64,
    sequence: u64,
    head: String,
    /// Of the file's first record.
    first_sequence: u64,
}

impl AuditLog {
    /// Opens or creates a log in a folder. A last line that a crash left incomplete was never acknowledged, and is ended
    /// so that the next record begins a line of its own.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn open(folder: &Path, name: &str) -> Result<Self, AuditError> {
        let fail = |source| AuditError { path: folder.to_owned(), source };
        // A name in a note is one word without a plus sign.
        let name = format!("llmdeck/{}", name.replace(['+', ' ', '\n'], "-"));
        let signer = signer(folder, &name).map_err(fail)?;
        let (mut sequence, mut head, mut first_sequence, mut is_ended) = (0, String::new(), 1, true);
        for path in files(folder).map_err(fail)? {
            first_sequence = sequence + 1;
            let read = lines(&path, |_, line, ended| {
                if let Ok(record) = serde_json::from_slice::<Record>(line) {
                    sequence = record.sequence;
                }
                (head, is_ended) = (digest(line), ended);
                Ok(())
            });
            read.map_err(fail)?;
        }
        let path = folder.join(CURRENT);
        let mut file = open_private(&path).map_err(fail)?;
        if !path.metadata().map_err(fail)?.len().eq(&0) && !is_ended {
            file.write_all(b"\n").map_err(fail)?;
        }
        if file.metadata().map_err(fail)?.len() == 0 {
            first_sequence = sequence + 1;
        }
        let length = file.seek(SeekFrom::End(0)).map_err(fail)?;
        let tail = Mutex::new(Tail { file, length, sequence, head: head.clone(), first_sequence });
        let log = Self { folder: folder.to_owned(), name, signer, full_bytes: FULL_BYTES, tail };
        log.checkpoint(sequence, &head).map_err(fail)?;
        Ok(log)
    }

    /// The same with full files of another size.
    #[must_use]
    pub fn with_full_bytes(self, full_bytes: u64) -> Self {
        Self { full_bytes, ..self }
    }

    /// What checks its checkpoints.
    pub fn verifier(&self) -> Verifier {
        self.signer.verifier()
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Appends a record and waits until it is on disk.
    ///
    /// # Errors
    /// When it could not be made durable; then the action must not happen, and nothing of the record is left.
    pub fn append(&self, record: &NewRecord) -> Result<(), AuditError> {
        let mut tail = self.lock();
        self.try_append(&mut tail, record)
            .map_err(|source| AuditError { path: self.folder.join(CURRENT), source })
    }

    fn try_append(&self, tail: &mut Tail, record: &NewRecord) -> std::io::Result<()> {
        if tail.length >= self.full_bytes {
            self.begin_file(tail)?;
        }
        let record = Record::new(record, tail.sequence + 1, tail.head.clone(), Timestamp::now());
        let mut line = serde_json::to_vec(&record)?;
        let head = digest(&line);
        line.push(b'\n');
        // What an earlier failure left behind was never acknowledged.
        tail.file.set_len(tail.length)?;
        let written = tail.file.write_all(&line).and_then(|()| tail.file.sync_data());
        let signed = written.and_then(|()| self.checkpoint(record.sequence, &head));
        if let Err(error) = signed {
            // A record that is refused is no record: the caller is told that nothing has happened.
            let _ = tail.file.set_len(tail.length).and_then(|()| tail.file.sync_data());
            return Err(error);
        }
        tail.length += line.len() as u64;
        tail.sequence = record.sequence;
        tail.head = head;
        Ok(())
    }

    fn begin_file(&self, tail: &mut Tail) -> std::io::Result<()> {
        let current = self.folder.join(CURRENT);
        std::fs::rename(&current, full_file(&self.folder, tail.first_sequence))?;
        tail.file = open_private(&current)?;
        File::open(&self.folder)?.sync_all()?;
        (tail.length, tail.first_sequence) = (0, tail.sequence + 1);
        Ok(())
    }

    fn checkpoint(&self, count: u64, head: &str) -> std::io::Result<()> {
        let note = Note { origin: self.name.clone(), count, head: head.to_owned() };
        replace(&self.folder.join(CHECKPOINT), self.signer.sign(&note).as_bytes())
    }

    /// The newest records first, at most `limit`.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn newest(&self, limit: usize) -> Result<Vec<Record>, AuditError> {
        let last = self.lock().sequence;
        let from = last.saturating_sub(limit as u64);
        let mut records = self.after(from, limit)?;
        records.reverse();
        Ok(records)
    }

    /// Records behind a sequence, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn after(&self, sequence: u64, limit: usize) -> Result<Vec<Record>, AuditError> {
        let fail = |source| AuditError { path: self.folder.clone(), source };
        let mut records = Vec::new();
        for path in files(&self.folder).map_err(fail)? {
            let read = lines(&path, |_, line, _| {
                if let Ok(record) = serde_json::from_slice::<Record>(line)
                    && record.sequence > sequence
                    && records.len() < limit
                {
                    records.push(record);
                }
                Ok(())
            });
            read.map_err(fail)?;
        }
        Ok(records)
    }

    fn lock(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)
}

/// Whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let part = path.with_extension("part");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&part)?;
    let replaced = file.write_all(bytes).and_then(|()| std::fs::rename(&part, path));
    if replaced.is_err() {
        // It would take room that is missing already.
        let _ = std::fs::remove_file(&part);
    }
    replaced
}

/// The node's key, made when there is none.
fn signer(folder: &Path, name: &str) -> std::io::Result<Signer> {
    let path = folder.join(PRIVATE_KEY);
    let secret: [u8; 32] = match std::fs::read(&path) {
        Ok(bytes) => bytes.try_into().map_err(|_| {
            let problem = format!(
                "{} is no key of 32 bytes; restore it, or move it away to begin with a new one",
                path.display()
            );
            std::io::Error::new(std::io::ErrorKind::InvalidData, problem)
        })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let secret: [u8; 32] = rand::random();
            replace(&path, &secret)?;
            secret
        }
        Err(error) => return Err(error),
    };
    let signer = Signer::new(name, &secret);
    replace(&folder.join(PUBLIC_KEY), format!("{}\n", signer.verifier()).as_bytes())?;
    Ok(signer)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{AuditLog, CURRENT, NewRecord};
    use crate::verify;

    fn record(action: &str) -> NewRecord {
        NewRecord { operator: "alice".into(), action: action.into(), ..NewRecord::default() }
    }

    #[test]
    fn records_go_on_behind_a_torn_line_and_the_chain_holds() {
        let folder = tempfile::tempdir().unwrap();
        AuditLog::open(folder.path(), "a").unwrap().append(&record("deploy")).unwrap();
        let path = folder.path().join(CURRENT);
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"torn").unwrap();
        let log = AuditLog::open(folder.path(), "a").unwrap();
        log.append(&record("rollback")).unwrap();
        let actions: Vec<(u64, String)> =
            log.newest(10).unwrap().into_iter().map(|record| (record.sequence, record.action)).collect();
        assert_eq!(actions, [(2, "rollback".to_owned()), (1, "deploy".to_owned())]);
        let proof = verify(folder.path(), None).unwrap();
        assert_eq!((proof.records, proof.flaws), (2, vec![]));
    }

    #[test]
    fn full_files_are_put_away_and_the_chain_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let log = AuditLog::open(folder.path(), "a").unwrap().with_full_bytes(600);
        for _ in 0..9 {
            log.append(&record("deploy")).unwrap();
        }
        drop(log);
        let log = AuditLog::open(folder.path(), "a").unwrap().with_full_bytes(600);
        log.append(&record("rollback")).unwrap();
        assert_eq!(log.after(0, 100).unwrap().len(), 10);
        assert_eq!(log.newest(2).unwrap()[0].sequence, 10);
        let proof = verify(folder.path(), None).unwrap();
        assert!(proof.files > 2);
        assert_eq!((proof.records, proof.flaws), (10, vec![]));
    }
}
