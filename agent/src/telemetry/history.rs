//! Frames of the past: each is kept as it was for an hour, then merged into coarser ones.

use std::sync::{Arc, Mutex, PoisonError};

use llmdeck_proto::merge::FrameSum;
use llmdeck_proto::v1::{Frame, HistoryRequest, HistoryResponse};

use crate::store::{Store, StoreError, Tier};
use crate::time::unix_ms;

const DEFAULT_FRAMES: u32 = 600;
const MOST_FRAMES: u32 = 3_600;
/// Frames are written this many at a time, so that the disk is not synced every second.
const BATCH: usize = 10;

/// Writes frames and reads ranges.
pub struct History {
    store: Arc<Store>,
    most_bytes: i64,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    rows: Vec<(Tier, Frame)>,
    /// What the coarser tiers have gathered since their last row.
    gathering: Vec<(Tier, FrameSum)>,
}

impl History {
    /// Keeps at most about `most_bytes` in the store.
    pub fn new(store: Arc<Store>, most_bytes: u64) -> Self {
        let most_bytes = i64::try_from(most_bytes).unwrap_or(i64::MAX);
        Self { store, most_bytes, pending: Mutex::default() }
    }

    /// Takes a frame; writes when enough have come.
    ///
    /// # Errors
    /// When the store refuses; the frames of the batch are lost then, newer ones are not.
    pub fn push(&self, frame: &Frame) -> Result<(), StoreError> {
        let rows = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            let [finest, coarser @ ..] = Tier::ALL;
            pending.rows.push((finest, frame.clone()));
            for tier in coarser {
                pending.gather(tier, frame);
            }
            if pending.rows.len() < BATCH {
                return Ok(());
            }
            std::mem::take(&mut pending.rows)
        };
        self.store.put_frames(&rows, unix_ms(), self.most_bytes)
    }

    /// Writes what is pending, before the agent stops.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn flush(&self) -> Result<(), StoreError> {
        let rows = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            let mut rows = std::mem::take(&mut pending.rows);
            rows.extend(pending.gathering.drain(..).map(|(tier, sum)| (tier, sum.into_frame())));
            rows
        };
        self.store.put_frames(&rows, unix_ms(), self.most_bytes)
    }

    /// Frames of a range, in the finest resolution that is kept for all of it, merged to fit.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn range(&self, request: &HistoryRequest) -> Result<HistoryResponse, StoreError> {
        let now = unix_ms();
        let to = if request.to_unix_ms == 0 { now } else { request.to_unix_ms };
        let from = request.from_unix_ms;
        let most = match request.max_frames {
            0 => DEFAULT_FRAMES,
            frames => frames.min(MOST_FRAMES),
        };
        let [.., coarsest] = Tier::ALL;
        let tier = Tier::ALL.into_iter().find(|tier| from >= now - tier.kept_ms).unwrap_or(coarsest);
        let mut frames = self.store.frames(tier, from, to)?;
        if tier == Tier::ALL[0] {
            let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            let recent = pending.rows.iter().filter(|(of, _)| *of == tier).map(|(_, frame)| frame);
            frames.extend(recent.filter(|frame| (from..=to).contains(&frame.time_unix_ms)).cloned());
        }
        let group = frames.len().div_ceil(most as usize).max(1);
        let resolution_ms = u32::try_from(tier.resolution_ms).unwrap_or(u32::MAX) * group as u32;
        Ok(HistoryResponse { frames: merged(frames, group), resolution_ms })
    }
}

impl Pending {
    fn gather(&mut self, tier: Tier, frame: &Frame) {
        let index = match self.gathering.iter().position(|(of, _)| *of == tier) {
            Some(index) => {
                self.gathering[index].1.add(frame.clone());
                index
            }
            None => {
                self.gathering.push((tier, frame.clone().into()));
                self.gathering.len() - 1
            }
        };
        if i64::from(self.gathering[index].1.interval_ms()) >= tier.resolution_ms {
            let (tier, sum) = self.gathering.swap_remove(index);
            self.rows.push((tier, sum.into_frame()));
        }
    }
}

/// Every `group` neighbours become one.
fn merged(frames: Vec<Frame>, group: usize) -> Vec<Frame> {
    let mut out = Vec::with_capacity(frames.len().div_ceil(group));
    let mut frames = frames.into_iter();
    while let Some(first) = frames.next() {
        let mut sum = FrameSum::from(first);
        frames.by_ref().take(group - 1).for_each(|frame| sum.add(frame));
        out.push(sum.into_frame());
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use llmdeck_proto::v1::{Frame, HistoryRequest};

    use super::History;
    use crate::store::{Tier, temporary};
    use crate::time::unix_ms;

    #[test]
    fn every_tier_adds_up_to_the_same_time() {
        let (_folder, store) = temporary();
        let store = Arc::new(store);
        let history = History::new(Arc::clone(&store), u64::MAX);
        let now = unix_ms();
        for step in 0..120 {
            let time_unix_ms = now - (120 - step) * 1_000;
            history
                .push(&Frame { time_unix_ms, interval_ms: 1_000, merged_frames: 1, ..Frame::default() })
                .unwrap();
        }
        let request = HistoryRequest { from_unix_ms: now - 200_000, to_unix_ms: 0, max_frames: 50 };
        let answer = history.range(&request).unwrap();
        assert_eq!(answer.frames.iter().map(|frame| frame.merged_frames).sum::<u32>(), 120);
        assert!(answer.frames.len() <= 50 && answer.resolution_ms == 3_000);
        history.flush().unwrap();
        for tier in Tier::ALL {
            let total: u32 = store.frames(tier, 0, now).unwrap().iter().map(|frame| frame.interval_ms).sum();
            assert_eq!(total, 120_000, "{tier:?}");
        }
    }
}
