//! `llmdeck bench`: what a server does under load, how sure that is, and whether it got worse.

mod arguments;
mod chart;
mod cost;
mod job;
mod node;
mod page;
mod summary;
mod target;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use llmdeck_load::bench::{
    Api, Arrivals, Comparison, LoadShape, Measured, Outcome, Plan, Progress, RunCost, Step, calibrate,
    compare, next_rate, run as measure,
};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(super) use arguments::BenchArguments;
use arguments::Kind;
use cost::CostMeter;

use super::CliError;
use super::output::print_json;
use crate::clock::unix_ms;

/// How often progress is written anew.
const SHOW_EVERY: Duration = Duration::from_millis(500);
/// Share of answers that must be good for a rate to keep its objectives.
const GOOD_ENOUGH: f64 = 0.99;

/// 0 done, 1 failed, nothing answered, or worse than before beyond the margin.
pub(super) async fn run(arguments: BenchArguments) -> Result<ExitCode, CliError> {
    if arguments.is_of_node() {
        return node::run(&arguments.common).await;
    }
    let before = arguments.against.as_deref().map(read).transpose()?;
    let outcomes =
        if arguments.job { vec![job::bench(&arguments).await?] } else { from_here(&arguments).await? };
    report(&arguments, before.as_ref(), &outcomes)
}

/// Asks the server from this machine.
async fn from_here(arguments: &BenchArguments) -> Result<Vec<Outcome>, CliError> {
    let (kind, mut plan) = arguments.plan().await?;
    let mut calibrated = calibrate(&plan).await;
    if calibrated.is_err() && arguments.may_fall_back() {
        let completions = Plan { api: Api::Completions, ..plan.clone() };
        if let Ok(words_per_token) = calibrate(&completions).await {
            (plan, calibrated) = (completions, Ok(words_per_token));
        }
    }
    plan.words_per_token = calibrated.map_err(|error| CliError::Failed(error.to_string()))?;
    let costs = match &arguments.deployment() {
        Some(deployment) => Some(CostMeter::start(&arguments.common.target, deployment).await?),
        None => None,
    };
    let costs = costs.as_ref();
    let stop = CancellationToken::new();
    let stopping = tokio::spawn(stop_on_interrupt(stop.clone()));
    let outcomes = match kind {
        Kind::One => vec![once(arguments, &plan, costs, &stop).await?],
        Kind::Sweep(rates) => sweep(arguments, &plan, costs, &rates, &stop).await?,
        Kind::Search { start_per_s } => search(arguments, &plan, costs, start_per_s, &stop).await?,
    };
    stopping.abort();
    Ok(outcomes)
}

/// Prints and keeps what was measured, and compares it with what was before.
fn report(
    arguments: &BenchArguments,
    before: Option<&Outcome>,
    outcomes: &[Outcome],
) -> Result<ExitCode, CliError> {
    let Some(last) = outcomes.last() else { return Err(CliError::Failed("nothing was measured".into())) };
    let comparison = before.map(|before| compare(before, last, arguments.margin));
    keep(arguments, outcomes, comparison.as_ref())?;
    if arguments.common.json {
        match outcomes {
            [one] => print_json(&json!({ "outcome": one, "comparison": comparison }))?,
            all => print_json(&json!({ "outcomes": all, "comparison": comparison }))?,
        }
    } else {
        if let [one] = outcomes {
            summary::one(one)?;
        } else {
            summary::many(outcomes)?;
        }
        if let Some(comparison) = &comparison {
            summary::comparison(comparison)?;
        }
    }
    if let Some(why) = outcomes.iter().map(Outcome::all_failed).collect::<Option<Vec<_>>>() {
        return Err(CliError::Failed(why.join("; ")));
    }
    Ok(if comparison.is_some_and(|comparison| comparison.regressed()) {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    })
}

async fn stop_on_interrupt(stop: CancellationToken) {
    if tokio::signal::ctrl_c().await.is_ok() {
        stop.cancel();
    }
}

async fn once(
    arguments: &BenchArguments,
    plan: &Plan,
    costs: Option<&CostMeter>,
    stop: &CancellationToken,
) -> Result<Outcome, CliError> {
    let started_unix_ms = unix_ms();
    let mut runs: Vec<Measured> = Vec::new();
    let mut cost = RunCost::default();
    for index in 0..arguments.runs {
        let plan = Plan { seed: plan.seed.wrapping_add(index), ..plan.clone() };
        let (sender, receiver) = watch::channel(Progress::default());
        let showing = tokio::spawn(show(receiver.clone(), plan.clone()));
        let before = costs.map(|costs| tokio::spawn(costs.clone().before(receiver)));
        let measured = measure(&plan, sender, stop.clone()).await;
        // It ends with its sender; a line that could not be written matters to nobody.
        let _ = showing.await;
        if let (Some(costs), Some(before)) = (costs, before) {
            cost.merge(&costs.since(&before.await.unwrap_or_default()).await);
        }
        runs.push(measured.map_err(|error| CliError::Failed(error.to_string()))?);
        if stop.is_cancelled() {
            break;
        }
    }
    let open_loop = matches!(plan.shape, LoadShape::Open { .. });
    let mut outcome = Outcome::new(arguments.describe(plan), started_unix_ms, runs, open_loop);
    outcome.cost = Some(cost).filter(RunCost::is_known);
    Ok(outcome)
}

