//! Other people's servers: proxied, supervised, compared, and taken back when they are bad.

use std::path::Path;

use llmdeck::app::{Action, RevisionParts, RolloutChoice};
use llmdeck::link::Channel;
use llmdeck::link::LinkError;
use llmdeck::request;
use llmdeck_load::{Load, LoadPlan, Prompt};
use llmdeck_proto::v1::rollout::{State, Strategy};
use llmdeck_proto::v1::{Rollout, RolloutStep};
use llmdeck_tests::{AgentProcess, PATIENCE, binaries, change, context, scripted as backend, send, wait_for};
use serde_json::{Value, json};

/// A deployment that a scripted server answers. Margins that a test's few requests can prove.
fn config(folder: &Path, arguments: &[&str]) -> String {
    let backend = backend(folder, "stable", arguments);
    format!(
        "interval_ms = 200\nshutdown_s = 5\n[[deployment]]\nname = \"chat\"\nmodel = \"{}\"\nqueue_limit = 4000\n\
         rollout = {{ judge = {{ error_rate = 0.2, ttft_p50 = 0.5, quality = 0.2 }} }}\n",
        backend.display()
    )
}

fn deploy(path: &Path) -> Action {
    Action::Deploy {
        deployment: "chat".into(),
        parts: RevisionParts::model(path.to_str().unwrap()),
        force: false,
        how: RolloutChoice::default(),
    }
}

fn canary(path: &Path) -> Action {
    let how = RolloutChoice {
        strategy: Strategy::Canary,
        steps: vec![RolloutStep { share: 0.5, hold_s: 0, requests: 1_000_000 }],
        auto_promote: Some(true),
    };
    Action::Deploy {
        deployment: "chat".into(),
        parts: RevisionParts::model(path.to_str().unwrap()),
        force: false,
        how,
    }
}

fn traffic(agent: &AgentProcess, rate_per_s: f64) -> Load {
    Load::start(LoadPlan {
        server: format!("http://{}", agent.http()),
        model: "chat".into(),
        rate_per_s,
        max_in_flight: 512,
        max_tokens: 64,
        patience: PATIENCE,
        prompts: vec![Prompt { text: "hello".into(), expected: None }],
        seed: 5,
    })
    .unwrap()
}

