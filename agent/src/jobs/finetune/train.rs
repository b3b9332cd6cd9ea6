//! The training itself, on threads of its own that give way to everything else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use llmdeck_engine::adapter::Adapter;
use llmdeck_engine::finetune::{FineTune, StepReport, TrainingSettings};
use llmdeck_engine::model::Model;
use llmdeck_engine::{Pool, give_way_to_others};
use llmdeck_proto::v1::TrainingPoint;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::super::handle::JobHandle;
use super::Finetunes;
use super::curve::Curve;
use super::exam::{Exam, ExamScores};
use super::pace::Pace;
use super::prepare::{Prepared, Trained};
use super::room::Room;
use super::users::{LEAST_TOLD, LOOK_EVERY, MOST_HELD, Users};
use crate::placement::Variant;
use crate::serving::Deployment;
use crate::telemetry::NodeMeasurement;

/// What a run goes on from.
pub(super) const STATE: &str = "state.safetensors";

impl Finetunes {
    pub(super) async fn train(
        &self,
        job: &JobHandle,
        variant: &Variant,
        prepared: Prepared,
        deployment: &Arc<Deployment>,
        exam: Exam,
        folder: &Path,
    ) -> Result<Trained, String> {
        let threads = self.threads();
        let training = Training {
            job: job.clone(),
            runtime: Handle::current(),
            exam,
            model: Arc::clone(variant.model()),
            settings: prepared.settings.clone(),
            users: Users::of(deployment, &self.config),
            folder: folder.to_owned(),
            curve: Curve::up_to(folder, 0),
            tokens: 0,
            trained: Duration::ZERO,
            held: Duration::ZERO,
            pace: Pace::default(),
            measured: self.meter.begin(),
            looked: Instant::now(),
        };
        let (sender, receiver) = oneshot::channel();
        let run = move || {
            // Nobody waits for it any more.
            let _ = sender.send(training.run(threads, prepared));
        };
        std::thread::Builder::new()
            .name("finetune".into())
            .spawn(run)
            .map_err(|error| format!("the thread that trains could not start: {error}"))?;
        receiver.await.map_err(|_| "met a bug of the agent; its log has the panic".to_owned())?
    }
}

/// A training under way.
struct Training {
    job: JobHandle,
    runtime: Handle,
    exam: Exam,
    model: Arc<Model>,
    settings: TrainingSettings,
    users: Users,
    folder: PathBuf,
    curve: Curve,
    tokens: u64,
    /// Time that steps took.
    trained: Duration,
    /// Time that users' latency held it.
    held: Duration,
    pace: Pace,
    measured: NodeMeasurement,
    looked: Instant,
}

impl Training {
    fn run(mut self, threads: usize, mut prepared: Prepared) -> Result<Trained, String> {
        let began = Instant::now();
        if let Err(error) = give_way_to_others() {
            self.job.log(format!("trains at the same priority as everything else: {error}"));
        }
        // Its threads have the priority of the one that starts them.
        let pool = Pool::new(threads).map_err(|error| format!("threads that train: {error}"))?;
        let data = std::mem::take(&mut prepared.data);
        let (model, settings) = (Arc::clone(&self.model), self.settings.clone());
        let mut run = FineTune::new(model, Arc::new(pool), data, settings)?;
        let state = self.folder.join(STATE);
        if state.exists() {
            match run.restore(&state) {
                Ok(()) => self.take_up(run.step_number()),
                Err(error) => self.job.log(format!("begins anew: {error}")),
            }
        }
        self.job.log(format!(
            "{} parameters, {} steps, {threads} threads that give way to others",
            run.trained_parameters(),
            run.steps()
        ));
        while !run.is_done() {
            if !self.runtime.block_on(self.job.go_on()) {
                self.job.log(format!("cancelled at step {}", run.step_number()));
                return Err(format!("was cancelled at step {} of {}", run.step_number(), run.steps()));
            }
            self.give_way(&run);
            let before = Instant::now();
            let report = run.step().inspect_err(|why| self.job.log(why.clone()))?;
            self.trained += before.elapsed();
            self.pace.push(before.elapsed().as_secs_f64());
            self.tokens += report.tokens as u64;
            let scores = match report.held_out_loss {
                Some(_) if !run.is_done() => self.examine(&run)?,
                _ => ExamScores::default(),
            };
            self.tell(&run, &report, &scores);
            if report.checkpoint {
                self.save(&run)?;
            }
        }
        if run.stopped_early() {
            self.job.log("stopped early: what is held out gets no better");
        }
        let weights = run.adapter();
        let adapter = Arc::new(Adapter::new(&weights, &self.model)?);
        let (best_step, best_loss) = run.best().unzip();
        let facts = BTreeMap::from([
            ("steps", json!(run.step_number())),
            ("tokens", json!(self.tokens)),
            ("trained_parameters", json!(run.trained_parameters())),
            ("best_step", json!(best_step)),
            ("best_held_out_loss", json!(best_loss)),
            ("stopped_early", json!(run.stopped_early())),
            ("threads", json!(threads)),
            ("trained_s", json!(self.trained.as_secs_f64())),
            ("held_s", json!(self.held.as_secs_f64())),
            ("took_s", json!(began.elapsed().as_secs_f64())),
            ("node", json!(self.runtime.block_on(self.measured.end()))),
        ]);
        Ok(Trained { prepared, adapter, weights, curve: self.curve.points().to_vec(), facts })
    }

