//! A new revision gets a part of the traffic, is compared, and takes over or goes back.

use llmdeck::app::{Action, RevisionParts, RolloutChoice};
use llmdeck::link::Channel;
use llmdeck::link::LinkError;
use llmdeck::request;
use llmdeck_proto::v1::rollout::{State, Strategy};
use llmdeck_proto::v1::{Rollout, RolloutStep, Verdict};
use llmdeck_tests::{ASSISTANT, AgentProcess, context, send_with, traffic, wait_for};
use serde_json::json;

/// Margins that a test's few requests can prove.
const WIDE: &str = "rollout = { judge = { error_rate = 0.5, quality = 0.5 } }\n";

fn canary(model: &str, steps: &[(f64, u64)], auto_promote: bool) -> Action {
    split(Strategy::Canary, model, steps, auto_promote)
}

fn split(strategy: Strategy, model: &str, steps: &[(f64, u64)], auto_promote: bool) -> Action {
    let steps =
        steps.iter().map(|(share, requests)| RolloutStep { share: *share, hold_s: 0, requests: *requests });
    let how = RolloutChoice { strategy, steps: steps.collect(), auto_promote: Some(auto_promote) };
    Action::Deploy { deployment: "assistant".into(), parts: RevisionParts::model(model), force: false, how }
}

async fn begin(channel: &Channel, action: Action) -> String {
    request::act(channel.clone(), action, context("a test")).await.unwrap().rollout_id
}

async fn rollout(channel: &Channel, id: &str) -> Rollout {
    request::rollout(channel.clone(), "assistant", id).await.unwrap().unwrap()
}

async fn ended(channel: &Channel, id: &str) -> Rollout {
    wait_for("the rollout's end", async || {
        Some(rollout(channel, id).await).filter(|rollout| rollout.ended_unix_ms.is_some())
    })
    .await
}

async fn compared(channel: &Channel, id: &str) -> Rollout {
    wait_for("a comparison", async || {
        Some(rollout(channel, id).await).filter(|rollout| rollout.state() == State::Canary)
    })
    .await
}

