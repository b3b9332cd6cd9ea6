use std::fmt::Write;

use crate::measure::{Measurement, median};

/// A Markdown table: medians of all rounds, and how many times better ours is.
pub(crate) fn render(ours: &[Measurement], theirs: &[Measurement]) -> String {
    let mut table = String::from("| | llmdeck | llama.cpp | ratio |\n| --- | ---: | ---: | ---: |\n");
    let mut row = |name: &str,
                   unit: &str,
                   digits: usize,
                   pick: &dyn Fn(&Measurement) -> f64,
                   larger_is_better: bool| {
        let of = |all: &[Measurement]| median(all.iter().map(pick).collect());
        let (our, their) = (of(ours), of(theirs));
        let ratio = if larger_is_better { our / their } else { their / our };
        // Writing to a string cannot fail.
        let _ = writeln!(table, "| {name}, {unit} | {our:.digits$} | {their:.digits$} | {ratio:.2} |");
    };
    row("load to ready", "s", 2, &|one| one.load_s, false);
    let prompts: Vec<usize> =
        ours.first().map(|one| one.prefill.keys().copied().collect()).unwrap_or_default();
    for length in prompts {
        let pick = move |one: &Measurement| one.prefill.get(&length).copied().unwrap_or(f64::NAN);
        row(&format!("prefill of {length}"), "tokens/s", 0, &pick, true);
    }
    let batches: Vec<usize> =
        ours.first().map(|one| one.decode.keys().copied().collect()).unwrap_or_default();
    for sequences in batches {
        let pick = move |one: &Measurement| one.decode.get(&sequences).copied().unwrap_or(f64::NAN);
        row(&format!("decode, {sequences} at once"), "tokens/s", 0, &pick, true);
    }
    row("peak memory", "MB", 0, &|one| one.peak_bytes / 1e6, false);
    row("perplexity of the text", "less is better", 4, &|one| one.perplexity, false);
    let same = ours.first().zip(theirs.first()).is_some_and(|(our, their)| our.tokens == their.tokens);
    table.push_str(if same {
        "\nBoth read the text as the same tokens.\n"
    } else {
        "\nThey read the text as different tokens.\n"
    });
    table
}
