//! A deployment's latest rollout as the operator looks at it.

use llmdeck_proto::v1::rollout::State;
use llmdeck_proto::v1::{Finding, Rollout, Verdict};

use super::action::{Action, Intent};
use super::{App, Screen};
use crate::link::LinkError;
use crate::model::DeploymentKey;

/// What an agent told of a rollout last.
#[derive(Debug)]
pub struct OpenRollout {
    /// Of which deployment.
    pub key: DeploymentKey,
    /// `None` when there never was one, or nothing was told yet.
    pub rollout: Option<Box<Rollout>>,
    /// Something was told.
    pub told: bool,
    /// Why the agent does not tell, where it does not.
    pub error: Option<String>,
}

impl App {
    /// Shows the latest rollout of a deployment, and asks for it.
    pub(super) fn open_rollout(&mut self, key: DeploymentKey) -> Vec<Intent> {
        self.rollout = Some(OpenRollout { key: key.clone(), rollout: None, told: false, error: None });
        self.go_to(Screen::Rollout(key.clone()));
        vec![Intent::GetRollout { key }]
    }

    /// What is asked anew each second while a rollout is looked at.
    pub(super) fn look_at_rollout(&self) -> Vec<Intent> {
        match &self.screen {
            Screen::Rollout(key) => vec![Intent::GetRollout { key: key.clone() }],
            _ => Vec::new(),
        }
    }

    pub(super) fn take_rollout(
        &mut self,
        key: &DeploymentKey,
        told: Result<Option<Box<Rollout>>, LinkError>,
    ) {
        let Some(open) = self.rollout.as_mut().filter(|open| open.key == *key) else { return };
        match told {
            Ok(rollout) => {
                *open = OpenRollout { key: key.clone(), rollout, told: true, error: None };
            }
            Err(error) => open.error = Some(error.to_string()),
        }
    }

    /// The canary or shadow on the screen that is under way.
    fn compared(&self) -> Option<(&DeploymentKey, &Rollout)> {
        let Screen::Rollout(key) = &self.screen else { return None };
        let open = self.rollout.as_ref().filter(|open| open.key == *key)?;
        let rollout = open.rollout.as_deref().filter(|rollout| rollout.state() == State::Canary)?;
        Some((key, rollout))
    }

    /// Holds the rollout on the screen, or lets it go on.
    pub(super) fn hold_or_go_on(&self) -> Option<(usize, Action)> {
        let (key, rollout) = self.compared()?;
        let deployment = key.name.clone();
        let action =
            if rollout.paused { Action::Resume { deployment } } else { Action::Pause { deployment } };
        Some((key.node, action))
    }

    /// Ends the rollout on the screen, unless it has ended.
    pub(super) fn end_rollout(&self) -> Option<(usize, Action)> {
        let Screen::Rollout(key) = &self.screen else { return None };
        let rollout = self.rollout.as_ref().filter(|open| open.key == *key)?.rollout.as_deref()?;
        rollout.ended_unix_ms.is_none().then(|| (key.node, Action::Abort { deployment: key.name.clone() }))
    }
}

/// Findings as they are shown: what is judged before what is not, and of that what is worse or undecided first.
pub fn finding_rows(rollout: &Rollout) -> Vec<&Finding> {
    let mut rows: Vec<&Finding> =
        rollout.assessment.iter().flat_map(|assessment| &assessment.findings).collect();
    rows.sort_by_key(|finding| (!finding.judged, finding.judged && finding.verdict() != Verdict::Worse));
    rows
}
