use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError};

/// What is recorded of a dataset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatasetRow {
    /// JSON; empty where nothing is recorded.
    pub governance_json: String,
    /// What its checks found last, as JSON; empty where it was never checked.
    pub report_json: String,
}

impl Store {
    /// What is recorded of a dataset; nothing of one that is not known.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn dataset(&self, digest: &str) -> Result<DatasetRow, StoreError> {
        let read = |row: &rusqlite::Row<'_>| {
            Ok(DatasetRow { governance_json: row.get(0)?, report_json: row.get(1)? })
        };
        let statement = "SELECT governance, report FROM dataset WHERE digest = ?1";
        let found = self.connection().query_row(statement, [digest], read).optional();
        Ok(found.map_err(|error| self.fail(error))?.unwrap_or_default())
    }

    /// Records where a dataset comes from and what it may be used for.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub fn put_governance(&self, digest: &str, governance_json: &str) -> Result<(), StoreError> {
        self.put_of_dataset(
            "INSERT INTO dataset (digest, governance, report) VALUES (?1, ?2, '') \
             ON CONFLICT (digest) DO UPDATE SET governance = excluded.governance",
            digest,
            governance_json,
        )
    }

    /// Records what the checks of a dataset found.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub fn put_dataset_report(&self, digest: &str, report_json: &str) -> Result<(), StoreError> {
        self.put_of_dataset(
            "INSERT INTO dataset (digest, governance, report) VALUES (?1, '', ?2) \
             ON CONFLICT (digest) DO UPDATE SET report = excluded.report",
            digest,
            report_json,
        )
    }

    fn put_of_dataset(&self, statement: &str, digest: &str, json: &str) -> Result<(), StoreError> {
        let written = self.connection().execute(statement, params![digest, json]);
        written.map(drop).map_err(|error| self.fail(error))
    }
}
