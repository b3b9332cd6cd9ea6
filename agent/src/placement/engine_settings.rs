//! What the engine of a revision is started with.

use std::collections::BTreeMap;

use llmdeck_engine::device::Device;
use llmdeck_engine::engine::{CacheFormat, EngineOptions, Speculation};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::registry::digest::hex;
use crate::store::EngineRow;

/// Longer changes are none of anybody's.
const LONGEST_CHANGES: usize = 4_096;
const MOST_SEQUENCES: usize = 4_096;
const MOST_STEP_TOKENS: usize = 65_536;
const LEAST_CONTEXT: usize = 16;

/// All of them, resolved. The order of the fields is that of what is digested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineSettings {
    /// Most sequences that run at once.
    pub max_sequences: usize,
    /// Most tokens that one step computes, of prompts and answers together.
    pub max_step_tokens: usize,
    /// Longest prompt and answer together, in tokens; the model's own where it is `None`.
    pub context_tokens: Option<usize>,
    /// Bytes of key and value cache; by sequences and context where it is `None`.
    pub cache_bytes: Option<u64>,
    /// Whether tokens are guessed ahead.
    pub speculation: Guessing,
    /// How keys and values are stored.
    #[serde(default)]
    pub cache_format: CacheNumbers,
    /// Where it computes: `cpu`, `cuda` or `cuda:N`.
    #[serde(default)]
    pub device: Device,
    /// Whether an answer from a GPU is the same in any company.
    #[serde(default)]
    pub batch_invariant: bool,
}

/// Whether tokens are guessed ahead. Answers are the same either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guessing {
    /// Where measurements say that it pays.
    #[default]
    Measured,
    /// Never.
    Off,
}

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheNumbers {
    /// 16-bit floats.
    #[default]
    F16,
    /// bfloat16.
    Bf16,
    /// Bytes with a scale for each token and head: half the memory.
    Int8,
}

impl From<CacheNumbers> for CacheFormat {
    fn from(numbers: CacheNumbers) -> Self {
        match numbers {
            CacheNumbers::F16 => Self::F16,
            CacheNumbers::Bf16 => Self::Bf16,
            CacheNumbers::Int8 => Self::Int8,
        }
    }
}

impl From<CacheFormat> for CacheNumbers {
    fn from(format: CacheFormat) -> Self {
        match format {
            CacheFormat::F16 => Self::F16,
            CacheFormat::Bf16 => Self::Bf16,
            CacheFormat::Int8 => Self::Int8,
        }
    }
}

impl From<Guessing> for Speculation {
    fn from(guessing: Guessing) -> Self {
        match guessing {
            Guessing::Measured => Self::Measured,
            Guessing::Off => Self::Off,
        }
    }
}

impl EngineSettings {
    /// Those of options that a configuration gave.
    pub fn of(options: &EngineOptions) -> Self {
        Self {
            max_sequences: options.max_sequences,
            max_step_tokens: options.max_step_tokens,
            context_tokens: options.context_tokens,
            cache_bytes: options.cache_bytes,
            speculation: if options.speculation == Speculation::Off {
                Guessing::Off
            } else {
                Guessing::Measured
            },
            cache_format: options.cache_format.into(),
            device: options.device,
            batch_invariant: options.batch_invariant,
        }
    }

    /// In the place of a deployment's own.
    #[must_use]
    pub fn over(&self, options: EngineOptions) -> EngineOptions {
        EngineOptions {
            max_sequences: self.max_sequences,
            max_step_tokens: self.max_step_tokens,
            context_tokens: self.context_tokens,
            cache_bytes: self.cache_bytes,
            speculation: self.speculation.into(),
            cache_format: self.cache_format.into(),
            device: self.device,
            batch_invariant: self.batch_invariant,
            ..options
        }
    }

    /// These with some changed, as a revision keeps them. `changes` is a JSON object by the names of the fields, or empty; `known` are
    /// changes that were made already, and stay where they are not made again.
    ///
    /// # Errors
    /// What is wrong with the changes, and what may be said.
    pub fn changed(&self, known: &str, changes: &str) -> Result<EngineRow, String> {
        let mut made = object(known)?;
        let changes = object(changes)?;
        let Ok(Value::Object(mut all)) = serde_json::to_value(self) else {
            return Err("cannot be written".into());
        };
        for (name, value) in &changes {
            if !all.contains_key(name) {
                let names: Vec<&str> = all.keys().map(String::as_str).collect();
                return Err(format!("has no {name:?}; there are {}", names.join(", ")));
            }
            all.insert(name.clone(), value.clone());
            made.insert(name.clone(), value.clone());
        }
        let settings: Self = serde_json::from_value(Value::Object(all)).map_err(|error| error.to_string())?;
        settings.check()?;
        if changes.contains_key("device") {
            settings.device.check()?;
        }
        let settings_json = serde_json::to_string(&settings).map_err(|error| error.to_string())?;
        let changes_json = if made.is_empty() { String::new() } else { json!(made).to_string() };
        Ok(EngineRow { digest: hex(&Sha256::digest(&settings_json)), settings_json, changes_json })
    }

