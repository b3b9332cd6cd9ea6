//! The clock of the agent: makes a frame each interval and hands it to whoever wants one.

use std::sync::Arc;
use std::time::Duration;

use llmdeck_proto::v1::Frame;
use llmdeck_proto::v1::alert::Severity;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::alerts::Alerts;
use crate::api::Metrics;
use crate::jobs::Jobs;
use crate::rollout::Controller;
use crate::serving::Deployments;
use crate::telemetry::events::Events;
use crate::telemetry::{FrameMaker, FrameStates, History, Subscribers};

/// Frames that may wait for the disk; one more is not kept, which is an event.
const MOST_UNWRITTEN: usize = 60;

/// Frames that something asked for are this far apart at least.
const LEAST_GAP: Duration = Duration::from_millis(50);

/// Makes frames: each interval, and at once when someone begins to watch or something happens.
pub(crate) struct FrameLoop {
    pub(crate) maker: FrameMaker,
    pub(crate) interval: Duration,
    pub(crate) deployments: Arc<Deployments>,
    pub(crate) controller: Arc<Controller>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) events: Arc<Events>,
    pub(crate) history: Arc<History>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) subscribers: Arc<Subscribers>,
}

impl FrameLoop {
    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut alerts = Alerts::default();
        let (unwritten, queue) = mpsc::channel(MOST_UNWRITTEN);
        let writer = tokio::task::spawn_blocking({
            let (history, events) = (Arc::clone(&self.history), Arc::clone(&self.events));
            move || write(&history, &events, queue)
        });
        while stop.run_until_cancelled(self.next(&mut ticks)).await.is_some() {
            let states = FrameStates {
                deployments: self.deployments.iter().map(|deployment| deployment.drain_frame()).collect(),
                process_groups: self
                    .deployments
                    .iter()
                    .map(|deployment| deployment.process_groups())
                    .collect(),
                rollouts: self.controller.rollouts(),
                jobs: self.jobs.shown(),
                model_memory_bytes: self.controller.loader().budget().total_bytes(),
            };
            let frame = self.maker.make(states, &self.events, |frame| alerts.of(frame, &self.events));
            for told in &frame.deployments {
                if let Some(deployment) = self.deployments.get(&told.name) {
                    deployment.observe_energy(told);
                }
            }
            self.metrics.absorb(&frame);
            self.subscribers.publish(&frame);
            if unwritten.try_send(frame).is_err() {
                self.events.push(
                    Severity::Warning,
                    "history",
                    "the disk is too slow; a frame was not kept",
                    "",
                );
            }
        }
        drop(unwritten);
        if writer.await.is_err() {
            tracing::error!("the history's writer panicked");
        }
    }

    /// Waits for the end of the interval, or for something that is worth a frame at once.
    async fn next(&self, ticks: &mut Interval) {
        let soon = Instant::now() + LEAST_GAP;
        tokio::select! {
            _ = ticks.tick() => return,
            () = self.subscribers.arrival() => {}
            () = self.events.any() => {}
        }
        tokio::time::sleep_until(soon).await;
    }
}

fn write(history: &History, events: &Events, mut queue: mpsc::Receiver<Frame>) {
    let mut failing = false;
    while let Some(frame) = queue.blocking_recv() {
        let kept = history.push(&frame);
        if let Err(error) = &kept
            && !failing
        {
            events.push(Severity::Warning, "history", error.to_string(), "");
        }
        failing = kept.is_err();
    }
}
