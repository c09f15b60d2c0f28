//! How long orders have lately waited for their first claim, by what this instance claimed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::lifecycle::{Record, Status};

/// An exponentially weighted mean.
#[derive(Debug, Default)]
pub struct Waits {
    milliseconds: AtomicU64,
}

/// Each new wait counts one in so many.
const WEIGHT: u64 = 2;

impl Waits {
    /// An order was claimed for the first time after this long. Longer waits are believed at once: behind a growing queue the
    /// next order waits at least as long.
    fn observe(&self, wait: Duration) {
        let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX / WEIGHT);
        let blend = |usual: u64| Some(if wait > usual { wait } else { usual - (usual - wait) / WEIGHT });
        // The closure always gives a value.
        let _ = self.milliseconds.fetch_update(Ordering::Relaxed, Ordering::Relaxed, blend);
    }

    /// A claim was recorded. The first of an order tells how long that waited in the queue, unless it waited for something else:
    /// for a sweeper to send a message that was lost, or for a delivery after one that came to nothing. Learning from those would
    /// make the sweeper more patient with the next that is lost, and that one would wait longer still.
    pub fn observe_claim(&self, found: &Record, claimed: &Record, is_first_delivery: bool) {
        let first = found.status == Status::Accepted && found.attempts_before == 0 && found.emissions == 0;
        if let Some(started_at) = claimed.started_at.filter(|_| first && is_first_delivery) {
            self.observe(claimed.submitted_at.until(started_at));
        }
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
        let waits = Waits::default();
        waits.observe(Duration::from_secs(8));
        assert_eq!(waits.usual(), Duration::from_secs(8));
        waits.observe(Duration::ZERO);
        assert_eq!(waits.usual(), Duration::from_secs(4));
        for _ in 0..20 {
            waits.observe(Duration::ZERO);
        }
        assert!(waits.usual() < Duration::from_millis(20));
    }
}
