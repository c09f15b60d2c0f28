//! How long orders lately took, by what this instance ended, and so when one that is asked about may end.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::domain::record::{Event, Record, Status};
use crate::domain::timestamp::Timestamp;
use crate::domain::timestamp::whole_seconds;

/// The share of orders that end within what is promised.
const SHARE: f64 = 0.9;
/// Each order counts this much less when the next one ends: about the last hundred decide.
const FADE: f64 = 0.99;
/// Buckets a doubling of the time.
const PER_DOUBLING: f64 = 4.0;
/// The last bucket begins at nine days.
const BUCKETS: usize = 120;
/// Weights are scaled down before they grow out of a float.
const LARGEST_WEIGHT: f64 = 1e100;
/// Shortest pause between two looks at a status.
const MIN_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause between two looks at a status.
const MAX_PAUSE: Duration = Duration::from_mins(1);
/// The next look at an order that takes longer than others comes after this share of its time so far.
const OVERTIME: u32 = 10;

/// What orders took that this instance ended.
#[derive(Debug, Default)]
pub struct Durations {
    took: Mutex<Took>,
}

#[derive(Debug, Default)]
struct Took {
    /// From submission to end.
    whole: Quantile,
    /// From the first claim to the end.
    work: Quantile,
}

/// What is expected of an order that is submitted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// From submission to end.
    pub whole: Duration,
    /// From the first claim to the end.
    pub work: Duration,
}

impl Durations {
    /// The work of an order came to its end. One that was broken off tells nothing, and an order that an operator put back on its way neither: it took until he did.
    pub fn observe_end(&self, record: &Record) {
        let redriven = record.attempts_before > 0 || record.history.iter().any(|transition| transition.event == Event::Redriven);
        if record.status == Status::Cancelled || redriven {
            return;
        }
        if let (Some(started_at), Some(completed_at)) = (record.started_at, record.completed_at) {
            let mut took = self.took.lock().unwrap_or_else(PoisonError::into_inner);
            took.whole.observe(record.submitted_at.until(completed_at));
            took.work.observe(started_at.until(completed_at));
        }
    }

    /// Nine orders in ten take no longer, behind a `backlog` that has waited for so long. `work` is what is known before the
    /// first order ended.
    pub fn expected(&self, work: Duration, backlog: Duration) -> Expected {
        let took = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        let (whole, work) = (took.whole.value().unwrap_or(work), took.work.value().unwrap_or(work));
        // What ended lately waited in a shorter queue than what comes now, if the queue grows.
        Expected { whole: whole.max(backlog + work), work }
    }
}

impl Expected {
    /// When an order will have ended, never in the past.
    pub fn completion(&self, record: &Record, now: Timestamp) -> Timestamp {
        record.completed_at.unwrap_or_else(|| now.after(self.left(record, now)))
    }

    /// After this time an order is worth a look: half of what is left, so that the looks come closer together as the end does; at
    /// once when it has ended.
    pub fn next_look(&self, record: &Record, now: Timestamp) -> Duration {
        if record.status.is_terminal() {
            return MIN_PAUSE;
        }
        let left = self.left(record, now);
        let pause = if left.is_zero() {
            let overtime = record.submitted_at.until(now) / OVERTIME;
            self.by_progress(record).map_or(overtime, |left| overtime.min(left / 2))
        } else {
            left / 2
        };
        pause.clamp(MIN_PAUSE, MAX_PAUSE)
    }

    /// What is left of the work by what it says itself, if it has said anything.
    fn by_progress(&self, record: &Record) -> Option<Duration> {
        let share = f64::from(record.progress.min(100)) / 100.0;
        (record.progress > 0).then(|| self.work.mul_f64(1.0 - share))
    }

    /// Zero: it should have ended.
    fn left(&self, record: &Record, now: Timestamp) -> Duration {
        if let Some(retry_at) = record.retry_at.filter(|retry_at| *retry_at > now) {
            return now.until(retry_at) + self.work;
        }
        match (record.status, record.started_at) {
            (Status::Accepted, _) => self.whole.saturating_sub(record.submitted_at.until(now)),
            (_, started_at) => {
                // Both shrink, and what progress says is no reason to look later than before it said so.
                let by_time = self.work.saturating_sub(started_at.map_or(Duration::ZERO, |started_at| started_at.until(now)));
                self.by_progress(record).map_or(by_time, |left| left.min(by_time))
            }
        }
    }
}

