//! How a newer frame joins an older one that its reader has not taken: histograms and interval sums add, states and
//! totals replace, events append up to a limit. What a reader has received always sums to what the agent counted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::sparse::SparseHistogram;
use crate::v1::{Deployment, Frame, Gpu, Histogram, Host, Quality, Revision};

/// Most events that a pending frame holds; older ones are dropped and counted.
pub const MAX_PENDING_EVENTS: usize = 1_000;

/// Frames as one. Histograms are added up as numbers, and written once, in the end: writing one costs more than all else.
#[derive(Clone, Debug)]
pub struct FrameSum {
    /// Histograms of a revision are missing where `latencies` has them.
    frame: Frame,
    /// By deployment and revision, of those that more than one frame told of.
    latencies: HashMap<(String, u32), Latencies>,
}

type Latencies = [SparseHistogram; 5];

impl From<Frame> for FrameSum {
    fn from(frame: Frame) -> Self {
        Self { frame, latencies: HashMap::new() }
    }
}

impl FrameSum {
    /// Joins a frame that was recorded after those that are in it.
    pub fn add(&mut self, newer: Frame) {
        let older = std::mem::replace(&mut self.frame, newer);
        let pending = &mut self.frame;
        pending.interval_ms = pending.interval_ms.saturating_add(older.interval_ms);
        pending.merged_frames = pending.merged_frames.saturating_add(older.merged_frames);
        pending.dropped_events += older.dropped_events;
        if let Some(host) = &older.host {
            merge_host(pending.host.get_or_insert_default(), host);
        }
        for gpu in &older.gpus {
            if let Some(newer) = pending.gpus.iter_mut().find(|newer| newer.uuid == gpu.uuid) {
                merge_gpu(newer, gpu);
            }
        }
        for deployment in older.deployments {
            match pending.deployments.iter_mut().find(|newer| newer.name == deployment.name) {
                Some(newer) => merge_deployment(newer, deployment, &mut self.latencies),
                None => pending.deployments.push(gone(deployment)),
            }
        }
        let mut events = older.events;
        events.append(&mut pending.events);
        let surplus = events.len().saturating_sub(MAX_PENDING_EVENTS);
        events.drain(..surplus);
        pending.dropped_events += surplus as u64;
        pending.events = events;
    }

    /// Length of all intervals together, in milliseconds.
    pub fn interval_ms(&self) -> u32 {
        self.frame.interval_ms
    }

    /// All of them as one frame.
    pub fn into_frame(mut self) -> Frame {
        for deployment in &mut self.frame.deployments {
            for revision in &mut deployment.revisions {
                let Some(sums) = self.latencies.remove(&(deployment.name.clone(), revision.number)) else {
                    continue;
                };
                for (histogram, sum) in histograms(revision).into_iter().zip(sums) {
                    *histogram = Some(sum.encode());
                }
            }
        }
        self.frame
    }
}

fn merge_host(newer: &mut Host, older: &Host) {
    newer.network_received_bytes += older.network_received_bytes;
    newer.network_sent_bytes += older.network_sent_bytes;
    newer.cpu_energy_mj = add(newer.cpu_energy_mj, older.cpu_energy_mj);
}

fn merge_gpu(newer: &mut Gpu, older: &Gpu) {
    newer.energy_mj = add(newer.energy_mj, older.energy_mj);
}

fn merge_deployment(
    newer: &mut Deployment,
    older: Deployment,
    latencies: &mut HashMap<(String, u32), Latencies>,
) {
    newer.energy_mj = add(newer.energy_mj, older.energy_mj);
    newer.cost_micros = add(newer.cost_micros, older.cost_micros);
    for mut revision in older.revisions {
        match newer.revisions.iter_mut().find(|newer| newer.number == revision.number) {
            Some(newer) => {
                match latencies.entry((older.name.clone(), revision.number)) {
                    Entry::Occupied(mut sums) => add_latencies(sums.get_mut(), newer),
                    Entry::Vacant(place) => add_latencies(place.insert(taken(&mut revision)), newer),
                }
                merge_revision(newer, &revision);
            }
            None => newer.revisions.push(stopped(revision)),
        }
    }
}

