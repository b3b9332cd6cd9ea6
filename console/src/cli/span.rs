use std::time::Duration;

const DAY_S: f64 = 86_400.0;
const LONGEST: Duration = Duration::from_secs(3_650 * 86_400);

/// A length of time as people write it: `500ms`, `30s`, `2m`, `1h`, `90d`.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time; give 500ms, 30s, 2m, 1h or 90d");
    let unit_at = text.find(|sign: char| sign.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => DAY_S,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * seconds).ok().filter(|time| *time <= LONGEST).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::span;

    #[test]
    fn times_have_a_number_and_a_unit() {
        assert_eq!(span("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(span("90d"), Ok(Duration::from_secs(90 * 86_400)));
        for wrong in ["", "5", "d", "-1s", "5 weeks", "1e300h", "nans"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
