use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use llmdeck_proto::v1::audit_client::AuditClient;
use llmdeck_proto::v1::jobs_client::JobsClient;
use llmdeck_proto::v1::{ListJobsRequest, ListRecordsRequest};
use serde_json::{Value, json};

use super::output::{print_json, print_table};
use super::{CliError, Common};
use crate::link::{LinkError, dial};
use crate::request;
use crate::view::{bytes, time_of_day};

#[derive(Debug, Subcommand)]
pub(super) enum JobsCommand {
    /// Jobs of an agent, newest first.
    List(Common),
}

#[derive(Debug, Subcommand)]
pub(super) enum RegistryCommand {
    /// What an agent knows by tag.
    List(RegistryListArguments),
}

#[derive(Debug, Args)]
pub(super) struct RegistryListArguments {
    /// model, suite or dataset.
    #[arg(long, value_name = "KIND", default_value = "")]
    kind: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Records, newest first.
    List(AuditListArguments),
}

#[derive(Debug, Args)]
pub(super) struct AuditListArguments {
    /// Most records.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: u32,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn jobs(command: JobsCommand) -> Result<(), CliError> {
    let JobsCommand::List(common) = command;
    let answer = JobsClient::new(dial(&common.target)).list_jobs(ListJobsRequest {}).await;
    let jobs = answer.map_err(LinkError::from)?.into_inner().jobs;
    if common.json {
        let jobs = jobs.iter().map(|job| {
            json!({
                "id": job.id, "kind": job.kind, "subject": job.subject, "state": job.state,
                "detail": job.detail, "created_unix_ms": job.created_unix_ms,
            })
        });
        return Ok(print_json(&jobs.collect::<Vec<Value>>())?);
    }
    let rows: Vec<Vec<String>> =
        jobs.into_iter().map(|job| vec![job.id, job.kind, job.subject, job.state, job.detail]).collect();
    Ok(print_table(&["ID", "KIND", "SUBJECT", "STATE", "DETAIL"], &rows)?)
}

pub(super) async fn registry(command: RegistryCommand) -> Result<(), CliError> {
    let RegistryCommand::List(RegistryListArguments { kind, common }) = command;
    let artifacts = request::artifacts(dial(&common.target), &kind).await?;
    if common.json {
        let artifacts = artifacts.iter().map(|artifact| {
            json!({
                "digest": artifact.digest, "kind": artifact.kind, "tags": artifact.tags,
                "size_bytes": artifact.size_bytes, "path": artifact.path,
            })
        });
        return Ok(print_json(&artifacts.collect::<Vec<Value>>())?);
    }
    let rows: Vec<Vec<String>> = artifacts
        .into_iter()
        .map(|artifact| {
            let digest = artifact.digest.chars().take(12).collect();
            vec![artifact.tags.join(" "), artifact.kind, bytes(artifact.size_bytes), digest]
        })
        .collect();
    Ok(print_table(&["TAGS", "KIND", "SIZE", "DIGEST"], &rows)?)
}

pub(super) async fn audit(command: AuditCommand) -> Result<(), CliError> {
    let AuditCommand::List(AuditListArguments { limit, common }) = command;
    let answer = AuditClient::new(dial(&common.target)).list_records(ListRecordsRequest { limit }).await;
    let records = answer.map_err(LinkError::from)?.into_inner().records;
    if common.json {
        let records = records.iter().map(|record| {
            json!({
                "sequence": record.sequence, "time_unix_ms": record.time_unix_ms, "operator": record.operator,
                "uid": record.uid, "action": record.action, "subject": record.subject,
                "reason": record.reason, "outcome": record.outcome,
            })
        });
        return Ok(print_json(&records.collect::<Vec<Value>>())?);
    }
    let zone = TimeZone::system();
    let rows: Vec<Vec<String>> = records
        .into_iter()
        .map(|record| {
            let time = time_of_day(record.time_unix_ms, &zone);
            vec![time, record.operator, record.action, record.subject, record.reason, record.outcome]
        })
        .collect();
    Ok(print_table(&["TIME", "OPERATOR", "ACTION", "SUBJECT", "REASON", "OUTCOME"], &rows)?)
}
