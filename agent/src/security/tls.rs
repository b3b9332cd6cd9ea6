//! TLS: certificates from files, read anew when they change, and a listener whose slow or silent callers hold up nobody.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig, version};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Handshakes at once; more callers wait in the system's queue.
const MOST_HANDSHAKES: usize = 256;
/// Connections that are ready and not yet taken.
const MOST_READY: usize = 64;
/// Connections of one listener; more callers wait until one ends.
const MOST_CONNECTIONS: usize = 8_192;
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// How often the files are looked at.
const RELOAD_EVERY: Duration = Duration::from_secs(15);
/// After the system gave no connection, for want of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The files; paths in a configuration are relative to its folder.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The node's certificate, PEM, its own first and then those that lead to the authority.
    pub certificate: PathBuf,
    /// Its private key, PEM, readable by the agent's user only.
    pub key: PathBuf,
    /// Authorities of the certificates that callers may show, PEM.
    pub client_authority: Option<PathBuf>,
}

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("{path}: {source}; check that it is there and that the agent may read it")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file with something else in it.
    #[error("{path}: {problem}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong, and the remedy.
        problem: String,
    },
    /// The parts do not fit.
    #[error("{path}: {source}; the certificate and the key must belong together")]
    Pair {
        /// The certificate.
        path: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
}

/// Whether callers may show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Nobody is asked for one.
    Ignored,
    /// Who shows one must show one that the authority signed; who shows none can still prove itself by a key.
    Checked,
}

/// A server's TLS that follows its files.
pub struct Tls {
    files: TlsConfig,
    clients: ClientCertificates,
    protocols: Vec<Vec<u8>>,
    config: ArcSwap<ServerConfig>,
}

impl Tls {
    /// Reads the files. `protocols` are offered by ALPN, the preferred first.
    ///
    /// # Errors
    /// Which file is at fault, and why.
    pub fn new(
        files: TlsConfig,
        clients: ClientCertificates,
        protocols: &[&str],
    ) -> Result<Arc<Self>, TlsError> {
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let config = ArcSwap::from_pointee(read(&files, clients, &protocols)?);
        Ok(Arc::new(Self { files, clients, protocols, config }))
    }

    /// Reads the files anew whenever one of them has changed, until `stop`. What cannot be used is reported, and what was
    /// used before stays.
    pub async fn follow_files(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = self.changed_at();
        while stop.run_until_cancelled(tokio::time::sleep(RELOAD_EVERY)).await.is_some() {
            let now = self.changed_at();
            if now == seen {
                continue;
            }
            seen = now;
            match read(&self.files, self.clients, &self.protocols) {
                Ok(config) => {
                    self.config.store(Arc::new(config));
                    tracing::info!(certificate = %self.files.certificate.display(), "certificates were read anew");
                }
                Err(error) => {
                    tracing::error!(%error, "new certificates cannot be used; the ones before stay");
                }
            }
        }
    }

    fn changed_at(&self) -> Vec<Option<SystemTime>> {
        let TlsConfig { certificate, key, client_authority } = &self.files;
        let files = [Some(certificate), Some(key), client_authority.as_ref()];
        let changed = |path: &PathBuf| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        files.into_iter().flatten().map(changed).collect()
    }
}

