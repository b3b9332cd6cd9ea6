//! Full weights as a Hugging Face folder: what a model and an adapter are together, for whoever cannot serve them apart.

use std::collections::HashMap;
use std::path::Path;

use half::bf16;
use llmdeck_kernels::Matrix;
use safetensors::serialize;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::linear::Linear;
use super::merge_gguf::merge_gguf;
use super::peft::write_durably;
use super::weights::{AdapterWeights, ThinMatrices};
use crate::EngineError;
use crate::decoder::Layer;
use crate::description::{DecoderDescription, Family, LayerPart, RopeScaling, TensorRole};
use crate::model::Model;

/// How merged numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergedFormat {
    /// 32 bits.
    F32,
    /// 16 bits with the range of 32.
    BF16,
}

/// What a Hugging Face folder has beside weights and their description.
const COMPANIONS: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "tokenizer.model",
];

impl MergedFormat {
    /// As torch calls it, and `config.json`.
    fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::BF16 => "bfloat16",
        }
    }
}

impl Model {
    /// Writes the model's file or folder anew with what an adapter adds. A GGUF file becomes a GGUF file, in which all that the
    /// adapter does not change stays as it is; a folder becomes a folder, with its tokenizer. `base` is what the model was
    /// loaded from; `out` is not there yet.
    ///
    /// # Errors
    /// When the adapter is another model's, or something cannot be read or written.
    pub fn merge_into(
        &self,
        base: &Path,
        adapter: &AdapterWeights,
        format: MergedFormat,
        out: &Path,
    ) -> Result<(), EngineError> {
        adapter.check(self.decoder.description()).map_err(|reason| EngineError::malformed(base, reason))?;
        if !base.is_dir() {
            return merge_gguf(base, self, adapter, format, out);
        }
        let failed = |source| EngineError::Read { path: out.to_owned(), source };
        std::fs::create_dir_all(out).map_err(failed)?;
        self.write_merged(Some(adapter), format, out)?;
        for name in COMPANIONS.iter().filter(|name| base.join(name).exists()) {
            std::fs::copy(base.join(name), out.join(name)).map_err(failed)?;
        }
        let config = base.join("config.json");
        let read = |source| EngineError::Read { path: config.clone(), source };
        let text = std::fs::read_to_string(&config).map_err(read)?;
        let said: Value =
            serde_json::from_str(&text).map_err(|error| EngineError::malformed(&config, error))?;
        let mut own = self.config(format.torch_name());
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            own[key] = said.get(key).cloned().unwrap_or_default();
        }
        write_durably(&out.join("config.json"), own.to_string().as_bytes()).map_err(failed)
    }

    /// Writes `config.json` and `model.safetensors` into a folder that is there, with what an adapter adds.
    ///
    /// # Errors
    /// When the adapter is another model's, the model stretches its rotations by numbers of its file's own, or a file cannot be
    /// written.
    pub fn write_merged(
        &self,
        adapter: Option<&AdapterWeights>,
        format: MergedFormat,
        folder: &Path,
    ) -> Result<(), EngineError> {
        let description = self.decoder.description();
        let malformed = |reason: String| EngineError::malformed(folder, reason);
        if let Some(adapter) = adapter {
            adapter.check(description).map_err(malformed)?;
        }
        if self.decoder.global_frequencies != description.rope_inverse_frequencies(false) {
            let reason = "the model's file stretches its rotations by numbers of its own, which config.json cannot say";
            return Err(malformed(reason.into()));
        }
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        for (role, shape) in description.tensors() {
            let numbers = self.numbers(role, adapter);
            let bytes = match format {
                MergedFormat::F32 => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
                MergedFormat::BF16 => {
                    numbers.iter().flat_map(|number| bf16::from_f32(*number).to_le_bytes()).collect()
                }
            };
            tensors.push((role.hf_name(description.family), shape, bytes));
        }
        let dtype = match format {
            MergedFormat::F32 => Dtype::F32,
            MergedFormat::BF16 => Dtype::BF16,
        };
        let views = tensors.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(dtype, shape.clone(), bytes);
            view.map(|view| (name.as_str(), view)).map_err(|error| malformed(error.to_string()))
        });
        let views = views.collect::<Result<Vec<_>, _>>()?;
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let whole = serialize(views, Some(metadata)).map_err(|error| malformed(error.to_string()))?;
        let config = self.config(format.torch_name()).to_string();
        for (name, bytes) in [("model.safetensors", whole), ("config.json", config.into_bytes())] {
            let path = folder.join(name);
            write_durably(&path, &bytes).map_err(|source| EngineError::Read { path, source })?;
        }
        Ok(())
    }

    /// A tensor as Hugging Face has it.
    fn numbers(&self, role: TensorRole, adapter: Option<&AdapterWeights>) -> Vec<f32> {
        let (decoder, description) = (&self.decoder, self.decoder.description());
        let norm = |weight: &[f32]| match description.family {
            // What the decoder multiplies with has the one added already.
            Family::Gemma3 => weight.iter().map(|weight| weight - 1.0).collect(),
            _ => weight.to_vec(),
        };
        match role {
            TensorRole::Embedding => expanded(&decoder.embedding),
            TensorRole::Output => expanded(&decoder.output),
            TensorRole::FinalNorm => norm(&decoder.final_norm),
            TensorRole::Layer(index, part) => {
                let layer = &decoder.layers[index];
                match Linear::ALL.into_iter().find(|linear| linear.part() == part) {
                    None => vector(layer, part, description).map_or_else(Vec::new, |(numbers, is_norm)| {
                        if is_norm { norm(numbers) } else { numbers.to_vec() }
                    }),
                    Some(linear) => {
                        let columns = linear.shape(description).1;
                        let thin = adapter.and_then(|all| all.matrices.get(&(index, linear)));
                        let own = added(self, index, linear, thin);
                        let rows = own.len() / columns;
                        (0..rows)
                            .flat_map(|row| {
                                own[linear.own_row(description, row) * columns..][..columns].to_vec()
                            })
                            .collect()
                    }
                }
            }
        }
    }

    fn config(&self, dtype: &str) -> Value {
        let description = self.decoder.description();
        let (model_type, architecture) = match description.family {
            Family::Llama => ("llama", "LlamaForCausalLM"),
            Family::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
            Family::Qwen3 => ("qwen3", "Qwen3ForCausalLM"),
            Family::Gemma3 => ("gemma3_text", "Gemma3ForCausalLM"),
        };
        let mut config = json!({
            "model_type": model_type,
            "architectures": [architecture],
            "hidden_size": description.width,
            "intermediate_size": description.ffn_width,
            "num_hidden_layers": description.layers,
            "num_attention_heads": description.heads,
            "num_key_value_heads": description.kv_heads,
            "head_dim": description.head_dim,
            "vocab_size": description.vocabulary,
            "max_position_embeddings": description.context,
            "rms_norm_eps": description.norm_eps,
            "rope_theta": description.rope_base,
            "tie_word_embeddings": description.tied_output,
            "attention_bias": false,
            "hidden_act": "silu",
            "dtype": dtype,
            "bos_token_id": self.tokenizer.bos(),
            "eos_token_id": self.tokenizer.ends(),
        });
        config["rope_scaling"] = match description.rope_scaling {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original_context,
            }),
        };
        if description.family == Family::Gemma3 {
            config["hidden_activation"] = "gelu_pytorch_tanh".into();
            // An integer, or transformers refuses the file.
            config["query_pre_attn_scalar"] = (description.attention_scale.powi(-2).round() as u64).into();
            if let Some(local) = description.local {
                config["sliding_window"] = local.window.into();
                config["sliding_window_pattern"] = local.global_every.into();
                config["rope_local_base_freq"] = local.rope_base.into();
            }
        }
        config
    }
}

