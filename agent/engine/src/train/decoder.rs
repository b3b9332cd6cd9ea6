use std::collections::HashMap;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::ops::{log_softmax, silu, softmax};
use candle_nn::rotary_emb::{rope_i_slow, rope_slow};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::description::{Activation, DecoderDescription, LayerPart, NormWeight, RopeLayout, TensorRole};

/// A decoder whose weights are variables, over rectangular batches.
pub struct TrainableDecoder {
    description: DecoderDescription,
    variables: HashMap<TensorRole, Var>,
    order: Vec<TensorRole>,
}

impl TrainableDecoder {
    /// Fresh weights: normal with deviation 0.02, the projections into the residual stream scaled down by the root
    /// of twice the layers (Radford et al. 2019), norms at one, biases at zero.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn new(description: DecoderDescription, seed: u64) -> Result<Self> {
        let mut rng = StdRng::seed_from_u64(seed);
        let residual = 0.02 / ((2 * description.layers) as f32).sqrt();
        let neutral = if description.norm_weight == NormWeight::AsIs { 1.0 } else { 0.0 };
        let mut variables = HashMap::new();
        let mut order = Vec::new();
        for (role, shape) in description.tensors() {
            let count = shape.iter().product();
            let values: Vec<f32> = match role {
                TensorRole::Layer(_, LayerPart::QueryBias | LayerPart::KeyBias | LayerPart::ValueBias) => {
                    vec![0.0; count]
                }
                _ if shape.len() == 1 => vec![neutral; count],
                TensorRole::Layer(_, LayerPart::AttentionOutput | LayerPart::Down) => {
                    normals(&mut rng, count, residual)
                }
                _ => normals(&mut rng, count, 0.02),
            };
            variables.insert(role, Var::from_vec(values, shape, &Device::Cpu)?);
            order.push(role);
        }
        Ok(Self { description, variables, order })
    }

    /// What it is made of.
    pub fn description(&self) -> &DecoderDescription {
        &self.description
    }

    /// Every variable with its role, in file order.
    pub fn variables(&self) -> impl Iterator<Item = (TensorRole, &Var)> {
        self.order.iter().filter_map(|role| self.variables.get(role).map(|variable| (*role, variable)))
    }

    /// Sum of the cross entropies at the chosen places. `tokens` is `[batch, length]` (u32); `places` are indices
    /// into the flattened batch, and `targets` the token that should follow each.
    ///
    /// # Errors
    /// When an index or a token is out of range.
    pub fn loss(&self, tokens: &Tensor, places: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let hidden = self.hidden(tokens)?.flatten(0, 1)?.index_select(places, 0)?;
        let output = if self.description.tied_output { TensorRole::Embedding } else { TensorRole::Output };
        let logits = hidden.matmul(&self.get(output)?.t()?)?;
        log_softmax(&logits, D::Minus1)?.gather(&targets.unsqueeze(1)?, 1)?.sum_all()?.neg()
    }

    /// `[batch, length]` to `[batch, length, width]`, the final norm applied.
    fn hidden(&self, tokens: &Tensor) -> Result<Tensor> {
        let (batch, length) = tokens.dims2()?;
        let description = &self.description;
        let mut hidden = self
            .get(TensorRole::Embedding)?
            .index_select(&tokens.flatten_all()?, 0)?
            .reshape((batch, length, description.width))?;
        if description.embedding_scale != 1.0 {
            hidden = (hidden * description.embedding_scale)?;
        }
        let global = rotation(description.rope_inverse_frequencies(false), length)?;
        let local = rotation(description.rope_inverse_frequencies(true), length)?;
        for layer in 0..description.layers {
            let rotation = if description.window(layer).is_some() { &local } else { &global };
            hidden = self.layer(layer, &hidden, rotation)?;
        }
        self.norm(&hidden, TensorRole::FinalNorm)
    }

    fn layer(&self, layer: usize, hidden: &Tensor, rotation: &(Tensor, Tensor)) -> Result<Tensor> {
        let role = |part| TensorRole::Layer(layer, part);
        let normed = self.norm(hidden, role(LayerPart::AttentionNorm))?;
        let mut attended = self.attend(layer, &normed, rotation)?;
        if self.description.sandwich_norms {
            attended = self.norm(&attended, role(LayerPart::PostAttentionNorm))?;
        }
        let hidden = (hidden + attended)?;
        let normed = self.norm(&hidden, role(LayerPart::FeedForwardNorm))?;
        let gate = self.project(&normed, role(LayerPart::Gate), None)?;
        let gate = match self.description.activation {
            Activation::Silu => silu(&gate)?,
            Activation::GeluTanh => gate.gelu()?,
        };
        let up = self.project(&normed, role(LayerPart::Up), None)?;
        let mut fed = self.project(&(gate * up)?, role(LayerPart::Down), None)?;
        if self.description.sandwich_norms {
            fed = self.norm(&fed, role(LayerPart::PostFeedForwardNorm))?;
        }
        hidden + fed
    }

    fn attend(&self, layer: usize, normed: &Tensor, rotation: &(Tensor, Tensor)) -> Result<Tensor> {
        let description = &self.description;
        let (batch, length, _) = normed.dims3()?;
        let (heads, kv_heads, head_dim) = (description.heads, description.kv_heads, description.head_dim);
        let role = |part| TensorRole::Layer(layer, part);
        let bias = |part| description.qkv_bias.then_some(role(part));
        let split = |tensor: Tensor, heads: usize| {
            tensor.reshape((batch, length, heads, head_dim))?.transpose(1, 2)?.contiguous()
        };
        let mut query =
            split(self.project(normed, role(LayerPart::Query), bias(LayerPart::QueryBias))?, heads)?;
        let mut key = split(self.project(normed, role(LayerPart::Key), bias(LayerPart::KeyBias))?, kv_heads)?;
        let value =
            split(self.project(normed, role(LayerPart::Value), bias(LayerPart::ValueBias))?, kv_heads)?;
        if description.qk_norm {
            query = self.norm(&query, role(LayerPart::QueryNorm))?;
            key = self.norm(&key, role(LayerPart::KeyNorm))?;
        }
        let rotate = |tensor: &Tensor| match description.rope {
            RopeLayout::Halves => rope_slow(tensor, &rotation.0, &rotation.1),
            RopeLayout::Interleaved => rope_i_slow(tensor, &rotation.0, &rotation.1),
        };
        let query = (rotate(&query)? * description.attention_scale)?;
        let key = rotate(&key)?;
        // Query heads that share a key head are rows of one product.
        let group = heads / kv_heads;
        let grouped = query.reshape((batch, kv_heads, group * length, head_dim))?;
        let scores = grouped.matmul(&key.transpose(2, 3)?.contiguous()?)?;
        let mask = causal_mask(length, description.window(layer))?;
        let scores = scores
            .reshape((batch, kv_heads, group, length, length))?
            .broadcast_add(&mask)?
            .reshape((batch, kv_heads, group * length, length))?;
        let attended = softmax(&scores, D::Minus1)?
            .matmul(&value)?
            .reshape((batch, heads, length, head_dim))?
            .transpose(1, 2)?
            .reshape((batch, length, heads * head_dim))?;
        self.project(&attended, role(LayerPart::AttentionOutput), None)
    }

    fn norm(&self, input: &Tensor, role: TensorRole) -> Result<Tensor> {
        let weight = self.get(role)?;
        let mean_square = input.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = input.broadcast_div(&(mean_square + self.description.norm_eps)?.sqrt()?)?;
        match self.description.norm_weight {
            NormWeight::AsIs => normed.broadcast_mul(weight),
            NormWeight::PlusOne => normed.broadcast_mul(&(weight + 1.0)?),
        }
    }

    fn project(&self, input: &Tensor, role: TensorRole, bias: Option<TensorRole>) -> Result<Tensor> {
        let weight = self.get(role)?;
        let (batch, length, width) = input.dims3()?;
        let output = input.reshape((batch * length, width))?.matmul(&weight.t()?)?.reshape((
            batch,
            length,
            weight.dim(0)?,
        ))?;
        match bias {
            Some(bias) => output.broadcast_add(self.get(bias)?),
            None => Ok(output),
        }
    }

    fn get(&self, role: TensorRole) -> Result<&Tensor> {
        self.variables
            .get(&role)
            .map(Var::as_tensor)
            .ok_or_else(|| candle_core::Error::Msg(format!("no variable {role:?}")))
    }
}

/// Normal deviates by Box and Muller, so that a seed gives the same weights with every version of a library.
fn normals(rng: &mut StdRng, count: usize, deviation: f32) -> Vec<f32> {
    (0..count)
        .map(|_| {
            let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt();
            deviation * radius * (std::f32::consts::TAU * rng.random::<f32>()).cos()
        })
        .collect()
}

fn rotation(frequencies: Vec<f32>, length: usize) -> Result<(Tensor, Tensor)> {
    let pairs = frequencies.len();
    let positions = Tensor::arange(0, length as u32, &Device::Cpu)?.to_dtype(DType::F32)?.unsqueeze(1)?;
    let angles = positions.matmul(&Tensor::from_vec(frequencies, (1, pairs), &Device::Cpu)?)?;
    Ok((angles.cos()?, angles.sin()?))
}

fn causal_mask(length: usize, window: Option<usize>) -> Result<Tensor> {
    let mask: Vec<f32> = (0..length)
        .flat_map(|row| {
            (0..length).map(move |column| {
                let visible = column <= row && window.is_none_or(|window| row - column < window);
                if visible { 0.0 } else { f32::NEG_INFINITY }
            })
        })
        .collect();
    Tensor::from_vec(mask, (length, length), &Device::Cpu)
}