fn ask(agent: &AgentProcess, more: Value) -> llmdeck_tests::Response {
    let mut body = json!({ "model": "chat", "messages": [{ "role": "user", "content": "hello" }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    send(agent, "POST", "/v1/chat/completions", &body.to_string())
}

async fn answers(agent: &AgentProcess) -> String {
    wait_for("an answer", async || {
        let answer = ask(agent, json!({}));
        (answer.status == 200).then(|| answer.header("x-llmdeck-revision").to_owned())
    })
    .await
}

/// Scripted servers that belong to an agent, by the mark in their environment.
fn children(agent: &AgentProcess) -> usize {
    let mark = format!("LLMDECK_AGENT_DATA={}", agent.folder().join("data").display());
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let marked = processes.filter(|process| {
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    });
    marked.count()
}

async fn rolled_back(channel: &Channel, path: &Path) -> Rollout {
    let rollout = change(channel, canary(path), "a bad one").await.unwrap();
    assert_eq!(rollout.state(), State::RolledBack, "{}", rollout.detail);
    rollout
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_proxied_measured_and_shown_as_it_answers() {
    let folder = tempfile::tempdir().unwrap();
    let agent = AgentProcess::start(&config(folder.path(), &["--words", "5"]));
    assert_eq!(answers(&agent).await, "chat@1");
    let whole = ask(&agent, json!({ "tools": [{ "type": "function" }] })).json();
    assert_eq!(whole["choices"][0]["message"]["content"], "word0 word1 word2 word3 word4 ");
    assert_eq!((&whole["model"], &whole["usage"]["completion_tokens"]), (&json!("chat"), &json!(5)));
    let streamed = ask(&agent, json!({ "stream": true })).body;
    assert!(streamed.contains("word4") && streamed.contains("data: [DONE]"), "{streamed}");
    assert!(!streamed.contains("completion_tokens"), "nobody asked for it: {streamed}");
    let streamed = ask(&agent, json!({ "stream": true, "stream_options": { "include_usage": true } })).body;
    assert!(streamed.contains("\"completion_tokens\":5"), "{streamed}");
    wait_for("a measured TTFT", async || {
        let metrics = send(&agent, "GET", "/metrics", "").body;
        let mut lines = metrics.lines().filter(|line| line.starts_with("gen_ai_server_time_to_first_token"));
        lines.any(|line| line.contains("_count") && !line.ends_with(" 0")).then_some(())
    })
    .await;
    // The configuration may change; the revision does not.
    std::fs::write(folder.path().join("stable.toml"), "[remote]\nurl = \"http://127.0.0.1:1\"\n").unwrap();
    assert_eq!(answers(&agent).await, "chat@1");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_bad_candidate_is_taken_back_and_nobody_notices() {
    let folder = tempfile::tempdir().unwrap();
    let agent = AgentProcess::start(&config(folder.path(), &["--first-ms", "5"]));
    answers(&agent).await;
    let channel = agent.channel();
    let load = traffic(&agent, 60.0);
    let bad = |name: &str, arguments: &[&str]| backend(folder.path(), name, arguments);
    let slower = rolled_back(&channel, &bad("slower", &["--first-ms", "60"])).await;
    assert!(
        slower.detail.contains("ttft_p50") && slower.detail.contains("50 % is allowed"),
        "{}",
        slower.detail
    );
    let failing = rolled_back(&channel, &bad("failing", &["--fail-every", "2"])).await;
    assert!(failing.detail.contains("failed") || failing.detail.contains("error_rate"), "{}", failing.detail);
    let breaking = rolled_back(&channel, &bad("breaking", &["--break-every", "2"])).await;
    assert!(
        breaking.detail.contains("failed") || breaking.detail.contains("error_rate"),
        "{}",
        breaking.detail
    );
    let empty = rolled_back(&channel, &bad("empty", &["--says", " "])).await;
    assert!(empty.detail.contains("quality"), "{}", empty.detail);
    let crashing = rolled_back(&channel, &bad("crashing", &["--crash-at", "6"])).await;
    assert!(
        crashing.detail.contains("status 3") && crashing.detail.contains("out of memory"),
        "{}",
        crashing.detail
    );
    for rollout in [slower, failing, breaking, empty, crashing] {
        assert_eq!(rollout.failed_requests, 0, "{}", rollout.detail);
    }
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{:?}", report.errors);
    assert_eq!(answers(&agent).await, "chat@1");
    wait_for("the bad servers' end", async || (children(&agent) == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_strange_server_says_is_an_error_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let agent = AgentProcess::start("[[deployment]]\nname = \"chat\"\nmodel = \"assistant\"\n");
    answers(&agent).await;
    let strange = backend(folder.path(), "strange", &["--strange-from", "1"]);
    let failed = change(&agent.channel(), deploy(&strange), "").await.unwrap();
    assert_eq!(failed.state(), State::Failed, "its warm-up has no answer: {}", failed.detail);
    let agent = AgentProcess::start(&config(folder.path(), &["--words", "1", "--strange-from", "3"]));
    answers(&agent).await;
    assert_eq!(ask(&agent, json!({})).status, 502);
    assert!(ask(&agent, json!({ "stream": true })).body.contains("malformed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_never_ready_or_does_not_start_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let agent = AgentProcess::start(&config(folder.path(), &[]));
    answers(&agent).await;
    let channel = agent.channel();
    let never = backend(folder.path(), "never", &["--never-ready", "--grandchild"]);
    let text =
        std::fs::read_to_string(&never).unwrap().replace("ready_timeout_s = 20", "ready_timeout_s = 1");
    std::fs::write(&never, text).unwrap();
    let failed = change(&channel, deploy(&never), "").await.unwrap();
    assert_eq!(failed.state(), State::Failed);
    assert!(
        failed.detail.contains("within 1 s") && failed.detail.contains("ready_timeout_s"),
        "{}",
        failed.detail
    );
    assert_eq!(children(&agent), 1, "its children are gone too");
    let wrong = folder.path().join("wrong.toml");
    std::fs::write(&wrong, "[process]\ncommand = [\"/nonesuch\", \"{port}\"]\n").unwrap();
    let failed = change(&channel, deploy(&wrong), "").await.unwrap();
    assert!(failed.detail.contains("/nonesuch") && failed.detail.contains("command"), "{}", failed.detail);
    std::fs::write(&wrong, "[process]\ncommand = [\"vllm\"]\n").unwrap();
    let refused = change(&channel, deploy(&wrong), "").await.unwrap_err();
    assert!(matches!(&refused, LinkError::Wrong(words) if words.contains("{port}")), "{refused:?}");
    assert_eq!(answers(&agent).await, "chat@1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_dies_is_started_again_and_one_that_hangs_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent =
        AgentProcess::start(&config(folder.path(), &["--ignore-term", "--crash-at", "4", "--flood", "5000"]));
    answers(&agent).await;
    // Its fourth request ends it.
    wait_for("its end", async || (ask(&agent, json!({})).status != 200).then_some(())).await;
    assert_eq!(answers(&agent).await, "chat@1");
    agent.terminate();
    let (status, log) = agent.wait();
    assert!(status.success());
    for words in ["started again in 1 s", "CUDA out of memory", "is killed", "too many came at once"] {
        assert!(log.iter().any(|entry| entry.to_string().contains(words)), "{words}");
    }
    assert_eq!(children(&agent), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_killed_ends_its_children_before_it_starts_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = AgentProcess::start(&config(folder.path(), &["--grandchild"]));
    answers(&agent).await;
    assert_eq!(children(&agent), 2);
    agent.kill();
    agent.restart();
    assert_eq!(answers(&agent).await, "chat@1");
    assert_eq!(children(&agent), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_moves_from_our_engine_to_a_server_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let agent = AgentProcess::start(
        "interval_ms = 200\n[[deployment]]\nname = \"chat\"\nmodel = \"assistant\"\nqueue_limit = 4000\n",
    );
    answers(&agent).await;
    let channel = agent.channel();
    let load = traffic(&agent, 10.0);
    let moved = change(&channel, deploy(&backend(folder.path(), "server", &[])), "").await.unwrap();
    assert_eq!(moved.state(), State::Done, "{}", moved.detail);
    assert_eq!(answers(&agent).await, "chat@2");
    let back = Action::Rollback { deployment: "chat".into(), to_revision: 0, cut: false };
    let back = request::act(channel.clone(), back, context("back")).await.unwrap();
    assert!(back.plan.unwrap().standby_ready);
    assert_eq!(answers(&agent).await, "chat@1");
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{:?}", report.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_of_itself_is_beside_what_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let agent = AgentProcess::start(&config(folder.path(), &["--metrics", "vllm"]));
    answers(&agent).await;
    let status = || {
        let target = agent.target().to_string();
        let output = std::process::Command::new(&binaries().console)
            .args(["status", "--json", "--target", &target])
            .output()
            .unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let told = wait_for("the server's own metrics", async || {
        let told = status()["deployments"][0]["revisions"][0]["server"].clone();
        (!told.is_null()).then_some(told)
    })
    .await;
    assert_eq!(
        (&told["kind"], &told["waiting"], &told["kv_used_share"]),
        (&json!("vLLM"), &json!(3), &json!(0.25))
    );
    let ttft = status()["deployments"][0]["ttft_ms"].clone();
    assert!(ttft["buckets"].is_null(), "the agent measures each answer itself: {ttft}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_can_sleep_sleeps_and_is_woken_by_a_rollback() {
    let folder = tempfile::tempdir().unwrap();
    let agent = AgentProcess::start(&config(folder.path(), &["--sleeps", "--word-ms", "5"]));
    answers(&agent).await;
    let channel = agent.channel();
    let load = traffic(&agent, 40.0);
    let second = backend(folder.path(), "second", &["--sleeps"]);
    assert_eq!(change(&channel, deploy(&second), "newer").await.unwrap().state(), State::Done);
    // Asleep it answers nobody; the plan of a rollback says that it has to be woken.
    let rollback = || Action::Rollback { deployment: "chat".into(), to_revision: 1, cut: false };
    let plan = wait_for("the standby sleeps", async || {
        let dry = llmdeck_proto::v1::ActionContext { dry_run: true, ..context("look") };
        let plan = request::act(channel.clone(), rollback(), dry).await.unwrap().plan.unwrap();
        plan.effects[0].contains("stands by asleep").then_some(plan)
    })
    .await;
    assert!(!plan.standby_ready);
    let back = change(&channel, rollback(), "back").await.unwrap();
    assert_eq!((back.state(), back.failed_requests), (State::Done, 0), "{}", back.detail);
    assert_eq!(answers(&agent).await, "chat@1");
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{:?}", report.errors);
    assert_eq!(children(&agent), 2, "both servers are still there");
}

/// Kills the agent as soon as a rollout is in a state, and starts it again.
async fn killed_in(agent: &mut AgentProcess, candidate: &Path, split: bool, state: State) {
    let channel = agent.channel();
    let action = if split { canary(candidate) } else { deploy(candidate) };
    request::act(channel.clone(), action, context("to be cut off")).await.unwrap();
    wait_for(state.as_str_name(), async || {
        let rollout = request::rollout(channel.clone(), "chat", "").await.unwrap()?;
        assert!(rollout.ended_unix_ms.is_none(), "{}", rollout.detail);
        (rollout.state() == state).then_some(())
    })
    .await;
    agent.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_every_state_leaves_one_revision_serving_and_no_server_behind() {
    let folder = tempfile::tempdir().unwrap();
    let suite = folder.path().join("suite.jsonl");
    let prompt = "{\"prompt\":\"hello\",\"checks\":[{\"contains\":\"word\"}]}\n";
    std::fs::write(&suite, prompt.repeat(200)).unwrap();
    let config = config(folder.path(), &["--words", "2"]).replace(
        "model = ",
        &format!("golden_every_s = 3600\nsuite = {:?}\nmodel = ", suite.to_str().unwrap()),
    );
    let mut agent = AgentProcess::start(&config);
    let first = answers(&agent).await;
    let never = backend(folder.path(), "never", &["--never-ready"]);
    let slow = backend(folder.path(), "slow", &["--first-ms", "400"]);
    let quick = backend(folder.path(), "quick", &["--words", "3"]);
    for (candidate, split, state) in [
        (&never, false, State::Loading),
        (&slow, false, State::Warming),
        (&slow, false, State::Evaluating),
        (&quick, true, State::Canary),
    ] {
        killed_in(&mut agent, candidate, split, state).await;
        agent.restart();
        assert_eq!(answers(&agent).await, first, "killed in {state:?}");
        settled(&agent, state).await;
    }
    // While another program holds the store, the promise cannot be made: the agent stands before it.
    let path = agent.folder().join("data/store.sqlite");
    let channel = agent.channel();
    request::act(channel.clone(), deploy(&slow), context("to be cut off")).await.unwrap();
    in_state(&channel, State::Evaluating).await;
    let lock = rusqlite::Connection::open(&path).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    in_state(&channel, State::Swapping).await;
    agent.kill();
    drop(lock);
    agent.restart();
    assert_eq!(answers(&agent).await, first, "the promise had not been made");
    settled(&agent, State::Swapping).await;
}

/// A long answer on the old revision keeps a rollout draining.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_the_old_revision_drains_leaves_the_new_one_serving() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = AgentProcess::start(&config(folder.path(), &["--words", "300", "--word-ms", "100"]));
    let quick = backend(folder.path(), "quick", &["--words", "3"]);
    wait_for("it is ready", async || (send(&agent, "GET", "/readyz", "").status == 200).then_some(())).await;
    let http = agent.http().to_owned();
    let asking = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(http).unwrap();
        let body =
            json!({ "model": "chat", "stream": true, "messages": [{ "role": "user", "content": "hello" }] });
        let (body, length) = (body.to_string(), body.to_string().len());
        write!(
            stream,
            "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let target = agent.target().to_string();
    wait_for("the long answer runs", async || {
        let output = std::process::Command::new(&binaries().console)
            .args(["status", "--json", "--target", &target])
            .output()
            .unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        (status["deployments"][0]["revisions"][0]["in_flight"].as_u64()? > 0).then_some(())
    })
    .await;
    killed_in(&mut agent, &quick, false, State::Draining).await;
    asking.join().unwrap();
    agent.restart();
    assert_eq!(answers(&agent).await, "chat@2", "what was promised serves");
    settled(&agent, State::Draining).await;
}

async fn in_state(channel: &Channel, state: State) {
    wait_for(state.as_str_name(), async || {
        let rollout = request::rollout(channel.clone(), "chat", "").await.unwrap()?;
        (rollout.state() == state).then_some(())
    })
    .await;
}

/// Nothing is under way, and of all servers only the one that serves is left.
async fn settled(agent: &AgentProcess, state: State) {
    let rollout = request::rollout(agent.channel(), "chat", "").await.unwrap().unwrap();
    assert!(rollout.ended_unix_ms.is_some(), "killed in {state:?}: {}", rollout.detail);
    wait_for("one server", async || (children(agent) == 1).then_some(())).await;
}

/// A request on a connection of its own; what came of it in the end.
fn asking(agent: &AgentProcess, stream: bool) -> std::thread::JoinHandle<String> {
    let body =
        json!({ "model": "chat", "stream": stream, "messages": [{ "role": "user", "content": "hello" }] });
    let (http, body) = (agent.http().to_owned(), body.to_string());
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        let mut connection = std::net::TcpStream::connect(http).unwrap();
        let length = body.len();
        write!(
            connection,
            "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        let _ = connection.read_to_string(&mut answer);
        answer
    })
}

/// How many requests run on the revision that serves.
async fn running(channel: &Channel, count: u32) {
    use llmdeck_proto::v1::WatchRequest;
    use llmdeck_proto::v1::telemetry_client::TelemetryClient;
    let watched = TelemetryClient::new(channel.clone()).watch(WatchRequest::default()).await.unwrap();
    let mut frames = watched.into_inner();
    loop {
        let frame = frames.message().await.unwrap().unwrap();
        let deployment = &frame.deployments[0];
        let stable = |revision: &&llmdeck_proto::v1::Revision| revision.number == deployment.stable_revision;
        if deployment.revisions.iter().find(stable).is_some_and(|revision| revision.in_flight == count) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_cuts_begins_again_what_has_said_nothing_and_ends_the_rest() {
    use std::io::{Read, Write};
    let folder = tempfile::tempdir().unwrap();
    let agent = AgentProcess::start(&config(folder.path(), &["--words", "2"]));
    answers(&agent).await;
    let channel = agent.channel();
    let cut = || Action::Rollback { deployment: "chat".into(), to_revision: 1, cut: true };

    // Its first request is the warm-up.
    let hangs = backend(folder.path(), "hangs", &["--hang-from", "2"]);
    assert_eq!(change(&channel, deploy(&hangs), "it will hang").await.unwrap().state(), State::Done);
    let (streamed, whole) = (asking(&agent, true), asking(&agent, false));
    running(&channel, 2).await;
    let back = change(&channel, cut(), "it hangs").await.unwrap();
    assert_eq!((back.state(), back.failed_requests), (State::Done, 0), "{}", back.detail);
    for answer in [streamed.join().unwrap(), whole.join().unwrap()] {
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("word1"), "{answer}");
        assert!(answer.contains("x-llmdeck-revision: chat@1"), "{answer}");
    }

    let slow = backend(folder.path(), "slow", &["--words", "40", "--word-ms", "100"]);
    assert_eq!(change(&channel, deploy(&slow), "slowly").await.unwrap().state(), State::Done);
    let (mut begun, words) =
        (std::net::TcpStream::connect(agent.http()).unwrap(), std::sync::mpsc::channel());
    let body =
        json!({ "model": "chat", "stream": true, "messages": [{ "role": "user", "content": "hello" }] });
    let (body, length) = (body.to_string(), body.to_string().len());
    write!(begun, "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
    let reading = std::thread::spawn(move || {
        let (mut answer, mut buffer) = (String::new(), [0; 4096]);
        while let Ok(count @ 1..) = begun.read(&mut buffer) {
            answer.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            if answer.contains("word0") {
                let _ = words.0.send(());
            }
        }
        answer
    });
    words.1.recv_timeout(PATIENCE).unwrap();
    let back = change(&channel, cut(), "too slow").await.unwrap();
    assert_eq!(back.state(), State::Done, "{}", back.detail);
    let answer = reading.join().unwrap();
    assert!(answer.contains("word0") && answer.contains("cut off by a rollback"), "{answer}");
    assert!(!answer.contains("word39") && !answer.contains("[DONE]"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_that_refuses_what_others_answer_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let agent = AgentProcess::start(&config(folder.path(), &[]));
    answers(&agent).await;
    let channel = agent.channel();
    let load = traffic(&agent, 40.0);
    let refuses = backend(folder.path(), "refuses", &["--refuse-from", "2"]);
    let how = RolloutChoice {
        strategy: Strategy::Shadow,
        steps: vec![RolloutStep { share: 1.0, hold_s: 0, requests: 1_000_000 }],
        auto_promote: Some(false),
    };
    let model = refuses.to_str().unwrap().to_owned();
    let shadow =
        Action::Deploy { deployment: "chat".into(), parts: RevisionParts::model(model), force: false, how };
    let rollout = change(&channel, shadow, "copies").await.unwrap();
    assert_eq!(rollout.state(), State::RolledBack, "{}", rollout.detail);
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{:?}", report.errors);
}
