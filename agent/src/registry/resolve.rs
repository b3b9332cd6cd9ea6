use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use llmdeck_engine::EngineError;
use sha2::{Digest, Sha256};

use super::artifact::{Artifact, ArtifactKind};
use super::builtin::BuiltinArtifacts;
use super::digest;
use super::inspect::inspect;
use crate::backend::{BackendSpec, SpecError};
use crate::store::{NewRevision, PartRow, Store, StoreError};

/// Why a name does not lead to an artifact.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Neither a tag nor a digest nor a file.
    #[error("{kind} {reference:?} is not a tag ({known}), a digest, or a path on this node")]
    Unknown {
        /// What was looked for.
        kind: &'static str,
        /// As asked for.
        reference: String,
        /// Tags that exist.
        known: String,
    },
    /// A file that cannot be read.
    #[error("{path}: {source}; check that the path exists and that the agent may read it")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A suite that is malformed.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A name that cannot be given or taken.
    #[error("tag {0:?} {1}")]
    Tag(String, &'static str),
    /// A file that describes no server.
    #[error(transparent)]
    Backend(#[from] SpecError),
    /// A model or an adapter that cannot be read or written.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// It does not fit beside what runs.
    #[error("merging needs about {} MiB and {} MiB are free; free memory, or merge on another node", .needed_bytes >> 20, .free_bytes >> 20)]
    Memory {
        /// What it needs.
        needed_bytes: u64,
        /// What the node has.
        free_bytes: u64,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Finds artifacts by tag, digest or path.
pub struct Registry {
    builtin: Vec<Artifact>,
    store: Arc<Store>,
    folder: PathBuf,
}

impl Registry {
    /// Over what is built in; what has to be kept goes into the folder.
    pub fn new(builtin: BuiltinArtifacts, store: Arc<Store>, folder: PathBuf) -> Self {
        Self { builtin: builtin.all, store, folder }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Everything that it keeps: what came with the agent, then what was added, oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn artifacts(&self) -> Result<Vec<Artifact>, RegistryError> {
        let added = self.store.artifacts()?.into_iter().filter_map(|row| {
            Some(Artifact {
                kind: ArtifactKind::parse(&row.kind)?,
                path: self.folder.join(&row.file),
                tags: row.tags,
                digest: row.digest,
                size_bytes: row.size_bytes,
                parents: row.parents,
                source: row.source,
                added_by: row.added_by,
                added_unix_ms: row.added_unix_ms,
            })
        });
        Ok(self.builtin.iter().cloned().chain(added).collect())
    }

    /// An artifact of any kind by tag or digest (at least 12 letters of it).
    ///
    /// # Errors
    /// When there is none.
    pub fn any(&self, reference: &str) -> Result<Artifact, RegistryError> {
        let artifacts = self.artifacts()?;
        if let Some(found) = artifacts.iter().find(|artifact| artifact.is_called(reference)) {
            return Ok(found.clone());
        }
        let known =
            artifacts.iter().flat_map(|artifact| artifact.tags.clone()).collect::<Vec<_>>().join(", ");
        Err(RegistryError::Unknown { kind: "artifact", reference: reference.to_owned(), known })
    }

    /// Finds all that a revision is made of, each by a tag, a digest (at least 12 letters of it), or a path. An adapter or a
    /// prompt that is empty is none.
    ///
    /// # Errors
    /// When something is not there, cannot be read, or is of another kind.
    pub fn revision(&self, model: &str, adapter: &str, prompt: &str) -> Result<NewRevision, RegistryError> {
        let model = self.model(model)?;
        let adapter = if adapter.is_empty() { None } else { Some(self.adapter(adapter)?) };
        let prompt = if prompt.is_empty() { None } else { Some(self.prompt(prompt)?) };
        if adapter.is_some() && BackendSpec::is_one(Path::new(&model.path)) {
            return Err(RegistryError::Malformed {
                path: PathBuf::from(&model.path),
                reason: "describes another server, which has its own adapters; name the adapter in that server's command"
                    .into(),
            });
        }
        Ok(NewRevision { model, adapter, prompt, engine: None })
    }

    fn model(&self, reference: &str) -> Result<PartRow, RegistryError> {
        let of_kind = |kind| self.find(kind, reference);
        if let Some(artifact) = of_kind(ArtifactKind::Model)?.or(of_kind(ArtifactKind::Backend)?) {
            return Ok(part(reference, artifact.digest, &artifact.path));
        }
        let path = self.existing(ArtifactKind::Model, reference)?;
        if BackendSpec::is_one(&path) {
            // A file that describes a server is small and likely to be edited.
            BackendSpec::read(&path)?;
            return self.copied(reference, &path, "toml");
        }
        Ok(part(reference, self.digest_of(&path)?, &path))
    }

    /// Finds an adapter.
    ///
    /// # Errors
    /// When there is none of that name, or its files cannot be read.
    pub fn adapter(&self, reference: &str) -> Result<PartRow, RegistryError> {
        if let Some(artifact) = self.find(ArtifactKind::Adapter, reference)? {
            return Ok(part(reference, artifact.digest, &artifact.path));
        }
        let path = self.existing(ArtifactKind::Adapter, reference)?;
        inspect(&path, Some(ArtifactKind::Adapter))?;
        Ok(part(reference, self.digest_of(&path)?, &path))
    }

    fn prompt(&self, reference: &str) -> Result<PartRow, RegistryError> {
        if let Some(artifact) = self.find(ArtifactKind::Prompt, reference)? {
            return Ok(part(reference, artifact.digest, &artifact.path));
        }
        let path = self.existing(ArtifactKind::Prompt, reference)?;
        inspect(&path, Some(ArtifactKind::Prompt))?;
        self.copied(reference, &path, "txt")
    }

    /// A revision keeps a copy of its own of what people edit.
    fn copied(&self, reference: &str, path: &Path, extension: &str) -> Result<PartRow, RegistryError> {
        let read = |source| RegistryError::Read { path: path.to_owned(), source };
        let bytes = std::fs::read(path).map_err(read)?;
        let digest = digest::hex(&Sha256::digest(&bytes));
        let copy = self.folder.join(format!("{digest}.{extension}"));
        if !copy.exists() {
            let written = self.folder.join(format!("{digest}.{extension}.part"));
            let keep = |source| RegistryError::Read { path: copy.clone(), source };
            std::fs::write(&written, &bytes).and_then(|()| std::fs::rename(&written, &copy)).map_err(keep)?;
        }
        Ok(part(reference, digest, &copy))
    }

    /// Finds a dataset.
    ///
    /// # Errors
    /// When there is none of that name, or its file cannot be read.
    pub fn dataset(&self, reference: &str) -> Result<PartRow, RegistryError> {
        self.of_kind(ArtifactKind::Dataset, reference)
    }

    /// Finds a suite.
    ///
    /// # Errors
    /// When there is none of that name, or its file cannot be read.
    pub fn suite_part(&self, reference: &str) -> Result<PartRow, RegistryError> {
        self.of_kind(ArtifactKind::Suite, reference)
    }

    fn of_kind(&self, kind: ArtifactKind, reference: &str) -> Result<PartRow, RegistryError> {
        if let Some(artifact) = self.find(kind, reference)? {
            return Ok(part(reference, artifact.digest, &artifact.path));
        }
        let path = self.existing(kind, reference)?;
        Ok(part(reference, self.digest_of(&path)?, &path))
    }

    /// The datasets that an artifact was made from.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn datasets_of(&self, digest: &str) -> Result<Vec<PartRow>, RegistryError> {
        let artifacts = self.artifacts()?;
        let parents = artifacts.iter().find(|artifact| artifact.digest == digest).map(|found| &found.parents);
        let datasets = parents.into_iter().flatten().filter_map(|parent| {
            let is_one = |known: &&Artifact| known.digest == *parent && known.kind == ArtifactKind::Dataset;
            let found = artifacts.iter().find(is_one)?;
            let name = found.tags.first().unwrap_or(&found.digest);
            Some(part(name, found.digest.clone(), &found.path))
        });
        Ok(datasets.collect())
    }

    /// Every suite: its name, its file and its text.
    ///
    /// # Errors
    /// When one cannot be read.
    pub(super) fn suite_texts(&self) -> Result<Vec<(String, PathBuf, String)>, RegistryError> {
        let suites = self.artifacts()?.into_iter().filter(|artifact| artifact.kind == ArtifactKind::Suite);
        suites
            .map(|artifact| {
                let name = artifact.tags.first().unwrap_or(&artifact.digest).clone();
                let text = std::fs::read_to_string(&artifact.path)
                    .map_err(|source| RegistryError::Read { path: artifact.path.clone(), source })?;
                Ok((name, artifact.path, text))
            })
            .collect()
    }

    /// Finds a suite and reads its text.
    ///
    /// # Errors
    /// When there is none of that name, or its file cannot be read.
    pub fn suite(&self, reference: &str) -> Result<(PathBuf, String), RegistryError> {
        let path = match self.find(ArtifactKind::Suite, reference)? {
            Some(artifact) => artifact.path,
            None => self.existing(ArtifactKind::Suite, reference)?,
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|source| RegistryError::Read { path: path.clone(), source })?;
        Ok((path, text))
    }

    fn find(&self, kind: ArtifactKind, reference: &str) -> Result<Option<Artifact>, RegistryError> {
        let called = |artifact: &Artifact| artifact.kind == kind && artifact.is_called(reference);
        Ok(self.artifacts()?.into_iter().find(called))
    }

    fn existing(&self, kind: ArtifactKind, reference: &str) -> Result<PathBuf, RegistryError> {
        match std::fs::canonicalize(reference) {
            Ok(path) => Ok(path),
            Err(_) if !reference.contains('/') && !reference.contains('.') => {
                let artifacts = self.artifacts()?;
                let of_kind = artifacts.iter().filter(|artifact| artifact.kind == kind);
                let known: Vec<&str> =
                    of_kind.flat_map(|artifact| &artifact.tags).map(String::as_str).collect();
                Err(RegistryError::Unknown {
                    kind: kind.as_str(),
                    reference: reference.to_owned(),
                    known: known.join(", "),
                })
            }
            Err(source) => Err(RegistryError::Read { path: PathBuf::from(reference), source }),
        }
    }

    /// sha256 of a model's bytes, in hex; computed once for each state of a file, anew each time for a folder.
    ///
    /// # Errors
    /// When something cannot be read, or the store refuses.
    pub fn digest_of(&self, path: &Path) -> Result<String, RegistryError> {
        let read = |source| RegistryError::Read { path: path.to_owned(), source };
        let metadata = std::fs::metadata(path).map_err(read)?;
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified_ns = modified.and_then(|time| i64::try_from(time.as_nanos()).ok()).unwrap_or(0);
        let size_bytes = i64::try_from(metadata.len()).unwrap_or(i64::MAX);
        let name = path.to_string_lossy();
        if metadata.is_file()
            && let Some(known) = self.store.file_digest(&name, size_bytes, modified_ns)?
        {
            return Ok(known);
        }
        let digest = digest::of_path(path).map_err(read)?;
        if metadata.is_file() {
            self.store.keep_file_digest(&name, size_bytes, modified_ns, &digest)?;
        }
        Ok(digest)
    }
}

fn part(reference: &str, digest: String, path: &Path) -> PartRow {
    PartRow { reference: reference.to_owned(), digest, path: path.to_string_lossy().into_owned() }
}
