use std::sync::Arc;
use std::time::Duration;

use llmdeck_kernels::Pool;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::dropout::Dropout;
use super::linear::{Pass, gains};
use super::network::{Gradients, Loss, Memory, Workspace, run};
use super::parameters::Parameters;
use super::{FineTune, Sample, TrainingData, TrainingSettings, base_losses, memory_bytes};
use crate::adapter::{Adapter, AdapterWeights, MergedFormat};
use crate::model::Model;
use crate::random_model::{Shape, gemma3, llama_with, qwen2, qwen3, tensors, write_folder};
use crate::session::Session;

fn families() -> Vec<(&'static str, (Shape, Value))> {
    vec![
        ("llama", llama_with(false, &json!({}))),
        ("qwen2", qwen2()),
        ("qwen3", qwen3()),
        ("gemma3", gemma3()),
    ]
}

fn load((shape, config): &(Shape, Value), pool: &Arc<Pool>) -> Arc<Model> {
    let folder = tempfile::tempdir().unwrap();
    write_folder(folder.path(), config, &tensors(shape));
    Arc::new(Model::load(folder.path(), pool).unwrap())
}

fn samples(count: usize, seed: u64) -> Vec<Sample> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..count)
        .map(|index| {
            // Long enough to cross a local window and a tile of queries.
            let length = [9, 30, 2, 80][index % 4];
            let tokens: Vec<u32> = (0..length).map(|_| rng.random_range(0..100)).collect();
            let weight = if index % 3 == 2 { 0.5 } else { 1.0 };
            let sample = Sample::new(tokens, length / 2..length, weight);
            if index % 2 == 1 { sample.as_rehearsal() } else { sample }
        })
        .collect()
}

/// Every number away from where it begins, so that one that is not used shows.
fn scattered(model: &Model, pool: &Pool, settings: &TrainingSettings) -> Parameters {
    let mut parameters = Parameters::new(model, pool, &settings.lora().unwrap(), 3);
    let mut rng = StdRng::seed_from_u64(4);
    for slot in parameters.slots.clone() {
        parameters.values[slot.b].iter_mut().for_each(|b| *b = rng.random_range(-0.3..0.3));
        parameters.values[slot.magnitude].iter_mut().for_each(|m| *m *= rng.random_range(0.8..1.2));
    }
    parameters
}

struct Trained<'a> {
    model: &'a Model,
    pool: &'a Pool,
    settings: &'a TrainingSettings,
    /// Norms count as constants in DoRA's gradients; here too, then.
    gains: Option<&'a [Vec<f32>]>,
}

impl Trained<'_> {
    fn loss(&self, parameters: &Parameters, samples: &[Sample], gradients: Option<&mut [f32]>) -> Loss {
        let lora = self.settings.lora().unwrap();
        let own = gains(self.model, self.pool, parameters, &lora);
        let pass = Pass {
            model: self.model,
            pool: self.pool,
            parameters,
            settings: &lora,
            dropout: (lora.dropout > 0.0).then_some(Dropout { share: lora.dropout as f32, seed: 9 }),
            gains: self.gains.unwrap_or(&own),
        };
        let all: Vec<&Sample> = samples.iter().collect();
        let memory = Memory {
            checkpointing: self.settings.activation_checkpointing.unwrap_or(true),
            bf16: self.settings.bf16,
        };
        let gradients = gradients.map(|sums| Gradients { sums, scale: 1.0 });
        run(&pass, &all, &mut Workspace::new(memory), gradients)
    }
}

fn variants() -> Vec<TrainingSettings> {
    let plain = TrainingSettings { rank: 3, alpha: 6.0, ..TrainingSettings::default() };
    let some = vec!["k_proj".to_owned(), "down_proj".to_owned()];
    vec![
        TrainingSettings { activation_checkpointing: Some(false), ..plain.clone() },
        TrainingSettings { dropout: 0.2, target_modules: some, use_rslora: true, ..plain.clone() },
        TrainingSettings { use_dora: true, ..plain },
    ]
}

