use std::time::Duration;

use llmdeck_load::StreamClient;
use llmdeck_proto::MAX_MESSAGE_BYTES;
use llmdeck_proto::v1::WatchRequest;
use llmdeck_proto::v1::telemetry_client::TelemetryClient;
use tonic::codec::CompressionEncoding;

use crate::cli::CliError;
use crate::link::{LinkError, Target, dial};

/// Where requests go: the server and the model to name.
pub(super) struct Place {
    pub(super) server: String,
    pub(super) model: String,
}

/// A URL as it is, with the model that the server lists where none is named; or a deployment of the agent.
pub(super) async fn find(
    wanted: &str,
    model: Option<&str>,
    key: Option<&str>,
    agent: &Target,
    patience: Duration,
) -> Result<Place, CliError> {
    if !wanted.contains("://") {
        return deployment(wanted, agent).await;
    }
    let server = wanted.trim_end_matches('/').trim_end_matches("/v1").to_owned();
    let failed = |error: llmdeck_load::ChatError| CliError::Failed(format!("{server}: {error}"));
    let client = StreamClient::new(&server, "/v1/models", key, patience).map_err(failed)?;
    let model = match model {
        Some(model) => model.to_owned(),
        None => {
            let mut models = client.models().await.map_err(failed)?;
            match models.len() {
                1 => models.remove(0),
                0 => return Err(CliError::Usage(format!("{server} lists no model; name one with --model"))),
                _ => {
                    return Err(CliError::Usage(format!(
                        "name one of them with --model: {}",
                        models.join(", ")
                    )));
                }
            }
        }
    };
    Ok(Place { server, model })
}

async fn deployment(name: &str, agent: &Target) -> Result<Place, CliError> {
    let mut client = TelemetryClient::new(dial(agent))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Gzip);
    let frames = client.watch(WatchRequest { interval_ms: 0 }).await.map_err(LinkError::from)?;
    let frame = frames.into_inner().message().await.map_err(LinkError::from)?.unwrap_or_default();
    let names: Vec<&str> = frame.deployments.iter().map(|deployment| deployment.name.as_str()).collect();
    if !names.contains(&name) {
        let known = names.join(", ");
        return Err(CliError::Usage(format!(
            "there is no deployment {name:?} here; there is {known}; a server is http://HOST:PORT or https://HOST"
        )));
    }
    if !matches!(agent, Target::Unix(_)) {
        return Err(CliError::Usage(format!(
            "{} is an address of {}; add --job, so that the agent asks there and the network is not what is measured",
            frame.http_address, frame.node
        )));
    }
    Ok(Place { server: format!("http://{}", frame.http_address), model: name.to_owned() })
}