    /// As a revision kept them.
    pub fn kept(row: &EngineRow) -> Option<Self> {
        serde_json::from_str(&row.settings_json).ok()
    }

    /// Whether two JSON objects are the same settings: one of before an upgrade lacks those that it knew nothing of.
    pub fn are_same(one: &str, other: &str) -> bool {
        let read = |text| serde_json::from_str::<Self>(text).ok();
        one == other || read(one).is_some_and(|one| read(other) == Some(one))
    }

    /// What is not as in `before`, one line a setting.
    pub fn differences(&self, before: &Self) -> Vec<String> {
        let fields = |settings: &Self| match serde_json::to_value(settings) {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        let before = fields(before);
        fields(self)
            .into_iter()
            .filter(|(name, value)| before.get(name) != Some(value))
            .map(|(name, value)| {
                let was = before.get(&name).map(word).unwrap_or_default();
                format!("with {name} {}, now {was}", word(&value))
            })
            .collect()
    }

    fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: usize, least: usize, most: usize| {
            let words = format!("{name} must be between {least} and {most}, not {value}");
            if (least..=most).contains(&value) { Ok(()) } else { Err(words) }
        };
        within("max_sequences", self.max_sequences, 1, MOST_SEQUENCES)?;
        within("max_step_tokens", self.max_step_tokens, 1, MOST_STEP_TOKENS)?;
        within("context_tokens", self.context_tokens.unwrap_or(LEAST_CONTEXT), LEAST_CONTEXT, usize::MAX)?;
        if self.cache_bytes == Some(0) {
            return Err("cache_bytes must be above 0".into());
        }
        Ok(())
    }
}

/// `null` is what the model or the rest says.
fn word(value: &Value) -> String {
    match value {
        Value::Null => "automatic".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn object(text: &str) -> Result<BTreeMap<String, Value>, String> {
    if text.len() > LONGEST_CHANGES {
        return Err(format!("has {} bytes; at most {LONGEST_CHANGES} are read", text.len()));
    }
    if text.is_empty() {
        return Ok(BTreeMap::new());
    }
    serde_json::from_str(text).map_err(|error| format!("is no JSON object of settings: {error}"))
}

#[cfg(test)]
mod tests {
    use super::{EngineOptions, EngineSettings};

    #[test]
    fn changes_add_up_and_the_same_settings_have_the_same_digest() {
        let own = EngineSettings::of(&EngineOptions::default());
        let as_configured = own.changed("", "").unwrap();
        assert_eq!((as_configured.words().as_str(), as_configured.digest.len()), ("", 64));
        let once = own.changed("", r#"{"context_tokens": 4096}"#).unwrap();
        let twice = EngineSettings::kept(&once).unwrap();
        let twice = twice.changed(&once.changes_json, r#"{"speculation": "off"}"#).unwrap();
        assert_eq!(twice.words(), "context_tokens=4096 + speculation=off");
        let at_once = own.changed("", r#"{"speculation": "off", "context_tokens": 4096}"#).unwrap();
        assert_eq!(at_once, twice);
        let back = EngineSettings::kept(&once).unwrap().changed("", r#"{"context_tokens": null}"#).unwrap();
        assert_eq!(back.digest, as_configured.digest);
        let (before, after) = (own, EngineSettings::kept(&twice).unwrap());
        assert_eq!(
            after.differences(&before),
            ["with context_tokens 4096, now automatic", "with speculation off, now measured"]
        );
    }

    #[test]
    fn settings_of_before_an_upgrade_are_the_same_without_what_came_with_it() {
        let now = EngineSettings::of(&EngineOptions::default()).changed("", "").unwrap().settings_json;
        let before = now.replace(r#","batch_invariant":false"#, "");
        assert!(before.len() < now.len() && EngineSettings::are_same(&before, &now));
        assert!(!EngineSettings::are_same(
            &before,
            &now.replace("batch_invariant\":false", "batch_invariant\":true")
        ));
        assert!(!EngineSettings::are_same("{}", &now));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let own = EngineSettings::of(&EngineOptions::default());
        for (changes, words) in [
            (r#"{"speculations": "off"}"#, "there are max_sequences, max_step_tokens"),
            (r#"{"speculation": "always"}"#, "expected `measured` or `off`"),
            (r#"{"max_sequences": 0}"#, "between 1 and 4096, not 0"),
            (r#"{"cache_bytes": 0}"#, "above 0"),
            (r#"{"cache_format": "int4"}"#, "expected one of `f16`, `bf16`, `int8`"),
            (r#"{"device": "tpu"}"#, "there are cpu, cuda and cuda:N"),
            (r#"{"batch_invariant": "yes"}"#, "expected a boolean"),
            ("[]", "no JSON object"),
        ] {
            let problem = own.changed("", changes).unwrap_err();
            assert!(problem.contains(words), "{problem}");
        }
    }
}
