//! Requests for the same order at the same time. A refused request must not say that the order is not accepted while another request
//! may be recording it.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::domain::tracking::TrackingId;

/// How long after its timeout a write may still reach the store: a broken connection is tried again for a while.
const LATE: Duration = Duration::from_mins(1);
/// Late writes that are kept by order. Each is the result of a store that did not answer; the store's breaker usually opens long before
/// this number.
const MAX_LATE: usize = 10_000;

/// The requests on this instance that may record an order.
#[derive(Debug, Default)]
pub struct InFlight(Mutex<Requests>);

#[derive(Debug, Default)]
struct Requests {
    /// Requests by order.
    orders: HashMap<TrackingId, Count>,
    /// Orders whose write may still reach the store, and until when; soonest first.
    late: VecDeque<(Instant, TrackingId)>,
    /// Until when a late write that was dropped from the list may reach the store; it may be of any order.
    forgotten: Option<Instant>,
}

#[derive(Debug, Default)]
struct Count {
    now: usize,
    /// Requests since there was none.
    ever: usize,
}

impl InFlight {
    /// Enters a request. Called before every check that may refuse the request, so that concurrent requests see each other.
    pub fn enter(&self, tracking_id: TrackingId) -> Entry<'_> {
        let mut requests = self.0.lock();
        let count = requests.orders.entry(tracking_id).or_default();
        count.now += 1;
        count.ever += 1;
        Entry { in_flight: self, tracking_id }
    }
}

/// A request in flight; it leaves when this is dropped.
#[derive(Debug)]
pub struct Entry<'u> {
    in_flight: &'u InFlight,
    tracking_id: TrackingId,
}

impl Entry<'_> {
    /// The order of the request.
    pub fn tracking_id(&self) -> TrackingId {
        self.tracking_id
    }

    /// Whether no other request for the order was in flight since this one entered, and no late write may still arrive. Call it after
    /// the record was read: that read shows the writes of all requests that left earlier.
    pub fn no_other_may_record(&self, now: Instant) -> bool {
        let mut requests = self.in_flight.0.lock();
        let late = requests.late.partition_point(|(until, _)| *until <= now);
        requests.late.drain(..late);
        requests.forgotten.take_if(|until| *until <= now);
        requests.forgotten.is_none()
            && requests.orders.get(&self.tracking_id).is_some_and(|count| count.ever == 1)
            && !requests.late.iter().any(|(_, tracking_id)| *tracking_id == self.tracking_id)
    }

    /// Notes that the store did not confirm the request's write.
    pub fn outcome_unknown(&self, now: Instant) {
        let mut requests = self.in_flight.0.lock();
        if requests.late.len() == MAX_LATE {
            requests.forgotten = requests.late.pop_front().map(|(until, _)| until);
        }
        requests.late.push_back((now + LATE, self.tracking_id));
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let mut requests = self.in_flight.0.lock();
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
    fn another_request_counts_even_after_it_has_left() {
        let in_flight = InFlight::default();
        let now = Instant::now();
        let first = in_flight.enter(id(1));
        let other = in_flight.enter(id(2));
        assert!(first.no_other_may_record(now) && other.no_other_may_record(now));

        drop(in_flight.enter(id(1)));

        assert!(!first.no_other_may_record(now), "it may have recorded the order");
        drop(first);
        assert!(in_flight.enter(id(1)).no_other_may_record(now), "a read after it left shows its record");
        drop(other);
        assert!(in_flight.0.lock().orders.is_empty());
    }

    #[test]
    fn an_unconfirmed_write_counts_for_a_minute_and_a_dropped_one_counts_for_every_order() {
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

        assert!(!other.no_other_may_record(now) && !again.no_other_may_record(now), "the oldest was dropped");
        let later = now + LATE;
        assert!(other.no_other_may_record(later) && again.no_other_may_record(later) && !in_flight.enter(id(2)).no_other_may_record(later));
        assert!(in_flight.enter(id(2)).no_other_may_record(later + Duration::from_secs(1)));
        assert!(in_flight.0.lock().late.is_empty());
    }
}
