//! Hours of what users do, and whether the agent holds on to anything of it: random arrivals, answers that are broken off,
//! formats, adapters, shared beginnings, a rollout now and then. Prints the agent's memory over time, and fails when it grows behind
//! the first five minutes or a block of the cache is left over.
//!
//! ```text
//! cargo build --release -p llmdeck-agent && cargo run --release -p llmdeck-benches --bin soak -- --minutes 30
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use color_eyre::eyre::{Result, bail, eyre};
use llmdeck_builtin::assets::MODELS;
use llmdeck_engine::Pool;
use llmdeck_engine::adapter::{AdapterWeights, Linear, LoraSettings, ThinMatrices};
use llmdeck_engine::description::DecoderDescription;
use llmdeck_engine::model::Model;
use llmdeck_load::StreamClient;
use llmdeck_proto::MAX_MESSAGE_BYTES;
use llmdeck_proto::v1::control_client::ControlClient;
use llmdeck_proto::v1::telemetry_client::TelemetryClient;
use llmdeck_proto::v1::{ActionContext, DeployRequest, Frame, RollbackRequest, WatchRequest};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

const HTTP: &str = "127.0.0.1:9103";
const SETTLED_AFTER: Duration = Duration::from_secs(300);
/// Growth of the memory behind that, as a share, that is noise.
const MOST_GROWTH: f64 = 0.02;
const ROLLOUT_EVERY: Duration = Duration::from_secs(120);
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);
/// The cache is small enough to be full of remembered prompts within a minute of each rollout: filling it is no growth.
const CONFIG: &str = "[[deployment]]\nname = \"assistant\"\nmodel = \"assistant\"\nsuite = \"assistant-suite\"\ncache_bytes = 4194304\n";
/// More than are kept ready, so that they come and go.
const ADAPTERS: usize = 20;
const MOST_UNDER_WAY: usize = 256;

/// Runs an agent under random load, and watches its memory.
#[derive(Parser)]
struct Arguments {
    /// How long.
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Mean requests a second.
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// The agent.
    #[arg(long, default_value = "target/release/llmdeck-agent")]
    agent: PathBuf,
    /// The same seed asks the same at the same times.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    broken_off: AtomicU64,
    failed: AtomicU64,
    rollouts: AtomicU64,
}

/// Killed when dropped.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let folder = std::env::temp_dir().join(format!("llmdeck-soak-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let socket = folder.join("agent.sock");
    let config = folder.join("llmdeck.toml");
    let adapters = write_adapters(&folder)?;
    std::fs::write(&config, format!("{CONFIG}adapters = {}\n", json!(adapters)))?;
    let agent = Agent(
        Command::new(&arguments.agent)
            .args(["run", "--http", HTTP, "--listen"])
            .arg(&socket)
            .arg("--config")
            .arg(&config)
            .arg("--data-dir")
            .arg(folder.join("data"))
            .stderr(Stdio::null())
            .spawn()?,
    );
    let outcome = soak(&arguments, &agent, &socket.display().to_string(), adapters).await;
    drop(agent);
    std::fs::remove_dir_all(&folder)?;
    outcome
}

/// Adapters of random numbers, small enough that what they change are still answers; where they are.
fn write_adapters(folder: &Path) -> Result<Vec<PathBuf>> {
    let file = folder.join("model.gguf");
    let asset = MODELS.iter().find(|asset| asset.tag == "assistant");
    std::fs::write(&file, asset.ok_or_else(|| eyre!("the model is missing"))?.bytes)?;
    let model = Model::load(&file, &Arc::new(Pool::new(1)?))?;
    let mut rng = StdRng::seed_from_u64(0);
    let write = |number| {
        let adapter = folder.join(format!("adapter-{number}"));
        std::fs::create_dir(&adapter)?;
        let description = model.decoder.description();
        random_adapter(description, &mut rng).write(&adapter, description, "assistant")?;
        Ok(adapter)
    };
    (0..ADAPTERS).map(write).collect()
}

