//! What revisions are compared by.

use serde::Deserialize;

/// One respect in which two revisions are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of requests that failed or took longer than they may.
    ErrorRate,
    /// Share of answers that began as refusals do.
    RefusalRate,
    /// Share of answers that ended by their length.
    TruncatedRate,
    /// Mean of the answers' scores, 0 to 1: the share of what was checked of each that held.
    Quality,
    /// Score of the golden suite, 0 to 1: of the same prompts, asked by the agent.
    GoldenScore,
    /// Time to first token.
    TtftP50,
    /// Time to first token.
    TtftP95,
    /// Time to first token.
    TtftP99,
    /// Time from a token to the next, one of each request.
    ItlP50,
    /// Time from a token to the next, one of each request.
    ItlP95,
    /// Time from a token to the next, one of each request.
    ItlP99,
    /// Mean time a token behind the first, of each request.
    TpotP50,
    /// Mean time a token behind the first, of each request.
    TpotP95,
    /// Mean time a token behind the first, of each request.
    TpotP99,
    /// Arrival to last byte.
    E2eP50,
    /// Arrival to last byte.
    E2eP95,
    /// Arrival to last byte.
    E2eP99,
    /// Tokens of the answer.
    OutputTokensP50,
    /// Measured energy put down to a revision, by the token that it generated.
    EnergyPerToken,
}

/// How a metric is measured and which way is better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Measure {
    /// A share, of which less is better.
    Rate,
    /// A score, of which more is better.
    Score,
    /// The value that this share of requests does not exceed, of which less is better.
    Quantile(Timed, f64),
}

/// Numbers of which quantiles are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timed {
    Ttft,
    Itl,
    Tpot,
    E2e,
    OutputTokens,
    EnergyPerToken,
}

impl Metric {
    /// Every one, in the order in which they are shown.
    pub const ALL: [Self; 19] = [
        Self::ErrorRate,
        Self::RefusalRate,
        Self::TruncatedRate,
        Self::Quality,
        Self::GoldenScore,
        Self::TtftP50,
        Self::TtftP95,
        Self::TtftP99,
        Self::ItlP50,
        Self::ItlP95,
        Self::ItlP99,
        Self::TpotP50,
        Self::TpotP95,
        Self::TpotP99,
        Self::E2eP50,
        Self::E2eP95,
        Self::E2eP99,
        Self::OutputTokensP50,
        Self::EnergyPerToken,
    ];

    /// As configuration, wire and screen have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ErrorRate => "error_rate",
            Self::RefusalRate => "refusal_rate",
            Self::TruncatedRate => "truncated_rate",
            Self::Quality => "quality",
            Self::GoldenScore => "golden_score",
            Self::TtftP50 => "ttft_p50",
            Self::TtftP95 => "ttft_p95",
            Self::TtftP99 => "ttft_p99",
            Self::ItlP50 => "itl_p50",
            Self::ItlP95 => "itl_p95",
            Self::ItlP99 => "itl_p99",
            Self::TpotP50 => "tpot_p50",
            Self::TpotP95 => "tpot_p95",
            Self::TpotP99 => "tpot_p99",
            Self::E2eP50 => "e2e_p50",
            Self::E2eP95 => "e2e_p95",
            Self::E2eP99 => "e2e_p99",
            Self::OutputTokensP50 => "output_tokens_p50",
            Self::EnergyPerToken => "energy_per_token",
        }
    }

    /// Judged where a deployment does not say otherwise, with how much worse is still no worse.
    pub fn usual_margin(self) -> Option<f64> {
        match self {
            Self::ErrorRate => Some(0.005),
            Self::RefusalRate | Self::Quality => Some(0.02),
            Self::TruncatedRate => Some(0.05),
            Self::TtftP95 | Self::TpotP95 => Some(0.10),
            _ => None,
        }
    }

    /// Whether it can be compared where the candidate gets copies only, behind every user's request.
    pub(super) fn holds_for_copies(self) -> bool {
        let Measure::Quantile(timed, _) = self.measure() else { return true };
        !matches!(timed, Timed::Ttft | Timed::Itl | Timed::Tpot | Timed::E2e)
    }

    pub(super) fn measure(self) -> Measure {
        match self {
            Self::ErrorRate | Self::RefusalRate | Self::TruncatedRate => Measure::Rate,
            Self::Quality | Self::GoldenScore => Measure::Score,
            Self::TtftP50 => Measure::Quantile(Timed::Ttft, 0.50),
            Self::TtftP95 => Measure::Quantile(Timed::Ttft, 0.95),
            Self::TtftP99 => Measure::Quantile(Timed::Ttft, 0.99),
            Self::ItlP50 => Measure::Quantile(Timed::Itl, 0.50),
            Self::ItlP95 => Measure::Quantile(Timed::Itl, 0.95),
            Self::ItlP99 => Measure::Quantile(Timed::Itl, 0.99),
            Self::TpotP50 => Measure::Quantile(Timed::Tpot, 0.50),
            Self::TpotP95 => Measure::Quantile(Timed::Tpot, 0.95),
            Self::TpotP99 => Measure::Quantile(Timed::Tpot, 0.99),
            Self::E2eP50 => Measure::Quantile(Timed::E2e, 0.50),
            Self::E2eP95 => Measure::Quantile(Timed::E2e, 0.95),
            Self::E2eP99 => Measure::Quantile(Timed::E2e, 0.99),
            Self::OutputTokensP50 => Measure::Quantile(Timed::OutputTokens, 0.50),
            Self::EnergyPerToken => Measure::Quantile(Timed::EnergyPerToken, 0.50),
        }
    }
}
