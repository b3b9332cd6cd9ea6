//! The layers of [`crate::decoder`] as ops of a device.

use candle_core::{Device, Result, Tensor};
use candle_nn::ops::rms_norm;
use llmdeck_kernels::attention::Heads;
use llmdeck_kernels::gpu::{
    Activations, Gate, GpuStore, HeadShape, OpenDevice, Pairs, Places, attend, gate, gpu_state,
    join_residual, require_right_products, store_keys_values, turn_queries,
};

use super::adapters::GpuAdapters;
use super::matrix::{GpuMatrix, Products};
use crate::EngineError;
use crate::adapter::{Adapted, Linear};
use crate::decoder::{Decoder, Layer};
use crate::description::{Activation, DecoderDescription, RopeLayout, TensorRole};
use crate::weights::Weights;

const MIB: u64 = 1 << 20;

/// A decoder's weights in the memory of a device. Embedding rows are gathered from the host's table.
pub struct GpuDecoder {
    layers: Vec<GpuLayer>,
    final_norm: Tensor,
    output: GpuMatrix,
    pub(super) products: Products,
    pub(super) device: OpenDevice,
}

struct GpuLayer {
    /// By [`Linear`].
    matrices: Vec<GpuMatrix>,
    attention_norm: Tensor,
    feed_forward_norm: Tensor,
    /// Of queries, keys and values.
    biases: Option<[Tensor; 3]>,
    /// Of queries and keys.
    head_norms: Option<(Tensor, Tensor)>,
    /// Behind attention and feed-forward.
    post_norms: Option<(Tensor, Tensor)>,
    window: Option<usize>,
}

/// What the layers of one step share.
pub(super) struct Step<'a> {
    pub(super) description: &'a DecoderDescription,
    pub(super) store: &'a GpuStore,
    pub(super) places: &'a Places,
    /// `[rows, head_dim]`, cosines and then sines: of global layers, and of local ones where they differ.
    pub(super) angles: (Tensor, Option<Tensor>),
    pub(super) adapted: &'a Adapted<'a>,
    pub(super) adapters: &'a GpuAdapters,
}

impl GpuDecoder {
    /// Brings the weights of a decoder to a device, each as its file has it. `progress` hears the share of layers that are there.
    ///
    /// # Errors
    /// When they do not fit, with what is free; or the first that cannot be read.
    pub(crate) fn load(
        device: OpenDevice,
        products: Products,
        host: &Decoder,
        weights: &Weights<'_>,
        progress: &mut dyn FnMut(f64),
    ) -> std::result::Result<Self, EngineError> {
        let description = host.description();
        if products == Products::BatchInvariant {
            let failed =
                |error| EngineError::Gpu(format!("batch_invariant is asked for, and {error}; leave it off"));
            require_right_products(&device).map_err(failed)?;
        }
        require_free(&device, host.size_bytes(), "its weights")?;
        let output_role = if description.tied_output { TensorRole::Embedding } else { TensorRole::Output };
        let output = GpuMatrix::load((&device, products), weights, description, output_role, &host.output)?;
        let final_norm = vector(&host.final_norm, &device)?;
        let mut layers = Vec::with_capacity(host.layers.len());
        for index in 0..host.layers.len() {
            layers.push(GpuLayer::load((&device, products), host, weights, index)?);
            progress((index + 1) as f64 / host.layers.len() as f64);
        }
        Ok(Self { layers, final_norm, output, products, device })
    }

    fn matrices(&self) -> impl Iterator<Item = &GpuMatrix> {
        self.layers.iter().flat_map(|layer| &layer.matrices).chain([&self.output])
    }

    /// Memory of the device that its matrices take, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.matrices().map(GpuMatrix::size_bytes).sum()
    }

    /// Memory beside them that a step of many rows takes for a moment, in bytes: one matrix at a time is unpacked.
    pub(super) fn unpacked_bytes(&self) -> u64 {
        self.matrices().map(GpuMatrix::unpacked_bytes).max().unwrap_or(0)
    }

    /// Logits `[wanted, vocabulary]` of the rows that are wanted, from embeddings `[rows, width]`; none in the middle of a prompt.
    pub(super) fn forward(
        &self,
        mut hidden: Tensor,
        wanted: &[u32],
        step: &Step<'_>,
    ) -> Result<Option<Tensor>> {
        let eps = step.description.norm_eps as f32;
        let Some(first) = self.layers.first() else { candle_core::bail!("a model without layers") };
        let mut normed = rms_norm(&hidden, &first.attention_norm, eps)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let next = self.layers.get(index + 1).map_or(&self.final_norm, |layer| &layer.attention_norm);
            (hidden, normed) = layer.forward(index, hidden, &normed, next, step)?;
        }
        if wanted.is_empty() {
            return Ok(None);
        }
        let wanted = Tensor::from_slice(wanted, wanted.len(), &self.device)?;
        self.output.product(&Activations::new(&normed.index_select(&wanted, 0)?)).map(Some)
    }
}

