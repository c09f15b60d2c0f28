//! Waiting for an order to change: many who wait for the same one share one look a second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::functions::App;
use crate::idempotency::TrackingId;
use crate::store::Versioned;

/// Between two looks at an order.
const PERIOD: Duration = Duration::from_secs(1);

/// Those who wait, and what they wait for.
#[derive(Debug)]
pub struct Watch {
    places: Semaphore,
    orders: Mutex<HashMap<TrackingId, watch::Sender<Option<Arc<Versioned>>>>>,
}

impl Watch {
    /// At most so many wait at the same time.
    pub fn new(places: usize) -> Self {
        Self { places: Semaphore::new(places), orders: Mutex::default() }
    }

    /// Waits until what was seen has changed in a way that matters, or until `end`, or until the handler stops; and gives the
    /// latest that is known then. `None`: there is no place left to wait.
    pub async fn wait(app: &Arc<App>, seen: Arc<Versioned>, end: Instant, matters: impl Fn(&Versioned) -> bool) -> Option<Arc<Versioned>> {
        let _place = app.watch.places.try_acquire().ok()?;
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
        let mut orders = app.watch.orders();
        if let Some(sender) = orders.get(&tracking_id) {
            return sender.subscribe();
        }
        let (sender, receiver) = watch::channel(None);
        orders.insert(tracking_id, sender.clone());
        tokio::spawn(look(Arc::clone(app), tracking_id, sender));
        receiver
    }

    fn orders(&self) -> std::sync::MutexGuard<'_, HashMap<TrackingId, watch::Sender<Option<Arc<Versioned>>>>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at an order again and again, as long as somebody waits for it.
async fn look(app: Arc<App>, tracking_id: TrackingId, sender: watch::Sender<Option<Arc<Versioned>>>) {
    let store = app.store.wait().await;
    loop {
        tokio::time::sleep(PERIOD).await;
        {
            // Whoever comes now comes after this look at who is there, or is seen by it.
            let mut orders = app.watch.orders();
            if sender.receiver_count() == 0 {
                orders.remove(&tracking_id);
                return;
            }
        }
        // A store that does not answer tells nothing; whoever waits has an end.
        if let Ok(Some(found)) = store.read_recent(tracking_id, None).await {
            sender.send_replace(Some(found));
        }
    }
}
