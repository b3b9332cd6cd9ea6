//! The same job handed to an external trainer: a command that gets a folder with everything, tells its progress in JSON lines, and
//! leaves an adapter there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use llmdeck_engine::adapter::{Adapter, AdapterWeights, MergedFormat};
use llmdeck_engine::chat_template::ChatTemplate;
use llmdeck_engine::finetune::Sample;
use llmdeck_proto::v1::TrainingPoint;
use nix::sys::signal::{Signal, kill};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::super::handle::JobHandle;
use super::Finetunes;
use super::prepare::{Prepared, Trained};
use super::room::Room;
use super::spec::Spec;
use crate::backend::{MARK, processes_with};
use crate::placement::Variant;

const SCHEMA: &str = "llmdeck.trainer-job/1";
/// Longer lines of a trainer are cut.
const LONGEST_LINE: u64 = 4_096;
/// Lines that wait to be taken; the trainer waits when they are too many.
const MOST_WAITING: usize = 64;
/// The job's folder, in the environment of its trainer and of all that it starts: launchers put theirs into sessions of their own.
const FOLDER: &str = "LLMDECK_TRAINER_JOB";
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Between asking a trainer to end and ending it.
const GRACE: Duration = Duration::from_secs(10);
/// What is not learned, in labels (torch's `cross_entropy`).
const IGNORED: i64 = -100;

/// What a trainer says of its progress, one JSON object a line.
#[derive(Deserialize)]
struct Said {
    step: u64,
    steps: u64,
    loss: f64,
    #[serde(default)]
    held_out_loss: Option<f64>,
    #[serde(default)]
    learning_rate: f64,
    #[serde(default)]
    tokens: u64,
}

impl Finetunes {
    pub(super) async fn train_outside(
        &self,
        job: &JobHandle,
        spec: &Spec,
        variant: &Variant,
        prepared: Prepared,
        command: &[String],
        folder: &Path,
    ) -> Result<Trained, String> {
        let (began, measured) = (Instant::now(), self.meter.begin());
        job.progress(0.0, "writes the job for its trainer");
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        let needed_bytes = variant.model().decoder.description().parameters() * size_of::<f32>() as u64;
        let room = Room { job, folder, needed_bytes };
        while let Err(error) = write_job(spec, variant, &prepared, folder).await {
            room.wait(error).await?;
        }
        let (program, arguments) = command.split_first().ok_or("the trainer's command is empty")?;
        let mut child = Command::new("nice")
            .args(["-n", "19", program])
            .args(arguments)
            .arg(folder)
            .current_dir(folder)
            .env(MARK, self.controller.loader().data_dir())
            .env(FOLDER, folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (sender, lines) = mpsc::channel(MOST_WAITING);
        let streams = (child.stdout.take(), child.stderr.take());
        tokio::spawn(read(streams.0, sender.clone()));
        tokio::spawn(read(streams.1, sender));
        let mut curve = Vec::new();
        let status = follow(job, &mut child, folder, lines, began, &mut curve).await?;
        if !status.success() {
            return Err(format!("the trainer ended with {status}; the job's log has what it said last"));
        }
        let (made, model) = (folder.join("adapter"), Arc::clone(variant.model()));
        let load = move || {
            let weights = AdapterWeights::read(&made, model.decoder.description())?;
            let adapter = Adapter::load(&made, &model)?;
            Ok::<_, llmdeck_engine::EngineError>((weights, adapter))
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        let loaded = loaded.map_err(|_| "met a bug of the agent; its log has the panic".to_owned())?;
        let (weights, adapter) = loaded.map_err(|error| format!("the trainer's adapter: {error}"))?;
        let last = curve.last().copied().unwrap_or_default();
        let facts = BTreeMap::from([
            ("trainer", json!(command)),
            ("steps", json!(last.step)),
            ("tokens", json!(last.tokens)),
            ("trained_parameters", json!(weights.parameters())),
            ("took_s", json!(began.elapsed().as_secs_f64())),
            ("node", json!(measured.end().await)),
        ]);
        Ok(Trained { prepared, adapter: Arc::new(adapter), weights, curve, facts })
    }
}

/// Weights and tokenizer as a Hugging Face folder, samples in tokens, and settings.
async fn write_job(spec: &Spec, variant: &Variant, prepared: &Prepared, folder: &Path) -> Result<(), String> {
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

async fn read(stream: Option<impl AsyncRead + Unpin>, lines: mpsc::Sender<String>) {
    let Some(stream) = stream else { return };
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let taken = (&mut reader).take(LONGEST_LINE).read_until(b'\n', &mut line).await;
        if !taken.is_ok_and(|taken| taken > 0) {
            return;
        }
        if lines.send(String::from_utf8_lossy(&line).trim_end().to_owned()).await.is_err() {
            return;
        }
    }
}

/// All that was started for a job, by its folder; whatever is left of it ends when nobody follows it any more.
struct Started<'a>(&'a Path);

impl Started<'_> {
    fn signal(&self, signal: Signal) {
        for process in processes_with(FOLDER, self.0) {
            // Gone already is as good.
            let _ = kill(process, signal);
        }
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// Takes what a trainer says until it ends; stops and continues it with the job, and ends it when the job is cancelled.
async fn follow(
    job: &JobHandle,
    child: &mut Child,
    folder: &Path,
    mut lines: mpsc::Receiver<String>,
    began: Instant,
    curve: &mut Vec<TrainingPoint>,
) -> Result<ExitStatus, String> {
    let started = Started(folder);
    let (mut held, mut ended) = (false, None);
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Some(line) => take(job, &line, began, curve),
                None => return child.wait().await.map_err(|error| format!("the trainer: {error}")),
            },
            status = child.wait(), if ended.is_none() => {
                ended = Some(status);
                // What it has started and not ended holds its output open.
                started.signal(Signal::SIGKILL);
            }
            () = job.cancel.cancelled() => {
                started.signal(Signal::SIGCONT);
                started.signal(Signal::SIGTERM);
                if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                    job.log("the trainer did not end when it was asked to; it was killed");
                }
                return Err("was cancelled".into());
            }
            () = tokio::time::sleep(LOOK_EVERY) => {
                if job.is_held() != held {
                    held = !held;
                    started.signal(if held { Signal::SIGSTOP } else { Signal::SIGCONT });
                    job.set_state(if held { "paused" } else { "running" });
                }
            }
        }
    }
}

fn take(job: &JobHandle, line: &str, began: Instant, curve: &mut Vec<TrainingPoint>) {
    let Ok(said) = serde_json::from_str::<Said>(line) else {
        if !line.is_empty() {
            job.log(line);
        }
        return;
    };
    let share = said.step as f64 / said.steps.max(1) as f64;
    job.progress(share.min(1.0), format!("step {} of {}, loss {:.3}", said.step, said.steps, said.loss));
    let point = TrainingPoint {
        elapsed_s: began.elapsed().as_secs_f64(),
        step: said.step,
        steps: said.steps,
        loss: said.loss,
        held_out_loss: said.held_out_loss,
        learning_rate: said.learning_rate,
        gradient_norm: 0.0,
        tokens: said.tokens,
        energy_mj: None,
        held_out_score: None,
        suite_score: None,
    };
    curve.push(point);
    job.trained(point);
}
