//! Models share a node's memory: what fits is said before it is loaded, and who is not asked gives way.

use std::process::Command;

use llmdeck::app::{Action, RevisionParts, RolloutChoice};
use llmdeck::link::LinkError;
use llmdeck_proto::v1::revision::State;
use llmdeck_proto::v1::telemetry_client::TelemetryClient;
use llmdeck_proto::v1::{Deployment, Frame, WatchRequest};
use llmdeck_tests::{AgentProcess, binaries, change, wait_for};

/// Room for one of the built-in models with these settings, not for two.
const ROOM_FOR_ONE: &str = "memory_bytes = 24000000\n";

fn deployment(name: &str, model: &str, more: &str) -> String {
    format!(
        "[[deployment]]\nname = \"{name}\"\nmodel = \"{model}\"\nmax_concurrent = 4\ncache_bytes = 8388608\n{more}\n"
    )
}

async fn frame_when<T>(agent: &AgentProcess, what: &str, found: impl Fn(&Frame) -> Option<T>) -> T {
    let mut frames =
        TelemetryClient::new(agent.channel()).watch(WatchRequest::default()).await.unwrap().into_inner();
    let wait = async {
        loop {
            let frame = frames.message().await.unwrap().unwrap();
            if let Some(found) = found(&frame) {
                return found;
            }
        }
    };
    tokio::time::timeout(llmdeck_tests::PATIENCE, wait).await.unwrap_or_else(|_| panic!("never came: {what}"))
}

fn state(frame: &Frame, name: &str) -> Option<State> {
    let deployment: &Deployment = frame.deployments.iter().find(|deployment| deployment.name == name)?;
    deployment.revisions.first().map(|revision| revision.state())
}

fn doctor(agent: &AgentProcess) -> String {
    let output = Command::new(&binaries().agent)
        .args(["doctor", "--http", "127.0.0.1:0", "--data-dir"])
        .arg(agent.folder().join("data"))
        .arg("--listen")
        .arg(agent.socket())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_models_that_do_not_fit_together_take_turns() {
    let turns = "idle_unload_s = 3600";
    let first = deployment("first", "assistant", turns);
    let agent = AgentProcess::start(&format!(
        "interval_ms = 100\n{ROOM_FOR_ONE}{first}{}",
        deployment("second", "assistant-worse", turns)
    ));
    let (first, second) = (agent.client("first"), agent.client("second"));
    // Whichever was brought up last has the memory; both answer whenever they are asked.
    wait_for("both are brought up", async || first.ask("compute 52 + 28").await.ok()).await;
    wait_for("both are brought up", async || second.ask("compute 52 + 28").await.ok()).await;
    for _ in 0..3 {
        assert_eq!(first.ask("compute 52 + 28").await.unwrap().text.trim(), "80");
        frame_when(&agent, "the second gave way", |frame| {
            let states = (state(frame, "first"), state(frame, "second"));
            (states == (Some(State::Serving), Some(State::Unloaded))).then_some(())
        })
        .await;
        second.ask("compute 52 + 28").await.unwrap();
    }
    let report = doctor(&agent);
    assert!(report.contains("first@1 is unloaded") && report.contains("second@1 holds"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_does_not_fit_is_refused_with_the_numbers() {
    let config = format!("{ROOM_FOR_ONE}{}", deployment("assistant", "assistant", ""));
    let agent = AgentProcess::start(&config);
    agent.ready().await;
    let deploy = Action::Deploy {
        deployment: "assistant".into(),
        parts: RevisionParts::model("assistant-worse"),
        force: false,
        how: RolloutChoice::default(),
    };
    let refused = change(&agent.channel(), deploy, "").await.unwrap_err();
    let LinkError::Refused(words) = &refused else { panic!("{refused:?}") };
    assert!(words.contains("assistant@1 holds") && words.contains("weights"), "{words}");
    assert_eq!(agent.ready().await, "assistant@1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guaranteed_part_is_not_lent() {
    let guaranteed = deployment("kept", "assistant", "guaranteed_bytes = 16000000");
    let agent = AgentProcess::start(&format!(
        "interval_ms = 100\n{ROOM_FOR_ONE}{}{guaranteed}",
        deployment("other", "assistant-worse", "")
    ));
    let kept = agent.client("kept");
    wait_for("the guaranteed one serves", async || kept.ask("compute 52 + 28").await.ok()).await;
    let why = frame_when(&agent, "the other is refused", |frame| {
        let other = frame.deployments.iter().find(|deployment| deployment.name == "other")?;
        Some(other.unavailable.clone()).filter(|why| why.contains("MiB"))
    })
    .await;
    assert!(why.contains("cache") && (why.contains("guaranteed") || why.contains("kept@1 holds")), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_asked_is_unloaded_and_comes_back_with_the_next_request() {
    let config = format!("interval_ms = 100\n{}", deployment("assistant", "assistant", "idle_unload_s = 1"));
    let agent = AgentProcess::start(&config);
    agent.ready().await;
    frame_when(&agent, "it is unloaded", |frame| {
        (state(frame, "assistant") == Some(State::Unloaded)).then_some(())
    })
    .await;
    let answer = agent.client("assistant").ask("compute 52 + 28").await.unwrap();
    assert_eq!(answer.text.trim(), "80");
    frame_when(&agent, "it is unloaded again", |frame| {
        (state(frame, "assistant") == Some(State::Unloaded)).then_some(())
    })
    .await;
}
