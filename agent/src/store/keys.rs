use rusqlite::params;

use super::{Store, StoreError};

/// A key as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// Whose it is.
    pub name: String,
    /// What it may be used for.
    pub scopes: Vec<String>,
    /// For which deployments; empty for all.
    pub deployments: Vec<String>,
    /// 0 for no limit.
    pub requests_per_minute: u32,
    /// 0 for no limit.
    pub tokens_per_minute: u64,
    /// 0 for no limit.
    pub tokens_per_day: u64,
    /// Unix time in milliseconds.
    pub created_unix_ms: i64,
    /// Unix time in milliseconds; 0 for never.
    pub expires_unix_ms: i64,
}

/// One secret of a key. During a rotation a key has two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRow {
    /// The public part.
    pub id: String,
    /// Of which key.
    pub name: String,
    /// Of the secret part.
    pub sha256: [u8; 32],
    /// Unix time in milliseconds.
    pub created_unix_ms: i64,
    /// Unix time in milliseconds; 0 for as long as the key.
    pub expires_unix_ms: i64,
}

/// Every key with what belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRows {
    /// In order of name.
    pub keys: Vec<KeyRow>,
    /// Of all of them.
    pub secrets: Vec<SecretRow>,
    /// Of one day.
    pub usage: Vec<UsageRow>,
}

/// What a key used on one day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRow {
    /// Of which key.
    pub name: String,
    /// UTC days since 1970-01-01.
    pub day: i64,
    /// Requests that were let in.
    pub requests: u64,
    /// Tokens in and out.
    pub tokens: u64,
}

impl Store {
    /// Every key, its secrets, and what was used on a day.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn keys(&self, day: i64) -> Result<KeyRows, StoreError> {
        let connection = self.connection();
        let read = || -> rusqlite::Result<_> {
            let mut keys = connection.prepare(
                "SELECT name, scopes, deployments, requests_per_minute, tokens_per_minute, tokens_per_day, \
                 created_unix_ms, expires_unix_ms FROM api_key ORDER BY name",
            )?;
            let keys = keys.query_map([], |row| {
                Ok(KeyRow {
                    name: row.get(0)?,
                    scopes: words(&row.get::<_, String>(1)?),
                    deployments: words(&row.get::<_, String>(2)?),
                    requests_per_minute: row.get(3)?,
                    tokens_per_minute: row.get::<_, i64>(4)?.unsigned_abs(),
                    tokens_per_day: row.get::<_, i64>(5)?.unsigned_abs(),
                    created_unix_ms: row.get(6)?,
                    expires_unix_ms: row.get(7)?,
                })
            })?;
            let keys = keys.collect::<rusqlite::Result<Vec<_>>>()?;
            let mut secrets = connection
                .prepare("SELECT id, name, sha256, created_unix_ms, expires_unix_ms FROM api_key_secret")?;
            let secrets = secrets.query_map([], |row| {
                Ok(SecretRow {
                    id: row.get(0)?,
                    name: row.get(1)?,
                    sha256: row.get(2)?,
                    created_unix_ms: row.get(3)?,
                    expires_unix_ms: row.get(4)?,
                })
            })?;
            let secrets = secrets.collect::<rusqlite::Result<Vec<_>>>()?;
            let mut usage =
                connection.prepare("SELECT name, day, requests, tokens FROM api_key_usage WHERE day = ?1")?;
            let usage = usage.query_map([day], |row| {
                Ok(UsageRow {
                    name: row.get(0)?,
                    day: row.get(1)?,
                    requests: row.get::<_, i64>(2)?.unsigned_abs(),
                    tokens: row.get::<_, i64>(3)?.unsigned_abs(),
                })
            })?;
            Ok(KeyRows { keys, secrets, usage: usage.collect::<rusqlite::Result<Vec<_>>>()? })
        };
        read().map_err(|error| self.fail(error))
    }

    /// Keeps a new key with its first secret.
    ///
    /// # Errors
    /// When the store cannot be written; also when the name is taken.
    pub fn add_key(&self, key: &KeyRow, secret: &SecretRow) -> Result<(), StoreError> {
        let mut connection = self.connection();
        let mut write = || {
            let transaction = connection.transaction()?;
            transaction.execute(
                "INSERT INTO api_key (name, scopes, deployments, requests_per_minute, tokens_per_minute, \
                 tokens_per_day, created_unix_ms, expires_unix_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    key.name,
                    list(&key.scopes),
                    list(&key.deployments),
                    key.requests_per_minute,
                    whole(key.tokens_per_minute),
                    whole(key.tokens_per_day),
                    key.created_unix_ms,
                    key.expires_unix_ms
                ],
            )?;
            insert_secret(&transaction, secret)?;
            transaction.commit()
        };
        write().map_err(|error| self.fail(error))
    }

    /// Keeps another secret of a key, and ends the others at a time.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn rotate_key(&self, secret: &SecretRow, others_expire_unix_ms: i64) -> Result<(), StoreError> {
        let mut connection = self.connection();
        let mut write = || {
            let transaction = connection.transaction()?;
            transaction.execute(
                "UPDATE api_key_secret SET expires_unix_ms = ?2 \
                 WHERE name = ?1 AND (expires_unix_ms = 0 OR expires_unix_ms > ?2)",
                params![secret.name, others_expire_unix_ms],
            )?;
            insert_secret(&transaction, secret)?;
            transaction.commit()
        };
        write().map_err(|error| self.fail(error))
    }

    /// Forgets a key, its secrets and its usage.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn remove_key(&self, name: &str) -> Result<(), StoreError> {
        let removed = self.connection().execute("DELETE FROM api_key WHERE name = ?1", [name]);
        removed.map(drop).map_err(|error| self.fail(error))
    }

    /// Keeps what keys have used; days before are forgotten.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn keep_key_usage(&self, usage: &[UsageRow]) -> Result<(), StoreError> {
        let mut connection = self.connection();
        let mut write = || {
            let transaction = connection.transaction()?;
            for row in usage {
                transaction.execute("DELETE FROM api_key_usage WHERE name = ?1", [&row.name])?;
                // The key may have been removed meanwhile.
                transaction.execute(
                    "INSERT INTO api_key_usage (name, day, requests, tokens) \
                     SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM api_key WHERE name = ?1)",
                    params![row.name, row.day, whole(row.requests), whole(row.tokens)],
                )?;
            }
            transaction.commit()
        };
        write().map_err(|error| self.fail(error))
    }
}

fn insert_secret(connection: &rusqlite::Connection, secret: &SecretRow) -> rusqlite::Result<()> {
    let statement = "INSERT INTO api_key_secret (id, name, sha256, created_unix_ms, expires_unix_ms) \
                     VALUES (?1, ?2, ?3, ?4, ?5)";
    let SecretRow { id, name, sha256, created_unix_ms, expires_unix_ms } = secret;
    connection.execute(statement, params![id, name, sha256, created_unix_ms, expires_unix_ms]).map(drop)
}

fn list(words: &[String]) -> String {
    serde_json::json!(words).to_string()
}

fn words(list: &str) -> Vec<String> {
    serde_json::from_str(list).unwrap_or_default()
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
