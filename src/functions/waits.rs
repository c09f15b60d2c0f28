//! How long orders have lately waited for their first claim, by what this instance claimed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::lifecycle::Record;

/// An exponentially weighted mean.
#[derive(Debug, Default)]
pub struct Waits {
    milliseconds: AtomicU64,
}

/// Each new wait counts one in so many.
const WEIGHT: u64 = 8;

impl Waits {
    /// An order was claimed for the first time after this long. Longer waits are believed at once: behind a growing queue the
    /// next order waits at least as long.
    fn observe(&self, wait: Duration) {
        let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX / WEIGHT);
        let blend = |usual: u64| Some(if wait > usual { wait } else { usual - (usual - wait) / WEIGHT });
        // The closure always gives a value.
        let _ = self.milliseconds.fetch_update(Ordering::Relaxed, Ordering::Relaxed, blend);
    }

    /// A claim was recorded; the first of an order tells how long that waited.
    pub fn observe_claim(&self, record: &Record) {
        if let Some(wait) = first_wait(record) {
            self.observe(wait);
        }
    }

    /// The usual wait; zero before the first.
    pub fn usual(&self) -> Duration {
        Duration::from_millis(self.milliseconds.load(Ordering::Relaxed))
    }
}

/// How long an order that was just claimed waited for that, if it was its first claim.
pub fn first_wait(record: &Record) -> Option<Duration> {
    let first = record.attempt == 1 && record.interruptions == 0 && record.attempts_before == 0;
    record.started_at.filter(|_| first).map(|started_at| record.submitted_at.until(started_at))
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
        assert_eq!(waits.usual(), Duration::from_secs(7));
        for _ in 0..100 {
            waits.observe(Duration::ZERO);
        }
        assert!(waits.usual() < Duration::from_millis(20));
    }
}
