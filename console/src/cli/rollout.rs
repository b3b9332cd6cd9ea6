//! A rollout: how it stands, and what may be asked of it.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use llmdeck_proto::v1::rollout::{State, Strategy};
use llmdeck_proto::v1::{ActionContext, Rollout};
use serde_json::{Value, json};

use super::change::{plan_json, print_effects};
use super::findings::{assessment_json, print_findings};
use super::output::{print_json, print_table};
use super::{CliError, Common};
use crate::app::Action;
use crate::link::dial;
use crate::request;
use crate::view::time_of_day;

#[derive(Debug, Subcommand)]
pub(super) enum RolloutCommand {
    /// How the latest rollout of a deployment stands.
    Status {
        /// The deployment.
        name: String,
        /// An earlier one, as `rollout list` has it.
        #[arg(long, value_name = "ID", default_value = "")]
        id: String,
        #[command(flatten)]
        common: Common,
    },
    /// Rollouts of a deployment, newest first.
    List {
        /// The deployment.
        name: String,
        /// Most rollouts.
        #[arg(long, value_name = "COUNT", default_value_t = 20)]
        limit: u32,
        #[command(flatten)]
        common: Common,
    },
    /// Hold a canary or a shadow at its step; it is still compared, and taken back when it is worse.
    Pause(SteerArguments),
    /// Let it go on.
    Resume(SteerArguments),
    /// Send all new requests to the candidate now.
    Promote(SteerArguments),
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
pub(super) struct SteerArguments {
    /// The deployment.
    name: String,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Show what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn run(command: RolloutCommand) -> Result<(), CliError> {
    match command {
        RolloutCommand::List { name, limit, common } => list(&name, limit, &common).await,
        RolloutCommand::Status { name, id, common } => {
            match request::rollout(dial(&common.target), &name, &id).await? {
                Some(rollout) => show(&rollout, common.json),
                None if !id.is_empty() => {
                    Err(CliError::Failed(format!("{name} had no rollout {id}; llmdeck rollout list {name}")))
                }
                None => Err(CliError::Failed(format!("{name} has had no rollout yet"))),
            }
        }
        RolloutCommand::Pause(arguments) => steer(|deployment| Action::Pause { deployment }, arguments).await,
        RolloutCommand::Resume(arguments) => {
            steer(|deployment| Action::Resume { deployment }, arguments).await
        }
        RolloutCommand::Promote(arguments) => {
            steer(|deployment| Action::Promote { deployment }, arguments).await
        }
        RolloutCommand::Abort { name, reason, common } => {
            let context = ActionContext { reason, ..ActionContext::default() };
            let changed =
                request::act(dial(&common.target), Action::Abort { deployment: name }, context).await?;
            let plan = changed.plan.unwrap_or_default();
            if common.json {
                Ok(print_json(&plan_json(&plan))?)
            } else {
                Ok(print_effects(&plan, io::stdout())?)
            }
        }
    }
}

async fn list(name: &str, limit: u32, common: &Common) -> Result<(), CliError> {
    let rollouts = request::rollouts(dial(&common.target), name, limit).await?;
    if common.json {
        return Ok(print_json(&rollouts.iter().map(rollout_json).collect::<Vec<Value>>())?);
    }
    let zone = TimeZone::system();
    let row = |rollout: &Rollout| {
        vec![
            rollout.id.clone(),
            time_of_day(rollout.started_unix_ms, &zone),
            format!("{}@{}", rollout.deployment, rollout.to_revision),
            strategy_word(rollout.strategy()).to_owned(),
            state_word(rollout.state()).to_owned(),
            rollout.operator.clone(),
            rollout.detail.clone(),
        ]
    };
    let titles = ["ID", "TIME", "REVISION", "STRATEGY", "STATE", "OPERATOR", "DETAIL"];
    Ok(print_table(&titles, &rollouts.iter().map(row).collect::<Vec<_>>())?)
}

async fn steer(action: fn(String) -> Action, arguments: SteerArguments) -> Result<(), CliError> {
    let SteerArguments { name, reason, dry_run, common } = arguments;
    let context = ActionContext { reason, dry_run, ..ActionContext::default() };
    let changed = request::act(dial(&common.target), action(name), context).await?;
    let plan = changed.plan.unwrap_or_default();
    if common.json { Ok(print_json(&plan_json(&plan))?) } else { Ok(print_effects(&plan, io::stdout())?) }
}

pub(super) fn show(rollout: &Rollout, json: bool) -> Result<(), CliError> {
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
    Ok(print_findings(rollout, io::stdout())?)
}

pub(super) fn rollout_json(rollout: &Rollout) -> Value {
    json!({
        "deployment": rollout.deployment, "rollout_id": rollout.id,
        "from_revision": rollout.from_revision, "to_revision": rollout.to_revision,
        "state": state_word(rollout.state()), "detail": rollout.detail, "progress": rollout.progress,
        "operator": rollout.operator, "reason": rollout.reason,
        "started_unix_ms": rollout.started_unix_ms, "ended_unix_ms": rollout.ended_unix_ms,
        "failed_requests": rollout.failed_requests,
        "strategy": strategy_word(rollout.strategy()),
        "steps": rollout.steps.iter().map(|step| json!({
            "share": step.share, "hold_s": step.hold_s, "requests": step.requests,
        })).collect::<Vec<_>>(),
        "step": rollout.step, "paused": rollout.paused, "auto_promote": rollout.auto_promote,
        "assessment": rollout.assessment.as_ref().map(assessment_json),
    })
}

fn state_word(state: State) -> &'static str {
    match state {
        State::Unspecified => "unknown",
        State::Loading => "loading",
        State::Warming => "warming",
        State::Evaluating => "evaluating",
        State::Canary => "canary",
        State::Swapping => "swapping",
        State::Draining => "draining",
        State::Done => "done",
        State::Failed => "failed",
        State::Aborted => "aborted",
        State::RolledBack => "rolled-back",
    }
}

fn strategy_word(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Unspecified | Strategy::Replace => "replace",
        Strategy::Canary => "canary",
        Strategy::Shadow => "shadow",
    }
}
