use llmdeck_proto::v1::Frame;

use super::deployment_point::DeploymentPoint;
use super::node_points::{GpuPoint, HostPoint};
use super::{LinkState, MOST_EVENTS, Model, NodeEvent, NodeModel};
use crate::link::LinkEvent;

impl Model {
    /// Takes what a node's link told.
    pub fn apply(&mut self, node: usize, event: LinkEvent) {
        let Some(known) = self.nodes.get_mut(node) else { return };
        let mut events = Vec::new();
        match event {
            LinkEvent::History(frames) => known.fold_past(frames, &mut events),
            LinkEvent::Frame(frame) => known.fold(*frame, &mut events),
            LinkEvent::Lost { reason, .. } => {
                known.link = LinkState::Lost { reason };
                return;
            }
        }
        known.link = LinkState::Live;
        for event in events {
            if !self.is_known(&event) {
                self.events.push_back(event);
            }
        }
        self.events.make_contiguous().sort_by_key(|event| event.event.time_unix_ms);
        let surplus = self.events.len().saturating_sub(MOST_EVENTS);
        self.events.drain(..surplus);
    }
}

impl Model {
    /// The past that a link asks for when it comes back has events that have been seen.
    fn is_known(&self, other: &NodeEvent) -> bool {
        let same = |known: &NodeEvent| {
            (known.event.time_unix_ms, known.event.sequence, &known.node)
                == (other.event.time_unix_ms, other.event.sequence, &other.node)
        };
        let as_late = |known: &&NodeEvent| known.event.time_unix_ms >= other.event.time_unix_ms;
        self.events.iter().rev().take_while(as_late).any(same)
    }
}

fn taken(frame: &mut Frame) -> impl Iterator<Item = NodeEvent> {
    let node = frame.node.clone();
    std::mem::take(&mut frame.events).into_iter().map(move |event| NodeEvent { node: node.clone(), event })
}

impl NodeModel {
    /// A frame that is not newer than the latest tells states only.
    fn fold(&mut self, mut frame: Frame, events: &mut Vec<NodeEvent>) {
        let newer = self.frame.as_ref().is_none_or(|latest| frame.time_unix_ms > latest.time_unix_ms);
        if newer {
            // Of no time nothing was measured; something may have happened all the same.
            if frame.interval_ms > 0 {
                self.add_points(&frame);
            }
            events.extend(taken(&mut frame));
        }
        if newer || self.frame.as_ref().is_none_or(|latest| frame.time_unix_ms == latest.time_unix_ms) {
            frame.events.clear();
            self.frame = Some(frame);
        }
    }

    /// The past comes when the present is already there, and again whenever a link comes back.
    fn fold_past(&mut self, frames: Vec<Frame>, events: &mut Vec<NodeEvent>) {
        let mut past = Self::new(self.address.clone());
        for mut frame in frames {
            past.add_points(&frame);
            events.extend(taken(&mut frame));
            if self.frame.is_none() {
                self.frame = Some(frame);
            } else if let Some(latest) =
                self.frame.as_mut().filter(|latest| frame.time_unix_ms > latest.time_unix_ms)
            {
                *latest = frame;
            }
        }
        self.host.fill_in(past.host);
        for (uuid, series) in past.gpus {
            self.gpus.entry(uuid).or_default().fill_in(series);
        }
        for (name, series) in past.deployments {
            self.deployments.entry(name).or_default().fill_in(series);
        }
    }

    fn add_points(&mut self, frame: &Frame) {
        let (time_unix_ms, interval_ms) = (frame.time_unix_ms, frame.interval_ms);
        if let Some(host) = &frame.host {
            self.host.push(HostPoint::of(host, time_unix_ms, interval_ms));
        }
        for gpu in &frame.gpus {
            self.gpus.entry(gpu.uuid.clone()).or_default().push(GpuPoint::of(gpu, time_unix_ms));
        }
        for deployment in &frame.deployments {
            let series = self.deployments.entry(deployment.name.clone()).or_default();
            let point = DeploymentPoint::of(deployment, time_unix_ms, interval_ms, series);
            series.push(point);
        }
    }
}

#[cfg(test)]
mod tests {
    use llmdeck_proto::v1::{Counters, Deployment, Event, Frame, Revision};
    use tokio::time::Instant;

    use super::{LinkEvent, LinkState, Model};
    use crate::model::DeploymentKey;

    fn frame(time_unix_ms: i64, requests_ok: u64) -> Frame {
        let counters = Some(Counters { requests_ok, ..Counters::default() });
        Frame {
            node: "gpu-01".into(),
            time_unix_ms,
            interval_ms: 1_000,
            deployments: vec![Deployment {
                name: "chat".into(),
                revisions: vec![Revision { number: 1, counters, ..Revision::default() }],
                ..Deployment::default()
            }],
            events: vec![Event { sequence: time_unix_ms as u64, time_unix_ms, ..Event::default() }],
            ..Frame::default()
        }
    }

    #[test]
    fn the_past_that_comes_again_is_not_counted_twice() {
        let mut model = Model::new(["unix:/a".to_owned()]);
        model.apply(0, LinkEvent::Frame(Box::new(frame(3_000, 4))));
        model.apply(0, LinkEvent::History(vec![frame(1_000, 1), frame(2_000, 2)]));
        model.apply(0, LinkEvent::Lost { reason: "gone".into(), retry_at: Instant::now() });
        assert_eq!(model.nodes[0].link, LinkState::Lost { reason: "gone".into() });
        model.apply(0, LinkEvent::History(vec![frame(2_000, 2), frame(3_000, 4), frame(4_000, 8)]));
        let key = DeploymentKey { node: 0, name: "chat".into() };
        let window = model.series(&key).unwrap().window(100, None);
        assert_eq!((window.total.ok, model.events.len()), (15, 4));
        assert_eq!((model.nodes[0].name(), &model.nodes[0].link), ("gpu-01", &LinkState::Live));
        assert_eq!(model.nodes[0].age_ms(4_500), Some(500));
    }
}
