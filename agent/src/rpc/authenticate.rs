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
        let (operator, secret) = self.operator(&request).ok_or_else(|| Status::unauthenticated("refused"))?;
        request.extensions_mut().insert(operator);
        request.extensions_mut().insert(Admission { keys: Arc::clone(&self.0), secret });
        Ok(request)
    }
}

/// What let a caller in, for answers that go on and on.
#[derive(Clone)]
pub(super) struct Admission {
    keys: Arc<Keys>,
    /// The key that was shown; nothing where a user or a certificate was.
    secret: Option<String>,
}

impl Admission {
    /// Refuses whoever's key was revoked, or is over.
    pub(super) fn still(&self) -> Result<(), Status> {
        match &self.secret {
            Some(secret) if !may_control(&self.keys, secret) => {
                Err(Status::unauthenticated("the key was revoked, or is over; connect with another"))
            }
            _ => Ok(()),
        }
    }
}

fn may_control(keys: &Keys, secret: &str) -> bool {
    keys.find(secret).is_some_and(|key| key.may(Scope::Control))
}

impl Authenticate {
    /// Who calls, and the key that was shown for it.
    fn operator(&self, request: &Request<()>) -> Option<(Operator, Option<String>)> {
        if let Some(peer) = request.extensions().get::<UdsConnectInfo>() {
            return peer.peer_cred.map(|credentials| (Operator::of_uid(credentials.uid()), None));
        }
        let PeerName(name) = request.extensions().get::<PeerName>()?;
        if let Some(name) = name {
            return Some((Operator::Certificate { name: name.clone() }, None));
        }
        let header = request.metadata().get("authorization")?.to_str().ok()?;
        let secret = header.strip_prefix(BEARER)?;
        let key = self.0.find(secret).filter(|key| key.may(Scope::Control))?;
        Some((Operator::Key { name: key.name().to_owned() }, Some(secret.to_owned())))
    }
}

impl Connected for TlsConnection {
    type ConnectInfo = PeerName;

    fn connect_info(&self) -> PeerName {
        self.name().clone()
    }
}
