//! How long orders have lately waited for their first claim, by what this instance claimed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::domain::record::{Record, Status};

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
    pub fn observe(&self, wait: Duration) {
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

/// How long an order waited in the queue that was just claimed for the first time. Not if it waited for something else: for a
/// sweeper to send a message that was lost, or for a delivery after one that came to nothing. Learning from those would make the
/// sweeper more patient with the next that is lost, and that one would wait longer still.
pub fn first_wait(found: &Record, claimed: &Record, is_first_delivery: bool) -> Option<Duration> {
    let first = is_first_delivery && found.status == Status::Accepted && found.fence == 0 && found.emissions == 0;
    claimed.started_at.filter(|_| first).map(|started_at| claimed.submitted_at.until(started_at))
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
