use clap::{Args, Subcommand};
use llmdeck_proto::v1::ListJobsRequest;
use llmdeck_proto::v1::jobs_client::JobsClient;
use serde_json::{Value, json};

use super::output::{print_json, print_table};
use super::{CliError, Common};
use crate::link::{LinkError, dial};
use crate::request;
use crate::view::bytes;

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
