//! The Mann-Whitney test (1947), applied at every look, as dashboards do.

/// One-sided, at 5 %.
const CRITICAL_Z: f64 = 1.6449;
/// Values of each side below which nobody would test.
const LEAST_COUNT: usize = 20;

/// Values of both sides, and how often one of the candidate exceeds one of the stable.
#[derive(Default)]
pub(crate) struct RankTest {
    stable: Vec<f64>,
    candidate: Vec<f64>,
    exceeding: f64,
}

impl RankTest {
    pub(crate) fn add_stable(&mut self, value: f64) {
        let at = insert(&mut self.candidate, value, false);
        self.exceeding += (self.candidate.len() - at) as f64;
        insert(&mut self.stable, value, true);
    }

    pub(crate) fn add_candidate(&mut self, value: f64) {
        self.exceeding += insert(&mut self.stable, value, false) as f64;
        insert(&mut self.candidate, value, true);
    }

    /// Whether the candidate's values are larger, as the test has it.
    pub(crate) fn is_larger(&self) -> bool {
        let (stable, candidate) = (self.stable.len() as f64, self.candidate.len() as f64);
        if self.stable.len().min(self.candidate.len()) < LEAST_COUNT {
            return false;
        }
        let deviation = (stable * candidate * (stable + candidate + 1.0) / 12.0).sqrt();
        (self.exceeding - stable * candidate / 2.0) / deviation > CRITICAL_Z
    }
}

/// Where a value belongs among sorted ones; `keep` puts it there.
fn insert(sorted: &mut Vec<f64>, value: f64, keep: bool) -> usize {
    let at = sorted.partition_point(|other| *other < value);
    if keep {
        sorted.insert(at, value);
    }
    at
}
