//! What agents keep by digest: added, named, traced, removed, verified.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use llmdeck_proto::v1::registry_client::RegistryClient;
use llmdeck_proto::v1::{
    AddArtifactRequest, Artifact, CollectGarbageRequest, RemoveArtifactRequest, TagArtifactRequest,
    VerifyArtifactsRequest,
};
use serde_json::{Value, json};

use super::confirm::type_the_name;
use super::derive::{self, DeriveArguments};
use super::governance::{self, GovernArguments, GovernanceArguments, dataset_json};
use super::merge::{self, MergeArguments};
use super::output::{print_json, print_table};
use super::{CliError, Common};
use crate::link::{LinkError, dial};
use crate::request;
use crate::view::bytes;

#[derive(Debug, Subcommand)]
pub(super) enum RegistryCommand {
    /// Everything that an agent keeps.
    List(ListArguments),
    /// One artifact in full.
    Show(OneArguments),
    /// Take in a file or a folder of the node: checked, named by digest, without a second copy where the disk can.
    Add(AddArguments),
    /// Make a dataset from another: without duplicates, leaks or personal data, or a part of it.
    Derive(DeriveArguments),
    /// Make full weights of a model and an adapter, for whoever cannot serve them apart.
    Merge(MergeArguments),
    /// Record where a dataset comes from and what it may be used for.
    Govern(GovernArguments),
    /// Give an artifact a name; it moves from whatever had it.
    Tag(TagArguments),
    /// What an artifact was made from, and what was made from it.
    Lineage(OneArguments),
    /// Take an artifact's names away, and its bytes unless a revision needs them.
    Remove(RemoveArguments),
    /// Remove what has no name and is needed by nothing.
    Gc(GcArguments),
    /// Read every byte and compare; exit code 1 when one has changed.
    Verify(VerifyArguments),
}

