//! Questions before a change. What is no terminal is not asked: scripts say `--yes`.

use std::io::{self, BufRead, IsTerminal};

use super::CliError;

/// Asks whether to go on.
pub(super) fn go_on() -> Result<(), CliError> {
    let line = ask("go on? [y/N] ", "add --yes, or --dry-run to look")?;
    if matches!(line.as_str(), "y" | "Y" | "yes") { Ok(()) } else { Err(unchanged()) }
}

/// Asks to type a name, for what cannot be taken back.
pub(super) fn type_the_name(what_happens: &str, name: &str) -> Result<(), CliError> {
    let line = ask(&format!("{what_happens}; type {name} to go on: "), "add --yes")?;
    if line == name { Ok(()) } else { Err(unchanged()) }
}

fn ask(question: &str, remedy: &str) -> Result<String, CliError> {
    if !io::stdin().is_terminal() {
        return Err(CliError::Usage(format!("standard input is no terminal to ask on; {remedy}")));
    }
    eprint!("{question}");
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

fn unchanged() -> CliError {
    CliError::Failed("nothing was changed".into())
}
