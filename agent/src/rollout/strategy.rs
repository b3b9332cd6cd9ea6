//! How a candidate comes to serve: at once, or in steps beside what serves.

use std::collections::BTreeMap;
use std::time::Duration;

use llmdeck_proto::v1;
use llmdeck_proto::v1::rollout::Strategy;
use serde::Deserialize;

use super::metric::Metric;
use crate::serving::Stickiness;

const MOST_STEPS: usize = 16;
const LONGEST_HOLD_S: u64 = 7 * 86_400;
const MOST_REQUESTS: u64 = 10_000_000;

/// How rollouts of a deployment go where a deploy does not say.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutConfig {
    /// How a candidate comes to serve.
    pub strategy: StrategyName,
    /// Of a canary or a shadow.
    pub steps: Vec<StepConfig>,
    /// Whose requests a canary keeps on one side.
    pub sticky: Stickiness,
    /// Whether a canary that is no worse when its steps are over is promoted without anyone being asked.
    pub auto_promote: bool,
    /// Chance that a candidate that is no worse is called worse, over everything that is judged, all looks and all steps.
    pub false_alarm: f64,
    /// What is judged, with how much worse is still no worse.
    pub judge: BTreeMap<Metric, f64>,
    /// Seconds after which a rollout that nobody has decided ends, and the stable revision keeps the traffic.
    pub longest_s: u64,
}

/// As the configuration has it.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum StrategyName {
    /// All at once.
    #[default]
    Replace,
    /// A part of the requests, step by step.
    Canary,
    /// Copies of requests.
    Shadow,
}

/// One step of a canary or a shadow.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct StepConfig {
    /// The candidate's part of the requests.
    pub share: f64,
    /// Least seconds.
    #[serde(default)]
    pub hold_s: u64,
    /// Fewest requests that the candidate has finished.
    #[serde(default)]
    pub requests: u64,
}

impl Default for RolloutConfig {
    fn default() -> Self {
        let step = |share, hold_s, requests| StepConfig { share, hold_s, requests };
        Self {
            strategy: StrategyName::Replace,
            steps: vec![step(0.05, 300, 100), step(0.25, 300, 300), step(0.5, 600, 500)],
            sticky: Stickiness::User,
            auto_promote: false,
            false_alarm: 0.05,
            judge: Metric::ALL
                .into_iter()
                .filter_map(|metric| Some((metric, metric.usual_margin()?)))
                .collect(),
            longest_s: 86_400,
        }
    }
}

impl RolloutConfig {
    /// What is out of range, if anything is.
    pub fn problem(&self) -> Option<String> {
        if let Some(problem) = problem_of(&self.steps) {
            return Some(problem);
        }
        if !(1e-6..=0.5).contains(&self.false_alarm) {
            return Some(format!("false_alarm must be between 0.000001 and 0.5, not {}", self.false_alarm));
        }
        if self.judge.is_empty() {
            return Some("judge must name at least one metric with its margin".into());
        }
        if let Some((metric, margin)) = self.judge.iter().find(|(_, margin)| !(0.0..=10.0).contains(*margin))
        {
            return Some(format!("judge.{} must be between 0 and 10, not {margin}", metric.name()));
        }
        if !(1..=LONGEST_HOLD_S).contains(&self.longest_s) {
            return Some(format!("longest_s must be between 1 and {LONGEST_HOLD_S}, not {}", self.longest_s));
        }
        None
    }

    /// What a deploy asks for, and this where it does not say.
    ///
    /// # Errors
    /// What is out of range.
    pub fn plan(
        &self,
        strategy: Strategy,
        steps: &[v1::RolloutStep],
        auto_promote: Option<bool>,
    ) -> Result<StrategyPlan, String> {
        let strategy = match strategy {
            Strategy::Unspecified => self.strategy,
            Strategy::Replace => StrategyName::Replace,
            Strategy::Canary => StrategyName::Canary,
            Strategy::Shadow => StrategyName::Shadow,
        };
        if strategy == StrategyName::Replace {
            if !steps.is_empty() {
                return Err("are for a canary or a shadow; ask for one, or leave them out".into());
            }
            return Ok(StrategyPlan::replace());
        }
        let asked: Vec<StepConfig> = steps
            .iter()
            .map(|step| StepConfig { share: step.share, hold_s: step.hold_s.into(), requests: step.requests })
            .collect();
        if let Some(problem) = problem_of(&asked).filter(|_| !asked.is_empty()) {
            return Err(problem);
        }
        Ok(StrategyPlan {
            strategy,
            steps: if asked.is_empty() { self.steps.clone() } else { asked },
            auto_promote: auto_promote.unwrap_or(self.auto_promote),
            false_alarm: self.false_alarm,
            judge: self.judge.clone(),
            longest: Duration::from_secs(self.longest_s),
        })
    }
}

