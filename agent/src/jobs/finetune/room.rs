//! A full disk holds a job up; it does not end it.

use std::path::Path;
use std::time::Duration;

use super::super::handle::JobHandle;

/// What others need beside a job.
const MARGIN_BYTES: u64 = 8 << 20;
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where a job writes, and how much.
pub(super) struct Room<'a> {
    pub(super) job: &'a JobHandle,
    pub(super) folder: &'a Path,
    pub(super) needed_bytes: u64,
}

impl Room<'_> {
    /// Waits for room, so that what failed can be done again.
    ///
    /// # Errors
    /// What it failed with where the disk is not full, or that the job was cancelled meanwhile.
    pub(super) async fn wait(&self, error: String) -> Result<(), String> {
        let Some(free) = self.missing() else { return Err(error) };
        let needed = (self.needed_bytes + MARGIN_BYTES).div_ceil(1 << 20);
        self.job.log(format!("waits for room: {error}"));
        self.job.set_state("paused");
        self.job.detail(format!(
            "the disk is full: waits for {needed} MiB, {} are free; nothing is lost",
            free >> 20
        ));
        while self.missing().is_some() {
            let waited = self.job.cancel.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await;
            if waited.is_none() {
                return Err("was cancelled while it waited for room on the disk".into());
            }
        }
        self.job.log("there is room again");
        self.job.set_state("running");
        Ok(())
    }

    /// Bytes that are free, where these are too few.
    fn missing(&self) -> Option<u64> {
        let disk = nix::sys::statvfs::statvfs(self.folder).ok()?;
        let free = disk.blocks_available() as u64 * disk.fragment_size() as u64;
        (free < self.needed_bytes + MARGIN_BYTES).then_some(free)
    }
}
