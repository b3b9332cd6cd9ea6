use std::path::Path;
use std::sync::Arc;

use llmdeck_engine::Pool;
use llmdeck_engine::adapter::{AdapterWeights, MergedFormat};
use llmdeck_engine::model::Model;

use super::artifact::{Artifact, ArtifactKind};
use super::resolve::{Registry, RegistryError};
use super::upkeep::NewArtifact;
use crate::placement::free_bytes;

/// Memory that merging takes, by the size of the model's files: they are loaded, and written again in at most 32 bits of 4 to 16.
const MEMORY_BY_SIZE: u64 = 9;

impl Registry {
    /// Makes full weights of a model and an adapter, and keeps them with both as their parents.
    ///
    /// # Errors
    /// When one of them is not there or not the other's, it does not fit into memory, or the result cannot be kept.
    pub fn merge(
        &self,
        model: &str,
        adapter: &str,
        format: MergedFormat,
        tag: &str,
        added_by: &str,
        pool: &Arc<Pool>,
    ) -> Result<Artifact, RegistryError> {
        let parts = self.revision(model, adapter, "")?;
        let Some(adapter) = parts.adapter else {
            let known = String::new();
            return Err(RegistryError::Unknown { kind: "adapter", reference: adapter.to_owned(), known });
        };
        let base = Path::new(&parts.model.path);
        let (needed_bytes, free_bytes) = (MEMORY_BY_SIZE * size_bytes(base), free_bytes());
        if needed_bytes > free_bytes {
            return Err(RegistryError::Memory { needed_bytes, free_bytes });
        }
        let loaded = Model::load(base, pool)?;
        let weights = AdapterWeights::read(Path::new(&adapter.path), loaded.decoder.description())?;
        let extension = if base.is_dir() { "" } else { ".gguf" };
        let written = self.folder().join(format!(".merged-{:016x}{extension}", rand::random::<u64>()));
        let merged = loaded.merge_into(base, &weights, format, &written).map_err(RegistryError::from);
        let parents = [&parts.model.digest, &adapter.digest].map(Clone::clone).to_vec();
        let new = NewArtifact {
            path: written.to_string_lossy().into_owned(),
            kind: Some(ArtifactKind::Model),
            tag: tag.to_owned(),
            // Only what the registry has can be a parent.
            parents: parents.into_iter().filter(|digest| self.any(digest).is_ok()).collect(),
            added_by: added_by.to_owned(),
            source: Some(format!("{} merged with {}", parts.model.reference, adapter.reference)),
            governance: None,
        };
        let added = merged.and_then(|()| self.add(&new, |_, _| true));
        // What was taken in is there under its own name.
        let _ =
            if base.is_dir() { std::fs::remove_dir_all(&written) } else { std::fs::remove_file(&written) };
        Ok(added?.0)
    }
}

fn size_bytes(path: &Path) -> u64 {
    let Ok(metadata) = std::fs::metadata(path) else { return 0 };
    if !metadata.is_dir() {
        return metadata.len();
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}
