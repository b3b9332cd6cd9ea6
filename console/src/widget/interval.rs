use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use crate::theme::Symbols;

/// What is known of a number at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Interval {
    /// Surely not less; `None` where it has no bound.
    pub low: Option<f64>,
    /// Best guess.
    pub estimate: Option<f64>,
    /// Surely not more; `None` where it has no bound.
    pub high: Option<f64>,
}

/// The line of an area, from its top, at which a value stands on a linear scale; values beyond it stand at its ends.
pub fn linear_row(value: f64, low: f64, high: f64, height: u16) -> u16 {
    let last = f64::from(height.saturating_sub(1));
    let from_bottom = ((value - low) / (high - low)).clamp(0.0, 1.0) * last;
    height.saturating_sub(1) - from_bottom.round() as u16
}

/// Draws intervals over time, one a column, the newest at the right, on a linear scale from `low` to `high`: they narrow
/// as more is known.
pub fn intervals(
    values: &[Interval],
    (low, high): (f64, f64),
    style: Style,
    symbols: &Symbols,
    area: Rect,
    buffer: &mut Buffer,
) {
    let shown = &values[values.len().saturating_sub(area.width.into())..];
    let first = area.right() - u16::try_from(shown.len()).unwrap_or(area.width);
    for (column, value) in (first..).zip(shown) {
        let top = value.high.map_or(0, |bound| linear_row(bound, low, high, area.height));
        let bottom = value
            .low
            .map_or(area.height.saturating_sub(1), |bound| linear_row(bound, low, high, area.height));
        for row in top..=bottom {
            buffer.set_string(column, area.y + row, symbols.shades[1], style);
        }
        if let Some(estimate) = value.estimate {
            let row = linear_row(estimate, low, high, area.height);
            buffer.set_string(column, area.y + row, symbols.estimate, style);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::linear_row;

    #[test]
    fn the_scale_runs_from_the_bottom_to_the_top_and_holds_what_is_beyond() {
        let row = |value| linear_row(value, 0.0, 4.0, 5);
        assert_eq!([row(-9.0), row(0.0), row(2.0), row(4.0), row(f64::INFINITY)], [4, 4, 2, 0, 0]);
    }
}
