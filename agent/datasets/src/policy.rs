use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::report::CheckKind;

/// What happens when a check finds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Nothing is trained.
    Block,
    /// It is said.
    Warn,
    /// It is not looked for.
    Off,
}

/// Which checks stand in the way of training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Of the checks that are named here; the others have their own.
    pub checks: BTreeMap<CheckKind, Rule>,
}

impl Policy {
    /// The rule of a check.
    pub fn rule(&self, check: CheckKind) -> Rule {
        self.checks.get(&check).copied().unwrap_or(match check {
            CheckKind::Schema
            | CheckKind::Roles
            | CheckKind::Empty
            | CheckKind::TooLong
            | CheckKind::Leakage
            | CheckKind::Secrets
            | CheckKind::PersonalData => Rule::Block,
            CheckKind::ExactDuplicates
            | CheckKind::NearDuplicates
            | CheckKind::Toxicity
            | CheckKind::Imbalance
            | CheckKind::Language => Rule::Warn,
        })
    }
}
