//! The same job handed to an external trainer: a command that gets a folder with everything, tells its progress in JSON lines, and
//! leaves an adapter there.

mod allowance;
mod governor;
mod gpu_time;
mod handover;
mod processes;
mod progress;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use llmdeck_engine::adapter::{Adapter, AdapterWeights};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::super::handle::JobHandle;
use super::Finetunes;
use super::prepare::{Prepared, Trained};
use super::room::Room;
use super::spec::Spec;
use super::users::Users;
use crate::backend::MARK;
use crate::placement::Variant;
use crate::serving::Deployment;
use crate::telemetry::Subscription;

pub(super) use allowance::allowance;
use allowance::check_gpus;
use governor::Governor;
use handover::write_job;
use processes::{FOLDER, Processes, hold_to_cores};
use progress::Progress;

/// Longer lines of a trainer are cut.
const LONGEST_LINE: u64 = 4_096;
/// Lines that wait to be taken; the trainer waits when they are too many.
const MOST_WAITING: usize = 64;
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Between asking a trainer to end and ending it.
const GRACE: Duration = Duration::from_secs(10);

impl Finetunes {
    /// Whether the GPUs have what is set aside for a trainer.
    pub(super) async fn check_gpus(&self) -> Result<(), String> {
        if self.config.gpus.is_none() && self.config.gpu_memory_mib.is_none() {
            return Ok(());
        }
        let frame = self.meter.frames().next().await;
        check_gpus(&frame.gpus, &self.config)
    }

    #[allow(clippy::too_many_arguments, reason = "what a training is made of")]
    pub(super) async fn train_outside(
        &self,
        job: &JobHandle,
        spec: &Spec,
        variant: &Variant,
        prepared: Prepared,
        deployment: &Arc<Deployment>,
        command: &[String],
        folder: &Path,
    ) -> Result<Trained, String> {
        let (began, measured) = (Instant::now(), self.meter.begin());
        job.progress(0.0, "writes the job for its trainer");
        let needed_bytes = variant.model().decoder.description().parameters() * size_of::<f32>() as u64;
        let room = Room { job, folder, needed_bytes };
        while let Err(error) = write_job(spec, variant, &prepared, folder).await {
            room.wait(error).await?;
        }
        self.check_gpus().await?;
        let mut child = self.start_trainer(job, command, folder)?;
        let (sender, lines) = mpsc::channel(MOST_WAITING);
        let streams = (child.stdout.take(), child.stderr.take());
        tokio::spawn(read(streams.0, sender.clone()));
        tokio::spawn(read(streams.1, sender));
        let users = Users::of(deployment, &self.config);
        let mut governor = Governor::new(job, &self.config, Processes(folder), users);
        let mut progress = Progress::new(job, measured);
        let status =
            follow(job, &mut child, &mut governor, self.meter.frames(), lines, &mut progress).await?;
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
        let last = progress.curve.last().copied().unwrap_or_default();
        let (held, held_to_share) = governor.held();
        let facts = BTreeMap::from([
            ("trainer", json!(command)),
            ("steps", json!(last.step)),
            ("tokens", json!(last.tokens)),
            ("trained_parameters", json!(weights.parameters())),
            ("threads", json!(self.config.threads)),
            ("gpus", json!(self.config.gpus)),
            ("gpu_share", json!(self.config.gpu_share)),
            ("held_s", json!(held.as_secs_f64())),
            ("held_to_gpu_share_s", json!(held_to_share.as_secs_f64())),
            ("took_s", json!(began.elapsed().as_secs_f64())),
            ("node", json!(progress.measured.end().await)),
        ]);
        Ok(Trained { prepared, adapter: Arc::new(adapter), weights, curve: progress.curve, facts })
    }

    fn start_trainer(&self, job: &JobHandle, command: &[String], folder: &Path) -> Result<Child, String> {
        let (program, arguments) = command.split_first().ok_or("the trainer's command is empty")?;
        let mut trainer = Command::new("nice");
        trainer
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
            .kill_on_drop(true);
        if let Some(gpus) = &self.config.gpus {
            let numbers: Vec<String> = gpus.iter().map(u32::to_string).collect();
            // CUDA counts the fastest first unless it is told to count as the driver does.
            trainer.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID").env("CUDA_VISIBLE_DEVICES", numbers.join(","));
        }
        let child = trainer.spawn().map_err(|error| format!("{}: {error}", folder.display()))?;
        if let Some(cores) = self.config.threads
            && let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok())
            && let Err(error) = hold_to_cores(Pid::from_raw(pid), cores.get())
        {
            job.log(format!("has all cores: it could not be held to {cores}: {error}"));
        }
        Ok(child)
    }
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

/// Takes what a trainer says until it ends; governs it meanwhile, and ends it when the job is cancelled.
async fn follow(
    job: &JobHandle,
    child: &mut Child,
    governor: &mut Governor<'_>,
    mut frames: Subscription,
    mut lines: mpsc::Receiver<String>,
    progress: &mut Progress<'_>,
) -> Result<ExitStatus, String> {
    let mut ended = None;
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Some(line) => progress.take(&line, &governor.words()),
                None => return child.wait().await.map_err(|error| format!("the trainer: {error}")),
            },
            status = child.wait(), if ended.is_none() => {
                ended = Some(status);
                // What it has started and not ended holds its output open.
                governor.processes().signal(Signal::SIGKILL);
            }
            () = job.cancel.cancelled() => {
                governor.processes().signal(Signal::SIGCONT);
                governor.processes().signal(Signal::SIGTERM);
                if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                    job.log("the trainer did not end when it was asked to; it was killed");
                }
                return Err("was cancelled".into());
            }
            frame = frames.next() => governor.count(&frame)?,
            _ = looks.tick() => governor.govern(),
        }
    }
}
