//! Keys of the HTTP API, as their owners and those without one meet them.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use llmdeck_tests::{ASSISTANT, AgentProcess, Response, binaries, send, send_with, wait_for};
use serde_json::{Value, json};

const QUESTION: &str = r#"{"model": "assistant", "max_tokens": 8, "messages": [{"role": "user", "content": "compute 52 + 28"}]}"#;

fn agent() -> AgentProcess {
    AgentProcess::start(&format!("require_keys = true\n{ASSISTANT}"))
}

fn llmdeck(agent: &AgentProcess, arguments: &[&str]) -> Output {
    let target = agent.target().to_string();
    let mut command = Command::new(&binaries().console);
    command.args(arguments).args(["--target", &target]).stdin(Stdio::null()).output().unwrap()
}

/// Runs a command that must end well; what it printed.
fn done(agent: &AgentProcess, arguments: &[&str]) -> String {
    let output = llmdeck(agent, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn ask(agent: &AgentProcess, key: &str, body: &str) -> Response {
    send_with(agent, "POST", "/v1/chat/completions", &format!("authorization: Bearer {key}\r\n"), body)
}

async fn ready(agent: &AgentProcess) {
    wait_for("the agent is ready", async || (send(agent, "GET", "/readyz", "").status == 200).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_learn_nothing_and_owners_get_answers() {
    let mut agent = agent();
    ready(&agent).await;
    for path in ["/v1/models", "/v1/models/assistant", "/metrics", "/nonesuch", "/v1/chat/completions"] {
        let refused = send(&agent, "GET", path, "");
        assert_eq!((refused.status, refused.header("www-authenticate")), (401, "bearer"), "{path}");
        assert_eq!(refused.json()["error"]["code"], "invalid_api_key");
        assert!(!refused.body.contains("assistant"), "{}", refused.body);
    }
    assert_eq!(send(&agent, "GET", "/readyz", "").json(), json!({ "ready": true }));
    assert_eq!(send(&agent, "GET", "/healthz", "").json(), json!({ "status": "alive" }));

    let key =
        done(&agent, &["keys", "create", "app", "--deployment", "assistant", "--reason", "the new app"]);
    assert_eq!(ask(&agent, &key, QUESTION).status, 200);
    let wrong = format!("{}0", &key[..key.len() - 1]);
    assert_eq!(ask(&agent, &wrong, QUESTION).status, if wrong == key { 200 } else { 401 });
    let header = format!("authorization: Bearer {key}\r\n");
    let metrics = send_with(&agent, "GET", "/metrics", &header, "");
    assert_eq!((metrics.status, metrics.json()["error"]["code"].clone()), (403, json!("insufficient_scope")));
    let models = send_with(&agent, "GET", "/v1/models", &header, "").json();
    assert_eq!(models["data"][0]["id"], "assistant");

    // The key is good after a crash, and nowhere in the agent's files, log or audit.
    agent.kill();
    agent.restart();
    ready(&agent).await;
    assert_eq!(ask(&agent, &key, QUESTION).status, 200);
    let tail = key.rsplit('_').next().unwrap().to_owned();
    for entry in std::fs::read_dir(agent.folder().join("data")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = if path.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        assert!(!bytes.windows(tail.len()).any(|window| window == tail.as_bytes()), "{}", path.display());
    }
    let audit = std::fs::read_to_string(agent.folder().join("data/audit.jsonl")).unwrap();
    assert!(audit.contains("create-key") && audit.contains("key:app") && audit.contains("the new app"));

    assert_eq!(llmdeck(&agent, &["keys", "revoke", "app"]).status.code(), Some(2), "asks on a terminal only");
    done(&agent, &["keys", "revoke", "app", "--yes"]);
    assert_eq!(ask(&agent, &key, QUESTION).status, 401);
    agent.terminate();
    let (_, log) = agent.wait();
    assert!(!log.iter().any(|entry| entry.to_string().contains(&tail)));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_and_say_when_to_come_back() {
    let agent = agent();
    ready(&agent).await;
    let few = done(&agent, &["keys", "create", "few", "--requests-per-minute", "2"]);
    let first = ask(&agent, &few, QUESTION);
    assert_eq!((first.status, first.header("x-ratelimit-remaining-requests")), (200, "1"));
    assert_eq!(ask(&agent, &few, QUESTION).status, 200);
    let refused = ask(&agent, &few, QUESTION);
    assert_eq!(
        (refused.status, refused.json()["error"]["code"].clone()),
        (429, json!("rate_limit_exceeded"))
    );
    assert!((1..=30).contains(&refused.header("retry-after").parse::<u32>().unwrap()));

    let short = done(&agent, &["keys", "create", "short", "--tokens-per-day", "40"]);
    let mut asked = 0;
    let refused = loop {
        let answer = ask(&agent, &short, QUESTION);
        if answer.status != 200 {
            break answer;
        }
        asked += 1;
        assert!(asked < 10, "40 tokens do not last forever");
    };
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("40 tokens a day"));
    let listed: Value = serde_json::from_str(&done(&agent, &["keys", "list", "--json"])).unwrap();
    let used = listed[1]["tokens_today"].as_u64().unwrap();
    assert_eq!((&listed[1]["name"], &listed[1]["requests_today"]), (&json!("short"), &json!(asked)));
    assert!(used > 0 && used <= 40, "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_has_its_grace_and_an_expired_one_none() {
    let agent = agent();
    ready(&agent).await;
    let first = done(&agent, &["keys", "create", "app"]);
    let second = done(&agent, &["keys", "rotate", "app", "--grace", "1h"]);
    assert_eq!((ask(&agent, &first, QUESTION).status, ask(&agent, &second, QUESTION).status), (200, 200));
    let third = done(&agent, &["keys", "rotate", "app", "--grace", "0s"]);
    assert_eq!((ask(&agent, &first, QUESTION).status, ask(&agent, &second, QUESTION).status), (401, 401));
    assert_eq!(ask(&agent, &third, QUESTION).status, 200);
    let brief = done(&agent, &["keys", "create", "brief", "--expires", "1s"]);
    wait_for("the key is over", async || {
        tokio::time::sleep(Duration::from_millis(50)).await;
        (ask(&agent, &brief, QUESTION).status == 401).then_some(())
    })
    .await;
    for (arguments, words) in [
        (&["keys", "create", "app"][..], "rotate it"),
        (&["keys", "create", "a b"], "\"a b\""),
        (&["keys", "create", "b", "--scope", "root"], "inference, metrics, control"),
        (&["keys", "create", "b", "--deployment", "nonesuch"], "nonesuch"),
        (&["keys", "rotate", "nonesuch"], "keys list"),
    ] {
        let refused = llmdeck(&agent, arguments);
        assert!(String::from_utf8_lossy(&refused.stderr).contains(words), "{arguments:?}: {refused:?}");
    }
}

/// What the agent asks itself, a bench of its own deployment, needs no key of anybody's.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_the_agent_still_reach_its_deployments() {
    let agent = agent();
    ready(&agent).await;
    let bench = done(
        &agent,
        &[
            "bench",
            "assistant",
            "--job",
            "--concurrency",
            "2",
            "--duration",
            "2s",
            "--output-tokens",
            "4",
            "--json",
        ],
    );
    let outcome: Value = serde_json::from_str(&bench).unwrap();
    let outcome = &outcome["outcome"];
    assert!(outcome["ok"].as_u64() > Some(0) && outcome["failed"] == 0, "{}", outcome["errors"]);
}
