//! PEFT's files: `adapter_config.json` and `adapter_model.safetensors`
//! (<https://huggingface.co/docs/peft/developer_guides/checkpoint>).

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde_json::{Map, Value, json};

use super::linear::Linear;
use super::settings::LoraSettings;
use super::weights::{AdapterWeights, ThinMatrices};
use crate::EngineError;
use crate::description::DecoderDescription;

/// The file with the shape.
pub(crate) const CONFIG: &str = "adapter_config.json";
/// The file with the numbers.
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";
const MOST_CONFIG_BYTES: u64 = 1 << 20;
const MOST_WEIGHTS_BYTES: u64 = 4 << 30;

impl AdapterWeights {
    /// Reads a folder in PEFT's layout.
    ///
    /// # Errors
    /// What is missing, malformed or not supported, by file.
    pub fn read(folder: &Path, description: &DecoderDescription) -> Result<Self, EngineError> {
        let path = folder.join(CONFIG);
        let text = read_bounded(&path, MOST_CONFIG_BYTES)?;
        let malformed = |reason: String| EngineError::malformed(&path, reason);
        let config: Map<String, Value> =
            serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        let config = Config::read(&config).map_err(malformed)?;
        let path = folder.join(WEIGHTS);
        let bytes = read_bounded(&path, MOST_WEIGHTS_BYTES)?;
        let malformed = |reason: String| EngineError::malformed(&path, reason);
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| malformed(error.to_string()))?;
        let weights = config.weights(&tensors, description).map_err(malformed)?;
        weights.check(description).map_err(|reason| EngineError::malformed(&path, reason))?;
        Ok(weights)
    }

    /// Writes both files into a folder that is there; on disk when it returns.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(
        &self,
        folder: &Path,
        description: &DecoderDescription,
        base_model: &str,
    ) -> Result<(), EngineError> {
        let path = folder.join(CONFIG);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| EngineError::Read { path, source }
        };
        let config = serde_json::to_vec_pretty(&self.config(base_model))
            .map_err(|error| EngineError::malformed(&path, error.to_string()))?;
        write_durably(&path, &config).map_err(failed(&path))?;
        let path = folder.join(WEIGHTS);
        let bytes = self.bytes(description).map_err(|reason| EngineError::malformed(&path, reason))?;
        write_durably(&path, &bytes).map_err(failed(&path))
    }

    fn config(&self, base_model: &str) -> Value {
        let settings = &self.settings;
        let targets: Vec<&str> = settings.targets.iter().map(|target| target.peft_name()).collect();
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model,
            "r": settings.rank,
            "lora_alpha": settings.alpha,
            "lora_dropout": settings.dropout,
            "target_modules": targets,
            "use_rslora": settings.use_rslora,
            "use_dora": settings.use_dora,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_to_transform": null,
            "modules_to_save": null,
            "rank_pattern": {},
            "alpha_pattern": {},
        })
    }

    fn bytes(&self, description: &DecoderDescription) -> Result<Vec<u8>, String> {
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        for ((layer, linear), thin) in &self.matrices {
            let (outputs, inputs) = linear.shape(description);
            let module = module(*layer, *linear);
            // Back into the order of Hugging Face's rows.
            let theirs = |own: &[f32], width: usize| -> Vec<u8> {
                (0..outputs)
                    .flat_map(|row| &own[linear.own_row(description, row) * width..][..width])
                    .flat_map(|number| number.to_le_bytes())
                    .collect()
            };
            let a = thin.a.iter().flat_map(|number| number.to_le_bytes()).collect();
            tensors.push((format!("{module}.lora_A.weight"), vec![thin.rank, inputs], a));
            let b = theirs(&thin.b, thin.rank);
            tensors.push((format!("{module}.lora_B.weight"), vec![outputs, thin.rank], b));
            if let Some(magnitude) = &thin.magnitude {
                let name = format!("{module}.lora_magnitude_vector");
                tensors.push((name, vec![outputs], theirs(magnitude, 1)));
            }
        }
        let views: Vec<(&str, TensorView<'_>)> = tensors
            .iter()
            .map(|(name, shape, bytes)| {
                let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
                view.map(|view| (name.as_str(), view)).map_err(|error| error.to_string())
            })
            .collect::<Result<_, _>>()?;
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        serialize(views, Some(metadata)).map_err(|error| error.to_string())
    }
}

