use std::collections::{HashMap, HashSet};

use super::beginning;
use crate::example::Example;
use crate::policy::Policy;
use crate::read::Dataset;
use crate::report::{CheckKind, Report};
use crate::words::{NearDuplicates, normalized, runs, words};

/// Texts that have so many of their runs of three words in common are near duplicates.
pub(crate) const LEAST_ALIKE: f64 = 0.8;
/// Prompts of a suite are short: less in common is less of a leak.
const LEAST_LEAKED: f64 = 0.9;
/// Words of a run that is in a suite only if the text was taken from there (Brown et al. 2020, appendix C).
const LEAK_WORDS: usize = 13;

pub(super) fn duplicates(dataset: &Dataset, policy: &Policy, report: &mut Report) {
    let mut exact: HashMap<String, usize> = HashMap::new();
    let (mut same, mut near) = (Vec::new(), Vec::new());
    let mut kept = Vec::new();
    let mut alike = NearDuplicates::default();
    for example in &dataset.examples {
        let text = example.texts().collect::<Vec<_>>().join("\n");
        if let Some(first) = exact.get(&text) {
            same.push((example.line, format!("as line {first}: {}", beginning(example))));
            continue;
        }
        exact.insert(text.clone(), example.line);
        kept.push(example.line);
        if let Some((first, likeness)) = alike.add(&text, LEAST_ALIKE) {
            let first = kept.get(first).copied().unwrap_or(0);
            near.push((example.line, format!("{likeness:.2} like line {first}: {}", beginning(example))));
        }
    }
    report.push(CheckKind::ExactDuplicates, policy.rule(CheckKind::ExactDuplicates), "", &same);
    let detail = format!("{LEAST_ALIKE} or more of runs of three words in common, by MinHash");
    report.push(CheckKind::NearDuplicates, policy.rule(CheckKind::NearDuplicates), detail, &near);
}

/// The prompts that models are scored with.
#[derive(Default)]
pub struct Suites {
    names: Vec<String>,
    prompts: HashMap<String, usize>,
    runs: HashMap<u64, usize>,
    alike: NearDuplicates,
    /// Of each prompt that is looked for: the suite.
    of: Vec<usize>,
}

impl Suites {
    /// Adds a suite's prompts.
    pub fn add<'a>(&mut self, name: &str, prompts: impl IntoIterator<Item = &'a str>) {
        let index = self.names.len();
        self.names.push(name.to_owned());
        for prompt in prompts {
            self.prompts.entry(normalized(prompt)).or_insert(index);
            let words = words(prompt);
            if words.len() >= LEAK_WORDS {
                for run in runs(&words, LEAK_WORDS) {
                    self.runs.entry(run).or_insert(index);
                }
            }
            self.alike.add(prompt, 1.1);
            self.of.push(index);
        }
    }

    /// The suite that an example has something of, and what.
    fn leak(&self, example: &Example) -> Option<(&str, &'static str)> {
        let name = |index: &usize| self.names.get(*index).map_or("", String::as_str);
        for text in example.texts() {
            if let Some(suite) = self.prompts.get(&normalized(text)) {
                return Some((name(suite), "has the same words as a prompt of"));
            }
            let words = words(text);
            let long: HashSet<u64> =
                if words.len() < LEAK_WORDS { HashSet::new() } else { runs(&words, LEAK_WORDS) };
            if let Some(suite) = long.iter().find_map(|run| self.runs.get(run)) {
                return Some((name(suite), "has thirteen words in a row with a prompt of"));
            }
            if let Some((prompt, _)) = self.alike.find(text, LEAST_LEAKED) {
                return self.of.get(prompt).map(|suite| (name(suite), "is almost a prompt of"));
            }
        }
        None
    }
}

/// Examples that have something of a suite: their place in the dataset, and what is to be said.
pub(crate) fn leaks(dataset: &Dataset, suites: &Suites) -> Vec<(usize, String)> {
    let of = |(index, example): (usize, &Example)| {
        let (suite, how) = suites.leak(example)?;
        Some((index, format!("{how} {suite}: {}", beginning(example))))
    };
    dataset.examples.iter().enumerate().filter_map(of).collect()
}

pub(super) fn leakage(dataset: &Dataset, suites: &Suites, policy: &Policy, report: &mut Report) {
    let found: Vec<(usize, String)> = leaks(dataset, suites)
        .into_iter()
        .map(|(index, text)| (dataset.examples[index].line, text))
        .collect();
    let detail = format!(
        "against {}",
        if suites.names.is_empty() { "no suite".into() } else { suites.names.join(", ") }
    );
    report.push(CheckKind::Leakage, policy.rule(CheckKind::Leakage), detail, &found);
}
