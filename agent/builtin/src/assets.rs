//! The trained files, inside the binary. `README.md` beside them is the card, `training-log.jsonl` the log.

/// A file with the tag it has in the registry.
pub struct Asset {
    /// Its name for people.
    pub tag: &'static str,
    /// Its contents.
    pub bytes: &'static [u8],
}

/// The models, best first.
pub const MODELS: [Asset; 3] = [
    Asset { tag: "assistant", bytes: include_bytes!("../assets/assistant.gguf") },
    Asset { tag: "assistant-worse", bytes: include_bytes!("../assets/assistant-worse.gguf") },
    Asset { tag: "assistant-untaught", bytes: include_bytes!("../assets/assistant-untaught.gguf") },
];

/// Held-out prompts of every skill, with checks.
pub const SUITE: Asset =
    Asset { tag: "assistant-suite", bytes: include_bytes!("../assets/assistant-suite.jsonl") };

/// Examples of every other skill: what the models were trained on, to rehearse while they learn something new.
pub const SKILLS: Asset =
    Asset { tag: "assistant-skills", bytes: include_bytes!("../assets/assistant-skills.jsonl") };

/// Examples of the skill that `assistant-untaught` lacks, as OpenAI chat lines.
pub const DATASET: Asset =
    Asset { tag: "missing-skill", bytes: include_bytes!("../assets/missing-skill.jsonl") };
