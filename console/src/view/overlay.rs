use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::widgets::{Clear, Widget};

use super::View;
use super::pen::Pen;
use crate::theme::Tone;

/// Clears a box in the middle of the screen, frames it, and lends what is inside.
pub(super) fn boxed<'b>(
    view: &View<'_>,
    title: &str,
    (width, height): (u16, u16),
    area: Rect,
    buffer: &'b mut Buffer,
) -> Pen<'b> {
    let (width, height) = (width.min(area.width), height.min(area.height));
    let outer =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    Clear.render(outer, buffer);
    let symbols = view.theme.symbols;
    let mut pen = Pen { theme: view.theme, area: outer, buffer };
    let rule = symbols.rule.repeat(usize::from(width.saturating_sub(2)));
    let [top_left, top_right, bottom_left, bottom_right] = symbols.corners;
    pen.put(0, 0, &format!("{top_left}{rule}{top_right}"), Tone::Plain);
    pen.put(0, height - 1, &format!("{bottom_left}{rule}{bottom_right}"), Tone::Plain);
    for y in 1..height - 1 {
        pen.put(0, y, symbols.side, Tone::Plain);
        pen.put(width - 1, y, symbols.side, Tone::Plain);
    }
    pen.put_within(1, 0, width.saturating_sub(2), &format!(" {title} "), Tone::Strong);
    let inner = Rect { x: outer.x + 2, y: outer.y + 1, width: width.saturating_sub(4), height: height - 2 };
    Pen { theme: view.theme, area: inner, buffer: pen.buffer }
}
