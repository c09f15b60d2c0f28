//! Signals by which a person or a platform stops this process.

#[cfg(unix)]
use tracing::warn;

use crate::output;

/// Signals that ask to stop: SIGINT and SIGTERM, or Ctrl-C on systems without signals. No signal is lost between two waits.
pub struct StopSignals {
    #[cfg(unix)]
    streams: Option<[tokio::signal::unix::Signal; 2]>,
}

impl StopSignals {
    /// Starts to listen. Where the system refuses this, only SIGKILL stops the process.
    pub fn listen() -> Self {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let streams = signal(SignalKind::interrupt()).and_then(|interrupt| Ok([interrupt, signal(SignalKind::terminate())?]));
            Self {
                streams: streams
                    .inspect_err(|error| warn!(%error, "cannot listen for SIGINT and SIGTERM; only SIGKILL stops this process"))
                    .ok(),
            }
        }
        #[cfg(not(unix))]
        Self {}
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) {
        #[cfg(unix)]
        match &mut self.streams {
            Some([interrupt, terminate]) => {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            }
            None => std::future::pending().await,
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits for the first signal, the request to stop. A second signal ends the process at once, with exit code 130.
    pub async fn first(mut self) {
        self.next().await;
        tokio::spawn(async move {
            self.next().await;
            output::flush();
            std::process::exit(130);
        });
    }
}
