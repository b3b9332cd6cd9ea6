use super::beginning;
use crate::policy::Policy;
use crate::read::Dataset;
use crate::report::{CheckKind, Report};

/// A loss stands out by so many standard deviations, estimated from the median so that what stands out does not hide itself.
const DEVIATIONS: f64 = 5.0;
/// Of a normal distribution: the standard deviation, by the median distance from the median.
const DEVIATION_BY_MEDIAN_DISTANCE: f64 = 1.482_6;
/// And by so many nats.
const LEAST_APART: f64 = 1.0;
/// Below this many examples, no loss is out of the ordinary.
const LEAST_EXAMPLES: usize = 20;

/// `losses` are of examples, in order, in nats a token, as far as they are known.
pub(super) fn outliers(dataset: &Dataset, policy: &Policy, losses: &[Option<f64>], report: &mut Report) {
    let known: Vec<f64> = losses.iter().copied().flatten().filter(|loss| loss.is_finite()).collect();
    if known.is_empty() {
        return;
    }
    let middle = median(known.clone());
    let distance = median(known.iter().map(|loss| (loss - middle).abs()).collect());
    let most = middle + (DEVIATIONS * DEVIATION_BY_MEDIAN_DISTANCE * distance).max(LEAST_APART);
    let mut far: Vec<(usize, f64)> = losses
        .iter()
        .enumerate()
        .filter_map(|(index, loss)| Some((index, (*loss)?)))
        .filter(|(_, loss)| !loss.is_finite() || *loss > most)
        .collect();
    if known.len() < LEAST_EXAMPLES {
        far.clear();
    }
    far.sort_by(|a, b| b.1.total_cmp(&a.1));
    let found: Vec<(usize, String)> = far
        .into_iter()
        .filter_map(|(index, loss)| {
            let example = dataset.examples.get(index)?;
            Some((example.line, format!("perplexity {:.0}: {}", loss.exp(), beginning(example))))
        })
        .collect();
    let detail = format!(
        "median perplexity {:.1} under the base, over {} of {} examples",
        middle.exp(),
        known.len(),
        losses.len()
    );
    report.push(CheckKind::LossOutliers, policy.rule(CheckKind::LossOutliers), detail, &found);
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}