fn module(layer: usize, linear: Linear) -> String {
    format!("base_model.model.model.layers.{layer}.{}.{}", linear.block(), linear.peft_name())
}

/// What a configuration says.
struct Config {
    settings: LoraSettings,
    /// Alphas of modules whose names end like this.
    alphas: Vec<(String, f64)>,
}

impl Config {
    fn read(config: &Map<String, Value>) -> Result<Self, String> {
        let kind = config.get("peft_type").and_then(Value::as_str).unwrap_or_default();
        if kind != "LORA" {
            return Err(format!("peft_type is {kind:?}; only \"LORA\" is supported"));
        }
        let is_set = |name: &str| match config.get(name) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(map)) => !map.is_empty(),
            Some(_) => true,
        };
        for name in
            ["modules_to_save", "fan_in_fan_out", "lora_bias", "trainable_token_indices", "megatron_config"]
        {
            if is_set(name) {
                return Err(format!("{name} is set, which is not supported; train the adapter without it"));
            }
        }
        let bias = config.get("bias").and_then(Value::as_str).unwrap_or("none");
        if bias != "none" {
            return Err(format!("bias is {bias:?}; only \"none\" is supported"));
        }
        let rank = config.get("r").and_then(Value::as_u64).filter(|rank| *rank > 0);
        let rank = rank.ok_or("r is missing or not a whole number above 0")?;
        let alpha = config.get("lora_alpha").and_then(Value::as_f64).ok_or("lora_alpha is missing")?;
        let alphas = match config.get("alpha_pattern") {
            Some(Value::Object(pattern)) => pattern.iter().map(alpha_of).collect::<Result<_, _>>()?,
            _ => Vec::new(),
        };
        let settings = LoraSettings {
            rank: usize::try_from(rank).map_err(|_| "r is too large")?,
            alpha,
            dropout: config.get("lora_dropout").and_then(Value::as_f64).unwrap_or(0.0),
            targets: Vec::new(),
            use_rslora: is_set("use_rslora"),
            use_dora: is_set("use_dora"),
        };
        Ok(Self { settings, alphas })
    }

    fn weights(
        self,
        tensors: &SafeTensors<'_>,
        description: &DecoderDescription,
    ) -> Result<AdapterWeights, String> {
        let mut parts: BTreeMap<(usize, Linear), Parts<'_>> = BTreeMap::new();
        for (name, tensor) in tensors.tensors() {
            let (place, part) = place_of(&name).ok_or_else(|| {
                format!("tensor {name:?} is for a part that an adapter cannot change here; there are q_proj to down_proj")
            })?;
            let of = parts.entry(place).or_default();
            match part {
                Part::A => of.a = Some(tensor),
                Part::B => of.b = Some(tensor),
                Part::Magnitude => of.magnitude = Some(tensor),
            }
        }
        if parts.is_empty() {
            return Err("has no tensors".into());
        }
        let mut matrices = BTreeMap::new();
        for ((layer, linear), parts) in parts {
            let thin = self.thin(layer, linear, &parts, description)?;
            matrices.insert((layer, linear), thin);
        }
        let is_target = |linear: &Linear| matrices.keys().any(|(_, changed)| changed == linear);
        let targets = Linear::ALL.into_iter().filter(is_target).collect();
        Ok(AdapterWeights { settings: LoraSettings { targets, ..self.settings }, matrices })
    }

    fn thin(
        &self,
        layer: usize,
        linear: Linear,
        parts: &Parts<'_>,
        description: &DecoderDescription,
    ) -> Result<ThinMatrices, String> {
        let module = module(layer, linear);
        let (outputs, inputs) = linear.shape(description);
        let missing = |which: &str| format!("{module}.{which} is missing");
        let a = parts.a.as_ref().ok_or_else(|| missing("lora_A.weight"))?;
        let b = parts.b.as_ref().ok_or_else(|| missing("lora_B.weight"))?;
        let rank = a.shape().first().copied().unwrap_or(0);
        let expected = [(a.shape().to_vec(), vec![rank, inputs]), (b.shape().to_vec(), vec![outputs, rank])];
        for (found, expected) in expected {
            if found != expected || rank == 0 {
                return Err(format!(
                    "{module} has a tensor of {found:?} where the model needs {expected:?}; it was made for another model"
                ));
            }
        }
        if self.settings.use_dora != parts.magnitude.is_some() {
            return Err(format!("{module}: use_dora and lora_magnitude_vector do not agree"));
        }
        let own = |theirs: Vec<f32>, width: usize| {
            let mut own = vec![0.0; theirs.len()];
            for (row, numbers) in theirs.chunks_exact(width).enumerate() {
                own[linear.own_row(description, row) * width..][..width].copy_from_slice(numbers);
            }
            own
        };
        let magnitude = match &parts.magnitude {
            Some(tensor) if tensor.shape().iter().product::<usize>() != outputs => {
                return Err(format!("{module}.lora_magnitude_vector has not {outputs} numbers"));
            }
            Some(tensor) => Some(own(numbers(tensor)?, 1)),
            None => None,
        };
        let alpha =
            self.alphas.iter().find(|(suffix, _)| ends_like(&module, suffix)).map(|(_, alpha)| *alpha);
        let settings = LoraSettings { alpha: alpha.unwrap_or(self.settings.alpha), ..self.settings.clone() };
        let (a, b) = (numbers(a)?, own(numbers(b)?, rank));
        if a.iter().chain(&b).any(|number| !number.is_finite()) {
            return Err(format!(
                "{module} has numbers that are not finite; the training that made it has failed"
            ));
        }
        Ok(ThinMatrices { rank, a, b, magnitude, scale: settings.scale(rank) })
    }
}

