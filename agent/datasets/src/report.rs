use serde::{Deserialize, Serialize};

use crate::policy::Rule;

/// Examples of a finding that a row shows.
const SHOWN: usize = 3;
const LONGEST_SHOWN: usize = 120;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each says in its row what it is")]
pub enum CheckKind {
    Governance,
    Schema,
    Roles,
    Empty,
    TooLong,
    ExactDuplicates,
    NearDuplicates,
    Leakage,
    Secrets,
    PersonalData,
    Language,
    Toxicity,
    Imbalance,
    LossOutliers,
}

impl CheckKind {
    /// Its name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Governance => "may be learned from",
            Self::Schema => "lines that can be read",
            Self::Roles => "roles in order",
            Self::Empty => "nothing empty",
            Self::TooLong => "not too long",
            Self::ExactDuplicates => "exact duplicates",
            Self::NearDuplicates => "near duplicates",
            Self::Leakage => "not in a suite",
            Self::Secrets => "no secrets",
            Self::PersonalData => "no personal data",
            Self::Language => "one language",
            Self::Toxicity => "no toxic words",
            Self::Imbalance => "answers differ",
            Self::LossOutliers => "no loss outliers",
        }
    }

    /// What to do when it finds something.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Governance => "record what is missing with registry govern, or take another dataset",
            Self::Schema => "mend these lines, or registry derive --drop-bad-lines",
            Self::Roles => {
                "a system turn may come first, then user and assistant take turns, the assistant last"
            }
            Self::Empty => "delete these examples, or say something in them",
            Self::TooLong => "raise max_tokens, or registry derive --most-characters",
            Self::ExactDuplicates | Self::NearDuplicates => "registry derive --dedupe",
            Self::Leakage => "registry derive --drop-leaks: scores would say nothing",
            Self::Secrets => "revoke what was found, then registry derive --redact",
            Self::PersonalData => "registry derive --redact",
            Self::Language => "check that the mix is meant",
            Self::Toxicity => "read these examples; delete what must not be learned",
            Self::Imbalance => "add examples with other answers",
            Self::LossOutliers => "read these examples: wrong answers and broken text stand out so",
        }
    }
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckRow {
    /// Which.
    pub check: CheckKind,
    /// Examples that it is about.
    pub count: usize,
    /// What happens now.
    pub rule: Rule,
    /// In words; more than the count says.
    pub detail: String,
    /// The first that it found, each with its line.
    pub examples: Vec<String>,
    /// What to do; empty when nothing was found.
    pub remedy: String,
}

impl CheckRow {
    /// Whether it stands in the way of training.
    pub fn blocks(&self) -> bool {
        self.rule == Rule::Block && self.count > 0
    }
}

/// Everything that was found in a dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Names this format.
    pub schema: String,
    /// How the dataset is written.
    pub format: String,
    /// Examples that could be read.
    pub examples: usize,
    /// One for each check that was made.
    pub rows: Vec<CheckRow>,
    /// How long examples are, in the model's tokens: the upper end of each bucket, and how many are in it. Empty without a model.
    pub token_histogram: Vec<(usize, usize)>,
}

impl Report {
    pub(crate) fn new(format: &str, examples: usize) -> Self {
        Self {
            schema: "llmdeck.dataset-report/1".into(),
            format: format.into(),
            examples,
            rows: Vec::new(),
            token_histogram: Vec::new(),
        }
    }

    /// Adds a row. `found` has the line of each example, 0 where it is about no line, and what is to be said of it.
    pub fn push(
        &mut self,
        check: CheckKind,
        rule: Rule,
        detail: impl Into<String>,
        found: &[(usize, String)],
    ) {
        self.push_counted(check, rule, detail, found.len(), found);
    }

    /// The same where more were found than are listed.
    pub(crate) fn push_counted(
        &mut self,
        check: CheckKind,
        rule: Rule,
        detail: impl Into<String>,
        count: usize,
        found: &[(usize, String)],
    ) {
        if rule == Rule::Off {
            return;
        }
        let shown = |(line, text): &(usize, String)| {
            let text: String = text.chars().take(LONGEST_SHOWN).collect();
            let text = text.replace('\n', " ");
            if *line == 0 { text } else { format!("line {line}: {text}") }
        };
        self.rows.push(CheckRow {
            check,
            count,
            rule,
            detail: detail.into(),
            examples: found.iter().take(SHOWN).map(shown).collect(),
            remedy: if count == 0 { String::new() } else { check.remedy().into() },
        });
    }

    /// The rows that stand in the way of training.
    pub fn blocking(&self) -> impl Iterator<Item = &CheckRow> {
        self.rows.iter().filter(|row| row.blocks())
    }

    /// Why nothing may be trained, in one line; `None` when nothing stands in the way.
    pub fn refusal(&self) -> Option<String> {
        let reasons: Vec<String> = self
            .blocking()
            .map(|row| {
                let what = match row.check {
                    CheckKind::Governance => Some(&row.detail),
                    _ => row.examples.first(),
                };
                let what = what.map(|what| format!(", {what}")).unwrap_or_default();
                format!("{} ({} found{what}): {}", row.check.title(), row.count, row.remedy)
            })
            .collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}
