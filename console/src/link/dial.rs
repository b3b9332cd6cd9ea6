use std::io;
use std::process::Stdio;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{self, Endpoint};
use tonic::{Request, Status};
use tower::service_fn;

use super::credentials::{api_key, client_config};
use super::scraped;
use super::target::Target;

const CONNECT_PATIENCE: Duration = Duration::from_secs(15);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const LONGEST_COMPLAINT_BYTES: u64 = 4_096;

/// A byte stream both ways.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The way to one agent.
pub type Channel = InterceptedService<transport::Channel, ShowKey>;

/// Puts a key into every call, where there is one.
#[derive(Clone)]
pub struct ShowKey(Option<MetadataValue<Ascii>>);

impl Interceptor for ShowKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert("authorization", key.clone());
        }
        Ok(request)
    }
}

/// A channel that connects on its first call and anew whenever it has broken.
pub fn dial(target: &Target) -> Channel {
    let key = match target {
        Target::Https { host, .. } => api_key(host),
        _ => None,
    };
    let target = target.clone();
    let channel = Endpoint::from_static("http://agent")
        .connect_timeout(CONNECT_PATIENCE)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(service_fn(move |_| {
            let target = target.clone();
            async move { connect(&target).await.map(TokioIo::new) }
        }));
    InterceptedService::new(channel, ShowKey(key))
}

async fn connect(target: &Target) -> io::Result<Box<dyn Stream>> {
    match target {
        Target::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(|error| {
                let words = match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                        format!("no agent answers on {}; is llmdeck-agent running?", path.display())
                    }
                    _ => format!("{}: {error}", path.display()),
                };
                io::Error::new(error.kind(), words)
            })?;
            Ok(Box::new(stream))
        }
        Target::Ssh { destination } => Ok(Box::new(Ssh::connect(destination).await?)),
        Target::Http { url } => Ok(Box::new(scraped::connect(url)?)),
        Target::Https { host, port } => Ok(Box::new(secured(host, *port).await?)),
    }
}

async fn secured(host: &str, port: u16) -> io::Result<TlsStream<TcpStream>> {
    let config = client_config(host)?;
    let explain = |error: io::Error| io::Error::new(error.kind(), format!("https://{host}:{port}: {error}"));
    let stream = TcpStream::connect((host, port)).await.map_err(explain)?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other).map_err(explain)?;
    TlsConnector::from(config).connect(name, stream).await.map_err(explain)
}

/// A running `ssh`; killed when dropped.
struct Ssh {
    _child: Child,
    from: BufReader<ChildStdout>,
    to: ChildStdin,
}

impl Ssh {
    async fn connect(destination: &str) -> io::Result<Self> {
        // Batch mode: a question of ssh would be asked over the screen.
        let mut child = Command::new("ssh")
            .args(["-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "--"])
            .arg(if destination.contains(':') {
                format!("ssh://{destination}")
            } else {
                destination.to_owned()
            })
            .args(["llmdeck-agent", "stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("ssh could not be run: {error}")))?;
        let (Some(to), Some(from), Some(mut complaints)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("ssh has no standard streams"));
        };
        // The agent speaks first (its HTTP/2 settings), or ssh ends with a complaint.
        let mut from = BufReader::new(from);
        if from.fill_buf().await?.is_empty() {
            let mut words = String::new();
            let _ = (&mut complaints).take(LONGEST_COMPLAINT_BYTES).read_to_string(&mut words).await;
            return Err(io::Error::other(format!("ssh {destination}: {}", words.trim())));
        }
        tokio::spawn(async move {
            // Read to its end, so that ssh never waits for a reader.
            let _ = tokio::io::copy(&mut complaints, &mut tokio::io::sink()).await;
        });
        Ok(Self { _child: child, from, to })
    }
}

impl AsyncRead for Ssh {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.from).poll_read(context, buffer)
    }
}

impl AsyncWrite for Ssh {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut self.to).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.to).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.to).poll_shutdown(context)
    }
}
