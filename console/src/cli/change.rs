use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use crate::link::Channel;
use clap::{Args, ValueEnum};
use llmdeck_proto::v1::rollout::{State, Strategy};
use llmdeck_proto::v1::{ActionContext, Assessment, ChangePlan, Rollout, RolloutStep};
use serde_json::{Value, json};

use super::confirm::{go_on, type_the_name};
use super::output::print_json;
use super::rollout::show;
use super::span::span;
use super::{CliError, Common};
use crate::app::{Action, RevisionParts, RolloutChoice, setting};
use crate::link::dial;
use crate::request;

/// How often a rollout that is followed is asked for.
const ASK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct DeployArguments {
    /// The deployment.
    #[arg(required_unless_present = "file")]
    name: Option<String>,
    /// A tag of the registry, a digest, or a path on the node.
    #[arg(long, value_name = "REF", required_unless_present_any = ["file", "adapter", "prompt", "engine"])]
    model: Option<String>,
    /// An adapter over the model: a tag, a digest, or a folder on the node. Without --model, over the one that serves.
    #[arg(long, value_name = "REF", default_value = "")]
    adapter: String,
    /// Text in front of every conversation: a tag, a digest, or a file on the node.
    #[arg(long, value_name = "REF", default_value = "")]
    prompt: String,
    /// A setting of its engine in the place of the deployment's own, such as context_tokens=4096; may be given again. Without --model,
    /// for what serves.
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting::parse)]
    engine: Vec<(String, Value)>,
    /// Instead of one deployment, every one of a file that differs from what serves.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "model", "adapter", "prompt", "engine", "force", "strategy"])]
    file: Option<PathBuf>,
    /// Swap even when the golden score is below the deployment's floor.
    #[arg(long)]
    force: bool,
    /// At once, in steps, or with copies first; as the deployment is configured where it is not given.
    #[arg(long, value_enum)]
    strategy: Option<StrategyArgument>,
    /// A step of a canary or a shadow: its share, how long at least, and after how many requests: 5%:10m:200. Give one for
    /// each step.
    #[arg(long = "step", value_name = "SHARE[:TIME[:REQUESTS]]", value_parser = step, requires = "strategy")]
    steps: Vec<RolloutStep>,
    /// Promote it by itself when its steps are over and nothing is worse.
    #[arg(long, requires = "strategy", conflicts_with = "no_auto_promote")]
    auto_promote: bool,
    /// Wait for `rollout promote` when its steps are over.
    #[arg(long, requires = "strategy")]
    no_auto_promote: bool,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    change: ChangeArguments,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StrategyArgument {
    /// All new requests go over when it is ready.
    Replace,
    /// A part of the requests goes over, step by step.
    Canary,
    /// It gets copies of requests; nobody sees its answers.
    Shadow,
}

#[derive(Debug, Args)]
pub(super) struct RollbackArguments {
    /// The deployment.
    name: String,
    /// The revision to go back to; the previous one where it is not given.
    #[arg(long, value_name = "REVISION", default_value_t = 0)]
    to: u32,
    /// Do not let running requests finish: those of which nothing was sent yet begin again on the revision that comes back, the
    /// rest end with an error.
    #[arg(long)]
    cut: bool,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    change: ChangeArguments,
}

#[derive(Debug, Args)]
pub(super) struct StopArguments {
    /// The deployment.
    name: String,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    change: ChangeArguments,
}

