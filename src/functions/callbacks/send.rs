//! Sending callbacks: each try is written to the order's record, sent, and its answer written.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serving::failpoint;
use serving::trace::{self, SPANS};
use tokio::sync::Semaphore;
use tracing::{Instrument, Span, info, info_span, warn};

use crate::domain::callback::{self, Next, Told};
use crate::domain::record::{NoticeState, Record};
use crate::domain::tracking::TrackingId;
use crate::functions;
use crate::functions::app::App;
use crate::functions::contract::{OrderStatus, Timestamp};
use crate::metrics::{CallbackResult, METRICS};
use crate::outbound::backoff;
use crate::store::{Due, Replaced, StatusStore, StoreError, Versioned};

/// Callbacks that are tried or wait for a place at their receiver, of orders that have just ended and of orders that were due: a receiver
/// that is away holds up neither kind with the other.
const AT_ONCE: usize = 128;
/// Orders due found at once.
const PAGE: u32 = 100;
/// Longest time from the decision to try until the try begins. A try that begins later could meet the next one.
const BEGIN: Duration = Duration::from_secs(4);
/// Longest time in which the answer of a receiver is written. Without it the callback is sent again.
const WRITE: Duration = Duration::from_secs(30);

/// Sends callbacks while requests are served.
pub async fn keep(app: &Arc<App>) -> Infallible {
    let waiting = app.callbacks.waiting.lock().take();
    let (Some(mut waiting), Some(_)) = (waiting, &app.callbacks.sender) else { return std::future::pending().await };
    let store = app.store.wait().await;
    let ended = async {
        let (slots, stuck) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::default());
        while let Some(tracking_id) = waiting.recv().await {
            begin(app, &slots, tracking_id, &stuck).await;
        }
    };
    let due = async {
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            app.callbacks.due.notified().await;
            if let Err(error) = tell_due(app, store, &slots).await {
                warn!(%error, "the orders whose callback is due could not be read; the next run of the sweeper tries again");
            }
        }
    };
    tokio::join!(ended, due);
    // The sender of `waiting` is in `app`.
    std::future::pending().await
}

/// Tells of the orders that are due, page after page.
async fn tell_due(app: &Arc<App>, store: &StatusStore, slots: &Arc<Semaphore>) -> Result<(), StoreError> {
    let mut seen = HashSet::new();
    let stuck = Arc::new(AtomicU32::new(0));
    while app.stopping.get().is_none() {
        let mut page = store.overdue(PAGE, stuck.load(Ordering::Relaxed), Due::Callback).await?;
        let is_full = page.len() >= PAGE as usize;
        page.retain(|tracking_id| seen.insert(*tracking_id));
        for tracking_id in &page {
            begin(app, slots, *tracking_id, &stuck).await;
        }
        // Every try that has begun moves its order out of the pages; an order that cannot be written stays in front. A page of nothing new
        // would be followed by the same one.
        drop(slots.acquire_many(u32::try_from(AT_ONCE).unwrap_or(1)).await);
        if !is_full || page.is_empty() {
            break;
        }
    }
    Ok(())
}

/// Begins to tell of an order's end, once a slot is free. `stuck` counts the orders that could not be written.
async fn begin(app: &Arc<App>, slots: &Arc<Semaphore>, tracking_id: TrackingId, stuck: &Arc<AtomicU32>) {
    let Ok(slot) = Arc::clone(slots).acquire_owned().await else { return };
    if app.stopping.get().is_some() {
        // The callback stays pending, and the next process sends it.
        return;
    }
    let (app, running, stuck) = (Arc::clone(app), app.running.enter(), Arc::clone(stuck));
    let span = info_span!(target: SPANS, "callback", waybill.order.tracking_id = %tracking_id);
    let told = async move {
        let _held = (slot, running);
        let Some(store) = app.store.get() else { return };
        if let Err(error) = tell(&app, store, tracking_id).await {
            stuck.fetch_add(1, Ordering::Relaxed);
            trace::fail(&Span::current(), "a callback could not be recorded");
            warn!(order.tracking_id = %tracking_id, %error, "a callback could not be recorded; the sweeper looks again");
        }
    };
    tokio::spawn(told.instrument(span));
}

