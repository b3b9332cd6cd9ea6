//! What an engine is started with is a part of its revision: deployed, shown, compared and taken back like a model.

use llmdeck_tests::{ASSISTANT, AgentProcess, scripted, send, words};
use serde_json::{Value, json};

/// What serves: its number, and what was asked for of its engine.
fn serving(agent: &AgentProcess) -> (u64, Value) {
    let status = agent.json(&["status"]);
    let deployment = &status["deployments"][0];
    let stable = deployment["stable_revision"].clone();
    let revisions = deployment["revisions"].as_array().unwrap().iter();
    let found = revisions.clone().find(|revision| revision["number"] == stable);
    (stable.as_u64().unwrap(), found.unwrap_or_else(|| panic!("{status}")).clone())
}

/// The status of a request that takes about 150 tokens.
fn long_request(agent: &AgentProcess) -> u16 {
    let prompt = "one two three four five ".repeat(30);
    let body = json!({
        "model": "assistant", "max_tokens": 1, "messages": [{ "role": "user", "content": prompt }],
    });
    send(agent, "POST", "/v1/chat/completions", &body.to_string()).status
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_deployed_for_what_serves_and_taken_back() {
    let mut agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let (_, first) = serving(&agent);
    assert!(first["engine"] == "" && first["engine_digest"].as_str().unwrap().len() == 64, "{first}");
    assert_eq!(long_request(&agent), 200);

    let refused = agent.llmdeck(&["deploy", "assistant", "--engine", "device=cuda", "--yes"]);
    assert!(
        words(&refused).contains("cuda:0 is asked for, and this program was built without CUDA"),
        "{}",
        words(&refused)
    );

    let asked = ["deploy", "assistant", "--engine", "context_tokens=64", "--engine", "speculation=off"];
    let plan = words(&agent.llmdeck(&[&asked[..], &["--dry-run"]].concat()));
    assert!(plan.contains("with context_tokens 64, now automatic"), "{plan}");
    assert!(plan.contains("with speculation off, now measured"), "{plan}");
    let deployed = agent.llmdeck(&[&asked[..], &["--yes", "--reason", "shorter prompts only"]].concat());
    assert!(deployed.status.success(), "{}", words(&deployed));
    let (number, second) = serving(&agent);
    assert_eq!((number, &second["engine"]), (2, &json!("context_tokens=64 + speculation=off")));
    assert!(
        second["model_digest"] == first["model_digest"] && second["engine_digest"] != first["engine_digest"]
    );
    assert_eq!(long_request(&agent), 400);

    // Declared in a file, it is what serves already.
    let file = agent.folder().join("fleet.toml");
    let declare = |settings: &str| {
        let text = format!(
            "[[deployment]]\nname = \"assistant\"\nmodel = \"assistant\"\nengine = {{ {settings} }}\n"
        );
        std::fs::write(&file, text).unwrap();
        words(&agent.llmdeck(&["diff", file.to_str().unwrap()]))
    };
    assert!(declare("speculation = \"off\", context_tokens = 64").contains("nothing differs"));
    let differs = declare("context_tokens = 128");
    assert!(differs.contains("+ assistant + context_tokens=128"), "{differs}");

    // Changed in the configuration, it is a new revision; what was asked for beside it stays.
    let with = ASSISTANT.replace("model = \"assistant\"", "model = \"assistant\"\nmax_step_tokens = 64");
    std::fs::write(agent.folder().join("llmdeck.toml"), &with).unwrap();
    agent.terminate();
    assert!(agent.wait().0.success());
    agent.restart();
    agent.ready().await;
    let (number, third) = serving(&agent);
    assert_eq!((number, &third["engine"]), (3, &second["engine"]));
    assert_ne!(third["engine_digest"], second["engine_digest"]);
    let audit = words(&agent.llmdeck(&["audit", "list"]));
    assert!(audit.contains("configure") && audit.contains("assistant@3"), "{audit}");
    agent.kill();
    agent.restart();
    agent.ready().await;
    assert_eq!(serving(&agent).0, 3, "the same configuration makes no other revision");

    let back = agent.llmdeck(&["rollback", "assistant", "--to", "1", "--yes", "--reason", "long prompts"]);
    assert!(back.status.success(), "{}", words(&back));
    assert_eq!((serving(&agent).0, long_request(&agent)), (1, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_are_refused_by_name() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let refused = |more: &[&str]| {
        let refused = agent.llmdeck(&[&["deploy", "assistant", "--yes"], more].concat());
        assert!(!refused.status.success(), "{}", words(&refused));
        words(&refused)
    };
    let unknown = refused(&["--engine", "context=64"]);
    assert!(
        unknown.contains("engine settings") && unknown.contains("has no \"context\"; there are"),
        "{unknown}"
    );
    let wrong = refused(&["--engine", "speculation=always"]);
    assert!(wrong.contains("expected `measured` or `off`"), "{wrong}");
    let server = scripted(agent.folder(), "server", &[]);
    let elsewhere = refused(&["--model", server.to_str().unwrap(), "--engine", "context_tokens=64"]);
    assert!(elsewhere.contains("another server has its own in its description"), "{elsewhere}");
    assert_eq!(serving(&agent).0, 1);
}
