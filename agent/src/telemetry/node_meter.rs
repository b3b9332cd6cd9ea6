//! What the whole node used while something ran, from its own frames.

use std::sync::Arc;
use std::time::Duration;

use llmdeck_proto::v1::Frame;
use serde::Serialize;

use super::energy::{Prices, measured_mj};
use super::subscribers::{Subscribers, Subscription};

/// How long the frame that has the end is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Begins measurements.
#[derive(Clone)]
pub struct NodeMeter {
    frames: Arc<Subscribers>,
    prices: Option<Prices>,
}

/// A measurement under way.
pub struct NodeMeasurement {
    frames: Subscription,
    prices: Option<Prices>,
    used: NodeUse,
}

/// What the node used, with all that it did meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeUse {
    /// In millijoules; `None` where nothing is measured.
    pub energy_mj: Option<u64>,
    /// In millionths of the currency; `None` where no price is known.
    pub cost_micros: Option<u64>,
    /// ISO 4217 code; empty without a price.
    pub currency: String,
}

impl NodeMeter {
    /// Reads these frames.
    pub fn new(frames: Arc<Subscribers>, prices: Option<Prices>) -> Self {
        Self { frames, prices }
    }

    /// Begins to measure, to an interval of frames exactly.
    pub fn begin(&self) -> NodeMeasurement {
        let used = NodeUse {
            currency: self.prices.as_ref().map(|prices| prices.currency.clone()).unwrap_or_default(),
            ..NodeUse::default()
        };
        NodeMeasurement { frames: self.frames(), prices: self.prices.clone(), used }
    }

    /// The node's frames from now on.
    pub fn frames(&self) -> Subscription {
        self.frames.subscribe()
    }
}

impl NodeMeasurement {
    /// What was used until the last frame.
    pub fn so_far(&mut self) -> &NodeUse {
        if let Some(frame) = self.frames.take() {
            self.add(&frame);
        }
        &self.used
    }

    /// What was used until now; waits for the frame that has it.
    pub async fn end(mut self) -> NodeUse {
        self.so_far();
        if let Ok(frame) = tokio::time::timeout(PATIENCE, self.frames.next()).await {
            self.add(&frame);
        }
        self.used
    }

    fn add(&mut self, frame: &Frame) {
        let energy_mj = measured_mj(frame);
        let sum = |known: Option<u64>, more: Option<u64>| known.into_iter().chain(more).reduce(|a, b| a + b);
        self.used.energy_mj = sum(self.used.energy_mj, energy_mj);
        let cost = self.prices.as_ref().map(|prices| prices.micros(energy_mj, frame.interval_ms) as u64);
        self.used.cost_micros = sum(self.used.cost_micros, cost);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use llmdeck_proto::v1::{Frame, Gpu};

    use super::{NodeMeter, NodeUse};
    use crate::telemetry::{Prices, Subscribers};

    fn hour(energy_mj: Option<u64>) -> Frame {
        let gpus = vec![Gpu { energy_mj, ..Gpu::default() }];
        Frame { interval_ms: 3_600_000, merged_frames: 1, gpus, ..Frame::default() }
    }

    #[tokio::test]
    async fn frames_that_merged_count_whole_and_what_is_not_measured_is_absent() {
        let frames = Arc::new(Subscribers::default());
        let prices = Prices { currency: "EUR".into(), kilowatt_hour: 0.5, node_hour: 2.0 };
        let mut measured = NodeMeter::new(Arc::clone(&frames), Some(prices)).begin();
        let mut unpriced = NodeMeter::new(Arc::clone(&frames), None).begin();
        frames.publish(&hour(Some(3_600_000_000)));
        frames.publish(&hour(Some(3_600_000_000)));
        assert_eq!(measured.so_far().energy_mj, Some(7_200_000_000));
        assert_eq!(unpriced.so_far(), &NodeUse { energy_mj: Some(7_200_000_000), ..NodeUse::default() });
        frames.publish(&hour(None));
        let used = measured.end().await;
        assert_eq!((used.energy_mj, used.currency.as_str()), (Some(7_200_000_000), "EUR"));
        assert_eq!(used.cost_micros, Some(7_000_000), "two kilowatt hours and three hours");
    }
}
