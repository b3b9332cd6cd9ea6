//! The plain twins against the rest of the crate, and the kernels against the twins: on a GPU, or thread by thread on the CPU.

#[cfg(feature = "cuda-on-host")]
pub(super) mod fenced;
#[cfg(feature = "cuda-on-host")]
mod on_host;
mod ops;

use candle_core::{Device, Result, Tensor};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use self::ops::{OfDevice, Ops};
use super::store::StorePlace;
use super::{Gate, GpuStore, HeadShape, Pairs, Places};
use crate::attention::{BLOCK_TOKENS, CacheFormat, Heads, KeyValueStore, Queries, Span};
use crate::{Pool, Rows};

/// Sequences with `seen` tokens stored and more to come, and everything that a layer has for them.
#[derive(Clone, Debug)]
struct Case {
    /// Tokens stored before, and those of the step.
    sequences: Vec<(usize, usize)>,
    kv_heads: usize,
    group: usize,
    dim: usize,
    format: CacheFormat,
    window: Option<usize>,
    pairs: Pairs,
    biased: bool,
    normed: bool,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let seen = prop_oneof![0usize..70, 500usize..1100];
    let sequences = prop::collection::vec((seen, 1usize..5), 1..4);
    let pairs = prop_oneof![Just(Pairs::Halves), Just(Pairs::Neighbours)];
    let dim = prop_oneof![1usize..33, Just(8), Just(16), Just(32)].prop_map(|eights| eights * 8);
    let window = prop::option::of(1usize..700);
    let heads = (1usize..3, prop_oneof![1usize..5, Just(7), Just(8), Just(12)]);
    let format = prop::sample::select(vec![CacheFormat::F16, CacheFormat::Bf16, CacheFormat::Int8]);
    (sequences, heads, (dim, format), window, pairs, any::<(bool, bool, u64)>()).prop_map(
        |(sequences, (kv_heads, group), (dim, format), window, pairs, (biased, normed, seed))| Case {
            sequences,
            kv_heads,
            group,
            dim,
            format,
            window,
            pairs,
            biased,
            normed,
            seed,
        },
    )
}