async fn sweep(
    arguments: &BenchArguments,
    plan: &Plan,
    costs: Option<&CostMeter>,
    rates: &[f64],
    stop: &CancellationToken,
) -> Result<Vec<Outcome>, CliError> {
    let mut outcomes = Vec::new();
    for rate_per_s in rates {
        if !stop.is_cancelled() {
            outcomes.push(once(arguments, &at_rate(plan, *rate_per_s), costs, stop).await?);
        }
    }
    Ok(outcomes)
}

/// The best rate comes last.
async fn search(
    arguments: &BenchArguments,
    plan: &Plan,
    costs: Option<&CostMeter>,
    start_per_s: f64,
    stop: &CancellationToken,
) -> Result<Vec<Outcome>, CliError> {
    let (mut steps, mut outcomes): (Vec<Step>, Vec<Outcome>) = (Vec::new(), Vec::new());
    while let Some(rate_per_s) = next_rate(start_per_s, &steps).filter(|_| !stop.is_cancelled()) {
        let outcome = once(arguments, &at_rate(plan, rate_per_s), costs, stop).await?;
        let kept = outcome.goodput_per_s.value >= GOOD_ENOUGH * outcome.asked_per_s;
        steps.push(Step { rate_per_s, kept });
        outcomes.push(outcome);
    }
    let best = (0..steps.len())
        .filter(|index| steps[*index].kept)
        .max_by(|a, b| steps[*a].rate_per_s.total_cmp(&steps[*b].rate_per_s));
    if let Some(best) = best {
        let best = outcomes.remove(best);
        outcomes.push(best);
    }
    Ok(outcomes)
}

fn at_rate(plan: &Plan, rate_per_s: f64) -> Plan {
    let arrivals = match &plan.shape {
        LoadShape::Open { arrivals, .. } => arrivals.clone(),
        LoadShape::Closed { .. } => Arrivals::Poisson,
    };
    Plan { shape: LoadShape::Open { arrivals, rate_per_s }, ..plan.clone() }
}

/// One line that is written over, on a terminal only.
async fn show(mut progress: watch::Receiver<Progress>, plan: Plan) {
    if !io::stderr().is_terminal() {
        return;
    }
    let mut every = tokio::time::interval(SHOW_EVERY);
    while progress.has_changed().is_ok() {
        every.tick().await;
        let now = *progress.borrow_and_update();
        let seconds = now.elapsed.as_secs_f64();
        let of = plan.duration.map_or_else(String::new, |duration| format!(" of {}", duration.as_secs_f64()));
        let line = if seconds == 0.0 {
            format!("warming up, {} under way", now.in_flight)
        } else {
            let rate = now.completion_tokens as f64 / seconds;
            format!(
                "{seconds:.0}{of} s, {} under way, {} answered, {} failed, {rate:.0} tokens/s",
                now.in_flight, now.ok, now.failed
            )
        };
        // The figures come on standard output; this line is only for who waits.
        let _ = write!(io::stderr(), "\r\x1b[K{line}");
    }
    let _ = write!(io::stderr(), "\r\x1b[K");
}

fn read(path: &Path) -> Result<Outcome, CliError> {
    let wrong = |why: String| CliError::Usage(format!("--against {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let outcome: Outcome = serde_json::from_str(&text)
        .map_err(|error| wrong(format!("is not what --out of one run writes: {error}")))?;
    Ok(outcome)
}

fn keep(
    arguments: &BenchArguments,
    outcomes: &[Outcome],
    comparison: Option<&Comparison>,
) -> Result<(), CliError> {
    let write = |path: &Path, text: String| {
        std::fs::write(path, text).map_err(|error| CliError::Failed(format!("{}: {error}", path.display())))
    };
    if let Some(path) = &arguments.out {
        let text = match outcomes {
            [one] => serde_json::to_string(one),
            all => serde_json::to_string(all),
        };
        write(path, text.map_err(|error| CliError::Failed(error.to_string()))?)?;
    }
    let Some(last) = outcomes.last() else { return Ok(()) };
    if let Some(path) = &arguments.svg {
        write(path, chart::percentiles(last))?;
    }
    if let Some(path) = &arguments.html {
        write(path, page::render(outcomes, comparison))?;
    }
    Ok(())
}
