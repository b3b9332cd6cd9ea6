use crossterm::event::{
    Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};
use ratatui::layout::Position;

use super::action::{Action, Answer, Intent};
use super::dialog::{Field, PlanState, Progress};
use super::dialog_keys::{on_dialog_key, open_deploy, open_finetune, open_promote, open_rollback, open_stop};
use super::jobs::JobKey;
use super::palette::{Command, Palette};
use super::rows::{deployment_rows, node_rows};
use super::text_field::TextField;
use super::{App, Overlay, Row, Screen};
use crate::link::LinkError;
use crate::model::{DeploymentKey, Model};

/// What comes in beside frames.
#[derive(Debug)]
pub enum AppEvent {
    /// From the terminal.
    Terminal(Event),
    /// From an agent.
    Answer(Answer),
    /// A second has passed.
    Second,
}

/// Lines that a page key moves.
const PAGE: usize = 10;

/// Takes an event; says what is to be done.
pub fn update(app: &mut App, model: &Model, event: AppEvent) -> Vec<Intent> {
    match event {
        AppEvent::Terminal(Event::Key(key)) if key.kind != KeyEventKind::Release => on_key(app, model, key),
        AppEvent::Terminal(Event::Mouse(mouse)) => on_mouse(app, mouse),
        AppEvent::Terminal(Event::Paste(text)) => on_paste(app, &text),
        AppEvent::Terminal(_) => Vec::new(),
        AppEvent::Answer(answer) => on_answer(app, answer),
        AppEvent::Second => {
            let mut intents = app.look_at_jobs(model);
            intents.extend(app.look_at_rollout());
            intents
        }
    }
}

fn on_key(app: &mut App, model: &Model, key: KeyEvent) -> Vec<Intent> {
    if key.modifiers.contains(KeyModifiers::ALT) {
        // Escape and the key behind it, when a slow link brings both at once.
        let mut intents = on_key(app, model, KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE));
        intents.extend(on_key(app, model, KeyEvent::new(key.code, key.modifiers - KeyModifiers::ALT)));
        return intents;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        match key.code {
            KeyCode::Char('c') => return vec![Intent::Quit],
            KeyCode::Char('z') => return vec![Intent::Suspend],
            _ => {}
        }
    }
    app.notice = None;
    match app.overlay.take() {
        Some(Overlay::Dialog(dialog)) => return on_dialog_key(app, dialog, key),
        Some(Overlay::Palette(palette)) => return on_palette_key(app, model, palette, key),
        Some(Overlay::Help) => return Vec::new(),
        None => {}
    }
    if app.filtering {
        match key.code {
            KeyCode::Enter => app.filtering = false,
            KeyCode::Esc => {
                app.filtering = false;
                app.filter = TextField::default();
            }
            _ => {
                app.filter.key(key);
                app.scroll = 0;
            }
        }
        return Vec::new();
    }
    on_screen_key(app, model, key)
}

fn on_screen_key(app: &mut App, model: &Model, key: KeyEvent) -> Vec<Intent> {
    match key.code {
        KeyCode::Char('q') => return vec![Intent::Quit],
        KeyCode::Char('?') => app.overlay = Some(Overlay::Help),
        KeyCode::Char(':') => app.overlay = Some(Overlay::Palette(Palette::new(model))),
        KeyCode::Char('/') => app.filtering = true,
        KeyCode::Char('1') => app.go_to(Screen::Fleet),
        KeyCode::Char('2') => app.go_to(Screen::Events),
        KeyCode::Char('3') => return open_jobs(app, model),
        KeyCode::Char('v') => return with_deployment(app, model, |app, _, key| app.open_rollout(key)),
        KeyCode::Char('p') => {
            return app
                .hold_or_go_on()
                .map(|(node, action)| at_once(app, node, action))
                .into_iter()
                .collect();
        }
        KeyCode::Char('P') if matches!(app.screen, Screen::Rollout(_)) => {
            return with_deployment(app, model, open_promote);
        }
        KeyCode::Char('x') if matches!(app.screen, Screen::Rollout(_)) => {
            return app.end_rollout().map(|(node, action)| at_once(app, node, action)).into_iter().collect();
        }
        KeyCode::Char('x') => return cancel_open_job(app),
        KeyCode::Char('r') => return with_deployment(app, model, open_rollback),
        KeyCode::Char('d') => return with_deployment(app, model, open_deploy),
        KeyCode::Char('t') => return with_deployment(app, model, open_finetune),
        KeyCode::Enter => return open_selected(app, model),
        KeyCode::Esc if !app.filter.text().is_empty() => app.filter = TextField::default(),
        KeyCode::Esc => app.go_back(),
        KeyCode::Up | KeyCode::Char('k') => step(app, model, -1),
        KeyCode::Down | KeyCode::Char('j') => step(app, model, 1),
        KeyCode::PageUp => step(app, model, -(PAGE as isize)),
        KeyCode::PageDown => step(app, model, PAGE as isize),
        KeyCode::Home | KeyCode::Char('g') => step(app, model, isize::MIN),
        KeyCode::End | KeyCode::Char('G') => step(app, model, isize::MAX),
        KeyCode::Tab => other_section(app, model),
        _ => {}
    }
    Vec::new()
}

