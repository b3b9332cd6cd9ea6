//! A deployment that an operator takes out of service, and what brings it back.

use std::path::Path;

use llmdeck::app::Action;
use llmdeck::request;
use llmdeck_proto::v1::rollout::State;
use llmdeck_tests::{ASSISTANT, AgentProcess, change, context, processes, scripted, send, wait_for, words};
use serde_json::{Value, json};

const QUESTION: &str = r#"{"model":"assistant","messages":[{"role":"user","content":"compute 1 + 1"}]}"#;

fn ask(agent: &AgentProcess) -> (u16, String) {
    let answer = send(agent, "POST", "/v1/chat/completions", QUESTION);
    (answer.status, answer.body)
}

async fn is_refused(agent: &AgentProcess) {
    wait_for("its refusals", async || {
        let (status, body) = ask(agent);
        (status == 503 && body.contains("it was stopped")).then_some(())
    })
    .await;
}

async fn holds_nothing(agent: &AgentProcess) {
    wait_for("its memory back", async || {
        let deployment = &agent.json(&["status"])["deployments"][0];
        let held = deployment["revisions"].as_array().unwrap().len();
        (held == 0 && deployment["stable_revision"] == 0).then_some(())
    })
    .await;
}

/// An agent whose model answers with 20 words, one each `word_ms`.
async fn slow_agent(folder: &Path, word_ms: &str) -> AgentProcess {
    let server = scripted(folder, "slow", &["--words", "20", "--word-ms", word_ms]);
    let agent = AgentProcess::start(&format!(
        "interval_ms = 200\n[[deployment]]\nname = \"assistant\"\nmodel = \"{}\"\n",
        server.display()
    ));
    wait_for("an answer", async || (ask(&agent).0 == 200).then_some(())).await;
    agent
}

/// Stops the deployment while a request runs, which is answered whole whatever comes `then`.
fn stop_under_a_request(agent: &AgentProcess, then: impl AsyncFnOnce()) {
    std::thread::scope(|scope| {
        let running = scope.spawn(|| ask(agent));
        let rest = async {
            wait_for("the request to run", async || {
                (agent.json(&["status"])["deployments"][0]["revisions"][0]["in_flight"] == 1).then_some(())
            })
            .await;
            let stop = Action::Stop { deployment: "assistant".into() };
            request::act(agent.channel(), stop, context("maintenance")).await.unwrap();
            then().await;
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(rest));
        let (status, body) = running.join().unwrap();
        assert_eq!((status, body.matches("word").count()), (200, 20), "{body}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_stops_it_for_good_and_a_rollback_brings_it_back() {
    let mut agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let stop = ["stop", "assistant", "--reason", "it is too hot"];
    let asks = agent.llmdeck(&stop);
    assert_eq!(asks.status.code(), Some(2), "without a terminal its name cannot be typed: {}", words(&asks));
    let looked = agent.llmdeck(&[&stop[..], &["--dry-run"]].concat());
    assert!(words(&looked).contains("refused with 503"), "{}", words(&looked));
    assert_eq!(agent.ready().await, "assistant@1", "nothing has changed yet");

    let stopped = agent.llmdeck(&[&stop[..], &["--yes"]].concat());
    assert_eq!(stopped.status.code(), Some(0), "{}", words(&stopped));
    assert!(words(&stopped).contains("undo: llmdeck rollback assistant"), "{}", words(&stopped));
    assert_eq!(ask(&agent).0, 503, "from the answer on nobody is served");
    is_refused(&agent).await;
    holds_nothing(&agent).await;
    let again = agent.llmdeck(&[&stop[..], &["--yes"]].concat());
    assert!(again.status.code() == Some(3) && words(&again).contains("nothing to stop"), "{}", words(&again));
    let page = words(&agent.llmdeck(&["status"]));
    assert!(page.contains("it was stopped; a deploy or a rollback brings it back"), "{page}");

    agent.kill();
    agent.restart();
    is_refused(&agent).await;
    holds_nothing(&agent).await;
    let looked = words(&agent.llmdeck(&["rollback", "assistant", "--reason", "look", "--dry-run"]));
    assert!(looked.contains("loads assistant: "), "beside nothing: {looked}");
    let back = Action::Rollback { deployment: "assistant".into(), to_revision: 0, cut: false };
    let back = change(&agent.channel(), back, "it has cooled down").await.unwrap();
    assert_eq!((back.state(), back.to_revision), (State::Done, 1), "{}", back.detail);
    assert_eq!(agent.ready().await, "assistant@1");
    agent.kill();
    agent.restart();
    assert_eq!(agent.ready().await, "assistant@1", "and it stays");

    let audit = agent.json(&["audit", "list"]);
    let of = |action: &str, what: &str| {
        let all = audit.as_array().unwrap().iter().filter(|record| record["action"] == action);
        all.map(|record| record[what].clone()).collect::<Vec<Value>>()
    };
    assert_eq!(of("stop", "reason"), ["it is too hot"]);
    assert_eq!(of("stop", "subject"), ["assistant@1"]);
    assert!(of("outcome", "outcome").contains(&json!("stopped; 0 still running")), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_on_a_server_finishes_before_the_server_ends() {
    let folder = tempfile::tempdir().unwrap();
    let agent = slow_agent(folder.path(), "101").await;
    stop_under_a_request(&agent, async || {
        assert_eq!(ask(&agent).0, 503);
        holds_nothing(&agent).await;
    });
    wait_for("the end of the server", async || {
        processes("--words 20 --word-ms 101").is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_stop_ended_is_recorded_though_the_agent_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = slow_agent(folder.path(), "102").await;
    stop_under_a_request(&agent, async || agent.terminate());
    let (_, log) = agent.wait();
    assert!(!log.iter().any(|line| line["level"] == "ERROR"), "{log:?}");
    agent.restart();
    let audit = agent.json(&["audit", "list"]);
    let ended =
        audit.as_array().unwrap().iter().any(|record| record["outcome"] == "stopped; 0 still running");
    assert!(ended, "{audit}");
}
