//! Memory for a candidate beside what is loaded.

use std::path::Path;

use llmdeck_engine::footprint::Footprint;

use super::controller::Controller;
use super::refusal::Refused;
use crate::placement::{Candidate, Loses};
use crate::serving::Deployment;

/// What a candidate takes, and who gives way for it.
pub(super) struct Room {
    /// `None` where another server answers, whose memory is its own.
    pub(super) needed: Option<Footprint>,
    /// A server that stands by asleep, and has its memory back when it wakes.
    pub(super) sleeps: bool,
    give_way: Vec<Candidate>,
}

impl Room {
    /// That a server takes which stands by asleep.
    pub(super) fn of_sleeper() -> Self {
        Self { needed: None, sleeps: true, give_way: Vec::new() }
    }

    /// In the words that the operator is asked to confirm.
    pub(super) fn effects(&self) -> impl Iterator<Item = String> {
        self.give_way.iter().map(|Candidate { deployment, revision, loses }| match loses {
            Loses::Idleness => {
                format!("unloads {deployment}@{revision}, which nobody asks now, for its memory")
            }
            Loses::Standby => format!("gives up {deployment}@{revision} as standby for its memory"),
        })
    }
}

impl Controller {
    /// What a model would take under a deployment's settings, and whether it can be had.
    pub(super) async fn room_for(
        &self,
        deployment: &Deployment,
        model: &str,
        path: &Path,
    ) -> Result<Room, Refused> {
        let needed = self.loader.footprint(deployment.name(), path).await?;
        let give_way = match &needed {
            Some(needed) => self.loader.check_room(deployment.name(), model, needed)?,
            None => Vec::new(),
        };
        Ok(Room { needed, sleeps: false, give_way })
    }
}