fn problem_of(steps: &[StepConfig]) -> Option<String> {
    if steps.is_empty() || steps.len() > MOST_STEPS {
        return Some(format!("steps: give 1 to {MOST_STEPS}, not {}", steps.len()));
    }
    if let Some(step) = steps.iter().find(|step| !(step.share > 0.0 && step.share <= 1.0)) {
        return Some(format!("steps: share must be above 0 and at most 1, not {}", step.share));
    }
    if steps.windows(2).any(|pair| pair[1].share < pair[0].share) {
        return Some("steps: no share may be less than the one before it".into());
    }
    let too_long = |step: &&StepConfig| step.hold_s > LONGEST_HOLD_S || step.requests > MOST_REQUESTS;
    steps.iter().find(too_long).map(|_| {
        format!("steps: hold_s may be at most {LONGEST_HOLD_S} and requests at most {MOST_REQUESTS}")
    })
}

/// How one rollout goes.
#[derive(Clone, Debug, PartialEq)]
pub struct StrategyPlan {
    /// How the candidate comes to serve.
    pub strategy: StrategyName,
    /// None of a replacement.
    pub steps: Vec<StepConfig>,
    /// Without being asked, when nothing is worse.
    pub auto_promote: bool,
    /// Over all steps.
    pub false_alarm: f64,
    /// With margins.
    pub judge: BTreeMap<Metric, f64>,
    /// Until it ends undecided.
    pub longest: Duration,
}

impl StrategyPlan {
    /// All at once.
    pub fn replace() -> Self {
        Self {
            strategy: StrategyName::Replace,
            steps: Vec::new(),
            auto_promote: true,
            false_alarm: 0.0,
            judge: BTreeMap::new(),
            longest: Duration::MAX,
        }
    }

    /// As frames have it.
    pub fn wire_strategy(&self) -> Strategy {
        match self.strategy {
            StrategyName::Replace => Strategy::Replace,
            StrategyName::Canary => Strategy::Canary,
            StrategyName::Shadow => Strategy::Shadow,
        }
    }

    /// As frames have them.
    pub fn wire_steps(&self) -> Vec<v1::RolloutStep> {
        let wire = |step: &StepConfig| v1::RolloutStep {
            share: step.share,
            hold_s: u32::try_from(step.hold_s).unwrap_or(u32::MAX),
            requests: step.requests,
        };
        self.steps.iter().map(wire).collect()
    }
}

#[cfg(test)]
mod tests {
    use llmdeck_proto::v1::RolloutStep;

    use super::{RolloutConfig, Strategy, StrategyName};

    #[test]
    fn a_deploy_may_say_how_and_the_deployment_says_what_it_does_not() {
        let config = RolloutConfig::default();
        assert_eq!(config.problem(), None);
        let plan = config.plan(Strategy::Unspecified, &[], None).unwrap();
        assert_eq!((plan.strategy, plan.steps.len()), (StrategyName::Replace, 0));
        let plan = config.plan(Strategy::Canary, &[], Some(true)).unwrap();
        assert_eq!((plan.steps.len(), plan.auto_promote), (3, true));
        let step = |share| RolloutStep { share, hold_s: 1, requests: 1 };
        let refused = |steps: &[RolloutStep]| config.plan(Strategy::Canary, steps, None).unwrap_err();
        assert!(refused(&[step(0.0)]).contains("above 0"));
        assert!(refused(&[step(0.5), step(0.1)]).contains("less than the one before"));
        assert!(config.plan(Strategy::Replace, &[step(0.5)], None).is_err());
    }
}
