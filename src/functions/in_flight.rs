//! Requests for the same order at the same time: one that is refused must not say that the order is not accepted while another may
//! be about to record it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::tracking::TrackingId;

/// A write whose answer was not waited for may arrive this much later: a connection that broke tries again for a while.
const LATE: Duration = Duration::from_mins(1);
/// So many of these are remembered. Each is there because the store did not answer, and before that often happens in a row it is left
/// alone.
const MAX_LATE: usize = 10_000;

/// The requests of this instance that may record an order.
#[derive(Debug, Default)]
pub struct InFlight(Mutex<Requests>);

#[derive(Debug, Default)]
struct Requests {
    /// By the order they mean: how many there are, and how many there were since there was none.
    orders: HashMap<TrackingId, Count>,
    /// Orders whose write may still arrive, and until when; soonest first.
    late: VecDeque<(Instant, TrackingId)>,
    /// Until then there is one that had to be forgotten, and it may be any.
    forgotten: Option<Instant>,
}

#[derive(Debug, Default)]
struct Count {
    now: usize,
    ever: usize,
}

impl InFlight {
    /// Before anything is asked that may refuse it: whoever is refused because of another then sees that other.
    pub fn enter(&self, tracking_id: TrackingId) -> Entry<'_> {
        let mut requests = self.lock();
        let count = requests.orders.entry(tracking_id).or_default();
        count.now += 1;
        count.ever += 1;
        Entry { in_flight: self, tracking_id }
    }

    fn lock(&self) -> MutexGuard<'_, Requests> {
        // Whatever stands there is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is under way until this is dropped.
#[derive(Debug)]
pub struct Entry<'u> {
    in_flight: &'u InFlight,
    tracking_id: TrackingId,
}

impl Entry<'_> {
    /// The order that it means.
    pub fn tracking_id(&self) -> TrackingId {
        self.tracking_id
    }

    /// Whether no other request was under way since this one entered, and no write may come late. To be asked after a look at the
    /// record: that saw what those wrote who had left before.
    pub fn no_other_may_record(&self, now: Instant) -> bool {
        let mut requests = self.in_flight.lock();
        let late = requests.late.partition_point(|(until, _)| *until <= now);
        requests.late.drain(..late);
        requests.forgotten.take_if(|until| *until <= now);
        requests.forgotten.is_none()
            && requests.orders.get(&self.tracking_id).is_some_and(|count| count.ever == 1)
            && !requests.late.iter().any(|(_, tracking_id)| *tracking_id == self.tracking_id)
    }

    /// What came of its write is not known.
    pub fn outcome_unknown(&self, now: Instant) {
        let mut requests = self.in_flight.lock();
        if requests.late.len() == MAX_LATE {
            requests.forgotten = requests.late.pop_front().map(|(until, _)| until);
        }
        requests.late.push_back((now + LATE, self.tracking_id));
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let mut requests = self.in_flight.lock();
        if let Some(count) = requests.orders.get_mut(&self.tracking_id) {
            count.now -= 1;
            if count.now == 0 {
                requests.orders.remove(&self.tracking_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> TrackingId {
        TrackingId::from_bytes((number as u128).to_be_bytes())
    }

    #[test]
    fn whoever_met_another_was_not_alone_though_that_has_left() {
        let in_flight = InFlight::default();
        let now = Instant::now();
        let first = in_flight.enter(id(1));
        let other = in_flight.enter(id(2));
        assert!(first.no_other_may_record(now) && other.no_other_may_record(now));

        drop(in_flight.enter(id(1)));

        assert!(!first.no_other_may_record(now), "it may have recorded the order");
        drop(first);
        assert!(in_flight.enter(id(1)).no_other_may_record(now), "who looks now sees what it recorded");
        drop(other);
        assert!(in_flight.lock().orders.is_empty());
    }

    #[test]
    fn a_write_may_come_late_for_a_minute_and_of_too_many_none_is_denied() {
        let in_flight = InFlight::default();
        let now = Instant::now();
        in_flight.enter(id(1)).outcome_unknown(now);
        let (again, other) = (in_flight.enter(id(1)), in_flight.enter(id(0)));
        assert!(!again.no_other_may_record(now) && other.no_other_may_record(now));
        for number in 2..=MAX_LATE {
            in_flight.enter(id(number)).outcome_unknown(now + Duration::from_secs(1));
        }
        assert!(other.no_other_may_record(now));

        in_flight.enter(id(MAX_LATE + 1)).outcome_unknown(now + Duration::from_secs(1));

        assert!(!other.no_other_may_record(now) && !again.no_other_may_record(now), "the oldest was forgotten");
        let later = now + LATE;
        assert!(other.no_other_may_record(later) && again.no_other_may_record(later) && !in_flight.enter(id(2)).no_other_may_record(later));
        assert!(in_flight.enter(id(2)).no_other_may_record(later + Duration::from_secs(1)));
        assert!(in_flight.lock().late.is_empty());
    }
}