fn expanded(matrix: &Matrix) -> Vec<f32> {
    let mut numbers = vec![0.0; matrix.rows() * matrix.columns()];
    for (index, row) in numbers.chunks_exact_mut(matrix.columns()).enumerate() {
        matrix.row(index, row);
    }
    numbers
}

/// A matrix of a layer with what an adapter adds, its rows in the order of the model's own file.
pub(super) fn added(model: &Model, layer: usize, linear: Linear, thin: Option<&ThinMatrices>) -> Vec<f32> {
    let matrix = model.decoder.linear(layer, linear);
    let mut own = expanded(matrix);
    if let Some(thin) = thin {
        add(thin, &mut own, matrix.columns());
    }
    own
}

/// A vector of a layer, and whether it is a norm's weight.
fn vector<'a>(
    layer: &'a Layer,
    part: LayerPart,
    description: &DecoderDescription,
) -> Option<(&'a [f32], bool)> {
    let (q, kv) = (description.heads * description.head_dim, description.kv_heads * description.head_dim);
    let bias = layer.qkv_bias.as_deref();
    let (heads, posts) = (layer.head_norms.as_ref(), layer.post_norms.as_ref());
    Some(match part {
        LayerPart::AttentionNorm => (&layer.attention_norm, true),
        LayerPart::FeedForwardNorm => (&layer.feed_forward_norm, true),
        LayerPart::QueryNorm => (&heads?.0, true),
        LayerPart::KeyNorm => (&heads?.1, true),
        LayerPart::PostAttentionNorm => (&posts?.0, true),
        LayerPart::PostFeedForwardNorm => (&posts?.1, true),
        LayerPart::QueryBias => (&bias?[..q], false),
        LayerPart::KeyBias => (&bias?[q..q + kv], false),
        LayerPart::ValueBias => (&bias?[q + kv..], false),
        _ => return None,
    })
}

/// Adds what an adapter says to a matrix; with DoRA, rows get the length that was trained.
fn add(thin: &ThinMatrices, matrix: &mut [f32], columns: usize) {
    for (row, numbers) in matrix.chunks_exact_mut(columns).enumerate() {
        for (index, b) in thin.b[row * thin.rank..][..thin.rank].iter().enumerate() {
            let a = &thin.a[index * columns..][..columns];
            numbers.iter_mut().zip(a).for_each(|(number, a)| *number += thin.scale * b * a);
        }
        if let Some(magnitude) = &thin.magnitude {
            let length = numbers.iter().map(|number| number * number).sum::<f32>().sqrt();
            numbers.iter_mut().for_each(|number| *number *= magnitude[row] / length);
        }
    }
}
