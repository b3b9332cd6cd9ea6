use crate::backend::ClientError;
use crate::placement::LoadError;
use crate::quality::AskError;
use crate::registry::RegistryError;
use llmdeck_audit::AuditError;

use crate::store::StoreError;

/// Why an action was not done. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// No deployment of that name.
    #[error("there is no deployment {name:?} here; there is {known}")]
    UnknownDeployment {
        /// As asked for.
        name: String,
        /// Those that exist.
        known: String,
    },
    /// No revision of that number.
    #[error("{deployment} has no revision {number}")]
    UnknownRevision {
        /// Of which deployment.
        deployment: String,
        /// As asked for.
        number: u32,
    },
    /// It has never served anything else.
    #[error("{deployment} has no earlier revision to roll back to")]
    NothingEarlier {
        /// Which deployment.
        deployment: String,
    },
    /// It serves already.
    #[error("{revision} already serves all new requests")]
    AlreadyServing {
        /// `chat@7`.
        revision: String,
    },
    /// Another rollout is under way.
    #[error(
        "{operator} started moving {deployment} to revision {to} {seconds_ago} s ago ({reason}); wait for it, or end it: llmdeck rollout abort {deployment}"
    )]
    Busy {
        /// Which deployment.
        deployment: String,
        /// Who.
        operator: String,
        /// To which revision.
        to: u32,
        /// When.
        seconds_ago: i64,
        /// Why.
        reason: String,
    },
    /// The state is not what the operator believed.
    #[error("{deployment} is at revision {now}, not {believed}: {what}; look again and decide anew")]
    Moved {
        /// Which deployment.
        deployment: String,
        /// The stable revision.
        now: u32,
        /// What the operator believed.
        believed: u32,
        /// Who changed it, when.
        what: String,
    },
    /// Nothing serves.
    #[error("{deployment} does not serve, so there is nothing to stop: {why}")]
    NothingToStop {
        /// Which deployment.
        deployment: String,
        /// Why nothing serves.
        why: String,
    },
    /// Nothing to abort.
    #[error("{deployment} has no rollout that could still be ended; after the swap, roll back instead")]
    NothingToAbort {
        /// Which deployment.
        deployment: String,
    },
    /// It is not being compared.
    #[error("{deployment} has no canary or shadow under way that could be {action}")]
    NothingToSteer {
        /// Which deployment.
        deployment: String,
        /// `paused`, `resumed`, `promoted`.
        action: &'static str,
    },
    /// The candidate does not fit, or cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What was asked for is too long or empty.
    #[error("{field} {problem}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The artifact.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The audit file.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a step of a rollout failed; becomes its detail.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("the server that stands by does not wake: {0}")]
    Wake(#[source] ClientError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("nothing serves that it could be compared with")]
    NothingServes,
    #[error("a task of the agent panicked; its log has more")]
    Panicked,
}
