//! Things that changed, for the next frame.

use std::sync::{Mutex, PoisonError};

use llmdeck_proto::v1::{Event, alert::Severity};

use tokio::sync::Notify;

use crate::time::unix_ms;

/// Most events of one interval; one more is dropped and counted.
const MOST_PENDING: usize = 500;

/// Collects events until the next frame takes them.
#[derive(Default)]
pub struct Events {
    inner: Mutex<Inner>,
    happened: Notify,
}

#[derive(Default)]
struct Inner {
    pending: Vec<Event>,
    sequence: u64,
    dropped: u64,
}

impl Events {
    /// Something changed; `operator` is empty when nobody did it.
    pub fn push(&self, severity: Severity, subject: &str, text: impl Into<String>, operator: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.sequence += 1;
        if inner.pending.len() == MOST_PENDING {
            inner.dropped += 1;
            return;
        }
        let event = Event {
            time_unix_ms: unix_ms(),
            sequence: inner.sequence,
            severity: severity.into(),
            subject: subject.to_owned(),
            text: text.into(),
            operator: operator.to_owned(),
        };
        log(&event, severity);
        inner.pending.push(event);
        self.happened.notify_one();
    }

    /// Waits until something has happened since the last call.
    pub async fn any(&self) {
        self.happened.notified().await;
    }

    /// Takes what came since the last call, and how many were dropped.
    pub fn drain(&self) -> (Vec<Event>, u64) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut inner.pending), std::mem::take(&mut inner.dropped))
    }
}

fn log(event: &Event, severity: Severity) {
    let Event { subject, text, .. } = event;
    let operator = Some(event.operator.as_str()).filter(|operator| !operator.is_empty());
    match severity {
        Severity::Bad => tracing::error!(subject, operator, "{text}"),
        Severity::Warning => tracing::warn!(subject, operator, "{text}"),
        Severity::Information | Severity::Unspecified => tracing::info!(subject, operator, "{text}"),
    }
}
