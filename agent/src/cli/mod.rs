//! The command line: `run`, `stdio`, `doctor` and `pki`.

mod doctor;
mod doctor_models;
mod pki;
mod run;
mod stdio;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use llmdeck_proto::socket::default_socket;
use tracing_subscriber::EnvFilter;

use crate::agent::AgentOptions;
use crate::config::{Config, ConfigError};
use crate::data_dir::default_data_dir;

/// Hosts models on this node, serves them, measures them, and lets operators act on them.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM.
    Run(RunArguments),
    /// Bridge standard input and output to the local agent's socket; what ssh:// runs.
    Stdio {
        /// The agent's socket.
        #[arg(long, value_name = "PATH", default_value_os_t = default_socket())]
        socket: PathBuf,
    },
    /// Check driver, memory, disk, ports and permissions, and say what to do.
    Doctor(PlaceArguments),
    /// Make a private authority and certificates, for TLS without one of your own.
    #[command(subcommand)]
    Pki(pki::PkiCommand),
}

#[derive(Debug, Args)]
struct RunArguments {
    #[command(flatten)]
    place: PlaceArguments,
    /// How log lines on standard error are written.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Debug, Args)]
struct PlaceArguments {
    /// Configuration file; without one the built-in model is served as `assistant`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where revisions, history and the audit are kept.
    #[arg(long, value_name = "DIR", default_value_os_t = default_data_dir())]
    data_dir: PathBuf,
    /// The gRPC socket.
    #[arg(long, value_name = "PATH", default_value_os_t = default_socket())]
    listen: PathBuf,
    /// The HTTP API's address; beyond loopback it needs [tls] and callers need keys.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// Where consoles reach the agent as https://, with certificates or keys; needs [tls].
    #[arg(long, value_name = "ADDRESS")]
    grpc: Option<SocketAddr>,
    /// NVML's path, where it is not on the system's search path.
    #[arg(long, value_name = "PATH", env = "LLMDECK_NVML_LIBRARY")]
    nvml_library: Option<OsString>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl PlaceArguments {
    fn options(self) -> Result<AgentOptions, ConfigError> {
        Ok(AgentOptions {
            config: self.config.map_or_else(|| Ok(Config::builtin()), |path| Config::read(&path))?,
            data_dir: self.data_dir,
            socket: self.listen,
            http: self.http,
            grpc: self.grpc,
            nvml_library: self.nvml_library,
        })
    }
}

/// Runs a command to its end.
///
/// # Errors
/// What stood in the way.
pub fn run(cli: Cli) -> color_eyre::Result<()> {
    color_eyre::install()?;
    match cli.command {
        Command::Run(arguments) => {
            log(arguments.log_format);
            runtime()?.block_on(run::run(arguments.place.options()?))
        }
        Command::Stdio { socket } => runtime()?.block_on(stdio::bridge(&socket)),
        Command::Doctor(arguments) => doctor::check(&arguments.options()?),
        Command::Pki(command) => pki::make(&command),
    }
}

/// Each thread keeps up to a quarter of a MiB of what it freed, and those that may block take turns: with the usual ten seconds one
/// request every few of them would keep all of them.
const IDLE_THREAD_ENDS_AFTER: Duration = Duration::from_millis(500);

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().thread_keep_alive(IDLE_THREAD_ENDS_AFTER).enable_all().build()
}

/// `RUST_LOG` chooses what is logged.
fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
