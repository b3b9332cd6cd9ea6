//! The file that describes another server: a revision is made of its bytes, as it is of a model's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

/// Largest file.
const MOST_BYTES: u64 = 64 << 10;
const MOST_WORDS: usize = 512;
const LONGEST_S: u64 = 86_400;

/// Why a file describes no server.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct SpecError {
    path: PathBuf,
    problem: String,
}

/// A server that speaks the OpenAI API.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendSpec {
    /// What the server calls the model; what it lists first where it is absent.
    pub model: Option<String>,
    /// A file with the key that it asks for. The key itself is nowhere else.
    pub api_key_file: Option<PathBuf>,
    /// Where it says that it is ready.
    pub ready_path: String,
    /// What becomes of it while it stands by.
    pub standby: Standby,
    /// Who runs it.
    pub kind: BackendKind,
}

/// What becomes of a server that stands by for a rollback.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Standby {
    /// It keeps its memory, and a rollback takes no time.
    Ready,
    /// Where it can, it sleeps: its memory is free for others, and a rollback wakes it.
    Asleep,
}

/// Who runs a server.
#[derive(Clone, Debug, PartialEq)]
pub enum BackendKind {
    /// Someone else.
    Remote(RemoteSpec),
    /// This agent, as a child.
    Process(ProcessSpec),
}

/// As the file has it: one of the two tables.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SpecFile {
    model: Option<String>,
    api_key_file: Option<PathBuf>,
    #[serde(default = "defaults::ready_path")]
    ready_path: String,
    standby: Option<Standby>,
    remote: Option<RemoteSpec>,
    process: Option<ProcessSpec>,
}

/// A server that someone else runs.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RemoteSpec {
    /// `http://host:port`.
    pub url: String,
}

/// A server that is run as a child.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ProcessSpec {
    /// Program and arguments; `{port}` stands for the port that it is to listen on.
    pub command: Vec<String>,
    /// Added to this agent's own.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Where it runs; where this agent runs, if it is absent.
    pub directory: Option<PathBuf>,
    /// Seconds from its start until it must be ready.
    #[serde(default = "defaults::ready_timeout_s")]
    pub ready_timeout_s: u64,
    /// Seconds from SIGTERM until SIGKILL.
    #[serde(default = "defaults::stop_timeout_s")]
    pub stop_timeout_s: u64,
}

mod defaults {
    pub(super) fn ready_path() -> String {
        "/health".into()
    }
    pub(super) fn ready_timeout_s() -> u64 {
        600
    }
    pub(super) fn stop_timeout_s() -> u64 {
        30
    }
}

impl BackendSpec {
    /// Whether a path is meant to be such a file, rather than a model.
    pub fn is_one(path: &Path) -> bool {
        path.extension().is_some_and(|extension| extension == "toml")
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn read(path: &Path) -> Result<Self, SpecError> {
        let refused = |problem: String| SpecError { path: path.to_owned(), problem };
        let size = std::fs::metadata(path).map_err(|error| refused(error.to_string()))?.len();
        if size > MOST_BYTES {
            return Err(refused(format!("has {size} bytes; a backend's file has at most {MOST_BYTES}")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
        let file: SpecFile = toml::from_str(&text).map_err(|error| refused(error.to_string()))?;
        let SpecFile { model, api_key_file, ready_path, standby, remote, process } = file;
        let kind = match (remote, process) {
            (Some(remote), None) => BackendKind::Remote(remote),
            (None, Some(process)) => BackendKind::Process(process),
            _ => {
                let problem = "must have either [remote] with its url, or [process] with its command";
                return Err(refused(problem.into()));
            }
        };
        // A server that someone else runs may have other users.
        let standby = standby.unwrap_or(match kind {
            BackendKind::Remote(_) => Standby::Ready,
            BackendKind::Process(_) => Standby::Asleep,
        });
        let spec = Self { model, api_key_file, ready_path, standby, kind };
        spec.check().map_err(refused)?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), String> {
        if !self.ready_path.starts_with('/') {
            return Err(format!("ready_path must begin with /, not {:?}", self.ready_path));
        }
        match &self.kind {
            BackendKind::Remote(RemoteSpec { url }) => {
                if !url.starts_with("http://") && !url.starts_with("https://") {
                    return Err(format!("url must be http://HOST:PORT or https://HOST, not {url:?}"));
                }
            }
            BackendKind::Process(process) => {
                if process.command.is_empty() || process.command.len() > MOST_WORDS {
                    return Err(format!(
                        "command must have 1 to {MOST_WORDS} words: the program, then its arguments"
                    ));
                }
                let named = |word: &String| word.contains("{port}");
                if !process.command.iter().chain(process.environment.values()).any(named) {
                    return Err(
                        "command or environment must say {port}, the port that the server is to listen on"
                            .into(),
                    );
                }
                let times = [
                    ("ready_timeout_s", process.ready_timeout_s),
                    ("stop_timeout_s", process.stop_timeout_s),
                ];
                if let Some((field, value)) =
                    times.into_iter().find(|(_, value)| !(1..=LONGEST_S).contains(value))
                {
                    return Err(format!("{field} must be between 1 and {LONGEST_S}, not {value}"));
                }
            }
        }
        Ok(())
    }

    /// How long it may take until it is ready.
    pub fn ready_timeout(&self) -> Duration {
        match &self.kind {
            BackendKind::Remote(_) => Duration::from_secs(30),
            BackendKind::Process(process) => Duration::from_secs(process.ready_timeout_s),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::BackendSpec;

    fn refusal(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backend.toml");
        std::fs::write(&path, text).unwrap();
        BackendSpec::read(&path).unwrap_err().to_string()
    }

    #[test]
    fn mistakes_are_named_with_what_would_be_right() {
        assert!(refusal("[remote]\nurl = \"gpu-01:8000\"\n").contains("http://HOST:PORT"));
        assert!(refusal("[process]\ncommand = []\n").contains("1 to 512 words"));
        assert!(refusal("[process]\ncommand = [\"vllm\"]\n").contains("{port}"));
        let text = refusal("[process]\ncommand = [\"s\", \"{port}\"]\nstop_timeout_s = 0\n");
        assert!(text.contains("stop_timeout_s"), "{text}");
        assert!(refusal("[docker]\n").contains("docker"));
        assert!(refusal("model = \"m\"\n").contains("[remote]"));
    }
}
