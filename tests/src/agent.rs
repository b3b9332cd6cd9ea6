use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use llmdeck::app::Action;
use llmdeck::link::Channel;
use llmdeck::link::{LinkError, Target, dial};
use llmdeck::request;
use llmdeck_load::{ChatClient, Load, LoadPlan, Prompt};
use llmdeck_proto::v1::{ActionContext, Rollout};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::{PATIENCE, binaries, wait_for};

/// A configuration that serves the built-in model, with frames often enough for a test.
pub const ASSISTANT: &str = r#"
node = "node-a"
interval_ms = 200
shutdown_s = 20
[[deployment]]
name = "assistant"
model = "assistant"
suite = "assistant-suite"
golden_every_s = 3600
"#;

/// Where it listens.
struct Addresses {
    http: String,
    grpc: Option<String>,
}

/// A running agent and the folder that it lives in; killed when dropped.
pub struct AgentProcess {
    child: Child,
    folder: TempDir,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    addresses: Addresses,
    log: Mutex<mpsc::Receiver<Value>>,
}

impl AgentProcess {
    /// Starts one in a new folder and waits until it listens.
    pub fn start(config: &str) -> Self {
        Self::start_with(config, &[])
    }

    /// The same, with variables in its environment.
    pub fn start_with(config: &str, environment: &[(&str, &Path)]) -> Self {
        Self::start_as(tempfile::tempdir().unwrap(), config, environment, &[])
    }

    /// The same in a folder that has something in it already, with more arguments.
    pub fn start_as(
        folder: TempDir,
        config: &str,
        environment: &[(&str, &Path)],
        arguments: &[&str],
    ) -> Self {
        std::fs::write(folder.path().join("llmdeck.toml"), config).unwrap();
        let environment: Vec<(String, String)> = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.to_str().unwrap().to_owned()))
            .collect();
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let (child, addresses, log) = spawn(folder.path(), &environment, &arguments);
        Self { child, folder, environment, arguments, addresses, log: Mutex::new(log) }
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    }

    /// Its end, and what it logged until then, one JSON object a line.
    pub fn wait(&mut self) -> (ExitStatus, Vec<Value>) {
        let status = self.child.wait().unwrap();
        (status, self.log.get_mut().unwrap().iter().collect())
    }

    /// Starts it again on the same data.
    pub fn restart(&mut self) {
        let (child, addresses, log) = spawn(self.folder.path(), &self.environment, &self.arguments);
        (self.child, self.addresses, self.log) = (child, addresses, Mutex::new(log));
    }

    /// Whether the process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its gRPC socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    /// The folder with its configuration and data.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// As the console addresses it.
    pub fn target(&self) -> Target {
        Target::Unix(self.socket())
    }

    /// A connection.
    pub fn channel(&self) -> Channel {
        dial(&self.target())
    }

    /// Its HTTP address: `127.0.0.1:40123`.
    pub fn http(&self) -> &str {
        &self.addresses.http
    }

    /// Where it is reached over TLS: `127.0.0.1:40124`.
    pub fn grpc(&self) -> &str {
        self.addresses.grpc.as_deref().unwrap()
    }

    /// A client of a deployment.
    pub fn client(&self, model: &str) -> ChatClient {
        ChatClient::new(&format!("http://{}", self.http()), model, 64, PATIENCE).unwrap()
    }

    /// Waits until `assistant` answers; by which revision.
    pub async fn ready(&self) -> String {
        let client = self.client("assistant");
        wait_for("an answer", async || client.ask("compute 52 + 28").await.ok()).await.revision.unwrap()
    }

    /// Those that it ran, which a kill leaves behind.
    fn end_servers(&self) {
        let Ok(data) = std::fs::canonicalize(self.folder.path().join("data")) else { return };
        let mark = format!("LLMDECK_AGENT_DATA={}", data.display());
        let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
            let environment = std::fs::read(entry.path().join("environ")).ok()?;
            let is_its = environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes());
            entry.file_name().to_str()?.parse().ok().filter(|_| is_its).map(Pid::from_raw)
        });
        for pid in pids {
            // Gone already is as good.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.end_servers();
    }
}

fn spawn(
    folder: &Path,
    environment: &[(String, String)],
    arguments: &[String],
) -> (Child, Addresses, mpsc::Receiver<Value>) {
    let mut child = Command::new(&binaries().agent)
        .args(["run", "--log-format", "json", "--http", "127.0.0.1:0", "--config"])
        .arg(folder.join("llmdeck.toml"))
        .arg("--data-dir")
        .arg(folder.join("data"))
        .arg("--listen")
        .arg(folder.join("agent.sock"))
        .args(arguments)
        .env("RUST_LOG", "info")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (sender, log) = mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let entry = serde_json::from_str(&line).unwrap_or(Value::String(line));
            if sender.send(entry).is_err() {
                return;
            }
        }
    });
    let mut seen = Vec::new();
    let addresses = loop {
        let Ok(entry) = log.recv_timeout(PATIENCE) else {
            panic!("the agent does not listen; it logged {seen:?}")
        };
        if let Some(http) = entry["fields"]["http"].as_str() {
            let grpc = entry["fields"]["grpc"].as_str().map(str::to_owned);
            break Addresses { http: http.to_owned(), grpc };
        }
        seen.push(entry);
    };
    (child, addresses, log)
}

/// A context with a reason.
pub fn context(reason: &str) -> ActionContext {
    ActionContext { reason: reason.to_owned(), ..ActionContext::default() }
}

/// Makes a change and follows its rollout to the end.
///
/// # Errors
/// Why the agent refused, or that it has gone.
pub async fn change(channel: &Channel, action: Action, reason: &str) -> Result<Rollout, LinkError> {
    let deployment = match &action {
        Action::Deploy { deployment, .. }
        | Action::Rollback { deployment, .. }
        | Action::Abort { deployment }
        | Action::Pause { deployment }
        | Action::Resume { deployment }
        | Action::Promote { deployment }
        | Action::Evaluate { deployment }
        | Action::Bench { deployment } => deployment.clone(),
        Action::Stop { .. } | Action::BenchNode | Action::CancelJob { .. } | Action::Finetune { .. } => {
            panic!("{action:?} has no rollout")
        }
    };
    let id = request::act(channel.clone(), action, context(reason)).await?.rollout_id;
    loop {
        if let Some(rollout) = request::rollout(channel.clone(), &deployment, &id).await?
            && rollout.ended_unix_ms.is_some()
        {
            return Ok(rollout);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Traffic on `assistant`, open loop.
pub fn traffic(agent: &AgentProcess, rate_per_s: f64) -> Load {
    let prompt = |text: &str, expected: &str| Prompt { text: text.into(), expected: Some(expected.into()) };
    Load::start(LoadPlan {
        server: format!("http://{}", agent.http()),
        model: "assistant".into(),
        rate_per_s,
        max_in_flight: 512,
        max_tokens: 64,
        patience: PATIENCE,
        prompts: vec![prompt("compute 52 + 28", "80"), prompt("add 94 and 59", "153")],
        seed: 5,
    })
    .unwrap()
}
