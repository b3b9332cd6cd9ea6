use crate::theme::Symbols;

/// One character a value, the newest last; a missing value is a gap. The scale is from zero to `most`, or to the largest
/// value where `most` is `None`.
pub fn sparkline(values: &[Option<f64>], width: usize, most: Option<f64>, symbols: &Symbols) -> String {
    let shown = &values[values.len().saturating_sub(width)..];
    let most = most.unwrap_or_else(|| shown.iter().flatten().copied().fold(0.0, f64::max));
    let mut text = " ".repeat(width - shown.len());
    for value in shown {
        text.push_str(match value {
            None => " ",
            // A value that is there is seen, however small.
            Some(value) => symbols.levels[level(*value, most).max(1)],
        });
    }
    text
}

/// A share of a width, filled from the left.
pub fn bar(share: f64, width: usize, symbols: &Symbols) -> String {
    let filled = (share.clamp(0.0, 1.0) * width as f64).round() as usize;
    let (full, empty) = (symbols.levels[8], symbols.shades[1]);
    format!("{}{}", full.repeat(filled), empty.repeat(width - filled))
}

fn level(value: f64, most: f64) -> usize {
    if most <= 0.0 {
        return 0;
    }
    ((value / most).clamp(0.0, 1.0) * 8.0).round() as usize
}

#[cfg(test)]
mod tests {
    use super::{bar, sparkline};
    use crate::theme::{ColorDepth, Theme};

    #[test]
    fn the_newest_is_last_and_a_gap_is_not_a_zero() {
        let symbols = Theme::new(ColorDepth::None, false).symbols;
        let values = [Some(1.0), None, Some(4.0), Some(0.0), Some(8.0)];
        assert_eq!(sparkline(&values, 6, None, &symbols), " ▁ ▄▁█");
        assert_eq!(sparkline(&values, 2, Some(16.0), &symbols), "▁▄");
        assert_eq!(bar(0.5, 4, &symbols), "██░░");
        let ascii = Theme::new(ColorDepth::None, true).symbols;
        assert!(sparkline(&values, 6, None, &ascii).is_ascii() && bar(0.3, 9, &ascii).is_ascii());
    }
}
