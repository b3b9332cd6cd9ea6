//! Redeploy and roll back under live traffic.

use std::path::Path;

use llmdeck::app::{Action, RevisionParts, RolloutChoice};
use llmdeck::link::LinkError;
use llmdeck::request;
use llmdeck_proto::v1::rollout::State;
use llmdeck_proto::v1::{ActionContext, RollbackRequest, Rollout};
use llmdeck_tests::{ASSISTANT, AgentProcess, change, context, traffic, wait_for};

fn deploy(model: &str) -> Action {
    Action::Deploy {
        deployment: "assistant".into(),
        parts: RevisionParts::model(model),
        force: false,
        how: RolloutChoice::default(),
    }
}

fn rollback() -> Action {
    Action::Rollback { deployment: "assistant".into(), to_revision: 0, cut: false }
}

/// The built-in model's file.
fn assistant() -> Vec<u8> {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/builtin/assets");
    std::fs::read(assets.join("assistant.gguf")).unwrap()
}

fn done(rollout: &Rollout) {
    assert_eq!(rollout.state(), State::Done, "{}", rollout.detail);
    assert_eq!(rollout.failed_requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_revisions_come_and_go() {
    // A slow machine may queue; this is about what a redeploy drops.
    let agent = AgentProcess::start(&format!("{ASSISTANT}queue_limit = 4000\n"));
    agent.ready().await;
    let channel = agent.channel();
    let load = traffic(&agent, 25.0);
    for round in 0..3 {
        done(&change(&channel, deploy("assistant-worse"), "round").await.unwrap());
        let answered = load.report().ok;
        wait_for("traffic on the new revision", async || (load.report().ok > answered + 20).then_some(()))
            .await;
        let back = change(&channel, rollback(), "back").await.unwrap();
        done(&back);
        assert_eq!(back.to_revision, 1, "round {round}");
    }
    let report = load.stop().await;
    assert_eq!((report.failed, report.due), (0, report.ok), "{:?}", report.errors);
    assert_eq!(report.revisions.len(), 4, "every revision answered: {:?}", report.revisions);
    let first = report.revisions["assistant@1"];
    assert_eq!(first.exact, first.judged, "the good revision answers exactly");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_below_the_floor_is_refused_unless_forced() {
    let agent = AgentProcess::start(&format!("{ASSISTANT}golden_floor = 0.8\n"));
    agent.ready().await;
    let channel = agent.channel();
    let refused = change(&channel, deploy("assistant-worse"), "").await.unwrap();
    assert_eq!(refused.state(), State::Failed);
    assert!(refused.detail.contains("below the floor of 0.80"), "{}", refused.detail);
    assert_eq!(agent.ready().await, "assistant@1");
    let forced = Action::Deploy {
        deployment: "assistant".into(),
        parts: RevisionParts::model("assistant-worse"),
        force: true,
        how: RolloutChoice::default(),
    };
    done(&change(&channel, forced, "").await.unwrap());
    assert_eq!(agent.ready().await, "assistant@3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_be_loaded_leaves_the_stable_one_serving() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let channel = agent.channel();
    let broken = agent.folder().join("broken.gguf");
    std::fs::write(&broken, b"GGUF but not really").unwrap();
    let refused = change(&channel, deploy(broken.to_str().unwrap()), "").await.unwrap_err();
    assert!(matches!(&refused, LinkError::Refused(words) if words.contains("broken.gguf")), "{refused:?}");
    // A header is read before anything begins; that weights are missing shows when they are loaded.
    let short = agent.folder().join("short.gguf");
    let whole = assistant();
    std::fs::write(&short, &whole[..whole.len() / 2]).unwrap();
    let failed = change(&channel, deploy(short.to_str().unwrap()), "").await.unwrap();
    assert_eq!(failed.state(), State::Failed);
    assert!(
        failed.detail.contains("short.gguf") && failed.detail.contains("fetch it again"),
        "{}",
        failed.detail
    );
    let unknown = change(&channel, deploy("nonesuch"), "").await.unwrap_err();
    assert!(matches!(&unknown, LinkError::Wrong(words) if words.contains("assistant-worse")), "{unknown:?}");
    assert_eq!(agent.ready().await, "assistant@1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_cannot_be_scored_leaves_the_stable_one_serving() {
    let folder = tempfile::tempdir().unwrap();
    let suite = folder.path().join("suite.jsonl");
    let prompt = "x".repeat(4_000);
    std::fs::write(&suite, format!("{{\"prompt\":\"{prompt}\",\"checks\":[{{\"equals\":\"y\"}}]}}\n"))
        .unwrap();
    let agent = AgentProcess::start(&ASSISTANT.replace("assistant-suite", suite.to_str().unwrap()));
    agent.ready().await;
    let failed = change(&agent.channel(), deploy("assistant-worse"), "").await.unwrap();
    assert_eq!(failed.state(), State::Failed);
    assert!(failed.detail.contains("shorten the prompt"), "{}", failed.detail);
    assert_eq!(agent.ready().await, "assistant@1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_cannot_answer_fails_its_warm_up() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let mut bytes = assistant();
    // The file ends with the weights of the last norm; all bits set is not a number.
    let end = bytes.len();
    bytes[end - 32..].fill(0xff);
    let damaged = agent.folder().join("damaged.gguf");
    std::fs::write(&damaged, bytes).unwrap();
    let failed = change(&agent.channel(), deploy(damaged.to_str().unwrap()), "").await.unwrap();
    assert_eq!(failed.state(), State::Failed);
    assert!(
        failed.detail.contains("Are you ready?") && failed.detail.contains("damaged"),
        "{}",
        failed.detail
    );
    assert_eq!(agent.ready().await, "assistant@1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promise_that_cannot_be_kept_on_disk_is_not_made() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let channel = agent.channel();
    let store = rusqlite::Connection::open(agent.folder().join("data/store.sqlite")).unwrap();
    store
        .execute_batch(
            "CREATE TRIGGER full BEFORE UPDATE ON deployment BEGIN SELECT RAISE(FAIL, 'the disk is full'); END",
        )
        .unwrap();
    let failed = change(&channel, deploy("assistant-worse"), "").await.unwrap();
    assert_eq!(failed.state(), State::Failed);
    assert!(failed.detail.contains("the disk is full"), "{}", failed.detail);
    assert_eq!(agent.ready().await, "assistant@1");
    store.execute_batch("DROP TRIGGER full").unwrap();
    done(&change(&channel, deploy("assistant-worse"), "").await.unwrap());
    assert_eq!(agent.ready().await, "assistant@3");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_operator_is_refused_and_told_who_was_first() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let channel = agent.channel();
    let first =
        request::act(channel.clone(), deploy("assistant-worse"), context("longer context")).await.unwrap();
    let second = request::act(channel.clone(), deploy("assistant-untaught"), context("mine")).await;
    let Err(LinkError::Refused(words)) = second else { panic!("{second:?}") };
    assert!(words.contains("longer context") && words.contains("revision 2"), "{words}");
    let ended = wait_for("the first rollout", async || {
        let rollout =
            request::rollout(channel.clone(), "assistant", &first.rollout_id).await.unwrap().unwrap();
        rollout.ended_unix_ms.map(|_| rollout)
    });
    done(&ended.await);
    let stale = ActionContext { expected_revision: 1, ..context("") };
    let Err(LinkError::Refused(words)) = request::act(channel.clone(), rollback(), stale).await else {
        panic!("a stale belief was not refused")
    };
    assert!(words.contains("at revision 2, not 1"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_again_does_nothing_and_a_dry_run_changes_nothing() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let channel = agent.channel();
    let dry = ActionContext { dry_run: true, ..context("") };
    let plan = request::act(channel.clone(), deploy("assistant-worse"), dry).await.unwrap().plan.unwrap();
    assert_eq!((plan.from_revision, plan.to_revision, plan.standby_ready), (1, 2, false));
    assert!(plan.effects.iter().any(|effect| effect.contains("96 golden prompts")), "{:?}", plan.effects);
    assert!(request::rollout(channel.clone(), "assistant", "").await.unwrap().is_none());

    done(&change(&channel, deploy("assistant-worse"), "").await.unwrap());
    let context = Some(ActionContext { idempotency_key: "once".into(), ..context("") });
    let request =
        RollbackRequest { deployment: "assistant".into(), context, to_revision: 0, cut_running: false };
    let mut control = llmdeck_proto::v1::control_client::ControlClient::new(channel);
    let first = control.rollback(request.clone()).await.unwrap().into_inner();
    let again = control.rollback(request).await.unwrap().into_inner();
    assert_eq!(first, again);
    assert_eq!(agent.ready().await, "assistant@1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_to_what_is_no_longer_loaded_loads_it() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let channel = agent.channel();
    for model in ["assistant-worse", "assistant-untaught"] {
        done(&change(&channel, deploy(model), "").await.unwrap());
    }
    let to_first = Action::Rollback { deployment: "assistant".into(), to_revision: 1, cut: false };
    done(&change(&channel, to_first, "the first was best").await.unwrap());
    assert_eq!(agent.ready().await, "assistant@1");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_action_is_in_the_audit_with_who_what_why_and_how_it_ended() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let channel = agent.channel();
    done(&change(&channel, deploy("assistant-worse"), "try it").await.unwrap());
    let audit = wait_for("the outcome", async || {
        let audit = std::fs::read_to_string(agent.folder().join("data/audit.jsonl")).unwrap();
        (audit.lines().count() == 2).then_some(audit)
    });
    let audit = audit.await;
    let records: Vec<serde_json::Value> =
        audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let uid = nix::unistd::Uid::current().as_raw();
    assert_eq!(records[0]["uid"], uid);
    assert_eq!(
        [&records[0]["action"], &records[0]["subject"], &records[0]["reason"], &records[0]["outcome"]],
        ["deploy", "assistant@2", "try it", "accepted"]
    );
    assert_eq!(records[1]["action"], "outcome");
    assert!(records[1]["outcome"].as_str().unwrap().starts_with("done"), "{audit}");
}
