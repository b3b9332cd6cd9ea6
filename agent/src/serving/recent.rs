use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use llmdeck_proto::v1::RequestSummary;

/// Most requests kept.
pub(super) const CAPACITY: usize = 200;

/// The last requests, without their text.
#[derive(Default)]
pub(super) struct RecentRequests {
    newest_last: Mutex<VecDeque<RequestSummary>>,
}

impl RecentRequests {
    pub(super) fn push(&self, summary: RequestSummary) {
        let mut list = self.newest_last.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() == CAPACITY {
            list.pop_front();
        }
        list.push_back(summary);
    }

    pub(super) fn newest(&self, limit: usize) -> Vec<RequestSummary> {
        let list = self.newest_last.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().rev().take(limit).cloned().collect()
    }
}
