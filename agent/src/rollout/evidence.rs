//! What is known of a candidate beside the stable revision, from the requests of one step.

use std::collections::{BTreeMap, VecDeque};

use llmdeck_proto::buckets::{highest_of, index_of, lowest_of};
use llmdeck_proto::histogram::HIGHEST_US;
use llmdeck_proto::v1;
use llmdeck_verdict::{Distribution, Finding, Scale, Tally, compare_means, compare_quantiles, overall};

use super::compared::{Compared, sentence, wire_verdict};
use super::metric::{Measure, Metric, Timed};
use crate::quality::GoldenScore;
use crate::serving::{Arm, EnergyObservation, Observation};
use crate::telemetry::{AnswerQuality, Outcome};
use crate::time::unix_ms;

/// Requests of the candidate that the guard looks at, and how many failures among them end it at once.
const GUARDED: usize = 20;
const MOST_FAILURES: usize = 5;
/// Where the stable revision fails so often, failures say nothing of the candidate.
const ALL_FAIL: f64 = 0.25;

/// What was observed in one step.
#[derive(Default)]
pub(super) struct Evidence {
    stable: Counts,
    candidate: Counts,
    /// Whether the candidate's last requests failed.
    last_failed: VecDeque<bool>,
}

#[derive(Default)]
struct Counts {
    failed: Tally,
    refused: Tally,
    truncated: Tally,
    quality: Tally,
    golden: Tally,
    ttft: Values,
    itl: Values,
    tpot: Values,
    e2e: Values,
    output_tokens: Values,
    energy_per_token: Values,
}

/// Counts by bucket of the contract's histograms.
#[derive(Default)]
struct Values(BTreeMap<usize, u64>);

impl Values {
    fn add(&mut self, value: u64) {
        *self.0.entry(index_of(value.clamp(1, HIGHEST_US))).or_default() += 1;
    }

    fn distribution(&self) -> Distribution {
        let buckets = self.0.iter();
        Distribution::new(
            buckets.map(|(bucket, count)| (lowest_of(*bucket) as f64, highest_of(*bucket) as f64, *count)),
        )
    }
}

impl Counts {
    fn add(&mut self, observation: &Observation) {
        let failed = match observation.outcome {
            Outcome::Ok => false,
            Outcome::ServerError | Outcome::Deadline => true,
            // What clients get wrong or give up says nothing of the model.
            Outcome::ClientError | Outcome::Cancelled => return,
        };
        self.failed.add(flag(failed));
        let times = [
            (&mut self.ttft, observation.ttft_us),
            (&mut self.itl, observation.itl_us),
            (&mut self.tpot, observation.tpot_us),
            (&mut self.e2e, (!failed).then_some(observation.e2e_us)),
            (&mut self.output_tokens, (!failed).then_some(observation.tokens_out)),
        ];
        for (values, value) in times {
            value.into_iter().for_each(|value| values.add(value));
        }
        if let Some(quality) = &observation.quality {
            self.refused.add(flag(quality.refused));
            self.truncated.add(flag(quality.truncated));
            self.quality.add(score(quality));
        }
    }

    fn values(&self, timed: Timed) -> &Values {
        match timed {
            Timed::Ttft => &self.ttft,
            Timed::Itl => &self.itl,
            Timed::Tpot => &self.tpot,
            Timed::E2e => &self.e2e,
            Timed::OutputTokens => &self.output_tokens,
            Timed::EnergyPerToken => &self.energy_per_token,
        }
    }

    fn tally(&self, metric: Metric) -> &Tally {
        match metric {
            Metric::RefusalRate => &self.refused,
            Metric::TruncatedRate => &self.truncated,
            Metric::Quality => &self.quality,
            Metric::GoldenScore => &self.golden,
            _ => &self.failed,
        }
    }
}

