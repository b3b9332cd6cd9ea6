use std::io::{self, Write};
use std::path::{Path, PathBuf};

use llmdeck_builtin::assets;
use sha2::{Digest, Sha256};

/// What an artifact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactKind {
    /// Weights with tokenizer and chat template.
    Model,
    /// Prompts with checks.
    Suite,
    /// Examples to learn from.
    Dataset,
}

impl ArtifactKind {
    /// Its word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Suite => "suite",
            Self::Dataset => "dataset",
        }
    }
}

/// A thing in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// What it is.
    pub kind: ArtifactKind,
    /// Its name for people.
    pub tag: String,
    /// sha256, in hex.
    pub digest: String,
    /// Where its bytes are.
    pub path: PathBuf,
    /// How many they are.
    pub size_bytes: u64,
}

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
        ];
        let all = models
            .chain(others)
            .map(|(kind, asset, extension)| {
                let digest = super::digest::hex(&Sha256::digest(asset.bytes));
                let path = folder.join(format!("{digest}.{extension}"));
                let size_bytes = asset.bytes.len() as u64;
                if std::fs::metadata(&path).map_or(0, |metadata| metadata.len()) != size_bytes {
                    write_whole(folder, &path, asset.bytes)?;
                }
                Ok(Artifact { kind, tag: asset.tag.to_owned(), digest, path, size_bytes })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { all })
    }
}

/// Beside, then renamed, so that a crash leaves no half file under the name.
fn write_whole(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = folder.join(format!(".{}.part", std::process::id()));
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}
