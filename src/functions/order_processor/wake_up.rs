//! Waking an order up: a copy of its message is scheduled for the moment that its record calls `wakeAt`.
//!
//! The record says so before the copy is scheduled, and every delivery that reads the record meanwhile completes its own message.
//! A copy that cannot be scheduled is therefore taken back.

use serving::failpoint;
use tracing::warn;

use crate::domain::lifecycle;
use crate::domain::message;
use crate::domain::record::Record;
use crate::domain::timestamp::Timestamp;
use crate::functions::order_processor::{Delivery, Next, Reason};
use crate::store::Versioned;

/// Records `wakeAt` and schedules the copy. Without a record to write, the order was found with a wake-up that stands already. `Ok`:
/// the message of this delivery may be completed. `until`: when the order can be worked on.
pub(super) async fn record_and_schedule(
    delivery: &mut Delivery<'_>,
    found: &Versioned,
    wake: Option<Record>,
    until: Timestamp,
) -> Result<(), Next> {
    let written;
    let own = match wake {
        Some(record) => {
            let replaced = delivery.replace(&record, &found.etag).await;
            if let Err(Next::LookAgain(Reason::Unwritten(_))) = &replaced {
                delivery.unconfirmed_wake_ups.extend(record.wake_at);
            }
            written = Versioned { etag: replaced?, record };
            &written
        }
        // A write of this delivery stands, although its answer was lost.
        None if found.record.wake_at.is_some_and(|wake_at| delivery.unconfirmed_wake_ups.contains(&wake_at)) => found,
        None => return delivery.confirm_latest(),
    };
    delivery.unconfirmed_wake_ups.clear();
    schedule(delivery, own, until).await
}

/// Schedules the copy for the `wakeAt` that this delivery has recorded in `own`. A copy that did not leave, or may not have left, is
/// taken back, and this delivery waits with its own message.
pub(super) async fn schedule(delivery: &Delivery<'_>, own: &Versioned, until: Timestamp) -> Result<(), Next> {
    let Versioned { record, etag } = own;
    let wait = Err(Next::LookAgain(Reason::Waits(until)));
    let (Some(queue), Some(wake_at)) = (&delivery.app.queue, record.wake_at) else { return wait };
    let Err(error) = queue.send_at(&message::write(record), wake_at).await else {
        failpoint!("after-schedule");
        return Ok(());
    };
    warn!(order.tracking_id = %record.tracking_id, %error, "a message could not be scheduled; waiting with this one");
    // A refused write needs nothing more: another delivery has written since, and its record counts.
    if let Err(error) = delivery.store.replace(&lifecycle::take_back_wake_up(record), etag).await {
        warn!(order.tracking_id = %record.tracking_id, %error, "the record still tells of that message; the sweeper sends it");
    }
    wait
}
