//! sha256 of files and folders, as `sha256sum` prints it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Of a file's bytes; of a folder, of the list of its files' names and digests in order.
///
/// # Errors
/// When something cannot be read.
pub fn of_path(path: &Path) -> io::Result<String> {
    if path.is_file() {
        return of_file(path);
    }
    let mut names: Vec<_> =
        std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    names.sort();
    let mut list = Sha256::new();
    for path in names.iter().filter(|path| path.is_file()) {
        let name = path.file_name().unwrap_or_default();
        list.update(name.as_encoded_bytes());
        list.update(b"\0");
        list.update(of_file(path)?);
        list.update(b"\n");
    }
    Ok(hex(&list.finalize()))
}

fn of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
    }
}
