use std::collections::BTreeMap;

use rusqlite::params;

use super::{Store, StoreError};

/// An artifact that was added to the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactRow {
    /// sha256, in hex.
    pub digest: String,
    /// What it is.
    pub kind: String,
    /// Its name within the registry's folder.
    pub file: String,
    /// Bytes of all its files.
    pub size_bytes: u64,
    /// Where it was added from.
    pub source: String,
    /// By whom.
    pub added_by: String,
    /// Unix time in milliseconds.
    pub added_unix_ms: i64,
    /// Its names for people, in order.
    pub tags: Vec<String>,
    /// What it was made from, by digest.
    pub parents: Vec<String>,
}

impl Store {
    /// Everything that was added, oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn artifacts(&self) -> Result<Vec<ArtifactRow>, StoreError> {
        let connection = self.connection();
        let read = || -> rusqlite::Result<_> {
            let pairs = |statement: &str| -> rusqlite::Result<BTreeMap<String, Vec<String>>> {
                let mut by_digest = BTreeMap::<String, Vec<String>>::new();
                let mut statement = connection.prepare(statement)?;
                let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
                for row in rows {
                    let (digest, other): (String, String) = row?;
                    by_digest.entry(digest).or_default().push(other);
                }
                Ok(by_digest)
            };
            let mut tags = pairs("SELECT digest, tag FROM artifact_tag ORDER BY tag")?;
            let mut parents = pairs("SELECT digest, parent FROM artifact_parent ORDER BY parent")?;
            let mut statement = connection.prepare(
                "SELECT digest, kind, file, size_bytes, source, added_by, added_unix_ms FROM artifact \
                 ORDER BY added_unix_ms, digest",
            )?;
            let rows = statement.query_map([], |row| {
                Ok(ArtifactRow {
                    digest: row.get(0)?,
                    kind: row.get(1)?,
                    file: row.get(2)?,
                    size_bytes: row.get::<_, i64>(3)?.unsigned_abs(),
                    source: row.get(4)?,
                    added_by: row.get(5)?,
                    added_unix_ms: row.get(6)?,
                    tags: Vec::new(),
                    parents: Vec::new(),
                })
            })?;
            let mut all = rows.collect::<rusqlite::Result<Vec<ArtifactRow>>>()?;
            for row in &mut all {
                row.tags = tags.remove(&row.digest).unwrap_or_default();
                row.parents = parents.remove(&row.digest).unwrap_or_default();
            }
            Ok(all)
        };
        read().map_err(|error| self.fail(error))
    }

    /// Keeps an artifact with its tags, which move from whatever had them; one that is known keeps what it was.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub fn add_artifact(&self, row: &ArtifactRow) -> Result<(), StoreError> {
        let mut connection = self.connection();
        let size_bytes = i64::try_from(row.size_bytes).unwrap_or(i64::MAX);
        let mut write = || {
            let transaction = connection.transaction()?;
            transaction.execute(
                "INSERT OR IGNORE INTO artifact (digest, kind, file, size_bytes, source, added_by, added_unix_ms) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![row.digest, row.kind, row.file, size_bytes, row.source, row.added_by, row.added_unix_ms],
            )?;
            for tag in &row.tags {
                set_tag(&transaction, tag, &row.digest)?;
            }
            for parent in &row.parents {
                transaction.execute(
                    "INSERT OR IGNORE INTO artifact_parent (digest, parent) VALUES (?1, ?2)",
                    [&row.digest, parent],
                )?;
            }
            transaction.commit()
        };
        write().map_err(|error| self.fail(error))
    }

    /// Gives an artifact a tag, which moves from whatever had it.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub fn tag_artifact(&self, tag: &str, digest: &str) -> Result<(), StoreError> {
        set_tag(&self.connection(), tag, digest).map_err(|error| self.fail(error))
    }

    /// Takes a tag away.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub fn untag_artifact(&self, tag: &str) -> Result<(), StoreError> {
        let removed = self.connection().execute("DELETE FROM artifact_tag WHERE tag = ?1", [tag]);
        removed.map(drop).map_err(|error| self.fail(error))
    }

    /// Forgets an artifact.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub fn remove_artifact(&self, digest: &str) -> Result<(), StoreError> {
        let mut connection = self.connection();
        let mut remove = || {
            let transaction = connection.transaction()?;
            for statement in
                ["DELETE FROM artifact WHERE digest = ?1", "DELETE FROM dataset WHERE digest = ?1"]
            {
                transaction.execute(statement, [digest])?;
            }
            transaction.commit()
        };
        remove().map_err(|error| self.fail(error))
    }

    /// Every revision that was ever made, as `chat@7`, with the digest of each of its parts: a rollback may go to any of them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn digests_of_revisions(&self) -> Result<Vec<(String, String)>, StoreError> {
        let connection = self.connection();
        let read = || -> rusqlite::Result<_> {
            let mut statement = connection.prepare(
                "SELECT deployment || '@' || number AS name, digest FROM revision
                 UNION SELECT deployment || '@' || number, adapter_digest FROM revision WHERE adapter_digest <> ''
                 UNION SELECT deployment || '@' || number, prompt_digest FROM revision WHERE prompt_digest <> ''
                 ORDER BY name",
            )?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        };
        read().map_err(|error| self.fail(error))
    }
}

fn set_tag(connection: &rusqlite::Connection, tag: &str, digest: &str) -> rusqlite::Result<()> {
    let statement = "INSERT OR REPLACE INTO artifact_tag (tag, digest) VALUES (?1, ?2)";
    connection.execute(statement, [tag, digest]).map(drop)
}