/// What a case's layer computes: queries, what is attended to, and the store.
struct Computed {
    queries: Vec<f32>,
    attended: Vec<f32>,
    tables: Vec<Vec<u32>>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Case {
    fn tokens(&self) -> usize {
        self.sequences.iter().map(|(seen, new)| seen + new).sum()
    }

    fn asking(&self) -> usize {
        self.sequences.iter().map(|(_, new)| new).sum()
    }

    fn shape(&self, heads: usize) -> HeadShape {
        HeadShape { heads, dim: self.dim, pairs: self.pairs, eps: 1e-6 }
    }

    /// Every token goes through the store; those of the step ask.
    fn compute(&self, device: &Device, ops: &dyn Ops) -> Result<Computed> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut tensor = |shape: &[usize]| {
            let numbers: Vec<f32> =
                (0..shape.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect();
            Tensor::from_vec(numbers, shape, device)
        };
        let (dim, kv_width) = (self.dim, self.kv_heads * self.dim);
        let heads = self.kv_heads * self.group;
        let (rows, asking) = (self.tokens(), self.asking());
        let (x, keys, values) =
            (tensor(&[asking, heads * dim])?, tensor(&[rows, kv_width])?, tensor(&[rows, kv_width])?);
        let (query_bias, key_bias, value_bias) =
            (tensor(&[heads * dim])?, tensor(&[kv_width])?, tensor(&[kv_width])?);
        let norm = tensor(&[dim])?;
        let turns: Vec<f32> = (0..rows * dim / 2).map(|_| rng.random_range(-3.0..3.0f32)).collect();
        let angles: Vec<f32> = turns
            .chunks_exact(dim / 2)
            .flat_map(|turns| turns.iter().map(|turn| turn.cos()).chain(turns.iter().map(|turn| turn.sin())))
            .collect();
        let angles = Tensor::from_vec(angles, (rows, dim), device)?;
        let norm = self.normed.then_some(&norm);

        // Blocks in any order, in the second of two layers.
        let columns = |(seen, new): &(usize, usize)| (seen + new).div_ceil(BLOCK_TOKENS);
        let blocks: usize = self.sequences.iter().map(columns).sum();
        let mut next = blocks as u32;
        let mut tables: Vec<Vec<u32>> = Vec::new();
        let (mut places, mut asking_places) = (Vec::new(), Vec::new());
        let mut first = 0;
        for sequence in &self.sequences {
            tables.push(
                (0..columns(sequence))
                    .map(|_| {
                        next -= 1;
                        next
                    })
                    .collect(),
            );
            let place = |position| [first, position as u32];
            places.extend((0..sequence.0 + sequence.1).map(place));
            asking_places.extend((sequence.0..sequence.0 + sequence.1).map(place));
            first += columns(sequence) as u32;
        }
        let layers = [vec![u32::MAX; blocks], tables.concat()].concat();
        let store = GpuStore::new(device, self.format, blocks, self.kv_heads, dim)?;
        // What an earlier sequence left must not matter: no number, in any format.
        let nothing = Tensor::from_vec(vec![u8::MAX; store.bytes.elem_count()], store.bytes.shape(), device)?;
        store.bytes.slice_set(&nothing, 0, 0)?;
        let all = Places::new(device, &layers, 2, &places)?;
        let bias = self.biased.then_some((&key_bias, &value_bias));
        let kv_shape = self.shape(self.kv_heads);
        ops.store_keys_values(&store, &keys, &values, bias, norm, &angles, (&all, 1), kv_shape)?;
        let bias = self.biased.then_some(&query_bias);
        let queries =
            ops.turn_queries(&x, bias, norm, &angles.narrow(0, 0, asking)?, self.shape(heads), 0.3)?;
        let heads = Heads { query: heads, window: self.window };
        let asking = Places::new(device, &layers, 2, &asking_places)?;
        let attended = ops.attend(&queries, &store, (&asking, 1), heads)?;
        let numbers = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
        let bytes = store.bytes.flatten_all()?.to_vec1::<u8>()?;
        let stored = |which: usize| {
            let mut all = vec![0.0; blocks * self.kv_heads * BLOCK_TOKENS * dim];
            for (index, numbers) in all.chunks_exact_mut(dim).enumerate() {
                let (unit, slot) = (index / BLOCK_TOKENS, index % BLOCK_TOKENS);
                let (block, head) = (unit / self.kv_heads, unit % self.kv_heads);
                store.shape.get(&bytes, StorePlace { block, which, head, slot }, numbers);
            }
            all
        };
        Ok(Computed {
            queries: numbers(&queries)?,
            attended: numbers(&attended)?,
            tables,
            keys: stored(0),
            values: stored(1),
        })
    }

    /// By how much of the largest a stored number changes that is rounded the other way.
    #[cfg(any(feature = "cuda", feature = "cuda-on-host"))]
    fn unit(&self) -> f32 {
        match self.format {
            CacheFormat::F16 => 1e-3,
            CacheFormat::Bf16 => 8e-3,
            CacheFormat::Int8 => 1e-2,
        }
    }

    #[cfg(any(feature = "cuda", feature = "cuda-on-host"))]
    fn check(&self, device: &Device, ops: &dyn Ops) -> std::result::Result<(), TestCaseError> {
        let twins = self.compute(&Device::Cpu, &OfDevice).unwrap();
        let kernels = self.compute(device, ops).unwrap();
        prop_assert!(apart(&kernels.queries, &twins.queries) < 1e-5);
        let pairs = [
            (&kernels.keys, &twins.keys),
            (&kernels.values, &twins.values),
            (&kernels.attended, &twins.attended),
        ];
        for (kernel, twin) in pairs {
            let (most, mean) = (apart(kernel, twin), apart_on_average(kernel, twin));
            prop_assert!(most < self.unit() && mean < 1e-4, "{most} {mean}");
        }
        Ok(())
    }
}

/// A block's output for the residual stream, and a gate.
#[cfg(any(feature = "cuda", feature = "cuda-on-host"))]
#[derive(Clone, Copy, Debug)]
struct Stream {
    rows: usize,
    width: usize,
    post: bool,
    activation: Gate,
    seed: u64,
}

#[cfg(any(feature = "cuda", feature = "cuda-on-host"))]
fn streams() -> impl Strategy<Value = Stream> {
    let activation = prop_oneof![Just(Gate::Silu), Just(Gate::GeluTanh)];
    (1usize..40, 1usize..700, any::<bool>(), activation, any::<u64>())
        .prop_map(|(rows, width, post, activation, seed)| Stream { rows, width, post, activation, seed })
}

#[cfg(any(feature = "cuda", feature = "cuda-on-host"))]
impl Stream {
    fn compute(&self, device: &Device, ops: &dyn Ops) -> Result<[Vec<f32>; 3]> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut tensor = |shape: &[usize]| {
            let numbers: Vec<f32> =
                (0..shape.iter().product()).map(|_| rng.random_range(-2.0..2.0)).collect();
            Tensor::from_vec(numbers, shape, device)
        };
        let Self { rows, width, .. } = *self;
        let (hidden, output) = (tensor(&[rows, width])?, tensor(&[rows, width])?);
        let (weight, next) = (tensor(&[width])?, tensor(&[width])?);
        let (joined, normed) =
            ops.join_residual(&hidden, &output, self.post.then_some(&weight), &next, 1e-6)?;
        let gated = ops.gate(&hidden, &output, self.activation)?;
        let numbers = |tensor: Tensor| tensor.flatten_all()?.to_vec1::<f32>();
        Ok([numbers(joined)?, numbers(normed)?, numbers(gated)?])
    }

