//! Servers that the agent runs on GPUs: what they spend is theirs, and their memory is free before others start.

use std::path::Path;

use llmdeck::app::{Action, RevisionParts, RolloutChoice};
use llmdeck::request;
use llmdeck_load::{Load, LoadPlan, Prompt};
use llmdeck_proto::v1::rollout::{State, Strategy};
use llmdeck_proto::v1::{Rollout, RolloutStep};
use llmdeck_tests::{GpuNode, PATIENCE, context, processes, scripted, send, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// A card that spends 300 W, and the shares of its time that processes take, in percent.
fn card(processes: &[(u32, u32)]) -> Value {
    let process = |(pid, percent): &(u32, u32)| json!({ "pid": pid, "name": "server", "memory_bytes": 1 << 30, "utilization": percent });
    json!({ "gpus": [{
        "uuid": "GPU-a", "name": "NVIDIA H100 80GB HBM3", "utilization": 90, "power_mw": 300_000,
        "memory_used_bytes": 64_u64 << 30, "memory_total_bytes": 80_u64 << 30,
        "processes": processes.iter().map(process).collect::<Vec<_>>(),
    }] })
}

/// The server that was told to end at a request.
async fn server_that_ends_at(request: u64) -> u32 {
    let word = format!("--crash-at {request}");
    wait_for(&word, async || processes(&word).first().map(|(pid, _)| *pid)).await
}

fn config(server: &Path, more: &str) -> String {
    let server = server.display();
    format!(
        "interval_ms = 200\n[[deployment]]\nname = \"chat\"\nmodel = \"{server}\"\nqueue_limit = 4000\n{more}"
    )
}

async fn ready(node: &GpuNode) {
    let up = async || (send(&node.agent, "GET", "/readyz", "").status == 200).then_some(());
    wait_for("the server is ready", up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_started_again_when_its_memory_on_the_gpu_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let mark = u64::from(std::process::id()) << 26;
    let server = scripted(folder.path(), "server", &["--crash-at", &mark.to_string()]);
    let mut node = GpuNode::start(&config(&server, ""), &card(&[]));
    ready(&node).await;
    let first = server_that_ends_at(mark).await;
    node.change(&card(&[(first, 50)]));
    node.frame("it is on the card", |frame| frame.gpus.iter().any(|gpu| !gpu.processes.is_empty())).await;
    kill(Pid::from_raw(first as i32), Signal::SIGKILL).unwrap();
    // It would be started again behind a second.
    let mut frames = 0;
    node.frame("two seconds have passed", |_| {
        frames += 1;
        frames > 20
    })
    .await;
    assert_eq!(processes(&format!("--crash-at {mark}")), [], "the driver has not given its memory back");
    node.change(&card(&[]));
    let second = server_that_ends_at(mark).await;
    assert_ne!(first, second);
    ready(&node).await;
    node.agent.terminate();
    assert!(node.agent.wait().0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_spends_more_on_a_token_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    // No other test's server ends at these requests, nor does anyone come to them.
    let (of_stable, of_candidate) =
        (u64::from(std::process::id()) << 24, u64::from(std::process::id()) << 25);
    let server = |name: &str, crash_at: u64| {
        scripted(folder.path(), name, &["--words", "10", "--crash-at", &crash_at.to_string()])
    };
    let (stable, candidate) = (server("stable", of_stable), server("candidate", of_candidate));
    let judge = "rollout = { judge = { energy_per_token = 0.2 } }\n";
    let mut node = GpuNode::start(&config(&stable, judge), &card(&[]));
    let agent = &node.agent;
    ready(&node).await;
    let load = Load::start(LoadPlan {
        server: format!("http://{}", agent.http()),
        model: "chat".into(),
        rate_per_s: 120.0,
        max_in_flight: 512,
        max_tokens: 64,
        patience: PATIENCE,
        prompts: vec![Prompt { text: "hello".into(), expected: None }],
        seed: 5,
    });
    let load = load.unwrap();
    let how = RolloutChoice {
        strategy: Strategy::Canary,
        steps: vec![RolloutStep { share: 0.5, hold_s: 0, requests: 1_000_000 }],
        auto_promote: Some(true),
    };
    let parts = RevisionParts::model(candidate.to_str().unwrap());
    let deploy = Action::Deploy { deployment: "chat".into(), parts, force: false, how };
    let begun = request::act(agent.channel(), deploy, context("a test")).await.unwrap();
    // The candidate computes twice as much of the time, for as many tokens; a tenth is someone else's.
    let pids = (server_that_ends_at(of_stable).await, server_that_ends_at(of_candidate).await);
    node.change(&card(&[(pids.0, 30), (pids.1, 60), (std::process::id(), 10)]));
    let rollout = wait_for("the candidate is taken back", async || {
        let rollout: Option<Rollout> =
            request::rollout(agent.channel(), "chat", &begun.rollout_id).await.unwrap();
        rollout.filter(|rollout| rollout.ended_unix_ms.is_some())
    })
    .await;
    assert_eq!(rollout.state(), State::RolledBack, "{}", rollout.detail);
    assert!(rollout.detail.contains("energy_per_token is +"), "{}", rollout.detail);
    let findings = &rollout.assessment.as_ref().unwrap().findings;
    let energy = findings.iter().find(|finding| finding.metric == "energy_per_token").unwrap();
    let (stable, candidate) = (energy.stable.unwrap(), energy.candidate.unwrap());
    assert!((1.3..3.0).contains(&(candidate / stable)), "{stable} and {candidate} microjoules a token");
    assert_eq!(load.stop().await.failed, 0);

    // In the frames, too, nobody is charged for what others spend.
    let frame = node.frame("energy of the stable revision", |frame| {
        frame.deployments[0]
            .revisions
            .iter()
            .any(|revision| revision.energy_mj.is_some_and(|spent| spent > 0))
    });
    let frame = frame.await;
    let spent: u64 = frame.gpus.iter().filter_map(|gpu| gpu.energy_mj).sum();
    assert!(frame.deployments[0].energy_mj.unwrap() < spent, "{frame:?}");
    node.agent.terminate();
    assert!(node.agent.wait().0.success());
}
