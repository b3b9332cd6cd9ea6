//! Models without a chat template: they complete, and that is enough to serve.

use llmdeck::app::{Action, RevisionParts, RolloutChoice};
use llmdeck_proto::v1::rollout::State;
use llmdeck_tests::{ASSISTANT, AgentProcess, change, scripted, send};

/// An agent that has gone over to a server that is asked so, and has it complete.
async fn completed_by(how: &str) -> AgentProcess {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let server = scripted(agent.folder(), "base", &[how, "--says", "42"]);
    let deploy = Action::Deploy {
        deployment: "assistant".into(),
        parts: RevisionParts::model(server.to_str().unwrap()),
        force: false,
        how: RolloutChoice::default(),
    };
    let done = change(&agent.channel(), deploy, "a base model").await.unwrap();
    assert_eq!(done.state(), State::Done, "{}", done.detail);
    let body = r#"{"model":"assistant","prompt":"six times seven is","max_tokens":4}"#;
    let answer = send(&agent, "POST", "/v1/completions", body);
    assert_eq!(answer.json()["choices"][0]["text"], "42", "{}", answer.body);
    agent
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_only_completes_is_warmed_up_scored_and_serves() {
    let agent = completed_by("--completes-only").await;
    // Who asks it to chat is told what the server says.
    let body = r#"{"model":"assistant","messages":[{"role":"user","content":"hello"}]}"#;
    let refused = send(&agent, "POST", "/v1/chat/completions", body);
    assert!(refused.status == 400 && refused.body.contains("chat template"), "{}", refused.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_breaks_off_when_it_is_asked_to_chat_serves_what_it_can() {
    completed_by("--hangs-up-on-chats").await;
}
