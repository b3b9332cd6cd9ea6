use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::Api;

/// `GET /healthz`: the process answers.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({ "status": "alive", "version": env!("CARGO_PKG_VERSION") }))
}

/// `GET /readyz`: every deployment takes requests; 503 with what does not otherwise.
pub(super) async fn ready(State(api): State<Arc<Api>>) -> (StatusCode, Json<Value>) {
    let states: Map<String, Value> = api
        .deployments
        .iter()
        .map(|deployment| {
            let state = if deployment.is_ready() { "ready".to_owned() } else { deployment.why_unavailable() };
            (deployment.name().to_owned(), state.into())
        })
        .collect();
    let ready = api.deployments.iter().all(|deployment| deployment.is_ready());
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "deployments": states })))
}
