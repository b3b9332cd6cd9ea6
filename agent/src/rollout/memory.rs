//! Room for one more revision beside those that are loaded.

use std::path::Path;

use llmdeck_proto::v1::alert::Severity;
use llmdeck_proto::v1::revision::State;
use procfs::Current;

use super::controller::Controller;
use super::refusal::Refused;
use crate::serving::{Deployment, LiveRevision};

/// Room beside the weights for caches and buffers, as a share of them, and at least.
const HEADROOM: f64 = 0.25;
const LEAST_HEADROOM_BYTES: u64 = 64 << 20;

impl Controller {
    /// Gives up standbys when memory is short.
    pub(super) fn make_room(
        &self,
        deployment: &Deployment,
        model: &str,
        weights_bytes: u64,
    ) -> Result<(), Refused> {
        let headroom = ((weights_bytes as f64 * HEADROOM) as u64).max(LEAST_HEADROOM_BYTES);
        let needed = weights_bytes + headroom;
        if available_bytes() >= needed {
            return Ok(());
        }
        for live in deployment.all_loaded() {
            if deployment.state_of(live.number()) == Some(State::Standby) {
                self.retire(deployment, &live, "gave up its place as standby: memory is short");
            }
        }
        let available = available_bytes();
        if available >= needed {
            return Ok(());
        }
        let (needed_mib, available_mib) = (needed >> 20, available >> 20);
        Err(Refused::Memory { model: model.to_owned(), needed_mib, available_mib })
    }

    /// Forgets a revision, and says why.
    pub(super) fn retire(&self, deployment: &Deployment, live: &LiveRevision, why: &str) {
        deployment.retire(live.number());
        let subject = format!("{}@{}", deployment.name(), live.number());
        self.events.push(Severity::Information, &subject, why, "");
    }
}

/// A file's size, or that of a folder's files.
pub(super) fn size_of(path: &Path) -> u64 {
    match std::fs::read_dir(path) {
        Ok(entries) => {
            entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
        }
        Err(_) => std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
    }
}

fn available_bytes() -> u64 {
    procfs::Meminfo::current().ok().and_then(|memory| memory.mem_available).unwrap_or(u64::MAX)
}
