//! `OrderSweeper`: finds overdue orders, moves their `dueAt` ahead, and only then sends their messages again.
//!
//! A run takes page after page until nothing is overdue, its time is up, or the workers do not keep up. A message leaves through the
//! handler's own client of the queue as soon as its record is written. Without that client the messages leave with the answer, which
//! holds no more than the host can send in time.

use std::collections::HashSet;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use serving::failpoint;
use serving::trace::{self, SPANS};
use tracing::{Instrument, Span, info, info_span, warn};

use crate::domain::lifecycle::{self, Sweep};
use crate::domain::message;
use crate::domain::record::{Record, Status};
use crate::domain::timestamp::Timestamp;
use crate::domain::tracking::TrackingId;
use crate::envelope::Answer;
use crate::functions::app::App;
use crate::functions::invocation::Invocation;
use crate::functions::reply::{Conclusion, Refusal};
use crate::functions::{self, told};
use crate::metrics::{self, METRICS};
use crate::outbound::backoff::Backoff;
use crate::outbound::service_bus::Queue;
use crate::store::{Due, Replaced, StatusStore, StoreError};

/// Overdue orders found at once, earliest `dueAt` first.
const PAGE: u32 = 500;
/// Orders decided concurrently.
const AT_ONCE: usize = 16;
/// Divisor of an invocation's working time: a run begins no page after that share. In the rest the host sends what is in the answer.
const SHARE: u32 = 3;
/// Time after which a run begins no page, however long an invocation may take: an alert tells when no run has ended for half an hour.
const LONGEST: Duration = Duration::from_mins(4);
/// Bytes of messages in an answer.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// Time that the host needs for one message of an answer: it sends them one after the other.
const HOST_SENDS: Duration = Duration::from_millis(10);
/// Failed reads or writes that end a run: the store has a problem, and the next run tries again.
const MAX_FAILURES: usize = 10;
/// Records that cannot be read and that a run names: after a rollback there may be thousands, at every run.
const NAMED: usize = 10;
/// Orders of a page that are looked at to see whether the workers keep up.
const SAMPLE: usize = 8;
/// Longest wait for the workers after a page.
const WORKERS_WAIT: Duration = Duration::from_secs(30);
/// Pauses between two looks at the sample.
const LOOK_PAUSE: Backoff = Backoff { first: Duration::from_millis(50), longest: Duration::from_secs(2) };

/// Finds overdue orders, decides, records, sends their messages or answers with them.
pub async fn run(app: Arc<App>, invocation: Invocation) -> Conclusion {
    if let Err(refusal) = invocation.body.whole() {
        return Conclusion::new(Err(refusal));
    }
    let Ok(store) = tokio::time::timeout(app.config.time_budget.store_wait, app.store.wait()).await else {
        return Conclusion::new(Err(Refusal::abandon("the store does not answer; the next run tries again")));
    };
    app.callbacks.look_for_due();
    match sweep(&app, store, invocation.started).await {
        Ok(messages) => Conclusion::new(Ok(Answer::emit(messages))),
        Err(error) => Conclusion::new(Err(Refusal::abandon(format!("{error}; the next run tries again")))),
    }
}

/// Sweeps page after page; returns the messages that the host is to send.
async fn sweep(app: &App, store: &StatusStore, started: Instant) -> Result<Vec<String>, StoreError> {
    let mut run = Run::begin(app, store, started);
    loop {
        let (due, is_full) = match run.overdue().await {
            Ok(found) => found,
            // What is recorded must leave.
            Err(error) if run.sent > 0 => {
                warn!(%error, "the overdue orders could not be read; the next run tries again");
                break;
            }
            Err(error) => return Err(error),
        };
        // A page of nothing new would be followed by the same one.
        if due.is_empty() {
            break;
        }
        let waiting = run.sweep_page(due).await;
        if !is_full || run.is_over() || !run.workers_keep_up(&waiting).await {
            break;
        }
    }
    run.shared.oldest.tell(store.now());
    if run.unreadable > NAMED {
        let number = run.unreadable;
        warn!(sweeper.unreadable = number, "records of overdue orders cannot be read, and were passed over; waybill verify names them all");
    }
    failpoint!("mid-sweep-before-answer" if run.sent > 0);
    if run.sent > 0 {
        info!(sweeper.messages = run.sent, sweeper.seconds = started.elapsed().as_secs(), "messages of overdue orders are sent again");
    }
    Ok(run.messages)
}

