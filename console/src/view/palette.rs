use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::View;
use super::overlay::boxed;
use crate::app::Palette;
use crate::theme::Tone;

const HEIGHT: u16 = 14;

pub(super) fn draw(view: &View<'_>, palette: &Palette, area: Rect, buffer: &mut Buffer) {
    let mut pen = boxed(view, "Command", (60, HEIGHT), area, buffer);
    let (before, behind) = palette.input.split();
    pen.put(0, 0, &format!(":{before}{}{behind}", view.theme.symbols.cursor), Tone::Strong);
    let matches = palette.matches();
    if matches.is_empty() {
        pen.put(0, 1, "no command is like that", Tone::Quiet);
    }
    let lines = usize::from(HEIGHT - 3);
    let from = (palette.chosen + 1).saturating_sub(lines);
    for (y, (index, (name, _))) in (1..).zip(matches.iter().enumerate().skip(from).take(lines)) {
        pen.put(1, y, name, Tone::Plain);
        if index == palette.chosen {
            pen.select(y);
        }
    }
}
