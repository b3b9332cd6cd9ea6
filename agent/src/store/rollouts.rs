use llmdeck_proto::v1;
use prost::Message;
use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError};

/// Answers to actions are kept this long for callers that ask again.
const IDEMPOTENCY_KEPT_MS: i64 = 24 * 3_600_000;

impl Store {
    /// Writes the state of a rollout.
    ///
    /// # Errors
    /// When it could not be made durable; then its effects must not run.
    pub fn put_rollout(&self, rollout: &v1::Rollout) -> Result<(), StoreError> {
        self.connection()
            .execute(
                "INSERT INTO rollout (id, deployment, started_unix_ms, active, message) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (id) DO UPDATE SET active = ?4, message = ?5",
                params![
                    rollout.id,
                    rollout.deployment,
                    rollout.started_unix_ms,
                    rollout.ended_unix_ms.is_none(),
                    rollout.encode_to_vec()
                ],
            )
            .map(drop)
            .map_err(|error| self.fail(error))
    }

    /// Rollouts that had not ended when the agent did.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn active_rollouts(&self) -> Result<Vec<v1::Rollout>, StoreError> {
        let connection = self.connection();
        let read = || -> rusqlite::Result<Vec<v1::Rollout>> {
            connection
                .prepare("SELECT message FROM rollout WHERE active ORDER BY started_unix_ms")?
                .query_map([], decoded)?
                .collect()
        };
        read().map_err(|error| self.fail(error))
    }

    /// A rollout by its id, or the latest of a deployment where the id is empty.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn rollout(&self, deployment: &str, id: &str) -> Result<Option<v1::Rollout>, StoreError> {
        self.connection()
            .query_row(
                "SELECT message FROM rollout WHERE deployment = ?1 AND (?2 = '' OR id = ?2)
                 ORDER BY started_unix_ms DESC, rowid DESC LIMIT 1",
                [deployment, id],
                decoded,
            )
            .optional()
            .map_err(|error| self.fail(error))
    }

    /// Rollouts of a deployment, newest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn rollouts(&self, deployment: &str, limit: u32) -> Result<Vec<v1::Rollout>, StoreError> {
        let connection = self.connection();
        let read = || -> rusqlite::Result<Vec<v1::Rollout>> {
            connection
                .prepare(
                    "SELECT message FROM rollout WHERE deployment = ?1
                     ORDER BY started_unix_ms DESC, rowid DESC LIMIT ?2",
                )?
                .query_map(params![deployment, limit], decoded)?
                .collect()
        };
        read().map_err(|error| self.fail(error))
    }

    /// The answer that an idempotency key was given.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn answer_for(&self, key: &str) -> Result<Option<v1::ChangeResponse>, StoreError> {
        self.connection()
            .query_row("SELECT response FROM idempotency WHERE key = ?1", [key], |row| {
                let bytes: Vec<u8> = row.get(0)?;
                Ok(v1::ChangeResponse::decode(&bytes[..]).unwrap_or_default())
            })
            .optional()
            .map_err(|error| self.fail(error))
    }

    /// Keeps an answer for callers that ask again with the same key.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub fn keep_answer(
        &self,
        key: &str,
        response: &v1::ChangeResponse,
        now_unix_ms: i64,
    ) -> Result<(), StoreError> {
        let connection = self.connection();
        let write = || -> rusqlite::Result<()> {
            connection.execute(
                "DELETE FROM idempotency WHERE created_unix_ms < ?1",
                [now_unix_ms - IDEMPOTENCY_KEPT_MS],
            )?;
            connection.execute(
                "INSERT OR REPLACE INTO idempotency (key, response, created_unix_ms) VALUES (?1, ?2, ?3)",
                params![key, response.encode_to_vec(), now_unix_ms],
            )?;
            Ok(())
        };
        write().map_err(|error| self.fail(error))
    }
}

fn decoded(row: &rusqlite::Row<'_>) -> rusqlite::Result<v1::Rollout> {
    let bytes: Vec<u8> = row.get(0)?;
    v1::Rollout::decode(&bytes[..]).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, error.into())
    })
}
