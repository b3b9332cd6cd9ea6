//! `llmdeck bench node`: what the machine can do, and how near its models come.

use std::io::{self, Write};
use std::process::ExitCode;

use llmdeck_proto::v1::BenchNodeRequest;
use llmdeck_proto::v1::jobs_client::JobsClient;
use serde_json::Value;

use super::job;
use crate::cli::output::{print_json, print_table};
use crate::cli::{CliError, Common};
use crate::link::{LinkError, dial};
use crate::report::{NodeTables, Table};

/// Measures and prints.
pub(super) async fn run(common: &Common) -> Result<ExitCode, CliError> {
    let channel = dial(&common.target);
    let started = JobsClient::new(channel.clone()).bench_node(BenchNodeRequest {}).await;
    let id = started.map_err(LinkError::from)?.into_inner().job_id;
    let report = job::follow(channel, &id).await?;
    let bench: Value = serde_json::from_str(&report.report_json)
        .map_err(|error| CliError::Failed(format!("the agent's report is not JSON: {error}")))?;
    if common.json {
        print_json(&bench)?;
    } else {
        print(&bench)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(bench: &Value) -> io::Result<()> {
    let tables = NodeTables::of(bench);
    for (label, text) in &tables.limits {
        writeln!(io::stdout(), "{label:16} {text}")?;
    }
    for Table { title, columns, rows } in &tables.models {
        writeln!(io::stdout(), "\n{title}")?;
        print_table(columns, rows)?;
    }
    Ok(())
}
