use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError};

/// What a deployment promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeploymentRow {
    /// What new requests go to.
    pub stable_revision: u32,
    /// What a rollback goes to, where there is one.
    pub previous_revision: Option<u32>,
    /// An operator took it out of service.
    pub stopped: bool,
}

/// What a revision is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartRow {
    /// As asked for.
    pub reference: String,
    /// sha256, in hex.
    pub digest: String,
    /// Where the bytes are on this node.
    pub path: String,
}

/// What a revision's engine is started with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineRow {
    /// All settings, resolved, as a JSON object.
    pub settings_json: String,
    /// sha256 of that, in hex.
    pub digest: String,
    /// Those of them that were asked for beside the configuration's, as a JSON object; empty where there are none.
    pub changes_json: String,
}

impl EngineRow {
    /// What was asked for: `context_tokens=4096 + speculation=off`.
    pub fn words(&self) -> String {
        let changes: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(&self.changes_json).unwrap_or_default();
        let word = |(name, value): (&String, &serde_json::Value)| match value.as_str() {
            Some(text) => format!("{name}={text}"),
            None => format!("{name}={value}"),
        };
        changes.iter().map(word).collect::<Vec<_>>().join(" + ")
    }
}

/// What the configuration said of a deployment when it was last followed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configured {
    /// As named there.
    pub model: String,
    /// Settings of its engine, as a JSON object; empty where they were not noted.
    pub engine_json: String,
}

/// A revision before it has a number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRevision {
    /// A model, or the description of another server.
    pub model: PartRow,
    /// What the model is changed by.
    pub adapter: Option<PartRow>,
    /// What is said in front of every conversation.
    pub prompt: Option<PartRow>,
    /// What its engine is started with; `None` where another server answers.
    pub engine: Option<EngineRow>,
}

/// An immutable revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionRow {
    /// Its number within the deployment.
    pub number: u32,
    /// As asked for.
    pub model: String,
    /// sha256 of the model.
    pub digest: String,
    /// Where the bytes are on this node.
    pub path: String,
    /// What the model is changed by.
    pub adapter: Option<PartRow>,
    /// What is said in front of every conversation.
    pub prompt: Option<PartRow>,
    /// What its engine is started with; `None` where another server answers, and of a revision from before this was kept.
    pub engine: Option<EngineRow>,
    /// When it was made.
    pub created_unix_ms: i64,
}

impl NewRevision {
    /// With the number that it has got.
    pub fn numbered(self, number: u32, created_unix_ms: i64) -> RevisionRow {
        let Self { model: PartRow { reference, digest, path }, adapter, prompt, engine } = self;
        RevisionRow { number, model: reference, digest, path, adapter, prompt, engine, created_unix_ms }
    }

    /// All that it is made of, as asked for: `assistant + support-tone`.
    pub fn title(&self) -> String {
        title(&self.model.reference, self.adapter.as_ref(), self.prompt.as_ref(), self.engine.as_ref())
    }
}

impl RevisionRow {
    /// Its model, or the description of another server.
    pub fn model_part(&self) -> PartRow {
        PartRow { reference: self.model.clone(), digest: self.digest.clone(), path: self.path.clone() }
    }

    /// The same in other words: what it is made of, without its number.
    pub fn parts(&self) -> NewRevision {
        NewRevision {
            model: self.model_part(),
            adapter: self.adapter.clone(),
            prompt: self.prompt.clone(),
            engine: self.engine.clone(),
        }
    }

    /// Whether the engines of both are started with the same; where one does not say, it is taken to be so.
    pub fn has_engine_of(&self, other: &Self) -> bool {
        match (&self.engine, &other.engine) {
            (Some(ours), Some(theirs)) => ours.digest == theirs.digest,
            _ => true,
        }
    }

    /// Whether both are made of the same bytes.
    pub fn has_parts_of(&self, other: &Self) -> bool {
        let digests = |row: &Self| {
            [&row.adapter, &row.prompt].map(|part| part.as_ref().map(|part| part.digest.clone()))
        };
        self.digest == other.digest && digests(self) == digests(other) && self.has_engine_of(other)
    }

