//! The gRPC side as standard tools and strangers meet it.

use llmdeck_proto::v1::control_client::ControlClient;
use llmdeck_proto::v1::{ActionContext, DeployRequest, GetRolloutRequest, RollbackRequest};
use llmdeck_tests::{ASSISTANT, AgentProcess};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_serve_standard_tools() {
    let agent = AgentProcess::start(ASSISTANT);
    let service = "llmdeck.v1.Telemetry".to_owned();
    let health = HealthClient::new(agent.channel()).check(HealthCheckRequest { service }).await.unwrap();
    assert_eq!(health.into_inner().status, 1);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(agent.channel());
    let answers = reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for service in ["Telemetry", "Control", "Registry", "Jobs", "Audit", "Inspect"] {
        assert!(names.contains(&format!("llmdeck.v1.{service}").as_str()), "{service}: {names:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_with_what_does() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let mut control = ControlClient::new(agent.channel());
    let deploy = |deployment: &str, model: &str| DeployRequest {
        deployment: deployment.into(),
        model: model.into(),
        ..DeployRequest::default()
    };
    for (request, code, words) in [
        (deploy("nonesuch", "assistant"), Code::NotFound, "there is assistant"),
        (deploy("assistant", "nonesuch"), Code::NotFound, "assistant-worse"),
        (deploy("assistant", ""), Code::InvalidArgument, "model"),
        (deploy("assistant", "/nowhere/model.gguf"), Code::InvalidArgument, "/nowhere/model.gguf"),
        (deploy("assistant", &"x".repeat(5_000)), Code::InvalidArgument, "model"),
    ] {
        let status = control.deploy(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(words), "{status}");
    }
    let context = Some(ActionContext { reason: "x".repeat(2_000), ..ActionContext::default() });
    let long =
        RollbackRequest { deployment: "assistant".into(), context, to_revision: 0, cut_running: false };
    assert_eq!(control.rollback(long).await.unwrap_err().code(), Code::InvalidArgument);
    let nothing =
        RollbackRequest { deployment: "assistant".into(), context: None, to_revision: 0, cut_running: false };
    assert_eq!(control.rollback(nothing).await.unwrap_err().code(), Code::FailedPrecondition);
    let huge = deploy("assistant", &"x".repeat(2 << 20));
    assert_eq!(control.deploy(huge).await.unwrap_err().code(), Code::OutOfRange);
    let none = GetRolloutRequest { deployment: "assistant".into(), rollout_id: String::new() };
    assert!(control.get_rollout(none).await.unwrap().into_inner().rollout.is_none());
    assert_eq!(agent.ready().await, "assistant@1");
}
