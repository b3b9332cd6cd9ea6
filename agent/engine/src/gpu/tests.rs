//! The decoder of a device against the CPU's, on whatever device there is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::channel;

use llmdeck_kernels::Pool;
use llmdeck_kernels::gpu::OpenDevice;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::Products;
use crate::adapter::{Adapter, AdapterWeights, Linear, LoraSettings, ThinMatrices};
use crate::batch::Batch;
use crate::engine::{CacheFormat, Engine, EngineOptions};
use crate::generation::{GenerationEvent, GenerationRequest, Listener};
use crate::model::Model;
use crate::random_model::{Shape, gemma3, llama_with, qwen2, qwen3, tensors, write_folder};
use crate::sampling::SamplingOptions;
use crate::scheduler::Priority;
use crate::session::Session;

fn device() -> OpenDevice {
    if cfg!(feature = "cuda") { OpenDevice::gpu(0).unwrap() } else { OpenDevice::cpu() }
}

/// On the CPU, and on the device with either kind of products.
fn of_shape((shape, config): &(Shape, Value)) -> (tempfile::TempDir, [Arc<Model>; 3]) {
    let folder = tempfile::tempdir().unwrap();
    write_folder(folder.path(), config, &tensors(shape));
    let pool = Arc::new(Pool::new(2).unwrap());
    let kinds = [None, Some(Products::Fastest), Some(Products::BatchInvariant)];
    let models = kinds.map(|products| {
        let gpu = products.map(|products| (device(), products));
        Arc::new(Model::load_with(gpu, folder.path(), &pool, &mut |_| {}).unwrap())
    });
    (folder, models)
}

/// How far apart, as a share of the largest.
fn apart(ours: &[f32], theirs: &[f32]) -> f32 {
    let largest = theirs.iter().fold(1e-6f32, |most, number| most.max(number.abs()));
    ours.iter().zip(theirs).map(|(ours, theirs)| (ours - theirs).abs() / largest).fold(0.0, f32::max)
}

#[test]
fn a_device_computes_what_the_cpu_does_in_every_family() {
    for family in [llama_with(false, &serde_json::json!({})), qwen2(), qwen3(), gemma3()] {
        let (_folder, models) = of_shape(&family);
        let tokens: Vec<u32> = (0..60).map(|index| index * 7 % 100).collect();
        let [mut cpu, mut fastest, mut invariant] =
            models.each_ref().map(|model| Session::new(model, 64).unwrap());
        // A prompt in two chunks, then token by token.
        for chunk in [&tokens[..37], &tokens[37..50], &tokens[50..51], &tokens[51..52]] {
            let expected = cpu.all(chunk).unwrap().to_vec();
            for gpu in [&mut fastest, &mut invariant] {
                let difference = apart(gpu.all(chunk).unwrap(), &expected);
                assert!(difference < 0.01, "{difference}");
            }
        }
    }
}

#[test]
fn keys_and_values_are_stored_on_a_device_as_the_cpu_has_them() {
    let (_folder, models) = of_shape(&gemma3());
    let tokens: Vec<u32> = (0..60).map(|index| index * 7 % 100).collect();
    for format in [CacheFormat::F16, CacheFormat::Bf16, CacheFormat::Int8] {
        let [expected, fastest, invariant] = models.each_ref().map(|model| {
            let mut session = Session::with_cache(model, format, 64).unwrap();
            [&tokens[..37], &tokens[37..]].map(|chunk| session.all(chunk).unwrap().to_vec()).concat()
        });
        for gpu in [fastest, invariant] {
            let difference = apart(&gpu, &expected);
            assert!(difference < 0.02, "{format:?} {difference}");
        }
    }
}

#[test]
fn sequences_of_all_lengths_share_a_step() {
    let (_folder, [_, fastest, invariant]) = of_shape(&gemma3());
    let prompts: Vec<Vec<u32>> =
        (1..6).map(|length| (0..length * 9).map(|index| index * 5 % 100).collect()).collect();
    for (model, most_apart) in [(fastest, 1e-4), (invariant, 0.0)] {
        let mut batch = Batch::new(&model, prompts.len(), 64).unwrap();
        let together = batch.step(&prompts).unwrap().to_vec();
        for (prompt, logits) in prompts.iter().zip(together.chunks_exact(100)) {
            let alone = Session::new(&model, 64).unwrap().next(prompt).unwrap().to_vec();
            assert!(apart(logits, &alone) <= most_apart);
        }
    }
}

#[test]
fn chunks_of_a_prompt_change_nothing_where_products_are_batch_invariant() {
    let (_folder, [_, _, gpu]) = of_shape(&qwen3());
    let adapter = adapter(&gpu);
    let tokens: Vec<u32> = (0..60).map(|index| index * 7 % 100).collect();
    let logits = |chunk: usize| -> Vec<f32> {
        let mut session = Session::new(&gpu, 64).unwrap().with_adapter(&adapter);
        tokens.chunks(chunk).flat_map(|chunk| session.all(chunk).unwrap().to_vec()).collect()
    };
    let at_once = logits(60);
    for chunk in [1, 7, 8, 9, 33] {
        assert_eq!(logits(chunk), at_once, "in chunks of {chunk}");
    }
}

