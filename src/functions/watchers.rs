//! Status requests that wait for an order to change. All requests that wait for one order share one read per second.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{SetOnce, watch};
use tokio::time::Instant;

use crate::domain::tracking::TrackingId;
use crate::functions::wait_slots::WaitSlots;
use crate::metrics::WaitFor;
use crate::store::{StatusStore, Versioned};

/// Time between two reads of an order.
const PERIOD: Duration = Duration::from_secs(1);

type Latest = Option<Arc<Versioned>>;

/// The requests that wait, by order.
#[derive(Debug)]
pub struct Watchers {
    slots: WaitSlots,
    orders: Arc<Orders>,
}

#[derive(Debug, Default)]
struct Orders(Mutex<HashMap<TrackingId, watch::Sender<Latest>>>);

impl Watchers {
    /// At most `slots` requests wait at the same time, at most half of them from one caller.
    pub fn new(slots: usize) -> Self {
        Self { slots: WaitSlots::new(slots, WaitFor::Change), orders: Arc::default() }
    }

    /// The number of waiting requests.
    pub fn waiting(&self) -> usize {
        self.slots.taken()
    }

    /// Waits for a version that `matters`, until `end`, or until the handler is `stopping`; returns the latest version known then, at
    /// first `seen`. `None`: no slot is free.
    pub async fn wait(
        &self,
        store: &StatusStore,
        stopping: &SetOnce<()>,
        caller: [u8; 16],
        seen: Arc<Versioned>,
        end: Instant,
        matters: impl Fn(&Versioned) -> bool,
    ) -> Latest {
        let _slot = self.slots.take(caller)?;
        let mut changes = self.orders.subscribe(store, seen.record.tracking_id);
        let mut latest = seen;
        let until_it_matters = async {
            loop {
                if let Some(found) = changes.borrow_and_update().clone() {
                    // A replica may lag: a version older than the last one is ignored.
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
            () = until_it_matters => {}
            () = tokio::time::sleep_until(end) => {}
            () = stopping.wait() => {}
        }
        Some(latest)
    }
}

impl Orders {
    fn subscribe(self: &Arc<Self>, store: &StatusStore, tracking_id: TrackingId) -> watch::Receiver<Latest> {
        let mut orders = self.0.lock();
        if let Some(sender) = orders.get(&tracking_id) {
            return sender.subscribe();
        }
        let (sender, receiver) = watch::channel(None);
        orders.insert(tracking_id, sender.clone());
        tokio::spawn(follow(Arc::clone(self), store.clone(), tracking_id, sender));
        receiver
    }
}

/// Reads an order once a period for as long as a request waits for it.
async fn follow(orders: Arc<Orders>, store: StatusStore, tracking_id: TrackingId, sender: watch::Sender<Latest>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        {
            // Under the lock: a request that subscribes later starts a task of its own.
            let mut orders = orders.0.lock();
            if sender.receiver_count() == 0 {
                orders.remove(&tracking_id);
                return;
            }
        }
        // Ignored if the store does not answer: each waiting request has its own end.
        if let Ok(Some(found)) = store.read_recent(tracking_id).await {
            sender.send_replace(Some(found));
        }
    }
}
