use std::collections::BTreeMap;
use std::ops::Range;

use llmdeck_kernels::Pool;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::adapter::{AdapterWeights, Linear, LoraSettings, ThinMatrices, row_norms};
use crate::model::Model;

/// The numbers that are trained, one after the other. `A` lies on its side, `[inputs, rank]`, as `B` does.
#[derive(Clone)]
pub(crate) struct Parameters {
    pub(crate) slots: Vec<Slot>,
    pub(crate) values: Vec<f32>,
}

/// Where the numbers of one matrix are.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) layer: usize,
    pub(crate) linear: Linear,
    pub(crate) a: Range<usize>,
    pub(crate) b: Range<usize>,
    /// Empty without DoRA.
    pub(crate) magnitude: Range<usize>,
}

impl Parameters {
    /// As PEFT begins: `A` uniform within `±1/√inputs` (He et al. 2015 with a = √5), `B` zero, magnitudes the norms of the
    /// rows.
    pub(crate) fn new(model: &Model, pool: &Pool, settings: &LoraSettings, seed: u64) -> Self {
        let description = model.decoder.description();
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut slots, mut values) = (Vec::new(), Vec::new());
        for layer in 0..description.layers {
            for linear in Linear::ALL.into_iter().filter(|linear| settings.targets.contains(linear)) {
                let (outputs, inputs) = linear.shape(description);
                let bound = 1.0 / (inputs as f32).sqrt();
                let a = values.len()..values.len() + inputs * settings.rank;
                values.extend(a.clone().map(|_| rng.random_range(-bound..bound)));
                let b = values.len()..values.len() + outputs * settings.rank;
                values.resize(b.end, 0.0);
                if settings.use_dora {
                    let thin = ThinMatrices {
                        rank: settings.rank,
                        a: vec![0.0; inputs * settings.rank],
                        b: vec![0.0; outputs * settings.rank],
                        magnitude: None,
                        scale: 0.0,
                    };
                    let matrix = model.decoder.linear(layer, linear);
                    values.extend(row_norms(pool, matrix, &thin, &mut Vec::new()));
                }
                let magnitude = b.end..values.len();
                slots.push(Slot { layer, linear, a, b, magnitude });
            }
        }
        Self { slots, values }
    }

    /// None: the model as it is.
    pub(crate) fn nothing() -> Self {
        Self { slots: Vec::new(), values: Vec::new() }
    }

    /// As an adapter.
    pub(crate) fn weights(&self, settings: &LoraSettings) -> AdapterWeights {
        let matrices: BTreeMap<_, _> =
            self.slots.iter().map(|slot| ((slot.layer, slot.linear), self.thin(slot, settings))).collect();
        AdapterWeights { settings: settings.clone(), matrices }
    }

    pub(crate) fn thin(&self, slot: &Slot, settings: &LoraSettings) -> ThinMatrices {
        let (rank, lying) = (settings.rank, &self.values[slot.a.clone()]);
        let inputs = lying.len() / rank;
        let mut a = vec![0.0; lying.len()];
        for (input, row) in lying.chunks_exact(rank).enumerate() {
            for (index, number) in row.iter().enumerate() {
                a[index * inputs + input] = *number;
            }
        }
        let magnitude = &self.values[slot.magnitude.clone()];
        ThinMatrices {
            rank,
            a,
            b: self.values[slot.b.clone()].to_vec(),
            magnitude: (!magnitude.is_empty()).then(|| magnitude.to_vec()),
            scale: settings.scale(rank),
        }
    }

    /// The lowest layer that is changed: gradients go no further down.
    pub(crate) fn lowest_layer(&self) -> usize {
        self.slots.iter().map(|slot| slot.layer).min().unwrap_or(0)
    }
}
