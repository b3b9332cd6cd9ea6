use std::time::{Duration, Instant};

use llmdeck_kernels::Pool;

use super::linear::Pass;
use super::network::{Workspace, run};
use super::parameters::Parameters;
use super::sample::Sample;
use crate::adapter::LoraSettings;
use crate::model::Model;

/// Tokens that are computed at once: enough that expanding weights does not count.
const TOKENS_AT_ONCE: usize = 512;
/// Samples between two that are looked at after each other.
const STRIDE: usize = 16;

/// What a model makes of samples as it is: of each the mean loss of its learned tokens, in nats, `None` of those that the time did
/// not reach. They are gone through in strides, so that a short time sees all parts of them.
pub fn base_losses(
    model: &Model,
    pool: &Pool,
    samples: &[Option<&Sample>],
    time: Duration,
) -> Vec<Option<f64>> {
    let until = Instant::now() + time;
    let (nothing, unused) = (Parameters::nothing(), LoraSettings::default());
    let pass = Pass { model, pool, parameters: &nothing, settings: &unused, dropout: None, gains: &[] };
    let mut workspace = Workspace::default();
    let mut losses = vec![None; samples.len()];
    let mut left = (0..STRIDE)
        .flat_map(|first| (first..samples.len()).step_by(STRIDE))
        .filter_map(|index| Some((index, samples[index].filter(|sample| sample.tokens.len() > 1)?)))
        .peekable();
    while left.peek().is_some() && Instant::now() < until {
        let (mut together, mut tokens) = (Vec::new(), 0);
        while let Some(next) =
            left.next_if(|(_, next)| tokens == 0 || tokens + next.tokens.len() <= TOKENS_AT_ONCE)
        {
            tokens += next.1.tokens.len();
            together.push(next);
        }
        let of_pass: Vec<&Sample> = together.iter().map(|(_, sample)| *sample).collect();
        run(&pass, &of_pass, &mut workspace, None);
        let mut nats = workspace.token_losses.iter();
        for (index, sample) in together {
            let learned = sample.weights.iter().skip(1).filter(|weight| **weight != 0.0).count();
            let sum: f64 = nats.by_ref().take(learned).map(|nats| f64::from(*nats)).sum();
            losses[index] = (learned > 0).then(|| sum / learned as f64);
        }
    }
    losses
}
