//! Who did what: listed, exported, and proved.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::link::Channel;
use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use llmdeck_audit::{Verifier, verify};
use llmdeck_proto::v1::audit_client::AuditClient;
use llmdeck_proto::v1::{AuditRecord, ListRecordsRequest};
use serde_json::{Value, json};

use super::output::{print_json, print_table};
use super::{CliError, Common};
use crate::link::{LinkError, dial};
use crate::view::time_of_day;

/// Records asked for at once by an export.
const PAGE: u32 = 1_000;

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Records, newest first.
    List(ListArguments),
    /// Every record as JSON, one a line, oldest first.
    Export(ExportArguments),
    /// Prove that nothing was changed, removed or reordered; needs no agent.
    Verify(VerifyArguments),
}

#[derive(Debug, Args)]
pub(super) struct ListArguments {
    /// Most records.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct ExportArguments {
    /// Only records behind this one.
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    after: u64,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArguments {
    /// The agent's data directory, or a copy of its audit files.
    folder: PathBuf,
    /// The log's public key, as it was kept elsewhere; the one beside the log is believed where it is not given.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: AuditCommand) -> Result<ExitCode, CliError> {
    match command {
        AuditCommand::List(arguments) => list(arguments).await?,
        AuditCommand::Export(arguments) => export(arguments).await?,
        AuditCommand::Verify(arguments) => return prove(&arguments),
    }
    Ok(ExitCode::SUCCESS)
}

async fn records(channel: Channel, request: ListRecordsRequest) -> Result<Vec<AuditRecord>, CliError> {
    let answer = AuditClient::new(channel).list_records(request).await;
    Ok(answer.map_err(LinkError::from)?.into_inner().records)
}

async fn list(ListArguments { limit, common }: ListArguments) -> Result<(), CliError> {
    let request = ListRecordsRequest { limit, after_sequence: None };
    let records = records(dial(&common.target), request).await?;
    if common.json {
        return Ok(print_json(&records.iter().map(record_json).collect::<Vec<Value>>())?);
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

async fn export(ExportArguments { mut after, common }: ExportArguments) -> Result<(), CliError> {
    let channel = dial(&common.target);
    loop {
        let request = ListRecordsRequest { limit: PAGE, after_sequence: Some(after) };
        let page = records(channel.clone(), request).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.sequence;
        let mut out = io::stdout().lock();
        for record in &page {
            writeln!(out, "{}", record_json(record))?;
        }
    }
}

fn record_json(record: &AuditRecord) -> Value {
    json!({
        "sequence": record.sequence, "time_unix_ms": record.time_unix_ms, "operator": record.operator,
        "uid": record.uid, "action": record.action, "subject": record.subject,
        "reason": record.reason, "outcome": record.outcome, "previous": record.previous,
    })
}

fn prove(arguments: &VerifyArguments) -> Result<ExitCode, CliError> {
    let key = arguments.key.as_deref().map(Verifier::parse).transpose();
    let key = key.map_err(|error| CliError::Usage(format!("--key: {error}; it is the text of audit.pub")))?;
    let folder = &arguments.folder;
    let proof = verify(folder, key.as_ref()).map_err(|error| {
        CliError::Failed(format!("{}: {error}; give the agent's data directory", folder.display()))
    })?;
    let is_whole = proof.flaws.is_empty();
    if arguments.json {
        let flaws = proof.flaws.iter().map(
            |flaw| json!({ "file": flaw.path.display().to_string(), "line": flaw.line, "what": flaw.what }),
        );
        print_json(&json!({
            "whole": is_whole, "files": proof.files, "records": proof.records, "key": proof.key,
            "flaws": flaws.collect::<Vec<_>>(),
        }))?;
    } else if is_whole {
        writeln!(io::stdout(), "whole: {} records in {} files", proof.records, proof.files)?;
        writeln!(io::stdout(), "key: {}", proof.key)?;
        if arguments.key.is_none() {
            writeln!(
                io::stdout(),
                "the key lies beside the log; keep a copy elsewhere, and give it with --key"
            )?;
        }
    } else {
        for flaw in &proof.flaws {
            writeln!(io::stdout(), "{flaw}")?;
        }
    }
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
