use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::plot::log_rows;
use crate::theme::Symbols;

/// Counts by value over time: one column an interval, the newest at the right; values on a logarithmic scale from `low` at
/// the bottom to `high` at the top; the darker, the more counts of all that the column has.
pub fn heatmap<V: Iterator<Item = (f64, u64)>>(
    columns: impl DoubleEndedIterator<Item = V>,
    (low, high): (f64, f64),
    style: Style,
    symbols: &Symbols,
    area: Rect,
    buffer: &mut Buffer,
) {
    let most_shade = symbols.shades.len() - 1;
    for (column, values) in (area.left()..area.right()).rev().zip(columns.rev()) {
        let mut counts = vec![0_u64; area.height.into()];
        for (value, count) in values {
            if let Some(sum) = counts.get_mut(usize::from(log_rows(value, low, high, area.height))) {
                *sum += count;
            }
        }
        let total: u64 = counts.iter().sum();
        for (row, count) in (area.top()..).zip(&counts) {
            if *count > 0 {
                // Rounded up: one request among many is still seen.
                let shade = (*count as f64 / total as f64 * most_shade as f64).ceil() as usize;
                buffer.set_string(column, row, symbols.shades[shade.clamp(1, most_shade)], style);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::buffer::Buffer;
    use ratatui::layout::Rect;
    use ratatui::style::Style;

    use super::heatmap;
    use crate::theme::{ColorDepth, Theme};

    #[test]
    fn a_second_mode_is_seen() {
        let area = Rect::new(0, 0, 3, 3);
        let mut buffer = Buffer::empty(area);
        let columns = [vec![(1.0, 10)], vec![(1.0, 99), (100.0, 1)]];
        let columns = columns.iter().map(|column| column.iter().copied());
        let symbols = Theme::new(ColorDepth::None, false).symbols;
        heatmap(columns, (1.0, 100.0), Style::new(), &symbols, area, &mut buffer);
        assert_eq!(buffer, Buffer::with_lines(["  ░", "   ", " ██"]));
    }
}
