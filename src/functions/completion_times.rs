//! Times of the last orders that this instance ended, and the estimate for the next order that follows from them.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

use crate::domain::record::{Record, Status};
use crate::domain::timestamp::Timestamp;
use crate::domain::timestamp::whole_seconds;

/// The number of last orders that count: enough to know the slowest tenth, few enough to follow a change.
const LAST: usize = 128;
/// Shortest pause between two looks at a status.
const MIN_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause between two looks at a status.
const MAX_PAUSE: Duration = Duration::from_mins(1);
/// The next look at an order that takes longer than others comes after this share of its time so far.
const OVERTIME: u32 = 10;

/// Times of the last orders that this instance ended.
#[derive(Debug, Default)]
pub struct CompletionTimes {
    took: Mutex<Took>,
}

#[derive(Debug, Default)]
struct Took {
    /// The times from submission to end.
    whole: Last,
    /// The times from the last claim to the end.
    work: Last,
}

/// The estimated times of an order that is submitted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// The time from submission to end.
    pub whole: Duration,
    /// The time from the last claim to the end.
    pub work: Duration,
}

impl CompletionTimes {
    /// Learns from an order that has ended. A cancelled order says nothing about the next one. `only_queued`: the order waited for
    /// nothing but its turn in the queue. Other waits say nothing about the next order: for the backend behind an open breaker, for a
    /// retry, for a lost message to be sent again, for an operator.
    pub fn observe_end(&self, record: &Record, only_queued: bool) {
        let (Some(claimed_at), Some(completed_at)) = (record.claimed_at(), record.completed_at) else { return };
        if record.status == Status::Cancelled {
            return;
        }
        let mut took = self.took.lock();
        took.work.observe(claimed_at.until(completed_at));
        if only_queued {
            took.whole.observe(record.submitted_at.until(completed_at));
        }
    }

    /// The time that nine orders in ten do not exceed, behind a queue whose oldest order has waited for `backlog`. `work` stands in
    /// for the measured work until the first order has ended.
    pub fn estimate(&self, work: Duration, backlog: Duration) -> Estimate {
        let took = self.took.lock();
        let (whole, work) = (took.whole.nine_in_ten.unwrap_or(work), took.work.nine_in_ten.unwrap_or(work));
        // The orders that ended waited in a shorter queue than the next one, if the queue grows.
        Estimate { whole: whole.max(backlog + work), work }
    }
}

impl Estimate {
    /// The estimated moment of an order's end, never in the past.
    pub fn completion(&self, record: &Record, now: Timestamp) -> Timestamp {
        record.completed_at.unwrap_or_else(|| now.after(self.left(record, now)))
    }

    /// The pause before the next look at an order: half of the time that is left, so that looks come closer together towards the
    /// end; zero when the order has ended.
    pub fn next_look(&self, record: &Record, now: Timestamp) -> Duration {
        if record.status.is_terminal() {
            return MIN_PAUSE;
        }
        let left = self.left(record, now);
        let pause = if left.is_zero() {
            let overtime = since(record, now).until(now) / OVERTIME;
            self.by_progress(record).map_or(overtime, |left| overtime.min(left / 2))
        } else {
            left / 2
        };
        pause.clamp(MIN_PAUSE, MAX_PAUSE)
    }

    /// The rest of the work by its own progress, if it has reported any.
    fn by_progress(&self, record: &Record) -> Option<Duration> {
        let share = f64::from(record.progress.min(100)) / 100.0;
        (record.progress > 0).then(|| self.work.mul_f64(1.0 - share))
    }

    /// The rest of the estimated time. Zero: the order should have ended.
    fn left(&self, record: &Record, now: Timestamp) -> Duration {
        let begins = [record.retry_at, record.wake_at].into_iter().flatten().max();
        if let Some(begins) = begins.filter(|begins| record.lease.is_none() && *begins > now) {
            return now.until(begins) + self.work;
        }
        let passed = since(record, now).until(now);
        if record.status == Status::Accepted {
            return self.whole.saturating_sub(passed);
        }
        // Both shrink, and a report of progress is no reason to look later than without the report.
        let by_time = self.work.saturating_sub(passed);
        self.by_progress(record).map_or(by_time, |left| left.min(by_time))
    }
}