fn alpha_of((suffix, alpha): (&String, &Value)) -> Result<(String, f64), String> {
    let plain = suffix.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.'));
    match alpha.as_f64() {
        Some(alpha) if plain => Ok((suffix.clone(), alpha)),
        _ => Err(format!("alpha_pattern {suffix:?} is not supported; only plain module names are")),
    }
}

fn ends_like(module: &str, suffix: &str) -> bool {
    module.strip_suffix(suffix).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

#[derive(Default)]
struct Parts<'a> {
    a: Option<TensorView<'a>>,
    b: Option<TensorView<'a>>,
    magnitude: Option<TensorView<'a>>,
}

enum Part {
    A,
    B,
    Magnitude,
}

/// `base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight`
fn place_of(name: &str) -> Option<((usize, Linear), Part)> {
    let (module, part) = [
        (".lora_A.weight", Part::A),
        (".lora_B.weight", Part::B),
        (".lora_magnitude_vector.weight", Part::Magnitude),
        (".lora_magnitude_vector", Part::Magnitude),
    ]
    .into_iter()
    .find_map(|(suffix, part)| Some((name.strip_suffix(suffix)?, part)))?;
    let (_, place) = module.split_once("layers.")?;
    let mut words = place.split('.');
    let layer = words.next()?.parse().ok()?;
    let block = words.next()?;
    let linear = Linear::from_peft_name(words.next()?)?;
    (words.next().is_none() && block == linear.block()).then_some(((layer, linear), part))
}

fn numbers(tensor: &TensorView<'_>) -> Result<Vec<f32>, String> {
    let bytes = tensor.data();
    let halves = || bytes.chunks_exact(2).map(|two| [two[0], two[1]]);
    Ok(match tensor.dtype() {
        Dtype::F32 => bytes
            .chunks_exact(4)
            .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
            .collect(),
        Dtype::F16 => halves().map(|two| f16::from_le_bytes(two).to_f32()).collect(),
        Dtype::BF16 => halves().map(|two| bf16::from_le_bytes(two).to_f32()).collect(),
        other => return Err(format!("has tensors of {other:?}; F32, F16 and BF16 are read")),
    })
}

fn read_bounded(path: &Path, most_bytes: u64) -> Result<Vec<u8>, EngineError> {
    let failed = |source| EngineError::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > most_bytes {
        let reason = format!("has {bytes} bytes; at most {most_bytes} are read");
        return Err(EngineError::malformed(path, reason));
    }
    std::fs::read(path).map_err(failed)
}

/// Beside, then renamed, so that a crash leaves no half file under the name.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let beside: PathBuf = path.with_extension("part");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