fn random_adapter(description: &DecoderDescription, rng: &mut StdRng) -> AdapterWeights {
    let settings = LoraSettings { rank: 4, alpha: 4.0, ..LoraSettings::default() };
    let (rank, scale) = (settings.rank, settings.scale(settings.rank));
    let places = (0..description.layers).flat_map(|layer| Linear::ALL.map(|linear| (layer, linear)));
    let thin = |(layer, linear): (usize, Linear)| {
        let (outputs, inputs) = linear.shape(description);
        let mut numbers = |count| (0..count).map(|_| rng.random_range(-0.01..0.01)).collect();
        let (a, b) = (numbers(rank * inputs), numbers(outputs * rank));
        ((layer, linear), ThinMatrices { rank, a, b, magnitude: None, scale })
    };
    AdapterWeights { matrices: places.map(thin).collect::<BTreeMap<_, _>>(), settings }
}

async fn soak(
    arguments: &Arguments,
    agent: &Agent,
    socket: &str,
    adapters: Vec<PathBuf>,
) -> Result<ExitCode> {
    let models: Arc<Vec<String>> =
        Arc::new(adapters.iter().map(|adapter| format!("assistant:{}", adapter.display())).collect());
    let client = StreamClient::new(&format!("http://{HTTP}"), "/v1/chat/completions", None, PATIENCE)?;
    let began = Instant::now();
    while client.ask(body("assistant", "compute 1 + 1", 4, None)).await.is_err() {
        if began.elapsed() > PATIENCE {
            bail!("the agent does not answer");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let channel = Endpoint::from_shared(format!("unix:{socket}"))?.connect().await?;
    let counts = Arc::new(Counts::default());
    let mut rng = StdRng::seed_from_u64(arguments.seed);
    let mut requests = JoinSet::new();
    let (began, length) = (Instant::now(), Duration::from_secs(arguments.minutes * 60));
    let (mut next_sample, mut next_rollout) = (began, began + ROLLOUT_EVERY);
    let mut samples: Vec<Sample> = Vec::new();
    println!(
        "| minute | own MB | program's pages MB | answered | broken off | failed | rollouts |\n| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    );
    while began.elapsed() < length {
        let gap = -rng.random::<f64>().max(1e-9).ln() / arguments.rate;
        tokio::time::sleep(Duration::from_secs_f64(gap)).await;
        while requests.try_join_next().is_some() {}
        if requests.len() < MOST_UNDER_WAY {
            requests.spawn(one(client.clone(), rng.random(), Arc::clone(&models), Arc::clone(&counts)));
        }
        let now = Instant::now();
        if now >= next_rollout {
            next_rollout += ROLLOUT_EVERY;
            // The other model, which is kept ready ever after, comes first: its memory is no growth behind the first minutes.
            let back = counts.rollouts.load(Ordering::Relaxed) > 0 && rng.random();
            counts.rollouts.fetch_add(roll(&channel, back).await.into(), Ordering::Relaxed);
        }
        if now >= next_sample {
            next_sample += SAMPLE_EVERY;
            samples.push(Sample::take(agent.0.id(), began.elapsed().as_secs_f64())?);
            let minute = samples.len() as u64 * SAMPLE_EVERY.as_secs();
            if minute.is_multiple_of(60) {
                row(&samples, &counts);
            }
        }
    }
    while requests.join_next().await.is_some() {}
    verdict(&samples, cache_in_use(&channel).await?, &counts)
}

/// A prompt that is new, or begins as others do; now and then of an adapter, with a format, or broken off.
async fn one(client: StreamClient, seed: u64, adapted: Arc<Vec<String>>, counts: Arc<Counts>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (left, right) = (rng.random_range(1..99), rng.random_range(1..99));
    let question = match rng.random_range(0..3) {
        0 => format!("compute {left} + {right}"),
        1 => format!("add {left} and {right}"),
        _ => format!("{}compute {left} + {right}", "say it in words: ".repeat(rng.random_range(1..12))),
    };
    let format = rng.random_bool(0.1).then(|| {
        json!({ "type": "json_schema", "json_schema": { "name": "sum", "schema": {
            "type": "object", "properties": { "total": { "type": "integer" } }, "required": ["total"],
            "additionalProperties": false,
        }}})
    });
    let model = if rng.random_bool(0.3) { &adapted[rng.random_range(0..adapted.len())] } else { "assistant" };
    let asking = client.ask(body(model, &question, rng.random_range(4..96), format));
    if rng.random_bool(0.2) {
        let patience = Duration::from_micros(rng.random_range(100..50_000));
        if tokio::time::timeout(patience, asking).await.is_err() {
            counts.broken_off.fetch_add(1, Ordering::Relaxed);
        }
        return;
    }
    let counter = if asking.await.is_ok() { &counts.answered } else { &counts.failed };
    counter.fetch_add(1, Ordering::Relaxed);
}

fn body(model: &str, question: &str, max_tokens: u32, format: Option<Value>) -> hyper::body::Bytes {
    let mut body = json!({
        "model": model, "stream": true, "max_tokens": max_tokens,
        "messages": [{ "role": "user", "content": question }],
    });
    if let Some(format) = format {
        body["response_format"] = format;
    }
    body.to_string().into()
}

/// To the other model, or back; whether it began. One that is refused, since another is under way, is as good as none.
async fn roll(channel: &Channel, back: bool) -> bool {
    let mut control = ControlClient::new(channel.clone());
    let (deployment, context) = ("assistant".to_owned(), Some(ActionContext::default()));
    if back {
        let request = RollbackRequest { deployment, context, to_revision: 0, cut_running: false };
        control.rollback(request).await.is_ok()
    } else {
        let model = "assistant-worse".to_owned();
        let request = DeployRequest { deployment, context, model, force: true, ..DeployRequest::default() };
        control.deploy(request).await.is_ok()
    }
}

/// Bytes of cache that sequences hold, once nothing runs any more.
async fn cache_in_use(channel: &Channel) -> Result<u64> {
    let mut client = TelemetryClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut frames = client.watch(WatchRequest::default()).await?.into_inner();
    let mut in_use = u64::MAX;
    for _ in 0..10 {
        let frame: Frame = frames.message().await?.ok_or_else(|| eyre!("the agent has gone"))?;
        let revisions = frame.deployments.iter().flat_map(|deployment| &deployment.revisions);
        let (running, used) = revisions.fold((0, 0), |(running, used), revision| {
            (running + revision.in_flight, used + revision.kv_used_bytes)
        });
        in_use = used;
        if running == 0 && used == 0 {
            break;
        }
    }
    Ok(in_use)
}

/// The agent's memory at a moment.
struct Sample {
    seconds: f64,
    /// What it has taken for itself, which is what could leak.
    own_bytes: u64,
    /// Pages of the program, which come in as parts of it run for the first time, and which the system takes back at will.
    file_bytes: u64,
}

impl Sample {
    fn take(pid: u32, seconds: f64) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
            let kib: Option<u64> = kib.and_then(|kib| kib.trim().parse().ok());
            kib.map(|kib| kib * 1_024).ok_or_else(|| eyre!("the agent has gone"))
        };
        Ok(Self { seconds, own_bytes: bytes("RssAnon:")?, file_bytes: bytes("RssFile:")? })
    }
}

fn row(samples: &[Sample], counts: &Counts) {
    let Some(sample) = samples.last() else { return };
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "| {:.0} | {:.1} | {:.1} | {} | {} | {} | {} |",
        sample.seconds / 60.0,
        sample.own_bytes as f64 / 1e6,
        sample.file_bytes as f64 / 1e6,
        count(&counts.answered),
        count(&counts.broken_off),
        count(&counts.failed),
        count(&counts.rollouts)
    );
}

/// Compares the medians of the first and the last third of what comes behind the first five minutes.
fn verdict(samples: &[Sample], in_use: u64, counts: &Counts) -> Result<ExitCode> {
    let settled: Vec<u64> = samples
        .iter()
        .filter(|sample| sample.seconds > SETTLED_AFTER.as_secs_f64())
        .map(|sample| sample.own_bytes)
        .collect();
    let third = settled.len() / 3;
    if third == 0 {
        bail!("too short to tell: give --minutes 8 or more");
    }
    let (early, late) = (median(&settled[..third]), median(&settled[settled.len() - third..]));
    let growth = late as f64 / early as f64 - 1.0;
    let failed = counts.failed.load(Ordering::Relaxed);
    println!(
        "\nown memory behind five minutes: {:.1} MB, at the end {:.1} MB ({:+.2} %); {in_use} bytes of cache left in use; {failed} failed",
        early as f64 / 1e6,
        late as f64 / 1e6,
        growth * 100.0
    );
    let well = growth <= MOST_GROWTH && in_use == 0 && failed == 0;
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn median(values: &[u64]) -> u64 {
    let mut values = values.to_vec();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}
