use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::policy::Policy;

const LONGEST_FIELD: usize = 256;

/// Where a dataset comes from, and what it may be used for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Governance {
    /// Where its examples come from.
    pub source: String,
    /// As an SPDX expression where there is one.
    pub license: String,
    /// On what ground personal data in it may be used, such as `consent` or `contract` (GDPR, article 6), or that there is none.
    pub consent_basis: String,
    /// Who answers for it.
    pub owner: String,
    /// The last day on which it may be used, in UTC; `None` is no end.
    pub retain_until: Option<Date>,
    /// Kept for other uses, such as evaluation.
    pub not_for_training: bool,
}

/// What is to be recorded anew; the rest stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GovernanceChange {
    /// See [`Governance::source`].
    pub source: Option<String>,
    /// See [`Governance::license`].
    pub license: Option<String>,
    /// See [`Governance::consent_basis`].
    pub consent_basis: Option<String>,
    /// See [`Governance::owner`].
    pub owner: Option<String>,
    /// As YYYY-MM-DD; empty is no end.
    pub retain_until: Option<String>,
    /// See [`Governance::not_for_training`].
    pub not_for_training: Option<bool>,
}

/// A field of [`Governance`] that a policy can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "as the fields")]
pub enum GovernanceField {
    Source,
    License,
    ConsentBasis,
    Owner,
    RetainUntil,
}

impl Governance {
    /// With a change made.
    ///
    /// # Errors
    /// The field that cannot be so, in words.
    pub fn changed(&self, change: &GovernanceChange) -> Result<Self, String> {
        let mut new = self.clone();
        let texts = [
            ("source", &change.source, &mut new.source),
            ("license", &change.license, &mut new.license),
            ("consent_basis", &change.consent_basis, &mut new.consent_basis),
            ("owner", &change.owner, &mut new.owner),
        ];
        for (name, text, field) in texts {
            let Some(text) = text else { continue };
            if text.len() > LONGEST_FIELD || text.chars().any(char::is_control) {
                return Err(format!("{name} must be one line of at most {LONGEST_FIELD} bytes"));
            }
            text.trim().clone_into(field);
        }
        new.retain_until = match change.retain_until.as_deref() {
            None => new.retain_until,
            Some("") => None,
            Some(day) => Some(
                day.parse().map_err(|_| format!("retain_until is {day:?}, not a day such as 2027-06-30"))?,
            ),
        };
        new.not_for_training = change.not_for_training.unwrap_or(new.not_for_training);
        Ok(new)
    }

    /// Why nothing may be trained on it on a day; empty where nothing speaks against it.
    pub fn objections(&self, policy: &Policy, today: Date) -> Vec<String> {
        let mut objections = Vec::new();
        if self.not_for_training {
            objections.push("it is recorded as not for training".to_owned());
        }
        if let Some(end) = self.retain_until.filter(|end| *end < today) {
            objections.push(format!("it was to be kept until {end}"));
        }
        for field in policy.required.iter().filter(|field| !self.has(**field)) {
            objections.push(format!("its {} is not recorded", field.as_str()));
        }
        let lists = [
            ("license", &self.license, &policy.licenses),
            ("consent basis", &self.consent_basis, &policy.consent_bases),
        ];
        for (name, value, allowed) in lists {
            if !allowed.is_empty() && !allowed.contains(value) {
                let value = if value.is_empty() { "not recorded" } else { value };
                objections.push(format!("its {name} is {value}; allowed: {}", allowed.join(", ")));
            }
        }
        objections
    }

    fn has(&self, field: GovernanceField) -> bool {
        match field {
            GovernanceField::Source => !self.source.is_empty(),
            GovernanceField::License => !self.license.is_empty(),
            GovernanceField::ConsentBasis => !self.consent_basis.is_empty(),
            GovernanceField::Owner => !self.owner.is_empty(),
            GovernanceField::RetainUntil => self.retain_until.is_some(),
        }
    }
}

impl GovernanceField {
    fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::License => "license",
            Self::ConsentBasis => "consent basis",
            Self::Owner => "owner",
            Self::RetainUntil => "retention",
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::{Governance, GovernanceChange, GovernanceField};
    use crate::policy::Policy;

    #[test]
    fn a_change_leaves_the_rest_and_a_bad_one_is_named() {
        let text = |text: &str| Some(text.to_owned());
        let first = GovernanceChange {
            license: text("CC-BY-4.0"),
            retain_until: text("2027-06-30"),
            ..GovernanceChange::default()
        };
        let first = Governance::default().changed(&first).unwrap();
        let second = GovernanceChange { owner: text(" support team "), ..GovernanceChange::default() };
        let second = first.changed(&second).unwrap();
        assert_eq!((second.license.as_str(), second.owner.as_str()), ("CC-BY-4.0", "support team"));
        assert_eq!(second.retain_until, Some(date(2027, 6, 30)));
        let endless = GovernanceChange { retain_until: text(""), ..GovernanceChange::default() };
        assert_eq!(second.changed(&endless).unwrap().retain_until, None);
        for (wrong, word) in [
            (GovernanceChange { retain_until: text("soon"), ..GovernanceChange::default() }, "2027-06-30"),
            (GovernanceChange { owner: text("a\nb"), ..GovernanceChange::default() }, "owner"),
            (GovernanceChange { source: text(&"a".repeat(257)), ..GovernanceChange::default() }, "source"),
        ] {
            let reason = first.changed(&wrong).unwrap_err();
            assert!(reason.contains(word), "{reason}");
        }
    }

    #[test]
    fn what_is_forbidden_expired_or_not_recorded_speaks_against_training() {
        let today = date(2026, 11, 26);
        let recorded =
            Governance { license: "CC-BY-4.0".into(), retain_until: Some(today), ..Governance::default() };
        let policy = |required: &[GovernanceField], licenses: &[&str]| Policy {
            required: required.to_vec(),
            licenses: licenses.iter().map(|license| (*license).to_owned()).collect(),
            ..Policy::default()
        };
        assert_eq!(recorded.objections(&policy(&[], &[]), today), Vec::<String>::new());
        assert_eq!(recorded.objections(&policy(&[GovernanceField::License], &["CC-BY-4.0"]), today).len(), 0);
        let said = |of: &Governance, policy: &Policy, day| of.objections(policy, day).join("; ");
        assert!(said(&recorded, &policy(&[], &[]), date(2026, 11, 27)).contains("until 2026-11-26"));
        assert!(said(&recorded, &policy(&[GovernanceField::Owner], &[]), today).contains("owner is not"));
        assert!(said(&recorded, &policy(&[], &["MIT"]), today).contains("is CC-BY-4.0; allowed: MIT"));
        assert!(said(&Governance::default(), &policy(&[], &["MIT"]), today).contains("not recorded"));
        let kept = Governance { not_for_training: true, ..Governance::default() };
        assert!(said(&kept, &policy(&[], &[]), today).contains("not for training"));
    }
}
