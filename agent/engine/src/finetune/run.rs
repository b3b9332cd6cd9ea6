use std::path::Path;
use std::sync::Arc;

use llmdeck_kernels::Pool;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use sha2::{Digest, Sha256};

use super::dropout::{Dropout, mix};
use super::linear::{Pass, gains};
use super::memory::checkpointing;
use super::network::{Gradients, Loss, Memory, Workspace, run};
use super::parameters::Parameters;
use super::sample::Sample;
use super::settings::TrainingSettings;
use super::state::{Progress, State};
use crate::EngineError;
use crate::adapter::{AdapterWeights, LoraSettings};
use crate::model::Model;
use crate::train::{AdamWOptions, adamw_update, clip_factor};

/// A loss so many times the mean of those before has gone astray.
const STRAY_FACTOR: f64 = 4.0;
/// And is at least so much above it, in nats: near zero, factors say little.
const STRAY_MARGIN: f64 = 2.0;
/// So many in a row have to be: a batch of a few hard tokens is no reason to go back, and would be as hard again.
const STRAY_STEPS: usize = 3;
/// What the learning rate is multiplied with when they have.
const RATE_AFTER_STRAY: f64 = 0.5;
/// How often it may.
const MOST_STRAYS: usize = 4;
/// How much a loss counts in the mean of the last ones.
const SMOOTHING: f64 = 0.1;
/// Steps between two states to go back to.
const CHECKPOINT_STEPS: usize = 20;
const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// A fine-tuning run, a step at a time. The same model, samples and settings give the same bits, on any number of threads, and
/// whether or not it was interrupted.
pub struct FineTune {
    model: Arc<Model>,
    pool: Arc<Pool>,
    settings: TrainingSettings,
    lora: LoraSettings,
    /// What is learned, and behind it what is rehearsed.
    samples: Vec<Sample>,
    learned: usize,
    rehearsed_an_epoch: usize,
    held_out: Vec<Sample>,
    fingerprint: String,
    parameters: Parameters,
    state: State,
    /// What a run goes back to when it has gone astray.
    last_good: State,
    /// Losses in a row that were far above those before; none at any state that is kept.
    far_in_a_row: usize,
    gradients: Vec<f32>,
    workspace: Workspace,
}

/// What a run is made of.
#[derive(Clone, Debug, Default)]
pub struct TrainingData {
    /// Seen once in every epoch.
    pub samples: Vec<Sample>,
    /// What the model can do already.
    pub rehearsal: Vec<Sample>,
    /// How many of the rehearsal are mixed into an epoch; each epoch draws its own.
    pub rehearsed_an_epoch: usize,
    /// Never learned; says which step was best.
    pub held_out: Vec<Sample>,
}

/// What a step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Steps that were taken, with this one.
    pub step: usize,
    /// A learned token's loss before the step, in nats.
    pub loss: f64,
    /// How far a rehearsed token is from what the model itself says, in nats.
    pub rehearsal_divergence: f64,
    /// Of the gradients before they were scaled down.
    pub gradient_norm: f64,
    /// The rate that it was taken with.
    pub learning_rate: f64,
    /// Tokens that were read.
    pub tokens: usize,
    /// A held-out token's loss, where it was evaluated behind this step.
    pub held_out_loss: Option<f64>,
    /// Losses were not a number, or again and again far above those before: the run is back at an earlier step, with a lower
    /// rate.
    pub went_back_to: Option<usize>,
    /// A state to come back to was reached; [`FineTune::save`] keeps it.
    pub checkpoint: bool,
}

