//! Connections to servers, plain or over TLS.

use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Connects to `http://` and `https://`.
pub type Connector = HttpsConnector<HttpConnector>;

/// Over TLS, servers are believed whom the system's authorities speak for, or those in the file that `SSL_CERT_FILE` names.
///
/// # Errors
/// When the address is not `http://` or `https://` with a host, or no authority is known for the latter; in words.
pub fn connector(server: &Uri, connect_timeout: Option<Duration>) -> Result<Connector, String> {
    let is_secured = match (server.scheme_str(), server.host()) {
        (Some("http"), Some(_)) => false,
        (Some("https"), Some(_)) => true,
        _ => return Err("it must be http://HOST:PORT or https://HOST".into()),
    };
    let mut roots = RootCertStore::empty();
    if is_secured {
        let found = rustls_native_certs::load_native_certs();
        let (known, _) = roots.add_parsable_certificates(found.certs);
        if known == 0 {
            let why = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
            return Err(format!(
                "this machine knows no authority that could speak for it{why}; install its certificates, or name a file in \
                 SSL_CERT_FILE"
            ));
        }
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(connect_timeout);
    // What is not http:// goes on to TLS.
    tcp.enforce_http(false);
    Ok(HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp))
}