fn read(
    files: &TlsConfig,
    clients: ClientCertificates,
    protocols: &[Vec<u8>],
) -> Result<ServerConfig, TlsError> {
    let chain = certificates(&files.certificate)?;
    let key = private_key(&files.key)?;
    let pair = |source| TlsError::Pair { path: files.certificate.clone(), source };
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(pair)?;
    let builder = match (clients, &files.client_authority) {
        (ClientCertificates::Checked, Some(path)) => {
            let mut roots = RootCertStore::empty();
            let problem = |problem: String| TlsError::File { path: path.clone(), problem };
            for authority in certificates(path)? {
                roots.add(authority).map_err(|error| problem(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| problem(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
    config.alpn_protocols = protocols.to_vec();
    Ok(config)
}

fn unreadable(path: &Path) -> impl FnOnce(pem::Error) -> TlsError {
    let path = path.to_owned();
    move |error| match error {
        pem::Error::Io(source) => TlsError::Read { path, source },
        other => TlsError::File { path, problem: format!("{other}; it must be PEM") },
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_file_iter(path).map_err(unreadable(path))?;
    let all = all.collect::<Result<Vec<_>, _>>().map_err(unreadable(path))?;
    if all.is_empty() {
        let problem = "there is no certificate in it; it must be PEM".into();
        return Err(TlsError::File { path: path.to_owned(), problem });
    }
    Ok(all)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let key = PrivateKeyDer::from_pem_file(path).map_err(unreadable(path))?;
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o077 != 0 {
        let problem =
            format!("others than its owner may read this private key; run chmod 600 {}", path.display());
        return Err(TlsError::File { path: path.to_owned(), problem });
    }
    Ok(key)
}

/// The name in a caller's certificate; `None` of a caller that showed none, or one without a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerName(pub Option<String>);

/// A connection with TLS.
pub struct TlsConnection {
    stream: TlsStream<TcpStream>,
    address: SocketAddr,
    name: PeerName,
    _place: OwnedSemaphorePermit,
}

impl TlsConnection {
    /// From where it comes.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The name in the certificate that the caller showed.
    pub fn name(&self) -> &PeerName {
        &self.name
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for TlsConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Accepts connections; those that come out have done their handshake.
pub struct TlsListener {
    ready: mpsc::Receiver<TlsConnection>,
    address: SocketAddr,
}

impl TlsListener {
    /// Begins to accept, until the listener is dropped.
    ///
    /// # Errors
    /// When the system does not say which address it is.
    pub fn new(listener: TcpListener, tls: Arc<Tls>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(MOST_READY);
        tokio::spawn(accept(listener, tls, sender));
        Ok(Self { ready, address })
    }

    /// The next connection; `None` when there will be none any more.
    pub async fn next(&mut self) -> Option<TlsConnection> {
        self.ready.recv().await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(listener: TcpListener, tls: Arc<Tls>, ready: mpsc::Sender<TlsConnection>) {
    let (handshakes, connections) =
        (Arc::new(Semaphore::new(MOST_HANDSHAKES)), Arc::new(Semaphore::new(MOST_CONNECTIONS)));
    loop {
        // Neither is ever closed.
        let Ok(place) = Arc::clone(&connections).acquire_owned().await else { return };
        let Ok(shaking) = Arc::clone(&handshakes).acquire_owned().await else { return };
        let (stream, address) = tokio::select! {
            () = ready.closed() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let acceptor = TlsAcceptor::from(tls.config.load_full());
        let ready = ready.clone();
        tokio::spawn(async move {
            // A token is a small packet that must not wait for the one before to be acknowledged.
            let _ = stream.set_nodelay(true);
            match tokio::time::timeout(HANDSHAKE_PATIENCE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    drop(shaking);
                    let name = stream.get_ref().1.peer_certificates().and_then(|chain| name(chain.first()?));
                    let name = PeerName(name);
                    // Nobody listens any more.
                    let _ = ready.send(TlsConnection { stream, address, name, _place: place }).await;
                }
                Ok(Err(error)) => tracing::debug!(%address, %error, "a handshake failed"),
                Err(_) => tracing::debug!(%address, "a handshake took too long"),
            }
        });
    }
}

/// The SPIFFE id of a certificate, or its email address where it has none.
fn name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    let spiffe = names.iter().find_map(|name| match name {
        GeneralName::URI(uri) if uri.starts_with("spiffe://") => Some(*uri),
        _ => None,
    });
    let email = || {
        names.iter().find_map(|name| match name {
            GeneralName::RFC822Name(address) => Some(*address),
            _ => None,
        })
    };
    spiffe.or_else(email).map(str::to_owned)
}
