//! How often verdicts are wrong and how soon they come, by simulation: the rate of false alarms between two equal
//! revisions with a look after every request, and how many requests it takes to see what is worse. The usual test, made
//! for one look, is shown beside it.
//!
//! ```text
//! cargo run --release -p llmdeck-benches --bin verdicts
//! ```

mod arm;
mod rank_test;
mod trial;

use clap::Parser;
use color_eyre::eyre::Result;

use self::trial::{Change, Load, Looks, Margins, Setting, run};

/// Chance of a false alarm that is asked for, over all metrics and all looks of a rollout.
const ALPHA: f64 = 0.05;

/// Simulates verdicts.
#[derive(Parser)]
struct Arguments {
    /// Runs for each rate of false alarms.
    #[arg(long, default_value_t = 2_000)]
    runs: u64,
    /// Requests of a run.
    #[arg(long, default_value_t = 2_000)]
    requests: u64,
    /// Runs for each delay.
    #[arg(long, default_value_t = 200)]
    delay_runs: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    println!(
        "false alarms in {} runs of {} requests, a look after every one:",
        arguments.runs, arguments.requests
    );
    println!("{:<44} {:>9} {:>14}", "two equal revisions", "verdict", "Mann-Whitney");
    for (load, words) in [(Load::Steady, "steady load"), (Load::Waves, "load that comes and goes")] {
        for share in [0.5, 0.05] {
            for (margins, kind) in [(Margins::None, "no margin"), (Margins::Usual, "usual margins")] {
                let setting = Setting { change: Change::None, load, share, margins, looks: Looks::Always };
                let outcomes = run(setting, arguments.runs, arguments.requests);
                let rate = |alarms: usize| 100.0 * alarms as f64 / arguments.runs as f64;
                let ours = outcomes.iter().filter(|outcome| outcome.verdict_at.is_some()).count();
                let usual = outcomes.iter().filter(|outcome| outcome.rank_test).count();
                let name = format!("{words}, {:.0} % of it, {kind}", share * 100.0);
                println!("{name:<44} {:>7.2} % {:>12.1} %", rate(ours), rate(usual));
            }
        }
    }
    println!("\nrequests to the candidate until the verdict is worse, {} runs:", arguments.delay_runs);
    println!("{:<44} {:>8} {:>8} {:>8}", "candidate", "median", "p90", "missed");
    for (change, words) in [
        (Change::Errors, "errors from 1 % to 3 %"),
        (Change::Slower, "TTFT 20 % slower"),
        (Change::LowerQuality, "quality 5 points lower"),
    ] {
        for share in [0.5, 0.05] {
            for (margins, kind) in [(Margins::None, "no margin"), (Margins::Usual, "usual margins")] {
                let setting = Setting { change, load: Load::Steady, share, margins, looks: Looks::Often };
                let most = (20_000.0 / share) as u64;
                let outcomes = run(setting, arguments.delay_runs, most);
                let mut delays: Vec<u64> = outcomes.iter().filter_map(|outcome| outcome.verdict_at).collect();
                delays.sort_unstable();
                let missed = outcomes.len() - delays.len();
                let at = |part: f64| {
                    let index = (part * outcomes.len() as f64) as usize;
                    delays.get(index).map_or("—".to_owned(), u64::to_string)
                };
                let name = format!("{words}, at {:.0} %, {kind}", share * 100.0);
                println!("{name:<44} {:>8} {:>8} {missed:>8}", at(0.5), at(0.9));
            }
        }
    }
    Ok(())
}