#[derive(Debug, Args)]
pub(super) struct ChangeArguments {
    /// Show what would change, and change nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    pub(super) yes: bool,
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, Args)]
pub(super) struct EvaluateArguments {
    /// The deployment.
    name: String,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn deploy(arguments: DeployArguments) -> Result<(), CliError> {
    let DeployArguments {
        name,
        model,
        adapter,
        prompt,
        engine,
        file,
        force,
        strategy,
        steps,
        auto_promote,
        no_auto_promote,
        reason,
        change,
    } = arguments;
    if let Some(file) = file {
        return super::file::deploy(&file, reason, change).await;
    }
    let (name, model) = (name.unwrap_or_default(), model.unwrap_or_default());
    let how = RolloutChoice {
        strategy: match strategy {
            None => Strategy::Unspecified,
            Some(StrategyArgument::Replace) => Strategy::Replace,
            Some(StrategyArgument::Canary) => Strategy::Canary,
            Some(StrategyArgument::Shadow) => Strategy::Shadow,
        },
        steps,
        auto_promote: (auto_promote || no_auto_promote).then_some(auto_promote),
    };
    let parts = RevisionParts { model, adapter, prompt, engine_settings_json: setting::object(engine) };
    make(Action::Deploy { deployment: name, parts, force, how }, reason, change).await
}

/// `5%:10m:200`.
pub(super) fn step(text: &str) -> Result<RolloutStep, String> {
    let wrong = || format!("{text:?} is not SHARE[:TIME[:REQUESTS]], such as 5%, 5%:10m or 5%:10m:200");
    let mut parts = text.split(':');
    let share = parts.next().and_then(|share| share.strip_suffix('%')).ok_or_else(wrong)?;
    let percent: f64 = share.trim().parse().map_err(|_| wrong())?;
    let hold_s = match parts.next() {
        None => 0,
        Some(time) => span(time).ok().and_then(|time| time.as_secs().try_into().ok()).ok_or_else(wrong)?,
    };
    let requests = match parts.next() {
        None => 0,
        Some(count) => count.parse().map_err(|_| wrong())?,
    };
    if parts.next().is_some() || !(percent > 0.0 && percent <= 100.0) {
        return Err(wrong());
    }
    Ok(RolloutStep { share: percent / 100.0, hold_s, requests })
}

pub(super) async fn rollback(arguments: RollbackArguments) -> Result<(), CliError> {
    let RollbackArguments { name, to, cut, reason, change } = arguments;
    make(Action::Rollback { deployment: name, to_revision: to, cut }, reason, change).await
}

/// Shows what would end, has its name typed, and stops it.
pub(super) async fn stop(arguments: StopArguments) -> Result<(), CliError> {
    let StopArguments { name, reason, change: ChangeArguments { dry_run, yes, common } } = arguments;
    let channel = dial(&common.target);
    let action = Action::Stop { deployment: name.clone() };
    let plan = planned(&channel, action.clone(), &reason).await?;
    if dry_run {
        return show_plan(&plan, common.json);
    }
    if !yes {
        print_effects(&plan, io::stderr())?;
        type_the_name(&format!("{name} serves nobody then"), &name)?;
    }
    request::act(channel, action, decided(&plan, reason)).await?;
    if common.json {
        Ok(print_json(&plan_json(&plan))?)
    } else {
        Ok(writeln!(io::stdout(), "{name} is stopped; undo: {}", plan.undo)?)
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
async fn make(action: Action, reason: String, change: ChangeArguments) -> Result<(), CliError> {
    let ChangeArguments { dry_run, yes, common } = change;
    let channel = dial(&common.target);
    let plan = planned(&channel, action.clone(), &reason).await?;
    if dry_run {
        return show_plan(&plan, common.json);
    }
    if !yes {
        print_plan(&plan, io::stderr())?;
        go_on()?;
    }
    carry_out(&channel, action, &plan, reason, common.json).await
}

/// What a change would do.
async fn planned(channel: &Channel, action: Action, reason: &str) -> Result<ChangePlan, CliError> {
    let asked = ActionContext { dry_run: true, reason: reason.to_owned(), ..ActionContext::default() };
    Ok(request::act(channel.clone(), action, asked).await?.plan.unwrap_or_default())
}

fn show_plan(plan: &ChangePlan, json: bool) -> Result<(), CliError> {
    if json { Ok(print_json(&plan_json(plan))?) } else { Ok(print_plan(plan, io::stdout())?) }
}

/// Made only while what the plan saw still serves, and once, however often it is asked for.
fn decided(plan: &ChangePlan, reason: String) -> ActionContext {
    ActionContext {
        idempotency_key: format!("{:032x}", rand::random::<u128>()),
        expected_revision: plan.from_revision,
        reason,
        dry_run: false,
    }
}

/// Makes a change as it was planned, and follows it to its end.
pub(super) async fn carry_out(
    channel: &Channel,
    action: Action,
    plan: &ChangePlan,
    reason: String,
    json: bool,
) -> Result<(), CliError> {
    let name = &plan.deployment;
    let id = request::act(channel.clone(), action, decided(plan, reason)).await?.rollout_id;
    let rollout = follow(channel.clone(), name, &id, json).await?;
    show(&rollout, json)?;
    match rollout.state() {
        State::Done => Ok(()),
        _ => Err(CliError::Failed(format!(
            "{}@{} does not serve: {}",
            name, rollout.to_revision, rollout.detail
        ))),
    }
}

async fn follow(channel: Channel, name: &str, id: &str, json: bool) -> Result<Rollout, CliError> {
    let mut said = None;
    loop {
        let Some(rollout) = request::rollout(channel.clone(), name, id).await? else {
            return Err(CliError::Failed(format!("the agent does not know rollout {id}")));
        };
        if rollout.ended_unix_ms.is_some() {
            return Ok(rollout);
        }
        // Figures change all the time; what is worth a line is where it stands.
        let verdict = rollout.assessment.as_ref().map(Assessment::verdict);
        let stands = Some((rollout.state(), rollout.step, rollout.paused, verdict));
        if !json && stands != said && !rollout.detail.is_empty() {
            eprintln!("{name}@{}: {}", rollout.to_revision, rollout.detail);
            said = stands;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

pub(super) fn print_plan(plan: &ChangePlan, mut out: impl Write) -> io::Result<()> {
    let name = &plan.deployment;
    writeln!(out, "from    {name}@{}  {}", plan.from_revision, plan.from_model)?;
    if plan.to_revision > 0 {
        writeln!(out, "to      {name}@{}  {}", plan.to_revision, plan.to_model)?;
    }
    for (index, effect) in plan.effects.iter().enumerate() {
        writeln!(out, "{}{effect}", if index == 0 { "effect  " } else { "        " })?;
    }
    writeln!(out, "undo    {}", plan.undo)
}

pub(super) fn print_effects(plan: &ChangePlan, mut out: impl Write) -> io::Result<()> {
    plan.effects.iter().try_for_each(|effect| writeln!(out, "{effect}"))
}

pub(super) fn plan_json(plan: &ChangePlan) -> Value {
    json!({
        "deployment": plan.deployment,
        "from_revision": plan.from_revision, "from_model": plan.from_model,
        "to_revision": plan.to_revision, "to_model": plan.to_model,
        "standby_ready": plan.standby_ready, "in_flight": plan.in_flight,
        "from_digest": plan.from_digest, "to_digest": plan.to_digest,
        "effects": plan.effects, "undo": plan.undo, "extra_memory_bytes": plan.extra_memory_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::step;

    #[test]
    fn a_step_is_a_share_with_a_time_and_a_count() {
        let read = step("5%:10m:200").unwrap();
        assert_eq!((read.share, read.hold_s, read.requests), (0.05, 600, 200));
        let read = step("50%").unwrap();
        assert_eq!((read.share, read.hold_s, read.requests), (0.5, 0, 0));
        for wrong in ["5", "0%", "101%", "5%:10x", "5%:1m:2:3", "%", ""] {
            assert!(step(wrong).unwrap_err().contains("5%:10m:200"), "{wrong}");
        }
    }
}
