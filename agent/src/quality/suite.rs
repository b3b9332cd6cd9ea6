//! Golden suites: prompts with checks, one JSON object a line.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::registry::RegistryError;

/// Most prompts of a suite.
const MOST_PROMPTS: usize = 10_000;

/// A prompt and what its answer must be like.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenPrompt {
    /// What the user says.
    pub prompt: String,
    /// Every one is checked; at least one.
    pub checks: Vec<Check>,
    /// What it exercises; for people.
    #[serde(default)]
    pub skill: Option<String>,
    /// Most tokens of the answer.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: u32,
}

fn default_max_tokens() -> u32 {
    64
}

/// One condition on an answer, white space around it left out.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The same text.
    Equals(String),
    /// The text somewhere in it.
    Contains(String),
    /// The same JSON value.
    JsonEquals(Value),
}

impl Check {
    /// Whether an answer meets it.
    pub fn holds(&self, answer: &str) -> bool {
        let answer = answer.trim();
        match self {
            Self::Equals(text) => answer == text.trim(),
            Self::Contains(text) => answer.contains(text.as_str()),
            Self::JsonEquals(value) => {
                serde_json::from_str::<Value>(answer).is_ok_and(|found| found == *value)
            }
        }
    }
}

/// A parsed suite.
#[derive(Clone, Debug)]
pub struct Suite {
    /// In file order.
    pub prompts: Vec<GoldenPrompt>,
}

impl Suite {
    /// Reads the lines of a file.
    ///
    /// # Errors
    /// The first line that is malformed, by number.
    pub fn parse(path: &Path, text: &str) -> Result<Self, RegistryError> {
        let malformed = |reason: String| RegistryError::Malformed { path: path.to_owned(), reason };
        let mut prompts = Vec::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let prompt: GoldenPrompt = serde_json::from_str(line).map_err(|error| {
                malformed(format!(
                    "line {}: {error}; a line is {{\"prompt\": …, \"checks\": [{{\"equals\": …}}]}}",
                    index + 1
                ))
            })?;
            if prompt.checks.is_empty() {
                return Err(malformed(format!("line {}: checks is empty; give at least one", index + 1)));
            }
            prompts.push(prompt);
        }
        if prompts.is_empty() || prompts.len() > MOST_PROMPTS {
            return Err(malformed(format!("has {} prompts; a suite has 1 to {MOST_PROMPTS}", prompts.len())));
        }
        Ok(Self { prompts })
    }
}

/// What a run of a suite found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GoldenScore {
    /// Mean share of checks that held, 0 to 1.
    pub score: f64,
    /// Share of prompts whose checks all held.
    pub exact_match: f64,
    /// Prompts asked.
    pub prompts: u32,
    /// 95 % interval of the score.
    pub low: f64,
    /// See `low`.
    pub high: f64,
}

/// A finished run of a suite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GoldenRun {
    /// What it found.
    pub score: GoldenScore,
    /// When it ended.
    pub ended_unix_ms: i64,
}

impl GoldenScore {
    /// Of the share of checks that held for each prompt.
    pub fn of(shares: &[f64]) -> Self {
        let count = shares.len() as f64;
        if shares.is_empty() {
            return Self::default();
        }
        let score = shares.iter().sum::<f64>() / count;
        let exact = shares.iter().filter(|share| **share >= 1.0).count() as f64;
        let (low, high) = wilson(score, count);
        Self { score, exact_match: exact / count, prompts: shares.len() as u32, low, high }
    }
}

/// Wilson's score interval at 95 % (Wilson 1927); exact for shares that are 0 or 1, wide enough for those between,
/// whose variance is smaller.
fn wilson(share: f64, count: f64) -> (f64, f64) {
    const Z: f64 = 1.959_964;
    let square = Z * Z / count;
    let center = (share + square / 2.0) / (1.0 + square);
    let half = Z / (1.0 + square) * (share * (1.0 - share) / count + square / (4.0 * count)).sqrt();
    ((center - half).max(0.0), (center + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{GoldenScore, Suite, wilson};

    #[test]
    fn the_interval_is_wilsons() {
        // 8 of 10: 0.4902 to 0.9433 (Newcombe 1998, method 3).
        let (low, high) = wilson(0.8, 10.0);
        assert!((low - 0.4902).abs() < 5e-4 && (high - 0.9433).abs() < 5e-4, "{low} {high}");
        let (low, high) = wilson(1.0, 10.0);
        assert!(low > 0.7 && (high - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_bad_line_is_named() {
        let text = "{\"prompt\":\"a\",\"checks\":[{\"equals\":\"b\"}]}\n{\"prompt\":\"c\",\"checks\":[{\"is\":\"b\"}]}";
        let error = Suite::parse(Path::new("s.jsonl"), text).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("`is`"), "{error}");
    }

    #[test]
    fn checks_look_past_white_space_and_key_order() {
        let line =
            r#"{"prompt":"x","checks":[{"equals":"a b"},{"contains":"b"},{"json_equals":{"a":1,"b":2}}]}"#;
        let suite = Suite::parse(Path::new("s"), line).unwrap();
        let checks = &suite.prompts[0].checks;
        assert!(checks[0].holds(" a b\n") && checks[1].holds("abc") && checks[2].holds("{\"b\":2, \"a\":1}"));
        assert!(!checks[0].holds("a  b") && !checks[2].holds("{\"a\":1}"));
    }

    #[test]
    fn a_score_counts_parts_and_exact_match_wholes() {
        let score = GoldenScore::of(&[1.0, 0.5, 0.0, 1.0]);
        assert!((score.score - 0.625).abs() < 1e-9 && (score.exact_match - 0.5).abs() < 1e-9);
    }
}
