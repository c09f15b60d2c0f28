//! The wish of a person or a platform that this process stops.

#[cfg(unix)]
use tracing::warn;

/// The signals that ask to stop: SIGINT and SIGTERM, or Ctrl-C where there are no signals. None is lost between two waits.
pub struct StopSignals {
    #[cfg(unix)]
    streams: Option<[tokio::signal::unix::Signal; 2]>,
}

impl StopSignals {
    /// From now on signals are heard. Without them (which a system hardly refuses) only SIGKILL stops this process.
    pub fn listen() -> Self {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let streams = signal(SignalKind::interrupt()).and_then(|interrupt| Ok([interrupt, signal(SignalKind::terminate())?]));
            Self { streams: streams.inspect_err(|error| warn!(%error, "signals cannot be heard")).ok() }
        }
        #[cfg(not(unix))]
        Self {}
    }

    /// Waits for the next one.
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

    /// Waits for the first one, which asks. From then on the next one ends the process at once, with exit code 130.
    pub async fn first(mut self) {
        self.next().await;
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(130);
        });
    }
}
