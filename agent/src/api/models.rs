use std::sync::Arc;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::Api;
use super::caller::Caller;
use super::error::ApiError;

/// `GET /v1/models`: the deployments that the caller may use, in order of name.
pub(super) async fn list(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>) -> Json<Value> {
    let data: Vec<Value> = api.names(&caller).iter().map(|name| model(&api, name)).collect();
    Json(json!({ "object": "list", "data": data }))
}

/// `GET /v1/models/{name}`
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    api.target(&caller, &name)?;
    Ok(Json(model(&api, &name)))
}

fn model(api: &Api, name: &str) -> Value {
    let deployment = name.split(':').next().unwrap_or(name);
    let live = api.deployments.get(deployment).and_then(|deployment| deployment.stable());
    let created = live.map_or(api.started_unix_s, |live| live.spec().created_unix_ms / 1_000);
    json!({ "id": name, "object": "model", "created": created, "owned_by": "llmdeck" })
}
