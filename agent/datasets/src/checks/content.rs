use std::collections::{BTreeMap, HashMap};

use super::beginning;
use crate::policy::Policy;
use crate::read::Dataset;
use crate::redact::find;
use crate::report::{CheckKind, Report};
use crate::words::{normalized, words};

/// A language that fewer examples have than this is said.
const LEAST_SHARE: f64 = 0.02;
/// Answers of which one is given more often than this are said.
const MOST_SHARE: f64 = 0.5;
/// Below this many examples, shares say nothing.
const LEAST_EXAMPLES: usize = 20;

/// Slurs and insults that a careful assistant has no reason to use, in lower case.
const TOXIC: [&str; 28] = [
    "asshole",
    "bastard",
    "bitch",
    "bullshit",
    "cocksucker",
    "coon",
    "cunt",
    "dickhead",
    "dyke",
    "fag",
    "faggot",
    "fuck",
    "fucker",
    "fucking",
    "gook",
    "kike",
    "motherfucker",
    "nigger",
    "nigga",
    "paki",
    "retard",
    "retarded",
    "shithead",
    "slut",
    "spic",
    "tranny",
    "wetback",
    "whore",
];

pub(super) fn personal_data(dataset: &Dataset, policy: &Policy, report: &mut Report) {
    let (mut secrets, mut personal) = (Vec::new(), Vec::new());
    for example in &dataset.examples {
        let kinds = |secret: bool| {
            let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
            for finding in example.texts().flat_map(find).filter(|finding| finding.is_secret == secret) {
                *kinds.entry(finding.kind).or_default() += 1;
            }
            let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            kinds.join(", ")
        };
        // What was found is not repeated: reports are read by more people than datasets.
        for (secret, found) in [(true, &mut secrets), (false, &mut personal)] {
            let kinds = kinds(secret);
            if !kinds.is_empty() {
                found.push((example.line, kinds));
            }
        }
    }
    report.push(CheckKind::Secrets, policy.rule(CheckKind::Secrets), "", &secrets);
    report.push(CheckKind::PersonalData, policy.rule(CheckKind::PersonalData), "", &personal);
}

pub(super) fn language(dataset: &Dataset, policy: &Policy, report: &mut Report) {
    let mut languages: HashMap<&'static str, Vec<usize>> = HashMap::new();
    let mut short = 0;
    for (index, example) in dataset.examples.iter().enumerate() {
        let text = example.texts().collect::<Vec<_>>().join("\n");
        match whatlang::detect(&text).filter(whatlang::Info::is_reliable) {
            Some(info) => languages.entry(info.lang().eng_name()).or_default().push(index),
            None => short += 1,
        }
    }
    let mut by_count: Vec<(&str, Vec<usize>)> = languages.into_iter().collect();
    by_count.sort_by_key(|(name, of)| (std::cmp::Reverse(of.len()), *name));
    let known: usize = by_count.iter().map(|(_, of)| of.len()).sum();
    let share = |count: usize| count as f64 / known.max(1) as f64;
    let mut detail: Vec<String> = by_count
        .iter()
        .take(5)
        .map(|(name, of)| format!("{name} {:.0} %", share(of.len()) * 100.0))
        .collect();
    detail.push(format!("{short} too short to say"));
    let rare =
        by_count.iter().skip(1).filter(|(_, of)| share(of.len()) < LEAST_SHARE && known >= LEAST_EXAMPLES);
    let found: Vec<(usize, String)> = rare
        .flat_map(|(name, of)| of.iter().map(move |index| (*name, *index)))
        .map(|(name, index)| {
            let example = &dataset.examples[index];
            (example.line, format!("{name}: {}", beginning(example)))
        })
        .collect();
    report.push(CheckKind::Language, policy.rule(CheckKind::Language), detail.join(", "), &found);
}

pub(super) fn toxicity(dataset: &Dataset, policy: &Policy, report: &mut Report) {
    let (mut toxic, mut all) = (0, 0);
    let mut found = Vec::new();
    for example in &dataset.examples {
        let words: Vec<String> = example.texts().flat_map(words).collect();
        all += words.len();
        let count = words.iter().filter(|word| TOXIC.contains(&word.as_str())).count();
        if count > 0 {
            toxic += count;
            found.push((example.line, format!("{count} words: {}", beginning(example))));
        }
    }
    let rate = toxic as f64 / all.max(1) as f64 * 10_000.0;
    let detail = format!("{rate:.1} of 10,000 words");
    report.push(CheckKind::Toxicity, policy.rule(CheckKind::Toxicity), detail, &found);
}

pub(super) fn imbalance(dataset: &Dataset, policy: &Policy, report: &mut Report) {
    let mut answers: HashMap<String, Vec<usize>> = HashMap::new();
    for example in &dataset.examples {
        answers.entry(normalized(&example.answer())).or_default().push(example.line);
    }
    let most = answers.iter().max_by_key(|(answer, of)| (of.len(), std::cmp::Reverse((*answer).clone())));
    let (detail, found) = match most {
        Some((answer, of)) => {
            let share = of.len() as f64 / dataset.examples.len() as f64;
            let answer: String = answer.chars().take(40).collect();
            let detail =
                format!("{} different answers; most often {answer:?}, {:.0} %", answers.len(), share * 100.0);
            let is_one_sided = share > MOST_SHARE && dataset.examples.len() >= LEAST_EXAMPLES;
            let found: Vec<(usize, String)> = if is_one_sided {
                of.iter().map(|line| (*line, answer.clone())).collect()
            } else {
                Vec::new()
            };
            (detail, found)
        }
        None => (String::new(), Vec::new()),
    };
    report.push(CheckKind::Imbalance, policy.rule(CheckKind::Imbalance), detail, &found);
}
