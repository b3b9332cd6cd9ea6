//! What the agent keeps across restarts, in one SQLite file: what each deployment promised to serve, its revisions and
//! rollouts, the digests of files, the digests of keys and their use, and the history of frames.

mod artifacts;
mod datasets;
mod digests;
mod finetunes;
mod frames;
mod keys;
mod revisions;
mod rollouts;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

pub use artifacts::ArtifactRow;
pub use datasets::DatasetRow;
pub use finetunes::FinetuneRow;
pub use frames::Tier;
pub use keys::{KeyRow, KeyRows, SecretRow, UsageRow};
pub use revisions::{Configured, DeploymentRow, EngineRow, NewRevision, PartRow, RevisionRow};

/// Numbered, applied in order, never edited once landed.
const MIGRATIONS: [&str; 8] = [
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_keys.sql"),
    include_str!("migrations/0003_artifacts.sql"),
    include_str!("migrations/0004_adapters.sql"),
    include_str!("migrations/0005_datasets.sql"),
    include_str!("migrations/0006_finetune_history.sql"),
    include_str!("migrations/0007_engine_settings.sql"),
    include_str!("migrations/0008_stopped.sql"),
];

/// Of each connection, in KiB as SQLite has it (negative): it fills at once, where its usual 2 MB fill over hours. The system
/// keeps what is read often anyway.
const PAGE_CACHE_KIB: i32 = -256;

/// How long one connection waits for the other.
const BUSY_PATIENCE: Duration = Duration::from_secs(5);

/// Why the store refused.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite's word.
    #[error("store {path}: {source}; check the disk's space and the file's permissions")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Written by a newer agent.
    #[error(
        "store {path} is of version {found}, this agent knows up to {known}; run the newer agent, or move the file away to start afresh"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: usize,
        /// Ours.
        known: usize,
    },
}

/// The open file. Writes are durable when they return (`synchronous=FULL`).
pub struct Store {
    path: PathBuf,
    connection: Mutex<Connection>,
    /// A connection of its own, so that a long read of the past holds up no promise.
    reader: Mutex<Connection>,
}

impl Store {
    /// Opens or creates it and brings it to the present version.
    ///
    /// # Errors
    /// When the file cannot be used or is of a newer version.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let fail = |source| StoreError::Sqlite { path: path.to_owned(), source };
        let mut connection = Connection::open(path).map_err(fail)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(fail)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(fail)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(fail)?;
        connection.busy_timeout(BUSY_PATIENCE).map_err(fail)?;
        connection.pragma_update(None, "cache_size", PAGE_CACHE_KIB).map_err(fail)?;
        let version: usize = connection
            .pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
            .map_err(fail)?
            .try_into()
            .unwrap_or(0);
        if version > MIGRATIONS.len() {
            return Err(StoreError::Newer { path: path.to_owned(), found: version, known: MIGRATIONS.len() });
        }
        for (number, migration) in MIGRATIONS.iter().enumerate().skip(version) {
            let transaction = connection.transaction().map_err(fail)?;
            transaction.execute_batch(migration).map_err(fail)?;
            transaction.pragma_update(None, "user_version", number as i64 + 1).map_err(fail)?;
            transaction.commit().map_err(fail)?;
        }
        let reader = Connection::open(path).map_err(fail)?;
        reader.pragma_update(None, "query_only", true).map_err(fail)?;
        reader.busy_timeout(BUSY_PATIENCE).map_err(fail)?;
        reader.pragma_update(None, "cache_size", PAGE_CACHE_KIB).map_err(fail)?;
        Ok(Self { path: path.to_owned(), connection: Mutex::new(connection), reader: Mutex::new(reader) })
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Sqlite { path: self.path.clone(), source }
    }
}

#[cfg(test)]
pub(crate) fn temporary() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store.sqlite")).unwrap();
    (folder, store)
}

#[cfg(test)]
mod tests {
    use super::{Store, StoreError};

    #[test]
    fn a_store_of_a_newer_agent_is_refused_and_left_alone() {
        let (folder, store) = super::temporary();
        store.connection().pragma_update(None, "user_version", 99).unwrap();
        drop(store);
        let again = Store::open(&folder.path().join("store.sqlite"));
        assert!(matches!(again, Err(StoreError::Newer { found: 99, .. })));
    }
}
