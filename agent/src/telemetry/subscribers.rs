//! One pending frame a reader: a newer one merges into it, so that a slow reader loses resolution and never truth.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use llmdeck_proto::merge::FrameSum;
use llmdeck_proto::v1::Frame;
use tokio::sync::Notify;

/// Everyone who watches.
#[derive(Default)]
pub struct Subscribers {
    mailboxes: Mutex<Vec<Weak<Mailbox>>>,
    arrived: Notify,
}

#[derive(Default)]
struct Mailbox {
    pending: Mutex<Option<FrameSum>>,
    ready: Notify,
}

/// A reader's end.
pub struct Subscription {
    mailbox: Arc<Mailbox>,
}

impl Subscribers {
    /// One more reader. It counts from the frame that is made next, which is at once.
    pub fn subscribe(&self) -> Subscription {
        let mailbox = Arc::new(Mailbox::default());
        self.lock().push(Arc::downgrade(&mailbox));
        self.arrived.notify_one();
        Subscription { mailbox }
    }

    /// Waits until someone has come since the last call.
    pub async fn arrival(&self) {
        self.arrived.notified().await;
    }

    /// Hands a frame to everyone; never waits.
    pub fn publish(&self, frame: &Frame) {
        self.lock().retain(|mailbox| {
            let reader = mailbox.upgrade();
            if let Some(mailbox) = &reader {
                mailbox.put(frame);
            }
            reader.is_some()
        });
    }

    /// Readers at present.
    pub fn count(&self) -> usize {
        self.lock().iter().filter(|mailbox| mailbox.strong_count() > 0).count()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Mailbox>>> {
        self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mailbox {
    fn put(&self, frame: &Frame) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        match pending.as_mut() {
            Some(pending) => pending.add(frame.clone()),
            None => *pending = Some(frame.clone().into()),
        }
        self.ready.notify_one();
    }
}

impl Subscription {
    /// The pending frame, if there is one now.
    pub fn take(&mut self) -> Option<Frame> {
        let pending = self.mailbox.pending.lock().unwrap_or_else(PoisonError::into_inner).take();
        pending.map(FrameSum::into_frame)
    }

    /// The pending frame, as soon as there is one.
    pub async fn next(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.take() {
                return frame;
            }
            self.mailbox.ready.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use llmdeck_proto::v1::Frame;

    use super::Subscribers;

    fn frame(sequence: u64) -> Frame {
        Frame { sequence, merged_frames: 1, interval_ms: 1_000, ..Frame::default() }
    }

    #[tokio::test]
    async fn a_slow_reader_gets_one_merged_frame_and_one_that_left_is_forgotten() {
        let subscribers = Subscribers::default();
        let mut slow = subscribers.subscribe();
        drop(subscribers.subscribe());
        subscribers.arrival().await;
        (1..=3).for_each(|sequence| subscribers.publish(&frame(sequence)));
        let merged = slow.next().await;
        assert_eq!((merged.sequence, merged.merged_frames, merged.interval_ms), (3, 3, 3_000));
        assert_eq!(subscribers.count(), 1);
    }
}
