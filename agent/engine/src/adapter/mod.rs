//! What fine-tuning adds to a model: thin matrices beside the weights, chosen sequence by sequence, so that many adapters
//! are served over one copy of the model.

mod dora;
mod linear;
mod merge;
mod merge_gguf;
mod peft;
mod settings;
mod weights;

use std::ops::Range;
use std::path::Path;

use llmdeck_kernels::{LowRank, Pool, Rows};
use sha2::{Digest, Sha256};

use crate::EngineError;
use crate::model::Model;

pub(crate) use dora::row_norms;
pub use linear::Linear;
pub use merge::MergedFormat;
pub use settings::LoraSettings;
pub use weights::{AdapterWeights, ThinMatrices};

/// Most matrices of a layer that an adapter changes.
const LINEARS: usize = Linear::ALL.len();
/// Rows below which one thread is quicker than several.
const LEAST_SHARED_ROWS: usize = 8;

/// An adapter that is ready to run beside its model.
pub struct Adapter {
    layers: Vec<[Option<LowRank>; LINEARS]>,
    identity: [u8; 32],
    parameters: usize,
}

impl Adapter {
    /// Reads an adapter in PEFT's layout: a folder with `adapter_config.json` and `adapter_model.safetensors`.
    ///
    /// # Errors
    /// What is missing, malformed, not supported, or made for another model, by file.
    pub fn load(path: &Path, model: &Model) -> Result<Self, EngineError> {
        let weights = AdapterWeights::read(path, model.decoder.description())?;
        Self::new(&weights, model).map_err(|reason| EngineError::malformed(path, reason))
    }

    /// Of weights in memory.
    ///
    /// # Errors
    /// When they do not fit the model, in words.
    pub fn new(weights: &AdapterWeights, model: &Model) -> Result<Self, String> {
        let description = model.decoder.description();
        weights.check(description)?;
        let mut layers: Vec<[Option<LowRank>; LINEARS]> = Vec::new();
        layers.resize_with(description.layers, Default::default);
        let mut hash = Sha256::new();
        for ((layer, linear), thin) in &weights.matrices {
            let low_rank = thin.ready(model, *layer, *linear);
            hash.update(format!("{layer} {} {}", linear.peft_name(), thin.rank));
            low_rank.numbers().for_each(|number| hash.update(number.to_le_bytes()));
            layers[*layer][*linear as usize] = Some(low_rank);
        }
        Ok(Self { layers, identity: hash.finalize().into(), parameters: weights.parameters() })
    }

    /// Numbers that it was trained with.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Memory that it takes, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.layers.iter().flatten().flatten().map(LowRank::size_bytes).sum()
    }

    /// SHA-256 of all that it adds: keys and values that were computed with one adapter are of no use to another.
    pub(crate) fn identity(&self) -> [u8; 32] {
        self.identity
    }

    pub(crate) fn of(&self, layer: usize, linear: Linear) -> Option<&LowRank> {
        self.layers.get(layer).and_then(|linears| linears[linear as usize].as_ref())
    }
}

impl ThinMatrices {
    /// As it runs: the scale is in one of the matrices, and DoRA's magnitudes are divided by the norms of the rows.
    fn ready(&self, model: &Model, layer: usize, linear: Linear) -> LowRank {
        let outputs = self.b.len() / self.rank;
        let mut up = vec![0.0; self.b.len()];
        for (output, row) in self.b.chunks_exact(self.rank).enumerate() {
            for (index, number) in row.iter().enumerate() {
                up[index * outputs + output] = number * self.scale;
            }
        }
        let gain = self.magnitude.as_ref().map(|magnitude| {
            let matrix = model.decoder.linear(layer, linear);
            let norms = row_norms(&model.pool, matrix, self, &mut Vec::new());
            magnitude.iter().zip(norms).map(|(magnitude, norm)| magnitude / norm).collect()
        });
        LowRank::new(self.rank, self.a.clone(), up, gain)
    }
}

/// The rows of a step that run with adapters.
pub(crate) struct Adapted<'a> {
    /// In order.
    pub(crate) spans: Vec<(Range<usize>, &'a Adapter)>,
}

impl Adapted<'_> {
    /// Adds what adapters say to the products of one matrix. `out` has rows of `stride` numbers, of which those from `column`
    /// on are the product's.
    pub(crate) fn add(
        &self,
        pool: &Pool,
        (layer, linear): (usize, Linear),
        inputs: &Rows,
        out: &mut [f32],
        column: usize,
        stride: usize,
    ) {
        if self.spans.is_empty() {
            return;
        }
        let columns = inputs.columns();
        let mut rows = out.chunks_exact_mut(stride).zip(inputs.floats().chunks_exact(columns)).enumerate();
        let mut tasks = Vec::new();
        for (span, adapter) in &self.spans {
            let Some(low_rank) = adapter.of(layer, linear) else { continue };
            let end = column + low_rank.outputs();
            let of_span = rows.by_ref().skip_while(|(row, _)| *row < span.start);
            tasks.extend(of_span.take(span.len()).map(|(_, (out, x))| (low_rank, x, &mut out[column..end])));
        }
        if tasks.len() < LEAST_SHARED_ROWS {
            tasks.iter_mut().for_each(|(low_rank, x, product)| low_rank.add(x, product));
        } else {
            pool.run_each(&mut tasks, |(low_rank, x, product)| low_rank.add(x, product));
        }
    }
}