/// One run, and how far it has come.
struct Run<'a> {
    app: &'a App,
    store: &'a StatusStore,
    /// No page begins after this moment.
    until: Instant,
    /// Most messages in the answer.
    most: usize,
    shared: Shared,
    /// Messages that are sent, or are to be sent with the answer.
    sent: usize,
    /// Messages for the answer.
    messages: Vec<String>,
    bytes: usize,
    /// Orders that this run has looked at. A page that lags behind their records may name them again.
    looked_at: HashSet<TrackingId>,
    /// Number of those that stay overdue, since they could not be read or written: they come first in every later page.
    stuck: u32,
    failures: usize,
    /// Number of records that could not be read.
    unreadable: usize,
    /// Whether no page has been asked for yet.
    is_first: bool,
}

/// The state that the orders of a run share.
#[derive(Default)]
struct Shared {
    /// Whether the client of the queue has failed in this run: the host sends the other messages.
    client_failed: AtomicBool,
    oldest: Oldest,
}

/// The result of a look at an overdue order.
enum Swept {
    /// It is no longer overdue: by this run, or by another process meanwhile.
    Moved,
    /// Its message is sent again.
    Sent(Status),
    /// Its message is to be sent with the answer.
    ToBeSent(String),
}

impl<'a> Run<'a> {
    fn begin(app: &'a App, store: &'a StatusStore, started: Instant) -> Self {
        let working_time = app.config.time_budget.working_time;
        let share = (working_time / SHARE).min(LONGEST);
        let most = working_time.saturating_sub(share).as_millis() / HOST_SENDS.as_millis();
        Self {
            app,
            store,
            until: started + share,
            most: usize::try_from(most).unwrap_or(usize::MAX).max(1),
            shared: Shared::default(),
            sent: 0,
            messages: Vec::new(),
            bytes: 0,
            looked_at: HashSet::new(),
            stuck: 0,
            failures: 0,
            unreadable: 0,
            is_first: true,
        }
    }

    /// The next page, and whether there may be another. Before a full first page come orders in processing: a long queue of accepted
    /// orders must not hide orders whose worker is gone.
    async fn overdue(&mut self) -> Result<(Vec<TrackingId>, bool), StoreError> {
        let is_first = std::mem::take(&mut self.is_first);
        let mut due = self.store.overdue(PAGE, self.stuck, Due::Open).await?;
        let is_full = due.len() >= PAGE as usize;
        if is_full && is_first {
            let processing = self.store.overdue(PAGE, 0, Due::Processing).await?;
            let known: HashSet<_> = processing.iter().copied().collect();
            due.retain(|tracking_id| !known.contains(tracking_id));
            due.splice(0..0, processing);
        }
        due.retain(|tracking_id| !self.looked_at.contains(tracking_id));
        self.looked_at.extend(&due);
        Ok((due, is_full))
    }

