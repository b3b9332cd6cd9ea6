use rusqlite::params;

use super::{Store, StoreError};

/// Those that have ended and are still shown.
const MOST_SHOWN: u32 = 50;

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
    /// Curve and log as a serialized `JobReport`; empty until it has ended, and of those that ended long ago.
    pub history: Vec<u8>,
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
            history: Vec::new(),
            created_unix_ms,
            ended_unix_ms: 0,
        }
    }

    /// The same at its end.
    #[must_use]
    pub fn ended(
        &self,
        state: &str,
        detail: &str,
        report_json: &str,
        history: Vec<u8>,
        ended_unix_ms: i64,
    ) -> Self {
        Self {
            history,
            state: state.to_owned(),
            detail: detail.to_owned(),
            report_json: report_json.to_owned(),
            ended_unix_ms,
            ..self.clone()
        }
    }
}

impl Store {
    /// Keeps a fine-tuning as it is now, and drops the history of those that are not shown any more.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub fn put_finetune(&self, row: &FinetuneRow) -> Result<(), StoreError> {
        let mut connection = self.connection();
        let mut write = || -> rusqlite::Result<()> {
            let transaction = connection.transaction()?;
            transaction.execute(
                "INSERT OR REPLACE INTO finetune
                 (id, subject, spec, state, detail, report, history, created_unix_ms, ended_unix_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    row.id,
                    row.subject,
                    row.spec_json,
                    row.state,
                    row.detail,
                    row.report_json,
                    row.history,
                    row.created_unix_ms,
                    row.ended_unix_ms
                ],
            )?;
            transaction.execute(
                "UPDATE finetune SET history = x'' WHERE history != x''
                 AND id NOT IN (SELECT id FROM finetune ORDER BY created_unix_ms DESC LIMIT ?1)",
                [MOST_SHOWN],
            )?;
            transaction.commit()
        };
        write().map_err(|error| self.fail(error))
    }

    /// The last fine-tunings, oldest first, and every one that has not ended.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn finetunes(&self) -> Result<Vec<FinetuneRow>, StoreError> {
        let connection = self.connection();
        let read = || -> rusqlite::Result<Vec<FinetuneRow>> {
            let mut statement = connection.prepare(
                "SELECT id, subject, spec, state, detail, report, history, created_unix_ms, ended_unix_ms FROM finetune
                 WHERE ended_unix_ms = 0 OR id IN (SELECT id FROM finetune ORDER BY created_unix_ms DESC LIMIT ?1)
                 ORDER BY created_unix_ms, id",
            )?;
            let rows = statement.query_map([MOST_SHOWN], |row| {
                Ok(FinetuneRow {
                    id: row.get(0)?,
                    subject: row.get(1)?,
                    spec_json: row.get(2)?,
                    state: row.get(3)?,
                    detail: row.get(4)?,
                    report_json: row.get(5)?,
                    history: row.get(6)?,
                    created_unix_ms: row.get(7)?,
                    ended_unix_ms: row.get(8)?,
                })
            })?;
            rows.collect()
        };
        read().map_err(|error| self.fail(error))
    }
}

#[cfg(test)]
mod tests {
    use super::super::temporary;
    use super::{FinetuneRow, MOST_SHOWN};

    #[test]
    fn history_is_kept_of_what_is_shown() {
        let (_folder, store) = temporary();
        for number in 0..=i64::from(MOST_SHOWN) {
            let row = FinetuneRow::new(&number.to_string(), "chat@1", "{}".into(), number);
            store.put_finetune(&row.ended("done", "well", "{}", vec![7; 10], number + 1)).unwrap();
        }
        let shown = store.finetunes().unwrap();
        assert_eq!((shown.len(), shown[0].id.as_str(), shown[0].history.len()), (50, "1", 10));
        let first: Vec<u8> = store
            .connection()
            .query_row("SELECT history FROM finetune WHERE id = '0'", [], |row| row.get(0))
            .unwrap();
        assert!(first.is_empty());
    }
}
