//! Places for tries at the hosts of receivers: one that answers slowly leaves places to the others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Tries at the same time at one host, first and later ones together.
const PLACES: usize = 12;
/// Longest wait for a place: a host that answers within three seconds frees some by then, and the callbacks that wait behind find them.
const WAIT: Duration = Duration::from_secs(3);
/// Time for which no callback waits for a host that freed no place while another one waited.
const BUSY: Duration = Duration::from_secs(10);

/// The hosts at which tries run or wait.
#[derive(Default)]
pub(super) struct Receivers(Mutex<HashMap<String, Receiver>>);

struct Receiver {
    places: Arc<Semaphore>,
    /// Callbacks that hold a place or wait for one.
    users: usize,
    /// When the last place was given back.
    freed_at: Option<Instant>,
    busy_until: Option<Instant>,
}

impl Receivers {
    /// A place at this host; `None` while it is too slow for the callbacks that are due.
    pub(super) async fn place(&self, host: &str) -> Option<Place<'_>> {
        let (user, places, is_busy) = self.enter(host);
        let asked_at = Instant::now();
        let wait = if is_busy { Duration::ZERO } else { WAIT };
        let Ok(permit) = tokio::time::timeout(wait, places.acquire_owned()).await else {
            if let Some(receiver) = self.0.lock().get_mut(host)
                && receiver.freed_at.is_none_or(|freed_at| freed_at < asked_at)
            {
                receiver.busy_until = Some(Instant::now() + BUSY);
            }
            return None;
        };
        permit.ok().map(|permit| Place { _permit: permit, user })
    }

    fn enter(&self, host: &str) -> (User<'_>, Arc<Semaphore>, bool) {
        let mut all = self.0.lock();
        let receiver = all.entry(host.to_owned()).or_insert_with(|| Receiver {
            places: Arc::new(Semaphore::new(PLACES)),
            users: 0,
            freed_at: None,
            busy_until: None,
        });
        receiver.users += 1;
        let is_busy = receiver.busy_until.is_some_and(|until| Instant::now() < until);
        (User { receivers: self, host: host.to_owned() }, Arc::clone(&receiver.places), is_busy)
    }
}

/// The right to one try at a host, given back when dropped.
pub(super) struct Place<'a> {
    // Dropped first: a host without users has all of its places.
    _permit: OwnedSemaphorePermit,
    user: User<'a>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(receiver) = self.user.receivers.0.lock().get_mut(&self.user.host) {
            receiver.freed_at = Some(Instant::now());
        }
    }
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
