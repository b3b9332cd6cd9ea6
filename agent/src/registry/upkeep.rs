//! Adding, naming, removing and verifying what the registry keeps.

use std::collections::BTreeSet;
use std::path::Path;

use llmdeck_datasets::{Governance, GovernanceChange};

use super::artifact::{Artifact, ArtifactKind};
use super::inspect::inspect;
use super::resolve::{Registry, RegistryError};
use super::take_in::{Means, digest, take_in};
use crate::store::ArtifactRow;
use crate::time::unix_ms;

const LONGEST_TAG: usize = 64;
const MOST_PARENTS: usize = 64;

/// What is to be added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewArtifact {
    /// A file or a folder on this node.
    pub path: String,
    /// What it is, where its name does not say.
    pub kind: Option<ArtifactKind>,
    /// Its name for people.
    pub tag: String,
    /// What it was made from: tags or digests.
    pub parents: Vec<String>,
    /// By whom.
    pub added_by: String,
    /// Where it is from, where that is not its path.
    pub source: Option<String>,
    /// Of a dataset: what is recorded of it.
    pub governance: Option<GovernanceChange>,
}

/// What became of something that was to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// What it was.
    pub artifact: Artifact,
    /// Who still needs its bytes; they are kept then.
    pub needed_by: Vec<String>,
}

/// One artifact, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Which.
    pub artifact: Artifact,
    /// What is wrong with its bytes; `None` when they are what they were.
    pub flaw: Option<String>,
}

impl Registry {
    /// Takes a file or a folder in. `progress` hears how many bytes of how many are read, and stops it by saying false.
    ///
    /// # Errors
    /// What is wrong with it; nothing has changed then.
    pub fn add(
        &self,
        new: &NewArtifact,
        mut progress: impl FnMut(u64, u64) -> bool,
    ) -> Result<(Artifact, Means), RegistryError> {
        check_tag(&new.tag)?;
        let parents = new.parents.iter().take(MOST_PARENTS).map(|parent| Ok(self.any(parent)?.digest));
        let parents = parents.collect::<Result<Vec<String>, RegistryError>>()?;
        let path = Path::new(&new.path);
        let path = std::fs::canonicalize(path)
            .map_err(|source| RegistryError::Read { path: path.to_owned(), source })?;
        // Nothing else has it.
        let governed = new.governance.is_some().then_some(ArtifactKind::Dataset);
        let inspected = inspect(&path, new.kind.or(governed))?;
        if let Some(change) = &new.governance {
            let wrong = |reason: String| RegistryError::Malformed { path: path.clone(), reason };
            if inspected.kind != ArtifactKind::Dataset {
                return Err(wrong(format!("is a {}; governance is of datasets", inspected.kind.as_str())));
            }
            Governance::default().changed(change).map_err(wrong)?;
        }
        let total = inspected.size_bytes;
        let taken = take_in(&path, &inspected, self.folder(), |done| progress(done, total))?;
        let row = ArtifactRow {
            digest: taken.digest.clone(),
            kind: inspected.kind.as_str().to_owned(),
            file: taken.file,
            size_bytes: total,
            source: new.source.clone().unwrap_or_else(|| path.to_string_lossy().into_owned()),
            added_by: new.added_by.clone(),
            added_unix_ms: unix_ms(),
            tags: if new.tag.is_empty() { Vec::new() } else { vec![new.tag.clone()] },
            parents,
        };
        self.store().add_artifact(&row)?;
        if let Some(change) = &new.governance {
            self.govern(&taken.digest, change)?;
        }
        Ok((self.any(&taken.digest)?, taken.means))
    }

    /// Gives an artifact a name, which moves from whatever had it.
    ///
    /// # Errors
    /// When there is no such artifact, or the name cannot be one.
    pub fn tag(&self, reference: &str, tag: &str) -> Result<Artifact, RegistryError> {
        check_tag(tag)?;
        if tag.is_empty() || self.artifacts()?.iter().any(|known| known.is_builtin() && known.has_tag(tag)) {
            return Err(RegistryError::Tag(tag.to_owned(), "belongs to what comes with the agent"));
        }
        let artifact = self.any(reference)?;
        if artifact.is_builtin() {
            return Err(RegistryError::Tag(
                reference.to_owned(),
                "comes with the agent and has its own name",
            ));
        }
        self.store().tag_artifact(tag, &artifact.digest)?;
        self.any(&artifact.digest)
    }

