//! Computes steps where a model's weights are.

use std::sync::Arc;

use llmdeck_kernels::attention::{CacheFormat, KeyValueStore};

use crate::EngineError;
use crate::decoder::Chunk;
use crate::gpu::GpuSteps;
use crate::model::Model;
use crate::scratch::Scratch;

/// A model, its keys and values, and room for a step's numbers.
pub(crate) struct Executor {
    model: Arc<Model>,
    place: Place,
}

enum Place {
    Cpu { store: KeyValueStore, scratch: Box<Scratch> },
    Gpu(GpuSteps),
}

impl Executor {
    /// With so many blocks of keys and values; `scratch` is what steps on the CPU use.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub(crate) fn new(
        model: &Arc<Model>,
        format: CacheFormat,
        blocks: usize,
        mut scratch: Scratch,
    ) -> Result<Self, EngineError> {
        let place = match &model.gpu {
            Some(gpu) => Place::Gpu(GpuSteps::new(gpu, &model.decoder, format, blocks)?),
            None => {
                scratch.touch();
                Place::Cpu { store: model.decoder.store(format, blocks)?, scratch: Box::new(scratch) }
            }
        };
        Ok(Self { model: Arc::clone(model), place })
    }

    /// Runs one step: stores keys and values of every token, and returns logits, `[Σ logit_rows, vocabulary]`, chunk by
    /// chunk.
    ///
    /// # Errors
    /// When a GPU fails.
    pub(crate) fn forward(&mut self, chunks: &[Chunk<'_>]) -> Result<&mut [f32], EngineError> {
        match (&mut self.place, &self.model.gpu) {
            (Place::Gpu(steps), Some(gpu)) => {
                steps.forward(gpu, &self.model.decoder, chunks).map_err(without_trace)
            }
            (Place::Cpu { store, scratch }, _) => Ok(self.model.decoder.forward(store, chunks, scratch)),
            (Place::Gpu(_), None) => Err(EngineError::Gpu("the model is no longer on it".into())),
        }
    }
}

/// candle's errors bring the calls that led to them; whoever asked for an answer gets the first line.
fn without_trace(error: EngineError) -> EngineError {
    match error {
        EngineError::Compute(error) => {
            EngineError::Gpu(error.to_string().lines().next().unwrap_or_default().to_owned())
        }
        other => other,
    }
}
