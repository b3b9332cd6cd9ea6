//! The folder that a trainer is handed.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use llmdeck_engine::adapter::MergedFormat;
use llmdeck_engine::chat_template::ChatTemplate;
use llmdeck_engine::finetune::Sample;
use serde_json::json;

use super::super::prepare::Prepared;
use super::super::spec::Spec;
use crate::placement::Variant;

const SCHEMA: &str = "llmdeck.trainer-job/1";
/// What is not learned, in labels (torch's `cross_entropy`).
const IGNORED: i64 = -100;

/// Weights and tokenizer as a Hugging Face folder, samples in tokens, and settings.
pub(super) async fn write_job(
    spec: &Spec,
    variant: &Variant,
    prepared: &Prepared,
    folder: &Path,
) -> Result<(), String> {
    let base = folder.join("base");
    let mut train = tokens(&prepared.data.samples);
    train.push_str(&tokens(&prepared.data.rehearsal[..prepared.rehearsed]));
    let held_out = tokens(&prepared.data.held_out);
    let about = json!({
        "schema": SCHEMA, "base": "base", "base_digest": spec.base.digest, "dataset_digest": spec.dataset.digest,
        "train": "train.jsonl", "held_out": "held_out.jsonl", "adapter": "adapter", "settings": prepared.settings,
    });
    let (model, folder) = (Arc::clone(variant.model()), folder.to_owned());
    let write = move || -> Result<(), String> {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", folder.display());
        let _ = std::fs::remove_dir_all(folder.join("adapter"));
        std::fs::create_dir_all(&base).map_err(|error| failed(&error))?;
        model.write_merged(None, MergedFormat::F32, &base).map_err(|error| error.to_string())?;
        let (template, context) = (model.chat_template.as_ref(), model.decoder.description().context);
        let template = template.map(ChatTemplate::source);
        model.tokenizer.write(&base, template, context).map_err(|error| error.to_string())?;
        let files = [("train.jsonl", train), ("held_out.jsonl", held_out), ("job.json", about.to_string())];
        for (name, text) in files {
            std::fs::write(folder.join(name), text).map_err(|error| failed(&error))?;
        }
        Ok(())
    };
    let written = tokio::task::spawn_blocking(write).await;
    written.map_err(|_| "met a bug of the agent; its log has the panic".to_owned())?
}

/// `{"input_ids": […], "labels": […]}`, one a line.
fn tokens(samples: &[Sample]) -> String {
    let mut lines = String::new();
    for sample in samples {
        let labels: Vec<i64> = sample
            .tokens
            .iter()
            .zip(&sample.weights)
            .map(|(token, weight)| if *weight > 0.0 { i64::from(*token) } else { IGNORED })
            .collect();
        // Writing to a string does not fail.
        let _ = writeln!(lines, "{}", json!({ "input_ids": sample.tokens, "labels": labels }));
    }
    lines
}
