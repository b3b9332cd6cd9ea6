use candle_core::{Result, Tensor};

use crate::attention::Heads;
use crate::gpu::{
    Gate, GpuStore, HeadShape, Places, attend, gate, join_residual, store_keys_values, turn_queries,
};

/// What a step computes beside its products. As it stands, each op chooses by its tensors.
pub(super) trait Ops {
    fn turn_queries(
        &self,
        queries: &Tensor,
        bias: Option<&Tensor>,
        norm: Option<&Tensor>,
        angles: &Tensor,
        shape: HeadShape,
        scale: f32,
    ) -> Result<Tensor> {
        turn_queries(queries, bias, norm, angles, shape, scale)
    }

    #[allow(clippy::too_many_arguments, reason = "as the op")]
    fn store_keys_values(
        &self,
        store: &GpuStore,
        keys: &Tensor,
        values: &Tensor,
        bias: Option<(&Tensor, &Tensor)>,
        norm: Option<&Tensor>,
        angles: &Tensor,
        places: (&Places, usize),
        shape: HeadShape,
    ) -> Result<()> {
        store_keys_values(store, keys, values, bias, norm, angles, places, shape)
    }

    fn attend(
        &self,
        queries: &Tensor,
        store: &GpuStore,
        places: (&Places, usize),
        heads: Heads,
    ) -> Result<Tensor> {
        attend(queries, store, places, heads)
    }

    fn gate(&self, gates: &Tensor, ups: &Tensor, activation: Gate) -> Result<Tensor> {
        gate(gates, ups, activation)
    }

    fn join_residual(
        &self,
        hidden: &Tensor,
        output: &Tensor,
        post: Option<&Tensor>,
        next: &Tensor,
        eps: f32,
    ) -> Result<(Tensor, Tensor)> {
        join_residual(hidden, output, post, next, eps)
    }
}

pub(super) struct OfDevice;

impl Ops for OfDevice {}