/// Since when an order is on its way to its end, as far as nothing came in between: since its last claim, or since its message was last
/// known to be sent.
fn since(record: &Record, now: Timestamp) -> Timestamp {
    // The last change of an accepted order is its submission, or its re-drive.
    let changed_at = Some(record.updated_at).filter(|_| record.status == Status::Accepted);
    let sent = [changed_at, record.sent_again_at, record.retry_at, record.wake_at].into_iter().filter(|_| record.lease.is_none());
    sent.chain([record.claimed_at()]).flatten().filter(|moment| *moment <= now).max().unwrap_or(record.submitted_at)
}

/// The header fields for a pause: `Retry-After` in whole seconds, at least one, and the finer field that Azure's own clients know,
/// in steps: the same request a moment later must get the same answer.
pub fn retry_after(pause: Duration) -> [(&'static str, String); 2] {
    let step = MIN_PAUSE.as_millis();
    [("Retry-After", whole_seconds(pause).to_string()), ("retry-after-ms", (pause.as_millis().div_ceil(step) * step).to_string())]
}

/// The last durations, and the time that nine in ten of them do not exceed.
#[derive(Debug, Default)]
struct Last {
    /// A ring: at most [`LAST`], the oldest first.
    durations: VecDeque<Duration>,
    /// The time that nine in ten do not exceed. `None` before the first order.
    nine_in_ten: Option<Duration>,
}

impl Last {
    fn observe(&mut self, duration: Duration) {
        if self.durations.len() == LAST {
            self.durations.pop_front();
        }
        self.durations.push_back(duration);
        // Computed once for each order that ends, so that an estimate, which every status request needs, costs nothing.
        let mut durations: Vec<_> = self.durations.iter().copied().collect();
        let rank = (durations.len() * 9).div_ceil(10);
        self.nine_in_ten = Some(*durations.select_nth_unstable(rank - 1).1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(milliseconds: impl IntoIterator<Item = u64>) -> Last {
        let mut last = Last::default();
        milliseconds.into_iter().for_each(|duration| last.observe(Duration::from_millis(duration)));
        last
    }

    fn nine_in_ten(milliseconds: impl IntoIterator<Item = u64>) -> Option<u128> {
        observed(milliseconds).nine_in_ten.map(|duration| duration.as_millis())
    }

    #[test]
    fn nothing_is_known_before_the_first_and_one_is_enough() {
        assert_eq!(nine_in_ten([]), None);
        for milliseconds in [0, 1, 30, 1_000, 3_600_000] {
            assert_eq!(nine_in_ten([milliseconds]), Some(milliseconds.into()));
        }
    }

    #[test]
    fn nine_in_ten_take_no_longer() {
        // 1 to 100, not in this order.
        assert_eq!(nine_in_ten((1..=100).map(|number| number * 37 % 101)), Some(90));
        assert_eq!(nine_in_ten(1..=10), Some(9));
        assert_eq!(nine_in_ten(1..=9), Some(9), "eight of nine are fewer than nine in ten");
    }

    #[test]
    fn the_last_128_count() {
        assert_eq!(nine_in_ten(1..=128), Some(116));
        assert_eq!(nine_in_ten(1..=129), Some(117));
        // 12 are less than a tenth of 128, and 13 are more.
        assert_eq!(nine_in_ten((0..500).map(|_| 1).chain([9; 12])), Some(1));
        assert_eq!(nine_in_ten((0..500).map(|_| 1).chain([9; 13])), Some(9));
    }

    #[test]
    fn one_slow_order_among_many_is_no_reason_and_a_change_is_noticed() {
        let mut last = observed((0..200).map(|number| if number % 20 == 0 { 60_000 } else { 100 }));
        assert_eq!(last.nine_in_ten, Some(Duration::from_millis(100)));

        (0..30).for_each(|_| last.observe(Duration::from_mins(1)));
        assert_eq!(last.nine_in_ten, Some(Duration::from_mins(1)));
        (0..300).for_each(|_| last.observe(Duration::from_millis(100)));
        assert_eq!(last.nine_in_ten, Some(Duration::from_millis(100)));
    }

    #[test]
    fn it_stays_right_for_ever() {
        let last = observed((0..200_000).map(|number| number % 7));

        assert_eq!((last.nine_in_ten, last.durations.len()), (Some(Duration::from_millis(6)), LAST));
    }

    #[test]
    fn behind_a_backlog_an_order_takes_longer_than_any_before() {
        let times = CompletionTimes::default();
        let work = Duration::from_secs(2);

        assert_eq!(times.estimate(work, Duration::ZERO), Estimate { whole: work, work });
        assert_eq!(times.estimate(work, Duration::from_mins(1)).whole, Duration::from_secs(62));
    }
}
