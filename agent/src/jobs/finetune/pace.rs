//! How long a training may still take.

/// Steps that the rest is estimated from.
const MOST_TIMED: usize = 100;
const LEAST_TIMED: usize = 3;
/// Of a normal distribution, two-sided.
const Z_95: f64 = 1.96;

/// What the last steps took, in seconds each.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last_s: std::collections::VecDeque<f64>,
}

impl Pace {
    pub(super) fn push(&mut self, step_s: f64) {
        if self.last_s.len() == MOST_TIMED {
            self.last_s.pop_front();
        }
        self.last_s.push_back(step_s);
    }

    /// What `steps` more take, in seconds, at least and at most (95 %): the mean of those before is not known exactly, and those
    /// to come will differ, too. `beside` is the time that goes to others, for each second of training.
    pub(super) fn remaining_s(&self, steps: usize, beside: f64) -> Option<(f64, f64)> {
        if self.last_s.len() < LEAST_TIMED {
            return None;
        }
        let count = self.last_s.len() as f64;
        let mean = self.last_s.iter().sum::<f64>() / count;
        let variance = self.last_s.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let steps = steps as f64;
        let middle = steps * mean * (1.0 + beside);
        let half = Z_95 * (variance * (steps + steps * steps / count)).sqrt();
        Some(((middle - half).max(0.0), middle + half))
    }
}

#[cfg(test)]
mod tests {
    use super::Pace;

    #[test]
    fn the_rest_is_as_sure_as_the_steps_before_were_alike() {
        let pace = |times: &[f64]| {
            let mut pace = Pace::default();
            times.iter().for_each(|time| pace.push(*time));
            pace
        };
        assert_eq!(pace(&[1.0, 1.0]).remaining_s(10, 0.0), None);
        assert_eq!(pace(&[1.0; 200]).remaining_s(10, 0.5), Some((15.0, 15.0)));
        let (least_s, most_s) = pace(&[0.5, 1.5, 1.0, 1.0]).remaining_s(4, 0.0).unwrap();
        assert!(least_s > 1.0 && least_s < 3.0 && most_s > 5.0 && most_s < 7.0, "{least_s} to {most_s}");
    }
}