fn flag(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

/// The share of what was checked of an answer that held: that it says something, that it does not go round in circles,
/// and that it is JSON where JSON was asked for.
fn score(quality: &AnswerQuality) -> f64 {
    let checks = [Some(!quality.empty), Some(!quality.repetitive), quality.json];
    let (held, made) =
        checks.into_iter().flatten().fold((0.0, 0.0), |(held, made), check| (held + flag(check), made + 1.0));
    held / made
}

impl Evidence {
    pub(super) fn add(&mut self, observation: &Observation) {
        match observation.arm {
            Arm::Stable => self.stable.add(observation),
            Arm::Candidate => {
                let before = self.candidate.failed;
                self.candidate.add(observation);
                if self.candidate.failed.count > before.count {
                    if self.last_failed.len() == GUARDED {
                        self.last_failed.pop_front();
                    }
                    self.last_failed.push_back(self.candidate.failed.sum > before.sum);
                }
            }
        }
    }

    /// Takes what was spent on some tokens.
    pub(super) fn add_energy(&mut self, observation: EnergyObservation) {
        let counts = match observation.arm {
            Arm::Stable => &mut self.stable,
            Arm::Candidate => &mut self.candidate,
        };
        counts.energy_per_token.add(observation.per_token_uj);
    }

    /// Takes the latest golden runs of both, in place of those before.
    pub(super) fn set_golden(&mut self, stable: Option<GoldenScore>, candidate: Option<GoldenScore>) {
        for (counts, score) in [(&mut self.stable, stable), (&mut self.candidate, candidate)] {
            counts.golden = score.map_or_else(Tally::default, |score| Tally {
                count: f64::from(score.prompts),
                sum: score.score * f64::from(score.prompts),
            });
        }
    }

    /// Requests that both have finished.
    pub(super) fn requests(&self) -> u64 {
        (self.stable.failed.count + self.candidate.failed.count) as u64
    }

    /// Requests that the candidate has finished.
    pub(super) fn candidate_requests(&self) -> u64 {
        self.candidate.failed.count as u64
    }

    /// Why the candidate must go without waiting for statistics.
    pub(super) fn guard(&self) -> Option<String> {
        let failures = self.last_failed.iter().filter(|failed| **failed).count();
        let all_fail = self.stable.failed.mean().is_some_and(|share| share >= ALL_FAIL);
        (failures >= MOST_FAILURES && failures * 2 >= self.last_failed.len() && !all_fail).then(|| {
            format!("{failures} of its last {} requests failed; the stable revision took them over where it could",
                self.last_failed.len())
        })
    }

    /// Everything that is known; `false_alarm` is this step's part of the chance. Takes milliseconds, more with more
    /// requests: not for a thread that serves.
    pub(super) fn assess(
        &self,
        judge: &BTreeMap<Metric, f64>,
        false_alarm: f64,
        copies: bool,
    ) -> v1::Assessment {
        let judged = |metric: Metric| judge.contains_key(&metric) && (!copies || metric.holds_for_copies());
        let count = Metric::ALL.into_iter().filter(|metric| judged(*metric)).count().max(1);
        // Every bound of every judged metric is wrong with at most its part of the chance (Bonferroni).
        let alpha = false_alarm / count as f64;
        let compared: Vec<(Metric, Compared)> = Metric::ALL
            .into_iter()
            .map(|metric| {
                let margin = judge.get(&metric).copied().or(metric.usual_margin()).unwrap_or(0.10);
                (metric, self.compare(metric, margin, alpha))
            })
            .collect();
        let of_judged = || compared.iter().filter(|(metric, _)| judged(*metric));
        let verdict = overall(of_judged().map(|(_, compared)| compared.finding.verdict));
        let sentence = sentence(verdict, of_judged(), self.candidate_requests());
        let findings = compared.iter().map(|(metric, compared)| compared.wire(*metric, judged(*metric)));
        v1::Assessment {
            verdict: wire_verdict(verdict).into(),
            sentence,
            stable_requests: self.stable.failed.count as u64,
            candidate_requests: self.candidate_requests(),
            findings: findings.collect(),
            time_unix_ms: unix_ms(),
        }
    }

    fn compare(&self, metric: Metric, margin: f64, alpha: f64) -> Compared {
        let (stable, candidate) = (&self.stable, &self.candidate);
        match metric.measure() {
            Measure::Quantile(timed, share) => {
                let stable = stable.values(timed).distribution();
                let candidate = candidate.values(timed).distribution();
                let effect = compare_quantiles(&stable, &candidate, share, alpha);
                Compared {
                    finding: Finding::where_less_is_better(effect, Scale::Ratio, margin),
                    stable: stable.quantile(share),
                    candidate: candidate.quantile(share),
                    margin,
                }
            }
            measure => {
                let (stable, candidate) = (stable.tally(metric), candidate.tally(metric));
                let effect = compare_means(stable, candidate, alpha);
                let finding = if measure == Measure::Score {
                    Finding::where_more_is_better(effect, Scale::Difference, margin)
                } else {
                    Finding::where_less_is_better(effect, Scale::Difference, margin)
                };
                Compared { finding, stable: stable.mean(), candidate: candidate.mean(), margin }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Arm, Evidence, Metric, Observation, Outcome};
    use crate::quality::GoldenScore;
    use crate::rollout::RolloutConfig;
    use crate::telemetry::AnswerQuality;
    use llmdeck_proto::v1::Verdict;

    fn ended(arm: Arm, outcome: Outcome, ttft_us: u64) -> Observation {
        Observation {
            arm,
            outcome,
            ttft_us: Some(ttft_us),
            itl_us: Some(5_000),
            tpot_us: Some(5_000),
            e2e_us: ttft_us + 100_000,
            tokens_out: 20,
            quality: Some(AnswerQuality::default()),
        }
    }

    #[test]
    fn what_is_slower_is_worse_with_a_reason_and_what_is_equal_is_not() {
        let judge = RolloutConfig::default().judge;
        let (mut same, mut slower) = (Evidence::default(), Evidence::default());
        for request in 0..4_000u64 {
            let ttft_us = 20_000 + (request * 7_919) % 60_000;
            for (evidence, factor) in [(&mut same, 1), (&mut slower, 2)] {
                evidence.add(&ended(Arm::Stable, Outcome::Ok, ttft_us));
                evidence.add(&ended(Arm::Candidate, Outcome::Ok, ttft_us * factor));
            }
        }
        let verdict = slower.assess(&judge, 0.05, false);
        assert_eq!(verdict.verdict(), Verdict::Worse);
        assert!(
            verdict.sentence.contains("ttft_p95 is +10") && verdict.sentence.contains("10 % is allowed"),
            "{}",
            verdict.sentence
        );
        let verdict = same.assess(&judge, 0.05, false);
        assert!(matches!(verdict.verdict(), Verdict::NoWorse | Verdict::Undecided), "{}", verdict.sentence);
        assert_eq!(verdict.findings.len(), Metric::ALL.len());
    }

    #[test]
    fn a_candidate_that_stutters_is_worse_though_its_mean_is_the_same() {
        let judge = BTreeMap::from([(Metric::ItlP95, 0.10), (Metric::TpotP95, 0.10)]);
        let mut evidence = Evidence::default();
        for request in 0..4_000 {
            let steady = ended(Arm::Stable, Outcome::Ok, 20_000);
            let itl_us = Some(if request % 10 == 0 { 32_000 } else { 2_000 });
            evidence.add(&steady);
            evidence.add(&Observation { itl_us, ..ended(Arm::Candidate, Outcome::Ok, 20_000) });
        }
        let verdict = evidence.assess(&judge, 0.05, false);
        assert_eq!(verdict.verdict(), Verdict::Worse);
        assert!(verdict.sentence.contains("itl_p95 is +5"), "{}", verdict.sentence);
        let tpot = verdict.findings.iter().find(|finding| finding.metric == "tpot_p95").unwrap();
        assert_eq!(tpot.verdict(), Verdict::NoWorse);
    }

    #[test]
    fn little_traffic_decides_nothing_but_a_burst_of_failures_ends_it() {
        let judge = RolloutConfig::default().judge;
        let mut evidence = Evidence::default();
        for _ in 0..200 {
            evidence.add(&ended(Arm::Stable, Outcome::Ok, 20_000));
        }
        evidence.add(&ended(Arm::Candidate, Outcome::ServerError, 20_000));
        assert_eq!(evidence.assess(&judge, 0.05, false).verdict(), Verdict::Undecided);
        assert_eq!(evidence.guard(), None);
        for _ in 0..4 {
            evidence.add(&ended(Arm::Candidate, Outcome::ServerError, 20_000));
        }
        assert!(evidence.guard().unwrap().contains("5 of its last 5"));
        evidence.add(&ended(Arm::Candidate, Outcome::Cancelled, 20_000));
        assert_eq!(evidence.candidate_requests(), 5, "what clients give up does not count");
    }

    #[test]
    fn golden_scores_are_judged_where_they_are_asked_for() {
        let score = |score: f64| {
            Some(GoldenScore { score, exact_match: score, prompts: 96, low: score, high: score })
        };
        let judge = BTreeMap::from([(Metric::GoldenScore, 0.05)]);
        let mut evidence = Evidence::default();
        evidence.set_golden(score(0.97), score(0.52));
        assert_eq!(evidence.assess(&judge, 0.05, false).verdict(), Verdict::Worse);
        evidence.set_golden(score(0.97), score(0.96));
        assert_eq!(evidence.assess(&judge, 0.05, true).verdict(), Verdict::Undecided);
        evidence.set_golden(None, score(0.96));
        assert_eq!(evidence.assess(&judge, 0.05, false).verdict(), Verdict::Undecided);
    }
}