#[derive(Debug, Args)]
pub(super) struct ListArguments {
    /// model, adapter, prompt, suite, dataset or backend.
    #[arg(long, value_name = "KIND", default_value = "")]
    kind: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct OneArguments {
    /// A tag or a digest.
    reference: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct AddArguments {
    /// On the node.
    path: String,
    /// model, adapter, prompt, suite, dataset or backend; where its name does not say.
    #[arg(long, value_name = "KIND", default_value = "")]
    kind: String,
    /// Its name for people.
    #[arg(long, value_name = "TAG", default_value = "")]
    tag: String,
    /// What it was made from: a tag or a digest; may be given more than once.
    #[arg(long = "from", value_name = "REF")]
    parents: Vec<String>,
    #[command(flatten)]
    governance: GovernanceArguments,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct TagArguments {
    /// A tag or a digest.
    reference: String,
    /// The new name.
    tag: String,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct RemoveArguments {
    /// A tag or a digest.
    reference: String,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Only say what would happen.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask to type the name.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct GcArguments {
    /// Only say what would go.
    #[arg(long)]
    dry_run: bool,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArguments {
    /// A tag or a digest; everything where it is not given.
    #[arg(default_value = "")]
    reference: String,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn run(command: RegistryCommand) -> Result<ExitCode, CliError> {
    match command {
        RegistryCommand::List(arguments) => list(arguments).await?,
        RegistryCommand::Show(arguments) => show(arguments).await?,
        RegistryCommand::Add(arguments) => add(arguments).await?,
        RegistryCommand::Derive(arguments) => derive::run(arguments).await?,
        RegistryCommand::Merge(arguments) => merge::run(arguments).await?,
        RegistryCommand::Govern(arguments) => governance::govern(arguments).await?,
        RegistryCommand::Tag(arguments) => tag(arguments).await?,
        RegistryCommand::Lineage(arguments) => lineage(arguments).await?,
        RegistryCommand::Remove(arguments) => remove(arguments).await?,
        RegistryCommand::Gc(arguments) => gc(arguments).await?,
        RegistryCommand::Verify(arguments) => return verify(arguments).await,
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn artifact_json(artifact: &Artifact) -> Value {
    json!({
        "digest": artifact.digest, "kind": artifact.kind, "tags": artifact.tags,
        "size_bytes": artifact.size_bytes, "path": artifact.path, "parents": artifact.parents,
        "source": artifact.source, "added_by": artifact.added_by, "added_unix_ms": artifact.added_unix_ms,
    })
}

fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

/// Its first name, or its digest.
fn called(artifact: &Artifact) -> String {
    artifact.tags.first().cloned().unwrap_or_else(|| short(&artifact.digest))
}

async fn list(ListArguments { kind, common }: ListArguments) -> Result<(), CliError> {
    let artifacts = request::artifacts(dial(&common.target), &kind).await?;
    if common.json {
        return Ok(print_json(&artifacts.iter().map(artifact_json).collect::<Vec<_>>())?);
    }
    let rows: Vec<Vec<String>> = artifacts
        .into_iter()
        .map(|artifact| {
            let digest = short(&artifact.digest);
            vec![artifact.tags.join(" "), artifact.kind, bytes(artifact.size_bytes), digest]
        })
        .collect();
    Ok(print_table(&["TAGS", "KIND", "SIZE", "DIGEST"], &rows)?)
}

/// Everything, and the one that is meant.
async fn find(reference: &str, common: &Common) -> Result<(Vec<Artifact>, Artifact), CliError> {
    const SHORTEST_DIGEST: usize = 12;
    let all = request::artifacts(dial(&common.target), "").await?;
    let is_it = |artifact: &&Artifact| {
        artifact.tags.iter().any(|tag| tag == reference)
            || (reference.len() >= SHORTEST_DIGEST && artifact.digest.starts_with(reference))
    };
    let found = all.iter().find(is_it).cloned();
    let missing =
        || CliError::Usage(format!("there is no artifact {reference:?}; `registry list` shows all"));
    Ok((all.clone(), found.ok_or_else(missing)?))
}

async fn show(OneArguments { reference, common }: OneArguments) -> Result<(), CliError> {
    let (_, artifact) = find(&reference, &common).await?;
    let dataset = match artifact.kind.as_str() {
        "dataset" => Some(governance::dataset(&common, &artifact.digest).await?),
        _ => None,
    };
    if common.json {
        return Ok(print_json(&dataset.as_ref().map_or_else(|| artifact_json(&artifact), dataset_json))?);
    }
    let mut out = io::stdout().lock();
    for (name, value) in [
        ("kind", artifact.kind.clone()),
        ("tags", artifact.tags.join(" ")),
        ("digest", artifact.digest.clone()),
        ("size", bytes(artifact.size_bytes)),
        ("path", artifact.path.clone()),
        ("made from", artifact.parents.join(" ")),
        ("added from", artifact.source.clone()),
        ("added by", artifact.added_by.clone()),
    ] {
        if !value.is_empty() {
            writeln!(out, "{name:<11} {value}")?;
        }
    }
    drop(out);
    if let Some(dataset) = &dataset {
        governance::print_governance(dataset)?;
        governance::print_last_report(dataset)?;
    }
    Ok(())
}

async fn add(arguments: AddArguments) -> Result<(), CliError> {
    let AddArguments { path, kind, tag, parents, governance, reason, common } = arguments;
    let governance = governance.request();
    let request = AddArtifactRequest { path, kind, tag, parents, reason, governance };
    let answer = RegistryClient::new(dial(&common.target)).add_artifact(request).await;
    let mut progress = answer.map_err(LinkError::from)?.into_inner();
    while let Some(message) = progress.message().await.map_err(LinkError::from)? {
        if let Some(artifact) = message.artifact {
            if common.json {
                let mut value = artifact_json(&artifact);
                value["means"] = message.means.into();
                return Ok(print_json(&value)?);
            }
            let (name, kind, size) = (called(&artifact), &artifact.kind, bytes(artifact.size_bytes));
            return Ok(writeln!(
                io::stdout(),
                "{name}  {kind}  {size}  {}  {}",
                artifact.digest,
                message.means
            )?);
        }
        say_progress(message.done_bytes, Some(message.total_bytes))?;
    }
    Err(CliError::Failed("the agent ended before the artifact was in".into()))
}

fn say_progress(done: u64, total: Option<u64>) -> io::Result<()> {
    if !io::stderr().is_terminal() {
        return Ok(());
    }
    let of = total.map_or_else(String::new, |total| format!(" of {}", bytes(total)));
    write!(io::stderr(), "\r{}{of} read\x1b[K\r", bytes(done))
}

async fn tag(arguments: TagArguments) -> Result<(), CliError> {
    let TagArguments { reference, tag, reason, common } = arguments;
    let request = TagArtifactRequest { reference, tag, reason };
    let answer = RegistryClient::new(dial(&common.target)).tag_artifact(request).await;
    let artifact = answer.map_err(LinkError::from)?.into_inner();
    if common.json {
        return Ok(print_json(&artifact_json(&artifact))?);
    }
    Ok(writeln!(io::stdout(), "{}  {}", artifact.tags.join(" "), artifact.digest)?)
}

async fn lineage(OneArguments { reference, common }: OneArguments) -> Result<(), CliError> {
    let (all, artifact) = find(&reference, &common).await?;
    let made_from = upwards(&all, &artifact);
    let made_of_it = downwards(&all, &artifact);
    if common.json {
        return Ok(print_json(&json!({
            "artifact": artifact_json(&artifact), "made_from": made_from.iter().map(step_json).collect::<Vec<_>>(),
            "made_of_it": made_of_it.iter().map(step_json).collect::<Vec<_>>(),
        }))?);
    }
    let mut out = io::stdout().lock();
    for Step { depth, name, kind } in made_from.iter().rev() {
        writeln!(out, "{}{name}  {kind}", "  ".repeat(LEVELS.saturating_sub(*depth).min(LEVELS)))?;
    }
    let indent = if made_from.is_empty() { 0 } else { LEVELS };
    writeln!(out, "{}{}  {}", "  ".repeat(indent), called(&artifact), artifact.kind)?;
    for Step { depth, name, kind } in &made_of_it {
        writeln!(out, "{}{name}  {kind}", "  ".repeat(indent + depth))?;
    }
    Ok(())
}

/// Generations that are followed; digests cannot go round in circles, but they can go far.
const LEVELS: usize = 8;

struct Step {
    depth: usize,
    name: String,
    kind: String,
}

fn step_json(step: &Step) -> Value {
    json!({ "generation": step.depth, "name": step.name, "kind": step.kind })
}

fn upwards(all: &[Artifact], artifact: &Artifact) -> Vec<Step> {
    let parents = |of: &Artifact| of.parents.clone();
    walk(all, artifact, parents)
}

fn downwards(all: &[Artifact], artifact: &Artifact) -> Vec<Step> {
    let children = |of: &Artifact| {
        let made = all.iter().filter(|other| other.parents.contains(&of.digest));
        made.map(|other| other.digest.clone()).collect::<Vec<_>>()
    };
    walk(all, artifact, children)
}

fn walk(all: &[Artifact], from: &Artifact, next: impl Fn(&Artifact) -> Vec<String>) -> Vec<Step> {
    let (mut steps, mut generation) = (Vec::new(), vec![from.clone()]);
    for depth in 1..=LEVELS {
        let mut later = Vec::new();
        for digest in generation.iter().flat_map(&next) {
            match all.iter().find(|artifact| artifact.digest == digest) {
                Some(known) => {
                    steps.push(Step { depth, name: called(known), kind: known.kind.clone() });
                    later.push(known.clone());
                }
                None => steps.push(Step { depth, name: short(&digest), kind: "removed".into() }),
            }
        }
        generation = later;
    }
    steps
}

async fn remove(arguments: RemoveArguments) -> Result<(), CliError> {
    let RemoveArguments { reference, reason, dry_run, yes, common } = arguments;
    if !dry_run && !yes {
        type_the_name(&format!("{reference} goes, unless a revision needs it"), &reference)?;
    }
    let request = RemoveArtifactRequest { reference, reason, dry_run };
    let answer = RegistryClient::new(dial(&common.target)).remove_artifact(request).await;
    let answer = answer.map_err(LinkError::from)?.into_inner();
    let artifact = answer.artifact.unwrap_or_default();
    if common.json {
        return Ok(print_json(&json!({
            "artifact": artifact_json(&artifact), "needed_by": answer.needed_by,
            "removed": answer.needed_by.is_empty() && !dry_run,
        }))?);
    }
    let name = called(&artifact);
    if answer.needed_by.is_empty() {
        let goes = if dry_run { "would give" } else { "gave" };
        return Ok(writeln!(io::stdout(), "{name} {goes} {} back", bytes(artifact.size_bytes))?);
    }
    Ok(writeln!(io::stdout(), "{name} loses its names; its bytes stay for {}", answer.needed_by.join(", "))?)
}

async fn gc(GcArguments { dry_run, reason, common }: GcArguments) -> Result<(), CliError> {
    let request = CollectGarbageRequest { dry_run, reason };
    let answer = RegistryClient::new(dial(&common.target)).collect_garbage(request).await;
    let removed = answer.map_err(LinkError::from)?.into_inner().removed;
    if common.json {
        return Ok(print_json(&removed.iter().map(artifact_json).collect::<Vec<_>>())?);
    }
    let size: u64 = removed.iter().map(|artifact| artifact.size_bytes).sum();
    let mut out = io::stdout().lock();
    for artifact in &removed {
        writeln!(out, "{}  {}  {}", artifact.digest, artifact.kind, bytes(artifact.size_bytes))?;
    }
    let goes = if dry_run { "would go" } else { "are gone" };
    Ok(writeln!(out, "{} artifacts, {}, {goes}", removed.len(), bytes(size))?)
}

async fn verify(VerifyArguments { reference, common }: VerifyArguments) -> Result<ExitCode, CliError> {
    let request = VerifyArtifactsRequest { reference };
    let answer = RegistryClient::new(dial(&common.target)).verify_artifacts(request).await;
    let mut progress = answer.map_err(LinkError::from)?.into_inner();
    let (mut verified, mut flawed) = (Vec::new(), 0);
    while let Some(message) = progress.message().await.map_err(LinkError::from)? {
        let Some(artifact) = message.artifact else {
            say_progress(message.done_bytes, None)?;
            continue;
        };
        flawed += usize::from(!message.flaw.is_empty());
        if !common.json && !message.flaw.is_empty() {
            writeln!(io::stdout(), "{}: {}", called(&artifact), message.flaw)?;
        }
        let flaw = (!message.flaw.is_empty()).then_some(message.flaw);
        verified.push(json!({ "digest": artifact.digest, "tags": artifact.tags, "flaw": flaw }));
    }
    if common.json {
        print_json(&verified)?;
    } else {
        writeln!(io::stdout(), "{} artifacts read, {flawed} changed", verified.len())?;
    }
    Ok(if flawed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
