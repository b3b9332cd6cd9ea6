use llmdeck_proto::v1::ChangePlan;
use llmdeck_proto::v1::rollout::Strategy;

use super::action::{Action, RevisionParts, RolloutChoice};
use super::text_field::TextField;
use crate::model::DeploymentKey;

/// Which change a dialog is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialogKind {
    /// A redeploy; the model is chosen here.
    Deploy {
        /// What is typed.
        model: TextField,
        /// Tags that the node knows.
        tags: Vec<String>,
        /// Swap even below the golden floor.
        force: bool,
        /// At once or in steps; unspecified is as the deployment has it.
        strategy: Strategy,
    },
    /// Teaching; the dataset is chosen here.
    Finetune {
        /// What is typed.
        dataset: TextField,
        /// Tags that the node knows.
        tags: Vec<String>,
    },
    /// A rollback to the previous revision.
    Rollback,
    /// Everything to a candidate that is being tried.
    Promote,
    /// Out of service; it is confirmed by typing its name.
    Stop {
        /// What is typed.
        name: TextField,
    },
}

/// Where typing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The model of a redeploy, or the dataset.
    Choice,
    /// The name that confirms.
    Name,
    /// Why.
    Reason,
}

/// What is known of what the change would do.
#[derive(Clone, Debug)]
pub enum PlanState {
    /// Not asked yet.
    None,
    /// Asked; the answer carries this serial.
    Asked(u64),
    /// Known.
    Ready(Box<ChangePlan>),
}

/// How far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Being filled in.
    Editing,
    /// Sent; the answer carries this serial.
    Sent(u64),
    /// Taken: its rollout is followed.
    Following(String),
}

/// A change before, while and after it is made.
#[derive(Clone, Debug)]
pub struct Dialog {
    /// Of which deployment.
    pub key: DeploymentKey,
    /// Which change.
    pub kind: DialogKind,
    /// Why.
    pub reason: TextField,
    /// Where typing goes.
    pub field: Field,
    /// What it would do.
    pub plan: PlanState,
    /// How far it has come.
    pub progress: Progress,
    /// What went wrong last, with what to do next.
    pub error: Option<String>,
    /// What was stable when it was opened.
    pub expected_revision: u32,
    /// The same for every attempt at this change.
    pub idempotency_key: String,
}

impl Dialog {
    /// What the agent would be asked for.
    pub fn action(&self) -> Action {
        let deployment = self.key.name.clone();
        match &self.kind {
            DialogKind::Deploy { model, force, strategy, .. } => {
                let model = model.text().trim().to_owned();
                let how = RolloutChoice { strategy: *strategy, ..RolloutChoice::default() };
                Action::Deploy { deployment, parts: RevisionParts::typed(&model), force: *force, how }
            }
            DialogKind::Finetune { dataset, .. } => {
                Action::Finetune { deployment, dataset: dataset.text().trim().to_owned() }
            }
            DialogKind::Promote => Action::Promote { deployment },
            DialogKind::Stop { .. } => Action::Stop { deployment },
            DialogKind::Rollback => Action::Rollback { deployment, to_revision: 0, cut: false },
        }
    }

    /// Tags that go on from what is typed.
    pub fn suggestions(&self) -> Vec<&str> {
        let Some((chosen, tags)) = self.kind.choice() else { return Vec::new() };
        tags.iter().map(String::as_str).filter(|tag| tag.contains(chosen.text().trim())).collect()
    }
}

impl DialogKind {
    /// What is chosen by name, and the names that the node knows.
    pub fn choice(&self) -> Option<(&TextField, &[String])> {
        match self {
            Self::Deploy { model, tags, .. } => Some((model, tags)),
            Self::Finetune { dataset, tags } => Some((dataset, tags)),
            Self::Rollback | Self::Promote | Self::Stop { .. } => None,
        }
    }

    pub(super) fn choice_mut(&mut self) -> Option<(&mut TextField, &mut Vec<String>)> {
        match self {
            Self::Deploy { model, tags, .. } => Some((model, tags)),
            Self::Finetune { dataset, tags } => Some((dataset, tags)),
            Self::Rollback | Self::Promote | Self::Stop { .. } => None,
        }
    }
}
