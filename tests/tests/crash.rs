//! kill -9 at any moment: the agent comes back serving what it last promised.

use std::time::Duration;

use llmdeck::app::{Action, RevisionParts, RolloutChoice};
use llmdeck::request;
use llmdeck_proto::v1::rollout::State;
use llmdeck_tests::{AgentProcess, change, context, wait_for};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const ROUNDS: usize = 50;
/// A small suite, so that the moment of scoring is short enough to be hit before and after.
const CONFIG: &str = r#"
interval_ms = 200
[[deployment]]
name = "assistant"
model = "assistant"
suite = "small.jsonl"
golden_every_s = 3600
"#;
const SUITE: &str = "{\"prompt\":\"compute 52 + 28\",\"checks\":[{\"equals\":\"80\"}]}\n";

fn number(revision: &str) -> u32 {
    revision.rsplit_once('@').unwrap().1.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_in_the_middle_of_a_change_never_break_a_promise() {
    let mut rng = StdRng::seed_from_u64(9);
    let folder = tempfile::tempdir().unwrap();
    let suite = folder.path().join("small.jsonl");
    std::fs::write(&suite, SUITE).unwrap();
    let mut agent = AgentProcess::start(&CONFIG.replace("small.jsonl", suite.to_str().unwrap()));
    let mut serving = number(&agent.ready().await);
    let mut highest = serving;
    let mut kept = 0;
    for round in 0..ROUNDS {
        let channel = agent.channel();
        let rolls_back = round % 3 == 2;
        let action = if rolls_back {
            Action::Rollback { deployment: "assistant".into(), to_revision: 0, cut: false }
        } else {
            let model = if round % 2 == 0 { "assistant-worse" } else { "assistant" };
            Action::Deploy {
                deployment: "assistant".into(),
                parts: RevisionParts::model(model),
                force: false,
                how: RolloutChoice::default(),
            }
        };
        let task = tokio::spawn(async move { change(&channel, action, "crash").await });
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..120_000))).await;
        // What a client has seen of the new revision is a promise, and so is an answered rollout.
        let seen = if task.is_finished() { task.await.unwrap().ok() } else { None };
        agent.kill();
        agent.restart();
        let after = number(&agent.ready().await);
        if let Some(rollout) = seen.filter(|rollout| rollout.state() == State::Done) {
            assert_eq!(after, rollout.to_revision, "round {round}: a finished rollout was forgotten");
            kept += 1;
        } else if rolls_back {
            assert!(after <= highest, "round {round}: {after} was never made");
        } else {
            assert!(after == serving || after > highest, "round {round}: {after} is neither old nor new");
        }
        highest = highest.max(after);
        serving = after;
        let channel = agent.channel();
        let rollout = request::rollout(channel, "assistant", "").await.unwrap();
        assert!(
            rollout.is_none_or(|rollout| rollout.ended_unix_ms.is_some()),
            "round {round}: a rollout hangs"
        );
    }
    assert!(kept > 0, "no change was ever quick enough; the test has lost its meaning");
    // And it still can be changed.
    let channel = agent.channel();
    let deploy = Action::Deploy {
        deployment: "assistant".into(),
        parts: RevisionParts::model("assistant-untaught"),
        force: false,
        how: RolloutChoice::default(),
    };
    let rollout = change(&channel, deploy, "after all").await.unwrap();
    assert_eq!(rollout.state(), State::Done, "{}", rollout.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_has_seen_of_a_new_revision_survives_a_kill() {
    let mut agent = AgentProcess::start(&CONFIG.replace("suite = \"small.jsonl\"\n", ""));
    agent.ready().await;
    for expected in ["assistant@2", "assistant@3", "assistant@4"] {
        let channel = agent.channel();
        let deploy = Action::Deploy {
            deployment: "assistant".into(),
            parts: RevisionParts::model("assistant-worse"),
            force: false,
            how: RolloutChoice::default(),
        };
        request::act(channel, deploy, context("")).await.unwrap();
        let client = agent.client("assistant");
        wait_for("an answer of the new revision", async || {
            let revision = client.ask("add 94 and 59").await.unwrap().revision;
            (revision.as_deref() == Some(expected)).then_some(())
        })
        .await;
        agent.kill();
        agent.restart();
        assert_eq!(agent.ready().await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_on_the_same_data_is_refused() {
    let agent = AgentProcess::start(CONFIG.replace("suite = \"small.jsonl\"\n", "").as_str());
    let output = std::process::Command::new(&llmdeck_tests::binaries().agent)
        .args(["run", "--http", "127.0.0.1:0", "--data-dir"])
        .arg(agent.folder().join("data"))
        .arg("--listen")
        .arg(agent.folder().join("other.sock"))
        .output()
        .unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(words.contains("another agent (pid ") && words.contains("--data-dir"), "{words}");
}
