use std::io::{self, Write};

use llmdeck_load::bench::{Comparison, Latency, Outcome};

use crate::cli::output::print_table;
use crate::report::{LATENCY_TITLES, figures, latency_rows, milliseconds as ms};
use crate::theme::Theme;
use crate::widget::sparkline;

const SPARK_WIDTH: usize = 40;

/// One outcome: rates, latencies with their intervals, how it went over time, and what the generator did.
pub(super) fn one(outcome: &Outcome) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (label, text) in figures(outcome) {
        writeln!(out, "{label:10} {text}")?;
    }
    writeln!(out)?;
    drop(out);
    print_table(&LATENCY_TITLES, &latency_rows(outcome))?;
    over_time(outcome)?;
    generator(outcome)
}

fn over_time(outcome: &Outcome) -> io::Result<()> {
    if outcome.blocks.len() < 3 || outcome.ok == 0 {
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
        "generator  {}requests were sent {} ms late at p99, {} ms at most",
        generator.cpu_cores.map_or_else(String::new, |cores| format!("{cores:.2} cores; ")),
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