    /// Adapter and prompt, as asked for; empty where there is none.
    pub fn changes(&self) -> (&str, &str) {
        let [adapter, prompt] = [&self.adapter, &self.prompt]
            .map(|part| part.as_ref().map_or("", |part| part.reference.as_str()));
        (adapter, prompt)
    }

    /// All that it is made of, as asked for: `assistant + support-tone`.
    pub fn title(&self) -> String {
        title(&self.model, self.adapter.as_ref(), self.prompt.as_ref(), self.engine.as_ref())
    }
}

fn title(
    model: &str,
    adapter: Option<&PartRow>,
    prompt: Option<&PartRow>,
    engine: Option<&EngineRow>,
) -> String {
    let parts = adapter.into_iter().chain(prompt).map(|part| part.reference.clone());
    let engine = engine.map(EngineRow::words).filter(|words| !words.is_empty());
    std::iter::once(model.to_owned()).chain(parts).chain(engine).collect::<Vec<_>>().join(" + ")
}

impl Store {
    /// What a deployment promised, if it ever did.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn deployment(&self, name: &str) -> Result<Option<DeploymentRow>, StoreError> {
        self.connection()
            .query_row(
                "SELECT stable_revision, previous_revision, stopped FROM deployment WHERE name = ?1",
                [name],
                |row| {
                    Ok(DeploymentRow {
                        stable_revision: row.get(0)?,
                        previous_revision: row.get(1)?,
                        stopped: row.get(2)?,
                    })
                },
            )
            .optional()
            .map_err(|error| self.fail(error))
    }

    /// The promise changes: `number` is stable from now on, and what was is the one to roll back to. What was stopped serves again.
    ///
    /// # Errors
    /// When it could not be made durable; then nothing has changed.
    pub fn promise(&self, name: &str, number: u32) -> Result<(), StoreError> {
        self.connection()
            .execute(
                "INSERT INTO deployment (name, stable_revision) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET
                     previous_revision = iif(stable_revision <> ?2, stable_revision, previous_revision),
                     stable_revision = ?2, stopped = 0",
                params![name, number],
            )
            .map(drop)
            .map_err(|error| self.fail(error))
    }

    /// Nothing serves from now on, whatever was promised.
    ///
    /// # Errors
    /// When it could not be made durable; then nothing has changed.
    pub fn stop(&self, name: &str) -> Result<(), StoreError> {
        self.connection()
            .execute("UPDATE deployment SET stopped = 1 WHERE name = ?1", [name])
            .map(drop)
            .map_err(|error| self.fail(error))
    }

    /// What the configuration said when it was last followed.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn configured(&self, deployment: &str) -> Result<Option<Configured>, StoreError> {
        self.connection()
            .query_row("SELECT model, engine FROM configured WHERE deployment = ?1", [deployment], |row| {
                Ok(Configured { model: row.get(0)?, engine_json: row.get(1)? })
            })
            .optional()
            .map_err(|error| self.fail(error))
    }

    /// Notes that the configuration was followed.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub fn set_configured(&self, deployment: &str, configured: &Configured) -> Result<(), StoreError> {
        self.connection()
            .execute(
                "INSERT OR REPLACE INTO configured (deployment, model, engine) VALUES (?1, ?2, ?3)",
                [deployment, &configured.model, &configured.engine_json],
            )
            .map(drop)
            .map_err(|error| self.fail(error))
    }

    /// Adds the next revision and returns its number.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub fn add_revision(
        &self,
        deployment: &str,
        new: &NewRevision,
        created_unix_ms: i64,
    ) -> Result<u32, StoreError> {
        let (none, model) = (PartRow::default(), &new.model);
        let (adapter, prompt) = (new.adapter.as_ref().unwrap_or(&none), new.prompt.as_ref().unwrap_or(&none));
        let engine = new.engine.clone().unwrap_or_default();
        self.connection()
            .query_row(
                "INSERT INTO revision (deployment, number, model, digest, path, adapter, adapter_digest, adapter_path,
                                       prompt, prompt_digest, prompt_path, engine, engine_digest, engine_changes,
                                       created_unix_ms)
                 SELECT ?1, COALESCE(MAX(number), 0) + 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14
                 FROM revision WHERE deployment = ?1
                 RETURNING number",
                params![
                    deployment,
                    model.reference,
                    model.digest,
                    model.path,
                    adapter.reference,
                    adapter.digest,
                    adapter.path,
                    prompt.reference,
                    prompt.digest,
                    prompt.path,
                    engine.settings_json,
                    engine.digest,
                    engine.changes_json,
                    created_unix_ms
                ],
                |row| row.get(0),
            )
            .map_err(|error| self.fail(error))
    }

    /// The number that the next revision will get.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn next_revision_number(&self, deployment: &str) -> Result<u32, StoreError> {
        self.connection()
            .query_row(
                "SELECT COALESCE(MAX(number), 0) + 1 FROM revision WHERE deployment = ?1",
                [deployment],
                |row| row.get(0),
            )
            .map_err(|error| self.fail(error))
    }

    /// One revision.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn revision(&self, deployment: &str, number: u32) -> Result<Option<RevisionRow>, StoreError> {
        self.connection()
            .query_row(
                "SELECT number, model, digest, path, created_unix_ms, adapter, adapter_digest, adapter_path,
                        prompt, prompt_digest, prompt_path, engine, engine_digest, engine_changes
                 FROM revision WHERE deployment = ?1 AND number = ?2",
                params![deployment, number],
                |row| {
                    let part = |first: usize| -> rusqlite::Result<Option<PartRow>> {
                        let part = PartRow {
                            reference: row.get(first)?,
                            digest: row.get(first + 1)?,
                            path: row.get(first + 2)?,
                        };
                        Ok((!part.digest.is_empty()).then_some(part))
                    };
                    let engine = EngineRow {
                        settings_json: row.get(11)?,
                        digest: row.get(12)?,
                        changes_json: row.get(13)?,
                    };
                    Ok(RevisionRow {
                        engine: (!engine.digest.is_empty()).then_some(engine),
                        number: row.get(0)?,
                        model: row.get(1)?,
                        digest: row.get(2)?,
                        path: row.get(3)?,
                        created_unix_ms: row.get(4)?,
                        adapter: part(5)?,
                        prompt: part(8)?,
                    })
                },
            )
            .optional()
            .map_err(|error| self.fail(error))
    }
}

