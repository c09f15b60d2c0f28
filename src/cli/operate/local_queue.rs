//! The queue of `waybill local`, for operators: reads its messages and sends to it while the host runs.

use std::path::Path;

#[cfg(feature = "local")]
pub(super) use present::LocalQueue;

#[cfg(not(feature = "local"))]
pub(super) use absent::LocalQueue;

#[cfg(feature = "local")]
mod present {
    use std::time::Duration;

    use functions_host::service_bus::broker::{Broker, DEAD_LETTER_SUFFIX, Outgoing, Properties, Rules};

    use super::Path;

    /// Messages that are in memory at once: a message has at most 256 KB in Azure's standard tier, more elsewhere.
    const PEEKED: u32 = 32;

    pub(in crate::cli::operate) struct LocalQueue {
        broker: Broker,
        name: String,
    }

    impl LocalQueue {
        /// Opens the queue with this name in a data directory; `None` if the directory has no queues.
        pub(in crate::cli::operate) fn open(data: &Path, name: String) -> Result<Option<Self>, String> {
            if !data.join("queue.db").exists() {
                return Ok(None);
            }
            // The host decides about locks and deliveries; nothing is received here.
            let rules = Rules { lock_duration: Duration::from_secs(60), max_delivery_count: 10 };
            Broker::open(data, rules).map(|broker| Some(Self { broker, name })).map_err(|error| error.to_string())
        }

        /// The queue with this name in the host that runs in this process: its triggers notice a message at once.
        pub(in crate::cli::operate) fn of(broker: Broker, name: String) -> Self {
            Self { broker, name }
        }

        pub(in crate::cli::operate) async fn send(&self, body: Vec<u8>) -> Result<(), String> {
            let properties = Properties { content_type: Some("text/plain".into()), ..Properties::default() };
            let message = Outgoing { body, properties, ..Outgoing::default() };
            self.broker.send(&self.name, vec![message]).await.map_err(|error| error.to_string())
        }

        pub(in crate::cli::operate) async fn close(&self) {
            self.broker.close().await;
        }

        /// Takes the body of each message, without locking one, and returns the number of dead letters.
        pub(in crate::cli::operate) async fn peek(&self, mut take: impl FnMut(&[u8])) -> Result<u64, String> {
            let mut dead = 0;
            let mut last = 0;
            loop {
                let peeked = self.broker.peek(last, PEEKED).await.map_err(|error| error.to_string())?;
                let Some(newest) = peeked.last() else { return Ok(dead) };
                last = newest.sequence_number;
                for message in &peeked {
                    if message.queue.eq_ignore_ascii_case(&format!("{}{DEAD_LETTER_SUFFIX}", self.name)) {
                        dead += 1;
                    } else if message.queue.eq_ignore_ascii_case(&self.name) {
                        take(&message.body);
                    }
                }
            }
        }
    }
}

/// A build without the feature `local` has no queue on this machine.
#[cfg(not(feature = "local"))]
mod absent {
    use super::Path;

    pub(in crate::cli::operate) enum LocalQueue {}

    impl LocalQueue {
        #[expect(clippy::unnecessary_wraps, reason = "with the feature `local` a queue may be there, and may not open")]
        pub(in crate::cli::operate) fn open(_data: &Path, _name: String) -> Result<Option<Self>, String> {
            Ok(None)
        }

        #[expect(clippy::unused_async, reason = "with the feature `local` a queue is asked")]
        pub(in crate::cli::operate) async fn send(&self, _body: Vec<u8>) -> Result<(), String> {
            match *self {}
        }

        #[expect(clippy::unused_async, reason = "with the feature `local` a queue is closed")]
        pub(in crate::cli::operate) async fn close(&self) {
            match *self {}
        }

        #[expect(clippy::unused_async, reason = "with the feature `local` a queue is asked")]
        pub(in crate::cli::operate) async fn peek(&self, _take: impl FnMut(&[u8])) -> Result<u64, String> {
            match *self {}
        }
    }
}