/// Logits of three sequences, step by step: prompts, then token by token into further blocks; in the end of two of them.
fn steps_of(model: &Arc<Model>) -> Vec<Vec<f32>> {
    let mut batch = Batch::new(model, 3, 64).unwrap();
    let prompts: Vec<Vec<u32>> =
        [3, 17, 30].map(|length| (0..length).map(|index| index * 5 % 100).collect()).into();
    let next = |position: u32| (0..3).map(move |sequence| vec![(position * 11 + sequence * 3) % 100]);
    let steps = std::iter::once(prompts).chain((0..24).map(|position| next(position).collect()));
    let fewer = (24..30).map(|position| next(position).take(2).collect());
    let vocabulary = model.decoder.description().vocabulary;
    let logits = |tokens: Vec<Vec<u32>>| batch.step(&tokens).unwrap()[..tokens.len() * vocabulary].to_vec();
    steps.chain(fewer).map(logits).collect()
}

#[test]
fn threads_that_share_a_model_do_not_disturb_each_other() {
    let (_folder, [cpu, fastest, invariant]) = of_shape(&gemma3());
    let expected = steps_of(&cpu);
    std::thread::scope(|scope| {
        for gpu in [&fastest, &fastest, &fastest, &invariant, &invariant] {
            let expected = &expected;
            scope.spawn(move || {
                for (ours, expected) in steps_of(gpu).iter().zip(expected) {
                    assert!(apart(ours, expected) < 0.01, "{}", apart(ours, expected));
                }
            });
        }
    });
}

/// Thin matrices beside those of two layers, with magnitudes beside some.
fn adapter(model: &Model) -> Arc<Adapter> {
    let description = model.decoder.description();
    let mut rng = StdRng::seed_from_u64(5);
    let mut matrices = BTreeMap::new();
    for (layer, linear) in [(0, Linear::Query), (0, Linear::Down), (1, Linear::Value), (1, Linear::Gate)] {
        let (outputs, inputs) = linear.shape(description);
        let mut random = |count: usize| (0..count).map(|_| rng.random_range(-0.3..0.3)).collect::<Vec<f32>>();
        let (a, b) = (random(4 * inputs), random(4 * outputs));
        let magnitude = (layer == 1).then(|| random(outputs));
        matrices.insert((layer, linear), ThinMatrices { rank: 4, a, b, magnitude, scale: 2.0 });
    }
    Arc::new(Adapter::new(&AdapterWeights { settings: LoraSettings::default(), matrices }, model).unwrap())
}

#[test]
fn adapters_change_on_a_device_what_they_change_on_the_cpu() {
    let (_folder, models) = of_shape(&qwen3());
    let tokens: Vec<u32> = (0..20).collect();
    let [expected, fastest, invariant] = models.each_ref().map(|model| {
        let adapter = adapter(model);
        let plain = Session::new(model, 32).unwrap().next(&tokens).unwrap().to_vec();
        let mut session = Session::new(model, 32).unwrap().with_adapter(&adapter);
        let changed = session.next(&tokens).unwrap().to_vec();
        assert!(apart(&changed, &plain) > 0.05, "the adapter shows");
        [changed, session.next(&[7]).unwrap().to_vec()].concat()
    });
    for ours in [fastest, invariant] {
        assert!(apart(&ours, &expected) < 0.01, "{}", apart(&ours, &expected));
    }
}

#[test]
fn a_prompt_longer_than_a_step_is_answered_like_one_that_is_not() {
    let (_folder, [_, gpu, _]) = of_shape(&gemma3());
    let prompt: Vec<u32> = (0..70).map(|index| index * 3 % 100).collect();
    let answer = |max_step_tokens: usize| {
        let options = EngineOptions { max_step_tokens, max_sequences: 2, ..EngineOptions::default() };
        let engine = Engine::start("long", Arc::clone(&gpu), options).unwrap();
        let (sender, events) = channel();
        let request = GenerationRequest {
            prompt: prompt.clone(),
            max_tokens: 6,
            sampling: SamplingOptions::greedy(),
            stops: Vec::new(),
            priority: Priority::Interactive,
            fairness_key: 0,
            constraint: None,
            ignore_end: true,
            adapter: None,
            cpu_time: None,
        };
        let sink = Box::new(move |event| match sender.send(event) {
            Ok(()) => Listener::Present,
            Err(_) => Listener::Gone,
        });
        engine.submit(request, sink).unwrap();
        let token = |event| match event {
            GenerationEvent::Token(token) => Some(token.id),
            GenerationEvent::Failed(why) => panic!("{why}"),
            GenerationEvent::Started | GenerationEvent::Finished { .. } => None,
        };
        events.iter().filter_map(token).collect::<Vec<u32>>()
    };
    let at_once = answer(128);
    assert_eq!((at_once.len(), answer(16)), (6, at_once));
}
