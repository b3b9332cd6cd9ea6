use llmdeck_proto::v1::rollout::State;

use super::{DEPLOYMENT, WORSE};
use crate::app::{App, Overlay};
use crate::model::{DeploymentKey, Model};

/// The next step of the story, by where it stands.
pub(super) fn hint(app: &App, model: &Model) -> String {
    let key = DeploymentKey { node: 0, name: DEPLOYMENT.to_owned() };
    let stable = model.deployment(&key).map_or(0, |deployment| deployment.stable_revision);
    let serves = model.deployment(&key).and_then(|deployment| {
        let revision = deployment.revisions.iter().find(|revision| revision.number == stable)?;
        Some(revision.model.as_str())
    });
    let rollout = model.rollout(&key);
    let under_way = rollout.is_some_and(|rollout| {
        rollout.ended_unix_ms.is_none() && !matches!(rollout.state(), State::Draining)
    });
    if matches!(app.overlay, Some(Overlay::Dialog(_))) {
        return "the dialog says what will change; Enter goes on, Esc leaves all as it is".into();
    }
    if rollout.is_some_and(|rollout| rollout.state() == State::Canary) {
        return "a part of the traffic goes to it; v shows it, there P promotes and x ends it".into();
    }
    if under_way {
        return "2/4  it loads beside what serves and is scored; no request waits for it".into();
    }
    match (serves, rollout) {
        (Some(WORSE), _) => "3/4  quality fell; press r and Enter to roll back".into(),
        (Some(_), None) => {
            "1/4  live traffic; press d, type worse, Enter, Enter: deploy a worse model".into()
        }
        (Some(_), Some(rollout)) => format!(
            "4/4  rolled back, {} requests failed; Enter opens the deployment, q leaves",
            rollout.failed_requests
        ),
        (None, _) => "the model is loading".into(),
    }
}
