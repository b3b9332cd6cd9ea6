//! What joins the residual stream, and the gate of a feed-forward block.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::{copied, host, with_host};
use crate::elementwise::{add, gelu_gate, rms_norm, rms_norm_in_place, silu_gate};

/// What opens the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// SiLU.
    Silu,
    /// GELU by its tanh approximation.
    GeluTanh,
}

/// `activation(gates) * ups`, all of one shape.
///
/// # Errors
/// When shapes do not fit, or the device fails.
pub fn gate(gates: &Tensor, ups: &Tensor, activation: Gate) -> Result<Tensor> {
    gates.apply_op2_no_bwd(ups, &activation)
}

impl CustomOp2 for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(
        &self,
        gates: &CpuStorage,
        gates_layout: &Layout,
        ups: &CpuStorage,
        ups_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gates, ups) = (host::<f32>(gates, gates_layout)?, host::<f32>(ups, ups_layout)?);
        let mut out = vec![0.0; gates.len()];
        match self {
            Self::Silu => silu_gate(gates, ups, &mut out),
            Self::GeluTanh => gelu_gate(gates, ups, &mut out),
        }
        Ok((CpuStorage::F32(out), gates_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        gates: &candle_core::CudaStorage,
        gates_layout: &Layout,
        ups: &candle_core::CudaStorage,
        ups_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        super::launch::step::gate(*self, (gates, gates_layout), (ups, ups_layout))
    }
}

/// Adds a block's output to the residual stream, both `[rows, width]`, after norming it with `post` where that is there.
/// What the stream is then, and the same normed with `next` for the next block.
///
/// # Errors
/// When shapes do not fit, or the device fails.
pub fn join_residual(
    hidden: &Tensor,
    output: &Tensor,
    post: Option<&Tensor>,
    next: &Tensor,
    eps: f32,
) -> Result<(Tensor, Tensor)> {
    let op = JoinResidual { post: post.cloned(), next: next.clone(), eps };
    let both = hidden.apply_op2_no_bwd(output, &op)?;
    Ok((both.get(0)?, both.get(1)?))
}

pub(super) struct JoinResidual {
    pub(super) post: Option<Tensor>,
    pub(super) next: Tensor,
    pub(super) eps: f32,
}

impl CustomOp2 for JoinResidual {
    fn name(&self) -> &'static str {
        "join-residual"
    }

    fn cpu_fwd(
        &self,
        hidden: &CpuStorage,
        hidden_layout: &Layout,
        output: &CpuStorage,
        output_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = hidden_layout.shape().dims2()?;
        let mut joined = host::<f32>(hidden, hidden_layout)?.to_vec();
        let mut output = host::<f32>(output, output_layout)?.to_vec();
        let post = copied(self.post.as_ref())?;
        let mut normed = vec![0.0; joined.len()];
        with_host::<f32, _>(&self.next, |next| {
            let rows = joined.chunks_exact_mut(width).zip(output.chunks_exact_mut(width));
            for ((row, output), normed) in rows.zip(normed.chunks_exact_mut(width)) {
                if let Some(post) = &post {
                    rms_norm_in_place(output, post, self.eps);
                }
                add(row, output);
                rms_norm(row, next, self.eps, normed);
            }
        })?;
        joined.append(&mut normed);
        Ok((CpuStorage::F32(joined), (2, rows, width).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        hidden: &candle_core::CudaStorage,
        hidden_layout: &Layout,
        output: &candle_core::CudaStorage,
        output_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        super::launch::step::join_residual(self, (hidden, hidden_layout), (output, output_layout))
    }
}
