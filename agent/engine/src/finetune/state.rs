//! What a run is at a step, in memory and in a file.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde::{Deserialize, Serialize};

use crate::EngineError;

/// The format's name and version.
const FORMAT: &str = "llmdeck.finetune-state/1";
const MOST_BYTES: u64 = 16 << 30;

/// Everything that the next step depends on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    pub(crate) progress: Progress,
    pub(crate) values: Vec<f32>,
    /// AdamW's moments.
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
    /// The values with the lowest loss on what is held out; empty before the first evaluation.
    pub(crate) best: Vec<f32>,
}

/// The part of a state that is not vectors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Steps that were taken.
    pub(crate) step: usize,
    /// What rates are multiplied with since losses went astray.
    pub(crate) rate_factor: f64,
    /// How often they have.
    pub(crate) strays: usize,
    /// A mean of the last losses.
    pub(crate) smoothed_loss: Option<f64>,
    pub(crate) best_loss: Option<f64>,
    pub(crate) best_step: usize,
    /// Evaluations since then.
    pub(crate) evaluations_since_best: usize,
    /// Whether evaluations have stopped it.
    pub(crate) stopped_early: bool,
}

impl State {
    /// Writes it beside, then renames, so that there is always a whole one. On disk when it returns.
    pub(crate) fn save(&self, path: &Path, fingerprint: &str) -> Result<(), EngineError> {
        let failed = |source| EngineError::Read { path: path.to_owned(), source };
        let malformed = |reason: String| EngineError::malformed(path, reason);
        let progress = serde_json::to_string(&self.progress).map_err(|error| malformed(error.to_string()))?;
        let metadata = HashMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("fingerprint".to_owned(), fingerprint.to_owned()),
            ("progress".to_owned(), progress),
        ]);
        let parts = [
            ("values", &self.values),
            ("first", &self.first),
            ("second", &self.second),
            ("best", &self.best),
        ];
        let bytes: Vec<(&str, Vec<u8>)> = parts
            .map(|(name, numbers)| (name, numbers.iter().flat_map(|number| number.to_le_bytes()).collect()))
            .into();
        let views = bytes.iter().map(|(name, bytes)| {
            let view = TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes);
            view.map(|view| (*name, view)).map_err(|error| malformed(error.to_string()))
        });
        let views = views.collect::<Result<Vec<_>, _>>()?;
        let whole = serialize(views, Some(metadata)).map_err(|error| malformed(error.to_string()))?;
        let beside = path.with_extension("part");
        let write = || {
            let mut file = File::create(&beside)?;
            file.write_all(&whole)?;
            file.sync_all()?;
            std::fs::rename(&beside, path)
        };
        write()
            .inspect_err(|_| {
                // On a full disk a part of it would be in the way of others.
                let _ = std::fs::remove_file(&beside);
            })
            .map_err(failed)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all()).map_err(failed)
    }

    /// Reads what [`State::save`] wrote.
    pub(crate) fn load(path: &Path, fingerprint: &str) -> Result<Self, EngineError> {
        let failed = |source| EngineError::Read { path: path.to_owned(), source };
        let malformed = |reason: &str| EngineError::malformed(path, reason);
        if std::fs::metadata(path).map_err(failed)?.len() > MOST_BYTES {
            return Err(malformed("is larger than any state of a run"));
        }
        let bytes = std::fs::read(path).map_err(failed)?;
        let broken = |error: String| EngineError::malformed(path, error);
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| broken(error.to_string()))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let entry = |name: &str| metadata.get(name).map(String::as_str).unwrap_or_default();
        if entry("format") != FORMAT {
            return Err(malformed("is not the state of a fine-tuning run"));
        }
        if entry("fingerprint") != fingerprint {
            return Err(malformed(
                "belongs to a run with other data, settings or base model; begin a new one",
            ));
        }
        let progress = serde_json::from_str(entry("progress")).map_err(|error| broken(error.to_string()))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| broken(error.to_string()))?;
        let numbers = |name: &str| -> Result<Vec<f32>, EngineError> {
            let tensor = tensors.tensor(name).map_err(|error| broken(error.to_string()))?;
            let whole = tensor.data().chunks_exact(4);
            Ok(whole.map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect())
        };
        Ok(Self {
            progress,
            values: numbers("values")?,
            first: numbers("first")?,
            second: numbers("second")?,
            best: numbers("best")?,
        })
    }
}
