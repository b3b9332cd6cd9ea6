//! `llmdeck registry derive`: a dataset from another, by a recipe that is kept with it.

use std::io::{self, Write};

use clap::Args;
use llmdeck_proto::v1::DeriveDatasetRequest;
use llmdeck_proto::v1::registry_client::RegistryClient;
use serde_json::{Value, json};

use super::output::print_json;
use super::registry::artifact_json;
use super::{CliError, Common};
use crate::link::{LinkError, dial};

#[derive(Debug, Args)]
pub(super) struct DeriveArguments {
    /// A dataset: a tag, a digest, or a file on the node.
    reference: String,
    /// The new one's name.
    #[arg(long, value_name = "TAG", default_value = "")]
    tag: String,
    /// Leave out what is the same as, or almost the same as, an example before.
    #[arg(long)]
    dedupe: bool,
    /// Leave out what a suite of the registry has.
    #[arg(long)]
    drop_leaks: bool,
    /// Replace personal data and secrets by their kind.
    #[arg(long)]
    redact: bool,
    /// Leave out what cannot be read.
    #[arg(long)]
    drop_bad_lines: bool,
    /// Leave out examples of more letters.
    #[arg(long, value_name = "COUNT")]
    most_characters: Option<usize>,
    /// Only a part, as shares of all: 0..0.8 and 0.8..1 are the whole.
    #[arg(long, value_name = "FROM..TO", value_parser = part)]
    split: Option<(f64, f64)>,
    /// Of the draw of parts.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    common: Common,
}

fn part(text: &str) -> Result<(f64, f64), String> {
    let wrong = || format!("{text:?} is not FROM..TO with shares from 0 to 1, such as 0..0.8");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let share = |text: &str| text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(wrong);
    let (from, to) = (share(from)?, share(to)?);
    if from < to { Ok((from, to)) } else { Err(wrong()) }
}

pub(super) async fn run(arguments: DeriveArguments) -> Result<(), CliError> {
    let DeriveArguments { reference, tag, reason, common, seed, .. } = &arguments;
    let split = arguments.split.map(|(from, to)| json!({ "from": from, "to": to, "seed": seed }));
    let recipe = json!({
        "dedupe": arguments.dedupe, "drop_leaks": arguments.drop_leaks, "redact": arguments.redact,
        "drop_bad_lines": arguments.drop_bad_lines, "most_characters": arguments.most_characters, "split": split,
    });
    let request = DeriveDatasetRequest {
        reference: reference.clone(),
        recipe_json: recipe.to_string(),
        tag: tag.clone(),
        reason: reason.clone(),
    };
    let made = RegistryClient::new(dial(&common.target)).derive_dataset(request).await;
    let made = made.map_err(LinkError::from)?.into_inner();
    let artifact = made.artifact.unwrap_or_default();
    if common.json {
        let mut value: Value = artifact_json(&artifact);
        value["done"] = made.done.into();
        return Ok(print_json(&value)?);
    }
    let mut out = io::stdout().lock();
    for line in &made.done {
        writeln!(out, "{line}")?;
    }
    Ok(writeln!(out, "{}  {}", artifact.tags.join(" "), artifact.digest)?)
}

#[cfg(test)]
mod tests {
    use super::part;

    #[test]
    fn a_part_is_two_shares() {
        assert_eq!(part("0..0.8"), Ok((0.0, 0.8)));
        for wrong in ["0.8", "0.8..0.2", "0..2", "a..b"] {
            assert!(part(wrong).is_err(), "{wrong}");
        }
    }
}
