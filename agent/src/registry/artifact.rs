use std::path::PathBuf;

/// What an artifact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactKind {
    /// Weights with tokenizer and chat template.
    Model,
    /// What fine-tuning adds to a model.
    Adapter,
    /// Text in front of what users say.
    Prompt,
    /// Prompts with checks.
    Suite,
    /// Examples to learn from.
    Dataset,
    /// A file that describes another server.
    Backend,
}

impl ArtifactKind {
    pub(super) const ALL: [Self; 6] =
        [Self::Model, Self::Adapter, Self::Prompt, Self::Suite, Self::Dataset, Self::Backend];

    /// Its word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Adapter => "adapter",
            Self::Prompt => "prompt",
            Self::Suite => "suite",
            Self::Dataset => "dataset",
            Self::Backend => "backend",
        }
    }

    /// From its word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// A thing in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// What it is.
    pub kind: ArtifactKind,
    /// Its names for people.
    pub tags: Vec<String>,
    /// sha256, in hex.
    pub digest: String,
    /// Where its bytes are.
    pub path: PathBuf,
    /// How many they are.
    pub size_bytes: u64,
    /// What it was made from, by digest.
    pub parents: Vec<String>,
    /// Where it was added from, and by whom; empty of what came with the agent.
    pub source: String,
    /// See `source`.
    pub added_by: String,
    /// Unix time in milliseconds; 0 of what came with the agent.
    pub added_unix_ms: i64,
}

impl Artifact {
    /// Whether a tag or a digest (at least 12 letters of it) means this one.
    pub(super) fn is_called(&self, reference: &str) -> bool {
        const SHORTEST_DIGEST: usize = 12;
        self.has_tag(reference) || (reference.len() >= SHORTEST_DIGEST && self.digest.starts_with(reference))
    }

    /// Whether this is one of its names.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|known| known == tag)
    }

    /// Whether it came with the agent.
    pub fn is_builtin(&self) -> bool {
        self.source.is_empty()
    }
}