    fn check(&self, device: &Device, ops: &dyn Ops) -> std::result::Result<(), TestCaseError> {
        let twins = self.compute(&Device::Cpu, &OfDevice).unwrap();
        for (twin, kernel) in twins.iter().zip(&self.compute(device, ops).unwrap()) {
            prop_assert!(apart(kernel, twin) < 1e-4, "{}", apart(kernel, twin));
        }
        Ok(())
    }
}

/// How far each is from the other, as a share of the largest.
fn differences(ours: &[f32], theirs: &[f32]) -> impl Iterator<Item = f32> {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs
        .iter()
        .filter(|number| number.is_finite())
        .fold(1e-6f32, |most, number| most.max(number.abs()));
    ours.iter().zip(theirs).map(move |(ours, theirs)| match (ours.is_finite(), theirs.is_finite()) {
        (true, true) => (ours - theirs).abs() / largest,
        (false, false) => 0.0,
        _ => f32::INFINITY,
    })
}

fn apart(ours: &[f32], theirs: &[f32]) -> f32 {
    differences(ours, theirs).fold(0.0, f32::max)
}

#[cfg(any(feature = "cuda", feature = "cuda-on-host"))]
fn apart_on_average(ours: &[f32], theirs: &[f32]) -> f32 {
    differences(ours, theirs).sum::<f32>() / ours.len().max(1) as f32
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_plain_twin_attends_as_the_cpu_does(case in cases()) {
        let computed = case.compute(&Device::Cpu, &OfDevice).unwrap();
        let pool = Pool::new(2).unwrap();
        let heads = case.kv_heads * case.group;
        let blocks: usize = computed.tables.iter().map(Vec::len).sum();
        let mut store = KeyValueStore::new(case.format, blocks, case.kv_heads, case.dim).unwrap();
        let (mut row, mut spans) = (0, Vec::new());
        let (of_token, kv_width) = (case.dim, case.kv_heads * case.dim);
        for ((seen, new), table) in case.sequences.iter().zip(&computed.tables) {
            let places: Vec<(u32, usize)> =
                (0..seen + new).map(|position| (table[position / BLOCK_TOKENS], position % BLOCK_TOKENS)).collect();
            let stored = |all: &[f32], (block, slot): &(u32, usize)| -> Vec<f32> {
                let of = |head| ((*block as usize * case.kv_heads + head) * BLOCK_TOKENS + slot) * of_token;
                (0..case.kv_heads).flat_map(|head| all[of(head)..][..of_token].to_vec()).collect()
            };
            let rows: Vec<f32> = places
                .iter()
                .flat_map(|place| [stored(&computed.keys, place), stored(&computed.values, place)].concat())
                .collect();
            store.write(&pool, &places, &rows, 2 * kv_width, 0);
            spans.push(Span { blocks: table, position: *seen, count: *new, row, bfloat16_tokens: 0 });
            row += new;
        }
        let mut out = Rows::default();
        out.reshape(row, heads * case.dim);
        let queries = Queries { rows: &computed.queries, stride: heads * case.dim };
        crate::attention::attend(&pool, &store, Heads { query: heads, window: case.window }, queries, &spans, true, &mut out);
        prop_assert!(apart(out.floats(), &computed.attended) < 1e-4);
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn kernels_on_a_gpu_compute_what_their_twins_do(case in cases()) {
        case.check(&Device::new_cuda(0).unwrap(), &OfDevice)?;
    }

    #[cfg(feature = "cuda-on-host")]
    #[test]
    fn kernels_on_the_cpu_compute_what_their_twins_do(case in cases()) {
        case.check(&Device::Cpu, &on_host::OnHost)?;
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn the_residual_stream_on_a_gpu_is_the_twins(stream in streams()) {
        stream.check(&Device::new_cuda(0).unwrap(), &OfDevice)?;
    }

    #[cfg(feature = "cuda-on-host")]
    #[test]
    fn the_residual_stream_by_kernels_on_the_cpu_is_the_twins(stream in streams()) {
        stream.check(&Device::Cpu, &on_host::OnHost)?;
    }
}

#[test]
fn the_residual_stream_and_the_gate_are_as_written() {
    let tensor = |numbers: &[f32]| Tensor::from_slice(numbers, (1, numbers.len()), &Device::Cpu).unwrap();
    let (hidden, output) = (tensor(&[1.0, 2.0]), tensor(&[3.0, 4.0]));
    let weight = |numbers: &[f32]| Tensor::from_slice(numbers, numbers.len(), &Device::Cpu).unwrap();
    let (joined, normed) = OfDevice.join_residual(&hidden, &output, None, &weight(&[1.0, 0.5]), 0.0).unwrap();
    assert_eq!(joined.to_vec2::<f32>().unwrap(), [[4.0, 6.0]]);
    let root = 26.0f32.sqrt();
    let expected = [4.0 / root, 3.0 / root];
    let normed = normed.to_vec2::<f32>().unwrap();
    assert!(apart(&normed[0], &expected) < 1e-5, "{normed:?}");
    let gated = OfDevice.gate(&hidden, &output, Gate::Silu).unwrap().to_vec2::<f32>().unwrap();
    let expected = [3.0 / (1.0 + (-1.0f32).exp()), 8.0 / (1.0 + (-2.0f32).exp())];
    assert!(apart(&gated[0], &expected) < 1e-5, "{gated:?}");
}

#[test]
fn heads_that_a_gpu_cannot_take_are_refused() {
    for dim in [12, 264] {
        let refused = GpuStore::new(&Device::Cpu, CacheFormat::F16, 1, 1, dim).err().unwrap().to_string();
        assert!(refused.contains("multiples of 8 up to 256"), "{refused}");
    }
}
