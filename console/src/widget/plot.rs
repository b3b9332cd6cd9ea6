use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use crate::theme::Symbols;

/// Values over time, the newest last, one a column; a gap is `None`.
pub struct Line {
    /// In any unit above zero.
    pub values: Vec<Option<f64>>,
    /// Which of `Symbols::lines` where braille cannot be shown.
    pub symbol: usize,
}

/// Position on a logarithmic scale from the bottom (0) to the top (1).
fn position(value: f64, low: f64, high: f64) -> f64 {
    ((value.max(low) / low).ln() / (high / low).ln()).clamp(0.0, 1.0)
}

/// The line of an area, from its top, at which a value stands on the scale.
pub fn log_rows(value: f64, low: f64, high: f64, height: u16) -> u16 {
    let from_bottom = position(value, low, high) * f64::from(height.saturating_sub(1));
    height.saturating_sub(1) - from_bottom.round() as u16
}

/// Draws lines on a logarithmic scale from `low` to `high`, both above zero and apart. Braille gives four points a line
/// of text; without it each value is one symbol.
pub fn plot(
    lines: &[Line],
    low: f64,
    high: f64,
    style: Style,
    symbols: &Symbols,
    area: Rect,
    buffer: &mut Buffer,
) {
    for line in lines {
        let width = usize::from(area.width);
        let shown = &line.values[line.values.len().saturating_sub(width)..];
        let first = area.right() - u16::try_from(shown.len()).unwrap_or(area.width);
        let mut before: Option<i32> = None;
        for (column, value) in (first..).zip(shown) {
            let Some(value) = value else {
                before = None;
                continue;
            };
            if symbols.braille {
                let dots = i32::from(area.height) * 4 - 1;
                let dot = dots - (position(*value, low, high) * f64::from(dots)).round() as i32;
                let from = before.unwrap_or(dot);
                // The rise from the value before is drawn in this column, so that the line holds together.
                for between in from.min(dot)..=from.max(dot) {
                    set_dot(column, area.y, between, usize::from(between == dot), style, buffer);
                }
                before = Some(dot);
            } else {
                let row = area.y + log_rows(*value, low, high, area.height);
                buffer.set_string(column, row, symbols.lines[line.symbol.min(2)], style);
            }
        }
    }
}

const BRAILLE: u32 = 0x2800;
/// Bits of the left and right dots of a braille character, from the top.
const LEFT: [u32; 4] = [0x01, 0x02, 0x04, 0x40];
const RIGHT: [u32; 4] = [0x08, 0x10, 0x20, 0x80];

fn set_dot(column: u16, top: u16, dot: i32, wide: usize, style: Style, buffer: &mut Buffer) {
    let (row, part) = (dot / 4, (dot % 4) as usize);
    let Some(cell) = buffer.cell_mut((column, top + row as u16)) else { return };
    let now = cell.symbol().chars().next().map_or(0, u32::from);
    let dots = if (BRAILLE..BRAILLE + 256).contains(&now) { now - BRAILLE } else { 0 };
    let added = if wide == 1 { LEFT[part] | RIGHT[part] } else { LEFT[part] };
    if let Some(symbol) = char::from_u32(BRAILLE + (dots | added)) {
        cell.set_char(symbol).set_style(style);
    }
}

#[cfg(test)]
mod tests {
    use ratatui::buffer::Buffer;
    use ratatui::layout::Rect;
    use ratatui::style::Style;

    use super::{Line, log_rows, plot};
    use crate::theme::{ColorDepth, Theme};

    #[test]
    fn a_decade_is_as_high_as_the_next() {
        assert_eq!([1.0, 10.0, 100.0].map(|value| log_rows(value, 1.0, 100.0, 5)), [4, 2, 0]);
    }

    #[test]
    fn the_newest_value_stands_at_the_right() {
        let area = Rect::new(0, 0, 4, 2);
        let mut buffer = Buffer::empty(area);
        let line = Line { values: vec![Some(1.0), None, Some(100.0)], symbol: 2 };
        plot(
            &[line],
            1.0,
            100.0,
            Style::new(),
            &Theme::new(ColorDepth::None, true).symbols,
            area,
            &mut buffer,
        );
        let expected = Buffer::with_lines(["   #", " #  "]);
        assert_eq!(buffer, expected);
    }
}
