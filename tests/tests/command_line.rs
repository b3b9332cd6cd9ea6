//! The commands as scripts use them: JSON out, exit codes as designed, and the demo.

use std::process::{Command, Output, Stdio};

use llmdeck_tests::{ASSISTANT, AgentProcess, binaries};
use serde_json::Value;

fn llmdeck(arguments: &[&str]) -> Output {
    let mut command = Command::new(&binaries().console);
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}\n{}", String::from_utf8_lossy(&output.stderr)))
}

#[tokio::test(flavor = "multi_thread")]
async fn deploy_status_and_rollback_from_a_script() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let target = agent.target().to_string();
    let run = |arguments: &[&str]| llmdeck(&[arguments, &["--target", &target]].concat());

    let plan = run(&["deploy", "assistant", "--model", "assistant-worse", "--dry-run", "--json"]);
    assert_eq!((plan.status.code(), &json(&plan)["to_revision"]), (Some(0), &Value::from(2)));
    let asks = run(&["deploy", "assistant", "--model", "assistant-worse"]);
    assert_eq!(asks.status.code(), Some(2), "without a terminal and without --yes");
    let deployed = run(&["deploy", "assistant", "--model", "assistant-worse", "--yes", "--json"]);
    assert_eq!(deployed.status.code(), Some(0));
    assert_eq!(json(&deployed)["state"], "done");

    let status = json(&run(&["status", "--json"]));
    let deployment = &status["deployments"][0];
    assert_eq!((&status["node"], &deployment["stable_revision"]), (&Value::from("node-a"), &Value::from(2)));
    assert_eq!(deployment["revisions"][0]["model"], "assistant-worse");
    assert!(deployment["revisions"][0]["quality"]["golden_score"].as_f64().unwrap() < 0.8);
    let page = String::from_utf8(run(&["status"]).stdout).unwrap();
    assert!(page.contains("assistant@2") && page.contains("roll back?"), "{page}");

    let back = run(&["rollback", "assistant", "--reason", "worse", "--yes", "--json"]);
    assert_eq!((back.status.code(), &json(&back)["to_revision"]), (Some(0), &Value::from(1)));
    let again = run(&["rollback", "assistant", "--to", "1", "--reason", "again", "--yes"]);
    assert_eq!(again.status.code(), Some(3), "it already serves");
    let unknown = run(&["rollback", "nonesuch", "--reason", "x", "--yes"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is assistant"));

    let tags = json(&run(&["registry", "list", "--json"]));
    let tags: Vec<&str> =
        tags.as_array().unwrap().iter().map(|entry| entry["tags"][0].as_str().unwrap()).collect();
    assert_eq!(
        tags,
        [
            "assistant",
            "assistant-worse",
            "assistant-untaught",
            "assistant-suite",
            "missing-skill",
            "assistant-skills"
        ]
    );
    let audit = json(&run(&["audit", "list", "--json"]));
    let rollback = audit.as_array().unwrap().iter().find(|record| record["action"] == "rollback");
    let rollback = rollback.unwrap_or_else(|| panic!("{audit}"));
    assert_eq!(
        (&rollback["reason"], &rollback["outcome"]),
        (&Value::from("worse"), &Value::from("accepted"))
    );
    assert!(json(&run(&["evaluate", "assistant", "--json"]))["job"].is_string());
    assert_eq!(json(&run(&["jobs", "list", "--json"]))[0]["kind"], "evaluate");
}

#[test]
fn an_agent_that_is_not_there_is_exit_code_4() {
    let output = llmdeck(&["status", "--target", "unix:/nonexistent/agent.sock"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is llmdeck-agent running?"));
}

#[test]
fn wrong_usage_is_exit_code_2_and_says_what_is_right() {
    for (arguments, words) in [
        (&["status", "--target", "gpu-01"][..], "ssh://user@host"),
        (&["rollback", "assistant"], "--reason"),
        (&["gpu-01"], "unix:PATH"),
    ] {
        let output = llmdeck(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{arguments:?}");
    }
    assert_eq!(llmdeck(&[]).status.code(), Some(2), "a console without a terminal");
}

#[test]
fn an_agent_does_not_listen_on_the_network() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(&binaries().agent)
        .args(["run", "--http", "0.0.0.0:0", "--data-dir"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("needs TLS: give [tls]"));
}

#[test]
fn the_demo_tells_its_story_without_a_terminal() {
    let output = llmdeck(&["demo", "--headless", "--seconds", "9"]);
    let story = json(&output);
    assert_eq!(output.status.code(), Some(0), "{story:#}");
    assert_eq!(
        (&story["requests"]["failed"], &story["quality"]["recovered"]),
        (&Value::from(0), &Value::from(true))
    );
    assert!(story["quality"]["during"].as_f64() < story["quality"]["before"].as_f64(), "{story:#}");
    assert_eq!(story["revisions"].as_array().unwrap().len(), 2, "{story:#}");
}
