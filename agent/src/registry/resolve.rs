use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use super::artifact::{Artifact, ArtifactKind};
use super::builtin::BuiltinArtifacts;
use super::digest;
use crate::backend::{BackendSpec, SpecError};
use crate::store::{Store, StoreError};

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
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A model found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedModel {
    /// As asked for.
    pub reference: String,
    /// sha256, in hex.
    pub digest: String,
    /// Where its bytes are.
    pub path: PathBuf,
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

    /// Finds a model: a tag, a digest (at least 12 letters of it), or a path.
    ///
    /// # Errors
    /// When there is none of that name, or its file cannot be read.
    pub fn model(&self, reference: &str) -> Result<ResolvedModel, RegistryError> {
        let of_kind = |kind| self.find(kind, reference);
        if let Some(artifact) = of_kind(ArtifactKind::Model)?.or(of_kind(ArtifactKind::Backend)?) {
            let Artifact { digest, path, .. } = artifact;
            return Ok(ResolvedModel { reference: reference.to_owned(), digest, path });
        }
        let path = self.existing(ArtifactKind::Model, reference)?;
        if BackendSpec::is_one(&path) {
            return self.backend(reference, &path);
        }
        let digest = self.digest_of(&path)?;
        Ok(ResolvedModel { reference: reference.to_owned(), digest, path })
    }

    /// A file that describes a server is small and likely to be edited: a revision keeps a copy of its own.
    fn backend(&self, reference: &str, path: &Path) -> Result<ResolvedModel, RegistryError> {
        BackendSpec::read(path)?;
        let read = |source| RegistryError::Read { path: path.to_owned(), source };
        let bytes = std::fs::read(path).map_err(read)?;
        let digest = digest::hex(&Sha256::digest(&bytes));
        let copy = self.folder.join(format!("{digest}.toml"));
        if !copy.exists() {
            let written = self.folder.join(format!("{digest}.toml.part"));
            let keep = |source| RegistryError::Read { path: copy.clone(), source };
            std::fs::write(&written, &bytes).and_then(|()| std::fs::rename(&written, &copy)).map_err(keep)?;
        }
        Ok(ResolvedModel { reference: reference.to_owned(), digest, path: copy })
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
