//! A candidate beside the stable revision: it gets its part of the requests, and is compared until something is decided.

use std::sync::Arc;
use std::time::{Duration, Instant};

use llmdeck_proto::v1;
use llmdeck_proto::v1::Verdict;
use llmdeck_proto::v1::alert::Severity;

use super::evidence::Evidence;
use super::machine::{Happening, Step};
use super::refusal::StepError;
use super::run::Run;
use super::strategy::StrategyName;
use crate::serving::LiveRevision;
use crate::serving::{Split, SplitKind, Trial};

/// How often what came is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Statistics are made anew when one more request in so many has ended, for they take milliseconds.
const NEWS: u64 = 64;
/// The evidence is stored at least this often; a verdict that changes is stored at once.
const STORE_EVERY: Duration = Duration::from_secs(10);

/// Assessments kept for who looks at how they came about.
const MOST_REMEMBERED: usize = 240;

/// What is known of the present stage.
pub(super) struct Comparison {
    began: Instant,
    stage: usize,
    stage_began: Instant,
    trial: Arc<Trial>,
    salt: u64,
    evidence: Arc<Evidence>,
    assessed_requests: u64,
    stored: Instant,
}

impl Comparison {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            stage: 0,
            stage_began: now,
            trial: Arc::default(),
            salt: rand::random(),
            evidence: Arc::default(),
            assessed_requests: 0,
            stored: now,
        }
    }

    /// Shares change from stage to stage, and the load with the hours: requests of different stages are not of one kind,
    /// and each stage is judged by its own.
    fn begin_stage(&mut self, stage: usize) {
        let now = Instant::now();
        *self = Self { stage, stage_began: now, trial: Arc::default(), evidence: Arc::default(), ..*self };
        self.assessed_requests = 0;
    }
}

