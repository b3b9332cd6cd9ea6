//! Memory for a candidate beside what is loaded.

use std::sync::Arc;
use std::time::Instant;

use llmdeck_engine::footprint::Footprint;

use super::controller::Controller;
use super::refusal::Refused;
use crate::placement::{Candidate, Loaded, Loses, Memory};
use crate::serving::Deployment;
use crate::store::RevisionRow;

/// What a candidate takes, and who gives way for it.
pub(super) struct Room {
    pub(super) model: ModelSource,
    give_way: Vec<Candidate>,
}

/// Where a candidate's model comes from.
pub(super) enum ModelSource {
    /// It is loaded.
    Loads(Box<Footprint>),
    /// Another revision has it loaded.
    Shared {
        /// Which.
        with: u32,
        /// Held, so that it is still there when the rollout comes to it.
        loaded: Arc<Loaded>,
    },
    /// Another server answers, whose memory is its own.
    Server,
    /// A server that stands by asleep, and has its memory back when it wakes.
    Sleeper,
}

impl Room {
    /// That a server takes which stands by asleep.
    pub(super) fn of_sleeper() -> Self {
        Self { model: ModelSource::Sleeper, give_way: Vec::new() }
    }

    /// Bytes that the candidate's model takes beside what is loaded.
    pub(super) fn extra_bytes(&self) -> u64 {
        match &self.model {
            ModelSource::Loads(needed) => needed.total_bytes(),
            _ => 0,
        }
    }

    /// In the words that the operator is asked to confirm.
    pub(super) fn effects(&self) -> impl Iterator<Item = String> {
        self.give_way.iter().map(|Candidate { deployment, revision, loses, .. }| match loses {
            Loses::Idleness => {
                format!("unloads {deployment}@{revision}, which nobody asks now, for its memory")
            }
            Loses::Standby => format!("gives up {deployment}@{revision} as standby for its memory"),
        })
    }
}

impl Controller {
    /// What a revision would take under its deployment's settings, and whether it can be had.
    pub(super) async fn room_for(
        &self,
        deployment: &Deployment,
        spec: &RevisionRow,
    ) -> Result<Room, Refused> {
        let name = deployment.name();
        let Some(needed) = self.loader.footprint(name, spec).await? else {
            return Ok(Room { model: ModelSource::Server, give_way: Vec::new() });
        };
        if let Some((with, loaded)) = self.loader.shared(name, spec) {
            return Ok(Room { model: ModelSource::Shared { with, loaded }, give_way: Vec::new() });
        }
        let give_way = self.loader.check_room(name, &spec.model, &needed)?;
        Ok(Room { model: ModelSource::Loads(Box::new(needed)), give_way })
    }

    /// Takes what a revision needs.
    pub(super) async fn take_room(
        &self,
        deployment: &Deployment,
        spec: &RevisionRow,
        room: Room,
    ) -> Result<Memory, Refused> {
        Ok(match room.model {
            ModelSource::Loads(needed) => {
                let (name, now) = (deployment.name(), Instant::now());
                Memory::Reserved(self.loader.reserve(name, spec.number, &spec.model, &needed, now).await?)
            }
            ModelSource::Shared { loaded, .. } => Memory::Shared(loaded),
            ModelSource::Server | ModelSource::Sleeper => Memory::Elsewhere,
        })
    }
}
