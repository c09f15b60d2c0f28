//! `OrderSweeper`: finds overdue orders, moves their `dueAt` ahead, and only then sends their messages again.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use serving::failpoint;
use tracing::{info, warn};

use crate::domain::lifecycle::{self, Sweep};
use crate::domain::message;
use crate::domain::record::{Record, Status};
use crate::domain::timestamp::Timestamp;
use crate::domain::tracking::TrackingId;
use crate::envelope::Answer;
use crate::functions::app::App;
use crate::functions::invocation::Invocation;
use crate::functions::reply::{Conclusion, Refusal};
use crate::functions::told;
use crate::functions::{self};
use crate::store::{Replaced, StatusStore, StoreError};

/// Overdue orders found in one run, earliest `dueAt` first.
const FOUND: u32 = 500;
/// Messages sent by one run; the next run finds the other orders again.
const EMITTED: usize = 100;
/// Bytes of messages after which a run sends no more.
const EMITTED_BYTES: usize = 4 * 1024 * 1024;
/// Orders decided concurrently.
const AT_ONCE: usize = 8;
/// Time after which a run leaves the other orders to the next one; runs are one minute apart.
const LONGEST: Duration = Duration::from_secs(30);

/// Finds overdue orders, decides, records, and answers with the messages.
pub async fn run(app: Arc<App>, invocation: Invocation) -> Conclusion {
    if let Err(refusal) = invocation.body.whole() {
        return Conclusion::new(Err(refusal));
    }
    let Ok(store) = tokio::time::timeout(app.config.time_budget.store_wait, app.store.wait()).await else {
        return Conclusion::new(Err(Refusal::abandon("the store does not answer; the next run tries again")));
    };
    match sweep(&app, store).await {
        Ok(messages) => Conclusion::new(Ok(Answer::emit(messages))),
        Err(error) => Conclusion::new(Err(Refusal::abandon(format!("{error}; the next run tries again")))),
    }
}

async fn sweep(app: &App, store: &StatusStore) -> Result<Vec<String>, StoreError> {
    let started = Instant::now();
    let mut due = store.overdue(FOUND, None).await?;
    if due.len() >= FOUND as usize {
        // Orders in processing first: a long queue of accepted orders must not hide orders whose worker is gone.
        due.splice(0..0, store.overdue(FOUND, Some(Status::Processing)).await?);
    }
    let mut messages = Vec::new();
    let mut bytes = 0;
    let oldest = Oldest::default();
    // Orders whose sweep has begun are always finished: once an order's `dueAt` has moved, its message must be sent.
    let enough = AtomicBool::new(false);
    let mut sweeps = stream::iter(due)
        .take_while(|_| ready(!enough.load(Ordering::Relaxed)))
        .map(|tracking_id| sweep_order(app, store, &oldest, tracking_id))
        .buffer_unordered(AT_ONCE);
    while let Some(message) = sweeps.next().await {
        match message {
            Ok(None) => {}
            Ok(Some(message)) => {
                bytes += message.len();
                messages.push(message);
            }
            // An order that could not be written stays due.
            Err(error) => warn!(%error, "an overdue order could not be swept; the next run tries again"),
        }
        enough.fetch_or(messages.len() >= EMITTED || bytes >= EMITTED_BYTES || started.elapsed() > LONGEST, Ordering::Relaxed);
    }
    oldest.tell(store.now());
    failpoint!("mid-sweep-before-answer" if !messages.is_empty());
    Ok(messages)
}

/// Decides and records about one order; returns its message if it is to be sent again.
async fn sweep_order(app: &App, store: &StatusStore, oldest: &Oldest, tracking_id: TrackingId) -> Result<Option<String>, StoreError> {
    let Some(found) = store.read_latest(tracking_id).await? else { return Ok(None) };
    oldest.look(&found.record);
    let decision = lifecycle::sweep(&found.record, app.queue_wait.usual(), store.now(), &app.config.budgets);
    let (record, emits) = match decision {
        Sweep::Nothing => return Ok(None),
        Sweep::Postpone(record) | Sweep::GiveUp(record) => (record, false),
        Sweep::Emit(record) => (record, true),
    };
    // Stale: another sweeper or a worker changed the order meanwhile, and takes care of it.
    let Replaced::Replaced(_) = store.replace(&record, &found.etag).await? else { return Ok(None) };
    failpoint!("mid-sweep-after-record" if emits);
    if record.status.is_terminal() {
        told::transition(&record, functions::ended_text(&record));
    } else if emits {
        info!(order.tracking_id = %tracking_id, order.status = record.status.as_str(), order.emissions = record.emissions, "order overdue: its message is sent again");
    }
    Ok(emits.then(|| message::write(&record)))
}

/// When the oldest of the open orders that a run looks at was submitted, in milliseconds.
struct Oldest(AtomicI64);

impl Default for Oldest {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MAX))
    }
}

impl Oldest {
    fn look(&self, record: &Record) {
        if !record.status.is_terminal() {
            self.0.fetch_min(record.submitted_at.as_milliseconds(), Ordering::Relaxed);
        }
    }

    /// Writes the age. An alert reads this line by its text and its field.
    fn tell(&self, now: Timestamp) {
        let oldest = Timestamp::from_milliseconds(self.0.load(Ordering::Relaxed)).min(now);
        info!(order.oldest_age_s = oldest.until(now).as_secs_f64(), "oldest overdue order");
    }
}
