//! The files of a log in their order, and their lines.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::CURRENT;

/// Longest line that is read as one; what is longer was not written by us.
const LONGEST_LINE_BYTES: u64 = 1 << 20;

/// SHA-256 of a line without its end, in hex.
pub(crate) fn digest(line: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(line).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Where a full file goes.
pub(crate) fn full_file(folder: &Path, first_sequence: u64) -> PathBuf {
    folder.join(format!("audit-{first_sequence:020}.jsonl"))
}

/// Every file of a log, in the order of its records.
pub(crate) fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let is_full = |name: &str| name.starts_with("audit-") && name.ends_with(".jsonl");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(is_full) {
            files.push(path);
        }
    }
    files.sort();
    let current = folder.join(CURRENT);
    if current.exists() {
        files.push(current);
    }
    Ok(files)
}

/// Calls `each` with the number, the text and whether it is ended of every line.
pub(crate) fn lines(
    path: &Path,
    mut each: impl FnMut(usize, &[u8], bool) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(File::open(path)?);
    let (mut line, mut number) = (Vec::new(), 0);
    loop {
        line.clear();
        if (&mut reader).take(LONGEST_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        number += 1;
        match line.strip_suffix(b"\n") {
            Some(text) => each(number, text, true)?,
            None => each(number, &line, false)?,
        }
    }
}
