//! The gRPC services: each call is decoded, authorized, handed inward and encoded; nothing is decided here.

mod audit;
mod authenticate;
mod control;
mod inspect;
mod jobs;
mod keys;
mod registry;
mod telemetry;

use std::sync::Arc;
use std::time::Duration;

use llmdeck_audit::AuditLog;
use llmdeck_proto::v1::audit_server::AuditServer;
use llmdeck_proto::v1::control_server::ControlServer;
use llmdeck_proto::v1::inspect_server::InspectServer;
use llmdeck_proto::v1::jobs_server::JobsServer;
use llmdeck_proto::v1::keys_server::KeysServer;
use llmdeck_proto::v1::registry_server::RegistryServer;
use llmdeck_proto::v1::telemetry_server::TelemetryServer;
use llmdeck_proto::{FILE_DESCRIPTORS, MAX_MESSAGE_BYTES};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic::{Request, Status};

use self::authenticate::Authenticate;
use crate::jobs::{Finetunes, Jobs};
use crate::registry::Registry;
use crate::rollout::Controller;
use crate::security::access::{Access, RULES, Role, Subject};
use crate::security::identity::Operator;
use crate::security::keys::Keys;
use crate::security::tls::TlsListener;
use crate::serving::Deployments;
use crate::telemetry::{History, Subscribers};

/// Calls that one connection may have open at once.
const MOST_CALLS_A_CONNECTION: u32 = 64;
/// Requests are small; what is larger is refused.
const MOST_REQUEST_BYTES: usize = 1 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// The OpenAI API as the agent itself reaches it.
pub struct OwnApi {
    /// Such as `http://127.0.0.1:8080`.
    pub server: String,
    /// What it wants to be asked with.
    pub key: Option<String>,
}

/// What the services share.
pub struct Rpc {
    /// What serves.
    pub deployments: Arc<Deployments>,
    /// Changes it.
    pub controller: Arc<Controller>,
    /// Who may do what.
    pub access: Access,
    /// Whose keys open it.
    pub keys: Arc<Keys>,
    /// Finds artifacts.
    pub registry: Arc<Registry>,
    /// Long work.
    pub jobs: Arc<Jobs>,
    /// Begins fine-tunings.
    pub finetunes: Arc<Finetunes>,
    /// Where the agent asks its own deployments.
    pub own_api: OwnApi,
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
        let operator = request.extensions().get::<Operator>().cloned();
        let operator = operator.ok_or_else(|| Status::unauthenticated("refused"))?;
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

/// Where calls come in.
pub struct Listeners {
    /// The socket, whose peers the kernel knows.
    pub socket: UnixListener,
    /// From the network, whose callers show a certificate or a key.
    pub tls: Option<TlsListener>,
}

/// Serves until `stop`.
///
/// # Errors
/// When a transport fails as a whole.
pub async fn serve(
    rpc: Arc<Rpc>,
    listeners: Listeners,
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
    macro_rules! bounded {
        ($server:ident, $service:expr) => {
            $server::new($service).max_decoding_message_size(MOST_REQUEST_BYTES)
        };
    }
    let services = Server::builder()
        .max_concurrent_streams(MOST_CALLS_A_CONNECTION)
        .concurrency_limit_per_connection(MOST_CALLS_A_CONNECTION as usize)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .layer(InterceptorLayer::new(Authenticate(Arc::clone(&rpc.keys))))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(telemetry)
        .add_service(bounded!(ControlServer, control::Control(Arc::clone(&rpc))))
        .add_service(bounded!(RegistryServer, registry::Registry(Arc::clone(&rpc))))
        .add_service(bounded!(JobsServer, jobs::Jobs(Arc::clone(&rpc))))
        .add_service(bounded!(AuditServer, audit::Audit(Arc::clone(&rpc))))
        .add_service(bounded!(KeysServer, keys::Keys(Arc::clone(&rpc))))
        .add_service(bounded!(InspectServer, inspect::Inspect(rpc)));
    let Listeners { socket, tls } = listeners;
    let local = services
        .clone()
        .serve_with_incoming_shutdown(UnixListenerStream::new(socket), stop.clone().cancelled_owned());
    let Some(tls) = tls else { return Ok(local.await?) };
    let secured = futures_util::stream::unfold(tls, async |mut tls| {
        let connection = tls.next().await?;
        Some((Ok::<_, std::io::Error>(connection), tls))
    });
    let remote = services.serve_with_incoming_shutdown(Box::pin(secured), stop.cancelled_owned());
    tokio::try_join!(local, remote)?;
    Ok(())
}
