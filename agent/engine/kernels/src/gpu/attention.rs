//! Attention over blocks where they are, without padding: a thread block has one row and the heads that share a head of
//! keys, or a part of what the row sees where that is long.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::store::{GpuStore, StorePlace, StoreShape};
use super::{Places, host, with_host};
use crate::attention::{BLOCK_TOKENS, Heads};

/// Tokens of a sequence that one thread block goes through. Parts begin at its multiples, whatever else is in a step, so
/// that a row's sums do not depend on its company.
pub const PART_TOKENS: usize = 512;

/// Softmax attention of rotated and scaled queries `[rows, heads * dim]` over what a layer has stored; the same shape.
///
/// # Errors
/// When shapes do not fit, or the device fails.
pub fn attend(
    queries: &Tensor,
    store: &GpuStore,
    (places, layer): (&Places, usize),
    heads: Heads,
) -> Result<Tensor> {
    queries.apply_op2_no_bwd(&store.bytes, &Attend::new(queries, store, (places, layer), heads)?)
}

pub(super) struct Attend {
    pub(super) table: Tensor,
    pub(super) rows: Tensor,
    /// How many parts the longest row has.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only kernels go part by part"))]
    pub(super) parts: usize,
    pub(super) store: StoreShape,
    pub(super) heads: Heads,
}

impl Attend {
    pub(super) fn new(
        queries: &Tensor,
        store: &GpuStore,
        (places, layer): (&Places, usize),
        heads: Heads,
    ) -> Result<Self> {
        let (store, rows) = (store.shape, places.len()?);
        if queries.dims() != [rows, heads.query * store.dim] || !heads.query.is_multiple_of(store.kv_heads) {
            candle_core::bail!(
                "queries {:?} of {} heads over a store {store:?} for {rows} rows",
                queries.shape(),
                heads.query,
            );
        }
        Ok(Self {
            table: places.table(layer)?,
            rows: places.rows.clone(),
            parts: places.most_seen.div_ceil(PART_TOKENS).max(1),
            store,
            heads,
        })
    }

    /// Heads that share a head of keys.
    pub(super) fn group(&self) -> usize {
        self.heads.query / self.store.kv_heads
    }
}

impl CustomOp2 for Attend {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn cpu_fwd(
        &self,
        queries: &CpuStorage,
        queries_layout: &Layout,
        store: &CpuStorage,
        store_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (queries, store) = (host::<f32>(queries, queries_layout)?, host::<u8>(store, store_layout)?);
        let (table, rows) =
            (with_host(&self.table, <[u32]>::to_vec)?, with_host(&self.rows, <[u32]>::to_vec)?);
        let (dim, group) = (self.store.dim, self.group());
        let mut stored = vec![0.0; dim];
        let mut out = vec![0.0; queries.len()];
        for (unit, (query, out)) in queries.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate() {
            let (row, head) = (unit / self.heads.query, unit % self.heads.query);
            let (first, position) = (rows[2 * row] as usize, rows[2 * row + 1] as usize);
            let read = |token: usize, which: usize, stored: &mut [f32]| {
                let (block, slot) = (table[first + token / BLOCK_TOKENS] as usize, token % BLOCK_TOKENS);
                self.store.get(store, StorePlace { block, which, head: head / group, slot }, stored);
            };
            let from = self.heads.window.map_or(0, |window| (position + 1).saturating_sub(window));
            let mut scores = Vec::with_capacity(position + 1 - from);
            for token in from..=position {
                read(token, 0, &mut stored);
                scores.push(stored.iter().zip(query).map(|(key, query)| key * query).sum::<f32>());
            }
            let peak = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f32 = scores.iter().map(|score| (score - peak).exp()).sum();
            for (token, score) in (from..=position).zip(scores) {
                let weight = (score - peak).exp() / total;
                read(token, 1, &mut stored);
                for (out, value) in out.iter_mut().zip(&stored) {
                    *out += weight * value;
                }
            }
        }
        Ok((CpuStorage::F32(out), queries_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        queries: &candle_core::CudaStorage,
        queries_layout: &Layout,
        store: &candle_core::CudaStorage,
        store_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        super::launch::step::attend(self, (queries, queries_layout), (store, store_layout))
    }
}
