//! Keys inside a dialog, and how one is opened.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use llmdeck_proto::v1::rollout::Strategy;

use super::action::Intent;
use super::dialog::{Dialog, DialogKind, Field, PlanState, Progress};
use super::rows::{Health, deployment_health};
use super::text_field::TextField;
use super::{App, Overlay};
use crate::model::{DeploymentKey, Model};

fn dialog(app: &mut App, model: &Model, key: DeploymentKey, kind: DialogKind, field: Field) -> Dialog {
    let expected_revision = model.deployment(&key).map_or(0, |deployment| deployment.stable_revision);
    let reason = match kind {
        DialogKind::Rollback => what_is_wrong(model, &key),
        DialogKind::Deploy { .. }
        | DialogKind::Finetune { .. }
        | DialogKind::Promote
        | DialogKind::Stop { .. } => String::new(),
    };
    let reason = TextField::new(&reason);
    let serial = app.next_serial();
    Dialog {
        key,
        kind,
        reason,
        field,
        plan: PlanState::None,
        progress: Progress::Editing,
        error: None,
        expected_revision,
        idempotency_key: format!("{:016x}-{serial}", rand::random::<u64>()),
    }
}

/// Most often why someone rolls back. One that was stopped warns of what an operator wanted, which is no reason to bring it back.
fn what_is_wrong(model: &Model, key: &DeploymentKey) -> String {
    let (health, alert) = deployment_health(model, key);
    let serves = model.deployment(key).is_some_and(|deployment| deployment.unavailable.is_empty());
    alert.filter(|_| serves || health == Health::Bad).unwrap_or_default()
}

pub(super) fn open_rollback(app: &mut App, model: &Model, key: DeploymentKey) -> Vec<Intent> {
    open_planned(app, model, key, DialogKind::Rollback, Field::Reason)
}

pub(super) fn open_promote(app: &mut App, model: &Model, key: DeploymentKey) -> Vec<Intent> {
    open_planned(app, model, key, DialogKind::Promote, Field::Reason)
}

pub(super) fn open_stop(app: &mut App, model: &Model, key: DeploymentKey) -> Vec<Intent> {
    open_planned(app, model, key, DialogKind::Stop { name: TextField::default() }, Field::Name)
}

fn open_planned(
    app: &mut App,
    model: &Model,
    key: DeploymentKey,
    kind: DialogKind,
    field: Field,
) -> Vec<Intent> {
    if only_looked_at(app, model, &key) {
        return Vec::new();
    }
    let mut dialog = dialog(app, model, key, kind, field);
    let intent = ask_plan(app, &mut dialog);
    app.overlay = Some(Overlay::Dialog(Box::new(dialog)));
    vec![intent]
}

/// A server without an agent cannot be changed; the operator is told before anything is typed.
fn only_looked_at(app: &mut App, model: &Model, key: &DeploymentKey) -> bool {
    let without_agent = model.is_without_agent(key.node);
    if without_agent {
        app.notice =
            Some(format!("{} is a server without an agent: it can be looked at, not changed", key.name));
    }
    without_agent
}

pub(super) fn open_deploy(app: &mut App, model: &Model, key: DeploymentKey) -> Vec<Intent> {
    if only_looked_at(app, model, &key) {
        return Vec::new();
    }
    let kind = DialogKind::Deploy {
        model: TextField::default(),
        tags: Vec::new(),
        force: false,
        strategy: Strategy::Unspecified,
    };
    open_choice(app, model, key, kind, "model")
}

pub(super) fn open_finetune(app: &mut App, model: &Model, key: DeploymentKey) -> Vec<Intent> {
    if only_looked_at(app, model, &key) {
        return Vec::new();
    }
    let kind = DialogKind::Finetune { dataset: TextField::default(), tags: Vec::new() };
    open_choice(app, model, key, kind, "dataset")
}

fn open_choice(
    app: &mut App,
    model: &Model,
    key: DeploymentKey,
    kind: DialogKind,
    artifacts: &'static str,
) -> Vec<Intent> {
    let node = key.node;
    let dialog = dialog(app, model, key, kind, Field::Choice);
    app.overlay = Some(Overlay::Dialog(Box::new(dialog)));
    vec![Intent::ListArtifacts { kind: artifacts, node, serial: app.next_serial() }]
}

fn ask_plan(app: &mut App, dialog: &mut Dialog) -> Intent {
    let serial = app.next_serial();
    dialog.plan = PlanState::Asked(serial);
    dialog.error = None;
    act(dialog, true, serial)
}

fn act(dialog: &Dialog, dry_run: bool, serial: u64) -> Intent {
    Intent::Act {
        node: dialog.key.node,
        action: dialog.action(),
        reason: dialog.reason.text().trim().to_owned(),
        expected_revision: dialog.expected_revision,
        dry_run,
        idempotency_key: dialog.idempotency_key.clone(),
        serial,
    }
}

