use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde_json::{Map, Value, json};

use super::Api;
use super::caller::Caller;

/// `GET /healthz`: the process answers.
pub(super) async fn alive(Extension(caller): Extension<Caller>) -> Json<Value> {
    match caller {
        Caller::Stranger => Json(json!({ "status": "alive" })),
        Caller::Anyone | Caller::Key(_) => {
            Json(json!({ "status": "alive", "version": env!("CARGO_PKG_VERSION") }))
        }
    }
}

/// `GET /readyz`: every deployment takes requests; 503 with what does not otherwise.
pub(super) async fn ready(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> (StatusCode, Json<Value>) {
    let states: Map<String, Value> = api
        .deployments
        .iter()
        .filter(|deployment| caller.reaches(deployment.name()))
        .map(|deployment| {
            let state = if deployment.is_ready() { "ready".to_owned() } else { deployment.why_unavailable() };
            (deployment.name().to_owned(), state.into())
        })
        .collect();
    let ready = api.deployments.iter().all(|deployment| deployment.is_ready());
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match caller {
        Caller::Stranger => (status, Json(json!({ "ready": ready }))),
        Caller::Anyone | Caller::Key(_) => (status, Json(json!({ "ready": ready, "deployments": states }))),
    }
}
