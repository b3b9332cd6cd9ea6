//! Guessing the next tokens from what was said before (prompt lookup; Saxena 2023), and deciding whether it pays.
//!
//! Guesses run as further rows of the same step, and each is kept only if the sampler chooses it from the logits of the
//! row before: answers are those that would have come one token at a time.

/// Most tokens guessed for one sequence in one step.
const MOST_GUESSED: usize = 4;
/// Most tokens guessed for all sequences in one step: each needs a row of logits.
pub(crate) const MOST_GUESSED_A_STEP: usize = 16;
/// Tokens at the end that must have been there before, longest first.
const MATCHED: [usize; 2] = [3, 2];
/// How far back a match is looked for.
const REACH: usize = 4_096;
/// Rows for which step times are kept apart.
const MOST_ROWS: usize = 64;
/// Weight of the newest measurement.
const NEWEST: f64 = 0.1;
/// Steps after which guessing is tried anew where it did not pay.
const PROBE_EVERY: u64 = 64;

/// What followed the last tokens when they were there before; empty where they were not.
pub(crate) fn guess(tokens: &[u32], most: usize) -> &[u32] {
    let start = tokens.len().saturating_sub(REACH);
    for length in MATCHED {
        let Some(last) = tokens.len().checked_sub(length) else { continue };
        let (earlier, end) = (&tokens[start.min(last)..tokens.len() - 1], &tokens[last..]);
        let found = earlier.windows(length).rposition(|window| window == end);
        if let Some(found) = found {
            let follows = start.min(last) + found + length;
            return &tokens[follows..(follows + most.min(MOST_GUESSED)).min(tokens.len())];
        }
    }
    &[]
}

/// Measures what guessing gains and costs.
pub(crate) struct Payoff {
    /// Share of guessed tokens that are kept.
    kept: f64,
    /// Microseconds of a step that only generates, by rows; zero where none was seen.
    step_us: [f64; MOST_ROWS + 1],
    steps: u64,
}

impl Default for Payoff {
    fn default() -> Self {
        Self { kept: 0.5, step_us: [0.0; MOST_ROWS + 1], steps: 0 }
    }
}

impl Payoff {
    /// Whether `sequences` that generate get more tokens a second with `guessed` more rows.
    pub(crate) fn is_worth(&mut self, sequences: usize, guessed: usize) -> bool {
        if guessed == 0 || sequences + guessed > MOST_ROWS {
            return false;
        }
        self.steps += 1;
        let (plain, with) = (self.step_us(sequences), self.step_us(sequences + guessed));
        let (Some(plain), Some(with)) = (plain, with) else { return true };
        let gain = (sequences as f64 + self.kept * guessed as f64) / sequences as f64;
        gain * plain > with || self.steps.is_multiple_of(PROBE_EVERY)
    }

    /// The nearest measurement at or above, or else below; `None` while there is none.
    fn step_us(&self, rows: usize) -> Option<f64> {
        let seen = |rows: &usize| self.step_us[*rows] > 0.0;
        let nearest = (rows..=MOST_ROWS).find(seen).or_else(|| (0..rows).rev().find(seen))?;
        Some(self.step_us[nearest])
    }

    /// A step that only generated took so long.
    pub(crate) fn took(&mut self, rows: usize, step_us: f64) {
        if let Some(before) = self.step_us.get_mut(rows) {
            *before = if *before == 0.0 { step_us } else { *before + NEWEST * (step_us - *before) };
        }
    }

    /// So many of the guessed tokens were kept.
    pub(crate) fn kept(&mut self, guessed: usize, kept: usize) {
        if guessed > 0 {
            self.kept += NEWEST * (kept as f64 / guessed as f64 - self.kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Payoff, guess};

    #[test]
    fn what_followed_before_is_guessed() {
        assert_eq!(guess(&[1, 2, 3, 4, 5, 6, 7, 1, 2, 3], 9), [4, 5, 6, 7]);
        assert_eq!(guess(&[1, 2, 3, 4, 5, 6, 7, 1, 2, 3], 2), [4, 5]);
        assert_eq!(guess(&[9, 2, 3, 4, 8, 2, 3], 9), [4, 8, 2, 3], "two tokens match where three do not");
        assert_eq!(guess(&[1, 2, 3, 5, 1, 2, 3, 6, 1, 2, 3], 1), [6], "the latest counts");
        assert_eq!(guess(&[7, 7, 7, 7], 9), [7]);
        assert!(guess(&[1, 2, 3, 4], 9).is_empty() && guess(&[], 9).is_empty() && guess(&[1], 9).is_empty());
    }

    #[test]
    fn guessing_stops_where_it_does_not_pay_and_is_tried_again() {
        let mut payoff = Payoff::default();
        payoff.took(1, 10_000.0);
        payoff.took(5, 11_000.0);
        assert!(payoff.is_worth(1, 4));
        (0..100).for_each(|_| payoff.kept(4, 0));
        assert!(!payoff.is_worth(1, 4));
        assert_eq!((0..128).filter(|_| payoff.is_worth(1, 4)).count(), 2);
        (0..100).for_each(|_| payoff.kept(4, 4));
        assert!(payoff.is_worth(1, 4));
        payoff.took(8, 20_000.0);
        payoff.took(40, 200_000.0);
        assert!(!payoff.is_worth(8, 32), "eight sequences at once leave no idle arithmetic");
    }
}
