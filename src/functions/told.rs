//! What is told of an order: a log line with stable fields for machines, a short one for a person at a terminal, and the metrics.

use serving::log::{PEOPLE, time_of_day};
use serving::terminal::duration;
use tracing::{Level, enabled, info, warn};

use crate::domain::record::{Record, Status};
use crate::domain::timestamp::Timestamp;
use crate::metrics::METRICS;

/// Target of the lines for machines.
const ORDER: &str = "waybill::order";
/// Characters of an `orderId` in a line.
const ORDER_ID: usize = 24;

/// An order is recorded.
pub(super) fn accepted(record: &Record) {
    METRICS.orders_accepted.count(());
    info!(target: ORDER, { order.tracking_id = %record.tracking_id, order.status = record.status.as_str() }, "order accepted");
    short(record, "", || "accepted".into());
}

/// An order's record changed, by a claim, a failed try, a request to cancel, or its end. Failures are warnings.
pub(super) fn transition(record: &Record, text: &'static str) {
    // While a worker has the order, the record has the failure of the try before.
    let failure = record.error.as_ref().filter(|_| record.lease.is_none());
    macro_rules! line {
        ($level:ident) => {
            $level!(
                target: ORDER,
                {
                    order.tracking_id = %record.tracking_id,
                    order.status = record.status.as_str(),
                    order.fence = record.fence,
                    order.attempt = record.attempt,
                    order.interruptions = record.interruptions,
                    order.retry_at = record.retry_at.map(tracing::field::display),
                    error.code = failure.map(|failure| failure.code.as_str()),
                    error.message = failure.map(|failure| failure.message.as_str())
                },
                "{text}"
            )
        };
    }
    let waits = record.retry_at.is_some() && record.lease.is_none();
    if waits {
        METRICS.retries.count(());
    }
    if record.status == Status::Failed || waits {
        line!(warn);
    } else {
        line!(info);
    }

    let error = || failure.map_or_else(String::new, |error| format!("{}: {}", error.code, error.message));
    let time = || duration(record.submitted_at.until(record.completed_at.unwrap_or(record.updated_at)));
    match (record.status, record.retry_at) {
        (Status::Completed, _) => short(record, "good", || format!("✓ completed  {}", time())),
        (Status::Failed, _) => short(record, "bad", || format!("✗ failed  {}  {}", error(), time())),
        (Status::Cancelled, _) => short(record, "wait", || format!("⊘ cancelled  {}", time())),
        (_, Some(retry_at)) if waits => {
            let at = || time_of_day(retry_at.as_milliseconds());
            short(record, "wait", || format!("↻ try {} failed  {}; next try at {}", record.attempt, error(), at()));
        }
        (_, _) if record.cancel_requested => short(record, "wait", || "cancellation requested".into()),
        _ => {}
    }
}

/// A claim, or the end of an order that no worker holds, is written. A claim before it may have ended without a verdict.
pub(super) fn interruption(found: &Record, written: &Record) {
    METRICS.interruptions.add((), written.interruptions.saturating_sub(found.interruptions).into());
}

/// A delivery leaves an order to a later copy of its message, or waits.
pub(super) fn put_off(record: &Record, why: &'static str, until: Timestamp) {
    info!(
        target: ORDER,
        {
            order.tracking_id = %record.tracking_id,
            order.status = record.status.as_str(),
            order.put_off_until = %until,
            order.put_off_reason = why
        },
        "order put off"
    );
    short(record, "wait", || format!("… put off until {}: {why}", time_of_day(until.as_milliseconds())));
}

/// An order's message is sent again, since the order was overdue or a message of it was dead-lettered.
pub(super) fn sent_again(record: &Record, why: &'static str) {
    short(record, "wait", || format!("↻ {why}: its message is sent again"));
}

/// Writes the line for a person. An order is parsed only where such lines are shown.
fn short(record: &Record, look: &'static str, text: impl FnOnce() -> String) {
    if !enabled!(target: PEOPLE, Level::INFO) {
        return;
    }
    let tracking_id = record.tracking_id.to_string();
    let (order_id, id, text) = (order_id(record), &tracking_id[..8], text());
    if look == "bad" {
        warn!(target: PEOPLE, look, "{order_id:<12}  {id}  {text}");
    } else {
        info!(target: PEOPLE, look, "{order_id:<12}  {id}  {text}");
    }
}

fn order_id(record: &Record) -> String {
    let id = record.names().order_id;
    if id.chars().count() > ORDER_ID { id.chars().take(ORDER_ID - 1).chain(['…']).collect() } else { id }
}
