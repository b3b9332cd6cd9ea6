use jiff::Timestamp;
use jiff::tz::TimeZone;
use llmdeck_proto::v1::Revision;

const KIB: f64 = 1_024.0;

/// Microseconds as milliseconds: `4`, `2310`; below one, one decimal.
pub fn milliseconds(us: u64) -> String {
    if us < 1_000 { format!("{:.1}", us as f64 / 1_000.0) } else { format!("{:.0}", us as f64 / 1_000.0) }
}

/// Binary units: `571 GiB`, `1.2 MiB`.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if value < KIB {
            break;
        }
        (value, unit) = (value / KIB, larger);
    }
    if value < 10.0 && unit != "B" { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// A share as `12 %`; below one percent with a decimal, so that few is told from none.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 9.95 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}

/// Watts: `317 W`, `4.8 kW`.
pub(super) fn watts(milliwatts: u64) -> String {
    let watts = milliwatts as f64 / 1_000.0;
    if watts < 1_000.0 { format!("{watts:.0} W") } else { format!("{:.1} kW", watts / 1_000.0) }
}

/// A rate or a count with three figures that matter: `0.4`, `41.2`, `912`, `12.3k`.
pub(super) fn rate(value: f64) -> String {
    match value {
        v if v >= 10_000.0 => format!("{:.1}k", v / 1_000.0),
        v if v >= 100.0 => format!("{v:.0}"),
        v => format!("{v:.1}"),
    }
}

/// How long ago: `3 s`, `12 min`, `5 h`, `2 d`.
pub(super) fn age(ms: i64) -> String {
    match ms.max(0) / 1_000 {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7_199 => format!("{} min", s / 60),
        s @ 7_200..=172_799 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

/// Hours, minutes and seconds in the operator's zone.
pub fn time_of_day(unix_ms: i64, zone: &TimeZone) -> String {
    Timestamp::from_millisecond(unix_ms)
        .map(|time| time.to_zoned(zone.clone()).strftime("%H:%M:%S").to_string())
        .unwrap_or_default()
}

/// A model as it is told apart at a glance: the last part of a path, the beginning of a digest.
pub(super) fn model_name(reference: &str) -> &str {
    let name = reference.rsplit('/').next().unwrap_or(reference);
    let digest = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digest { &name[..12] } else { name }
}

/// All that a revision is made of: `assistant + support-tone`.
pub(super) fn revision_name(revision: &Revision) -> String {
    let parts = [&revision.model, &revision.adapter, &revision.prompt].map(|part| model_name(part));
    let parts = parts.into_iter().chain([revision.engine.as_str()]);
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" + ")
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::{age, bytes, milliseconds, model_name, percent, rate, time_of_day, watts};

    #[test]
    fn figures_keep_their_width() {
        assert_eq!([milliseconds(400), milliseconds(84_200), milliseconds(2_310_000)], ["0.4", "84", "2310"]);
        assert_eq!([bytes(900), bytes(1_282_496), bytes(571 << 30)], ["900 B", "1.2 MiB", "571 GiB"]);
        assert_eq!([percent(0.0), percent(0.003), percent(0.5)], ["0 %", "0.3 %", "50 %"]);
        assert_eq!([watts(317_000), watts(4_800_000)], ["317 W", "4.8 kW"]);
        assert_eq!([rate(0.44), rate(912.3), rate(12_345.0)], ["0.4", "912", "12.3k"]);
        assert_eq!([age(3_000), age(720_000), age(18_000_000)], ["3 s", "12 min", "5 h"]);
        assert_eq!(time_of_day(50_851_000, &TimeZone::UTC), "14:07:31");
        assert_eq!(model_name("models/gemma.gguf"), "gemma.gguf");
    }
}
