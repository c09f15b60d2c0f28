//! Places for tries at the hosts of receivers: one that answers slowly leaves places to the others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Tries at the same time at one host, of the [`AT_ONCE`](super::send) of each kind.
const PLACES: usize = 12;
/// Longest wait for a place: a host that answers within three seconds frees one by then.
const WAIT: Duration = Duration::from_secs(1);
/// Time for which no other callback waits for a host at which one has waited in vain.
const BUSY: Duration = Duration::from_secs(10);

/// The hosts at which tries run or wait.
#[derive(Default)]
pub(super) struct Receivers(Mutex<HashMap<String, Receiver>>);

struct Receiver {
    places: Arc<Semaphore>,
    /// Callbacks that hold a place or wait for one.
    users: usize,
    busy_until: Option<Instant>,
}

impl Receivers {
    /// A place at this host; `None` while it is too slow for the callbacks that are due.
    pub(super) async fn place(&self, host: &str) -> Option<Place<'_>> {
        let (user, places, is_busy) = self.enter(host);
        if is_busy {
            return places.try_acquire_owned().ok().map(|permit| Place { _permit: permit, _user: user });
        }
        let Ok(permit) = tokio::time::timeout(WAIT, places.acquire_owned()).await else {
            self.0.lock().entry(host.to_owned()).and_modify(|receiver| receiver.busy_until = Some(Instant::now() + BUSY));
            return None;
        };
        permit.ok().map(|permit| Place { _permit: permit, _user: user })
    }

    fn enter(&self, host: &str) -> (User<'_>, Arc<Semaphore>, bool) {
        let mut all = self.0.lock();
        let receiver =
            all.entry(host.to_owned()).or_insert_with(|| Receiver { places: Arc::new(Semaphore::new(PLACES)), users: 0, busy_until: None });
        receiver.users += 1;
        let is_busy = receiver.busy_until.is_some_and(|until| Instant::now() < until);
        (User { receivers: self, host: host.to_owned() }, Arc::clone(&receiver.places), is_busy)
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
