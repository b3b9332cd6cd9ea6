//! The command line: the same verbs as the console, for scripts and pipes.

mod audit;
mod bench;
mod change;
mod confirm;
mod data_report;
mod derive;
mod file;
mod findings;
mod finetune;
mod governance;
mod jobs;
mod keys;
mod merge;
mod output;
mod registry;
mod rollout;
mod span;
mod status;

use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::app::App;
use crate::link::{LinkError, Target};
use crate::theme::Theme;

/// The terminal console for language models: the fleet at a glance, what is wrong and why, and the means to act.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true, subcommand_precedence_over_arg = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Agents to show: unix:PATH, ssh://user@host or https://host:port, or servers without an agent: http://host:port. The
    /// local agent's socket where none is named.
    #[arg(value_name = "TARGET")]
    targets: Vec<Target>,
    /// Only ASCII characters.
    #[arg(long)]
    ascii: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// An agent with the built-in model and live traffic, and the console on it.
    #[cfg(feature = "demo")]
    Demo(crate::demo::DemoArguments),
    /// One page of what the console shows.
    Status(status::StatusArguments),
    /// Move a deployment to a new revision, and follow it to its end.
    Deploy(change::DeployArguments),
    /// What a file of deployments would change.
    Diff(file::DiffArguments),
    /// Move a deployment back to an earlier revision.
    Rollback(change::RollbackArguments),
    /// Take a deployment out of service, until a deploy or a rollback brings it back
    Stop(change::StopArguments),
    /// Look at a rollout, hold it, let it go on, promote it or end it.
    #[command(subcommand)]
    Rollout(rollout::RolloutCommand),
    /// Score what a deployment serves with its golden suite, now.
    Evaluate(change::EvaluateArguments),
    /// Measure a deployment or any OpenAI-compatible server under load.
    Bench(Box<bench::BenchArguments>),
    /// Teach the model of a deployment something, as an adapter over it.
    Finetune(Box<finetune::FinetuneArguments>),
    /// Long work.
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
    /// Models, prompts, suites, datasets and descriptions of servers, by digest.
    #[command(subcommand)]
    Registry(registry::RegistryCommand),
    /// Who did what, why, when, and how it ended.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Keys of the HTTP API.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Print completions for a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Print the manual page.
    Man,
}

/// What every verb takes.
#[derive(Debug, Args)]
struct Common {
    /// The agent: unix:PATH, ssh://user@host or https://host:port. For looking also http://host:port of another server.
    #[arg(long, value_name = "ADDRESS", default_value_t = Target::local())]
    target: Target,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Why a command did not end well; its exit code says which.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Output(#[from] std::io::Error),
}

impl CliError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Link(error) => error.exit_code(),
            Self::Usage(_) => 2,
            Self::Failed(_) | Self::Output(_) => 1,
        }
    }
}

/// Runs a command to its end: 0 done, 1 failed, 2 wrong usage, 3 refused, 4 unreachable.
pub fn run(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&CliError::Output(error)),
    };
    let outcome = runtime.block_on(dispatch(cli));
    // Standard input may be read in the background; it must not hold the process.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        // The reader of a pipe has seen enough.
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

fn complain(error: &CliError) -> ExitCode {
    eprintln!("llmdeck: {error}");
    ExitCode::from(error.exit_code())
}

async fn dispatch(cli: Cli) -> Result<ExitCode, CliError> {
    match cli.command {
        None => console(cli.targets, cli.ascii).await?,
        #[cfg(feature = "demo")]
        Some(Command::Demo(arguments)) => {
            return crate::demo::run(arguments).await.map_err(|error| CliError::Failed(format!("{error:#}")));
        }
        Some(Command::Status(arguments)) => status::run(arguments).await?,
        Some(Command::Deploy(arguments)) => change::deploy(arguments).await?,
        Some(Command::Diff(arguments)) => return file::diff(arguments).await,
        Some(Command::Rollback(arguments)) => change::rollback(arguments).await?,
        Some(Command::Stop(arguments)) => change::stop(arguments).await?,
        Some(Command::Rollout(command)) => rollout::run(command).await?,
        Some(Command::Evaluate(arguments)) => change::evaluate(arguments).await?,
        Some(Command::Bench(arguments)) => return bench::run(*arguments).await,
        Some(Command::Finetune(arguments)) => finetune::run(*arguments).await?,
        Some(Command::Jobs(command)) => jobs::jobs(command).await?,
        Some(Command::Registry(command)) => return registry::run(command).await,
        Some(Command::Audit(command)) => return audit::run(command).await,
        Some(Command::Keys(command)) => keys::run(command).await?,
        Some(Command::Completions { shell }) => {
            clap_complete::generate(shell, &mut Cli::command(), "llmdeck", &mut std::io::stdout());
        }
        Some(Command::Man) => clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout())?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn console(targets: Vec<Target>, ascii: bool) -> Result<(), CliError> {
    let targets = if targets.is_empty() { vec![Target::local()] } else { targets };
    if !std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        return Err(CliError::Usage(
            "the console needs a terminal; for scripts and pipes use llmdeck status".into(),
        ));
    }
    let theme = Theme::detect(|name| std::env::var(name).ok(), ascii);
    crate::app::run(targets, theme, App::new()).await.map_err(|error| CliError::Failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
