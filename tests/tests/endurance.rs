//! Many changes in a row while people use what is changed.

use llmdeck::app::{Action, RevisionParts, RolloutChoice};
use llmdeck::link::Channel;
use llmdeck::request;
use llmdeck_proto::v1::rollout::{State, Strategy};
use llmdeck_proto::v1::{Rollout, RolloutStep};
use llmdeck_tests::{ASSISTANT, AgentProcess, change, context, traffic, wait_for};

const ROLLOUTS: usize = 200;
/// Forgets nothing that it needs, and holds no more than two models.
const MOST_LOADED: usize = 3;

fn deploy(model: &str, how: RolloutChoice) -> Action {
    Action::Deploy { deployment: "assistant".into(), parts: RevisionParts::model(model), force: false, how }
}

async fn latest(channel: &Channel, id: &str) -> Rollout {
    request::rollout(channel.clone(), "assistant", id).await.unwrap().unwrap()
}

/// Begins a canary, lets it take requests, and ends it as asked.
async fn canary(channel: &Channel, model: &str, end: Action) -> Rollout {
    let how = RolloutChoice {
        strategy: Strategy::Canary,
        steps: vec![RolloutStep { share: 0.5, hold_s: 0, requests: 1_000_000 }],
        auto_promote: Some(false),
    };
    let id = request::act(channel.clone(), deploy(model, how), context("canary")).await.unwrap().rollout_id;
    wait_for("the canary takes requests", async || {
        let rollout = latest(channel, &id).await;
        assert!(rollout.ended_unix_ms.is_none(), "{}", rollout.detail);
        let compared = rollout.assessment.is_some_and(|assessment| assessment.candidate_requests > 0);
        compared.then_some(())
    })
    .await;
    request::act(channel.clone(), end, context("decided")).await.unwrap();
    wait_for("its end", async || {
        Some(latest(channel, &id).await).filter(|rollout| rollout.ended_unix_ms.is_some())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_rollouts_in_a_row_under_load_fail_nobody() {
    let config = ASSISTANT.replace("suite = \"assistant-suite\"\n", "");
    let agent = AgentProcess::start(&format!("{config}queue_limit = 4000\n"));
    agent.ready().await;
    let channel = agent.channel();
    let load = traffic(&agent, 10.0);
    let name = || "assistant".to_owned();
    for round in 0..ROLLOUTS {
        let model = if round % 8 < 4 { "assistant-worse" } else { "assistant" };
        let (rollout, expected) = match round % 4 {
            0 => (
                change(&channel, deploy(model, RolloutChoice::default()), "round").await.unwrap(),
                State::Done,
            ),
            1 => {
                let back = Action::Rollback { deployment: name(), to_revision: 0, cut: false };
                (change(&channel, back, "round").await.unwrap(), State::Done)
            }
            2 => (canary(&channel, model, Action::Promote { deployment: name() }).await, State::Done),
            _ => (canary(&channel, model, Action::Abort { deployment: name() }).await, State::Aborted),
        };
        assert_eq!(rollout.state(), expected, "round {round}: {}", rollout.detail);
        assert_eq!(rollout.failed_requests, 0, "round {round}");
    }
    let mut frames = llmdeck_proto::v1::telemetry_client::TelemetryClient::new(channel)
        .watch(llmdeck_proto::v1::WatchRequest { interval_ms: 0 })
        .await
        .unwrap()
        .into_inner();
    let frame = frames.message().await.unwrap().unwrap();
    let deployment = &frame.deployments[0];
    let loaded: Vec<u32> = deployment.revisions.iter().map(|revision| revision.number).collect();
    assert!(loaded.len() <= MOST_LOADED && loaded.contains(&deployment.stable_revision), "{loaded:?}");
    let report = load.stop().await;
    assert_eq!((report.failed, report.not_sent), (0, 0), "{:?}", report.errors);
    assert!(report.ok > ROLLOUTS as u64 / 4, "{} answers", report.ok);
}
