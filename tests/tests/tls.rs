//! Beyond loopback: certificates, who they name, and what is refused.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use llmdeck_proto::v1::WatchRequest;
use llmdeck_proto::v1::telemetry_client::TelemetryClient;
use llmdeck_tests::{ASSISTANT, AgentProcess, binaries, send, wait_for};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::Endpoint;
use tonic::{Code, Request};
use tower::service_fn;

fn pki(arguments: &[&str], folder: &Path, names: &[&str]) -> Output {
    let mut command = Command::new(&binaries().agent);
    command.arg("pki").args(arguments).arg(folder).args(names).output().unwrap()
}

/// An authority, a node's certificate and those of two operators.
fn authority() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for made in [
        pki(&["authority"], path, &[]),
        pki(&["node"], path, &["localhost", "127.0.0.1"]),
        pki(&["client"], path, &["alice@example.org"]),
        pki(&["client"], path, &["spiffe://example.org/ops/bob"]),
    ] {
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    folder
}

fn config(access: &str) -> String {
    let tls = "[tls]\ncertificate = \"node.pem\"\nkey = \"node.key\"\nclient_authority = \"authority.pem\"\n";
    ASSISTANT.replace("[[deployment]]", &format!("{tls}{access}[[deployment]]"))
}

fn agent(access: &str) -> AgentProcess {
    AgentProcess::start_as(authority(), &config(access), &[], &["--grpc", "127.0.0.1:0"])
}

/// The console with the certificate of one operator; `None` has none.
fn llmdeck(agent: &AgentProcess, operator: Option<&str>, arguments: &[&str]) -> Output {
    let credentials = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| {
        std::fs::copy(agent.folder().join(from), credentials.path().join(to)).unwrap();
    };
    copy("authority.pem", "authority.pem");
    if let Some(operator) = operator {
        copy(&format!("{operator}.pem"), "client.pem");
        copy(&format!("{operator}.key"), "client.key");
    }
    console(agent, credentials.path(), arguments)
}

fn console(agent: &AgentProcess, credentials: &Path, arguments: &[&str]) -> Output {
    let target = format!("https://{}", agent.grpc());
    let mut command = Command::new(&binaries().console);
    command.args(arguments).args(["--target", &target]).env("LLMDECK_CREDENTIALS", credentials);
    command.stdin(Stdio::null()).output().unwrap()
}

