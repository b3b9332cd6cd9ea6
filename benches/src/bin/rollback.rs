//! How long new requests still go to the old revision after an operator has asked for a rollback to a standby, with
//! hundreds of requests in flight; and how long the same takes where a server is restarted instead.
//!
//! ```text
//! cargo build --release -p llmdeck-agent && cargo run --release -p llmdeck-benches --bin rollback
//! ```

use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use color_eyre::eyre::{Result, bail};
use llmdeck_load::StreamClient;
use llmdeck_proto::v1::control_client::ControlClient;
use llmdeck_proto::v1::rollout::State;
use llmdeck_proto::v1::{ActionContext, DeployRequest, GetRolloutRequest, RollbackRequest};
use serde_json::json;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

const HTTP: &str = "127.0.0.1:9104";
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two requests of the probe that sees where new ones go.
const PROBE_EVERY: Duration = Duration::from_millis(2);
/// Before and behind each rollback.
const REST: Duration = Duration::from_millis(400);
/// What a rollback may take at the 99th percentile.
const BUDGET: Duration = Duration::from_millis(50);

/// Rolls back and forth under load.
#[derive(Parser)]
struct Arguments {
    /// Rollbacks.
    #[arg(long, default_value_t = 100)]
    rollbacks: usize,
    /// Requests in flight.
    #[arg(long, default_value_t = 500)]
    in_flight: usize,
    /// The agent.
    #[arg(long, default_value = "target/release/llmdeck-agent")]
    agent: PathBuf,
    /// A server to restart for comparison: its command, with {port}; ready when /v1/models answers.
    #[arg(long, num_args = 1.., allow_hyphen_values = true)]
    restart: Vec<String>,
}

/// Killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A request that the probe sent, and the revision that took it.
struct Seen {
    sent: Instant,
    revision: String,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    failed: AtomicU64,
    answered: AtomicU64,
    seen: Mutex<Vec<Seen>>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let folder = std::env::temp_dir().join(format!("llmdeck-rollback-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let (config, socket) = (folder.join("llmdeck.toml"), folder.join("agent.sock"));
    let places = arguments.in_flight + 100;
    std::fs::write(
        &config,
        format!(
            "[[deployment]]\nname = \"assistant\"\nmodel = \"assistant\"\nmax_concurrent = {places}\n\
             cache_bytes = 67108864\nqueue_limit = 10000\n"
        ),
    )?;
    let agent = Process(
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
    let outcome = measure(&arguments, &socket.display().to_string()).await;
    drop(agent);
    std::fs::remove_dir_all(&folder)?;
    let code = outcome?;
    if !arguments.restart.is_empty() {
        println!(
            "the server's restart, from SIGTERM until it answers: {:.1} s",
            restart(&arguments.restart).await?
        );
    }
    Ok(code)
}

async fn measure(arguments: &Arguments, socket: &str) -> Result<ExitCode> {
    let client = StreamClient::new(&format!("http://{HTTP}"), "/v1/chat/completions", None, PATIENCE)?;
    let began = Instant::now();
    while client.ask(body(1)).await.is_err() {
        if began.elapsed() > PATIENCE {
            bail!("the agent does not answer");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let channel = Endpoint::from_shared(format!("unix:{socket}"))?.connect().await?;
    deploy(&channel).await?;
    let shared = Arc::<Shared>::default();
    let mut users = JoinSet::new();
    for _ in 0..arguments.in_flight {
        users.spawn(user(client.clone(), Arc::clone(&shared)));
    }
    let probe = tokio::spawn(probe(client, Arc::clone(&shared)));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (mut late, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rollbacks {
        shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
        tokio::time::sleep(REST).await;
        let asked = Instant::now();
        let to = roll_back(&channel).await?;
        calls.push(asked.elapsed());
        tokio::time::sleep(REST).await;
        let seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let on_old =
            seen.iter().filter(|seen| seen.sent >= asked && !seen.revision.ends_with(&format!("@{to}")));
        late.push(on_old.map(|seen| seen.sent - asked).max().unwrap_or_default());
    }
    shared.stop.store(true, Ordering::SeqCst);
    probe.await?;
    while users.join_next().await.is_some() {}
    let failed = shared.failed.load(Ordering::SeqCst);
    let answered = shared.answered.load(Ordering::SeqCst);
    println!(
        "{} rollbacks, {} requests in flight, {answered} answered, {failed} failed",
        arguments.rollbacks, arguments.in_flight
    );
    let p99 = row("from the command to the last new request on the old revision", &mut late);
    row("from the command to its answer", &mut calls);
    Ok(if failed == 0 && p99 <= BUDGET { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn row(what: &str, times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    let at = |share: f64| times.get(((times.len() - 1) as f64 * share) as usize).copied().unwrap_or_default();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!("{what}: p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms", ms(at(0.5)), ms(at(0.99)), ms(at(1.0)));
    at(0.99)
}

fn body(max_tokens: u32) -> hyper::body::Bytes {
    let body = json!({
        "model": "assistant", "stream": true, "max_tokens": max_tokens, "ignore_eos": max_tokens > 1,
        "messages": [{ "role": "user", "content": "compute 52 + 28" }],
    });
    body.to_string().into()
}

async fn user(client: StreamClient, shared: Arc<Shared>) {
    while !shared.stop.load(Ordering::SeqCst) {
        let counter = if client.ask(body(48)).await.is_ok() { &shared.answered } else { &shared.failed };
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

/// Sends short requests all the time; which revision takes one is in its answer's header.
async fn probe(client: StreamClient, shared: Arc<Shared>) {
    let mut asking = JoinSet::new();
    while !shared.stop.load(Ordering::SeqCst) {
        tokio::time::sleep(PROBE_EVERY).await;
        while asking.try_join_next().is_some() {}
        // A probe that fills the node measures itself.
        if asking.len() >= 50 {
            continue;
        }
        let (client, shared, sent) = (client.clone(), Arc::clone(&shared), Instant::now());
        asking.spawn(async move {
            match client.ask(body(1)).await {
                Ok(outcome) => {
                    let revision = outcome.revision.unwrap_or_default();
                    shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(Seen { sent, revision });
                }
                Err(_) => {
                    shared.failed.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
    }
    while asking.join_next().await.is_some() {}
}

async fn deploy(channel: &Channel) -> Result<()> {
    let request = DeployRequest {
        deployment: "assistant".into(),
        model: "assistant".into(),
        context: Some(ActionContext::default()),
        ..DeployRequest::default()
    };
    let mut control = ControlClient::new(channel.clone());
    let rollout_id = control.deploy(request).await?.into_inner().rollout_id;
    loop {
        let request = GetRolloutRequest { deployment: "assistant".into(), rollout_id: rollout_id.clone() };
        let rollout = control.get_rollout(request).await?.into_inner().rollout.unwrap_or_default();
        match rollout.state() {
            State::Done => return Ok(()),
            State::Failed | State::Aborted => bail!("the second revision does not serve: {}", rollout.detail),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// To the other revision; which.
async fn roll_back(channel: &Channel) -> Result<u32> {
    let context = Some(ActionContext { reason: "a bench".into(), ..ActionContext::default() });
    let request =
        RollbackRequest { deployment: "assistant".into(), context, to_revision: 0, cut_running: false };
    let answer = ControlClient::new(channel.clone()).rollback(request).await?.into_inner();
    Ok(answer.plan.unwrap_or_default().to_revision)
}

/// Seconds.
async fn restart(command: &[String]) -> Result<f64> {
    const PORT: &str = "9105";
    let start = || -> Result<Process> {
        let words: Vec<String> = command.iter().map(|word| word.replace("{port}", PORT)).collect();
        let Some((program, rest)) = words.split_first() else { bail!("--restart needs a command") };
        Ok(Process(Command::new(program).args(rest).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    };
    let client = StreamClient::new(&format!("http://127.0.0.1:{PORT}"), "/v1/completions", None, PATIENCE)?;
    let ready = async |client: &StreamClient| -> Result<()> {
        let began = Instant::now();
        while client.models().await.is_err() {
            if began.elapsed() > PATIENCE {
                bail!("the server does not answer");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    };
    let first = start()?;
    ready(&client).await?;
    let began = Instant::now();
    Command::new("kill").arg(first.0.id().to_string()).status()?;
    drop(first);
    let second = start()?;
    ready(&client).await?;
    let took = began.elapsed().as_secs_f64();
    drop(second);
    Ok(took)
}
