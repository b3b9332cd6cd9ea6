//! What is looked at before anything is trained, one file for each kind of question.

mod alike;
mod content;
mod losses;
mod shape;

use jiff::civil::Date;

use crate::governance::Governance;
use crate::policy::Policy;
use crate::read::Dataset;
use crate::report::{CheckKind, Report};

pub use alike::Suites;
pub(crate) use alike::{LEAST_ALIKE, leaks};

/// What is known beside a dataset itself.
pub struct Known<'a> {
    /// What it must not have in common with them.
    pub suites: &'a Suites,
    /// What is recorded of it.
    pub governance: &'a Governance,
    /// The day, in UTC.
    pub today: Date,
    /// Tokens of its examples, in order, and how many the longest may have; `None` where there is no model yet.
    pub token_counts: Option<(&'a [usize], usize)>,
    /// Losses of its examples under the model, in order, in nats a token; `None` of those that were not looked at.
    pub losses: Option<&'a [Option<f64>]>,
}

/// Checks a dataset.
pub fn check(dataset: &Dataset, policy: &Policy, known: &Known<'_>) -> Report {
    let format = dataset.format.map_or("unknown", |format| format.as_str());
    let mut report = Report::new(format, dataset.examples.len());
    let objections = known.governance.objections(policy, known.today);
    let detail = objections.join("; ");
    let objections: Vec<(usize, String)> = objections.into_iter().map(|reason| (0, reason)).collect();
    report.push(CheckKind::Governance, policy.rule(CheckKind::Governance), detail, &objections);
    shape::schema(dataset, policy, &mut report);
    shape::roles(dataset, policy, &mut report);
    shape::empty(dataset, policy, &mut report);
    if let Some((counts, max_tokens)) = known.token_counts {
        shape::too_long(dataset, policy, counts, max_tokens, &mut report);
    }
    alike::duplicates(dataset, policy, &mut report);
    alike::leakage(dataset, known.suites, policy, &mut report);
    content::personal_data(dataset, policy, &mut report);
    content::language(dataset, policy, &mut report);
    content::toxicity(dataset, policy, &mut report);
    content::imbalance(dataset, policy, &mut report);
    if let Some(losses) = known.losses {
        losses::outliers(dataset, policy, losses, &mut report);
    }
    report
}

/// The beginning of an example, to be recognized by.
fn beginning(example: &crate::Example) -> String {
    example.texts().next().unwrap_or_default().chars().take(80).collect()
}
