//! Looks at a file or a folder before it is taken in: what it is, and that nothing in it runs or lies about its size.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use llmdeck_engine::check_header;

use super::artifact::ArtifactKind;
use super::resolve::RegistryError;
use crate::backend::BackendSpec;
use crate::quality::Suite;

/// Files of one folder; the largest models have some hundreds.
const MOST_FILES: usize = 4_096;
const LARGEST_TEXT_BYTES: u64 = 1 << 20;
/// Names of files that Python's pickle is kept in.
const PICKLED: [&str; 6] = ["bin", "pt", "pth", "ckpt", "pkl", "pickle"];
const GGUF_MAGIC: &[u8] = b"GGUF";
const ZIP_MAGIC: &[u8] = b"PK\x03\x04";
/// `PROTO` of pickle, protocols 2 to 5.
const PICKLE_PROTO: u8 = 0x80;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inspected {
    /// What it is.
    pub(super) kind: ArtifactKind,
    /// The files that belong to it; one where it is a file.
    pub(super) files: Vec<PathBuf>,
    /// Bytes of all of them.
    pub(super) size_bytes: u64,
}

/// Looks at what may be added. `kind` is what the operator says that it is.
///
/// # Errors
/// What is wrong with it, or that nobody can tell what it is.
pub(super) fn inspect(path: &Path, kind: Option<ArtifactKind>) -> Result<Inspected, RegistryError> {
    let metadata = std::fs::metadata(path).map_err(read(path))?;
    let files = if metadata.is_dir() {
        files_of(path)?
    } else if metadata.is_file() {
        vec![path.to_owned()]
    } else {
        return Err(malformed(path, "is neither a file nor a folder"));
    };
    let mut size_bytes = 0;
    for file in &files {
        refuse_pickle(file)?;
        let metadata = std::fs::metadata(file).map_err(read(file))?;
        size_bytes += metadata.len();
        let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if matches!(extension, "gguf" | "safetensors") {
            check_header(file).map_err(|error| malformed(file, error.to_string()))?;
        }
    }
    let kind = match (kind, guess(path, &files)) {
        (Some(said), Some(seen)) if seen != said && !is_text(said) => {
            let reason = format!("is a {}, not a {}", seen.as_str(), said.as_str());
            return Err(malformed(path, reason));
        }
        (Some(said), _) => said,
        (None, Some(seen)) => seen,
        (None, None) => {
            let known = ArtifactKind::ALL.map(ArtifactKind::as_str).join(", ");
            let reason = format!("could be several things; say which with --kind: {known}");
            return Err(malformed(path, reason));
        }
    };
    check(path, kind, size_bytes)?;
    Ok(Inspected { kind, files, size_bytes })
}

fn check(path: &Path, kind: ArtifactKind, size_bytes: u64) -> Result<(), RegistryError> {
    match kind {
        ArtifactKind::Model | ArtifactKind::Adapter if path.is_file() => {
            let gguf = path.extension().is_some_and(|extension| extension == "gguf");
            if gguf {
                Ok(())
            } else {
                Err(malformed(path, "a model is a .gguf file, or a folder with safetensors"))
            }
        }
        ArtifactKind::Suite => {
            let text = std::fs::read_to_string(path).map_err(read(path))?;
            Suite::parse(path, &text).map(drop)
        }
        ArtifactKind::Prompt => {
            if size_bytes > LARGEST_TEXT_BYTES {
                return Err(malformed(path, format!("a prompt has at most {LARGEST_TEXT_BYTES} bytes")));
            }
            std::fs::read_to_string(path).map(drop).map_err(read(path))
        }
        ArtifactKind::Backend => BackendSpec::read(path).map(drop).map_err(RegistryError::Backend),
        ArtifactKind::Model | ArtifactKind::Adapter | ArtifactKind::Dataset => Ok(()),
    }
}

/// Several kinds are text, which tells nothing.
fn is_text(kind: ArtifactKind) -> bool {
    matches!(kind, ArtifactKind::Prompt | ArtifactKind::Suite | ArtifactKind::Dataset)
}

fn guess(path: &Path, files: &[PathBuf]) -> Option<ArtifactKind> {
    let has = |name: &str| files.iter().any(|file| file.file_name().is_some_and(|known| known == name));
    if path.is_dir() {
        return if has("adapter_config.json") {
            Some(ArtifactKind::Adapter)
        } else if has("config.json") {
            Some(ArtifactKind::Model)
        } else {
            None
        };
    }
    match path.extension()?.to_str()? {
        "gguf" => Some(ArtifactKind::Model),
        "toml" => Some(ArtifactKind::Backend),
        "txt" | "md" => Some(ArtifactKind::Prompt),
        "parquet" => Some(ArtifactKind::Dataset),
        _ => None,
    }
}

