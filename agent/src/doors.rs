//! Where callers from outside come in: checked before anything starts, and opened together.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::{Listener, ListenerExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::{StartError, system};
use crate::config::Config;
use crate::security::tls::{ClientCertificates, Tls, TlsConnection, TlsListener};

/// Idle keep-alive connections must not hold the process for longer.
const CLOSING_PATIENCE: Duration = Duration::from_millis(500);

/// Addresses that may be opened.
pub(crate) struct Doors {
    http: SocketAddr,
    grpc: Option<SocketAddr>,
    keys_required: bool,
}

/// Open doors.
pub(crate) struct OpenDoors {
    /// Where the HTTP API is.
    pub(crate) http: SocketAddr,
    /// Where the agent itself reaches it, without TLS.
    pub(crate) own_http: SocketAddr,
    pub(crate) http_listeners: Vec<HttpListener>,
    pub(crate) grpc: Option<TlsListener>,
    pub(crate) grpc_address: Option<SocketAddr>,
    pub(crate) keys_required: bool,
}

impl Doors {
    /// Beyond loopback there must be TLS and authentication.
    pub(crate) fn check(
        config: &Config,
        http: SocketAddr,
        grpc: Option<SocketAddr>,
    ) -> Result<Self, StartError> {
        let open = !http.ip().is_loopback();
        if let Some(address) = grpc.or(open.then_some(http)).filter(|_| config.tls.is_none()) {
            return Err(StartError::NoTls(address));
        }
        if open && config.require_keys == Some(false) {
            return Err(StartError::NoKeys(http));
        }
        Ok(Self { http, grpc, keys_required: config.require_keys.unwrap_or(open) })
    }

    pub(crate) async fn open(
        self,
        config: &Config,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<OpenDoors, StartError> {
        let follow = |tls: &Arc<Tls>| {
            tasks.spawn(Arc::clone(tls).follow_files(stop.clone()));
        };
        let (http, listener) = bind("--http", self.http).await?;
        let (mut own_http, mut http_listeners) = (http, Vec::new());
        match &config.tls {
            Some(files) => {
                let tls = Tls::new(files.clone(), ClientCertificates::Ignored, &["h2", "http/1.1"])?;
                follow(&tls);
                let secured = TlsListener::new(listener, tls).map_err(system("the HTTP address"))?;
                http_listeners.push(HttpListener::Secured(secured));
                // The agent's own benchmarks measure models, not TLS.
                let (address, plain) = bind("an address of its own", (Ipv4Addr::LOCALHOST, 0).into()).await?;
                own_http = address;
                http_listeners.push(HttpListener::Plain(plain));
            }
            None => http_listeners.push(HttpListener::Plain(listener)),
        }
        let (mut grpc, mut grpc_address) = (None, None);
        if let (Some(address), Some(files)) = (self.grpc, &config.tls) {
            let tls = Tls::new(files.clone(), ClientCertificates::Checked, &["h2"])?;
            follow(&tls);
            let (address, listener) = bind("--grpc", address).await?;
            grpc_address = Some(address);
            grpc = Some(TlsListener::new(listener, tls).map_err(system("the gRPC address"))?);
        }
        let keys_required = self.keys_required;
        Ok(OpenDoors { http, own_http, http_listeners, grpc, grpc_address, keys_required })
    }
}

async fn bind(what: &str, address: SocketAddr) -> Result<(SocketAddr, TcpListener), StartError> {
    let fail = || format!("{what} {address}; choose another address");
    let listener = TcpListener::bind(address).await.map_err(system(fail()))?;
    Ok((listener.local_addr().map_err(system(fail()))?, listener))
}

/// Where the HTTP API is served.
pub(crate) enum HttpListener {
    Plain(TcpListener),
    Secured(TlsListener),
}

impl HttpListener {
    pub(crate) async fn serve(self, router: Router, stop: CancellationToken) {
        match self {
            Self::Plain(listener) => {
                // A token is a small packet that must not wait for the one before to be acknowledged.
                let listener = listener.tap_io(|stream| {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "a connection keeps its delay");
                    }
                });
                serve(listener, router, stop).await;
            }
            Self::Secured(listener) => serve(listener, router, stop).await,
        }
    }
}

async fn serve<L: Listener>(listener: L, router: Router, stop: CancellationToken)
where
    L::Addr: std::fmt::Debug,
{
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        outcome = served => {
            if let Err(error) = outcome {
                tracing::error!(%error, "the HTTP server stopped");
            }
        }
        () = async { stop.cancelled().await; tokio::time::sleep(CLOSING_PATIENCE).await } => {}
    }
}

impl Listener for TlsListener {
    type Io = TlsConnection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.next().await {
            Some(connection) => {
                let address = connection.address();
                (connection, address)
            }
            // The runtime is going down.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address())
    }
}
