use llmdeck_proto::v1::rollout::{State, Strategy};
use llmdeck_proto::v1::{ChangePlan, Rollout};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::View;
use super::fleet::revision_name;
use super::format::{age, percent};
use super::overlay::boxed;
use super::pen::Pen;
use crate::app::{Dialog, DialogKind, Field, PlanState, Progress, TextField};
use crate::theme::Tone;

const WIDTH: u16 = 78;
const LEAST_HEIGHT: u16 = 15;
/// Rows of a dialog beside its fields and its plan: the frame, the reason with a space above, what goes on, and the keys.
const OTHER_ROWS: usize = 7;
const LABEL: u16 = 9;

pub(super) fn draw(view: &View<'_>, dialog: &Dialog, area: Rect, buffer: &mut Buffer) {
    let title = match dialog.kind {
        DialogKind::Deploy { .. } => format!("Deploy {}", dialog.key.name),
        DialogKind::Finetune { .. } => format!("Teach {}", dialog.key.name),
        DialogKind::Rollback => format!("Roll back {}", dialog.key.name),
        DialogKind::Promote => format!("Promote {}", dialog.key.name),
        DialogKind::Stop { .. } => format!("Stop {}", dialog.key.name),
    };
    let (height, effects) = room(dialog, area.height);
    let mut pen = boxed(view, &title, (WIDTH, height), area, buffer);
    let last = height - 3;
    let mut y = 0;
    if let Some((chosen, _)) = dialog.kind.choice() {
        let editing = dialog.field == Field::Choice && dialog.progress == Progress::Editing;
        let label = if matches!(dialog.kind, DialogKind::Deploy { .. }) { "model" } else { "data" };
        field(view, &mut pen, y, label, chosen, editing);
        y += 1;
        if dialog.field == Field::Choice && matches!(dialog.plan, PlanState::None) {
            let suggestions = dialog.suggestions().join("  ");
            pen.put(LABEL, y, &suggestions, Tone::Quiet);
        }
        if !matches!(dialog.kind, DialogKind::Deploy { .. }) {
            y += 1;
        }
    }
    if let DialogKind::Deploy { force, strategy, .. } = &dialog.kind {
        let chosen = match strategy {
            Strategy::Unspecified => "",
            Strategy::Replace => "all at once",
            Strategy::Canary => "as a canary",
            Strategy::Shadow => "as a shadow",
        };
        let forced = if *force { "forced past the floor" } else { "" };
        let said =
            [chosen, forced].into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(", ");
        pen.put_right(pen.area.width, y, &said, if *force { Tone::Warning } else { Tone::Information });
        y += 1;
    }
    match &dialog.plan {
        PlanState::None => {}
        PlanState::Asked(_) => {
            pen.put(LABEL, y, "asking the agent what would change", Tone::Quiet);
        }
        PlanState::Ready(plan) => y = draw_plan(&mut pen, y, plan, effects),
    }
    y += 1;
    if let DialogKind::Stop { name } = &dialog.kind {
        let editing = dialog.field == Field::Name && dialog.progress == Progress::Editing;
        field(view, &mut pen, y.min(last - 3), "its name", name, editing);
        y += 1;
    }
    if matches!(dialog.plan, PlanState::Ready(_)) || dialog.kind.choice().is_none() {
        let editing = dialog.field == Field::Reason && dialog.progress == Progress::Editing;
        field(view, &mut pen, y.min(last - 2), "reason", &dialog.reason, editing);
    }
    draw_progress(view, dialog, &mut pen, last);
}

/// How high a dialog is on a screen of so many rows, and how many effects of its plan it shows: what can be undone and why are
/// never covered by them.
fn room(dialog: &Dialog, rows: u16) -> (u16, usize) {
    let PlanState::Ready(plan) = &dialog.plan else { return (LEAST_HEIGHT, 0) };
    let fields = match dialog.kind {
        DialogKind::Deploy { .. } | DialogKind::Finetune { .. } => 2,
        DialogKind::Stop { .. } => 1,
        DialogKind::Rollback | DialogKind::Promote => 0,
    };
    let revisions = if plan.to_revision > 0 { 2 } else { 0 };
    let others = OTHER_ROWS + fields + revisions;
    let height =
        (others + plan.effects.len()).clamp(usize::from(LEAST_HEIGHT), usize::from(rows.max(LEAST_HEIGHT)));
    (u16::try_from(height).unwrap_or(rows), height - others)
}

fn field(view: &View<'_>, pen: &mut Pen<'_>, y: u16, label: &str, text: &TextField, editing: bool) {
    pen.put(0, y, label, Tone::Quiet);
    let (before, behind) = text.split();
    let cursor = if editing { view.theme.symbols.cursor } else { "" };
    // The end of a long text is what is being typed.
    let room = usize::from(pen.area.width.saturating_sub(LABEL + 2));
    let hidden = before.chars().count().saturating_sub(room);
    let shown: String = before.chars().skip(hidden).collect();
    pen.put(LABEL, y, &format!("{shown}{cursor}{behind}"), Tone::Strong);
}

