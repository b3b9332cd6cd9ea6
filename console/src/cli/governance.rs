//! Where a dataset comes from and what it may be used for.

use std::io::{self, Write};

use clap::Args;
use llmdeck_proto::v1::registry_client::RegistryClient;
use llmdeck_proto::v1::{Dataset, GetDatasetRequest, GovernDatasetRequest, Governance};
use serde_json::{Value, json};

use super::data_report::print_report;
use super::output::print_json;
use super::registry::artifact_json;
use super::{CliError, Common};
use crate::link::{LinkError, dial};

/// What is recorded of a dataset; what is not given stays as it is.
#[derive(Debug, Args)]
pub(super) struct GovernanceArguments {
    /// Of a dataset: where its examples come from.
    #[arg(long, value_name = "TEXT")]
    source: Option<String>,
    /// Of a dataset: its license, as an SPDX expression where there is one.
    #[arg(long, value_name = "SPDX")]
    license: Option<String>,
    /// Of a dataset: on what ground personal data in it may be used, or that there is none.
    #[arg(long, value_name = "TEXT")]
    consent_basis: Option<String>,
    /// Of a dataset: who answers for it.
    #[arg(long, value_name = "TEXT")]
    owner: Option<String>,
    /// Of a dataset: the last day on which it may be used, in UTC, or `never` for no end.
    #[arg(long, value_name = "YYYY-MM-DD")]
    retain_until: Option<String>,
    /// Of a dataset: whether it is kept for other uses than training.
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    not_for_training: Option<bool>,
}

impl GovernanceArguments {
    /// `None` where nothing is given.
    pub(super) fn request(self) -> Option<Governance> {
        let Self { source, license, consent_basis, owner, retain_until, not_for_training } = self;
        let retain_until = retain_until.map(|day| if day == "never" { String::new() } else { day });
        let asked = Governance { source, license, consent_basis, owner, retain_until, not_for_training };
        (asked != Governance::default()).then_some(asked)
    }
}

#[derive(Debug, Args)]
pub(super) struct GovernArguments {
    /// A dataset: a tag or a digest.
    reference: String,
    #[command(flatten)]
    governance: GovernanceArguments,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn govern(arguments: GovernArguments) -> Result<(), CliError> {
    let GovernArguments { reference, governance, reason, common } = arguments;
    let nothing = || {
        CliError::Usage(
            "nothing is to be recorded; give --license, --owner or another of registry govern".into(),
        )
    };
    let governance = Some(governance.request().ok_or_else(nothing)?);
    let request = GovernDatasetRequest { reference, governance, reason };
    let governed = RegistryClient::new(dial(&common.target)).govern_dataset(request).await;
    let governed = governed.map_err(LinkError::from)?.into_inner();
    if common.json {
        return Ok(print_json(&dataset_json(&governed))?);
    }
    Ok(print_governance(&governed)?)
}

/// What is known of a dataset.
pub(super) async fn dataset(common: &Common, digest: &str) -> Result<Dataset, CliError> {
    let request = GetDatasetRequest { reference: digest.to_owned() };
    let known = RegistryClient::new(dial(&common.target)).get_dataset(request).await;
    Ok(known.map_err(LinkError::from)?.into_inner())
}

/// An artifact with `governance` and `report`.
pub(super) fn dataset_json(dataset: &Dataset) -> Value {
    let mut value = artifact_json(&dataset.artifact.clone().unwrap_or_default());
    let recorded = dataset.governance.clone().unwrap_or_default();
    value["governance"] = json!({
        "source": recorded.source(), "license": recorded.license(), "consent_basis": recorded.consent_basis(),
        "owner": recorded.owner(), "not_for_training": recorded.not_for_training(),
        "retain_until": recorded.retain_until.filter(|day| !day.is_empty()),
    });
    value["report"] = serde_json::from_str(&dataset.report_json).unwrap_or_default();
    value
}

/// A line for each thing that is recorded.
pub(super) fn print_governance(dataset: &Dataset) -> io::Result<()> {
    let recorded = dataset.governance.clone().unwrap_or_default();
    let mut out = io::stdout().lock();
    for (name, value) in [
        ("source", recorded.source()),
        ("license", recorded.license()),
        ("consent", recorded.consent_basis()),
        ("owner", recorded.owner()),
        ("retained", recorded.retain_until()),
        ("training", if recorded.not_for_training() { "not allowed" } else { "" }),
    ] {
        if !value.is_empty() {
            writeln!(out, "{name:<11} {value}")?;
        }
    }
    Ok(())
}

/// What its checks found last.
pub(super) fn print_last_report(dataset: &Dataset) -> io::Result<()> {
    let report: Value = serde_json::from_str(&dataset.report_json).unwrap_or_default();
    if report.is_null() {
        return Ok(());
    }
    writeln!(io::stdout(), "\n{} examples, checked:", report["examples"])?;
    print_report(&report)
}
