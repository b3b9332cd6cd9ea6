use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::View;
use super::fleet::event_time;
use super::pen::Pen;
use crate::app::event_rows;
use crate::model::NodeEvent;
use crate::theme::Tone;
use llmdeck_proto::v1::alert::Severity;

pub(super) fn draw(view: &View<'_>, area: Rect, buffer: &mut Buffer) {
    let mut pen = Pen { theme: view.theme, area, buffer };
    let rows: Vec<&NodeEvent> = event_rows(view.model, view.app.filter.text()).collect();
    pen.rule(0, &format!("Events, newest first ({})", rows.len()));
    if rows.is_empty() {
        pen.put(1, 1, "nothing has happened yet, or nothing matches the filter", Tone::Quiet);
    }
    let lines = usize::from(area.height.saturating_sub(1));
    let from = view.app.scroll.min(rows.len().saturating_sub(lines));
    for (y, row) in (1..).zip(rows.into_iter().skip(from).take(lines)) {
        line(view, row, y, &mut pen);
    }
}

/// Time, what it is about, and the text; who did it is in the text.
pub(super) fn line(view: &View<'_>, row: &NodeEvent, y: u16, pen: &mut Pen<'_>) {
    let event = &row.event;
    let symbols = &view.theme.symbols;
    let (sign, tone) = match event.severity() {
        Severity::Bad => (symbols.bad, Tone::Bad),
        Severity::Warning => (symbols.warning, Tone::Warning),
        Severity::Information | Severity::Unspecified => ("", Tone::Plain),
    };
    pen.put(1, y, &event_time(view, event.time_unix_ms), Tone::Quiet);
    let mut x = 10;
    if view.model.nodes.len() > 1 {
        pen.put_within(x, y, 12, &row.node, Tone::Plain);
        x += 13;
    }
    pen.put(x, y, sign, tone);
    pen.put_within(x + 2, y, 14, &event.subject, tone);
    pen.put(x + 17, y, &event.text, Tone::Plain);
}
