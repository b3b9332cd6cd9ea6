//! Heads of queries, keys and values between their products and attention.

use candle_core::{CpuStorage, CustomOp1, InplaceOp3, Layout, Result, Shape, Tensor};

use super::store::{GpuStore, StorePlace, StoreShape};
use super::{Places, copied, host, with_host};
use crate::attention::BLOCK_TOKENS;
use crate::elementwise::{add, rms_norm_in_place, rotate_halves, rotate_neighbours, scale};

/// Which numbers of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// `(i, i + n/2)`.
    Halves,
    /// `(2i, 2i + 1)`.
    Neighbours,
}

/// What heads of one kind are like.
#[derive(Clone, Copy, Debug)]
pub struct HeadShape {
    /// Heads in a row.
    pub heads: usize,
    /// Numbers of each.
    pub dim: usize,
    /// Which turn together.
    pub pairs: Pairs,
    /// What keeps a norm from dividing by nothing.
    pub eps: f32,
}

impl HeadShape {
    fn turn(self, head: &mut [f32], bias: Option<&[f32]>, norm: Option<&[f32]>, angles: Option<&[f32]>) {
        if let Some(bias) = bias {
            add(head, bias);
        }
        if let Some(norm) = norm {
            rms_norm_in_place(head, norm, self.eps);
        }
        if let Some((cos, sin)) = angles.map(|angles| angles.split_at(self.dim / 2)) {
            match self.pairs {
                Pairs::Halves => rotate_halves(head, cos, sin),
                Pairs::Neighbours => rotate_neighbours(head, cos, sin),
            }
        }
    }
}

/// Adds the bias `[heads * dim]` to queries `[rows, heads * dim]`, norms each head with `norm` `[dim]`, turns it by `angles`
/// `[rows, dim]`, cosines and then sines, and scales it. Another tensor of the same shape.
///
/// # Errors
/// When shapes do not fit, or the device fails.
pub fn turn_queries(
    queries: &Tensor,
    bias: Option<&Tensor>,
    norm: Option<&Tensor>,
    angles: &Tensor,
    shape: HeadShape,
    scale: f32,
) -> Result<Tensor> {
    let op = TurnQueries { bias: bias.cloned(), norm: norm.cloned(), angles: angles.clone(), shape, scale };
    queries.apply_op1_no_bwd(&op)
}

pub(super) struct TurnQueries {
    pub(super) bias: Option<Tensor>,
    pub(super) norm: Option<Tensor>,
    pub(super) angles: Tensor,
    pub(super) shape: HeadShape,
    pub(super) scale: f32,
}

impl CustomOp1 for TurnQueries {
    fn name(&self) -> &'static str {
        "turn-queries"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = host::<f32>(storage, layout)?.to_vec();
        let (bias, norm) = (copied(self.bias.as_ref())?, copied(self.norm.as_ref())?);
        let HeadShape { heads, dim, .. } = self.shape;
        with_host::<f32, _>(&self.angles, |angles| {
            for (row, angles) in out.chunks_exact_mut(heads * dim).zip(angles.chunks_exact(dim)) {
                for (head, numbers) in row.chunks_exact_mut(dim).enumerate() {
                    let bias = bias.as_ref().map(|bias| &bias[head * dim..][..dim]);
                    self.shape.turn(numbers, bias, norm.as_deref(), Some(angles));
                    scale(numbers, self.scale);
                }
            }
        })?;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        storage: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        super::launch::step::turn_queries(self, storage, layout)
    }
}

/// Writes keys and values `[rows, heads * dim]` of a layer into its blocks of the store. Keys are turned as queries are;
/// values only get their bias.
///
/// # Errors
/// When shapes do not fit, or the device fails.
#[allow(clippy::too_many_arguments, reason = "each is a tensor of the step")]
pub fn store_keys_values(
    store: &GpuStore,
    keys: &Tensor,
    values: &Tensor,
    bias: Option<(&Tensor, &Tensor)>,
    norm: Option<&Tensor>,
    angles: &Tensor,
    (places, layer): (&Places, usize),
    shape: HeadShape,
) -> Result<()> {
    let op = StoreKeysValues {
        bias: bias.map(|(keys, values)| (keys.clone(), values.clone())),
        norm: norm.cloned(),
        angles: angles.clone(),
        table: places.table(layer)?,
        rows: places.rows.clone(),
        shape,
        store: store.shape,
    };
    store.bytes.inplace_op3(keys, values, &op)
}

pub(super) struct StoreKeysValues {
    pub(super) bias: Option<(Tensor, Tensor)>,
    pub(super) norm: Option<Tensor>,
    pub(super) angles: Tensor,
    pub(super) table: Tensor,
    pub(super) rows: Tensor,
    pub(super) shape: HeadShape,
    pub(super) store: StoreShape,
}

impl InplaceOp3 for StoreKeysValues {
    fn name(&self) -> &'static str {
        "store-keys-values"
    }

    fn cpu_fwd(
        &self,
        store: &mut CpuStorage,
        _: &Layout,
        keys: &CpuStorage,
        keys_layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
    ) -> Result<()> {
        let CpuStorage::U8(store) = store else { candle_core::bail!("a store has bytes") };
        let (keys, values) = (host::<f32>(keys, keys_layout)?, host::<f32>(values, values_layout)?);
        let (key_bias, value_bias) = self.bias.as_ref().map(|(keys, values)| (keys, values)).unzip();
        let (key_bias, value_bias, norm) =
            (copied(key_bias)?, copied(value_bias)?, copied(self.norm.as_ref())?);
        let HeadShape { heads, dim, .. } = self.shape;
        let (table, rows) =
            (with_host(&self.table, <[u32]>::to_vec)?, with_host(&self.rows, <[u32]>::to_vec)?);
        let angles = with_host(&self.angles, <[f32]>::to_vec)?;
        for (row, place) in rows.chunks_exact(2).enumerate() {
            let (column, slot) = (place[1] as usize / BLOCK_TOKENS, place[1] as usize % BLOCK_TOKENS);
            let block = table[place[0] as usize + column] as usize;
            for head in 0..heads {
                let of = |all: &[f32]| all[(row * heads + head) * dim..][..dim].to_vec();
                let (mut key, mut value) = (of(keys), of(values));
                let bias = |all: &Option<Vec<f32>>| all.as_ref().map(|all| all[head * dim..][..dim].to_vec());
                let angles = &angles[row * dim..][..dim];
                self.shape.turn(&mut key, bias(&key_bias).as_deref(), norm.as_deref(), Some(angles));
                self.shape.turn(&mut value, bias(&value_bias).as_deref(), None, None);
                for (which, numbers) in [key, value].into_iter().enumerate() {
                    self.store.put(store, StorePlace { block, which, head, slot }, &numbers);
                }
            }
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        store: &mut candle_core::CudaStorage,
        layout: &Layout,
        keys: &candle_core::CudaStorage,
        keys_layout: &Layout,
        values: &candle_core::CudaStorage,
        values_layout: &Layout,
    ) -> Result<()> {
        super::launch::step::store_keys_values(
            self,
            (store, layout),
            (keys, keys_layout),
            (values, values_layout),
        )
    }
}