/// `llmdeck keys`, at the agent's socket; what it printed.
fn keys(agent: &AgentProcess, arguments: &[&str]) -> String {
    let output = agent.llmdeck(&[&["keys"], arguments, &["--reason", "a test"]].concat());
    assert!(output.status.success(), "{}", words(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A connection without a certificate of its own.
async fn secured(folder: &Path, address: &str, protocol: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("authority.pem")).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// One request over TLS, as any client would make it.
async fn https(agent: &AgentProcess, request: &str) -> std::io::Result<String> {
    let mut stream = secured(agent.folder(), agent.http(), b"http/1.1").await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    // A server may close without saying so.
    let _ = stream.read_to_string(&mut answer).await;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_name_operators_and_roles_are_theirs() {
    let agent = agent(
        "[[access]]\nrole = \"operator\"\ncertificates = [\"alice@example.org\"]\n\
         [[access]]\nrole = \"viewer\"\ncertificates = [\"spiffe://example.org/ops/bob\"]\n",
    );
    let (alice, bob) = (Some("alice@example.org"), Some("example.org-ops-bob"));
    let status = llmdeck(&agent, bob, &["status"]);
    assert!(status.status.success() && words(&status).contains("assistant"), "{}", words(&status));
    let deploy = ["deploy", "assistant", "--model", "assistant-worse", "--dry-run"];
    wait_for("alice may plan", async || llmdeck(&agent, alice, &deploy).status.success().then_some(())).await;
    let refused = llmdeck(&agent, bob, &deploy);
    assert_eq!(refused.status.code(), Some(3), "{}", words(&refused));
    assert!(words(&refused).contains("certificate:spiffe://example.org/ops/bob may not do this"));
    let audit = std::fs::read_to_string(agent.folder().join("data/audit.jsonl")).unwrap();
    assert!(
        audit.contains("\"operator\":\"certificate:spiffe://example.org/ops/bob\",\"uid\":null"),
        "{audit}"
    );

    let stranger = llmdeck(&agent, None, &["status"]);
    assert_eq!(stranger.status.code(), Some(4));
    assert!(words(&stranger).contains("client.pem"), "{}", words(&stranger));
    let out = pki(&["client"], agent.folder(), &["eve@example.org"]);
    assert!(out.status.success());
    let eve = llmdeck(&agent, Some("eve@example.org"), &["status"]);
    assert_eq!((eve.status.code(), words(&eve).contains("assistant")), (Some(3), false), "{}", words(&eve));
    assert!(words(&eve).contains("refused"), "{}", words(&eve));
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_speak_tls_are_measured_and_answer_for_deployments() {
    let config_of_far = format!("require_keys = true\n{}", config(""));
    let far = AgentProcess::start_as(authority(), &config_of_far, &[], &[]);
    let server = format!("https://{}", far.http());
    let key = keys(&far, &["create", "near"]);
    let authority = far.folder().join("authority.pem");
    let bench = |authority: Option<&Path>| {
        let mut command = Command::new(&binaries().console);
        command.args([
            "bench",
            &server,
            "--model",
            "assistant",
            "--requests",
            "5",
            "--key-env",
            "KEY",
            "--json",
        ]);
        command
            .env("KEY", &key)
            .env("SSL_CERT_FILE", authority.unwrap_or(Path::new("/etc/ssl/certs/ca-certificates.crt")));
        command.stdin(Stdio::null()).output().unwrap()
    };
    let measured = wait_for("the model is measured", async || {
        let output = bench(Some(&authority));
        output.status.success().then(|| serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap())
    });
    let measured = measured.await;
    assert_eq!(
        (&measured["outcome"]["ok"], &measured["outcome"]["failed"]),
        (&json!(5), &json!(0)),
        "{measured}"
    );
    let stranger = bench(None);
    assert!(!stranger.status.success() && words(&stranger).contains("certificate"), "{}", words(&stranger));

    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("key");
    std::fs::write(&key_file, &key).unwrap();
    let backend = folder.path().join("far.toml");
    let text = format!(
        "model = \"assistant\"\nready_path = \"/readyz\"\napi_key_file = {}\n[remote]\nurl = {}\n",
        json!(key_file),
        json!(server)
    );
    std::fs::write(&backend, text).unwrap();
    let config = ASSISTANT.replace("model = \"assistant\"", &format!("model = {}", json!(backend)));
    let near = AgentProcess::start_with(&config, &[("SSL_CERT_FILE", &authority)]);
    assert_eq!(near.ready().await, "assistant@1");
    let body =
        r#"{"model":"assistant","messages":[{"role":"user","content":"compute 52 + 28"}],"temperature":0}"#;
    let answer = send(&near, "POST", "/v1/chat/completions", body);
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "80", "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_with_a_key_may_what_the_key_was_granted() {
    let agent = agent("[[access]]\nrole = \"viewer\"\nkeys = [\"ci\"]\n");
    let credentials = tempfile::tempdir().unwrap();
    let folder = credentials.path();
    std::fs::copy(agent.folder().join("authority.pem"), folder.join("authority.pem")).unwrap();
    let nothing = console(&agent, folder, &["status"]);
    assert!(nothing.status.code() == Some(4) && words(&nothing).contains("api-key"), "{}", words(&nothing));
    // For this host alone, and as an editor leaves it.
    let key = keys(&agent, &["create", "ci", "--scope", "control"]);
    std::fs::create_dir(folder.join("127.0.0.1")).unwrap();
    std::fs::write(folder.join("127.0.0.1/api-key"), format!("{key}\n")).unwrap();
    let status = console(&agent, folder, &["status"]);
    assert!(status.status.success() && words(&status).contains("assistant"), "{}", words(&status));
    let refused =
        console(&agent, folder, &["deploy", "assistant", "--model", "assistant-worse", "--dry-run"]);
    assert_eq!(refused.status.code(), Some(3), "{}", words(&refused));
    assert!(words(&refused).contains("key:ci may not do this"), "{}", words(&refused));
    keys(&agent, &["revoke", "ci", "--yes"]);
    let stranger = console(&agent, folder, &["status"]);
    assert_eq!(stranger.status.code(), Some(3), "{}", words(&stranger));
    assert!(
        !words(&stranger).contains("assistant") && !words(&stranger).contains(&key),
        "{}",
        words(&stranger)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_with_a_key_sees_no_more_when_it_is_revoked() {
    let agent = agent("[[access]]\nrole = \"viewer\"\nkeys = [\"wall\"]\n");
    let key = keys(&agent, &["create", "wall", "--scope", "control"]);
    let (folder, address) = (agent.folder().to_owned(), agent.grpc().to_owned());
    let connect = service_fn(move |_| {
        let (folder, address) = (folder.clone(), address.clone());
        async move { secured(&folder, &address, b"h2").await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://agent").connect_with_connector(connect).await.unwrap();
    let mut request = Request::new(WatchRequest::default());
    request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    let mut frames = TelemetryClient::new(channel).watch(request).await.unwrap().into_inner();
    for _ in 0..3 {
        assert!(frames.message().await.unwrap().is_some());
    }
    keys(&agent, &["revoke", "wall", "--yes"]);
    let ended = loop {
        match frames.message().await {
            Ok(Some(_)) => {}
            ended => break ended,
        }
    };
    let refused = ended.unwrap_err();
    assert!(refused.code() == Code::Unauthenticated && refused.message().contains("revoked"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_opens_nothing() {
    let agent = agent("[[access]]\nrole = \"admin\"\ncertificates = [\"alice@example.org\"]\n");
    let other = authority();
    for name in ["alice@example.org.pem", "alice@example.org.key"] {
        std::fs::copy(other.path().join(name), agent.folder().join(format!("forged-{name}"))).unwrap();
    }
    let forged = llmdeck(&agent, Some("forged-alice@example.org"), &["status"]);
    assert_eq!((forged.status.code(), words(&forged).contains("assistant")), (Some(4), false));
    assert!(llmdeck(&agent, Some("alice@example.org"), &["status"]).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_http_api_speaks_tls_and_slow_callers_hold_up_nobody() {
    let agent = agent("");
    // As many half-open callers as a small attack has.
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(agent.http()).await.unwrap());
    }
    let body = json!({ "model": "assistant", "max_tokens": 4, "messages": [{ "role": "user", "content": "compute 1 + 1" }] })
        .to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = wait_for("an answer over TLS", async || {
        https(&agent, &request).await.ok().filter(|answer| answer.starts_with("HTTP/1.1 200"))
    })
    .await;
    assert!(answer.contains("chat.completion"), "{answer}");
    let mut plain = TcpStream::connect(agent.http()).await.unwrap();
    plain.write_all(b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said).await;
    assert!(!String::from_utf8_lossy(&said).contains("assistant"));
    drop(silent);
}

#[test]
fn open_doors_are_refused_at_the_start_with_the_remedy() {
    let folder = authority();
    let run = |config: &str, arguments: &[&str]| {
        std::fs::write(folder.path().join("llmdeck.toml"), config).unwrap();
        let mut command = Command::new(&binaries().agent);
        command.arg("run").arg("--config").arg(folder.path().join("llmdeck.toml"));
        command.arg("--data-dir").arg(folder.path().join("data"));
        command.arg("--listen").arg(folder.path().join("agent.sock")).args(arguments).output().unwrap()
    };
    let with_tls = config("");
    for (config, arguments, remedy) in [
        (ASSISTANT.to_owned(), ["--http", "0.0.0.0:0"], "[tls]"),
        (ASSISTANT.to_owned(), ["--grpc", "127.0.0.1:0"], "[tls]"),
        (format!("require_keys = false\n{with_tls}"), ["--http", "0.0.0.0:0"], "require_keys"),
        (with_tls.replace("node.pem", "nonesuch.pem"), ["--http", "127.0.0.1:0"], "nonesuch.pem"),
        (with_tls.replace("\"node.key\"", "\"authority.key\""), ["--http", "127.0.0.1:0"], "belong together"),
        (with_tls.replace("\"node.key\"", "\"node.pem\""), ["--http", "127.0.0.1:0"], "node.pem"),
    ] {
        let refused = run(&config, &arguments);
        assert_eq!(refused.status.code(), Some(1), "{}", words(&refused));
        assert!(words(&refused).contains(remedy), "{remedy}: {}", words(&refused));
    }
    use std::os::unix::fs::PermissionsExt;
    let key = folder.path().join("node.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = run(&with_tls, &["--http", "127.0.0.1:0"]);
    assert!(words(&refused).contains("chmod 600"), "{}", words(&refused));
    let again = pki(&["authority"], folder.path(), &[]);
    assert!(
        !again.status.success() && words(&again).contains("nothing was overwritten"),
        "{}",
        words(&again)
    );
    let wrong = pki(&["client"], folder.path(), &["alice"]);
    assert!(words(&wrong).contains("email address"), "{}", words(&wrong));
}
