use std::time::{Duration, Instant};

use llmdeck_kernels::Pool;

use super::linear::Pass;
use super::network::{Workspace, run};
use super::parameters::Parameters;
use super::sample::Sample;
use crate::adapter::LoraSettings;
use crate::model::Model;

/// What a model makes of samples as it is: of each the loss of a learned token, in nats, `None` of those that the time did not
/// reach. They are gone through in strides, so that a short time sees all parts of them.
pub fn base_losses(
    model: &Model,
    pool: &Pool,
    samples: &[Option<&Sample>],
    time: Duration,
) -> Vec<Option<f64>> {
    const STRIDE: usize = 16;
    let until = Instant::now() + time;
    let (nothing, unused) = (Parameters::nothing(), LoraSettings::default());
    let pass = Pass { model, pool, parameters: &nothing, settings: &unused, dropout: None, gains: &[] };
    let mut workspace = Workspace::default();
    let mut losses = vec![None; samples.len()];
    for index in (0..STRIDE).flat_map(|first| (first..samples.len()).step_by(STRIDE)) {
        if Instant::now() > until {
            break;
        }
        let Some(sample) = samples[index].filter(|sample| sample.tokens.len() > 1) else { continue };
        losses[index] = Some(run(&pass, &[sample], &mut workspace, None).learned.value());
    }
    losses
}
