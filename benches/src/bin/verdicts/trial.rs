//! Simulated rollouts.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use llmdeck_verdict::{mean_exceeds, quantile_exceeds};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::ALPHA;
use crate::arm::Arm;
use crate::rank_test::RankTest;

/// What is wrong with the candidate.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Change {
    None,
    Errors,
    Slower,
    LowerQuality,
}

/// What the two share.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Load {
    Steady,
    /// Latency rises and falls for both, by a factor of two and more, over hundreds of requests.
    Waves,
}

#[derive(Clone, Copy)]
pub(crate) enum Margins {
    None,
    Usual,
}

#[derive(Clone, Copy)]
pub(crate) enum Looks {
    Always,
    /// At every tenth request of the candidate.
    Often,
}

#[derive(Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) change: Change,
    pub(crate) load: Load,
    /// The candidate's share of requests.
    pub(crate) share: f64,
    pub(crate) margins: Margins,
    pub(crate) looks: Looks,
}

pub(crate) struct Outcome {
    /// Requests to the candidate until it was called worse.
    pub(crate) verdict_at: Option<u64>,
    /// The rank test on TTFT called it worse at some look.
    pub(crate) rank_test: bool,
}

/// As many runs, of so many requests at most, on all cores.
pub(crate) fn run(setting: Setting, runs: u64, requests: u64) -> Vec<Outcome> {
    let (next, outcomes) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= runs {
                        return;
                    }
                    let outcome = one(setting, requests, seed);
                    outcomes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn one(setting: Setting, requests: u64, seed: u64) -> Outcome {
    let mut random = SmallRng::seed_from_u64(seed);
    let (mut stable, mut candidate) = (Arm::default(), Arm::default());
    let mut ranks = RankTest::default();
    let mut outcome = Outcome { verdict_at: None, rank_test: false };
    let (mut wave, mut sent) = (0.0f64, 0);
    for _ in 0..requests {
        wave = 0.995 * wave + 0.06 * normal(&mut random);
        let busy = if setting.load == Load::Waves { wave.exp() } else { 1.0 };
        let on_candidate = random.random::<f64>() < setting.share;
        let change = if on_candidate { setting.change } else { Change::None };
        let ttft = ttft_ms(change, busy, &mut random);
        answer(change, ttft, busy, if on_candidate { &mut candidate } else { &mut stable }, &mut random);
        sent += u64::from(on_candidate);
        let look = match setting.looks {
            Looks::Always => {
                if on_candidate {
                    ranks.add_candidate(ttft);
                } else {
                    ranks.add_stable(ttft);
                }
                outcome.rank_test |= ranks.is_larger();
                true
            }
            Looks::Often => on_candidate && sent % 10 == 0,
        };
        if look && outcome.verdict_at.is_none() && is_worse(&stable, &candidate, setting.margins) {
            outcome.verdict_at = Some(sent);
            if matches!(setting.looks, Looks::Often) {
                break;
            }
        }
    }
    outcome
}

/// Log-normal, with a long tail.
fn ttft_ms(change: Change, busy: f64, random: &mut SmallRng) -> f64 {
    let slower = if change == Change::Slower { 1.2 } else { 1.0 };
    80.0 * busy * slower * (0.5 * normal(random)).exp()
}

fn answer(change: Change, ttft: f64, busy: f64, arm: &mut Arm, random: &mut SmallRng) {
    let failing = if change == Change::Errors { 0.03 } else { 0.01 };
    arm.failed.add(f64::from(u8::from(random.random::<f64>() < failing)));
    arm.ttft.record(ttft);
    arm.itl.record(8.0 * busy * (0.3 * normal(random)).exp());
    let lower = if change == Change::LowerQuality { 0.05 } else { 0.0 };
    arm.quality.add(0.85 - lower + 0.12 * normal(random));
}

/// The metrics that a deployment is judged by where it says nothing else, each at its part of the chance.
fn is_worse(stable: &Arm, candidate: &Arm, margins: Margins) -> bool {
    let usual = |margin: f64| if matches!(margins, Margins::Usual) { margin } else { 0.0 };
    let alpha = ALPHA / 6.0;
    let slower = |of: fn(&Arm) -> &crate::arm::Latency, shares: &[f64]| {
        let (stable, candidate) = (of(stable).distribution(), of(candidate).distribution());
        shares.iter().any(|share| quantile_exceeds(&stable, &candidate, *share, 1.0 + usual(0.1), alpha))
    };
    mean_exceeds(&stable.failed, &candidate.failed, usual(0.005), alpha)
        || mean_exceeds(&stable.quality.mirrored(), &candidate.quality.mirrored(), usual(0.02), alpha)
        || slower(|arm| &arm.ttft, &[0.5, 0.95])
        || slower(|arm| &arm.itl, &[0.5, 0.95])
}

/// Standard normal (Box and Muller 1958).
fn normal(random: &mut SmallRng) -> f64 {
    let (radius, angle) = (random.random::<f64>().max(f64::MIN_POSITIVE), random.random::<f64>());
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}