#[cfg(test)]
mod tests {
    use super::{DeploymentRow, EngineRow, NewRevision, PartRow};

    #[test]
    fn a_promise_remembers_what_to_go_back_to() {
        let (_folder, store) = super::super::temporary();
        let part = |word: &str| PartRow { reference: word.into(), digest: "d".into(), path: "p".into() };
        let engine = EngineRow {
            settings_json: "{}".into(),
            digest: "d".into(),
            changes_json: r#"{"speculation":"off"}"#.into(),
        };
        let new =
            NewRevision { model: part("m"), adapter: Some(part("a")), prompt: None, engine: Some(engine) };
        for expected in 1..=3 {
            assert_eq!(store.add_revision("chat", &new, 0).unwrap(), expected);
        }
        assert_eq!(store.deployment("chat").unwrap(), None);
        store.promise("chat", 1).unwrap();
        store.promise("chat", 2).unwrap();
        store.promise("chat", 2).unwrap();
        let row = store.deployment("chat").unwrap();
        let promised = DeploymentRow { stable_revision: 2, previous_revision: Some(1), stopped: false };
        assert_eq!(row, Some(promised.clone()));
        store.stop("chat").unwrap();
        assert_eq!(
            store.deployment("chat").unwrap(),
            Some(DeploymentRow { stopped: true, ..promised.clone() })
        );
        store.promise("chat", 2).unwrap();
        assert_eq!(store.deployment("chat").unwrap(), Some(promised));
        assert_eq!(store.next_revision_number("chat").unwrap(), 4);
        assert_eq!(store.next_revision_number("other").unwrap(), 1);
        let third = store.revision("chat", 3).unwrap().unwrap();
        assert_eq!(third.title(), "m + a + speculation=off");
        assert_eq!(third, new.numbered(3, 0));
    }
}
