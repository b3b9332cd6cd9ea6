use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::View;
use super::fleet::event_time;
use super::pen::Pen;
use super::wrap::wrap;
use crate::app::event_rows;
use crate::model::NodeEvent;
use crate::theme::Tone;
use llmdeck_proto::v1::alert::Severity;

/// Of an event's text.
const MOST_TEXT_LINES: usize = 8;

pub(super) fn draw(view: &View<'_>, area: Rect, buffer: &mut Buffer) {
    let mut pen = Pen { theme: view.theme, area, buffer };
    let rows: Vec<&NodeEvent> = event_rows(view.model, view.app.filter.text()).collect();
    pen.rule(0, &format!("Events, newest first ({})", rows.len()));
    if rows.is_empty() {
        pen.put(1, 1, "nothing has happened yet, or nothing matches the filter", Tone::Quiet);
    }
    let bottom = area.height;
    let column = text_column(view);
    let room = area.width.saturating_sub(column);
    let height = |row: &NodeEvent| wrap(&row.event.text, room, MOST_TEXT_LINES).len();
    // No further than that the oldest are at the bottom.
    let mut filled = 0;
    let fit = rows.iter().rev().take_while(|row| {
        filled += height(row);
        filled < usize::from(bottom)
    });
    let from = view.app.scroll.min(rows.len() - fit.count());
    let mut y = 1;
    for row in rows.into_iter().skip(from) {
        if y >= bottom {
            break;
        }
        head(view, row, y, &mut pen);
        y += pen.put_wrapped(column, y, MOST_TEXT_LINES, &row.event.text, Tone::Plain);
    }
}

/// One line: time, what it is about, and the text; who did it is in the text.
pub(super) fn line(view: &View<'_>, row: &NodeEvent, y: u16, pen: &mut Pen<'_>) {
    head(view, row, y, pen);
    pen.put(text_column(view), y, &row.event.text, Tone::Plain);
}

fn text_column(view: &View<'_>) -> u16 {
    if view.model.nodes.len() > 1 { 40 } else { 27 }
}

fn head(view: &View<'_>, row: &NodeEvent, y: u16, pen: &mut Pen<'_>) {
    let event = &row.event;
    let symbols = &view.theme.symbols;
    let (sign, tone) = match event.severity() {
        Severity::Bad => (symbols.bad, Tone::Bad),
        Severity::Warning => (symbols.warning, Tone::Warning),
        Severity::Information | Severity::Unspecified => ("", Tone::Plain),
    };
    let x = text_column(view) - 17;
    pen.put(1, y, &event_time(view, event.time_unix_ms), Tone::Quiet);
    if view.model.nodes.len() > 1 {
        pen.put_within(10, y, 12, &row.node, Tone::Plain);
    }
    pen.put(x, y, sign, tone);
    pen.put_within(x + 2, y, 14, &event.subject, tone);
}
