use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::link::Channel;
use color_eyre::eyre::{Result, eyre};
use llmdeck_load::{Report, RevisionReport};
use llmdeck_proto::v1::rollout::State;
use llmdeck_proto::v1::{ActionContext, Rollout};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{DEPLOYMENT, Demo, WORSE};
use crate::app::{Action, RevisionParts, RolloutChoice};
use crate::clock::unix_ms;
use crate::link::{LinkError, dial, watch};
use crate::model::{DeploymentKey, Model};
use crate::request;

const ROLLOUT_PATIENCE: Duration = Duration::from_secs(120);
/// The same model scores the same on the same suite; what differs more has not recovered.
const RECOVERED_WITHIN: f64 = 0.02;

/// What the console would show, kept up to date in the background.
struct Watcher {
    model: Arc<Mutex<Model>>,
}

impl Watcher {
    fn start(demo: &Demo, channel: Channel) -> Self {
        let model = Arc::new(Mutex::new(Model::new([demo.target().to_string()])));
        let (sender, mut events) = mpsc::channel(4);
        tokio::spawn(watch(channel, unix_ms, sender));
        tokio::spawn({
            let model = Arc::clone(&model);
            async move {
                while let Some(event) = events.recv().await {
                    model.lock().unwrap_or_else(PoisonError::into_inner).apply(0, event);
                }
            }
        });
        Self { model }
    }

    /// The golden score that the screen shows of what serves.
    fn golden_score(&self) -> Option<f64> {
        let model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        let deployment = model.deployment(&DeploymentKey { node: 0, name: DEPLOYMENT.to_owned() })?;
        let stable = deployment.revisions.iter().find(|known| known.number == deployment.stable_revision)?;
        stable.quality?.golden_score
    }

    /// That score as soon as there is one for the revision that serves.
    async fn wait_for_score(&self, differs_from: Option<f64>) -> Result<f64> {
        let wait = async {
            loop {
                match self.golden_score() {
                    Some(score) if Some(score) != differs_from => return score,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(ROLLOUT_PATIENCE, wait).await.map_err(|_| eyre!("no new golden score came"))
    }
}

/// The story without a terminal; prints it as JSON.
pub(super) async fn run(demo: Demo, time: Duration) -> Result<ExitCode> {
    let started = Instant::now();
    let channel = dial(&demo.target());
    let watcher = Watcher::start(&demo, channel.clone());
    let part = time / 3;

    let before = watcher.wait_for_score(None).await?;
    tokio::time::sleep(part.saturating_sub(started.elapsed())).await;
    let deploy = Action::Deploy {
        deployment: DEPLOYMENT.into(),
        parts: RevisionParts::model(WORSE),
        force: false,
        how: RolloutChoice::default(),
    };
    let (deployed, _) = change(&channel, deploy, "the demo deploys a worse model").await?;
    let during = watcher.wait_for_score(Some(before)).await?;

    // However slow the machine is, users meet the worse model before it is taken back.
    wait_for_answers(&demo, deployed.to_revision).await?;
    tokio::time::sleep((part * 2).saturating_sub(started.elapsed())).await;
    let back = Action::Rollback { deployment: DEPLOYMENT.into(), to_revision: 0, cut: false };
    let (rolled_back, rollback_answered) = change(&channel, back, "quality fell").await?;
    let after = watcher.wait_for_score(Some(during)).await?;

    tokio::time::sleep(time.saturating_sub(started.elapsed())).await;
    let Demo { agent, load, student_load, .. } = demo;
    let report = load.stop().await;
    let of_student = student_load.stop().await;
    let drained = agent.stop().await;
    let fell = during < before;
    let recovered = (after - before).abs() <= RECOVERED_WITHIN;
    let failed = report.failed + of_student.failed + deployed.failed_requests + rolled_back.failed_requests;
    let ok = failed == 0 && fell && recovered;
    let story = json!({
        "ok": ok,
        "seconds": started.elapsed().as_secs_f64(),
        "requests": { "due": report.due, "answered": report.ok, "failed": report.failed, "errors": report.errors },
        "quality": { "before": before, "during": during, "after": after, "fell": fell, "recovered": recovered },
        "deploy": rollout_json(&deployed),
        "rollback": rollout_json(&rolled_back),
        "rollback_answered_ms": rollback_answered.as_secs_f64() * 1_000.0,
        "revisions": report.revisions.iter().map(revision_json).collect::<Vec<Value>>(),
        "ttft_ms": percentiles(&report, |report| &report.ttft_us),
        "e2e_ms": percentiles(&report, |report| &report.e2e_us),
        "cut_off_at_shutdown": drained.cut_off,
    });
    println!("{}", serde_json::to_string_pretty(&story)?);
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits until a revision has answered a few requests.
async fn wait_for_answers(demo: &Demo, revision: u32) -> Result<()> {
    const ANSWERS: u64 = 5;
    let name = format!("{DEPLOYMENT}@{revision}");
    let wait = async {
        while demo.load.report().revisions.get(&name).is_none_or(|report| report.ok < ANSWERS) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(ROLLOUT_PATIENCE, wait).await.map_err(|_| eyre!("{name} answers nobody"))
}

/// Makes a change and waits for its end; also how long the agent took to answer.
async fn change(channel: &Channel, action: Action, reason: &str) -> Result<(Rollout, Duration)> {
    let context = ActionContext { reason: reason.to_owned(), ..ActionContext::default() };
    let asked = Instant::now();
    let id = request::act(channel.clone(), action, context).await?.rollout_id;
    let answered = asked.elapsed();
    let wait = async {
        loop {
            match request::rollout(channel.clone(), DEPLOYMENT, &id).await? {
                Some(rollout) if rollout.ended_unix_ms.is_some() => return Ok::<Rollout, LinkError>(rollout),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let rollout =
        tokio::time::timeout(ROLLOUT_PATIENCE, wait).await.map_err(|_| eyre!("a rollout did not end"))??;
    if rollout.state() != State::Done {
        return Err(eyre!("revision {} does not serve: {}", rollout.to_revision, rollout.detail));
    }
    Ok((rollout, answered))
}

fn rollout_json(rollout: &Rollout) -> Value {
    json!({
        "from_revision": rollout.from_revision, "to_revision": rollout.to_revision, "detail": rollout.detail,
        "failed_requests": rollout.failed_requests,
        "took_ms": rollout.ended_unix_ms.unwrap_or_default() - rollout.started_unix_ms,
    })
}

fn revision_json((name, report): (&String, &RevisionReport)) -> Value {
    json!({
        "revision": name, "answered": report.ok,
        "exact_share": report.exact as f64 / report.judged.max(1) as f64,
    })
}

fn percentiles(report: &Report, of: fn(&Report) -> &hdrhistogram::Histogram<u64>) -> Value {
    let histogram = of(report);
    let at = |share| histogram.value_at_quantile(share) as f64 / 1_000.0;
    json!({ "p50": at(0.5), "p95": at(0.95), "p99": at(0.99) })
}
