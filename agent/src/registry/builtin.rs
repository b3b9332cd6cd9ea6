use std::io::{self, Write};
use std::path::Path;

use llmdeck_builtin::assets;
use sha2::{Digest, Sha256};

use super::artifact::{Artifact, ArtifactKind};

/// What comes with the agent.
pub struct BuiltinArtifacts {
    /// Written out, by tag.
    pub all: Vec<Artifact>,
}

impl BuiltinArtifacts {
    /// Writes what is not there yet under `folder`, named by digest.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn unpack(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let models = assets::MODELS.iter().map(|asset| (ArtifactKind::Model, asset, "gguf"));
        let others = [
            (ArtifactKind::Suite, &assets::SUITE, "jsonl"),
            (ArtifactKind::Dataset, &assets::DATASET, "jsonl"),
            (ArtifactKind::Dataset, &assets::SKILLS, "jsonl"),
        ];
        let all: Vec<Artifact> = models
            .chain(others)
            .map(|(kind, asset, extension)| {
                let digest = super::digest::hex(&Sha256::digest(asset.bytes));
                let path = folder.join(format!("{digest}.{extension}"));
                let size_bytes = asset.bytes.len() as u64;
                if std::fs::metadata(&path).map_or(0, |metadata| metadata.len()) != size_bytes {
                    write_whole(folder, &path, asset.bytes)?;
                }
                Ok(Artifact {
                    kind,
                    tags: vec![asset.tag.to_owned()],
                    digest,
                    path,
                    size_bytes,
                    parents: Vec::new(),
                    source: String::new(),
                    added_by: String::new(),
                    added_unix_ms: 0,
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { all: with_lineage(all) })
    }
}

/// The models were trained on the skills; one of them on the skill that the others lack, too.
fn with_lineage(mut all: Vec<Artifact>) -> Vec<Artifact> {
    let digest =
        |tag: &str| all.iter().find(|artifact| artifact.has_tag(tag)).map(|found| found.digest.clone());
    let (skills, missing) = (digest(assets::SKILLS.tag), digest(assets::DATASET.tag));
    for artifact in all.iter_mut().filter(|artifact| artifact.kind == ArtifactKind::Model) {
        artifact.parents.extend(skills.clone());
        if artifact.has_tag("assistant") {
            artifact.parents.extend(missing.clone());
        }
    }
    all
}

/// Beside, then renamed, so that a crash leaves no half file under the name.
fn write_whole(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = folder.join(format!(".{}.part", std::process::id()));
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}
