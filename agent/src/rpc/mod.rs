//! The gRPC services: each call is decoded, authorized, handed inward and encoded; nothing is decided here.

mod audit;
mod control;
mod inspect;
mod jobs;
mod registry;
mod telemetry;

use std::sync::Arc;
use std::time::Duration;

use llmdeck_audit::AuditLog;
use llmdeck_proto::v1::audit_server::AuditServer;
use llmdeck_proto::v1::control_server::ControlServer;
use llmdeck_proto::v1::inspect_server::InspectServer;
use llmdeck_proto::v1::jobs_server::JobsServer;
use llmdeck_proto::v1::registry_server::RegistryServer;
use llmdeck_proto::v1::telemetry_server::TelemetryServer;
use llmdeck_proto::{FILE_DESCRIPTORS, MAX_MESSAGE_BYTES};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::{Request, Status};

use crate::jobs::Jobs;
use crate::registry::Registry;
use crate::rollout::Controller;

use crate::security::access::{Access, RULES, Role, Subject};
use crate::security::identity::Operator;
use crate::serving::Deployments;
use crate::telemetry::{History, Subscribers};

/// Calls that one connection may have open at once.
const MOST_CALLS_A_CONNECTION: u32 = 64;
/// Requests are small; what is larger is refused.
const MOST_REQUEST_BYTES: usize = 1 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// What the services share.
pub struct Rpc {
    /// What serves.
    pub deployments: Arc<Deployments>,
    /// Changes it.
    pub controller: Arc<Controller>,
    /// Who may do what.
    pub access: Access,
    /// Finds artifacts.
    pub registry: Arc<Registry>,
    /// Long work.
    pub jobs: Arc<Jobs>,
    /// Where the OpenAI API is served.
    pub http_address: String,
    /// Who did what.
    pub audit: Arc<AuditLog>,
    /// Frames of the past.
    pub history: Arc<History>,
    /// Frames as they come.
    pub subscribers: Arc<Subscribers>,
}

impl Rpc {
    /// Who calls, if it may. A refusal of what would change something is in the audit too.
    async fn authorize<T>(
        &self,
        request: &Request<T>,
        call: &str,
        subject: Subject<'_>,
    ) -> Result<Operator, Status> {
        let operator = Operator::of_request(request)?;
        let Err(denied) = self.access.check(&operator, call, subject) else { return Ok(operator) };
        if RULES.iter().any(|(name, least)| *name == call && *least > Role::Viewer) {
            let name = match subject {
                Subject::Node => "node",
                Subject::Deployment(name) => name,
            };
            let outcome = format!("refused: {}", denied.message());
            let recorded = self.controller.record(&operator, &action(call), name, "", &outcome).await;
            recorded.map_err(|refused| Status::internal(refused.to_string()))?;
        }
        Err(denied)
    }
}

/// As the audit has it: `Control/AbortRollout` is `abort-rollout`.
fn action(call: &str) -> String {
    let method = call.rsplit('/').next().unwrap_or(call);
    let mut action = String::new();
    for letter in method.chars() {
        if letter.is_uppercase() && !action.is_empty() {
            action.push('-');
        }
        action.extend(letter.to_lowercase());
    }
    action
}

/// Serves on a socket until `stop`.
///
/// # Errors
/// When the transport fails as a whole.
pub async fn serve(
    rpc: Arc<Rpc>,
    listener: UnixListener,
    stop: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;
    health.set_serving::<TelemetryServer<telemetry::Telemetry>>().await;
    health.set_serving::<ControlServer<control::Control>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let telemetry = TelemetryServer::new(telemetry::Telemetry::new(Arc::clone(&rpc), stop.clone()))
        .max_decoding_message_size(MOST_REQUEST_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    Server::builder()
        .max_concurrent_streams(MOST_CALLS_A_CONNECTION)
        .concurrency_limit_per_connection(MOST_CALLS_A_CONNECTION as usize)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(telemetry)
        .add_service(
            ControlServer::new(control::Control(Arc::clone(&rpc)))
                .max_decoding_message_size(MOST_REQUEST_BYTES),
        )
        .add_service(
            RegistryServer::new(registry::Registry(Arc::clone(&rpc)))
                .max_decoding_message_size(MOST_REQUEST_BYTES),
        )
        .add_service(
            JobsServer::new(jobs::Jobs(Arc::clone(&rpc))).max_decoding_message_size(MOST_REQUEST_BYTES),
        )
        .add_service(
            AuditServer::new(audit::Audit(Arc::clone(&rpc))).max_decoding_message_size(MOST_REQUEST_BYTES),
        )
        .add_service(InspectServer::new(inspect::Inspect(rpc)).max_decoding_message_size(MOST_REQUEST_BYTES))
        .serve_with_incoming_shutdown(
            UnixListenerStream::new(listener),
            async move { stop.cancelled().await },
        )
        .await?;
    Ok(())
}
