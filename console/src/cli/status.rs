use std::io::{self, Write};

use clap::Args;
use llmdeck_proto::MAX_MESSAGE_BYTES;
use llmdeck_proto::v1::alert::Severity;
use llmdeck_proto::v1::telemetry_client::TelemetryClient;
use llmdeck_proto::v1::{Alert, Frame, Gpu, HistoryRequest, Revision, WatchRequest};
use serde_json::{Value, json};
use tonic::codec::CompressionEncoding;

use super::output::{print_json, print_table};
use super::rollout::rollout_json;
use super::{CliError, Common};
use crate::clock::unix_ms;
use crate::link::{LinkError, LinkEvent, dial};
use crate::model::{Bucket, DeploymentKey, Model, Percentiles, Window};
use crate::view::{WINDOW, milliseconds, percent, state_word};

/// A little more than the window of the tables.
const HISTORY_MS: i64 = 12_000;

#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    /// Again with every frame, one JSON object a line with --json.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn run(arguments: StatusArguments) -> Result<(), CliError> {
    let StatusArguments { watch, common } = arguments;
    let mut client = TelemetryClient::new(dial(&common.target))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Gzip);
    let mut model = Model::new([common.target.to_string()]);
    let range = HistoryRequest { from_unix_ms: unix_ms() - HISTORY_MS, to_unix_ms: 0, max_frames: 0 };
    let history = client.history(range).await.map_err(LinkError::from)?.into_inner();
    model.apply(0, LinkEvent::History(history.frames));
    let frames = client.watch(WatchRequest { interval_ms: 0 }).await.map_err(LinkError::from)?;
    let mut frames = frames.into_inner();
    while let Some(frame) = frames.message().await.map_err(LinkError::from)? {
        // The first look at a server without an agent says nothing of what happens there.
        let first_look = frame.interval_ms == 0 && frame.agent_version.is_empty() && frame.alerts.is_empty();
        model.apply(0, LinkEvent::Frame(Box::new(frame)));
        if first_look {
            continue;
        }
        if common.json {
            print_json(&status(&model))?;
        } else {
            page(&model)?;
        }
        if !watch {
            return Ok(());
        }
    }
    Err(LinkError::Unreachable("the agent has stopped".into()).into())
}

fn status(model: &Model) -> Value {
    let Some((node, frame)) = model.nodes.first().and_then(|node| Some((node, node.frame.as_ref()?))) else {
        return Value::Null;
    };
    json!({
        "node": frame.node, "address": node.address, "time_unix_ms": frame.time_unix_ms,
        "agent_version": frame.agent_version,
        "alerts": frame.alerts.iter().map(alert).collect::<Vec<_>>(),
        "deployments": deployments(model, frame),
        "gpus": frame.gpus.iter().map(gpu).collect::<Vec<_>>(),
        "gpu_driver": frame.gpu_driver.as_ref().map(|driver| json!({
            "version": driver.driver_version, "detail": driver.detail,
        })),
        "host": frame.host.as_ref().map(|host| json!({
            "cpu_utilization": host.cpu_utilization, "cpu_count": host.cpu_count, "load_1m": host.load_1m,
            "memory_used_bytes": host.memory_used_bytes, "memory_total_bytes": host.memory_total_bytes,
            "disk_used_bytes": host.disk_used_bytes, "disk_total_bytes": host.disk_total_bytes,
            "agent_cpu_cores": host.agent_cpu_cores, "agent_memory_bytes": host.agent_memory_bytes,
        })),
    })
}

fn alert(alert: &Alert) -> Value {
    let severity = match alert.severity() {
        Severity::Bad => "bad",
        Severity::Warning => "warning",
        Severity::Information | Severity::Unspecified => "information",
    };
    json!({
        "severity": severity, "subject": alert.subject, "text": alert.text, "since_unix_ms": alert.since_unix_ms,
    })
}

fn deployments(model: &Model, frame: &Frame) -> Vec<Value> {
    let one = |deployment: &llmdeck_proto::v1::Deployment| {
        let key = DeploymentKey { node: 0, name: deployment.name.clone() };
        let window = model.series(&key).map(|series| series.window(WINDOW, None)).unwrap_or_default();
        let of =
            |number| model.series(&key).map(|series| series.window(WINDOW, Some(number))).unwrap_or_default();
        let mut value = figures(&window);
        value["name"] = deployment.name.as_str().into();
        value["stable_revision"] = deployment.stable_revision.into();
        value["unavailable"] = deployment.unavailable.as_str().into();
        value["queue_depth"] = deployment.queue_depth.into();
        value["queue_limit"] = deployment.queue_limit.into();
        value["rejected_total"] = deployment.rejected_total.into();
        value["joules_per_token"] = window.joules_per_token().into();
        value["cost_per_million_tokens"] = window.cost_per_million_tokens().into();
        value["currency"] = deployment.currency.as_str().into();
        value["rollout"] = model.rollout(&key).map_or(Value::Null, rollout_json);
        value["revisions"] = deployment
            .revisions
            .iter()
            .map(|known| revision(known, &of(known.number)))
            .collect::<Vec<_>>()
            .into();
        value
    };
    frame.deployments.iter().map(one).collect()
}