pub(super) fn on_dialog_key(app: &mut App, mut dialog: Box<Dialog>, key: KeyEvent) -> Vec<Intent> {
    let mut intents = Vec::new();
    let following = matches!(dialog.progress, Progress::Following(_));
    match key.code {
        KeyCode::Esc => return intents,
        KeyCode::Enter if following => return intents,
        _ if dialog.progress != Progress::Editing => {}
        KeyCode::Enter => intents = on_dialog_enter(app, &mut dialog),
        KeyCode::Tab | KeyCode::BackTab => {
            dialog.field = match (&dialog.kind, dialog.field) {
                (kind, Field::Reason) if kind.choice().is_some() => Field::Choice,
                (DialogKind::Stop { .. }, Field::Reason) => Field::Name,
                _ => Field::Reason,
            };
            if dialog.field == Field::Reason && matches!(dialog.plan, PlanState::None) {
                intents.extend(plan_if_named(app, &mut dialog));
            }
        }
        KeyCode::Down if dialog.field == Field::Choice => take_suggestion(&mut dialog, 1),
        KeyCode::Up if dialog.field == Field::Choice => take_suggestion(&mut dialog, -1),
        KeyCode::Char('f') if key.modifiers.contains(KeyModifiers::CONTROL) => {
            if let DialogKind::Deploy { force, .. } = &mut dialog.kind {
                *force = !*force;
                intents.extend(plan_if_named(app, &mut dialog));
            }
        }
        KeyCode::Char('s') if key.modifiers.contains(KeyModifiers::CONTROL) => {
            if let DialogKind::Deploy { strategy, .. } = &mut dialog.kind {
                *strategy = next_strategy(*strategy);
                intents.extend(plan_if_named(app, &mut dialog));
            }
        }
        _ => {
            let changed_choice = match (&mut dialog.kind, dialog.field) {
                (DialogKind::Stop { name }, Field::Name) => {
                    name.key(key);
                    false
                }
                (kind, Field::Choice) => kind.choice_mut().is_some_and(|(chosen, _)| chosen.key(key)),
                _ => {
                    dialog.reason.key(key);
                    false
                }
            };
            if changed_choice {
                dialog.plan = PlanState::None;
            }
        }
    }
    app.overlay = Some(Overlay::Dialog(dialog));
    intents
}

fn next_strategy(strategy: Strategy) -> Strategy {
    match strategy {
        Strategy::Unspecified => Strategy::Canary,
        Strategy::Canary => Strategy::Shadow,
        Strategy::Shadow => Strategy::Replace,
        Strategy::Replace => Strategy::Unspecified,
    }
}

fn on_dialog_enter(app: &mut App, dialog: &mut Dialog) -> Vec<Intent> {
    if let DialogKind::Stop { name } = &dialog.kind
        && name.text().trim() != dialog.key.name
    {
        dialog.field = Field::Name;
        dialog.error = Some(format!("type {} to stop it", dialog.key.name));
        return Vec::new();
    }
    match (&dialog.plan, dialog.field) {
        (PlanState::Ready(_), Field::Reason | Field::Name) => {
            let serial = app.next_serial();
            dialog.progress = Progress::Sent(serial);
            dialog.error = None;
            if matches!(dialog.kind, DialogKind::Finetune { .. }) {
                app.awaited_job = Some((serial, dialog.key.node));
            }
            vec![act(dialog, false, serial)]
        }
        (PlanState::Asked(_), _) => Vec::new(),
        _ => {
            if let Some((chosen, tags)) = dialog.kind.choice_mut()
                && let [only] = &tags.iter().filter(|tag| tag.contains(chosen.text())).collect::<Vec<_>>()[..]
                && !chosen.text().is_empty()
            {
                *chosen = TextField::new(only);
            }
            dialog.field = Field::Reason;
            plan_if_named(app, dialog)
        }
    }
}

fn plan_if_named(app: &mut App, dialog: &mut Dialog) -> Vec<Intent> {
    if let Some((chosen, _)) = dialog.kind.choice()
        && chosen.text().trim().is_empty()
    {
        let what = if matches!(dialog.kind, DialogKind::Deploy { .. }) { "model" } else { "dataset" };
        dialog.field = Field::Choice;
        dialog.error = Some(format!("choose a {what}: type a tag, a digest or a path, or press Down"));
        return Vec::new();
    }
    vec![ask_plan(app, dialog)]
}

fn take_suggestion(dialog: &mut Dialog, by: isize) {
    let Some((chosen, tags)) = dialog.kind.choice_mut() else { return };
    let Some(last) = tags.len().checked_sub(1) else { return };
    let now = tags.iter().position(|tag| tag == chosen.text());
    let next = match now {
        Some(now) => now.saturating_add_signed(by).min(last),
        None => 0,
    };
    *chosen = TextField::new(&tags[next]);
    dialog.plan = PlanState::None;
}
