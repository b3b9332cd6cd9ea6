use std::fmt::Write;

use llmdeck_load::bench::{Comparison, Latency, Outcome};

use super::chart::{escape, over_time, percentiles};
use crate::report::cost_words;

const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .8rem;text-align:right}td:first-child,th:first-child{text-align:left}\
svg{width:100%;height:auto}.worse{color:#c00;font-weight:bold}pre{overflow:auto}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#1b1b1b}.worse{color:#f77}}";

/// A page with charts, tables and the whole outcome, without anything from elsewhere.
pub(super) fn render(outcomes: &[Outcome], comparison: Option<&Comparison>) -> String {
    let mut page =
        format!("<!doctype html><meta charset=\"utf-8\"><title>llmdeck bench</title><style>{STYLE}</style>");
    for outcome in outcomes {
        section(&mut page, outcome);
    }
    if let Some(comparison) = comparison {
        page.push_str("<h2>Since before</h2><table><tr><th></th><th>before</th><th>after</th><th>worse by</th><th>95 %</th></tr>");
        for row in &comparison.rows {
            let class = if row.regressed { " class=\"worse\"" } else { "" };
            let interval = row.interval.map_or_else(String::new, |[low, high]| {
                format!("{:+.1} to {:+.1} %", low * 100.0, high * 100.0)
            });
            let is_rate = row.name.contains("/s");
            let divisor = if is_rate { 1.0 } else { 1_000.0 };
            let name = if is_rate { row.name.clone() } else { format!("{}, ms", row.name) };
            // Writing to a string cannot fail.
            let _ = write!(
                page,
                "<tr{class}><td>{}</td><td>{:.2}</td><td>{:.2}</td><td>{:+.1} %</td><td>{interval}</td></tr>",
                escape(&name),
                row.before / divisor,
                row.after / divisor,
                row.worse_by * 100.0
            );
        }
        page.push_str("</table>");
    }
    // A closing tag inside of the data would end it.
    let data = serde_json::to_string(outcomes).unwrap_or_default().replace("</", "<\\/");
    let _ = writeln!(page, "<script type=\"application/json\" id=\"outcomes\">{data}</script>");
    page
}

fn section(page: &mut String, outcome: &Outcome) {
    let model = outcome.plan["model"].as_str().unwrap_or("?");
    let server = outcome.plan["server"].as_str().unwrap_or("?");
    let _ = write!(
        page,
        "<h1>{} at {}</h1><p>{} requests due in {:.1} s, {} answered, {} failed; {:.2} answers/s, {:.2} good ones/s, {:.0} output tokens/s.</p>",
        escape(model),
        escape(server),
        outcome.due,
        outcome.seconds,
        outcome.ok,
        outcome.failed,
        outcome.achieved_per_s.value,
        outcome.goodput_per_s.value,
        outcome.output_tokens_per_s.value
    );
    if let Some(cost) = &outcome.cost {
        let _ = write!(page, "<p>Cost: {}.</p>", escape(&cost_words(cost)));
    }
    page.push_str("<table><tr><th>ms</th><th>p50</th><th>p90</th><th>p95</th><th>p99</th><th>p99.9</th><th>max</th></tr>");
    for latency in Latency::ALL {
        let Some(of) = outcome.latencies.get(&latency) else { continue };
        let _ = write!(page, "<tr><td>{}</td>", latency.name());
        for quantile in &of.quantiles {
            let _ = write!(page, "<td>{:.2}</td>", quantile.value_us as f64 / 1_000.0);
        }
        let _ = write!(page, "<td>{:.2}</td></tr>", of.max_us as f64 / 1_000.0);
    }
    let plan = serde_json::to_string_pretty(&outcome.plan).unwrap_or_default();
    let _ = write!(
        page,
        "</table>{}{}<details><summary>Plan</summary><pre>{}</pre></details>",
        percentiles(outcome),
        over_time(outcome),
        escape(&plan)
    );
}
