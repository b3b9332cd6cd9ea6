//! What others made: the official OpenAI client, and a real model.

use std::path::{Path, PathBuf};
use std::process::Command;

use llmdeck::app::{Action, RevisionParts, RolloutChoice};
use llmdeck_proto::v1::rollout::State;
use llmdeck_tests::{ASSISTANT, AgentProcess, change, send};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the openai package: python3 -m venv target/openai && target/openai/bin/pip install openai"]
async fn the_official_openai_client_works_unmodified() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let output = Command::new(workspace().join("target/openai/bin/python"))
        .arg(workspace().join("tests/openai_client.py"))
        .arg(format!("http://{}/v1", agent.http()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a file of 241 MiB: tests/fetch-gemma && cargo test -- --ignored"]
async fn a_real_model_is_deployed_beside_the_built_in_one_and_taken_back() {
    let agent = AgentProcess::start(&ASSISTANT.replace("suite = \"assistant-suite\"\n", ""));
    agent.ready().await;
    let channel = agent.channel();
    let file = workspace().join("target/gemma/gemma-3-270m-q4_k_m.gguf");
    let model = file.to_str().unwrap().to_owned();
    let deploy = Action::Deploy {
        deployment: "assistant".into(),
        parts: RevisionParts::model(model),
        force: false,
        how: RolloutChoice::default(),
    };
    let rollout = change(&channel, deploy, "a real one").await.unwrap();
    assert_eq!(rollout.state(), State::Done, "{}", rollout.detail);

    let body =
        "{\"model\":\"assistant\",\"prompt\":\"Paris is the capital of\",\"max_tokens\":6,\"temperature\":0}";
    let answer = send(&agent, "POST", "/v1/completions", body).json();
    assert!(answer["choices"][0]["text"].as_str().unwrap().contains("France"), "{answer}");

    let back = Action::Rollback { deployment: "assistant".into(), to_revision: 0, cut: false };
    let rollout = change(&channel, back, "that was all").await.unwrap();
    assert_eq!(rollout.state(), State::Done, "{}", rollout.detail);
    assert_eq!(agent.ready().await, "assistant@1");
}