    /// What removing would do.
    ///
    /// # Errors
    /// When there is no such artifact, or it came with the agent.
    pub fn would_remove(&self, reference: &str) -> Result<Removed, RegistryError> {
        let artifact = self.any(reference)?;
        if artifact.is_builtin() {
            return Err(RegistryError::Tag(reference.to_owned(), "comes with the agent"));
        }
        let needed_by = self.needed_by(&artifact.digest)?;
        Ok(Removed { artifact, needed_by })
    }

    /// Takes an artifact's names away, and its bytes too unless someone needs them.
    ///
    /// # Errors
    /// When there is no such artifact, it came with the agent, or its files cannot be removed.
    pub fn remove(&self, reference: &str) -> Result<Removed, RegistryError> {
        let Removed { artifact, needed_by } = self.would_remove(reference)?;
        for tag in &artifact.tags {
            self.store().untag_artifact(tag)?;
        }
        if needed_by.is_empty() {
            self.delete(&artifact)?;
        }
        Ok(Removed { artifact, needed_by })
    }

    /// Removes what has no name and is needed by nothing; with `dry_run` only says what that is.
    ///
    /// # Errors
    /// When files cannot be removed.
    pub fn collect_garbage(&self, dry_run: bool) -> Result<Vec<Artifact>, RegistryError> {
        let mut garbage = Vec::new();
        // What is made from something goes before it.
        for artifact in self.artifacts()?.into_iter().rev() {
            let gone: BTreeSet<&str> = garbage.iter().map(|known: &Artifact| known.digest.as_str()).collect();
            let needed = self.needed_by(&artifact.digest)?;
            let needed = needed.iter().any(|who| !gone.contains(who.trim_start_matches("artifact ")));
            if artifact.is_builtin() || !artifact.tags.is_empty() || needed {
                continue;
            }
            if !dry_run {
                self.delete(&artifact)?;
            }
            garbage.push(artifact);
        }
        Ok(garbage)
    }