fn draw_plan(pen: &mut Pen<'_>, mut y: u16, plan: &ChangePlan, most_effects: usize) -> u16 {
    if plan.to_revision > 0 {
        y = draw_revisions(pen, y, plan);
    }
    let count = plan.effects.len();
    let shown = if count > most_effects { most_effects.saturating_sub(1) } else { count };
    let more = (shown < count).then(|| format!("and {} more", count - shown));
    for (index, effect) in plan.effects[..shown].iter().chain(&more).enumerate() {
        pen.put(0, y, if index == 0 { "effect" } else { "" }, Tone::Quiet);
        pen.put(LABEL, y, effect, Tone::Plain);
        y += 1;
    }
    pen.put(0, y, "undo", Tone::Quiet);
    pen.put(LABEL, y, &plan.undo, Tone::Plain);
    y + 1
}

fn draw_revisions(pen: &mut Pen<'_>, mut y: u16, plan: &ChangePlan) -> u16 {
    let name = &plan.deployment;
    let from = revision_name(name, plan.from_revision, &plan.from_model);
    let to = revision_name(name, plan.to_revision, &plan.to_model);
    pen.put(0, y, "from", Tone::Quiet);
    pen.put(LABEL, y, if plan.from_revision == 0 { "nothing" } else { &from }, Tone::Plain);
    y += 1;
    pen.put(0, y, "to", Tone::Quiet);
    let end = pen.put(LABEL, y, &to, Tone::Plain);
    if plan.standby_ready {
        pen.put(end + 2, y, "standby, ready now", Tone::Information);
    }
    y + 1
}

/// The last two lines: how it goes, and which keys do what.
fn draw_progress(view: &View<'_>, dialog: &Dialog, pen: &mut Pen<'_>, last: u16) {
    let keys = match &dialog.progress {
        Progress::Editing => match (&dialog.kind, &dialog.plan) {
            (DialogKind::Rollback, _) => "Enter roll back   Esc no",
            (DialogKind::Promote, _) => "Enter promote   Esc no",
            (DialogKind::Stop { .. }, _) => "Enter stop it   Tab reason   Esc no",
            (DialogKind::Finetune { .. }, PlanState::Ready(_)) => "Enter teach   Tab data   Esc no",
            (_, PlanState::Ready(_)) => "Enter deploy   Tab model   Ctrl-S strategy   Ctrl-F force   Esc no",
            _ => "Enter see what would change   Down choose   Esc no",
        },
        Progress::Sent(_) => "Esc close",
        Progress::Following(_) => "Enter close; it goes on",
    };
    pen.put_right(pen.area.width, last, keys, Tone::Quiet);
    if let Some(error) = &dialog.error {
        pen.put_wrapped(0, last - 2, 2, error, Tone::Bad);
        return;
    }
    match &dialog.progress {
        Progress::Editing => {}
        Progress::Sent(_) => {
            pen.put(0, last - 1, "sent", Tone::Information);
        }
        Progress::Following(id) => match find(view, dialog, id) {
            Some(rollout) => {
                let (text, tone) = progress_line(view, rollout);
                pen.put_wrapped(0, last - 2, 2, &text, tone);
            }
            None => {
                pen.put(0, last - 1, "accepted", Tone::Information);
            }
        },
    }
}

fn find<'a>(view: &View<'a>, dialog: &Dialog, id: &str) -> Option<&'a Rollout> {
    let frame = view.model.nodes.get(dialog.key.node)?.frame.as_ref()?;
    frame.rollouts.iter().find(|rollout| rollout.id == id)
}

/// How a rollout stands, in one sentence.
pub(super) fn progress_line(view: &View<'_>, rollout: &Rollout) -> (String, Tone) {
    let revision = format!("{}@{}", rollout.deployment, rollout.to_revision);
    let took = rollout.ended_unix_ms.unwrap_or(view.now_unix_ms) - rollout.started_unix_ms;
    let failed = rollout.failed_requests;
    match rollout.state() {
        State::Done => {
            (format!("{revision} {}; {failed} failed ({})", rollout.detail, age(took)), Tone::Information)
        }
        State::Failed => (format!("{revision} failed: {}", rollout.detail), Tone::Bad),
        State::Aborted => (format!("{revision} {}", rollout.detail), Tone::Warning),
        State::RolledBack => {
            (format!("{revision} was taken back; {}; {failed} failed", rollout.detail), Tone::Warning)
        }
        _ => {
            let progress = rollout.progress.map(|share| format!(" {}", percent(share))).unwrap_or_default();
            (format!("{revision}: {}{progress} ({})", rollout.detail, age(took)), Tone::Information)
        }
    }
}
