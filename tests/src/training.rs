use llmdeck::request;
use serde_json::Value;

use crate::{AgentProcess, words};

/// A model that lacks a skill.
pub const UNTAUGHT: &str = r#"
node = "node-a"
interval_ms = 200
shutdown_s = 20
[[deployment]]
name = "assistant"
model = "assistant-untaught"
suite = "assistant-suite"
golden_every_s = 3600
adapters = ["taught"]
rollout = { strategy = "replace", steps = [{ share = 0.5, hold_s = 1 }] }
"#;

/// Begins a fine-tuning of `assistant`; its job.
///
/// # Panics
/// When it is refused.
pub fn begin_finetune(agent: &AgentProcess, dataset: &str, more: &[&str]) -> String {
    let begun = agent.json(&[&["finetune", "assistant", "--dataset", dataset, "--yes"], more].concat());
    begun["job"].as_str().unwrap().to_owned()
}

/// The last line that following a job prints.
///
/// # Panics
/// When it is not JSON.
pub fn end_of_job(agent: &AgentProcess, job: &str) -> Value {
    let followed = agent.llmdeck(&["jobs", "watch", job, "--json"]);
    let lines = String::from_utf8_lossy(&followed.stdout).into_owned();
    serde_json::from_str(lines.lines().last().unwrap_or_else(|| panic!("{}", words(&followed)))).unwrap()
}

/// A job's state, and the last step that it has taken.
///
/// # Panics
/// When there is no such job.
pub async fn step_of(agent: &AgentProcess, job: &str) -> (String, Option<u64>) {
    let report = request::job(agent.channel(), job).await.unwrap();
    (report.job.unwrap().state, report.training.last().map(|point| point.step))
}
