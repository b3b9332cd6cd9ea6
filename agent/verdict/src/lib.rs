//! Whether a candidate is better, no worse or worse than what serves.
//!
//! Everything here stays valid however often it is looked at, and whenever one stops looking: evidence is an e-process,
//! and by Ville's inequality the chance that it ever passes 1/alpha while there is no effect is at most alpha. One
//! primitive carries it all: the mixture of likelihood ratios of a bounded mean against a null value
//! ([`ln_evidence_below`], [`ln_evidence_above`]; Robbins 1970; Howard, Ramdas, McAuliffe and Sekhon 2021). A proportion
//! is a bounded mean. A quantile is the value that a known share does not exceed, hence a proportion at a value (Howard
//! and Ramdas 2022). Two revisions are compared by the product of their evidence, which is an e-process again, made the
//! least over every value that what they share may have: narrower than two intervals with half the error each.
//!
//! This crate knows no clock, no network and no request: counts in, findings out.

mod distribution;
mod finding;
mod mean;
mod mixture;
mod quantile;

pub use distribution::Distribution;
pub use finding::{Effect, Finding, Scale, Verdict, overall};
pub use mean::{compare_means, mean_exceeds};
pub use mixture::{Tally, ln_evidence_above, ln_evidence_below};
pub use quantile::{compare_quantiles, quantile_exceeds};