/// One try: read, decide, write, send, write. The write before it sends is refused if another process tries, or if the order is put back on
/// its way: what is sent is the end that the latest record tells of.
async fn tell(app: &App, store: &StatusStore, tracking_id: TrackingId) -> Result<(), StoreError> {
    let Some(found) = store.read_latest(tracking_id).await? else { return Ok(()) };
    if !callback::is_due(&found.record, store.now()) {
        return Ok(());
    }
    if let Some(origin) = &found.record.metadata.traceparent {
        trace::link(&Span::current(), origin);
    }
    let target = app.callbacks.target(&found.record);
    let _place = match &target {
        Ok((_, url)) => tokio::select! {
            place = app.callbacks.receivers.place(url.host_str().unwrap_or_default()) => match place {
                Some(place) => Some(place),
                None => return put_off(store, &found).await,
            },
            // The callback stays pending, and the next process sends it.
            () = app.stopping.wait() => return Ok(()),
        },
        Err(_) => None,
    };
    let (decided, decided_at) = (Instant::now(), SystemTime::now());
    let tried = match callback::begin(&found.record, store.now()) {
        Next::Nothing => return Ok(()),
        Next::GiveUp(record) => {
            if store.replace(&record, &found.etag).await? != Replaced::Stale {
                log(&record, CallbackResult::Failed);
            }
            return Ok(());
        }
        Next::Try(record) => record,
    };
    failpoint!("before-callback");
    let Replaced::Replaced(etag) = store.replace(&tried, &found.etag).await? else { return Ok(()) };
    // The store answered late, or this machine slept: the next try may have begun.
    if decided.elapsed().max(decided_at.elapsed().unwrap_or_default()) > BEGIN {
        return Ok(());
    }
    failpoint!("callback-recorded");
    let told = match (target, Body::of(&tried)) {
        (Ok((sender, url)), Some(body)) => sender.send(&url, &callback::id(&tried), store.now(), body).await,
        (Err(code), _) => Told::Failed(code.into(), None),
        (Ok(_), None) => return Ok(()),
    };
    failpoint!("after-callback");
    settle(store, Versioned { record: tried.clone(), etag }, &tried, &told).await
}

/// The receiver is busy: the callback is looked at again later.
async fn put_off(store: &StatusStore, found: &Versioned) -> Result<(), StoreError> {
    if let Some(record) = callback::put_off(&found.record, backoff::share(), store.now())
        && store.replace(&record, &found.etag).await? != Replaced::Stale
    {
        log(&record, CallbackResult::PutOff);
    }
    Ok(())
}

/// Writes what a try came to, to the latest version of the record.
async fn settle(store: &StatusStore, mut found: Versioned, tried: &Record, told: &Told) -> Result<(), StoreError> {
    let jitter = backoff::share();
    loop {
        let Some(record) = callback::finish(&found.record, tried, told, jitter, store.now()) else { return Ok(()) };
        if functions::retry_store(WRITE, || store.replace(&record, &found.etag)).await? != Replaced::Stale {
            log(&record, CallbackResult::Failed);
            return Ok(());
        }
        let latest = functions::retry_store(WRITE, || store.read_latest(record.tracking_id)).await?;
        let Some(latest) = latest else { return Ok(()) };
        found = latest;
    }
}

/// The state of a callback, in the log and the metrics, where one that is pending has this result: no URL, which may have a secret in it, and
/// nothing that the receiver answered but the status.
fn log(record: &Record, pending: CallbackResult) {
    let Some(notice) = record.notice() else { return };
    METRICS.callbacks.count(match notice.state {
        NoticeState::Delivered => CallbackResult::Delivered,
        NoticeState::Pending => pending,
        NoticeState::GivenUp => CallbackResult::GivenUp,
    });
    let (id, attempts, code) = (callback::id(record), notice.attempts, notice.code.as_deref());
    match notice.state {
        NoticeState::Delivered => {
            info!(order.tracking_id = %record.tracking_id, callback.id = id, callback.attempts = attempts, "callback delivered");
        }
        NoticeState::Pending => {
            warn!(order.tracking_id = %record.tracking_id, callback.id = id, callback.attempts = attempts, error.code = code, callback.next_at = record.due_at.map(tracing::field::display), "callback not delivered; it is tried again");
        }
        NoticeState::GivenUp => {
            warn!(order.tracking_id = %record.tracking_id, callback.id = id, callback.attempts = attempts, error.code = code, "callback given up; waybill callback retry sends it again");
        }
    }
}

/// The body of a callback, by Standard Webhooks.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    /// When the order ended.
    timestamp: Timestamp,
    data: OrderStatus<'a>,
}

impl Body<'_> {
    /// The text of the body; `None` for an order that has not ended.
    fn of(record: &Record) -> Option<String> {
        let kind = callback::kind(record.status)?;
        let ended = record.completed_at.unwrap_or(record.updated_at);
        serde_json::to_string(&Body { kind, timestamp: Timestamp::from(ended), data: OrderStatus::from(record) }).ok()
    }
}