    /// Goes on behind a step, with all that is known of those before.
    fn take_up(&mut self, step: usize) {
        self.job.log(format!("goes on at step {step}"));
        self.curve = Curve::up_to(&self.folder, step);
        let points = self.curve.points();
        points.iter().for_each(|point| self.job.trained(*point));
        if let Some(last) = points.last() {
            (self.tokens, self.trained) = (last.tokens, Duration::from_secs_f64(last.elapsed_s.max(0.0)));
        }
    }

    fn save(&self, run: &FineTune) -> Result<(), String> {
        let room = Room { job: &self.job, folder: &self.folder, needed_bytes: run.state_bytes() };
        while let Err(error) = run.save(&self.folder.join(STATE)) {
            self.runtime.block_on(room.wait(format!("its state could not be kept: {error}")))?;
        }
        if let Err(error) = self.curve.save() {
            self.job.log(format!("its curve could not be kept: {error}"));
        }
        Ok(())
    }

    /// Asks what is learned so far, where there is time for it; what is learned in the end is asked behind the last step.
    fn examine(&mut self, run: &FineTune) -> Result<ExamScores, String> {
        if !self.exam.has_time(self.trained) {
            return Ok(ExamScores::default());
        }
        let adapter = Arc::new(Adapter::new(&run.adapter_now(), &self.model)?);
        let when = format!("step {}", run.step_number());
        self.runtime.block_on(self.exam.take(&self.job, &when, adapter))
    }

    /// Waits while users' latency suffers.
    fn give_way(&mut self, run: &FineTune) {
        if self.looked.elapsed() < LOOK_EVERY {
            return;
        }
        self.looked = Instant::now();
        let began = Instant::now();
        let mut told = false;
        while let Some(why) = self.users.suffering()
            && began.elapsed() < MOST_HELD
            && !self.job.cancel.is_cancelled()
        {
            let text = format!("held at step {} of {}: {why}", run.step_number(), run.steps());
            if !told {
                self.job.log(text.clone());
            }
            told = true;
            self.job.detail(text);
            std::thread::sleep(Duration::from_millis(200));
        }
        self.held += began.elapsed();
    }

    fn tell(&mut self, run: &FineTune, report: &StepReport, scores: &ExamScores) {
        let steps = run.steps();
        let tokens_per_s = self.tokens as f64 / self.trained.as_secs_f64().max(1e-9);
        let mut detail =
            format!("step {} of {steps}, loss {:.3}, {tokens_per_s:.0} tokens/s", report.step, report.loss);
        if self.held >= LEAST_TOLD {
            detail.push_str(&format!(", held {:.0} s for users", self.held.as_secs_f64()));
        }
        self.job.progress(run.step_number() as f64 / steps as f64, detail);
        // Users and questions take their part of the time, too.
        let beside = (self.held + self.exam.spent()).as_secs_f64() / self.trained.as_secs_f64().max(1e-9);
        self.job.remaining(self.pace.remaining_s(steps - run.step_number().min(steps), beside));
        if let Some(step) = report.went_back_to {
            self.job.log(format!(
                "the loss went astray at step {} ({}): back to step {step} with half the rate",
                report.step, report.loss
            ));
            self.curve.go_back_to(step);
            return;
        }
        if let Some(loss) = report.held_out_loss {
            let (step, learned, apart) = (report.step, report.loss, report.rehearsal_divergence);
            self.job.log(format!(
                "step {step}: loss {learned:.3}, held out {loss:.3}, {apart:.3} from the model itself"
            ));
        }
        if let Some(words) = scores.words() {
            self.job.log(format!("step {}: {words}", report.step));
        }
        let point = TrainingPoint {
            elapsed_s: self.trained.as_secs_f64(),
            step: report.step as u64,
            steps: steps as u64,
            loss: report.loss,
            held_out_loss: report.held_out_loss,
            learning_rate: report.learning_rate,
            gradient_norm: report.gradient_norm,
            tokens: self.tokens,
            energy_mj: self.measured.so_far().energy_mj,
            held_out_score: scores.held_out,
            suite_score: scores.suite,
        };
        self.curve.push(point);
        self.job.trained(point);
    }
}