/// The header fields that say so: `Retry-After` in whole seconds, never none, and the finer one that Azure's own clients know, in
/// steps: the same request a moment later is to get the same answer.
pub fn retry_after(pause: Duration) -> [(&'static str, String); 2] {
    let step = MIN_PAUSE.as_millis();
    [("Retry-After", whole_seconds(pause).to_string()), ("retry-after-ms", (pause.as_millis().div_ceil(step) * step).to_string())]
}

/// A quantile of durations of which old ones count less and less: a histogram whose buckets grow with the durations, so that it
/// is as exact for milliseconds as for hours, to less than a fifth.
#[derive(Debug)]
struct Quantile {
    weights: [f64; BUCKETS],
    /// What the next one counts. Letting new ones count more is the same as letting all old ones count less.
    weight: f64,
}

impl Default for Quantile {
    fn default() -> Self {
        Self { weights: [0.0; BUCKETS], weight: 1.0 }
    }
}

impl Quantile {
    fn observe(&mut self, duration: Duration) {
        self.weights[bucket(duration)] += self.weight;
        self.weight /= FADE;
        if self.weight > LARGEST_WEIGHT {
            self.weights.iter_mut().for_each(|weight| *weight /= self.weight);
            self.weight = 1.0;
        }
    }

    /// None before the first.
    fn value(&self) -> Option<Duration> {
        let mut left = self.weights.iter().sum::<f64>() * SHARE;
        let holds = |weight: &f64| {
            let enough = *weight > 0.0 && *weight >= left;
            left -= weight;
            enough
        };
        let last = self.weights.iter().rposition(|weight| *weight > 0.0)?;
        Some(end(self.weights.iter().position(holds).unwrap_or(last)))
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number, whose fraction is to go")]
fn bucket(duration: Duration) -> usize {
    let milliseconds = duration.as_secs_f64() * 1e3;
    (((milliseconds + 1.0).log2() * PER_DOUBLING) as usize).min(BUCKETS - 1)
}

/// The longest duration of a bucket.
#[expect(clippy::cast_precision_loss, reason = "a small number")]
fn end(bucket: usize) -> Duration {
    Duration::from_secs_f64((((bucket + 1) as f64 / PER_DOUBLING).exp2() - 1.0) / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(quantile: &Quantile) -> f64 {
        quantile.value().unwrap().as_secs_f64()
    }

    fn observed(durations: impl IntoIterator<Item = u64>) -> Quantile {
        let mut quantile = Quantile::default();
        durations.into_iter().for_each(|duration| quantile.observe(Duration::from_millis(duration)));
        quantile
    }

    #[test]
    fn nothing_is_known_before_the_first_and_one_is_enough() {
        assert_eq!(Quantile::default().value(), None);
        for milliseconds in [0, 1, 30, 1_000, 3_600_000] {
            let value = observed([milliseconds]).value().unwrap();
            let exact = Duration::from_millis(milliseconds);
            assert!(value >= exact && value <= exact.mul_f64(1.19) + Duration::from_millis(1), "{milliseconds}: {value:?}");
        }
    }

    #[test]
    fn nine_in_ten_take_no_longer() {
        let evenly = observed((0..10_000).map(|number| (number * 7_919) % 10_000));

        assert!((8.5..11.0).contains(&seconds(&evenly)), "{}", seconds(&evenly));
    }

    #[test]
    fn one_slow_order_among_many_is_no_reason_and_a_change_is_noticed() {
        let mut quantile = observed((0..200).map(|number| if number % 20 == 0 { 60_000 } else { 100 }));
        assert!(seconds(&quantile) < 0.2, "{}", seconds(&quantile));

        (0..30).for_each(|_| quantile.observe(Duration::from_secs(60)));
        assert!(seconds(&quantile) >= 60.0, "{}", seconds(&quantile));
        (0..300).for_each(|_| quantile.observe(Duration::from_millis(100)));
        assert!(seconds(&quantile) < 0.2, "{}", seconds(&quantile));
    }

    #[test]
    fn it_stays_right_for_ever() {
        let quantile = observed((0..200_000).map(|_| 1_000));

        assert!((1.0..1.2).contains(&seconds(&quantile)), "{}", seconds(&quantile));
    }

    #[test]
    fn behind_a_backlog_an_order_takes_longer_than_any_before() {
        let durations = Durations::default();
        let work = Duration::from_secs(2);

        assert_eq!(durations.expected(work, Duration::ZERO), Expected { whole: work, work });
        assert_eq!(durations.expected(work, Duration::from_mins(1)).whole, Duration::from_secs(62));
    }
}
