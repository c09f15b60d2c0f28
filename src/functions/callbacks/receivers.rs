//! Places for tries at the hosts of receivers: one that answers slowly leaves places to the others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Tries at the same time at one host.
const PLACES: usize = 16;
/// Longest wait for a place. A receiver that is away frees its places every [`TRY`](crate::domain::callback::TRY).
const WAIT: Duration = Duration::from_secs(10);

/// The hosts at which tries run or wait.
#[derive(Default)]
pub(super) struct Receivers(Mutex<HashMap<String, Receiver>>);

struct Receiver {
    places: Arc<Semaphore>,
    /// Callbacks that hold a place or wait for one.
    users: usize,
}

impl Receivers {
    /// A place at this host; `None` if none is free in time.
    pub(super) async fn place(&self, host: &str) -> Option<Place<'_>> {
        let (user, places) = self.enter(host);
        let permit = tokio::time::timeout(WAIT, places.acquire_owned()).await.ok()?.ok()?;
        Some(Place { _permit: permit, _user: user })
    }

    fn enter(&self, host: &str) -> (User<'_>, Arc<Semaphore>) {
        let mut all = self.0.lock();
        let receiver = all.entry(host.to_owned()).or_insert_with(|| Receiver { places: Arc::new(Semaphore::new(PLACES)), users: 0 });
        receiver.users += 1;
        (User { receivers: self, host: host.to_owned() }, Arc::clone(&receiver.places))
    }
}

/// The right to one try at a host, given back when dropped.
pub(super) struct Place<'a> {
    // Dropped first: a host without users has all of its places.
    _permit: OwnedSemaphorePermit,
    _user: User<'a>,
}

/// One callback that holds a place at a host or waits for one. A host without any is forgotten.
struct User<'a> {
    receivers: &'a Receivers,
    host: String,
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        let mut all = self.receivers.0.lock();
        if let Entry::Occupied(mut receiver) = all.entry(std::mem::take(&mut self.host)) {
            receiver.get_mut().users -= 1;
            if receiver.get().users == 0 {
                receiver.remove();
            }
        }
    }
}
