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
    let limits = &bench["limits"];
    let number = |value: &Value| value.as_f64();
    let line = |name: &str, value: Option<f64>, unit: &str| match value {
        Some(value) => writeln!(io::stdout(), "{name:17} {value:8.2} {unit}"),
        None => writeln!(io::stdout(), "{name:17}        -"),
    };
    let (threads, instructions) = (&limits["threads"], limits["instructions"].as_str().unwrap_or("?"));
    writeln!(io::stdout(), "{threads} threads, {instructions}")?;
    let giga = |value: &Value| number(value).map(|value| value / 1e9);
    let tera = |value: &Value| number(value).map(|value| value / 1e12);
    line("memory read", giga(&limits["memory_read_bytes_per_s"]), "GB/s")?;
    line("int8 arithmetic", tera(&limits["int8_operations_per_s"]), "Tops/s")?;
    line("bf16 arithmetic", tera(&limits["bf16_operations_per_s"]), "Tflop/s")?;
    line("f32 arithmetic", tera(&limits["f32_operations_per_s"]), "Tflop/s")?;
    line("disk read", giga(&bench["disk_read_bytes_per_s"]), "GB/s")?;
    for model in bench["models"].as_array().into_iter().flatten() {
        let (revision, name) = (model["revision"].as_str(), model["model"].as_str());
        let weights = number(&model["weights_bytes"]).unwrap_or(0.0) / 1e6;
        writeln!(io::stdout())?;
        writeln!(
            io::stdout(),
            "{} ({}), {weights:.1} MB of weights",
            revision.unwrap_or("?"),
            name.unwrap_or("?")
        )?;
        let rows: Vec<Vec<String>> = model["rates"].as_array().into_iter().flatten().map(row).collect();
        print_table(&["", "TOKENS/S", "OF MEMORY", "OF ARITHMETIC", "HELD UP BY"], &rows)?;
    }
    Ok(())
}

fn row(rate: &Value) -> Vec<String> {
    let phase = rate["phase"].as_str().unwrap_or("?");
    let name = if phase == "decode" {
        format!("decode, {} at once", rate["sequences"])
    } else {
        format!("{phase}, one prompt")
    };
    let share =
        |value: &Value| value.as_f64().map_or_else(|| "-".into(), |share| format!("{:.0} %", share * 100.0));
    vec![
        name,
        format!("{:.0}", rate["tokens_per_s"].as_f64().unwrap_or(0.0)),
        share(&rate["memory_share"]),
        share(&rate["arithmetic_share"]),
        rate["bound"].as_str().unwrap_or("?").to_owned(),
    ]
}
