use rusqlite::params;

use super::{Store, StoreError};

/// A fine-tuning as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinetuneRow {
    /// The job's name.
    pub id: String,
    /// What it is about.
    pub subject: String,
    /// Everything that it follows from.
    pub spec_json: String,
    /// `unended`, or how it ended.
    pub state: String,
    /// In words.
    pub detail: String,
    /// Empty where there is none.
    pub report_json: String,
    /// Unix time in milliseconds.
    pub created_unix_ms: i64,
    /// Unix time in milliseconds; 0 while it has not ended.
    pub ended_unix_ms: i64,
}

impl FinetuneRow {
    /// One that begins.
    pub fn new(id: &str, subject: &str, spec_json: String, created_unix_ms: i64) -> Self {
        Self {
            id: id.to_owned(),
            subject: subject.to_owned(),
            spec_json,
            state: "unended".into(),
            detail: String::new(),
            report_json: String::new(),
            created_unix_ms,
            ended_unix_ms: 0,
        }
    }

    /// The same at its end.
    #[must_use]
    pub fn ended(&self, state: &str, detail: &str, report_json: &str, ended_unix_ms: i64) -> Self {
        Self {
            state: state.to_owned(),
            detail: detail.to_owned(),
            report_json: report_json.to_owned(),
            ended_unix_ms,
            ..self.clone()
        }
    }
}

impl Store {
    /// Keeps a fine-tuning as it is now.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub fn put_finetune(&self, row: &FinetuneRow) -> Result<(), StoreError> {
        self.connection()
            .execute(
                "INSERT OR REPLACE INTO finetune
                 (id, subject, spec, state, detail, report, created_unix_ms, ended_unix_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    row.id,
                    row.subject,
                    row.spec_json,
                    row.state,
                    row.detail,
                    row.report_json,
                    row.created_unix_ms,
                    row.ended_unix_ms
                ],
            )
            .map(drop)
            .map_err(|error| self.fail(error))
    }

    /// The last fine-tunings, oldest first, and every one that has not ended.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn finetunes(&self) -> Result<Vec<FinetuneRow>, StoreError> {
        const MOST: u32 = 50;
        let connection = self.connection();
        let read = || -> rusqlite::Result<Vec<FinetuneRow>> {
            let mut statement = connection.prepare(
                "SELECT id, subject, spec, state, detail, report, created_unix_ms, ended_unix_ms FROM finetune
                 WHERE ended_unix_ms = 0 OR id IN (SELECT id FROM finetune ORDER BY created_unix_ms DESC LIMIT ?1)
                 ORDER BY created_unix_ms, id",
            )?;
            let rows = statement.query_map([MOST], |row| {
                Ok(FinetuneRow {
                    id: row.get(0)?,
                    subject: row.get(1)?,
                    spec_json: row.get(2)?,
                    state: row.get(3)?,
                    detail: row.get(4)?,
                    report_json: row.get(5)?,
                    created_unix_ms: row.get(6)?,
                    ended_unix_ms: row.get(7)?,
                })
            })?;
            rows.collect()
        };
        read().map_err(|error| self.fail(error))
    }
}