#[test]
fn gradients_are_slopes_in_every_family() {
    let pool = Arc::new(Pool::new(2).unwrap());
    for (name, family) in families() {
        let model = load(&family, &pool);
        for settings in variants() {
            let parameters = scattered(&model, &pool, &settings);
            let fixed = gains(&model, &pool, &parameters, &settings.lora().unwrap());
            let trained = Trained { model: &model, pool: &pool, settings: &settings, gains: None };
            let samples = samples(5, 1);
            let mut gradients = vec![0.0; parameters.values.len()];
            trained.loss(&parameters, &samples, Some(&mut gradients));
            let mut rng = StdRng::seed_from_u64(5);
            for slot in &parameters.slots {
                for (part, range) in [("A", &slot.a), ("B", &slot.b), ("m", &slot.magnitude)] {
                    if range.is_empty() {
                        continue;
                    }
                    // Along a direction of random signs.
                    let signs: Vec<f32> =
                        range.clone().map(|_| if rng.random::<bool>() { 1.0 } else { -1.0 }).collect();
                    let along: f64 = gradients[range.clone()]
                        .iter()
                        .zip(&signs)
                        .map(|(gradient, sign)| f64::from(gradient * sign))
                        .sum();
                    let norm: f64 =
                        gradients[range.clone()].iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
                    const STEP: f32 = 1e-3;
                    let moved = |step: f32| {
                        let mut moved = parameters.clone();
                        moved.values[range.clone()]
                            .iter_mut()
                            .zip(&signs)
                            .for_each(|(value, sign)| *value += step * sign);
                        // A step along magnitudes changes gains; one along directions leaves the norms.
                        let gains: Vec<Vec<f32>> = if part == "m" {
                            gains(&model, &pool, &moved, &settings.lora().unwrap())
                        } else {
                            fixed.clone()
                        };
                        Trained { gains: Some(&gains), ..trained }.loss(&moved, &samples, None)
                    };
                    let sum = |loss: Loss| loss.learned.sum + loss.rehearsed.sum;
                    let slope = (sum(moved(STEP)) - sum(moved(-STEP))) / f64::from(2.0 * STEP);
                    let place = format!("{name} layer {} {:?} {part}", slot.layer, slot.linear);
                    assert!(
                        (along - slope).abs() < 0.02 * norm * (signs.len() as f64).sqrt().min(4.0) + 2e-2,
                        "{place}: gradient {along}, slope {slope}, norm {norm}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_kept_in_half_the_memory_gives_nearly_the_same_gradients() {
    let pool = Arc::new(Pool::new(2).unwrap());
    for (name, family) in families() {
        let model = load(&family, &pool);
        for settings in variants() {
            let parameters = scattered(&model, &pool, &settings);
            let samples = samples(5, 1);
            let gradients = |bf16: bool| {
                let settings = TrainingSettings { bf16, ..settings.clone() };
                let trained = Trained { model: &model, pool: &pool, settings: &settings, gains: None };
                let mut gradients = vec![0.0; parameters.values.len()];
                let loss = trained.loss(&parameters, &samples, Some(&mut gradients));
                (loss, gradients)
            };
            let ((loss, full), (same_loss, half)) = (gradients(false), gradients(true));
            assert_eq!(loss, same_loss, "{name}: the way forwards is the same");
            let norm = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|n| n * n).sum::<f32>().sqrt();
            let apart = norm(&mut full.iter().zip(&half).map(|(full, half)| full - half));
            let whole = norm(&mut full.iter().copied());
            // bfloat16 has 8 bits; errors of many numbers mostly cancel.
            assert!(apart > 0.0 && apart < 0.01 * whole, "{name}: {apart} of {whole}");
        }
    }
    let mut description = load(&qwen3(), &pool).decoder.description().clone();
    description.layers = 30;
    let settings = |bf16| TrainingSettings { bf16, activation_checkpointing: Some(false), ..quick() };
    let [full, half] = [false, true].map(|bf16| memory_bytes(&description, &settings(bf16), 4_000));
    assert!(half < full * 3 / 5, "{half} {full}");
}

#[test]
fn what_was_trained_is_what_is_served() {
    let pool = Arc::new(Pool::new(2).unwrap());
    for (name, family) in families() {
        let model = load(&family, &pool);
        for settings in variants() {
            let settings = TrainingSettings { dropout: 0.0, ..settings };
            let parameters = scattered(&model, &pool, &settings);
            let trained = Trained { model: &model, pool: &pool, settings: &settings, gains: None };
            let weights = parameters.weights(&settings.lora().unwrap());
            // Through PEFT's files.
            let folder = tempfile::tempdir().unwrap();
            weights.write(folder.path(), model.decoder.description(), "base").unwrap();
            let read = AdapterWeights::read(folder.path(), model.decoder.description()).unwrap();
            assert_eq!(read, weights);
            let adapter = Arc::new(Adapter::load(folder.path(), &model).unwrap());
            for sample in samples(4, 2) {
                let sample = Sample { rehearsed: false, ..sample };
                let inputs = sample.tokens.len() - 1;
                let mut session = Session::new(&model, inputs).unwrap().with_adapter(&adapter);
                let logits = session.all(&sample.tokens[..inputs]).unwrap();
                let mut served = 0.0;
                for (row, target) in logits.chunks_exact(100).zip(1..) {
                    let peak = row.iter().copied().fold(f32::MIN, f32::max);
                    let sum: f64 = row.iter().map(|logit| f64::from(logit - peak).exp()).sum();
                    let nats = sum.ln() - f64::from(row[sample.tokens[target] as usize] - peak);
                    served += nats * f64::from(sample.weights[target]);
                }
                let loss = trained.loss(&parameters, std::slice::from_ref(&sample), None);
                // Keys and values are served in 16 bits.
                assert!(
                    (loss.learned.sum - served).abs() < 5e-3 * (1.0 + served),
                    "{name}: {} {served}",
                    loss.learned.sum
                );
            }
        }
    }
}

#[test]
fn merged_weights_say_what_model_and_adapter_say_together() {
    let pool = Arc::new(Pool::new(2).unwrap());
    for (name, family) in families() {
        let model = load(&family, &pool);
        for settings in variants() {
            let settings = TrainingSettings { dropout: 0.0, ..settings };
            let weights = scattered(&model, &pool, &settings).weights(&settings.lora().unwrap());
            let adapter = Arc::new(Adapter::new(&weights, &model).unwrap());
            let folder = tempfile::tempdir().unwrap();
            write_folder(folder.path(), &family.1, &tensors(&family.0));
            let out = folder.path().join("merged");
            model.merge_into(folder.path(), &weights, MergedFormat::F32, &out).unwrap();
            let merged = Arc::new(Model::load(&out, &pool).unwrap());
            let tokens: Vec<u32> = (0..40).map(|index| index * 37 % 100).collect();
            let mut apart = Session::new(&model, 40).unwrap().with_adapter(&adapter);
            let mut together = Session::new(&merged, 40).unwrap();
            let (apart, together) = (apart.all(&tokens).unwrap(), together.all(&tokens).unwrap());
            for (apart, together) in apart.iter().zip(&*together) {
                assert!((apart - together).abs() < 2e-2 * (1.0 + apart.abs()), "{name}: {apart} {together}");
            }
        }
    }
}

fn finetune(threads: usize, model: &Arc<Model>, settings: TrainingSettings) -> FineTune {
    let pool = Arc::new(Pool::new(threads).unwrap());
    let data = TrainingData {
        samples: samples(9, 7),
        rehearsal: samples(8, 9),
        rehearsed_an_epoch: 3,
        held_out: samples(4, 8),
    };
    FineTune::new(Arc::clone(model), pool, data, settings).unwrap()
}

fn quick() -> TrainingSettings {
    TrainingSettings {
        rank: 4,
        epochs: Some(8),
        batch_size: 3,
        max_batch_tokens: 60,
        dropout: 0.1,
        learning_rate: Some(5e-3),
        ..TrainingSettings::default()
    }
}

#[test]
fn it_learns_and_an_interrupted_run_ends_with_the_same_bits() {
    for bf16 in [false, true] {
        learns_and_resumes(&TrainingSettings { bf16, ..quick() });
    }
}

fn learns_and_resumes(settings: &TrainingSettings) {
    let pool = Arc::new(Pool::new(2).unwrap());
    let model = load(&qwen3(), &pool);
    let mut whole = finetune(2, &model, settings.clone());
    let before = whole.held_out_loss().unwrap();
    let mut losses = Vec::new();
    while !whole.is_done() {
        losses.push(whole.step().unwrap().loss);
    }
    assert_eq!(losses.len(), 32);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&losses[24..]) < 0.8 * mean(&losses[..8]), "{losses:?}");
    assert!(whole.best().unwrap().1 <= before + 0.5, "held out tokens are random, too");

    // Killed at some step, on another number of threads.
    for killed_at in [3, 23, 29] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        let mut first = finetune(1, &model, settings.clone());
        for _ in 0..killed_at {
            if first.step().unwrap().checkpoint {
                first.save(&path).unwrap();
            }
        }
        drop(first);
        let mut second = finetune(3, &model, settings.clone());
        if path.exists() {
            second.restore(&path).unwrap();
        }
        while !second.is_done() {
            second.step().unwrap();
        }
        assert!(second.adapter() == whole.adapter(), "killed at {killed_at}");
    }
}

#[test]
fn a_state_of_other_data_is_refused_and_a_torn_one_too() {
    let pool = Arc::new(Pool::new(1).unwrap());
    let model = load(&qwen3(), &pool);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    finetune(1, &model, quick()).save(&path).unwrap();
    let other = TrainingSettings { learning_rate: Some(1e-4), ..quick() };
    let reason = finetune(1, &model, other).restore(&path).unwrap_err().to_string();
    assert!(reason.contains("other data, settings or base model"), "{reason}");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(finetune(1, &model, quick()).restore(&path).is_err());
}

#[test]
fn a_loss_that_goes_astray_takes_the_run_back_with_a_lower_rate() {
    let pool = Arc::new(Pool::new(2).unwrap());
    let model = load(&qwen3(), &pool);
    let mut run = finetune(2, &model, quick());
    while run.step_number() < 9 {
        run.step().unwrap();
    }
    for strays in 1..=4 {
        run.damage(f32::NAN);
        let report = run.step().unwrap();
        assert!(report.loss.is_nan() && report.went_back_to == Some(8), "{report:?}");
        assert_eq!(run.step_number(), 8);
        let usual = quick().rate(8, run.steps());
        let report = run.step().unwrap();
        assert!(report.loss.is_finite() && report.learning_rate == usual * 0.5f64.powi(strays), "{report:?}");
    }
    run.damage(f32::NAN);
    let reason = run.step().unwrap_err();
    assert!(reason.contains("astray 5 times") && reason.contains("lower learning_rate"), "{reason}");
}

/// One text over and over, and in each epoch one of random tokens.
fn easy_and_one_hard(model: &Arc<Model>, pool: &Arc<Pool>) -> FineTune {
    let easy = Sample::new(vec![7; 12], 0..12, 1.0);
    let mut samples = vec![easy; 23];
    samples.extend(
        self::samples(4, 5).into_iter().skip(1).take(1).map(|hard| Sample { rehearsed: false, ..hard }),
    );
    let data = TrainingData { samples, ..TrainingData::default() };
    let settings = TrainingSettings { batch_size: 1, dropout: 0.0, epochs: Some(4), ..quick() };
    FineTune::new(Arc::clone(model), Arc::clone(pool), data, settings).unwrap()
}

#[test]
fn a_hard_example_is_learned_from_and_losses_that_stay_high_are_not() {
    let pool = Arc::new(Pool::new(2).unwrap());
    let model = load(&qwen3(), &pool);
    let mut run = easy_and_one_hard(&model, &pool);
    let mut reports = Vec::new();
    while !run.is_done() {
        reports.push(run.step().unwrap());
    }
    let losses: Vec<f64> = reports.iter().map(|report| report.loss).collect();
    assert!(
        losses[80..].iter().any(|loss| *loss > 3.0) && losses[80..].iter().any(|loss| *loss < 0.5),
        "{losses:?}"
    );
    assert!(reports.iter().all(|report| report.went_back_to.is_none()), "{reports:?}");

    let mut run = easy_and_one_hard(&model, &pool);
    while run.step_number() < 85 {
        run.step().unwrap();
    }
    run.damage(3.0);
    let mut went_back = Vec::new();
    for _ in 0..3 {
        let report = run.step().unwrap();
        assert!(report.loss.is_finite(), "{report:?}");
        went_back.push(report.went_back_to);
    }
    assert_eq!(went_back, [None, None, Some(80)]);
}

#[test]
fn each_sample_has_the_loss_that_it_has_alone() {
    let pool = Arc::new(Pool::new(2).unwrap());
    let model = load(&qwen3(), &pool);
    let samples: Vec<Sample> =
        samples(40, 3).into_iter().map(|one| Sample { rehearsed: false, ..one }).collect();
    let mut asked: Vec<Option<&Sample>> = samples.iter().map(Some).collect();
    asked[5] = None;
    let together = base_losses(&model, &pool, &asked, Duration::from_secs(60));
    for (index, (sample, loss)) in samples.iter().zip(&together).enumerate() {
        let alone = base_losses(&model, &pool, &[Some(sample)], Duration::from_secs(60))[0];
        match (index, alone, loss) {
            (5, _, None) | (_, None, None) => {}
            (_, Some(alone), Some(loss)) => assert!((alone - loss).abs() < 1e-4, "{index}: {alone} {loss}"),
            other => panic!("{other:?}"),
        }
    }
    let none = base_losses(&model, &pool, &asked, Duration::ZERO);
    assert!(none.iter().all(Option::is_none), "no time, nothing seen");
}
