//! What is wrong now, worst first: conditions over one frame, with the moment since which each holds.

mod conditions;

use std::collections::HashMap;

use llmdeck_proto::v1::alert::Severity;
use llmdeck_proto::v1::{Alert, Frame};

use crate::telemetry::events::Events;

/// Remembers since when each condition has held, and tells the events when one begins or ends.
#[derive(Default)]
pub struct Alerts {
    since: HashMap<(String, String), i64>,
}

impl Alerts {
    /// The alerts of a frame, worst first, then oldest.
    pub fn of(&mut self, frame: &Frame, events: &Events) -> Vec<Alert> {
        let mut since = HashMap::new();
        let mut alerts: Vec<Alert> = conditions::of(frame)
            .into_iter()
            .map(|condition| {
                let key = (condition.subject.clone(), condition.kind.to_owned());
                let began = self.since.remove(&key).unwrap_or_else(|| {
                    events.push(condition.severity, &condition.subject, condition.text.clone(), "");
                    frame.time_unix_ms
                });
                since.insert(key, began);
                Alert {
                    severity: condition.severity.into(),
                    subject: condition.subject,
                    text: condition.text,
                    since_unix_ms: began,
                }
            })
            .collect();
        for ((subject, kind), _) in self.since.drain() {
            events.push(Severity::Information, &subject, format!("over: {kind}"), "");
        }
        self.since = since;
        alerts.sort_by_key(|alert| (std::cmp::Reverse(alert.severity), alert.since_unix_ms));
        alerts
    }
}