fn revision(revision: &Revision, window: &Window) -> Value {
    let quality = revision.quality.unwrap_or_default();
    let mut value = figures(window);
    value["number"] = revision.number.into();
    value["state"] = state_word(revision.state()).into();
    value["traffic_share"] = revision.traffic_share.into();
    value["model"] = revision.model.as_str().into();
    value["model_digest"] = revision.model_digest.as_str().into();
    value["adapter"] = revision.adapter.as_str().into();
    value["adapter_digest"] = revision.adapter_digest.as_str().into();
    value["prompt"] = revision.prompt.as_str().into();
    value["engine"] = revision.engine.as_str().into();
    value["engine_digest"] = revision.engine_digest.as_str().into();
    value["joules_per_token"] = window.joules_per_token().into();
    value["shares_model"] = revision.shares_model.into();
    value["in_flight"] = revision.in_flight.into();
    value["server"] = revision.server.as_ref().map_or(Value::Null, |server| {
        json!({
            "kind": server.kind, "running": server.running, "waiting": server.waiting,
            "kv_used_share": server.kv_used_share,
        })
    });
    value["quality"] = json!({
        "golden_score": quality.golden_score, "golden_low": quality.golden_low, "golden_high": quality.golden_high,
        "golden_exact_match": quality.golden_exact_match, "golden_prompts": quality.golden_prompts,
        "mean_token_logprob": window.mean_logprob(), "flawed_share": window.flawed_share(),
    });
    value
}

fn figures(window: &Window) -> Value {
    let latency = |percentiles: Option<Percentiles>| {
        let ms = |us: u64| us as f64 / 1_000.0;
        percentiles.map(|Percentiles { p50, p95, p99, buckets }| {
            let mut value = json!({ "p50": ms(p50), "p95": ms(p95), "p99": ms(p99) });
            if let Some(buckets) = buckets {
                let ends = buckets.map(|Bucket { low, high }| json!([ms(low), high.map(ms)]));
                value["buckets"] = json!(ends);
            }
            value
        })
    };
    json!({
        "window_s": window.seconds, "requests": window.total.ok, "requests_failed": window.total.failed,
        "requests_per_s": window.requests_per_s(), "tokens_per_s": window.tokens_per_s(),
        "error_share": window.error_share(),
        "ttft_ms": latency(window.total.ttft_percentiles()), "itl_ms": latency(window.total.itl_percentiles()),
        "e2e_ms": latency(window.total.e2e_percentiles()),
    })
}

fn gpu(gpu: &Gpu) -> Value {
    json!({
        "index": gpu.index, "uuid": gpu.uuid, "name": gpu.name, "lost": gpu.lost,
        "utilization": gpu.utilization, "memory_used_bytes": gpu.memory_used_bytes,
        "memory_total_bytes": gpu.memory_total_bytes, "temperature_c": gpu.temperature_c,
        "power_mw": gpu.power_mw, "power_limit_mw": gpu.power_limit_mw, "energy_total_mj": gpu.energy_total_mj,
        "throttle_reasons": gpu.throttle_reasons, "last_xid": gpu.last_xid,
        "ecc_uncorrected": gpu.ecc_uncorrected, "ecc_corrected": gpu.ecc_corrected,
        "retired_pages": gpu.retired_pages, "remapped_rows": gpu.remapped_rows,
    })
}

fn page(model: &Model) -> io::Result<()> {
    let Some(frame) = model.nodes.first().and_then(|node| node.frame.as_ref()) else { return Ok(()) };
    let cpu = frame.host.as_ref().and_then(|host| host.cpu_utilization);
    let cpu = cpu.map_or_else(|| "-".to_owned(), percent);
    writeln!(
        io::stdout(),
        "{}  {} GPUs  CPU {cpu}  {}",
        frame.node,
        frame.gpus.len(),
        match frame.agent_version.as_str() {
            "" => "no agent: the server's own metrics".to_owned(),
            version => format!("agent {version}"),
        }
    )?;
    for alert in &frame.alerts {
        writeln!(io::stdout(), "! {}: {}", alert.subject, alert.text)?;
    }
    let missing = || "-".to_owned();
    let rows: Vec<Vec<String>> = frame
        .deployments
        .iter()
        .map(|deployment| {
            let key = DeploymentKey { node: 0, name: deployment.name.clone() };
            let window = model.series(&key).map(|series| series.window(WINDOW, None)).unwrap_or_default();
            let stable = deployment.revisions.iter().find(|known| known.number == deployment.stable_revision);
            let score = stable.and_then(|known| known.quality).and_then(|quality| quality.golden_score);
            let ttft = window.total.ttft_percentiles().map(|ttft| {
                let about = if ttft.buckets.is_some() { "~" } else { "" };
                format!("{about}{} / {about}{}", milliseconds(ttft.p50), milliseconds(ttft.p99))
            });
            vec![
                format!("{}@{}", deployment.name, deployment.stable_revision),
                stable.map_or_else(missing, |known| known.model.clone()),
                window.requests_per_s().map_or_else(missing, |rate| format!("{rate:.1}")),
                ttft.unwrap_or_else(missing),
                window.tokens_per_s().map_or_else(missing, |rate| format!("{rate:.0}")),
                window.error_share().map_or_else(missing, percent),
                score.map_or_else(missing, |score| format!("{score:.2}")),
            ]
        })
        .collect();
    print_table(&["DEPLOYMENT", "MODEL", "REQ/S", "TTFT p50/p99 ms", "TOK/S", "ERR", "QUALITY"], &rows)
}
