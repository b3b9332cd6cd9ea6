//! Who calls, before anything is looked at.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::service::Interceptor;
use tonic::transport::server::{Connected, UdsConnectInfo};
use tonic::{Request, Status};

use crate::security::identity::Operator;
use crate::security::keys::{Keys, Scope};
use crate::security::tls::TlsConnection;

const BEARER: &str = "Bearer ";

/// Puts the operator into a request's extensions, or refuses it.
#[derive(Clone)]
pub(super) struct Authenticate(pub(super) Arc<Keys>);

impl Interceptor for Authenticate {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let operator = self.operator(&request).ok_or_else(|| Status::unauthenticated("refused"))?;
        request.extensions_mut().insert(operator);
        Ok(request)
    }
}

impl Authenticate {
    fn operator(&self, request: &Request<()>) -> Option<Operator> {
        if let Some(peer) = request.extensions().get::<UdsConnectInfo>() {
            return peer.peer_cred.map(|credentials| Operator::of_uid(credentials.uid()));
        }
        let PeerName(name) = request.extensions().get::<PeerName>()?;
        if let Some(name) = name {
            return Some(Operator::Certificate { name: name.clone() });
        }
        let header = request.metadata().get("authorization")?.to_str().ok()?;
        let key = self.0.find(header.strip_prefix(BEARER)?)?;
        key.may(Scope::Control).then(|| Operator::Key { name: key.name().to_owned() })
    }
}

/// The name in the certificate of a caller over TLS.
#[derive(Clone)]
pub(super) struct PeerName(Option<String>);

/// A connection over TLS as tonic wants it.
pub(super) struct Secured(pub(super) TlsConnection);

impl Connected for Secured {
    type ConnectInfo = PeerName;

    fn connect_info(&self) -> PeerName {
        PeerName(self.0.name.clone())
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0.stream).poll_shutdown(context)
    }
}
