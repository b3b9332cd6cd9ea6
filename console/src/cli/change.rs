use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use clap::{Args, Subcommand};
use llmdeck_proto::v1::rollout::State;
use llmdeck_proto::v1::{ActionContext, ChangePlan, Rollout};
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::output::print_json;
use super::{CliError, Common};
use crate::app::Action;
use crate::link::dial;
use crate::request;

/// How often a rollout that is followed is asked for.
const ASK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct DeployArguments {
    /// The deployment.
    name: String,
    /// A tag of the registry, a digest, or a path on the node.
    #[arg(long, value_name = "REF")]
    model: String,
    /// Swap even when the golden score is below the deployment's floor.
    #[arg(long)]
    force: bool,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    change: ChangeArguments,
}

#[derive(Debug, Args)]
pub(super) struct RollbackArguments {
    /// The deployment.
    name: String,
    /// The revision to go back to; the previous one where it is not given.
    #[arg(long, value_name = "REVISION", default_value_t = 0)]
    to: u32,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    change: ChangeArguments,
}

#[derive(Debug, Args)]
struct ChangeArguments {
    /// Show what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
pub(super) enum RolloutCommand {
    /// How the latest rollout of a deployment stands.
    Status {
        /// The deployment.
        name: String,
        #[command(flatten)]
        common: Common,
    },
    /// End a rollout that has not swapped yet.
    Abort {
        /// The deployment.
        name: String,
        /// Why, for the audit.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
pub(super) struct EvaluateArguments {
    /// The deployment.
    name: String,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn deploy(arguments: DeployArguments) -> Result<(), CliError> {
    let DeployArguments { name, model, force, reason, change } = arguments;
    make(Action::Deploy { deployment: name.clone(), model, force }, &name, reason, change).await
}

pub(super) async fn rollback(arguments: RollbackArguments) -> Result<(), CliError> {
    let RollbackArguments { name, to, reason, change } = arguments;
    make(Action::Rollback { deployment: name.clone(), to_revision: to }, &name, reason, change).await
}

pub(super) async fn rollout(command: RolloutCommand) -> Result<(), CliError> {
    match command {
        RolloutCommand::Status { name, common } => {
            match request::rollout(dial(&common.target), &name, "").await? {
                Some(rollout) => show(&rollout, common.json),
                None => Err(CliError::Failed(format!("{name} has had no rollout yet"))),
            }
        }
        RolloutCommand::Abort { name, reason, common } => {
            let context = ActionContext { reason, ..ActionContext::default() };
            let changed =
                request::act(dial(&common.target), Action::Abort { deployment: name }, context).await?;
            let plan = changed.plan.unwrap_or_default();
            if common.json { Ok(print_json(&plan_json(&plan))?) } else { Ok(print_effects(&plan)?) }
        }
    }
}

pub(super) async fn evaluate(arguments: EvaluateArguments) -> Result<(), CliError> {
    let EvaluateArguments { name, common } = arguments;
    let job = request::evaluate(dial(&common.target), name).await?;
    if common.json {
        Ok(print_json(&json!({ "job": job }))?)
    } else {
        Ok(writeln!(io::stdout(), "job {job}")?)
    }
}

/// Shows what would change, asks, makes it, and follows it to its end.
async fn make(action: Action, name: &str, reason: String, change: ChangeArguments) -> Result<(), CliError> {
    let ChangeArguments { dry_run, yes, common } = change;
    let channel = dial(&common.target);
    let asked = ActionContext { dry_run: true, reason: reason.clone(), ..ActionContext::default() };
    let plan = request::act(channel.clone(), action.clone(), asked).await?.plan.unwrap_or_default();
    if dry_run {
        return if common.json {
            Ok(print_json(&plan_json(&plan))?)
        } else {
            Ok(print_plan(&plan, io::stdout())?)
        };
    }
    if !yes {
        confirm(&plan)?;
    }
    let context = ActionContext {
        idempotency_key: format!("{:032x}", rand::random::<u128>()),
        expected_revision: plan.from_revision,
        reason,
        dry_run: false,
    };
    let id = request::act(channel.clone(), action, context).await?.rollout_id;
    let rollout = follow(channel, name, &id, common.json).await?;
    show(&rollout, common.json)?;
    match rollout.state() {
        State::Done => Ok(()),
        _ => Err(CliError::Failed(format!(
            "{}@{} does not serve: {}",
            name, rollout.to_revision, rollout.detail
        ))),
    }
}

fn confirm(plan: &ChangePlan) -> Result<(), CliError> {
    if !io::stdin().is_terminal() {
        return Err(CliError::Usage(
            "standard input is no terminal to ask on; add --yes, or --dry-run to look".into(),
        ));
    }
    print_plan(plan, io::stderr())?;
    eprint!("go on? [y/N] ");
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    if matches!(line.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(CliError::Failed("nothing was changed".into()))
}

async fn follow(channel: Channel, name: &str, id: &str, json: bool) -> Result<Rollout, CliError> {
    let mut said = String::new();
    loop {
        let Some(rollout) = request::rollout(channel.clone(), name, id).await? else {
            return Err(CliError::Failed(format!("the agent does not know rollout {id}")));
        };
        if rollout.ended_unix_ms.is_some() {
            return Ok(rollout);
        }
        if !json && rollout.detail != said && !rollout.detail.is_empty() {
            eprintln!("{name}@{}: {}", rollout.to_revision, rollout.detail);
            said.clone_from(&rollout.detail);
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn show(rollout: &Rollout, json: bool) -> Result<(), CliError> {
    if json {
        return Ok(print_json(&rollout_json(rollout))?);
    }
    writeln!(
        io::stdout(),
        "{}@{} {}: {}; {} failed",
        rollout.deployment,
        rollout.to_revision,
        state_word(rollout.state()),
        rollout.detail,
        rollout.failed_requests
    )?;
    Ok(())
}

fn print_plan(plan: &ChangePlan, mut out: impl Write) -> io::Result<()> {
    let name = &plan.deployment;
    writeln!(out, "from    {name}@{}  {}", plan.from_revision, plan.from_model)?;
    writeln!(out, "to      {name}@{}  {}", plan.to_revision, plan.to_model)?;
    for (index, effect) in plan.effects.iter().enumerate() {
        writeln!(out, "{}{effect}", if index == 0 { "effect  " } else { "        " })?;
    }
    writeln!(out, "undo    {}", plan.undo)
}

fn print_effects(plan: &ChangePlan) -> io::Result<()> {
    plan.effects.iter().try_for_each(|effect| writeln!(io::stdout(), "{effect}"))
}

fn plan_json(plan: &ChangePlan) -> Value {
    json!({
        "deployment": plan.deployment,
        "from_revision": plan.from_revision, "from_model": plan.from_model,
        "to_revision": plan.to_revision, "to_model": plan.to_model,
        "standby_ready": plan.standby_ready, "in_flight": plan.in_flight,
        "effects": plan.effects, "undo": plan.undo, "extra_memory_bytes": plan.extra_memory_bytes,
    })
}

pub(super) fn rollout_json(rollout: &Rollout) -> Value {
    json!({
        "deployment": rollout.deployment, "rollout_id": rollout.id,
        "from_revision": rollout.from_revision, "to_revision": rollout.to_revision,
        "state": state_word(rollout.state()), "detail": rollout.detail, "progress": rollout.progress,
        "operator": rollout.operator, "reason": rollout.reason,
        "started_unix_ms": rollout.started_unix_ms, "ended_unix_ms": rollout.ended_unix_ms,
        "failed_requests": rollout.failed_requests,
    })
}

fn state_word(state: State) -> &'static str {
    match state {
        State::Unspecified => "unknown",
        State::Loading => "loading",
        State::Warming => "warming",
        State::Evaluating => "evaluating",
        State::Swapping => "swapping",
        State::Draining => "draining",
        State::Done => "done",
        State::Failed => "failed",
        State::Aborted => "aborted",
    }
}
