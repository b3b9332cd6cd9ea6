use std::sync::Arc;
use std::time::Duration;

use llmdeck_proto::v1::keys_server;
use llmdeck_proto::v1::{
    ApiKey, CreateKeyRequest, KeyLimits, KeySecret, KeySecretPart, ListKeysRequest, ListKeysResponse,
    RevokeKeyRequest, RevokeKeyResponse, RotateKeyRequest,
};
use tonic::{Request, Response, Status};

use super::Rpc;
use crate::security::access::Subject;
use crate::security::identity::Operator;
use crate::security::keys::{KeyError, KeyReport, Limits, NewKey, Secret};
use crate::serving::Deployments;

const LONGEST_GRACE_S: u64 = 90 * 86_400;

pub(super) struct Keys(pub(super) Arc<Rpc>);

#[tonic::async_trait]
impl keys_server::Keys for Keys {
    async fn list_keys(
        &self,
        request: Request<ListKeysRequest>,
    ) -> Result<Response<ListKeysResponse>, Status> {
        self.0.authorize(&request, "Keys/ListKeys", Subject::Node).await?;
        let reports = self.0.keys.reports().map_err(KeyError::from).map_err(|error| status(&error))?;
        Ok(Response::new(ListKeysResponse { keys: reports.into_iter().map(api_key).collect() }))
    }

    async fn create_key(&self, request: Request<CreateKeyRequest>) -> Result<Response<KeySecret>, Status> {
        let operator = self.0.authorize(&request, "Keys/CreateKey", Subject::Node).await?;
        let CreateKeyRequest { name, scopes, deployments, limits, expires_unix_ms, reason } =
            request.into_inner();
        let limits = of_limits(limits.unwrap_or_default());
        known_deployments(&self.0.deployments, &deployments)?;
        let new = NewKey { name: name.clone(), scopes, deployments, limits, expires_unix_ms };
        self.0.keys.check(&new).map_err(|error| status(&error))?;
        self.recorded(&operator, "create-key", &name, &reason).await?;
        answered(name, self.0.keys.create(&new))
    }

    async fn rotate_key(&self, request: Request<RotateKeyRequest>) -> Result<Response<KeySecret>, Status> {
        let operator = self.0.authorize(&request, "Keys/RotateKey", Subject::Node).await?;
        let RotateKeyRequest { name, grace_s, reason } = request.into_inner();
        if grace_s > LONGEST_GRACE_S {
            let message = format!("grace_s must be at most {LONGEST_GRACE_S}, not {grace_s}");
            return Err(Status::invalid_argument(message));
        }
        self.0.keys.known(&name).map_err(|error| status(&error))?;
        self.recorded(&operator, "rotate-key", &name, &reason).await?;
        let rotated = self.0.keys.rotate(&name, Duration::from_secs(grace_s));
        answered(name, rotated)
    }

    async fn revoke_key(
        &self,
        request: Request<RevokeKeyRequest>,
    ) -> Result<Response<RevokeKeyResponse>, Status> {
        let operator = self.0.authorize(&request, "Keys/RevokeKey", Subject::Node).await?;
        let RevokeKeyRequest { name, reason } = request.into_inner();
        self.0.keys.known(&name).map_err(|error| status(&error))?;
        self.recorded(&operator, "revoke-key", &name, &reason).await?;
        self.0.keys.revoke(&name).map_err(|error| status(&error))?;
        Ok(Response::new(RevokeKeyResponse {}))
    }
}

impl Keys {
    async fn recorded(
        &self,
        operator: &Operator,
        action: &str,
        name: &str,
        reason: &str,
    ) -> Result<(), Status> {
        let subject = format!("key:{name}");
        let recorded = self.0.controller.record(operator, action, &subject, reason, "accepted").await;
        recorded.map_err(|refused| Status::internal(refused.to_string()))
    }
}

fn answered(name: String, made: Result<Secret, KeyError>) -> Result<Response<KeySecret>, Status> {
    let secret = made.map_err(|error| status(&error))?;
    Ok(Response::new(KeySecret { name, secret: secret.reveal() }))
}

fn known_deployments(deployments: &Deployments, names: &[String]) -> Result<(), Status> {
    match names.iter().find(|name| deployments.get(name).is_none()) {
        Some(name) => Err(Status::invalid_argument(format!("there is no deployment {name:?} here"))),
        None => Ok(()),
    }
}

fn of_limits(limits: KeyLimits) -> Limits {
    Limits {
        requests_per_minute: (limits.requests_per_minute > 0).then_some(limits.requests_per_minute),
        tokens_per_minute: (limits.tokens_per_minute > 0).then_some(limits.tokens_per_minute),
        tokens_per_day: (limits.tokens_per_day > 0).then_some(limits.tokens_per_day),
    }
}

fn api_key(report: KeyReport) -> ApiKey {
    let KeyReport { key, secrets, last_used_unix_ms, today } = report;
    let unless_never = |unix_ms: i64| (unix_ms != 0).then_some(unix_ms);
    let part = |(id, expires): (String, i64)| KeySecretPart { id, expires_unix_ms: unless_never(expires) };
    ApiKey {
        name: key.name,
        scopes: key.scopes,
        deployments: key.deployments,
        limits: Some(KeyLimits {
            requests_per_minute: key.requests_per_minute,
            tokens_per_minute: key.tokens_per_minute,
            tokens_per_day: key.tokens_per_day,
        }),
        created_unix_ms: key.created_unix_ms,
        expires_unix_ms: unless_never(key.expires_unix_ms),
        last_used_unix_ms: unless_never(last_used_unix_ms),
        requests_today: today.requests,
        tokens_today: today.tokens,
        secrets: secrets.into_iter().map(part).collect(),
    }
}

fn status(error: &KeyError) -> Status {
    let message = error.to_string();
    match error {
        KeyError::Invalid(_) => Status::invalid_argument(message),
        KeyError::Unknown(_) => Status::not_found(message),
        KeyError::Exists(_) | KeyError::TooMany => Status::failed_precondition(message),
        KeyError::Store(_) | KeyError::Random(_) => Status::internal(message),
    }
}