    /// Sweeps the orders of a page; returns the accepted ones among those whose message has left. Orders whose sweep has begun are
    /// always finished: once an order's `dueAt` has moved, its message must be sent.
    async fn sweep_page(&mut self, due: Vec<TrackingId>) -> Vec<TrackingId> {
        let mut waiting = Vec::new();
        let enough = AtomicBool::new(false);
        let (app, store, shared) = (self.app, self.store, &self.shared);
        let mut sweeps = stream::iter(due)
            .take_while(|_| ready(!enough.load(Ordering::Relaxed)))
            .map(|tracking_id| {
                let span = info_span!(target: SPANS, "sweep order", waybill.order.tracking_id = %tracking_id);
                async move { (tracking_id, sweep_order(app, store, shared, tracking_id).await) }.instrument(span)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((tracking_id, swept)) = sweeps.next().await {
            match swept {
                Ok(Swept::Moved) => {}
                Ok(Swept::Sent(status)) => {
                    self.sent += 1;
                    waiting.extend((status == Status::Accepted).then_some(tracking_id));
                }
                Ok(Swept::ToBeSent(message)) => {
                    self.sent += 1;
                    self.bytes += message.len();
                    self.messages.push(message);
                }
                // An order that could not be written stays due.
                Err(error) => {
                    self.unreadable += usize::from(error.is_answer());
                    if !error.is_answer() || self.unreadable <= NAMED {
                        warn!(order.tracking_id = %tracking_id, %error, "an overdue order could not be swept; the next run tries again");
                    }
                    METRICS.swept.count(metrics::Swept::Failed);
                    self.stuck += 1;
                    self.failures += usize::from(!error.is_answer());
                }
            }
            enough.fetch_or(self.is_over(), Ordering::Relaxed);
        }
        waiting
    }

    fn is_over(&self) -> bool {
        let is_late = Instant::now() >= self.until || self.app.stopping.get().is_some();
        is_late || self.failures >= MAX_FAILURES || self.messages.len() >= self.most || self.bytes >= ANSWER_BYTES
    }

    /// Waits until half of a page has reached the workers. Only then does the next page follow: messages that wait in the queue anyway
    /// would only make the queue longer. `false`: the workers are slow, or there are none, and the next run goes on.
    async fn workers_keep_up(&self, waiting: &[TrackingId]) -> bool {
        let until = self.until.min(Instant::now() + WORKERS_WAIT);
        let mut sample: Vec<_> = waiting.iter().step_by(waiting.len().div_ceil(SAMPLE).max(1)).copied().collect();
        let enough = sample.len() / 2;
        for look in 0.. {
            let mut open = Vec::new();
            for tracking_id in sample {
                match self.store.read(tracking_id).await {
                    Ok(Some(found)) if !has_reached_a_worker(&found.record) => open.push(tracking_id),
                    // A store that does not answer says nothing of the workers.
                    Err(error) if !error.is_answer() => return true,
                    Ok(_) | Err(_) => {}
                }
            }
            if open.len() <= enough {
                return true;
            }
            if Instant::now() >= until || self.is_over() {
                break;
            }
            tokio::time::sleep(LOOK_PAUSE.pause(look)).await;
            sample = open;
        }
        info!("the workers do not keep up with the messages that are sent again; the next run goes on");
        false
    }
}

/// Whether a delivery has claimed an order that was accepted, ended it or put it off.
fn has_reached_a_worker(record: &Record) -> bool {
    record.status != Status::Accepted || record.wake_at.is_some()
}

/// Decides and records about one order, and sends its message if that is due.
async fn sweep_order(app: &App, store: &StatusStore, shared: &Shared, tracking_id: TrackingId) -> Result<Swept, StoreError> {
    let moved = || {
        METRICS.swept.count(metrics::Swept::Nothing);
        Ok(Swept::Moved)
    };
    let Some(found) = store.read_latest(tracking_id).await? else { return moved() };
    shared.oldest.look(&found.record);
    if let Some(origin) = &found.record.metadata.traceparent {
        trace::link(&Span::current(), origin);
    }
    let decision = lifecycle::sweep(&found.record, app.queue_wait.usual(), store.now(), &app.config.budgets);
    let (record, emits) = match decision {
        Sweep::Nothing => return moved(),
        Sweep::Postpone(record) | Sweep::GiveUp(record) => (record, false),
        Sweep::Emit(record) => (record, true),
    };
    // Stale: another sweeper or a worker changed the order meanwhile, and takes care of it.
    let Replaced::Replaced(_) = store.replace(&record, &found.etag).await? else { return moved() };
    failpoint!("mid-sweep-after-record" if emits);
    told::interruption(&found.record, &record);
    if record.status.is_terminal() {
        METRICS.swept.count(metrics::Swept::Ended);
        functions::ended(app, &record);
        return Ok(Swept::Moved);
    }
    if !emits {
        METRICS.swept.count(metrics::Swept::Postponed);
        return Ok(Swept::Moved);
    }
    METRICS.swept.count(metrics::Swept::SentAgain);
    info!(order.tracking_id = %tracking_id, order.status = record.status.as_str(), order.emissions = record.emissions, "order overdue: its message is sent again");
    told::sent_again(&record, "overdue");
    let message = message::write(&record);
    let Some(queue) = app.queue.as_ref().filter(|_| !shared.client_failed.load(Ordering::Relaxed)) else {
        return Ok(Swept::ToBeSent(message));
    };
    Ok(send(queue, &shared.client_failed, &record, message).await)
}

/// Sends a message; the host sends it if that fails. A copy too many changes nothing.
async fn send(queue: &Queue, client_failed: &AtomicBool, record: &Record, message: String) -> Swept {
    match queue.send(&message).await {
        Ok(()) => Swept::Sent(record.status),
        Err(error) => {
            if !client_failed.swap(true, Ordering::Relaxed) {
                warn!(order.tracking_id = %record.tracking_id, %error, "a message could not be sent; it leaves with the answer of this run");
            }
            Swept::ToBeSent(message)
        }
    }
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
        let age = oldest.until(now).as_secs_f64();
        METRICS.oldest_overdue.set((), age);
        info!(order.oldest_age_s = age, "oldest overdue order");
    }
}