/// Which revision answers; `more` is added to the request's header lines, `user` to its body.
fn answered_by(agent: &AgentProcess, more: &str, user: Option<&str>) -> (u16, String) {
    let mut body = json!({
        "model": "assistant", "max_tokens": 4, "messages": [{ "role": "user", "content": "compute 52 + 28" }],
    });
    if let Some(user) = user {
        body["user"] = user.into();
    }
    let answer = send_with(agent, "POST", "/v1/chat/completions", more, &body.to_string());
    (answer.status, answer.header("x-llmdeck-revision").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_is_no_worse_takes_over_by_itself_and_drops_nothing() {
    let agent = AgentProcess::start(&format!("{ASSISTANT}queue_limit = 4000\n{WIDE}"));
    agent.ready().await;
    let channel = agent.channel();
    let load = traffic(&agent, 12.0);
    let id = begin(&channel, canary("assistant", &[(0.4, 5), (0.5, 10)], true)).await;
    let seen = compared(&channel, &id).await;
    assert_eq!((seen.steps.len(), seen.strategy()), (2, Strategy::Canary));
    let done = ended(&channel, &id).await;
    assert_eq!(done.state(), State::Done, "{}", done.detail);
    let assessment = done.assessment.clone().unwrap();
    assert!(matches!(assessment.verdict(), Verdict::NoWorse | Verdict::Better), "{}", assessment.sentence);
    assert!(assessment.candidate_requests >= 10 && assessment.stable_requests > 0);
    let judged: Vec<&str> = assessment
        .findings
        .iter()
        .filter(|finding| finding.judged)
        .map(|finding| finding.metric.as_str())
        .collect();
    assert_eq!(judged, ["error_rate", "quality"]);
    let between_tokens = assessment.findings.iter().find(|finding| finding.metric == "itl_p50").unwrap();
    assert!(between_tokens.stable.is_some() && between_tokens.candidate.is_some(), "{between_tokens:?}");
    assert!(!done.history.is_empty(), "how it came about can be read later");
    let report = load.stop().await;
    assert_eq!((report.failed, done.failed_requests), (0, 0), "{:?}", report.errors);
    assert!(report.revisions.contains_key("assistant@1") && report.revisions.contains_key("assistant@2"));
    assert_eq!(agent.ready().await, "assistant@2");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_hold_a_canary_let_it_go_on_and_decide() {
    let agent = AgentProcess::start(&format!("{ASSISTANT}queue_limit = 4000\n{WIDE}"));
    agent.ready().await;
    let channel = agent.channel();
    let steer = async |action: fn(String) -> Action| {
        request::act(channel.clone(), action("assistant".into()), context("a test")).await
    };
    let nothing = steer(|deployment| Action::Promote { deployment }).await.unwrap_err();
    assert!(matches!(&nothing, LinkError::Refused(words) if words.contains("no canary")), "{nothing:?}");

    let load = traffic(&agent, 12.0);
    let id = begin(&channel, canary("assistant", &[(0.5, 1), (0.6, 1_000_000)], false)).await;
    compared(&channel, &id).await;
    steer(|deployment| Action::Pause { deployment }).await.unwrap();
    let held =
        wait_for("the pause", async || Some(rollout(&channel, &id).await).filter(|seen| seen.paused)).await;
    assert_eq!(held.state(), State::Canary);
    steer(|deployment| Action::Resume { deployment }).await.unwrap();
    wait_for("the second step", async || Some(rollout(&channel, &id).await).filter(|seen| seen.step == 1))
        .await;
    steer(|deployment| Action::Promote { deployment }).await.unwrap();
    let done = ended(&channel, &id).await;
    assert_eq!(done.state(), State::Done, "{}", done.detail);
    assert_eq!(agent.ready().await, "assistant@2");

    // The way back from a canary is to what serves, at once.
    let id = begin(&channel, canary("assistant-worse", &[(0.5, 1_000_000)], false)).await;
    compared(&channel, &id).await;
    let back = Action::Rollback { deployment: "assistant".into(), to_revision: 0, cut: false };
    let answer = request::act(channel.clone(), back, context("a test")).await.unwrap();
    assert_eq!(answer.plan.unwrap().to_revision, 2);
    for _ in 0..8 {
        assert_eq!(answered_by(&agent, "", None), (200, "assistant@2".to_owned()));
    }
    assert_eq!(ended(&channel, &id).await.state(), State::Aborted);
    let past = request::rollouts(channel.clone(), "assistant", 10).await.unwrap();
    let states: Vec<State> = past.iter().map(Rollout::state).collect();
    assert_eq!(states, [State::Aborted, State::Done]);
    assert!(past[1].history.is_empty(), "a list is short");
    assert!(!rollout(&channel, &past[1].id).await.history.is_empty(), "what was known stays known");
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{:?}", report.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_stay_where_they_are_and_testers_choose() {
    let agent = AgentProcess::start(&format!("{ASSISTANT}{WIDE}"));
    agent.ready().await;
    let channel = agent.channel();
    let id = begin(&channel, canary("assistant-worse", &[(0.5, 1_000_000)], false)).await;
    compared(&channel, &id).await;
    let mut seen = std::collections::BTreeSet::new();
    for user in 0..24 {
        let user = format!("user-{user}");
        let (_, first) = answered_by(&agent, "", Some(&user));
        assert_eq!(answered_by(&agent, "", Some(&user)).1, first);
        seen.insert(first);
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    let wish = |wish: &str| answered_by(&agent, &format!("x-llmdeck-revision: {wish}\r\n"), None);
    for _ in 0..4 {
        assert_eq!(wish("candidate"), (200, "assistant@2".to_owned()));
        assert_eq!(wish("stable"), (200, "assistant@1".to_owned()));
        assert_eq!(wish("assistant@2"), (200, "assistant@2".to_owned()));
    }
    assert_eq!(wish("9").0, 404);
    assert_eq!(wish("newest").0, 400);
    // What testers chose was not drawn, and is not compared.
    wait_for("every drawn request", async || {
        let assessment = rollout(&channel, &id).await.assessment.unwrap();
        let drawn = assessment.candidate_requests + assessment.stable_requests;
        assert!(drawn <= 48, "{drawn}");
        (drawn == 48).then_some(())
    })
    .await;
    // A user who was on the candidate is there no more.
    request::act(channel.clone(), Action::Abort { deployment: "assistant".into() }, context("enough"))
        .await
        .unwrap();
    for user in 0..24 {
        assert_eq!(answered_by(&agent, "", Some(&format!("user-{user}"))).1, "assistant@1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_is_compared_without_anyone_seeing_its_answers() {
    let agent = AgentProcess::start(&format!("{ASSISTANT}queue_limit = 4000\n{WIDE}"));
    agent.ready().await;
    let channel = agent.channel();
    let load = traffic(&agent, 12.0);
    let id = begin(&channel, split(Strategy::Shadow, "assistant-worse", &[(1.0, 20)], false)).await;
    let seen = wait_for("copies that were compared", async || {
        let seen = rollout(&channel, &id).await;
        let requests = seen.assessment.as_ref().map_or(0, |assessment| assessment.candidate_requests);
        (requests >= 20).then_some(seen)
    })
    .await;
    let timed = seen.assessment.unwrap().findings;
    assert!(timed.iter().all(|finding| !finding.judged
        || !["ttft", "itl", "tpot", "e2e"].iter().any(|timed| finding.metric.starts_with(timed))));
    request::act(channel.clone(), Action::Abort { deployment: "assistant".into() }, context("seen"))
        .await
        .unwrap();
    assert_eq!(ended(&channel, &id).await.state(), State::Aborted);
    let report = load.stop().await;
    assert_eq!((report.failed, report.revisions.len()), (0, 1), "{:?} {:?}", report.errors, report.revisions);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_while_it_compares_serves_the_stable_revision() {
    let mut agent = AgentProcess::start(&format!("{ASSISTANT}{WIDE}"));
    agent.ready().await;
    let id = begin(&agent.channel(), canary("assistant-worse", &[(0.5, 1_000_000)], false)).await;
    compared(&agent.channel(), &id).await;
    agent.kill();
    agent.restart();
    assert_eq!(agent.ready().await, "assistant@1");
    let settled = ended(&agent.channel(), &id).await;
    assert_eq!(settled.state(), State::Failed);
    assert!(settled.detail.contains("all requests go to the stable revision again"), "{}", settled.detail);
}
