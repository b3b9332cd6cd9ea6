//! Who calls, before anything is looked at.

use std::sync::Arc;

use tonic::service::Interceptor;
use tonic::transport::server::{Connected, UdsConnectInfo};
use tonic::{Request, Status};

use crate::security::identity::Operator;
use crate::security::keys::{Keys, Scope};
use crate::security::tls::{PeerName, TlsConnection};

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

impl Connected for TlsConnection {
    type ConnectInfo = PeerName;

    fn connect_info(&self) -> PeerName {
        self.name().clone()
    }
}
