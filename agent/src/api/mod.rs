//! The OpenAI HTTP API: chat, completions, models, health and metrics, for callers with keys.

mod answer;
mod answer_format;
mod attempt;
mod caller;
mod chat;
mod completions;
mod error;
mod health;
mod metrics;
mod models;
mod parameters;
mod preference;
mod proxy;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use self::caller::Caller;
use self::error::ApiError;
use crate::security::keys::Keys;
use crate::serving::{Deployment, Deployments};

pub use metrics::Metrics;

/// Largest request body, in bytes.
pub(super) const MOST_BODY_BYTES: usize = 4 << 20;

/// What the endpoints share.
pub struct Api {
    deployments: Arc<Deployments>,
    metrics: Arc<Metrics>,
    keys: Arc<Keys>,
    keys_required: bool,
    started_unix_s: i64,
}

impl Api {
    /// Over these deployments; where a key is required, nothing is answered without one.
    pub fn new(
        deployments: Arc<Deployments>,
        metrics: Arc<Metrics>,
        keys: Arc<Keys>,
        keys_required: bool,
    ) -> Self {
        let started_unix_s = crate::time::unix_ms() / 1_000;
        Self { deployments, metrics, keys, keys_required, started_unix_s }
    }

    /// Names of what a caller may know of.
    fn names(&self, caller: &Caller) -> Vec<String> {
        let reached = self.deployments.iter().filter(|deployment| caller.reaches(deployment.name()));
        reached
            .flat_map(|deployment| {
                let name = deployment.name();
                let adapted = deployment.adapters().iter().map(move |adapter| format!("{name}:{adapter}"));
                std::iter::once(name.to_owned()).chain(adapted)
            })
            .collect()
    }

    /// A deployment by its name, or `chat:support-tone` with an adapter of it.
    fn target(&self, caller: &Caller, name: &str) -> Result<Target, ApiError> {
        let reached = |name: &str| self.deployments.get(name).filter(|_| caller.reaches(name)).cloned();
        if let Some(deployment) = reached(name) {
            return Ok(Target { deployment, adapter: None });
        }
        if let Some((of, adapter)) = name.split_once(':')
            && let Some(deployment) = reached(of)
            && deployment.adapters().iter().any(|known| known == adapter)
        {
            return Ok(Target { deployment, adapter: Some(adapter.to_owned()) });
        }
        Err(ApiError::unknown_model(name, &self.names(caller)))
    }
}

/// What a request's `model` means.
struct Target {
    deployment: Arc<Deployment>,
    /// Chosen by the request.
    adapter: Option<String>,
}

/// Every route.
pub fn router(api: Api) -> Router {
    let api = Arc::new(api);
    Router::new()
        .route("/v1/chat/completions", post(chat::chat_completions))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{name}", get(models::show))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::exposition))
        .fallback(async |uri: Uri| ApiError::not_found(uri.path()))
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            ApiError::method_not_allowed(method.as_str(), uri.path())
        })
        .layer(DefaultBodyLimit::max(MOST_BODY_BYTES))
        .layer(from_fn_with_state(Arc::clone(&api), caller::authenticate))
        .with_state(api)
}
