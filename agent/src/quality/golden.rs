use futures_util::stream::{FuturesUnordered, StreamExt};

use super::ask::{AskError, ask};
use super::suite::{GoldenPrompt, GoldenRun, GoldenScore, Suite};
use crate::backend::Backend;
use crate::time::unix_ms;

/// Prompts asked at once, so that a suite takes few places from users.
const AT_ONCE: usize = 4;

/// Asks every prompt, greedily and behind every user, and scores the answers. `progress` hears how many are done.
///
/// # Errors
/// The first prompt that could not be asked or answered.
pub async fn run_suite(
    backend: &Backend,
    suite: &Suite,
    progress: impl FnMut(usize),
) -> Result<GoldenRun, AskError> {
    let shares = suite_shares(backend, suite, progress).await?;
    Ok(GoldenRun { score: GoldenScore::of(&shares), ended_unix_ms: unix_ms() })
}

/// The share of checks that each prompt's answer meets, in the suite's order.
///
/// # Errors
/// The first prompt that could not be asked or answered.
pub async fn suite_shares(
    backend: &Backend,
    suite: &Suite,
    mut progress: impl FnMut(usize),
) -> Result<Vec<f64>, AskError> {
    let mut prompts = suite.prompts.iter().enumerate();
    let asking = async |(index, golden): (usize, &GoldenPrompt)| (index, share(backend, golden).await);
    let mut asked: FuturesUnordered<_> = prompts.by_ref().take(AT_ONCE).map(asking).collect();
    let (mut shares, mut done) = (vec![0.0; suite.prompts.len()], 0);
    while let Some((index, share)) = asked.next().await {
        shares[index] = share?;
        done += 1;
        progress(done);
        asked.extend(prompts.next().map(asking));
    }
    Ok(shares)
}

/// The share of a prompt's checks that its answer meets.
async fn share(backend: &Backend, golden: &GoldenPrompt) -> Result<f64, AskError> {
    let answer = ask(backend, &golden.prompt, golden.max_tokens.max(1) as usize).await?;
    let held = golden.checks.iter().filter(|check| check.holds(&answer)).count();
    Ok(held as f64 / golden.checks.len() as f64)
}
