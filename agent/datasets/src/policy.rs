use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::governance::GovernanceField;
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
    /// What has to be recorded of a dataset.
    pub required: Vec<GovernanceField>,
    /// The licenses that it may have; empty: any.
    pub licenses: Vec<String>,
    /// The grounds on which its personal data may be used; empty: any.
    pub consent_bases: Vec<String>,
}

impl Policy {
    /// The rule of a check.
    pub fn rule(&self, check: CheckKind) -> Rule {
        self.checks.get(&check).copied().unwrap_or(match check {
            CheckKind::Governance
            | CheckKind::Schema
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
            | CheckKind::LossOutliers
            | CheckKind::Language => Rule::Warn,
        })
    }
}