impl Run {
    /// Goes on until the stage is over, or the candidate is worse, or nobody decides for too long. What is known stays
    /// when an operator interrupts.
    pub(super) async fn compare(&mut self, now: &Step) -> Result<Happening, StepError> {
        let mut comparison = self.comparison.take().unwrap_or_else(Comparison::new);
        if self.rollout.assessment.is_none()
            || now.stage != comparison.stage && now.stage < self.strategy.steps.len()
        {
            comparison.begin_stage(now.stage);
            self.rollout.assessment = Some(v1::Assessment::default());
            self.comparison = Some(comparison);
            self.open(now.stage)?;
        } else {
            self.comparison = Some(comparison);
        }
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Some(happening) = self.look(now).await? {
                return Ok(happening);
            }
        }
    }

    /// Sends the stage's part of the requests to the candidate.
    fn open(&self, stage: usize) -> Result<(), StepError> {
        let (Some(candidate), Some(comparison), Some(step)) =
            (self.candidate.clone(), &self.comparison, self.strategy.steps.get(stage))
        else {
            return Err(StepError::Panicked);
        };
        let kind = match self.strategy.strategy {
            StrategyName::Shadow => SplitKind::Shadow,
            _ => SplitKind::Canary,
        };
        let split = Split {
            candidate,
            kind,
            share: step.share,
            salt: comparison.salt,
            trial: Arc::clone(&comparison.trial),
        };
        if !self.deployment.split(split) {
            return Err(StepError::NothingServes);
        }
        let (percent, of) = (step.share * 100.0, self.strategy.steps.len());
        let gets = if kind == SplitKind::Shadow { "copies of requests" } else { "new requests" };
        let text = format!("step {} of {of}: gets {percent:.0} % of {gets}", stage + 1);
        let subject = format!("{}@{}", self.deployment.name(), self.target.number);
        self.controller.events.push(Severity::Information, &subject, text, &self.operator.to_string());
        Ok(())
    }

    async fn look(&mut self, now: &Step) -> Result<Option<Happening>, StepError> {
        let Some(comparison) = &mut self.comparison else { return Err(StepError::Panicked) };
        let Some(evidence) = Arc::get_mut(&mut comparison.evidence) else { return Ok(None) };
        comparison.trial.take().iter().for_each(|observation| evidence.add(observation));
        comparison.trial.take_energy().into_iter().for_each(|observation| evidence.add_energy(observation));
        let golden = |live: &Option<Arc<LiveRevision>>| Some(live.as_ref()?.golden()?.score);
        evidence.set_golden(golden(&self.old), golden(&self.candidate));
        let broken = self.candidate.as_ref().and_then(|live| live.upstream()?.trouble());
        if let Some(reason) = broken.or_else(|| evidence.guard()) {
            return Ok(Some(Happening::Worse(reason)));
        }
        if comparison.began.elapsed() >= self.strategy.longest {
            let hours = self.strategy.longest.as_secs_f64() / 3_600.0;
            return Ok(Some(Happening::TimeOver(format!("nobody decided within {hours:.1} hours"))));
        }
        let requests = comparison.evidence.requests();
        if requests > comparison.assessed_requests + comparison.assessed_requests / NEWS {
            comparison.assessed_requests = requests;
            self.assess().await?;
        }
        self.show(now);
        let assessment = self.rollout.assessment.clone().unwrap_or_default();
        if assessment.verdict() == Verdict::Worse {
            return Ok(Some(Happening::Worse(assessment.sentence)));
        }
        Ok(self.stage_over(now, assessment))
    }

    async fn assess(&mut self) -> Result<(), StepError> {
        let Some(comparison) = &self.comparison else { return Err(StepError::Panicked) };
        let (evidence, judge) = (Arc::clone(&comparison.evidence), self.strategy.judge.clone());
        let copies = self.strategy.strategy == StrategyName::Shadow;
        let false_alarm = self.strategy.false_alarm / self.strategy.steps.len().max(1) as f64;
        let assessing = tokio::task::spawn_blocking(move || evidence.assess(&judge, false_alarm, copies));
        let assessment = assessing.await.map_err(|_| StepError::Panicked)?;
        remember(&mut self.rollout.history, &assessment);
        let before = self.rollout.assessment.as_ref().map(v1::Assessment::verdict);
        let changed = before != Some(assessment.verdict());
        self.rollout.assessment = Some(assessment);
        let due =
            self.comparison.as_ref().is_some_and(|comparison| comparison.stored.elapsed() >= STORE_EVERY);
        if changed || due {
            self.controller.store.put_rollout(&self.rollout)?;
            if let Some(comparison) = &mut self.comparison {
                comparison.stored = Instant::now();
            }
        }
        Ok(())
    }

    /// Brings the rollout that frames show up to now.
    fn show(&mut self, now: &Step) {
        let stages = self.strategy.steps.len();
        let step = self.strategy.steps.get(now.stage);
        let (requests, elapsed) = self.comparison.as_ref().map_or((0, Duration::ZERO), |comparison| {
            (comparison.evidence.candidate_requests(), comparison.stage_began.elapsed())
        });
        self.rollout.failed_requests = self.deployment.failed() - self.failed_before;
        self.rollout.progress = step.filter(|_| !now.paused).map(|step| {
            let time = if step.hold_s == 0 { 1.0 } else { elapsed.as_secs_f64() / step.hold_s as f64 };
            let seen = if step.requests == 0 { 1.0 } else { requests as f64 / step.requests as f64 };
            time.min(seen).min(1.0)
        });
        let sentence = self.rollout.assessment.as_ref().map(|assessment| assessment.sentence.clone());
        let sentence =
            sentence.filter(|sentence| !sentence.is_empty()).unwrap_or_else(|| "no request yet".into());
        self.rollout.detail = match step {
            _ if now.paused => format!("{}; {sentence}", now.detail),
            Some(step) => {
                format!("step {} of {stages}, {:.0} %: {sentence}", now.stage + 1, step.share * 100.0)
            }
            None if self.strategy.auto_promote => format!("waits until nothing is worse: {sentence}"),
            None => format!("waits for promote or abort: {sentence}"),
        };
        self.controller.active.show(&self.rollout);
    }

    fn stage_over(&self, now: &Step, assessment: v1::Assessment) -> Option<Happening> {
        let comparison = self.comparison.as_ref()?;
        let requests = comparison.evidence.candidate_requests();
        let no_worse = matches!(assessment.verdict(), Verdict::NoWorse | Verdict::Better);
        let over = match self.strategy.steps.get(now.stage) {
            Some(step) => {
                comparison.stage_began.elapsed().as_secs() >= step.hold_s && requests >= step.requests
            }
            // All are over: only what may go on by itself goes on.
            None => self.strategy.auto_promote && no_worse,
        };
        (over && !now.paused).then_some(Happening::StageOver { no_worse, sentence: assessment.sentence })
    }
}

/// Keeps what is judged, thinned out when there is too much of it: what is old matters less.
fn remember(history: &mut Vec<v1::Assessment>, assessment: &v1::Assessment) {
    let findings = assessment.findings.iter().filter(|finding| finding.judged).cloned().collect();
    history.push(v1::Assessment { findings, ..assessment.clone() });
    if history.len() > MOST_REMEMBERED {
        let mut index = 0;
        history.retain(|_| {
            index += 1;
            index % 2 == 0
        });
    }
}
