//! Stream of events: tells a page that something has changed. The page then asks for what it shows.
//!
//! An event has a number and nothing else, so a reader that is slow misses nothing that counts. A stream ends by itself after some
//! minutes, and the page opens the next one: until then all its events fit into the buffers of a connection, so a reader that has
//! stopped reading holds up nothing, not even the stop of the host.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;

/// Streams at the same time.
const STREAMS: usize = 16;
/// Shortest time between two events.
const PACE: Duration = Duration::from_millis(250);
/// Longest time between two events: progress of the work changes nothing that the host sees.
const BEAT: Duration = Duration::from_secs(2);
/// Life of a stream.
const LIFE: Duration = Duration::from_mins(10);

/// Every stream of the console.
#[derive(Debug)]
pub(super) struct Streams {
    free: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
}

impl Streams {
    /// No stream yet. All end when the host is asked to stop.
    pub(super) fn new(stop: watch::Receiver<bool>) -> Self {
        Self { free: Arc::new(Semaphore::new(STREAMS)), stop }
    }

    /// A new stream about these changes, unless there are too many.
    pub(super) fn open(&self, changes: watch::Receiver<u64>) -> Option<mpsc::Receiver<Bytes>> {
        let place = Arc::clone(&self.free).try_acquire_owned().ok()?;
        let (sender, events) = mpsc::channel(1);
        tokio::spawn(feed(sender, changes, self.stop.clone(), place));
        Some(events)
    }
}

async fn feed(
    sender: mpsc::Sender<Bytes>,
    mut changes: watch::Receiver<u64>,
    mut stop: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) {
    let told = async {
        loop {
            let revision = *changes.borrow_and_update();
            let event = Bytes::from(format!("data: {revision}\n\n"));
            if sender.send(event).await.is_err() {
                return;
            }
            let (earliest, latest) = (Instant::now() + PACE, Instant::now() + BEAT);
            // An error is a timeout, or the end of the host, which ends the stream.
            drop(tokio::time::timeout_at(latest, changes.changed()).await);
            tokio::time::sleep_until(earliest).await;
        }
    };
    tokio::select! {
        () = told => {}
        () = sender.closed() => {}
        _ = stop.wait_for(|stop| *stop) => {}
        () = tokio::time::sleep(LIFE) => {}
    }
}
