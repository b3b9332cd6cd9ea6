//! A server without an agent, as if it had one: its own metrics are read here and served over a connection in memory, so that
//! every screen and command works as it does on an agent's. What would change something is not there.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use llmdeck_proto::MAX_MESSAGE_BYTES;
use llmdeck_proto::v1::telemetry_server::{Telemetry, TelemetryServer};
use llmdeck_proto::v1::{Frame, HistoryRequest, HistoryResponse, WatchRequest};
use llmdeck_scrape::{Server, ServerFrames};
use llmdeck_sensors::HostSampler;
use llmdeck_sensors::gpu::{GpuEnergy, GpuSampler};
use tokio::io::DuplexStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};

use crate::clock::unix_ms;

const EVERY: Duration = Duration::from_secs(1);
/// Frames kept for a link that comes back: two minutes.
const MOST_KEPT: usize = 120;
const BUFFER_BYTES: usize = 64 << 10;

/// A connection to a server at `http://host:port`.
pub(super) fn connect(url: &str) -> io::Result<DuplexStream> {
    let server = Server::new(url).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let here = is_here(server.base()).then(Sensors::start).transpose()?;
    let instance = format!("{:016x}", rand::random::<u64>());
    let watched = Watched { frames: ServerFrames::new(server, instance), here, kept: VecDeque::new() };
    let telemetry = TelemetryServer::new(Scraped(Arc::new(Mutex::new(watched))))
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Gzip);
    let (near, far) = tokio::io::duplex(BUFFER_BYTES);
    tokio::spawn(async move {
        let incoming = futures_util::stream::iter([Ok::<_, io::Error>(far)]);
        // It ends with the connection.
        let _ =
            tonic::transport::Server::builder().add_service(telemetry).serve_with_incoming(incoming).await;
    });
    Ok(near)
}

/// Whether a server is on this machine, whose GPUs are then its own.
fn is_here(base: &str) -> bool {
    let place = base.trim_start_matches("http://");
    let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// This machine's GPUs and host.
struct Sensors {
    gpu: GpuSampler,
    energy: GpuEnergy,
    host: HostSampler,
}

impl Sensors {
    fn start() -> io::Result<Self> {
        let library = std::env::var_os("LLMDECK_NVML_LIBRARY");
        Ok(Self {
            gpu: GpuSampler::start(library, EVERY)?,
            energy: GpuEnergy::default(),
            host: HostSampler::new(std::path::Path::new("/")),
        })
    }

    fn fill(&mut self, frame: &mut Frame) {
        let mut readings = self.gpu.latest();
        self.energy.fill(&mut readings.gpus, frame.interval_ms);
        frame.gpus = readings.gpus;
        frame.gpu_driver = Some(readings.driver);
        frame.host = Some(self.host.sample());
    }
}

struct Watched {
    frames: ServerFrames,
    here: Option<Sensors>,
    kept: VecDeque<Frame>,
}

impl Watched {
    async fn next(&mut self) -> Frame {
        let mut frame = self.frames.next(unix_ms()).await;
        if let Some(here) = &mut self.here {
            here.fill(&mut frame);
        }
        if self.kept.len() == MOST_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(frame.clone());
        frame
    }
}

struct Scraped(Arc<Mutex<Watched>>);

#[tonic::async_trait]
impl Telemetry for Scraped {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let watched = Arc::clone(&self.0);
        let mut ticks = interval_at(Instant::now(), EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let frames = futures_util::stream::unfold((watched, ticks), async |(watched, mut ticks)| {
            ticks.tick().await;
            let frame = watched.lock().await.next().await;
            Some((Ok(frame), (watched, ticks)))
        });
        Ok(Response::new(Box::pin(frames)))
    }

    async fn history(&self, _: Request<HistoryRequest>) -> Result<Response<HistoryResponse>, Status> {
        let frames = self.0.lock().await.kept.iter().cloned().collect();
        let resolution_ms = u32::try_from(EVERY.as_millis()).unwrap_or(u32::MAX);
        Ok(Response::new(HistoryResponse { frames, resolution_ms }))
    }
}