fn with_deployment(
    app: &mut App,
    model: &Model,
    open: fn(&mut App, &Model, DeploymentKey) -> Vec<Intent>,
) -> Vec<Intent> {
    match app.deployment_in_view(model) {
        Some(key) => open(app, model, key),
        None => {
            app.notice = Some("choose a deployment first: arrow keys, then r or d".into());
            Vec::new()
        }
    }
}

fn open_jobs(app: &mut App, model: &Model) -> Vec<Intent> {
    app.go_to(Screen::Jobs);
    app.look_at_jobs(model)
}

fn cancel_open_job(app: &mut App) -> Vec<Intent> {
    let running = app.jobs.open.as_ref().filter(|open| open.report.ended_unix_ms.is_none());
    match (&app.screen, running) {
        (Screen::Job(key), Some(_)) => {
            let (node, id) = (key.node, key.id.clone());
            vec![at_once(app, node, Action::CancelJob { id })]
        }
        _ => Vec::new(),
    }
}

/// Everything selectable on the screen, in its order.
fn rows(app: &App, model: &Model) -> Vec<Row> {
    if app.screen == Screen::Jobs {
        return app.jobs.rows().into_iter().map(|(key, _)| Row::Job(key)).collect();
    }
    let filter = app.filter.text();
    let deployments = deployment_rows(model, filter).into_iter().map(Row::Deployment);
    deployments.chain(node_rows(model, filter).into_iter().map(Row::Node)).collect()
}

fn step(app: &mut App, model: &Model, by: isize) {
    if !matches!(app.screen, Screen::Fleet | Screen::Jobs) {
        app.scroll = app.scroll.saturating_add_signed(by);
        return;
    }
    let rows = rows(app, model);
    let now = app.selected.as_ref().and_then(|selected| rows.iter().position(|row| row == selected));
    let last = rows.len().saturating_sub(1);
    let next = now.map_or(0, |now| now.saturating_add_signed(by).min(last));
    app.selected = rows.into_iter().nth(next);
}

fn other_section(app: &mut App, model: &Model) {
    if app.screen == Screen::Fleet {
        let on_node = matches!(app.selected, Some(Row::Node(_)));
        app.selected = rows(app, model).into_iter().find(|row| matches!(row, Row::Node(_)) != on_node);
    }
}

fn open_selected(app: &mut App, model: &Model) -> Vec<Intent> {
    if let Screen::Deployment(key) = &app.screen {
        let key = key.clone();
        return app.open_rollout(key);
    }
    if !matches!(app.screen, Screen::Fleet | Screen::Jobs) {
        return Vec::new();
    }
    let rows = rows(app, model);
    let selected = app.selected.clone().filter(|selected| rows.contains(selected));
    selected.or_else(|| rows.into_iter().next()).map_or_else(Vec::new, |row| open(app, row))
}

fn open(app: &mut App, row: Row) -> Vec<Intent> {
    match row {
        Row::Deployment(key) => app.go_to(Screen::Deployment(key)),
        Row::Node(node) => app.go_to(Screen::Node(node)),
        Row::Job(key) => return app.open_job(key),
    }
    Vec::new()
}

fn on_palette_key(app: &mut App, model: &Model, mut palette: Palette, key: KeyEvent) -> Vec<Intent> {
    match key.code {
        KeyCode::Esc => return Vec::new(),
        KeyCode::Enter => {
            return palette.command().map(|command| run_command(app, model, command)).unwrap_or_default();
        }
        KeyCode::Up => palette.chosen = palette.chosen.saturating_sub(1),
        KeyCode::Down => palette.chosen = (palette.chosen + 1).min(palette.matches().len().saturating_sub(1)),
        _ => {
            palette.input.key(key);
            palette.chosen = 0;
        }
    }
    app.overlay = Some(Overlay::Palette(palette));
    Vec::new()
}

fn run_command(app: &mut App, model: &Model, command: Command) -> Vec<Intent> {
    match command {
        Command::Fleet => app.go_to(Screen::Fleet),
        Command::Events => app.go_to(Screen::Events),
        Command::OpenDeployment(key) => app.go_to(Screen::Deployment(key)),
        Command::OpenNode(node) => app.go_to(Screen::Node(node)),
        Command::Help => app.overlay = Some(Overlay::Help),
        Command::Quit => return vec![Intent::Quit],
        Command::Deploy(key) => return open_deploy(app, model, key),
        Command::Finetune(key) => return open_finetune(app, model, key),
        Command::Rollback(key) => return open_rollback(app, model, key),
        Command::Stop(key) => return open_stop(app, model, key),
        Command::OpenRollout(key) => return app.open_rollout(key),
        Command::Pause(key) => return vec![at_once(app, key.node, Action::Pause { deployment: key.name })],
        Command::Resume(key) => return vec![at_once(app, key.node, Action::Resume { deployment: key.name })],
        Command::Promote(key) => return open_promote(app, model, key),
        Command::Abort(key) => return vec![at_once(app, key.node, Action::Abort { deployment: key.name })],
        Command::Evaluate(key) => {
            return vec![at_once(app, key.node, Action::Evaluate { deployment: key.name })];
        }
        Command::Jobs => return open_jobs(app, model),
        Command::Bench(key) => return begin_job(app, key.node, Action::Bench { deployment: key.name }),
        Command::BenchNode(node) => return begin_job(app, node, Action::BenchNode),
    }
    Vec::new()
}