    /// Reads every byte of what the registry keeps, or of one artifact, and compares. `each` hears how many bytes are
    /// read and what was found so far, and stops it by saying false.
    ///
    /// # Errors
    /// When there is no such artifact, or the store cannot be read.
    pub fn verify(
        &self,
        reference: Option<&str>,
        mut each: impl FnMut(u64, Option<Verified>) -> bool,
    ) -> Result<(), RegistryError> {
        let chosen = match reference {
            Some(reference) => vec![self.any(reference)?],
            None => self.artifacts()?,
        };
        let mut done = 0;
        for artifact in chosen {
            let path = artifact.path.clone();
            let found = if path.is_dir() {
                super::digest::of_path(&path)
            } else {
                digest(&path, &mut done, &mut |done| each(done, None))
            };
            let flaw = match found {
                Ok(digest) if digest == artifact.digest => None,
                Ok(digest) => Some(format!("its bytes have changed: they are {digest} now")),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
                Err(error) => Some(format!("{}: {error}", path.display())),
            };
            if !each(done, Some(Verified { artifact, flaw })) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Who needs the bytes of an artifact: revisions, which a rollback may go to at any time, and what was made from it.
    fn needed_by(&self, digest: &str) -> Result<Vec<String>, RegistryError> {
        let revisions = self.store().digests_of_revisions()?;
        let revisions = revisions.into_iter().filter(|(_, of)| of == digest).map(|(name, _)| name);
        let artifacts = self.store().artifacts()?;
        let children = artifacts.into_iter().filter(|row| row.parents.iter().any(|parent| parent == digest));
        Ok(revisions.chain(children.map(|row| format!("artifact {}", row.digest))).collect())
    }

    /// The row first: what a crash leaves is a file that nothing names, not a name without a file.
    fn delete(&self, artifact: &Artifact) -> Result<(), RegistryError> {
        self.store().remove_artifact(&artifact.digest)?;
        let path = &artifact.path;
        let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        match removed {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(RegistryError::Read { path: path.clone(), source })
            }
            _ => Ok(()),
        }
    }
}

fn check_tag(tag: &str) -> Result<(), RegistryError> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.:".contains(letter);
    // Sixty-four hexadecimal digits would pass for a digest.
    let digest = tag.len() >= 12 && tag.chars().all(|letter| letter.is_ascii_hexdigit());
    if tag.len() > LONGEST_TAG || !tag.chars().all(plain) || digest {
        let what = "must be at most 64 letters, digits, - _ . or :, and not look like a digest";
        return Err(RegistryError::Tag(tag.to_owned(), what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use super::{ArtifactKind, NewArtifact, Registry, RegistryError};
    use crate::registry::BuiltinArtifacts;
    use crate::store;
    use crate::store::{NewRevision, PartRow};

    struct Place {
        folder: tempfile::TempDir,
        registry: Registry,
        store: Arc<store::Store>,
    }

    fn place() -> Place {
        let (folder, store) = store::temporary();
        let artifacts = folder.path().join("artifacts");
        let builtin = BuiltinArtifacts::unpack(&artifacts).unwrap();
        let store = Arc::new(store);
        let registry = Registry::new(builtin, Arc::clone(&store), artifacts);
        Place { folder, registry, store }
    }

    impl Place {
        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }

        fn add(&self, path: &Path, tag: &str, parents: &[&str]) -> Result<super::Artifact, RegistryError> {
            let new = NewArtifact {
                path: path.to_string_lossy().into_owned(),
                kind: Some(ArtifactKind::Dataset),
                tag: tag.into(),
                parents: parents.iter().map(|parent| (*parent).to_owned()).collect(),
                added_by: "alice".into(),
                source: None,
                governance: None,
            };
            self.registry.add(&new, |_, _| true).map(|(artifact, _)| artifact)
        }
    }

    #[test]
    fn what_was_added_is_found_by_name_and_digest_and_takes_no_second_copy() {
        let place = place();
        let source = place.write("a.jsonl", "{}\n");
        let added = place.add(&source, "first", &["missing-skill"]).unwrap();
        assert_eq!(added, place.registry.any("first").unwrap());
        assert_eq!(added, place.registry.any(&added.digest[..12]).unwrap());
        assert_eq!(added.parents, [place.registry.any("missing-skill").unwrap().digest]);
        let again = place.add(&source, "second", &[]).unwrap();
        assert_eq!((again.digest.as_str(), again.tags.len()), (added.digest.as_str(), 2));
        let moved = place.add(&place.write("b.jsonl", "{\"b\": 1}\n"), "first", &[]).unwrap();
        assert_eq!(place.registry.any("first").unwrap().digest, moved.digest);
        assert_eq!(place.registry.any("second").unwrap().tags, ["second"]);
    }

    #[test]
    fn nothing_that_a_revision_needs_is_removed() {
        let place = place();
        let kept = place.add(&place.write("a.jsonl", "{}\n"), "kept", &[]).unwrap();
        let path = kept.path.to_string_lossy().into_owned();
        let model = PartRow { reference: "kept".into(), digest: kept.digest.clone(), path };
        place.store.add_revision("chat", &NewRevision { model, ..NewRevision::default() }, 1).unwrap();
        let removed = place.registry.remove("kept").unwrap();
        assert_eq!(removed.needed_by, ["chat@1"]);
        assert!(kept.path.exists() && place.registry.collect_garbage(false).unwrap().is_empty());

        let base = place.add(&place.write("base.jsonl", "1\n"), "base", &[]).unwrap();
        let made = place.add(&place.write("made.jsonl", "2\n"), "made", &["base"]).unwrap();
        assert_eq!(place.registry.remove("base").unwrap().needed_by, [format!("artifact {}", made.digest)]);
        assert!(base.path.exists());
        assert!(place.registry.remove("made").unwrap().needed_by.is_empty() && !made.path.exists());
        assert_eq!(place.registry.collect_garbage(true).unwrap()[0].digest, base.digest);
        assert!(base.path.exists());
        assert_eq!(place.registry.collect_garbage(false).unwrap().len(), 1);
        assert!(!base.path.exists() && kept.path.exists());
    }

    #[test]
    fn changed_bytes_are_found() {
        let place = place();
        let added = place.add(&place.write("a.jsonl", "{}\n"), "a", &[]).unwrap();
        let flaws = || {
            let mut flaws = Vec::new();
            let each = |_, verified: Option<super::Verified>| {
                flaws.extend(verified.and_then(|found| Some((found.artifact.digest, found.flaw?))));
                true
            };
            place.registry.verify(None, each).unwrap();
            flaws
        };
        assert!(flaws().is_empty());
        std::fs::write(&added.path, "{} \n").unwrap();
        assert_eq!(flaws()[0].0, added.digest);
        std::fs::remove_file(&added.path).unwrap();
        assert!(flaws()[0].1.contains(&added.digest));
    }

    #[test]
    fn what_came_with_the_agent_stays_and_names_must_be_names() {
        let place = place();
        assert!(place.registry.remove("assistant").unwrap_err().to_string().contains("comes with the agent"));
        assert!(place.registry.tag("assistant", "mine").is_err());
        let path = place.write("a.jsonl", "{}\n");
        let added = place.add(&path, "a", &[]).unwrap();
        assert!(place.registry.tag("a", "assistant").is_err());
        assert!(place.registry.tag("a", "a b").is_err());
        assert!(place.registry.tag("a", &added.digest).is_err());
        assert_eq!(place.registry.tag("a", "b").unwrap().tags, ["a", "b"]);
    }
}
