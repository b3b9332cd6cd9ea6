//! Charts as SVG, drawn by hand: a few lines and their axes.

use std::fmt::Write;

use llmdeck_load::bench::{Latency, Outcome};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 40.0;
/// Distinguishable with all common kinds of colour blindness (Okabe and Ito 2008); names stand beside the lines too.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// A line with its name; points are shares of the width, 0 to 1, and values.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// Latencies by percentile: 90, 99 and 99.9 are as far from each other as they are rare.
pub(super) fn percentiles(outcome: &Outcome) -> String {
    let nines = |quantile: f64| -(1.0 - quantile).log10() / 3.0;
    let lines: Vec<Line> = [Latency::Ttft, Latency::Itl, Latency::Tpot, Latency::E2e]
        .into_iter()
        .filter(|latency| outcome.latencies.contains_key(latency))
        .map(|latency| {
            let mut all = llmdeck_load::bench::Block::default();
            outcome.blocks.iter().for_each(|block| all.merge(block));
            let histogram = all.histogram(latency);
            let quantiles = (0..=60).map(|step| 1.0 - 10f64.powf(-f64::from(step) / 20.0));
            let points = quantiles
                .map(|quantile| (nines(quantile), histogram.value_at_quantile(quantile) as f64 / 1_000.0))
                .collect();
            Line { name: latency.name().into(), points }
        })
        .collect();
    let marks =
        [(0.0, "min"), (nines(0.5), "p50"), (nines(0.9), "p90"), (nines(0.99), "p99"), (1.0, "p99.9")];
    draw("latency by percentile, ms", &lines, &marks)
}

/// Answers' tokens and time to first token, stretch by stretch.
pub(super) fn over_time(outcome: &Outcome) -> String {
    let count = outcome.blocks.len().max(2);
    let at = |index: usize| index as f64 / (count - 1) as f64;
    let quantile = |quantile: f64| {
        let histograms = outcome.blocks.iter().map(|block| block.histogram(Latency::Ttft));
        let points = histograms.enumerate().filter(|(_, histogram)| !histogram.is_empty());
        points
            .map(|(index, histogram)| (at(index), histogram.value_at_quantile(quantile) as f64 / 1_000.0))
            .collect()
    };
    let lines = [
        Line { name: "TTFT p50".into(), points: quantile(0.5) },
        Line { name: "TTFT p99".into(), points: quantile(0.99) },
    ];
    let end = format!("{:.0} s", outcome.seconds);
    draw("time to first token, ms", &lines, &[(0.0, "0"), (1.0, &end)])
}

fn draw(title: &str, lines: &[Line], marks: &[(f64, &str)]) -> String {
    let most =
        lines.iter().flat_map(|line| &line.points).map(|(_, value)| *value).fold(0.0, f64::max).max(1e-9);
    let step = round_step(most / 4.0);
    let top = (most / step).ceil() * step;
    let x = |share: f64| LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#808080\"><text x=\"{LEFT}\" y=\"18\" font-weight=\"bold\">{}</text>",
        escape(title)
    );
    // Writing to a string cannot fail.
    let mut value = 0.0;
    while value <= top * 1.001 {
        let height = y(value);
        let _ = write!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{height:.1}\" y2=\"{height:.1}\" stroke=\"#80808040\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            height + 4.0,
            number(value)
        );
        value += step;
    }
    for (share, name) in marks {
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x(*share),
            HEIGHT - 16.0,
            escape(name)
        );
    }
    for (index, line) in lines.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points: Vec<String> =
            line.points.iter().map(|(share, value)| format!("{:.1},{:.1}", x(*share), y(*value))).collect();
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"18\" fill=\"{colour}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT - 90.0 * (lines.len() - 1 - index) as f64,
            escape(&line.name)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= least)
        .unwrap_or(10.0 * power)
}

fn number(value: f64) -> String {
    if value >= 10.0 || value == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.3}").trim_end_matches('0').into()
    }
}

/// Text inside of markup.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::{escape, number, round_step};

    #[test]
    fn axes_have_round_numbers_and_names_cannot_break_out() {
        assert_eq!((round_step(0.3), round_step(7.0), round_step(100.0)), (0.5, 10.0, 100.0));
        assert_eq!((number(0.5), number(20.0)), ("0.5".into(), "20".into()));
        assert_eq!(escape("<script>\"&"), "&lt;script&gt;&quot;&amp;");
    }
}