/// A job that is shown as soon as the agent has taken it.
fn begin_job(app: &mut App, node: usize, action: Action) -> Vec<Intent> {
    let intent = at_once(app, node, action);
    app.awaited_job = Some((app.serial, node));
    vec![intent]
}

fn at_once(app: &mut App, node: usize, action: Action) -> Intent {
    let serial = app.next_serial();
    Intent::Act {
        node,
        action,
        reason: String::new(),
        expected_revision: 0,
        dry_run: false,
        idempotency_key: String::new(),
        serial,
    }
}

fn on_mouse(app: &mut App, mouse: MouseEvent) -> Vec<Intent> {
    let at = Position::new(mouse.column, mouse.row);
    let hit = || app.hits.0.iter().find(|(area, _)| area.contains(at)).map(|(_, row)| row.clone());
    if app.overlay.is_some() {
        return Vec::new();
    }
    match mouse.kind {
        MouseEventKind::Down(MouseButton::Left) => {
            let Some(row) = hit() else { return Vec::new() };
            if app.selected.as_ref() == Some(&row) {
                return open(app, row);
            }
            app.selected = Some(row);
        }
        MouseEventKind::ScrollDown => app.scroll += 3,
        MouseEventKind::ScrollUp => app.scroll = app.scroll.saturating_sub(3),
        _ => {}
    }
    Vec::new()
}

fn on_paste(app: &mut App, text: &str) -> Vec<Intent> {
    match &mut app.overlay {
        Some(Overlay::Dialog(dialog)) if dialog.progress == Progress::Editing => {
            match (dialog.kind.choice_mut(), dialog.field) {
                (Some((chosen, _)), Field::Choice) => {
                    chosen.paste(text);
                    dialog.plan = PlanState::None;
                }
                _ => dialog.reason.paste(text),
            }
        }
        Some(Overlay::Palette(palette)) => palette.input.paste(text),
        None if app.filtering => app.filter.paste(text),
        _ => {}
    }
    Vec::new()
}

fn on_answer(app: &mut App, answer: Answer) -> Vec<Intent> {
    if let Answer::Accepted { serial, id: Ok(id) } = &answer
        && let Some((_, node)) = app.awaited_job.take_if(|(awaited, _)| awaited == serial)
    {
        if matches!(app.overlay, Some(Overlay::Dialog(_))) {
            app.overlay = None;
        }
        return app.open_job(JobKey { node, id: id.clone() });
    }
    let dialog = match &mut app.overlay {
        Some(Overlay::Dialog(dialog)) => Some(dialog),
        _ => None,
    };
    match (answer, dialog) {
        (Answer::Planned { serial, plan }, Some(dialog)) => {
            if matches!(dialog.plan, PlanState::Asked(asked) if asked == serial) {
                match plan {
                    Ok(plan) => dialog.plan = PlanState::Ready(Box::new(plan)),
                    Err(error) => {
                        dialog.plan = PlanState::None;
                        dialog.error = Some(error.to_string());
                        if matches!(error, LinkError::Wrong(_)) && dialog.kind.choice().is_some() {
                            dialog.field = Field::Choice;
                        }
                    }
                }
            }
        }
        (Answer::Tags { tags: Ok(known), .. }, Some(dialog)) => {
            if let Some((_, tags)) = dialog.kind.choice_mut() {
                *tags = known;
            }
        }
        (Answer::Accepted { serial, id }, Some(dialog)) if dialog.progress == Progress::Sent(serial) => {
            match id {
                // What has no steps to follow is done.
                Ok(id) if id.is_empty() => {
                    app.notice = Some(format!("{} is stopped; rolling back brings it back", dialog.key.name));
                    app.overlay = None;
                }
                Ok(id) => dialog.progress = Progress::Following(id),
                Err(error) => {
                    dialog.progress = Progress::Editing;
                    dialog.error = Some(error.to_string());
                }
            }
        }
        (Answer::Accepted { id: Ok(_), .. }, _) => {
            app.notice = Some("accepted; events and rollouts show how it goes".into());
        }
        (Answer::Accepted { id: Err(error), .. }, _) => app.notice = Some(error.to_string()),
        (Answer::Jobs { node, jobs: Ok(jobs) }, _) => app.jobs.take_list(node, jobs),
        (Answer::Job { key, report }, _) => app.jobs.take_report(&key, report),
        (Answer::Rollout { key, rollout }, _) => app.take_rollout(&key, rollout),
        _ => {}
    }
    Vec::new()
}
