use std::collections::HashMap;

use candle_core::{Device, Result, Tensor};
use llmdeck_kernels::LowRank;
use llmdeck_kernels::gpu::Activations;

use super::matrix::{GpuMatrix, Products};
use crate::adapter::{Adapted, Linear};

/// Adapters that stay on a device though nobody uses them.
const MOST_IDLE: usize = 32;

/// Adapters in a device's memory, by what they are.
#[derive(Default)]
pub(super) struct GpuAdapters {
    loaded: HashMap<[u8; 32], Vec<[Option<Thin>; Linear::ALL.len()]>>,
}

/// The thin matrices beside one of the model's.
struct Thin {
    /// `[rank, in]`
    down: GpuMatrix,
    /// `[out, rank]`
    up: GpuMatrix,
    /// `[out]`
    gain: Option<Tensor>,
}

impl Thin {
    fn new(low_rank: &LowRank, place: (&Device, Products)) -> Result<Self> {
        let (rank, inputs, outputs) = (low_rank.rank(), low_rank.inputs(), low_rank.outputs());
        let by_output = (0..outputs).flat_map(|output| low_rank.up()[output..].iter().step_by(outputs));
        let up: Vec<f32> = by_output.copied().collect();
        let device = place.0;
        Ok(Self {
            down: GpuMatrix::of_floats(place, low_rank.down(), (rank, inputs))?,
            up: GpuMatrix::of_floats(place, &up, (outputs, rank))?,
            gain: low_rank.gain().map(|gain| Tensor::from_slice(gain, gain.len(), device)).transpose()?,
        })
    }
}

impl GpuAdapters {
    /// Brings the adapters of a step to the device.
    pub(super) fn prepare(
        &mut self,
        adapted: &Adapted<'_>,
        layers: usize,
        place: (&Device, Products),
    ) -> Result<()> {
        if self.loaded.len() > MOST_IDLE {
            let used = |identity: &[u8; 32]| {
                adapted.spans.iter().any(|(_, adapter)| adapter.identity() == *identity)
            };
            self.loaded.retain(|identity, _| used(identity));
        }
        for (_, adapter) in &adapted.spans {
            if self.loaded.contains_key(&adapter.identity()) {
                continue;
            }
            let mut all = Vec::with_capacity(layers);
            for layer in 0..layers {
                let mut linears: [Option<Thin>; Linear::ALL.len()] = Default::default();
                for linear in Linear::ALL {
                    let low_rank = adapter.of(layer, linear);
                    linears[linear as usize] = low_rank.map(|thin| Thin::new(thin, place)).transpose()?;
                }
                all.push(linears);
            }
            self.loaded.insert(adapter.identity(), all);
        }
        Ok(())
    }

    /// Adds what adapters say to the product of one matrix, in place.
    pub(super) fn add(
        &self,
        adapted: &Adapted<'_>,
        (layer, linear): (usize, Linear),
        inputs: &Activations<'_>,
        product: &Tensor,
    ) -> Result<()> {
        for (rows, adapter) in &adapted.spans {
            let of_layer = self.loaded.get(&adapter.identity()).and_then(|layers| layers.get(layer));
            let Some(thin) = of_layer.and_then(|linears| linears[linear as usize].as_ref()) else { continue };
            let of = |tensor: &Tensor| tensor.narrow(0, rows.start, rows.len());
            let thinned = thin.down.product(&Activations::new(&of(inputs.rows())?))?;
            let added = thin.up.product(&Activations::new(&thinned))?;
            let mut changed = (of(product)? + added)?;
            if let Some(gain) = &thin.gain {
                changed = changed.broadcast_mul(gain)?;
            }
            product.slice_set(&changed, 0, rows.start)?;
        }
        Ok(())
    }
}
