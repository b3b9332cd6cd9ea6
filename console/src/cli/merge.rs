//! `llmdeck registry merge`: full weights of a model and an adapter.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use llmdeck_proto::v1::MergeAdapterRequest;
use llmdeck_proto::v1::registry_client::RegistryClient;

use super::output::print_json;
use super::registry::artifact_json;
use super::{CliError, Common};
use crate::link::{LinkError, dial};

#[derive(Debug, Args)]
pub(super) struct MergeArguments {
    /// The adapter's model: a tag, a digest, or a path on the node.
    model: String,
    /// A tag, a digest, or a path on the node.
    adapter: String,
    /// How what the adapter changes is written; in GGUF files, all else stays as it is.
    #[arg(long, value_enum, default_value_t = Format::Bf16)]
    format: Format,
    /// The new model's name.
    #[arg(long, value_name = "TAG", default_value = "")]
    tag: String,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// 16 bits with the range of 32.
    Bf16,
    /// 32 bits.
    F32,
}

pub(super) async fn run(arguments: MergeArguments) -> Result<(), CliError> {
    let MergeArguments { model, adapter, format, tag, reason, common } = arguments;
    let format = match format {
        Format::Bf16 => "bf16",
        Format::F32 => "f32",
    };
    let request = MergeAdapterRequest { model, adapter, format: format.into(), tag, reason };
    let merged = RegistryClient::new(dial(&common.target)).merge_adapter(request).await;
    let artifact = merged.map_err(LinkError::from)?.into_inner();
    if common.json {
        return Ok(print_json(&artifact_json(&artifact))?);
    }
    Ok(writeln!(io::stdout(), "{}  {}", artifact.tags.join(" "), artifact.digest)?)
}