fn histograms(revision: &mut Revision) -> [&mut Option<Histogram>; 5] {
    let Revision { queue_us, ttft_us, itl_us, tpot_us, e2e_us, .. } = revision;
    [queue_us, ttft_us, itl_us, tpot_us, e2e_us]
}

/// One that cannot be read counts as empty, so that a bad interval costs itself only.
fn taken(revision: &mut Revision) -> Latencies {
    histograms(revision)
        .map(|histogram| SparseHistogram::decode(histogram.take().as_ref()).unwrap_or_default())
}

fn add_latencies(sums: &mut Latencies, newer: &mut Revision) {
    for (sum, newer) in sums.iter_mut().zip(taken(newer)) {
        *sum = SparseHistogram::merged([&*sum, &newer]);
    }
}

fn merge_revision(newer: &mut Revision, older: &Revision) {
    newer.energy_mj = add(newer.energy_mj, older.energy_mj);
    if let (Some(newer), Some(older)) = (&mut newer.counters, &older.counters) {
        newer.requests_ok += older.requests_ok;
        newer.requests_client_error += older.requests_client_error;
        newer.requests_server_error += older.requests_server_error;
        newer.requests_cancelled += older.requests_cancelled;
        newer.requests_deadline += older.requests_deadline;
        newer.tokens_in += older.tokens_in;
        newer.tokens_out += older.tokens_out;
        newer.prompt_tokens_begun += older.prompt_tokens_begun;
        newer.prompt_tokens_remembered += older.prompt_tokens_remembered;
        newer.preemptions += older.preemptions;
        newer.tokens_guessed += older.tokens_guessed;
        newer.tokens_guessed_right += older.tokens_guessed_right;
        newer.tokens_constrained += older.tokens_constrained;
        newer.constraint_us += older.constraint_us;
        newer.cpu_us += older.cpu_us;
    } else if newer.counters.is_none() {
        newer.counters = older.counters;
    }
    match (&mut newer.quality, &older.quality) {
        (Some(newer), Some(older)) => merge_quality(newer, older),
        (empty @ None, Some(older)) => *empty = Some(*older),
        _ => {}
    }
}

fn merge_quality(newer: &mut Quality, older: &Quality) {
    newer.responses += older.responses;
    newer.token_logprob_sum += older.token_logprob_sum;
    newer.token_entropy_sum += older.token_entropy_sum;
    newer.scored_tokens += older.scored_tokens;
    newer.empty_responses += older.empty_responses;
    newer.truncated_responses += older.truncated_responses;
    newer.repetitive_responses += older.repetitive_responses;
    newer.refused_responses += older.refused_responses;
    newer.json_asked += older.json_asked;
    newer.json_valid += older.json_valid;
}

/// A deployment that the newer frame no longer has: its interval still counts, its states do not.
fn gone(mut deployment: Deployment) -> Deployment {
    deployment.stable_revision = 0;
    deployment.queue_depth = 0;
    deployment.revisions = deployment.revisions.into_iter().map(stopped).collect();
    deployment
}

fn stopped(mut revision: Revision) -> Revision {
    revision.set_state(crate::v1::revision::State::Stopped);
    revision.traffic_share = 0.0;
    revision.in_flight = 0;
    revision.batch_size = 0;
    revision.kv_used_bytes = 0;
    revision
}

