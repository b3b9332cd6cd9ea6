use std::io::{self, Write};

use llmdeck_load::bench::{Comparison, Latency, Outcome, Quantity, RunCost};

use crate::cli::output::print_table;
use crate::theme::Theme;
use crate::widget::sparkline;

const SPARK_WIDTH: usize = 40;

/// One outcome: rates, latencies with their intervals, how it went over time, and what the generator did.
pub(super) fn one(outcome: &Outcome) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let runs = if outcome.runs > 1 { format!(", {} runs", outcome.runs) } else { String::new() };
    writeln!(
        out,
        "{} at {} for {:.1} s{runs}",
        outcome.plan["model"].as_str().unwrap_or("?"),
        outcome.plan["server"].as_str().unwrap_or("?"),
        outcome.seconds
    )?;
    writeln!(
        out,
        "requests   {} due, {} answered, {} failed{}",
        outcome.due,
        outcome.ok,
        outcome.failed,
        cut(outcome)
    )?;
    for (kind, count) in &outcome.errors {
        writeln!(out, "           {count} x {kind}")?;
    }
    writeln!(
        out,
        "rate       {:.2}/s asked, {}/s answered",
        outcome.asked_per_s,
        quantity(outcome.achieved_per_s)
    )?;
    if outcome.plan["objectives_ms"].as_object().is_some_and(|all| all.values().any(|limit| !limit.is_null()))
    {
        let share = outcome.goodput_per_s.value / outcome.asked_per_s.max(1e-9) * 100.0;
        writeln!(out, "goodput    {}/s, {share:.1} % of what was asked", quantity(outcome.goodput_per_s))?;
    }
    writeln!(
        out,
        "tokens     {}/s out, {}/s in",
        quantity(outcome.output_tokens_per_s),
        quantity(outcome.input_tokens_per_s)
    )?;
    if let Some(cost) = &outcome.cost {
        writeln!(out, "cost       {}", cost_words(cost))?;
    }
    writeln!(out)?;
    drop(out);
    let titles = ["ms", "p50", "", "p90", "p95", "p99", "", "p99.9", "max", "mean"];
    let rows: Vec<Vec<String>> =
        Latency::ALL.into_iter().filter_map(|latency| row(outcome, latency)).collect();
    print_table(&titles, &rows)?;
    over_time(outcome)?;
    generator(outcome)
}

/// Of a million generated tokens, by the node's own account.
fn cost_words(cost: &RunCost) -> String {
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

fn ms(us: f64) -> String {
    let ms = us / 1_000.0;
    if ms < 100.0 { format!("{ms:.2}") } else { format!("{ms:.0}") }
}

fn row(outcome: &Outcome, latency: Latency) -> Option<Vec<String>> {
    let of = outcome.latencies.get(&latency)?;
    let value = |quantile: f64| {
        outcome.quantile(latency, quantile).map_or_else(String::new, |one| ms(one.value_us as f64))
    };
    let interval = |quantile: f64| {
        let interval = outcome.quantile(latency, quantile).and_then(|one| one.interval_us);
        interval.map_or_else(String::new, |[low, high]| format!("({} to {})", ms(low), ms(high)))
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
        ms(of.max_us as f64),
        ms(of.mean_us),
    ])
}

fn over_time(outcome: &Outcome) -> io::Result<()> {
    if outcome.blocks.len() < 3 {
        return Ok(());
    }
    let symbols = Theme::detect(|name| std::env::var(name).ok(), false).symbols;
    let mut out = io::stdout().lock();
    writeln!(out)?;
    let p99: Vec<Option<f64>> = outcome
        .blocks
        .iter()
        .map(|block| block.histogram(Latency::Ttft))
        .map(|histogram| (!histogram.is_empty()).then(|| histogram.value_at_quantile(0.99) as f64))
        .collect();
    let tokens: Vec<Option<f64>> =
        outcome.blocks.iter().map(|block| Some(block.completion_tokens as f64)).collect();
    for (name, values, unit) in [("TTFT p99", p99, "ms"), ("tokens", tokens, "a block")] {
        let most = values.iter().flatten().copied().fold(0.0, f64::max);
        let width = values.len().min(SPARK_WIDTH);
        let most = if unit == "ms" { ms(most) } else { format!("{most:.0}") };
        writeln!(out, "{name:9}  {}  up to {most} {unit}", sparkline(&values, width, None, &symbols))?;
    }
    Ok(())
}

fn generator(outcome: &Outcome) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let generator = &outcome.generator;
    writeln!(out)?;
    writeln!(
        out,
        "generator  {:.2} cores; requests were sent {} ms late at p99, {} ms at most",
        generator.cpu_cores,
        ms(generator.lateness_p99_us as f64),
        ms(generator.lateness_max_us as f64)
    )?;
    if generator.may_limit {
        writeln!(
            out,
            "           the generator, not the server, may be what these figures show: lower the rate, or use another machine"
        )?;
    }
    Ok(())
}

/// A line for each rate.
pub(super) fn many(outcomes: &[Outcome]) -> io::Result<()> {
    let titles = [
        "ASKED/S",
        "ANSWERED/S",
        "GOOD %",
        "TTFT p50 ms",
        "p99",
        "ITL p50 ms",
        "p99",
        "E2E p99 ms",
        "TOKENS/S",
        "FAILED",
    ];
    let rows: Vec<Vec<String>> = outcomes
        .iter()
        .map(|outcome| {
            let value = |latency, quantile| {
                outcome.quantile(latency, quantile).map_or_else(|| "-".into(), |one| ms(one.value_us as f64))
            };
            let good = outcome.goodput_per_s.value / outcome.asked_per_s.max(1e-9) * 100.0;
            vec![
                format!("{:.2}", outcome.asked_per_s),
                format!("{:.2}", outcome.achieved_per_s.value),
                format!("{good:.1}"),
                value(Latency::Ttft, 0.5),
                value(Latency::Ttft, 0.99),
                value(Latency::Itl, 0.5),
                value(Latency::Itl, 0.99),
                value(Latency::E2e, 0.99),
                format!("{:.0}", outcome.output_tokens_per_s.value),
                outcome.failed.to_string(),
            ]
        })
        .collect();
    print_table(&titles, &rows)
}

/// What changed since the outcome that was kept.
pub(super) fn comparison(comparison: &Comparison) -> io::Result<()> {
    println!();
    let rows: Vec<Vec<String>> = comparison
        .rows
        .iter()
        .map(|row| {
            let time = !row.name.contains("/s");
            let value = |value: f64| if time { ms(value) } else { format!("{value:.1}") };
            let interval = row.interval.map_or_else(String::new, |[low, high]| {
                format!("({:+.1} to {:+.1})", low * 100.0, high * 100.0)
            });
            let name = if time { format!("{}, ms", row.name) } else { row.name.clone() };
            let verdict = if row.regressed { "worse" } else { "" };
            vec![
                name,
                value(row.before),
                value(row.after),
                format!("{:+.1}", row.worse_by * 100.0),
                interval,
                verdict.into(),
            ]
        })
        .collect();
    print_table(&["", "BEFORE", "AFTER", "WORSE BY %", "95 %", ""], &rows)
}
