use std::path::{Path, PathBuf};

use serde_json::json;

use crate::binaries;

/// The file of a scripted server that runs as a child of the agent.
///
/// # Panics
/// When the file cannot be written.
pub fn scripted(folder: &Path, name: &str, arguments: &[&str]) -> PathBuf {
    let path = folder.join(format!("{name}.toml"));
    let mut command = vec![binaries().scripted_server.to_str().unwrap(), "--port", "{port}"];
    command.extend(arguments);
    let text = format!("[process]\ncommand = {}\nready_timeout_s = 20\nstop_timeout_s = 1\n", json!(command));
    std::fs::write(&path, text).unwrap();
    path
}
