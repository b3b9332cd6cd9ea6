//! How fast a file is read that nobody has in memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Instant;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

const MOST_BYTES: u64 = 1 << 30;
const BUFFER_BYTES: usize = 4 << 20;

/// Bytes a second of one reader, in order, up to a GiB of the file. What the system has of it in memory is given up first.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn read_bytes_per_s(path: &Path) -> io::Result<f64> {
    let file = File::open(path)?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let mut limited = (&file).take(MOST_BYTES);
    let mut buffer = vec![0; BUFFER_BYTES];
    let (began, mut total) = (Instant::now(), 0u64);
    loop {
        match limited.read(&mut buffer)? {
            0 => return Ok(total as f64 / began.elapsed().as_secs_f64()),
            read => total += read as u64,
        }
    }
}
