use std::path::{Path, PathBuf};

use llmdeck_datasets::{Dataset, Governance, Recipe, Suites};

use super::artifact::{Artifact, ArtifactKind};
use super::resolve::{Registry, RegistryError};
use super::upkeep::NewArtifact;
use crate::quality::Suite;

/// A dataset made from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DerivedDataset {
    /// Which.
    pub artifact: Artifact,
    /// What was left out or changed, one line a step.
    pub done: Vec<String>,
}

impl Registry {
    /// Makes a dataset from another by a recipe, and keeps it with its parent and the recipe.
    ///
    /// # Errors
    /// When the dataset cannot be read, lines of it can neither be read nor be left out, or the result cannot be kept.
    pub fn derive(
        &self,
        reference: &str,
        recipe: &Recipe,
        tag: &str,
        added_by: &str,
    ) -> Result<DerivedDataset, RegistryError> {
        let parent = self.dataset(reference)?;
        let path = PathBuf::from(&parent.path);
        let malformed = |reason: String| RegistryError::Malformed { path: path.clone(), reason };
        let dataset = Dataset::read(&path).map_err(|error| malformed(error.to_string()))?;
        let derived = recipe.make(&dataset, &self.suites()?).map_err(malformed)?;
        if derived.examples == 0 {
            return Err(malformed("nothing of it is left by this recipe".into()));
        }
        let governance = self.governance_of(&parent.digest)?;
        // Only what the registry has can be a parent.
        let kept = self.any(&parent.digest).is_ok();
        let written = self.folder().join(format!(".derived-{:016x}.jsonl", rand::random::<u64>()));
        let keep = |source| RegistryError::Read { path: written.clone(), source };
        std::fs::write(&written, &derived.text).map_err(keep)?;
        let recipe = serde_json::to_string(recipe).unwrap_or_default();
        let new = NewArtifact {
            path: written.to_string_lossy().into_owned(),
            kind: Some(ArtifactKind::Dataset),
            tag: tag.to_owned(),
            parents: if kept { vec![parent.digest] } else { Vec::new() },
            added_by: added_by.to_owned(),
            source: Some(format!("{} by {recipe}", parent.reference)),
            governance: None,
        };
        let added = self.add(&new, |_, _| true);
        // What was taken in is there under its own name.
        let _ = std::fs::remove_file(&written);
        let artifact = added?.0;
        // What may not be done with a dataset may not be done with what is made of it.
        if self.governance_of(&artifact.digest)? == Governance::default() {
            self.put_governance(&artifact.digest, &governance)?;
        }
        Ok(DerivedDataset { artifact, done: derived.done })
    }

    /// The prompts of every suite, to be kept out of what is learned.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn suites(&self) -> Result<Suites, RegistryError> {
        let mut known = Suites::default();
        for (name, path, text) in &self.suite_texts()? {
            let suite = Suite::parse(Path::new(path), text)?;
            known.add(name, suite.prompts.iter().map(|golden| golden.prompt.as_str()));
        }
        Ok(known)
    }
}
