//! Keys of the HTTP API: made, listed, rotated, revoked. A secret is printed once, and alone on standard output.

use std::io::{self, Write};
use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use llmdeck_proto::v1::keys_client::KeysClient;
use llmdeck_proto::v1::{
    ApiKey, CreateKeyRequest, KeyLimits, KeySecret, ListKeysRequest, RevokeKeyRequest, RotateKeyRequest,
};
use serde_json::{Value, json};

use super::confirm::type_the_name;
use super::output::{print_json, print_table};
use super::span::span;
use super::{CliError, Common};
use crate::clock::unix_ms;
use crate::link::{LinkError, dial};

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Every key, what it may do and what it used today; no secrets.
    List(Common),
    /// Make a key; prints its secret, which nobody can see again.
    Create(Box<CreateArguments>),
    /// Give a key another secret; prints it. The one before stays good for the grace.
    Rotate(RotateArguments),
    /// End a key at once.
    Revoke(RevokeArguments),
}

#[derive(Debug, Args)]
pub(super) struct CreateArguments {
    /// Whose it is: letters, digits, - _ . @
    name: String,
    /// What it may do: inference, metrics or control; may be given more than once.
    #[arg(long = "scope", value_name = "SCOPE", default_value = "inference")]
    scopes: Vec<String>,
    /// A deployment that it may use; may be given more than once. All where it is not.
    #[arg(long = "deployment", value_name = "NAME")]
    deployments: Vec<String>,
    /// Most requests a minute.
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    requests_per_minute: u32,
    /// Most tokens, in and out, a minute.
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    tokens_per_minute: u64,
    /// Most tokens, in and out, in a day of UTC.
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    tokens_per_day: u64,
    /// How long it is good: 90d, 12h.
    #[arg(long, value_name = "TIME", value_parser = span)]
    expires: Option<Duration>,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct RotateArguments {
    /// Which.
    name: String,
    /// How long the secret before stays good: 24h, 0s.
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "24h")]
    grace: Duration,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct RevokeArguments {
    /// Which.
    name: String,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Do not ask to type the name.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn run(command: KeysCommand) -> Result<(), CliError> {
    match command {
        KeysCommand::List(common) => list(&common).await,
        KeysCommand::Create(arguments) => create(*arguments).await,
        KeysCommand::Rotate(arguments) => rotate(arguments).await,
        KeysCommand::Revoke(arguments) => revoke(arguments).await,
    }
}

async fn list(common: &Common) -> Result<(), CliError> {
    let answer = KeysClient::new(dial(&common.target)).list_keys(ListKeysRequest {}).await;
    let keys = answer.map_err(LinkError::from)?.into_inner().keys;
    if common.json {
        return Ok(print_json(&keys.iter().map(key_json).collect::<Vec<Value>>())?);
    }
    let rows: Vec<Vec<String>> = keys.iter().map(row).collect();
    let titles = ["NAME", "SCOPES", "DEPLOYMENTS", "LIMITS", "TODAY", "LAST USED", "EXPIRES", "SECRETS"];
    Ok(print_table(&titles, &rows)?)
}

fn row(key: &ApiKey) -> Vec<String> {
    let limits = key.limits.unwrap_or_default();
    let limit = |count: u64, unit: &str| (count > 0).then(|| format!("{count} {unit}"));
    let limits: Vec<String> = [
        limit(limits.requests_per_minute.into(), "req/min"),
        limit(limits.tokens_per_minute, "tok/min"),
        limit(limits.tokens_per_day, "tok/day"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let or_dash = |text: String| if text.is_empty() { "—".to_owned() } else { text };
    let time = |unix_ms: Option<i64>, absent: &str| unix_ms.map_or_else(|| absent.to_owned(), date_and_time);
    let secrets = key.secrets.iter().map(|secret| match secret.expires_unix_ms {
        Some(at) => format!("{} until {}", secret.id, date_and_time(at)),
        None => secret.id.clone(),
    });
    vec![
        key.name.clone(),
        key.scopes.join(" "),
        if key.deployments.is_empty() { "all".into() } else { key.deployments.join(" ") },
        or_dash(limits.join(", ")),
        format!("{} req, {} tok", key.requests_today, key.tokens_today),
        time(key.last_used_unix_ms, "—"),
        time(key.expires_unix_ms, "never"),
        secrets.collect::<Vec<_>>().join(", "),
    ]
}

fn date_and_time(unix_ms: i64) -> String {
    let time = Timestamp::from_millisecond(unix_ms).map(|time| time.to_zoned(TimeZone::system()));
    time.map_or_else(|_| "—".into(), |time| time.strftime("%Y-%m-%d %H:%M").to_string())
}

fn key_json(key: &ApiKey) -> Value {
    let limits = key.limits.unwrap_or_default();
    let unless_none = |count: u64| (count > 0).then_some(count);
    json!({
        "name": key.name, "scopes": key.scopes, "deployments": key.deployments,
        "requests_per_minute": unless_none(limits.requests_per_minute.into()),
        "tokens_per_minute": unless_none(limits.tokens_per_minute),
        "tokens_per_day": unless_none(limits.tokens_per_day),
        "requests_today": key.requests_today, "tokens_today": key.tokens_today,
        "created_unix_ms": key.created_unix_ms, "expires_unix_ms": key.expires_unix_ms,
        "last_used_unix_ms": key.last_used_unix_ms,
        "secrets": key.secrets.iter().map(|secret| {
            json!({ "id": secret.id, "expires_unix_ms": secret.expires_unix_ms })
        }).collect::<Vec<_>>(),
    })
}

async fn create(arguments: CreateArguments) -> Result<(), CliError> {
    let expires = arguments
        .expires
        .map(|time| unix_ms().saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX)));
    let request = CreateKeyRequest {
        name: arguments.name,
        scopes: arguments.scopes,
        deployments: arguments.deployments,
        limits: Some(KeyLimits {
            requests_per_minute: arguments.requests_per_minute,
            tokens_per_minute: arguments.tokens_per_minute,
            tokens_per_day: arguments.tokens_per_day,
        }),
        expires_unix_ms: expires,
        reason: arguments.reason,
    };
    let answer = KeysClient::new(dial(&arguments.common.target)).create_key(request).await;
    show(&answer.map_err(LinkError::from)?.into_inner(), arguments.common.json)
}

async fn rotate(arguments: RotateArguments) -> Result<(), CliError> {
    let RotateArguments { name, grace, reason, common } = arguments;
    let request = RotateKeyRequest { name, grace_s: grace.as_secs(), reason };
    let answer = KeysClient::new(dial(&common.target)).rotate_key(request).await;
    show(&answer.map_err(LinkError::from)?.into_inner(), common.json)
}

async fn revoke(arguments: RevokeArguments) -> Result<(), CliError> {
    let RevokeArguments { name, reason, yes, common } = arguments;
    if !yes {
        type_the_name(&format!("every request with the key {name} will be refused"), &name)?;
    }
    let request = RevokeKeyRequest { name, reason };
    KeysClient::new(dial(&common.target)).revoke_key(request).await.map_err(LinkError::from)?;
    Ok(())
}

fn show(key: &KeySecret, as_json: bool) -> Result<(), CliError> {
    if as_json {
        return Ok(print_json(&json!({ "name": key.name, "secret": key.secret }))?);
    }
    writeln!(io::stderr(), "the secret of {}; keep it now, nobody can see it again:", key.name)?;
    Ok(writeln!(io::stdout(), "{}", key.secret)?)
}
