use serde::{Deserialize, Serialize};

const JOULES_PER_KWH: f64 = 3.6e6;
const MILLION: f64 = 1e6;

/// What a run cost by the node's own account; its parts add up interval by interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunCost {
    /// Generated tokens that the account has.
    pub tokens: u64,
    /// Energy put down to the deployment, in joules; absent where nothing was measured.
    pub energy_j: Option<f64>,
    /// In the currency; absent without prices.
    pub cost: Option<f64>,
    /// ISO 4217 code; empty without prices.
    pub currency: String,
}

impl RunCost {
    /// Adds an interval.
    pub fn add(&mut self, tokens: u64, energy_mj: Option<u64>, cost_micros: Option<u64>, currency: &str) {
        self.tokens += tokens;
        if let Some(energy_mj) = energy_mj {
            *self.energy_j.get_or_insert(0.0) += energy_mj as f64 / 1_000.0;
        }
        if let Some(cost_micros) = cost_micros {
            *self.cost.get_or_insert(0.0) += cost_micros as f64 / MILLION;
            currency.clone_into(&mut self.currency);
        }
    }

    /// What came since `before`, which this has grown from.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let less = |now: Option<f64>, before: Option<f64>| now.map(|now| now - before.unwrap_or(0.0));
        Self {
            tokens: self.tokens.saturating_sub(before.tokens),
            energy_j: less(self.energy_j, before.energy_j),
            cost: less(self.cost, before.cost),
            currency: self.currency.clone(),
        }
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: &Self) {
        let more = |left: Option<f64>, right: Option<f64>| match (left, right) {
            (None, None) => None,
            (left, right) => Some(left.unwrap_or(0.0) + right.unwrap_or(0.0)),
        };
        self.tokens += other.tokens;
        self.energy_j = more(self.energy_j, other.energy_j);
        self.cost = more(self.cost, other.cost);
        if !other.currency.is_empty() {
            self.currency.clone_from(&other.currency);
        }
    }

    /// Whether it says anything of energy or money.
    pub fn is_known(&self) -> bool {
        self.tokens > 0 && (self.energy_j.is_some() || self.cost.is_some())
    }

    /// Energy a million tokens, in kilowatt hours.
    pub fn kwh_per_million_tokens(&self) -> Option<f64> {
        let energy_j = self.energy_j.filter(|_| self.tokens > 0)?;
        Some(energy_j / JOULES_PER_KWH * MILLION / self.tokens as f64)
    }

    /// Cost a million tokens, in the currency.
    pub fn cost_per_million_tokens(&self) -> Option<f64> {
        let cost = self.cost.filter(|_| self.tokens > 0)?;
        Some(cost * MILLION / self.tokens as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::RunCost;

    #[test]
    fn intervals_add_up_to_figures_a_million_tokens() {
        let mut cost = RunCost::default();
        assert!(!cost.is_known());
        cost.add(400, Some(1_800_000), Some(50), "EUR");
        cost.add(600, Some(1_800_000), Some(50), "EUR");
        assert_eq!(cost.kwh_per_million_tokens(), Some(1.0));
        assert!((cost.cost_per_million_tokens().unwrap() - 0.1).abs() < 1e-12);
        let mut later = cost.clone();
        later.add(100, Some(360_000), None, "");
        let since = later.since(&cost);
        assert_eq!((since.tokens, since.energy_j, since.cost), (100, Some(360.0), Some(0.0)));
        let mut both = since.clone();
        both.merge(&since);
        assert_eq!((both.tokens, both.energy_j, both.currency.as_str()), (200, Some(720.0), "EUR"));
        let mut unmeasured = RunCost::default();
        unmeasured.add(10, None, None, "");
        assert_eq!((unmeasured.kwh_per_million_tokens(), unmeasured.is_known()), (None, false));
    }
}
