//! The data directory: one agent at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Someone else has it.
    #[error("another agent (pid {pid}) uses {path}; stop it, or choose another --data-dir")]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Of the first agent, as it wrote it down.
        pid: String,
    },
    /// The system refused.
    #[error(
        "data directory {path}: {source}; check its owner and the disk's space, or choose another --data-dir"
    )]
    System {
        /// The directory.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
}

/// A locked directory; the lock ends with the process, however it ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory, readable by its owner only, and locks it.
    ///
    /// # Errors
    /// When another agent has it, or the system refuses.
    pub fn lock(path: &Path) -> Result<Self, DataDirError> {
        let fail = |source| DataDirError::System { path: path.to_owned(), source };
        // Children that the agent starts work elsewhere.
        let path = &std::path::absolute(path).map_err(fail)?;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("agent.pid"))
            .map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(fail)?;
                return Err(DataDirError::InUse { path: path.to_owned(), pid: pid.trim().to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(fail)?;
        writeln!(file, "{}", std::process::id()).map_err(fail)?;
        Ok(Self { path: path.to_owned(), _lock: file })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// `$XDG_DATA_HOME/llmdeck`, for root `/var/lib/llmdeck`.
pub fn default_data_dir() -> PathBuf {
    if nix::unistd::Uid::effective().is_root() {
        return PathBuf::from("/var/lib/llmdeck");
    }
    let home = || std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
    std::env::var_os("XDG_DATA_HOME")
        .map_or_else(|| home().join(".local/share"), PathBuf::from)
        .join("llmdeck")
}

#[cfg(test)]
mod tests {
    use super::{DataDir, DataDirError};

    #[test]
    fn the_second_agent_is_told_the_firsts_pid() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataDir::lock(folder.path()).unwrap();
        let second = DataDir::lock(folder.path()).unwrap_err();
        assert!(matches!(second, DataDirError::InUse { pid, .. } if pid == std::process::id().to_string()));
        drop(first);
        assert!(DataDir::lock(folder.path()).is_ok());
    }

    #[test]
    fn it_is_found_from_anywhere() {
        let folder = tempfile::tempdir_in(".").unwrap();
        let relative = std::path::Path::new(folder.path().file_name().unwrap());
        assert!(DataDir::lock(relative).unwrap().path().is_absolute());
    }
}
