//! The whole story on one machine: an agent with the built-in model, live traffic, and the console on it.

mod guide;
mod headless;
mod traffic;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use color_eyre::eyre::{Result, eyre};
use llmdeck_agent::agent::{Agent, AgentOptions};
use llmdeck_agent::config::Config;
use llmdeck_load::Load;
use tempfile::TempDir;

use crate::app::App;
use crate::link::Target;
use crate::theme::Theme;

/// What the demo serves; the deployment is named as the model is.
const DEPLOYMENT: &str = "assistant";
const WORSE: &str = "assistant-worse";
/// Serves a model that lacks a skill.
const STUDENT: &str = "student";
/// Of the traffic: what the student gets.
const STUDENT_SHARE: f64 = 0.25;
const READY_PATIENCE: Duration = Duration::from_secs(60);
const CONFIG: &str = r#"
node = "demo"
interval_ms = 500
[[deployment]]
name = "assistant"
model = "assistant"
suite = "assistant-suite"
golden_every_s = 15
objective_ttft_p99_ms = 250
drain_s = 30
[[deployment]]
name = "student"
model = "assistant-untaught"
suite = "assistant-suite"
golden_every_s = 15
objective_ttft_p99_ms = 250
rollout = { strategy = "replace", steps = [{ share = 0.3, hold_s = 10 }] }
"#;

/// Flags of the demo.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Run the story without a terminal and print what happened as JSON; fails unless no request failed and quality fell
    /// and recovered.
    #[arg(long)]
    headless: bool,
    /// How long the story takes without a terminal.
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(6..=3_600))]
    seconds: u64,
    /// Requests a second.
    #[arg(long, value_name = "RATE", default_value_t = 12.0)]
    rate: f64,
    /// Only ASCII characters.
    #[arg(long)]
    ascii: bool,
}

/// A running agent in a folder of its own, and traffic on it.
struct Demo {
    agent: Agent,
    load: Load,
    student_load: Load,
    _folder: TempDir,
}

/// Runs the demo to its end.
///
/// # Errors
/// When the agent cannot start, or the terminal cannot be used.
pub async fn run(arguments: DemoArguments) -> Result<ExitCode> {
    if !(arguments.rate > 0.0 && arguments.rate <= 1_000.0) {
        return Err(eyre!("--rate must be above 0 and at most 1000"));
    }
    let demo = Demo::start(arguments.rate).await?;
    if arguments.headless {
        return headless::run(demo, Duration::from_secs(arguments.seconds)).await;
    }
    let mut app = App::new();
    app.guide = Some(guide::hint);
    let theme = Theme::detect(|name| std::env::var(name).ok(), arguments.ascii);
    let shown = crate::app::run(vec![demo.target()], theme, app).await;
    let (report, of_student) = (demo.load.stop().await, demo.student_load.stop().await);
    demo.agent.stop().await;
    shown?;
    let (ok, failed) = (report.ok + of_student.ok, report.failed + of_student.failed);
    println!("{ok} requests were answered, {failed} failed");
    Ok(ExitCode::SUCCESS)
}

impl Demo {
    async fn start(rate_per_s: f64) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("llmdeck-demo-").tempdir()?;
        let agent = Agent::start(AgentOptions {
            config: Config::parse(&folder.path().join("demo.toml"), CONFIG)?,
            data_dir: folder.path().join("data"),
            socket: folder.path().join("agent.sock"),
            http: ([127, 0, 0, 1], 0).into(),
            grpc: None,
            nvml_library: std::env::var_os("LLMDECK_NVML_LIBRARY"),
        })
        .await?;
        let ready = async {
            while !agent.deployments().iter().all(|deployment| deployment.is_ready()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(READY_PATIENCE, ready)
            .await
            .map_err(|_| eyre!("the built-in model did not come up within {READY_PATIENCE:?}"))?;
        let plan = |name: &str, rate_per_s| traffic::plan(agent.http(), name, rate_per_s);
        let load = Load::start(plan(DEPLOYMENT, rate_per_s))?;
        let student_load = Load::start(plan(STUDENT, rate_per_s * STUDENT_SHARE))?;
        Ok(Self { agent, load, student_load, _folder: folder })
    }

    fn target(&self) -> Target {
        Target::Unix(self.agent.socket().to_owned())
    }
}
