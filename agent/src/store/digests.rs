use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError};

impl Store {
    /// The digest of a file that has not changed since it was computed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn file_digest(
        &self,
        path: &str,
        size_bytes: i64,
        modified_ns: i64,
    ) -> Result<Option<String>, StoreError> {
        self.connection()
            .query_row(
                "SELECT digest FROM file_digest WHERE path = ?1 AND size_bytes = ?2 AND modified_ns = ?3",
                params![path, size_bytes, modified_ns],
                |row| row.get(0),
            )
            .optional()
            .map_err(|error| self.fail(error))
    }

    /// Keeps a computed digest.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn keep_file_digest(
        &self,
        path: &str,
        size_bytes: i64,
        modified_ns: i64,
        digest: &str,
    ) -> Result<(), StoreError> {
        self.connection()
            .execute(
                "INSERT OR REPLACE INTO file_digest (path, size_bytes, modified_ns, digest) VALUES (?1, ?2, ?3, ?4)",
                params![path, size_bytes, modified_ns, digest],
            )
            .map(drop)
            .map_err(|error| self.fail(error))
    }
}
