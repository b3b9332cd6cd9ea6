use llmdeck_proto::v1::alert::Severity;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::View;
use super::format::{age, time_of_day};
use super::pen::{Pen, width};
use crate::app::Screen;
use crate::model::LinkState;
use crate::theme::Tone;

/// A frame later than this many of its intervals is old, and said to be.
const LATE_INTERVALS: i64 = 4;
const LEAST_LATE_MS: i64 = 3_000;

/// Draws the first line and the last two; returns what is between.
pub(super) fn draw(view: &View<'_>, area: Rect, buffer: &mut Buffer) -> Rect {
    let mut pen = Pen { theme: view.theme, area, buffer };
    header(view, &mut pen);
    footer(view, &mut pen);
    Rect { y: area.y + 1, height: area.height - 3, ..area }
}

fn header(view: &View<'_>, pen: &mut Pen<'_>) {
    let model = view.model;
    let dot = view.theme.symbols.dot;
    let deployments: usize =
        model.nodes.iter().filter_map(|node| node.frame.as_ref()).map(|frame| frame.deployments.len()).sum();
    let alerts = model.alerts().filter(|(_, alert)| alert.severity() != Severity::Information).count();
    let lost = model.nodes.iter().filter(|node| matches!(node.link, LinkState::Lost { .. })).count();
    let mut x = pen.put(1, 0, "llmdeck", Tone::Strong);
    x = pen.put(
        x + 2,
        0,
        &format!("{} {dot} {}", count(model.nodes.len(), "node"), count(deployments, "deployment")),
        Tone::Plain,
    );
    if alerts > 0 {
        let bad = model.alerts().any(|(_, alert)| alert.severity() == Severity::Bad);
        x = pen.put(x, 0, &format!(" {dot} "), Tone::Plain);
        x = pen.put(x, 0, &count(alerts, "alert"), if bad { Tone::Bad } else { Tone::Warning });
    }
    let (state, tone) = if lost > 0 {
        (format!("{} lost", count(lost, "agent")), Tone::Bad)
    } else if model.nodes.iter().any(|node| node.link == LinkState::Connecting) {
        ("connecting".to_owned(), Tone::Warning)
    } else if let Some(age_ms) = oldest_late_ms(view) {
        (format!("data {} old", age(age_ms)), Tone::Warning)
    } else {
        ("live".to_owned(), Tone::Quiet)
    };
    let name = match &model.nodes[..] {
        [only] => only.name(),
        _ => "",
    };
    let clock = time_of_day(view.now_unix_ms, view.zone);
    let right = format!("{name}  {clock}  {state}");
    let end = pen.area.width.saturating_sub(1);
    if x + width(&right) + 2 < end {
        pen.put_right(end - width(&state), 0, &format!("{name}  {clock}  "), Tone::Plain);
    }
    pen.put_right(end, 0, &state, tone);
}

fn oldest_late_ms(view: &View<'_>) -> Option<i64> {
    let late = view.model.nodes.iter().filter_map(|node| {
        let frame = node.frame.as_ref()?;
        let age_ms = node.age_ms(view.now_unix_ms)?;
        (age_ms > (i64::from(frame.interval_ms) * LATE_INTERVALS).max(LEAST_LATE_MS)).then_some(age_ms)
    });
    late.max()
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn footer(view: &View<'_>, pen: &mut Pen<'_>) {
    let app = view.app;
    let (above, last) = (pen.area.height - 2, pen.area.height - 1);
    if let Some(notice) = &app.notice {
        pen.put(1, above, notice, Tone::Warning);
    } else if app.filtering || !app.filter.text().is_empty() {
        let (before, behind) = app.filter.split();
        let cursor = if app.filtering { view.theme.symbols.cursor } else { "" };
        pen.put(1, above, &format!("/{before}{cursor}{behind}"), Tone::Information);
    } else if let Some(guide) = app.guide {
        pen.put(1, above, &guide(app, view.model), Tone::Information);
    }
    let keys = match &app.screen {
        Screen::Fleet if (0..view.model.nodes.len()).all(|node| view.model.is_without_agent(node)) => {
            "Enter open   / filter   : command   ? help"
        }
        Screen::Deployment(key) if view.model.is_without_agent(key.node) => "Esc back   : command   ? help",
        Screen::Fleet => "Enter open   r roll back   d deploy   / filter   : command   ? help",
        Screen::Deployment(_) => "Esc back   Enter rollout   r roll back   d deploy   : command   ? help",
        Screen::Rollout(_) => "Esc back   p pause   P promote   x end it   r roll back   ? help",
        Screen::Node(_) => "Esc back   Up/Down scroll   : command   ? help",
        Screen::Events => "Esc back   Up/Down scroll   / filter   : command   ? help",
        Screen::Jobs => "Enter open   Esc back   : command (bench …)   ? help",
        Screen::Job(_) => "Esc back   x end it   Up/Down scroll   : command   ? help",
    };
    let place = match app.screen {
        Screen::Fleet => "1 Fleet",
        Screen::Node(_) => "Node",
        Screen::Deployment(_) => "Deployment",
        Screen::Rollout(_) => "Rollout",
        Screen::Events => "2 Events",
        Screen::Jobs => "3 Jobs",
        Screen::Job(_) => "Job",
    };
    let end = pen.put(1, last, keys, Tone::Quiet);
    if end + width(place) + 2 < pen.area.width {
        pen.put_right(pen.area.width - 1, last, place, Tone::Plain);
    }
}
