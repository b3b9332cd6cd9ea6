use llmdeck_proto::v1::rollout::State;

use super::{DEPLOYMENT, STUDENT, WORSE};
use crate::app::{App, Overlay, Screen};
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
        return "2/7  it loads beside what serves and is scored; no request waits for it".into();
    }
    match (serves, rollout) {
        (Some(WORSE), _) => "3/7  quality fell; press r and Enter to roll back".into(),
        (Some(_), None) => {
            let choose = if app.deployment_in_view(model).is_none() { "j, " } else { "" };
            format!("1/7  live traffic; press {choose}d, type worse, Enter, Enter: deploy a worse model")
        }
        (Some(_), Some(_)) => teaching(app, model),
        (None, _) => "the model is loading".into(),
    }
}

/// The second half: the student learns the skill that it lacks.
fn teaching(app: &App, model: &Model) -> String {
    let key = DeploymentKey { node: 0, name: STUDENT.to_owned() };
    let student = model.deployment(&key);
    let stable =
        student.and_then(|known| known.revisions.iter().find(|one| one.number == known.stable_revision));
    let job = model
        .nodes
        .first()
        .and_then(|node| node.frame.as_ref())
        .and_then(|frame| frame.jobs.iter().find(|job| job.kind == "finetune" && job.state != "failed"));
    let rollout = model.rollout(&key).filter(|rollout| rollout.ended_unix_ms.is_none());
    if stable.is_some_and(|revision| !revision.adapter.is_empty()) {
        return "7/7  the student knows it now, over the same weights; r takes it back, q leaves".into();
    }
    if rollout.is_some_and(|rollout| rollout.state() == State::Canary) {
        return "6/7  it serves as a canary: open student, press v, then P and Enter to promote".into();
    }
    if job.is_some_and(|job| matches!(job.state.as_str(), "running" | "queued")) {
        return "5/7  it learns beside the traffic; the curves are on this job's screen".into();
    }
    if matches!(&app.screen, Screen::Deployment(open) if *open == key) {
        return "4/7  press t, type missing, Enter, Enter: teach it the skill that it lacks".into();
    }
    "4/7  rolled back; now select student (Esc, j), Enter: it lacks a skill".into()
}
