use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::checks::{LEAST_ALIKE, Suites, leaks};
use crate::example::Example;
use crate::read::Dataset;
use crate::redact::redacted;
use crate::words::NearDuplicates;

/// How a dataset is made from another. The same recipe makes the same bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// Leave out what is the same as, or almost the same as, an example before.
    pub dedupe: bool,
    /// Leave out what a suite has.
    pub drop_leaks: bool,
    /// Replace personal data and secrets by their kind.
    pub redact: bool,
    /// Leave out what cannot be read.
    pub drop_bad_lines: bool,
    /// Leave out examples of more letters than this.
    pub most_characters: Option<usize>,
    /// Only this part of the examples, drawn by the seed: the first `part` of them, or those behind it.
    pub split: Option<Split>,
}

/// A part of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Where it begins, as a share of all.
    pub from: f64,
    /// And ends.
    pub to: f64,
    /// Of the draw.
    pub seed: u64,
}

/// What a recipe made.
#[derive(Clone, Debug, PartialEq)]
pub struct Derived {
    /// As lines of OpenAI's chat format.
    pub text: String,
    /// Examples that stayed.
    pub examples: usize,
    /// What was left out or changed, one line for each step.
    pub done: Vec<String>,
}

impl Recipe {
    /// Makes it.
    ///
    /// # Errors
    /// When lines cannot be read and may not be left out, in words.
    pub fn make(&self, dataset: &Dataset, suites: &Suites) -> Result<Derived, String> {
        if dataset.bad > 0 && !self.drop_bad_lines {
            let first = dataset.bad_lines.first().map(|bad| format!("line {}: {}", bad.line, bad.reason));
            return Err(format!(
                "{} lines cannot be read ({}); mend them, or leave them out with drop_bad_lines",
                dataset.bad,
                first.unwrap_or_default()
            ));
        }
        let mut done = Vec::new();
        let mut note = |what: &str, before: usize, after: usize| {
            done.push(format!("{what}: {} of {before} left out", before - after));
        };
        let mut examples: Vec<Example> = dataset.examples.clone();
        if self.drop_bad_lines {
            let all = examples.len() + dataset.bad;
            note("lines that cannot be read", all, examples.len());
        }
        if let Some(most) = self.most_characters {
            let before = examples.len();
            examples
                .retain(|example| example.texts().map(|text| text.chars().count()).sum::<usize>() <= most);
            note("too long", before, examples.len());
        }
        if self.drop_leaks {
            let before = examples.len();
            let left = Dataset { examples, ..Dataset::default() };
            let leaked: HashSet<usize> = leaks(&left, suites).into_iter().map(|(index, _)| index).collect();
            examples = left.examples;
            let mut index = 0;
            examples.retain(|_| {
                index += 1;
                !leaked.contains(&(index - 1))
            });
            note("in a suite", before, examples.len());
        }
        if self.dedupe {
            let before = examples.len();
            let (mut exact, mut near) = (HashSet::new(), NearDuplicates::default());
            examples.retain(|example| {
                let text = example.texts().collect::<Vec<_>>().join("\n");
                // One that goes must not make others go that are like it alone.
                if !exact.insert(text.clone()) || near.find(&text, LEAST_ALIKE).is_some() {
                    return false;
                }
                near.add(&text, LEAST_ALIKE);
                true
            });
            note("duplicates", before, examples.len());
        }
        if let Some(split) = self.split {
            let before = examples.len();
            examples.retain(|example| split.has(example));
            note("in other parts", before, examples.len());
        }
        let mut text = String::new();
        let mut changed = 0;
        for example in &examples {
            let line = example.to_line();
            let clean = if self.redact { example.map_texts(redacted).to_line() } else { line.clone() };
            changed += usize::from(clean != line);
            text.push_str(&clean);
            text.push('\n');
        }
        if self.redact {
            done.push(format!("redacted: {changed} of {} changed", examples.len()));
        }
        Ok(Derived { text, examples: examples.len(), done })
    }
}

impl Split {
    /// By the example's own text: what is added to a dataset moves no other example to another part.
    fn has(self, example: &Example) -> bool {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        hash.update(example.to_line());
        let digest = hash.finalize();
        let number = digest.iter().take(6).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        let place = number as f64 / (1u64 << 48) as f64;
        (self.from..self.to).contains(&place)
    }
}