/// Fails where a device has not so much memory free.
///
/// # Errors
/// What is needed, and what there is.
pub(super) fn require_free(device: &Device, bytes: u64, what: &str) -> std::result::Result<(), EngineError> {
    let Some(state) = gpu_state(device)? else { return Ok(()) };
    if state.free_bytes >= bytes {
        return Ok(());
    }
    Err(EngineError::Gpu(format!(
        "{what} need {} MiB of the GPU's memory ({}), and {} of {} MiB are free; a smaller cache (cache_bytes), fewer requests at once or another device would help",
        bytes.div_ceil(MIB),
        state.name,
        state.free_bytes / MIB,
        state.total_bytes / MIB,
    )))
}

fn vector(numbers: &[f32], device: &Device) -> Result<Tensor> {
    Tensor::from_slice(numbers, numbers.len(), device)
}

impl GpuLayer {
    fn load(
        (device, products): (&Device, Products),
        host: &Decoder,
        weights: &Weights<'_>,
        index: usize,
    ) -> std::result::Result<Self, EngineError> {
        let (description, layer) = (host.description(), &host.layers[index]);
        let matrix = |linear: Linear| {
            let role = TensorRole::Layer(index, linear.part());
            GpuMatrix::load((device, products), weights, description, role, host.linear(index, linear))
        };
        let vector = |numbers: &[f32]| vector(numbers, device);
        let pair = |pair: &Option<(Vec<f32>, Vec<f32>)>| {
            pair.as_ref()
                .map(|(one, other)| Ok::<_, candle_core::Error>((vector(one)?, vector(other)?)))
                .transpose()
        };
        let Layer { attention_norm, feed_forward_norm, qkv_bias, head_norms, post_norms, window, .. } = layer;
        let (queries, keys) =
            (description.heads * description.head_dim, description.kv_heads * description.head_dim);
        let biases = qkv_bias.as_ref().map(|all| {
            let parts = [&all[..queries], &all[queries..queries + keys], &all[queries + keys..]];
            Ok::<_, candle_core::Error>([vector(parts[0])?, vector(parts[1])?, vector(parts[2])?])
        });
        Ok(Self {
            matrices: Linear::ALL.into_iter().map(matrix).collect::<std::result::Result<_, _>>()?,
            attention_norm: vector(attention_norm)?,
            feed_forward_norm: vector(feed_forward_norm)?,
            biases: biases.transpose()?,
            head_norms: pair(head_norms)?,
            post_norms: pair(post_norms)?,
            window: *window,
        })
    }

    fn product(&self, index: usize, linear: Linear, x: &Activations<'_>, step: &Step<'_>) -> Result<Tensor> {
        let product = self.matrices[linear as usize].product(x)?;
        step.adapters.add(step.adapted, (index, linear), x, &product)?;
        Ok(product)
    }

    /// The residual stream behind this layer, and the same normed for the next.
    fn forward(
        &self,
        index: usize,
        hidden: Tensor,
        normed: &Tensor,
        next: &Tensor,
        step: &Step<'_>,
    ) -> Result<(Tensor, Tensor)> {
        let description = step.description;
        let eps = description.norm_eps as f32;
        let attended = self.attend(index, normed, step)?;
        let output = self.product(index, Linear::AttentionOutput, &Activations::new(&attended), step)?;
        let (post_attention, post_feed_forward) =
            self.post_norms.as_ref().map(|(one, other)| (one, other)).unzip();
        let (hidden, normed) = join_residual(&hidden, &output, post_attention, &self.feed_forward_norm, eps)?;
        let inputs = Activations::new(&normed);
        let gates = self.product(index, Linear::Gate, &inputs, step)?;
        let ups = self.product(index, Linear::Up, &inputs, step)?;
        let activation = match description.activation {
            Activation::Silu => Gate::Silu,
            Activation::GeluTanh => Gate::GeluTanh,
        };
        let gated = gate(&gates, &ups, activation)?;
        let output = self.product(index, Linear::Down, &Activations::new(&gated), step)?;
        join_residual(&hidden, &output, post_feed_forward, next, eps)
    }

    fn attend(&self, index: usize, normed: &Tensor, step: &Step<'_>) -> Result<Tensor> {
        let description = step.description;
        let inputs = Activations::new(normed);
        let [queries, keys, values] = [Linear::Query, Linear::Key, Linear::Value]
            .map(|linear| self.product(index, linear, &inputs, step));
        let (global, local) = &step.angles;
        let angles = if self.window.is_some() { local.as_ref().unwrap_or(global) } else { global };
        let shape = |heads| HeadShape {
            heads,
            dim: description.head_dim,
            pairs: match description.rope {
                RopeLayout::Halves => Pairs::Halves,
                RopeLayout::Interleaved => Pairs::Neighbours,
            },
            eps: description.norm_eps as f32,
        };
        let (query_norm, key_norm) = self.head_norms.as_ref().map(|(one, other)| (one, other)).unzip();
        let query_bias = self.biases.as_ref().map(|biases| &biases[0]);
        let bias = self.biases.as_ref().map(|biases| (&biases[1], &biases[2]));
        let scale = description.attention_scale as f32;
        let queries =
            turn_queries(&queries?, query_bias, query_norm, angles, shape(description.heads), scale)?;
        let place = (step.places, index);
        let kv_shape = shape(description.kv_heads);
        store_keys_values(step.store, &keys?, &values?, bias, key_norm, angles, place, kv_shape)?;
        let heads = Heads { query: description.heads, window: self.window };
        attend(&queries, step.store, place, heads)
    }
}