impl FineTune {
    /// A run that begins. The threads of `pool` compute.
    ///
    /// # Errors
    /// A setting that is out of bounds, or samples that do not fit, in words.
    pub fn new(
        model: Arc<Model>,
        pool: Arc<Pool>,
        data: TrainingData,
        settings: TrainingSettings,
    ) -> Result<Self, String> {
        settings.validate()?;
        let lora = settings.lora()?;
        let description = model.decoder.description();
        let settings = settings.resolved(description.width, data.samples.len());
        let TrainingData { mut samples, rehearsal, rehearsed_an_epoch, held_out } = data;
        if samples.is_empty() {
            return Err("there is nothing to learn from".into());
        }
        let learned = samples.len();
        let rehearsed_an_epoch = rehearsed_an_epoch.min(rehearsal.len());
        samples.extend(rehearsal.into_iter().map(Sample::as_rehearsal));
        for sample in samples.iter().chain(&held_out) {
            let fits = (2..=settings.max_tokens.min(description.context)).contains(&sample.tokens.len());
            let known = sample.tokens.iter().all(|token| (*token as usize) < description.vocabulary);
            if !fits || !known || sample.weights.len() != sample.tokens.len() {
                return Err(
                    "a sample has too many tokens, fewer than two, or some that the model lacks".into()
                );
            }
        }
        let longest = samples.iter().map(|sample| sample.tokens.len()).max().unwrap_or(0);
        let memory =
            Memory { checkpointing: checkpointing(description, &settings, longest), bf16: settings.bf16 };
        let counts = [learned, rehearsed_an_epoch];
        let fingerprint = fingerprint(&model, counts, &samples, &held_out, &settings);
        let parameters = Parameters::new(&model, &pool, &lora, settings.seed);
        let count = parameters.values.len();
        let state = State {
            progress: Progress { rate_factor: 1.0, ..Progress::default() },
            values: parameters.values.clone(),
            first: vec![0.0; count],
            second: vec![0.0; count],
            best: Vec::new(),
        };
        Ok(Self {
            model,
            pool,
            settings,
            lora,
            samples,
            learned,
            rehearsed_an_epoch,
            held_out,
            fingerprint,
            parameters,
            last_good: state.clone(),
            far_in_a_row: 0,
            state,
            gradients: vec![0.0; count],
            workspace: Workspace::new(memory),
        })
    }

    /// Goes on where a state was saved.
    ///
    /// # Errors
    /// When it cannot be read, or belongs to another run.
    pub fn restore(&mut self, path: &Path) -> Result<(), EngineError> {
        let state = State::load(path, &self.fingerprint)?;
        let count = self.parameters.values.len();
        let fits = |numbers: &Vec<f32>| numbers.len() == count;
        let best_fits = state.best.is_empty() || fits(&state.best);
        if !(fits(&state.values) && fits(&state.first) && fits(&state.second) && best_fits) {
            return Err(EngineError::malformed(path, "has another number of parameters; begin a new run"));
        }
        self.parameters.values.clone_from(&state.values);
        self.last_good = state.clone();
        self.far_in_a_row = 0;
        self.state = state;
        Ok(())
    }

