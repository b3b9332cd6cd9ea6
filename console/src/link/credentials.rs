//! What the console shows to agents over TLS, a certificate or a key, and whom it believes: files in a folder.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};
use tonic::metadata::{Ascii, MetadataValue};

/// Where the files are, instead of the user's configuration folder.
const FOLDER_VARIABLE: &str = "LLMDECK_CREDENTIALS";
const AUTHORITY: &str = "authority.pem";
const CERTIFICATE: &str = "client.pem";
const KEY: &str = "client.key";
/// A key of the agent with the scope `control`, for who has no certificate.
const API_KEY: &str = "api-key";
const LONGEST_API_KEY_BYTES: u64 = 4 << 10;

/// Why a connection over TLS is not even tried.
#[derive(Debug, thiserror::Error)]
pub(super) enum CredentialsError {
    #[error(
        "{path}: {problem}; an https:// agent needs {AUTHORITY} in that folder, and {CERTIFICATE} with {KEY} there, which `llmdeck-agent pki` makes, or {API_KEY} with one of its keys; {FOLDER_VARIABLE} names another folder"
    )]
    File { path: PathBuf, problem: String },
    #[error("there is no home directory; name the folder with the certificates in {FOLDER_VARIABLE}")]
    NoFolder,
    #[error("{path}: {source}; the certificate and the key must belong together")]
    Pair { path: PathBuf, source: tokio_rustls::rustls::Error },
}

impl From<CredentialsError> for io::Error {
    fn from(error: CredentialsError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error.to_string())
    }
}

/// A file for this host alone before one for all: `FOLDER/HOST/client.pem` before `FOLDER/client.pem`.
fn path(folder: &Path, host: &str, name: &str) -> PathBuf {
    let of_host = folder.join(host).join(name);
    if of_host.exists() { of_host } else { folder.join(name) }
}

/// The key for a host, as a header has it; `None` where a certificate is there, or no key that could be sent.
pub(super) fn api_key(host: &str) -> Option<MetadataValue<Ascii>> {
    let folder = folder()?;
    let file = path(&folder, host, API_KEY);
    if path(&folder, host, CERTIFICATE).exists()
        || std::fs::metadata(&file).ok()?.len() > LONGEST_API_KEY_BYTES
    {
        return None;
    }
    let mut value: MetadataValue<Ascii> =
        format!("Bearer {}", std::fs::read_to_string(file).ok()?.trim()).parse().ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Reads the files.
pub(super) fn client_config(host: &str) -> Result<Arc<ClientConfig>, CredentialsError> {
    let folder = folder().ok_or(CredentialsError::NoFolder)?;
    let path = |name: &str| path(&folder, host, name);
    let (authority, certificate) = (path(AUTHORITY), path(CERTIFICATE));
    let mut roots = RootCertStore::empty();
    for root in certificates(&authority)? {
        let problem = |error: tokio_rustls::rustls::Error| CredentialsError::File {
            path: authority.clone(),
            problem: error.to_string(),
        };
        roots.add(root).map_err(problem)?;
    }
    let pair = |source| CredentialsError::Pair { path: certificate.clone(), source };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(pair)?
        .with_root_certificates(roots);
    let mut config = if !certificate.exists() && path(API_KEY).exists() {
        config.with_no_client_auth()
    } else {
        let chain = certificates(&certificate)?;
        let key_path = path(KEY);
        let key = PrivateKeyDer::from_pem_file(&key_path).map_err(|error| unreadable(&key_path, &error))?;
        config.with_client_auth_cert(chain, key).map_err(pair)?
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn folder() -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named(FOLDER_VARIABLE)
        .or_else(|| Some(named("XDG_CONFIG_HOME")?.join("llmdeck")))
        .or_else(|| Some(named("HOME")?.join(".config/llmdeck")))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|error| unreadable(path, &error))?;
    if all.is_empty() {
        let problem = "there is no certificate in it".into();
        return Err(CredentialsError::File { path: path.to_owned(), problem });
    }
    Ok(all)
}

fn unreadable(path: &Path, error: &pem::Error) -> CredentialsError {
    let problem = match error {
        pem::Error::Io(error) => error.to_string(),
        other => format!("it is not PEM: {other}"),
    };
    CredentialsError::File { path: path.to_owned(), problem }
}
