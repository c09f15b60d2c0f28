//! Waiting for an order to change: many who wait for the same one share one look a second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::functions::App;
use crate::idempotency::TrackingId;
use crate::store::Versioned;

/// Between two looks at an order.
const PERIOD: Duration = Duration::from_secs(1);

/// Places for those who hold a connection without being served.
#[derive(Debug)]
pub struct Places {
    number: usize,
    /// Who holds how many of them.
    held: Mutex<HashMap<[u8; 16], usize>>,
}

/// Those who wait, and what they wait for.
#[derive(Debug)]
pub struct Watch {
    places: Places,
    orders: Mutex<HashMap<TrackingId, watch::Sender<Option<Arc<Versioned>>>>>,
}

impl Places {
    /// So many at the same time, and half of them for one caller.
    pub fn new(number: usize) -> Self {
        Self { number, held: Mutex::default() }
    }

    /// One of them, if there is one left for this caller.
    pub fn take(&self, caller: [u8; 16]) -> Option<Place<'_>> {
        let mut held = lock(&self.held);
        let own = held.get(&caller).copied().unwrap_or_default();
        let taken: usize = held.values().sum();
        if taken >= self.number || own >= self.number.div_ceil(2) {
            return None;
        }
        held.insert(caller, own + 1);
        Some(Place { places: self, caller })
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        lock(&self.held).values().sum()
    }
}

impl Watch {
    /// At most so many wait at the same time, and half of them for one caller.
    pub fn new(places: usize) -> Self {
        Self { places: Places::new(places), orders: Mutex::default() }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.places.taken()
    }

    /// Waits until what was seen has changed in a way that matters, or until `end`, or until the handler stops; and gives the
    /// latest that is known then. `None`: there is no place left to wait.
    pub async fn wait(
        app: &Arc<App>,
        caller: [u8; 16],
        seen: Arc<Versioned>,
        end: Instant,
        matters: impl Fn(&Versioned) -> bool,
    ) -> Option<Arc<Versioned>> {
        let _place = app.watch.places.take(caller)?;
        let mut changes = Self::subscribe(app, seen.record.tracking_id);
        let mut latest = seen;
        let looking = async {
            loop {
                if let Some(found) = changes.borrow_and_update().clone() {
                    // A replica may lag, and nothing goes backwards.
                    if found.record.updated_at >= latest.record.updated_at {
                        latest = found;
                    }
                }
                if matters(&latest) || changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = looking => {}
            () = tokio::time::sleep_until(end) => {}
            () = app.stopping.wait() => {}
        }
        Some(latest)
    }

    fn subscribe(app: &Arc<App>, tracking_id: TrackingId) -> watch::Receiver<Option<Arc<Versioned>>> {
        let mut orders = lock(&app.watch.orders);
        if let Some(sender) = orders.get(&tracking_id) {
            return sender.subscribe();
        }
        let (sender, receiver) = watch::channel(None);
        orders.insert(tracking_id, sender.clone());
        tokio::spawn(look(Arc::clone(app), tracking_id, sender));
        receiver
    }
}

/// A place; given back when it is dropped.
#[derive(Debug)]
pub struct Place<'p> {
    places: &'p Places,
    caller: [u8; 16],
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut held = lock(&self.places.held);
        if let Some(own) = held.get_mut(&self.caller) {
            *own -= 1;
            if *own == 0 {
                held.remove(&self.caller);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whatever stands there is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks at an order again and again, as long as somebody waits for it.
async fn look(app: Arc<App>, tracking_id: TrackingId, sender: watch::Sender<Option<Arc<Versioned>>>) {
    let store = app.store.wait().await;
    loop {
        tokio::time::sleep(PERIOD).await;
        {
            // Whoever comes now comes after this look at who is there, or is seen by it.
            let mut orders = lock(&app.watch.orders);
            if sender.receiver_count() == 0 {
                orders.remove(&tracking_id);
                return;
            }
        }
        // A store that does not answer tells nothing; whoever waits has an end.
        if let Ok(Some(found)) = store.read_recent(tracking_id).await {
            sender.send_replace(Some(found));
        }
    }
}