    /// Keeps the last state to come back to: a whole file, on disk, or the one before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), EngineError> {
        self.last_good.save(path, &self.fingerprint)
    }

    /// What a state takes on disk, about, in bytes.
    pub fn state_bytes(&self) -> u64 {
        // Values, two moments, and the best values.
        (4 * self.parameters.values.len() * size_of::<f32>()) as u64
    }

    /// Steps in all, unless it stops early.
    pub fn steps(&self) -> usize {
        self.steps_an_epoch() * self.settings.epochs.unwrap_or(1)
    }

    /// Steps that were taken.
    pub fn step_number(&self) -> usize {
        self.state.progress.step
    }

    /// Whether all steps were taken, or evaluations said that it is enough.
    pub fn is_done(&self) -> bool {
        self.state.progress.stopped_early || self.state.progress.step >= self.steps()
    }

    /// Whether evaluations ended it.
    pub fn stopped_early(&self) -> bool {
        self.state.progress.stopped_early
    }

    /// Numbers that are trained.
    pub fn trained_parameters(&self) -> usize {
        self.parameters.values.len()
    }

    /// The step with the lowest loss on what is held out, and that loss.
    pub fn best(&self) -> Option<(usize, f64)> {
        self.state.progress.best_loss.map(|loss| (self.state.progress.best_step, loss))
    }

    #[cfg(test)]
    pub(super) fn damage(&mut self, value: f32) {
        self.parameters.values.fill(value);
    }

    fn steps_an_epoch(&self) -> usize {
        (self.learned + self.rehearsed_an_epoch).div_ceil(self.settings.batch_size)
    }

    /// What was learned: at the best evaluation where there was one, or now.
    pub fn adapter(&self) -> AdapterWeights {
        let best = &self.state.best;
        self.weights(if best.is_empty() { &self.parameters.values } else { best })
    }

    /// What is learned now.
    pub fn adapter_now(&self) -> AdapterWeights {
        self.weights(&self.parameters.values)
    }

    fn weights(&self, values: &[f32]) -> AdapterWeights {
        let slots = self.parameters.slots.clone();
        Parameters { slots, values: values.to_vec() }.weights(&self.lora)
    }

    /// A held-out token's loss as it is now, what is rehearsed with it; `None` where nothing is held out.
    pub fn held_out_loss(&mut self) -> Option<f64> {
        let gains = gains(&self.model, &self.pool, &self.parameters, &self.lora);
        let pass = Pass {
            model: &self.model,
            pool: &self.pool,
            parameters: &self.parameters,
            settings: &self.lora,
            dropout: None,
            gains: &gains,
        };
        let mut loss = Loss::default();
        let all: Vec<&Sample> = self.held_out.iter().collect();
        for samples in passes(&all, self.settings.max_batch_tokens) {
            loss += run(&pass, samples, &mut self.workspace, None);
        }
        (!self.held_out.is_empty()).then(|| loss.value())
    }

    /// Takes one step.
    ///
    /// # Errors
    /// When losses have gone astray too often, in words.
    pub fn step(&mut self) -> Result<StepReport, String> {
        let step = self.state.progress.step;
        let learning_rate = self.settings.rate(step, self.steps()) * self.state.progress.rate_factor;
        let order = self.order(step / self.steps_an_epoch());
        let first = step % self.steps_an_epoch() * self.settings.batch_size;
        let batch: Vec<usize> = order[first..].iter().take(self.settings.batch_size).copied().collect();
        let (lost, tokens) = self.gradients_of(&batch, step);
        let loss = lost.value();
        let norm = self.gradients.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>().sqrt();
        let mut report = StepReport {
            step: step + 1,
            loss: lost.learned.value(),
            rehearsal_divergence: lost.rehearsed.value(),
            gradient_norm: norm,
            learning_rate,
            tokens,
            held_out_loss: None,
            went_back_to: None,
            checkpoint: false,
        };
        let before = self.state.progress.smoothed_loss;
        let is_far = before.is_some_and(|mean| loss > mean * STRAY_FACTOR && loss > mean + STRAY_MARGIN);
        self.far_in_a_row = if is_far { self.far_in_a_row + 1 } else { 0 };
        if !loss.is_finite() || !norm.is_finite() || self.far_in_a_row >= STRAY_STEPS {
            return self.go_back(report);
        }
        self.update(norm, learning_rate);
        let progress = &mut self.state.progress;
        progress.step = step + 1;
        if !is_far {
            progress.smoothed_loss = Some(before.map_or(loss, |mean| mean + SMOOTHING * (loss - mean)));
        }
        if self.is_evaluation(step + 1) {
            report.held_out_loss = self.evaluate();
        }
        let is_due =
            (step + 1).is_multiple_of(CHECKPOINT_STEPS) || report.held_out_loss.is_some() || self.is_done();
        if is_due && self.far_in_a_row == 0 {
            self.state.values.clone_from(&self.parameters.values);
            self.last_good.clone_from(&self.state);
            report.checkpoint = true;
        }
        Ok(report)
    }

    fn go_back(&mut self, mut report: StepReport) -> Result<StepReport, String> {
        let progress = &mut self.last_good.progress;
        progress.strays += 1;
        progress.rate_factor *= RATE_AFTER_STRAY;
        if progress.strays > MOST_STRAYS {
            return Err(format!(
                "the loss went astray {} times (last {} at step {}), though the rate was halved each time; begin again with a \
                 lower learning_rate, or look at the data",
                progress.strays, report.loss, report.step
            ));
        }
        report.went_back_to = Some(progress.step);
        report.checkpoint = true;
        self.far_in_a_row = 0;
        self.state.clone_from(&self.last_good);
        self.parameters.values.clone_from(&self.state.values);
        Ok(report)
    }

    fn is_evaluation(&self, step: usize) -> bool {
        let an_epoch = self.steps_an_epoch();
        let every = an_epoch.div_ceil(self.settings.evaluations_per_epoch).max(1);
        (step % an_epoch).is_multiple_of(every) || step == self.steps()
    }

    fn evaluate(&mut self) -> Option<f64> {
        let loss = self.held_out_loss()?;
        let progress = &mut self.state.progress;
        // A loss that is not a number is never the best.
        if progress.best_loss.is_none_or(|best| loss < best) && loss.is_finite() {
            progress.best_loss = Some(loss);
            progress.best_step = progress.step;
            progress.evaluations_since_best = 0;
            self.state.best.clone_from(&self.parameters.values);
        } else {
            progress.evaluations_since_best += 1;
            let patience = self.settings.early_stopping_patience;
            progress.stopped_early = patience > 0 && progress.evaluations_since_best >= patience;
        }
        Some(loss)
    }

    /// Which samples an epoch has, in order: those that are learned by their place, behind them those that are rehearsed.
    pub fn order(&self, epoch: usize) -> Vec<usize> {
        let mut rng = StdRng::seed_from_u64(mix(self.settings.seed ^ mix(epoch as u64)));
        let mut rehearsal: Vec<usize> = (self.learned..self.samples.len()).collect();
        let (drawn, _) = rehearsal.partial_shuffle(&mut rng, self.rehearsed_an_epoch);
        let mut order: Vec<usize> = (0..self.learned).chain(drawn.iter().copied()).collect();
        order.shuffle(&mut rng);
        order
    }

    /// Computes the gradients of the mean loss of a batch; returns it, and the tokens that were read.
    fn gradients_of(&mut self, batch: &[usize], step: usize) -> (Loss, usize) {
        self.gradients.fill(0.0);
        let gains = gains(&self.model, &self.pool, &self.parameters, &self.lora);
        let mut samples: Vec<&Sample> = batch.iter().map(|index| &self.samples[*index]).collect();
        // Samples of like length share a pass.
        samples.sort_by_key(|sample| (sample.rehearsed, sample.tokens.len()));
        let weight: f64 = samples.iter().map(|sample| sample.weight()).sum();
        let (mut loss, mut tokens) = (Loss::default(), 0);
        for (index, samples) in passes(&samples, self.settings.max_batch_tokens).into_iter().enumerate() {
            let seed = mix(self.settings.seed ^ mix(((step as u64) << 16) ^ index as u64));
            let dropout =
                (self.lora.dropout > 0.0).then_some(Dropout { share: self.lora.dropout as f32, seed });
            let pass = Pass {
                model: &self.model,
                pool: &self.pool,
                parameters: &self.parameters,
                settings: &self.lora,
                dropout,
                gains: &gains,
            };
            let gradients = Gradients { sums: &mut self.gradients, scale: (1.0 / weight) as f32 };
            loss += run(&pass, samples, &mut self.workspace, Some(gradients));
            tokens += samples.iter().map(|sample| sample.tokens.len()).sum::<usize>();
        }
        (loss, tokens)
    }

    fn update(&mut self, norm: f64, learning_rate: f64) {
        let options = AdamWOptions {
            beta1: BETA1,
            beta2: BETA2,
            epsilon: EPSILON,
            weight_decay: self.settings.weight_decay,
            max_gradient_norm: self.settings.max_grad_norm,
        };
        let factor = clip_factor(norm, options.max_gradient_norm);
        let step = i32::try_from(self.state.progress.step + 1).unwrap_or(i32::MAX);
        for slot in &self.parameters.slots {
            let faster = learning_rate * self.settings.loraplus_lr_ratio;
            for (range, rate) in
                [(&slot.a, learning_rate), (&slot.b, faster), (&slot.magnitude, learning_rate)]
            {
                adamw_update(
                    options,
                    step,
                    rate,
                    &mut self.parameters.values[range.clone()],
                    self.gradients[range.clone()].iter().map(|gradient| gradient * factor),
                    (&mut self.state.first[range.clone()], &mut self.state.second[range.clone()]),
                );
            }
        }
    }
}

/// Samples in runs of at most so many tokens; a longer one goes alone.
fn passes<'a, 's>(samples: &'a [&'s Sample], most_tokens: usize) -> Vec<&'a [&'s Sample]> {
    let mut passes = Vec::new();
    let (mut first, mut tokens) = (0, 0);
    for (index, sample) in samples.iter().enumerate() {
        if index > first && tokens + sample.tokens.len() > most_tokens {
            passes.push(&samples[first..index]);
            (first, tokens) = (index, 0);
        }
        tokens += sample.tokens.len();
    }
    if first < samples.len() {
        passes.push(&samples[first..]);
    }
    passes
}

/// Names everything that a run follows from.
fn fingerprint(
    model: &Model,
    counts: [usize; 2],
    samples: &[Sample],
    held_out: &[Sample],
    settings: &TrainingSettings,
) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{:?} {settings:?} {counts:?}", model.decoder.description()));
    for samples in [samples, held_out] {
        hash.update((samples.len() as u64).to_le_bytes());
        for sample in samples {
            hash.update((sample.tokens.len() as u64).to_le_bytes());
            sample.tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
            sample.weights.iter().for_each(|weight| hash.update(weight.to_le_bytes()));
            hash.update([u8::from(sample.rehearsed)]);
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
