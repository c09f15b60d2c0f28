//! The time that orders have lately waited for their first claim, as far as this instance claimed them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::domain::record::{Record, Status};

/// The share of a shorter wait in the new mean: one in this many.
const WEIGHT: u64 = 2;

/// An exponentially weighted mean of waits, which follows a longer wait at once.
#[derive(Debug, Default)]
pub struct QueueWait {
    milliseconds: AtomicU64,
    /// Since when this instance could claim orders.
    since: OnceLock<Instant>,
}

impl QueueWait {
    /// This instance can claim orders from now on.
    pub fn begin(&self) {
        self.since.get_or_init(Instant::now);
    }

    /// Learns from an order that was `found` and then `claimed`: the wait in the queue, or `None` if the order waited for something
    /// else. A lost message waits for the sweeper, a second delivery comes after a first one that failed, and an order with a
    /// `wakeAt` was put off, e.g. while the backend was away. Such a wait would make the sweeper more patient with the next lost
    /// message, and the next such wait longer still.
    pub fn observe_claim(&self, found: &Record, claimed: &Record, is_first_delivery: bool) -> Option<Duration> {
        let first =
            is_first_delivery && found.status == Status::Accepted && found.fence == 0 && found.emissions == 0 && found.wake_at.is_none();
        let wait = claimed.submitted_at.until(claimed.started_at.filter(|_| first)?);
        // Before this instance was there, an order may have waited for no queue but for a worker, e.g. while the app was restarted.
        let up = self.since.get().map_or(Duration::MAX, Instant::elapsed);
        self.observe(wait.min(up));
        Some(wait)
    }

    /// A longer wait is the new mean: behind a growing queue the next order waits at least as long.
    fn observe(&self, wait: Duration) {
        let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX / WEIGHT);
        let blend = |usual: u64| Some(if wait > usual { wait } else { usual - (usual - wait) / WEIGHT });
        // The closure always gives a value.
        let _ = self.milliseconds.fetch_update(Ordering::Relaxed, Ordering::Relaxed, blend);
    }

    /// The usual wait; zero before the first.
    pub fn usual(&self) -> Duration {
        Duration::from_millis(self.milliseconds.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_wait_counts_at_once_and_fades() {
        let queue_wait = QueueWait::default();
        assert_eq!(queue_wait.usual(), Duration::ZERO);
        queue_wait.observe(Duration::from_secs(8));
        assert_eq!(queue_wait.usual(), Duration::from_secs(8));
        queue_wait.observe(Duration::ZERO);
        assert_eq!(queue_wait.usual(), Duration::from_secs(4));
        for _ in 0..20 {
            queue_wait.observe(Duration::ZERO);
        }
        assert_eq!(queue_wait.usual(), Duration::from_millis(1));
    }
}
