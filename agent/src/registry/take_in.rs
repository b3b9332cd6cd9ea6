//! Brings bytes into the registry's folder: shared with their source where the file system can, else linked, else copied; and
//! reads them all once for their digest.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::digest::hex;
use super::inspect::Inspected;
use super::resolve::RegistryError;

const PIECE_BYTES: usize = 1 << 20;

/// How the bytes came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Means {
    /// The file system shares the blocks until either side is written (reflink).
    Shared,
    /// The same file under two names: whoever writes into the source in place writes into the registry, which `verify` finds.
    Linked,
    /// Another file system, or another owner.
    Copied,
}

impl Means {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Linked => "linked",
            Self::Copied => "copied",
        }
    }
}

/// What was taken in.
pub(super) struct TakenIn {
    /// sha256: of a file's bytes; of a folder, of the list of its files.
    pub(super) digest: String,
    /// Its name within the folder.
    pub(super) file: String,
    /// How the largest part came in.
    pub(super) means: Means,
}

/// Takes in what was inspected. `progress` hears how many bytes are read, and stops it by saying false.
///
/// # Errors
/// When something cannot be read or written, or it was stopped; nothing is left then.
pub(super) fn take_in(
    source: &Path,
    inspected: &Inspected,
    folder: &Path,
    mut progress: impl FnMut(u64) -> bool,
) -> Result<TakenIn, RegistryError> {
    let beside = folder.join(format!(".{:016x}.part", rand::random::<u64>()));
    let taken = take_in_beside(source, inspected, folder, &beside, &mut progress);
    // Gone already is as good.
    let _ = std::fs::remove_dir_all(&beside);
    taken
}

fn take_in_beside(
    source: &Path,
    inspected: &Inspected,
    folder: &Path,
    beside: &Path,
    progress: &mut impl FnMut(u64) -> bool,
) -> Result<TakenIn, RegistryError> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| RegistryError::Read { path, source }
    };
    std::fs::create_dir_all(beside).map_err(fail(beside))?;
    let (mut list, mut means, mut done, mut only) = (Sha256::new(), Means::Shared, 0, None);
    for file in &inspected.files {
        let name = file.file_name().unwrap_or_default();
        let target = beside.join(name);
        means = means.max(bring(file, &target).map_err(fail(file))?);
        // What is kept is what is read: the source may change at any moment.
        let digest = digest(&target, &mut done, progress).map_err(fail(file))?;
        list.update(name.as_encoded_bytes());
        list.update(b"\0");
        list.update(&digest);
        list.update(b"\n");
        only = Some((digest, target));
    }
    let (digest, from, name) = match only {
        Some((digest, target)) if source.is_file() => {
            let extension = source.extension().and_then(|extension| extension.to_str());
            let suffix = extension.map_or_else(String::new, |extension| format!(".{extension}"));
            let name = format!("{digest}{suffix}");
            (digest, target, name)
        }
        _ => {
            let digest = hex(&list.finalize());
            (digest.clone(), beside.to_owned(), digest)
        }
    };
    let place = folder.join(&name);
    if !place.exists() {
        std::fs::rename(&from, &place).map_err(fail(&place))?;
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail(folder))?;
    Ok(TakenIn { digest, file: name, means })
}

fn bring(source: &Path, target: &Path) -> io::Result<Means> {
    // The name may be a link into a store of another program; the bytes are what is wanted.
    let source: PathBuf = std::fs::canonicalize(source)?;
    if reflink_copy::reflink(&source, target).is_ok() {
        return Ok(Means::Shared);
    }
    if std::fs::hard_link(&source, target).is_ok() {
        return Ok(Means::Linked);
    }
    let (mut from, mut to) = (File::open(&source)?, File::create(target)?);
    io::copy(&mut from, &mut to)?;
    to.flush()?;
    to.sync_all()?;
    Ok(Means::Copied)
}

/// sha256 of a file, in hex.
///
/// # Errors
/// When it cannot be read, or `progress` says false.
pub(super) fn digest(
    path: &Path,
    done: &mut u64,
    progress: &mut impl FnMut(u64) -> bool,
) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; PIECE_BYTES]);
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
        *done += count as u64;
        if !progress(*done) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "nobody waits for it any more"));
        }
    }
}
