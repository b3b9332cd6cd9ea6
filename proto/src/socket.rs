//! Where agent and console meet when nothing else is said.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// `$XDG_RUNTIME_DIR/llmdeck/agent.sock`; for root, and where the variable is not set, `/run/llmdeck/agent.sock`.
pub fn default_socket() -> PathBuf {
    let root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !root && !folder.is_empty());
    runtime.map_or_else(|| PathBuf::from("/run"), PathBuf::from).join("llmdeck/agent.sock")
}