fn files_of(folder: &Path) -> Result<Vec<PathBuf>, RegistryError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read(folder))? {
        let path = entry.map_err(read(folder))?.path();
        let metadata = std::fs::metadata(&path).map_err(read(&path))?;
        // Such as `.cache`; what a model needs lies beside its weights.
        if metadata.is_dir() {
            continue;
        }
        if !metadata.is_file() {
            return Err(malformed(&path, "is neither a file nor a folder"));
        }
        if files.len() == MOST_FILES {
            return Err(malformed(folder, format!("has more than {MOST_FILES} files")));
        }
        files.push(path);
    }
    files.sort();
    if files.is_empty() { Err(malformed(folder, "has no files")) } else { Ok(files) }
}

/// A pickle runs whatever program its maker put into it when it is read, so that none is taken in, under any name.
fn refuse_pickle(path: &Path) -> Result<(), RegistryError> {
    let mut head = [0; 4];
    let mut file = File::open(path).map_err(read(path))?;
    let mut filled = 0;
    while filled < head.len() {
        match file.read(&mut head[filled..]).map_err(read(path))? {
            0 => break,
            count => filled += count,
        }
    }
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let named = PICKLED.contains(&extension.to_ascii_lowercase().as_str());
    let pickled = head[0] == PICKLE_PROTO && matches!(head[1], 2..=5) && filled >= 2;
    let zipped = head == ZIP_MAGIC;
    if (named && head != GGUF_MAGIC) || pickled || zipped {
        let reason = "is a pickle or may hold one, which runs programs when it is read; convert it to safetensors or GGUF";
        return Err(malformed(path, reason));
    }
    Ok(())
}

fn malformed(path: &Path, reason: impl Into<String>) -> RegistryError {
    RegistryError::Malformed { path: path.to_owned(), reason: reason.into() }
}

fn read(path: &Path) -> impl Fn(std::io::Error) -> RegistryError {
    let path = path.to_owned();
    move |source| RegistryError::Read { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::artifact::ArtifactKind;
    use super::inspect;

    fn write(folder: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn pickles_are_refused_under_any_name() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in [
            ("pytorch_model.bin", &b"weights"[..]),
            ("model.gguf", b"\x80\x02}q\x00."),
            ("data.jsonl", b"PK\x03\x04data.pkl"),
            ("prompt.txt", b"\x80\x05x"),
        ] {
            let path = write(folder.path(), name, bytes);
            let refused = inspect(&path, None).unwrap_err().to_string();
            assert!(refused.contains("pickle") && refused.contains("safetensors"), "{refused}");
            assert!(inspect(folder.path(), None).unwrap_err().to_string().contains("pickle"));
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn headers_that_lie_are_refused_before_anything_is_mapped() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |name: &str, bytes: &[u8]| {
            inspect(&write(folder.path(), name, bytes), None).unwrap_err().to_string()
        };
        refused("short.gguf", b"GGUF");
        refused("other.gguf", b"nothing of the kind");
        let header = |text: &str, data: &[u8]| {
            let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
            bytes.extend(text.as_bytes());
            bytes.extend(data);
            bytes
        };
        let beyond = r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
        let message = refused("beyond.safetensors", &header(beyond, &[0; 8]));
        assert!(message.contains("beyond.safetensors"), "{message}");
        refused("huge.safetensors", &u64::MAX.to_le_bytes());
        let overlap = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
        refused("overlap.safetensors", &header(overlap, &[0; 6]));
    }

    #[test]
    fn kinds_are_seen_or_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "polite.txt", b"Be polite.");
        assert_eq!(inspect(&path, None).unwrap().kind, ArtifactKind::Prompt);
        let path = write(folder.path(), "lines.jsonl", b"{}\n");
        assert!(inspect(&path, None).unwrap_err().to_string().contains("--kind"));
        assert_eq!(inspect(&path, Some(ArtifactKind::Dataset)).unwrap().kind, ArtifactKind::Dataset);
        // Reading it would never end.
        let device = inspect(Path::new("/dev/zero"), Some(ArtifactKind::Dataset)).unwrap_err().to_string();
        assert!(device.contains("neither"), "{device}");
        let refused = inspect(&path, Some(ArtifactKind::Model)).unwrap_err().to_string();
        assert!(refused.contains(".gguf"), "{refused}");
    }
}
