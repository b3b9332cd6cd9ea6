use serde::Serialize;

use super::super::handle::JobHandle;
use crate::backend::Backend;
use crate::quality::{Suite, suite_shares};

/// A suite that loses more than this has lost something.
const MOST_LOST: f64 = 0.02;

/// How a model did, prompt by prompt.
#[derive(Clone, Debug, Default)]
pub(super) struct Scores {
    /// On what the data teaches.
    pub(super) task: Vec<f64>,
    /// On the suite; with the skill of each prompt.
    pub(super) suite: Vec<(Option<String>, f64)>,
}

/// Asks everything.
pub(super) async fn score(
    job: &JobHandle,
    when: &str,
    backend: &Backend,
    task: &Suite,
    suite: Option<&Suite>,
) -> Result<Scores, String> {
    let mut scores = Scores::default();
    let asking = async |suite: &Suite, what: &str| {
        let total = suite.prompts.len();
        let told = |done: usize| job.detail(format!("{what}, {when}: {done} of {total} prompts"));
        let asked = job.cancel.run_until_cancelled(suite_shares(backend, suite, told)).await;
        asked.ok_or("was cancelled while it was scored")?.map_err(|error| error.to_string())
    };
    scores.task = asking(task, "held-out examples").await?;
    if let Some(suite) = suite {
        let shares = asking(suite, "suite").await?;
        scores.suite = suite.prompts.iter().map(|golden| golden.skill.clone()).zip(shares).collect();
    }
    Ok(scores)
}

/// Two means of the same prompts, and how much they differ.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Paired {
    pub(super) prompts: usize,
    pub(super) before: f64,
    pub(super) after: f64,
    /// 95 % interval of the difference.
    pub(super) difference_low: f64,
    pub(super) difference_high: f64,
}

impl Paired {
    /// `None` where nothing was asked.
    pub(super) fn new(before: &[f64], after: &[f64]) -> Option<Self> {
        let count = before.len().min(after.len());
        if count == 0 {
            return None;
        }
        let mean = |numbers: &[f64]| numbers.iter().sum::<f64>() / numbers.len() as f64;
        let differences: Vec<f64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
        let difference = mean(&differences);
        let squares: f64 = differences.iter().map(|d| (d - difference).powi(2)).sum();
        // Of paired differences, by the normal distribution.
        let half = 1.96 * (squares / (count as f64 - 1.0).max(1.0) / count as f64).sqrt();
        Some(Self {
            prompts: count,
            before: mean(before),
            after: mean(after),
            difference_low: difference - half,
            difference_high: difference + half,
        })
    }
}

/// What an adapter has changed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Comparison {
    /// Held-out examples of the data, answered to the letter.
    pub(super) task: Option<Paired>,
    /// The suite as a whole.
    pub(super) suite: Option<Paired>,
    /// The suite by skill, in its order.
    pub(super) skills: Vec<(String, Paired)>,
}

impl Comparison {
    pub(super) fn new(before: &Scores, after: &Scores) -> Self {
        let shares = |scores: &Scores, skill: Option<&str>| -> Vec<f64> {
            let of = scores.suite.iter().filter(|(of, _)| skill.is_none() || of.as_deref() == skill);
            of.map(|(_, share)| *share).collect()
        };
        let mut names: Vec<String> = Vec::new();
        for name in before.suite.iter().filter_map(|(skill, _)| skill.as_ref()) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        let skills = names.into_iter().filter_map(|name| {
            let paired = Paired::new(&shares(before, Some(&name)), &shares(after, Some(&name)))?;
            Some((name, paired))
        });
        Self {
            task: Paired::new(&before.task, &after.task),
            suite: Paired::new(&shares(before, None), &shares(after, None)),
            skills: skills.collect(),
        }
    }

    /// Why it must not be shipped by itself; `None` where nothing speaks against it.
    pub(super) fn objection(&self) -> Option<String> {
        if let Some(task) = self.task.filter(|task| task.after < task.before) {
            return Some(format!(
                "answers fewer of the held-out examples: {:.2}, before {:.2}",
                task.after, task.before
            ));
        }
        self.suite
            .filter(|suite| suite.after < suite.before - MOST_LOST)
            .map(|suite| format!("its suite's score fell from {:.2} to {:.2}", suite.before, suite.after))
    }
}

#[cfg(test)]
mod tests {
    use super::{Comparison, Paired, Scores};

    #[test]
    fn what_is_paired_is_compared_prompt_by_prompt() {
        let paired = Paired::new(&[0.0, 0.0, 1.0, 0.0], &[1.0, 1.0, 1.0, 0.0]).unwrap();
        assert_eq!((paired.before, paired.after), (0.25, 0.75));
        // Differences 1, 1, 0, 0: deviation 0.577, standard error 0.289.
        assert!((paired.difference_low - (0.5 - 1.96 * 0.288_675)).abs() < 1e-4, "{paired:?}");
        assert_eq!(Paired::new(&[], &[]), None);
    }

    #[test]
    fn an_adapter_that_forgets_is_not_shipped() {
        let scores = |task: f64, suite: f64| Scores {
            task: vec![task; 10],
            suite: vec![(Some("sums".into()), suite); 10],
        };
        assert!(Comparison::new(&scores(0.0, 1.0), &scores(0.9, 0.99)).objection().is_none());
        let forgot = Comparison::new(&scores(0.0, 1.0), &scores(0.9, 0.9)).objection().unwrap();
        assert!(forgot.contains("fell from 1.00 to 0.90"), "{forgot}");
        assert!(Comparison::new(&scores(0.5, 1.0), &scores(0.4, 1.0)).objection().is_some());
    }
}
