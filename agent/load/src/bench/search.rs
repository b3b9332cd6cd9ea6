/// One run of a search, and whether it kept the objectives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Requests a second.
    pub rate_per_s: f64,
    /// Whether enough answers were good.
    pub kept: bool,
}

/// Ratio of rates that a search does not tell apart.
const CLOSE: f64 = 1.05;
/// Runs that a search takes at most.
const MOST_STEPS: usize = 16;

/// The rate to try next in a search for the highest that keeps the objectives: twice as much until one fails, then
/// between the best that was kept and the least that failed. `None` when they are close.
pub fn next_rate(start_per_s: f64, steps: &[Step]) -> Option<f64> {
    let rates = |kept: bool| steps.iter().filter(move |step| step.kept == kept).map(|step| step.rate_per_s);
    let best = rates(true).reduce(f64::max);
    let worst = rates(false).reduce(f64::min);
    if steps.len() >= MOST_STEPS {
        return None;
    }
    match (best, worst) {
        (None, None) => Some(start_per_s),
        (Some(best), None) => Some(best * 2.0),
        (None, Some(worst)) => (worst > start_per_s / 1_000.0).then_some(worst / 2.0),
        (Some(best), Some(worst)) => (worst / best > CLOSE).then_some((best * worst).sqrt()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Step, next_rate};

    #[test]
    fn it_closes_in_on_the_highest_rate_that_keeps() {
        for (start, truth) in [(1.0, 37.0), (100.0, 37.0), (37.0, 37.5)] {
            let mut steps = Vec::new();
            while let Some(rate_per_s) = next_rate(start, &steps) {
                steps.push(Step { rate_per_s, kept: rate_per_s <= truth });
            }
            let best = steps.iter().filter(|step| step.kept).map(|step| step.rate_per_s).fold(0.0, f64::max);
            assert!(best <= truth && best > truth / 1.06, "{best} of {truth} in {} runs", steps.len());
        }
    }

    #[test]
    fn a_server_that_keeps_nothing_ends_the_search() {
        let mut steps = Vec::new();
        while let Some(rate_per_s) = next_rate(8.0, &steps) {
            steps.push(Step { rate_per_s, kept: false });
        }
        assert!(steps.len() < 16);
    }
}
