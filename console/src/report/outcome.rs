use llmdeck_load::bench::{Latency, Outcome, Quantity, RunCost};

use super::Figure;

/// Columns of [`latency_rows`].
pub const LATENCY_TITLES: [&str; 10] = ["ms", "p50", "", "p90", "p95", "p99", "", "p99.9", "max", "mean"];

/// What was asked, what came of it, and what it cost.
pub fn figures(outcome: &Outcome) -> Vec<Figure> {
    let runs = if outcome.runs > 1 { format!(", {} runs", outcome.runs) } else { String::new() };
    let text = |key: &str| outcome.plan[key].as_str().unwrap_or("?");
    let requests =
        format!("{} due, {} answered, {} failed{}", outcome.due, outcome.ok, outcome.failed, cut(outcome));
    let mut figures = vec![
        ("server", format!("{} at {} for {:.1} s{runs}", text("model"), text("server"), outcome.seconds)),
        ("requests", requests),
    ];
    let why = |kind| outcome.error_examples.get(kind).unwrap_or(kind);
    figures.extend(outcome.errors.iter().map(|(kind, count)| ("", format!("{count} x {}", why(kind)))));
    let answered = quantity(outcome.achieved_per_s);
    figures.push(("rate", format!("{:.2}/s asked, {answered}/s answered", outcome.asked_per_s)));
    let objectives = outcome.plan["objectives_ms"].as_object();
    if objectives.is_some_and(|all| all.values().any(|limit| !limit.is_null())) {
        let share = outcome.goodput_per_s.value / outcome.asked_per_s.max(1e-9) * 100.0;
        let good = quantity(outcome.goodput_per_s);
        figures.push(("goodput", format!("{good}/s, {share:.1} % of what was asked")));
    }
    let (output, input) = (quantity(outcome.output_tokens_per_s), quantity(outcome.input_tokens_per_s));
    figures.push(("tokens", format!("{output}/s out, {input}/s in")));
    figures.extend(outcome.cost.as_ref().map(|cost| ("cost", cost_words(cost))));
    figures
}

/// A row for each latency that was measured, with 95 % intervals of the median and of p99.
pub fn latency_rows(outcome: &Outcome) -> Vec<Vec<String>> {
    Latency::ALL.into_iter().filter_map(|latency| row(outcome, latency)).collect()
}

/// Microseconds as milliseconds with the digits that matter.
pub fn milliseconds(us: f64) -> String {
    let ms = us / 1_000.0;
    if ms < 100.0 { format!("{ms:.2}") } else { format!("{ms:.0}") }
}

/// Of a million generated tokens, by the node's own account.
pub fn cost_words(cost: &RunCost) -> String {
    let energy = cost.kwh_per_million_tokens().map(|kwh| format!("{kwh:.3} kWh"));
    let money = cost.cost_per_million_tokens().map(|money| format!("{money:.3} {}", cost.currency));
    let parts: Vec<String> = energy.into_iter().chain(money).collect();
    format!("{} a million tokens", parts.join(" and "))
}

fn cut(outcome: &Outcome) -> String {
    if outcome.unfinished == 0 { String::new() } else { format!(", {} cut off", outcome.unfinished) }
}

fn quantity(quantity: Quantity) -> String {
    match quantity.interval {
        Some([low, high]) => format!("{:.1} ({low:.1} to {high:.1})", quantity.value),
        None => format!("{:.1}", quantity.value),
    }
}

fn row(outcome: &Outcome, latency: Latency) -> Option<Vec<String>> {
    let of = outcome.latencies.get(&latency)?;
    let value = |quantile: f64| {
        outcome.quantile(latency, quantile).map_or_else(String::new, |one| milliseconds(one.value_us as f64))
    };
    let interval = |quantile: f64| {
        let interval = outcome.quantile(latency, quantile).and_then(|one| one.interval_us);
        interval.map_or_else(String::new, |[low, high]| {
            format!("({} to {})", milliseconds(low), milliseconds(high))
        })
    };
    Some(vec![
        latency.name().into(),
        value(0.5),
        interval(0.5),
        value(0.9),
        value(0.95),
        value(0.99),
        interval(0.99),
        value(0.999),
        milliseconds(of.max_us as f64),
        milliseconds(of.mean_us),
    ])
}
