//! What is looked at before anything is trained, one file for each kind of question.

mod alike;
mod content;
mod shape;

use crate::policy::Policy;
use crate::read::Dataset;
use crate::report::Report;

pub use alike::Suites;
pub(crate) use alike::{LEAST_ALIKE, leaks};

/// Checks a dataset. `token_counts` are of its examples, in order, and `max_tokens` what the longest may have; both are left out
/// where there is no model yet.
pub fn check(
    dataset: &Dataset,
    suites: &Suites,
    policy: &Policy,
    token_counts: Option<(&[usize], usize)>,
) -> Report {
    let format = dataset.format.map_or("unknown", |format| format.as_str());
    let mut report = Report::new(format, dataset.examples.len());
    shape::schema(dataset, policy, &mut report);
    shape::roles(dataset, policy, &mut report);
    shape::empty(dataset, policy, &mut report);
    if let Some((counts, max_tokens)) = token_counts {
        shape::too_long(dataset, policy, counts, max_tokens, &mut report);
    }
    alike::duplicates(dataset, policy, &mut report);
    alike::leakage(dataset, suites, policy, &mut report);
    content::personal_data(dataset, policy, &mut report);
    content::language(dataset, policy, &mut report);
    content::toxicity(dataset, policy, &mut report);
    content::imbalance(dataset, policy, &mut report);
    report
}

/// The beginning of an example, to be recognized by.
fn beginning(example: &crate::Example) -> String {
    example.texts().next().unwrap_or_default().chars().take(80).collect()
}
