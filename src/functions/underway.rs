//! Requests for the same order at the same time: one that is refused must not say that the order is not accepted while another may
//! be about to record it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::sync::Cache;

use crate::idempotency::TrackingId;

/// A write whose answer nobody waited for may arrive this much later: a connection that broke tries again for a while.
const LATE: Duration = Duration::from_mins(1);
/// So many of these are remembered; each is there because a store did not answer, or a client did not wait.
const MAX_LATE: u64 = 10_000;

/// The requests of this instance that may record an order, by the order they mean.
#[derive(Debug)]
pub struct Underway {
    requests: Mutex<HashMap<TrackingId, usize>>,
    /// Those whose write may still arrive.
    late: Cache<TrackingId, ()>,
}

impl Default for Underway {
    fn default() -> Self {
        Self { requests: Mutex::default(), late: Cache::builder().max_capacity(MAX_LATE).time_to_live(LATE).build() }
    }
}

impl Underway {
    /// Before anything is asked that may refuse it: whoever is refused because of another then sees that other.
    pub fn enter(&self, tracking_id: TrackingId) -> Place<'_> {
        *lock(&self.requests).entry(tracking_id).or_default() += 1;
        Place { underway: self, tracking_id, may_come_late: false }
    }
}

/// A request that is under way until this is dropped.
#[derive(Debug)]
pub struct Place<'u> {
    underway: &'u Underway,
    tracking_id: TrackingId,
    may_come_late: bool,
}

impl Place<'_> {
    /// Whether no other request may record the same order. Ask this first and look at the record second.
    pub fn is_alone(&self) -> bool {
        lock(&self.underway.requests).get(&self.tracking_id) == Some(&1) && !self.underway.late.contains_key(&self.tracking_id)
    }

    /// A write leaves now. Unless its end is told, it may arrive after everything.
    pub fn writes(&mut self) {
        self.may_come_late = true;
    }

    /// What came of the write is known.
    pub fn has_written(&mut self) {
        self.may_come_late = false;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.may_come_late {
            self.underway.late.insert(self.tracking_id, ());
        }
        let mut requests = lock(&self.underway.requests);
        if let Some(others) = requests.get_mut(&self.tracking_id) {
            *others -= 1;
            if *others == 0 {
                requests.remove(&self.tracking_id);
            }
        }
    }
}

fn lock(requests: &Mutex<HashMap<TrackingId, usize>>) -> MutexGuard<'_, HashMap<TrackingId, usize>> {
    // Whatever stands there is whole.
    requests.lock().unwrap_or_else(PoisonError::into_inner)
}