fn add(left: Option<u64>, right: Option<u64>) -> Option<u64> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left + right),
        (left, right) => left.or(right),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{FrameSum, MAX_PENDING_EVENTS};
    use crate::histogram;
    use crate::v1::{Counters, Deployment, Event, Frame, Histogram, Revision};

    /// What was counted in one interval: per revision, the latencies of its requests.
    type Interval = Vec<(u32, Vec<u64>)>;

    fn frame(sequence: u64, interval: &Interval) -> Frame {
        let revisions = interval
            .iter()
            .map(|(number, latencies)| {
                let mut e2e = histogram::empty();
                latencies.iter().for_each(|latency| e2e.record(*latency).unwrap());
                Revision {
                    number: *number,
                    e2e_us: Some(histogram::encode(&e2e).unwrap()),
                    counters: Some(Counters { requests_ok: latencies.len() as u64, ..Default::default() }),
                    ..Default::default()
                }
            })
            .collect();
        Frame {
            sequence,
            interval_ms: 1_000,
            merged_frames: 1,
            deployments: vec![Deployment { name: "chat".into(), revisions, ..Default::default() }],
            events: vec![Event { sequence, ..Default::default() }],
            ..Default::default()
        }
    }

    fn intervals() -> impl Strategy<Value = Vec<(Interval, bool)>> {
        let revision = (1u32..4, prop::collection::vec(1u64..1_000_000, 0..12));
        let interval = prop::collection::vec(revision, 0..3).prop_map(|mut list| {
            list.sort_by_key(|(number, _)| *number);
            list.dedup_by_key(|(number, _)| *number);
            list
        });
        prop::collection::vec((interval, any::<bool>()), 1..12)
    }

    proptest! {
        /// A reader that takes frames whenever it likes has received exactly what was counted.
        #[test]
        fn conflation_loses_nothing(intervals in intervals()) {
            let mut pending: Option<FrameSum> = None;
            let mut received = Vec::new();
            for (index, (interval, takes)) in intervals.iter().enumerate() {
                let newer = frame(index as u64 + 1, interval);
                match &mut pending {
                    Some(pending) => pending.add(newer),
                    empty => *empty = Some(newer.into()),
                }
                if *takes {
                    received.extend(pending.take().map(FrameSum::into_frame));
                }
            }
            received.extend(pending.take().map(FrameSum::into_frame));

            let mut counted = histogram::empty();
            let mut events = 0;
            let mut ok = 0;
            let mut time = 0;
            for frame in &received {
                events += frame.events.len();
                time += frame.interval_ms;
                for revision in frame.deployments.iter().flat_map(|deployment| &deployment.revisions) {
                    counted.add(histogram::decode(revision.e2e_us.as_ref()).unwrap()).unwrap();
                    ok += revision.counters.unwrap().requests_ok;
                }
            }
            let mut expected = histogram::empty();
            for latency in intervals.iter().flat_map(|(interval, _)| interval).flat_map(|(_, list)| list) {
                expected.record(*latency).unwrap();
            }
            prop_assert_eq!(ok, expected.len());
            prop_assert_eq!(counted, expected);
            prop_assert_eq!(events, intervals.len());
            prop_assert_eq!(time as usize, intervals.len() * 1_000);
        }
    }

    #[test]
    fn a_histogram_that_cannot_be_read_costs_itself_only() {
        let mut damaged = frame(2, &vec![(1, vec![7])]);
        damaged.deployments[0].revisions[0].e2e_us = Some(Histogram { hdr_v2_deflate: vec![1, 2, 3] });
        for order in [[0, 1, 2], [1, 0, 2], [1, 2, 0]] {
            let frames = [damaged.clone(), frame(1, &vec![(1, vec![5])]), frame(3, &vec![(1, vec![9])])];
            let [first, second, third] = order.map(|index| frames[index].clone());
            let mut pending = FrameSum::from(first);
            pending.add(second);
            pending.add(third);
            let revision = &pending.into_frame().deployments[0].revisions[0];
            let e2e = histogram::decode(revision.e2e_us.as_ref()).unwrap();
            assert_eq!((e2e.len(), e2e.min(), e2e.max()), (2, 5, 9), "{order:?}");
            assert_eq!(revision.counters.unwrap().requests_ok, 3);
        }
    }

    #[test]
    fn surplus_events_are_dropped_and_counted() {
        let many = |from: u64| Frame {
            events: (from..from + 800).map(|sequence| Event { sequence, ..Default::default() }).collect(),
            ..Default::default()
        };
        let mut pending = FrameSum::from(many(1));
        pending.add(many(801));
        let pending = pending.into_frame();
        assert_eq!(pending.events.len(), MAX_PENDING_EVENTS);
        assert_eq!(pending.dropped_events, 600);
        assert_eq!(pending.events.last().unwrap().sequence, 1_600);
    }
}
