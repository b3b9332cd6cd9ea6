use std::path::Path;

use color_eyre::eyre::{Result, eyre};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy};
use tokio::net::UnixStream;

/// Copies both ways until either side ends.
pub(super) async fn bridge(socket: &Path) -> Result<()> {
    let stream = UnixStream::connect(socket).await.map_err(|error| {
        eyre!("no agent answers on {} ({error}); is llmdeck-agent running here?", socket.display())
    })?;
    let (from_agent, to_agent) = stream.into_split();
    tokio::select! {
        ended = pump(tokio::io::stdin(), to_agent) => ended?,
        ended = pump(from_agent, tokio::io::stdout()) => ended?,
    }
    // A read of standard input that is still under way would hold the process.
    std::process::exit(0)
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    copy(&mut from, &mut to).await?;
    to.flush().await
}
