use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use llmdeck_proto::v1::telemetry_server;
use llmdeck_proto::v1::{Frame, HistoryRequest, HistoryResponse, WatchRequest};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::Rpc;
use super::authenticate::Admission;
use crate::security::access::Subject;
use crate::telemetry::Subscription;

/// Readers at once; one more is refused.
const MOST_WATCHERS: usize = 64;

pub(super) struct Telemetry {
    rpc: Arc<Rpc>,
    stop: CancellationToken,
}

impl Telemetry {
    pub(super) fn new(rpc: Arc<Rpc>, stop: CancellationToken) -> Self {
        Self { rpc, stop }
    }
}

#[tonic::async_trait]
impl telemetry_server::Telemetry for Telemetry {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.rpc.authorize(&request, "Telemetry/Watch", Subject::Node).await?;
        if self.rpc.subscribers.count() >= MOST_WATCHERS {
            return Err(Status::resource_exhausted(format!(
                "{MOST_WATCHERS} readers watch already; close one"
            )));
        }
        let admission = request.extensions().get::<Admission>().cloned();
        let watch = Watch {
            admission: admission.ok_or_else(|| Status::unauthenticated("refused"))?,
            subscription: self.rpc.subscribers.subscribe(),
            least: Duration::from_millis(request.into_inner().interval_ms.into()),
            sent: None,
            stop: self.stop.clone(),
        };
        Ok(Response::new(Box::pin(stream::unfold(watch, Watch::next))))
    }

    async fn history(&self, request: Request<HistoryRequest>) -> Result<Response<HistoryResponse>, Status> {
        self.rpc.authorize(&request, "Telemetry/History", Subject::Node).await?;
        let (history, range) = (Arc::clone(&self.rpc.history), request.into_inner());
        let frames = tokio::task::spawn_blocking(move || history.range(&range)).await;
        frames
            .map_err(|_| Status::internal("reading the history failed; the agent's log has more"))?
            .map(Response::new)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

/// One reader. Its frame is taken from the mailbox only when the transport asks, so that a slow link conflates.
struct Watch {
    admission: Admission,
    subscription: Subscription,
    least: Duration,
    sent: Option<Instant>,
    stop: CancellationToken,
}

impl Watch {
    async fn next(mut self) -> Option<(Result<Frame, Status>, Self)> {
        let stop = self.stop.clone();
        let frame = async {
            if let Some(sent) = self.sent {
                tokio::time::sleep_until(sent + self.least).await;
            }
            self.subscription.next().await
        };
        let frame = tokio::select! {
            frame = frame => frame,
            () = stop.cancelled() => return None,
        };
        self.sent = Some(Instant::now());
        if let Err(refused) = self.admission.still() {
            // Nothing comes behind it.
            self.stop = CancellationToken::new();
            self.stop.cancel();
            return Some((Err(refused), self));
        }
        Some((Ok(frame), self))
    }
}
