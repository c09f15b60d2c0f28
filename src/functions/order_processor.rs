//! `OrderProcessor`: a message arrives, its order is claimed, worked on and ended; every other copy changes nothing.
//!
//! One delivery of a message looks at its order, again and again, until the message may be completed or must come back:
//! `claim` decides whether this delivery may work on the order, `work` does the work and records its end, and `wake_up` hands
//! the order over to a later copy of the message.

mod claim;
mod wake_up;
mod work;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serving::failpoint;
use serving::trace::SPANS;
use tracing::{Instrument, info_span, warn};

use crate::domain::message::Message;
use crate::domain::record::Record;
use crate::domain::timestamp::Timestamp;
use crate::envelope::{self, Answer};
use crate::functions;
use crate::functions::adoption;
use crate::functions::app::App;
use crate::functions::invocation::Invocation;
use crate::functions::order_processor::claim::ClaimAttempt;
use crate::functions::order_processor::work::ClaimedOrder;
use crate::functions::reply::{Conclusion, Refusal};
use crate::outbound::backoff::Backoff;
use crate::store::{Etag, Replaced, StatusStore, StoreError, Versioned};

/// Pauses between two looks at an order that another worker holds, since that worker may end the order at any time, or vanish; and
/// between two tries to write.
const LOOK_PAUSE: Backoff = Backoff { first: Duration::from_millis(20), longest: Duration::from_millis(500) };
/// Stale looks in a row after which the pause before the next look grows no more.
const LONGEST_STALE_PAUSE: u32 = 10;

/// Takes a message, claims its order, does the work, ends it.
pub async fn run(app: Arc<App>, invocation: Invocation) -> Conclusion {
    let read = |body| envelope::queue_message(body).map_err(|error| Refusal::unreadable(&error));
    let queue_message = match invocation.body.whole().and_then(|body| read(body)) {
        Ok(queue_message) => queue_message,
        Err(refusal) => return Conclusion::new(Err(refusal)),
    };
    let delivery_count = queue_message.delivery_count;
    let (message, store) = match read_message(&app, &queue_message.text).await {
        Ok(found) => found,
        Err(refusal) => return Conclusion { delivery_count, ..Conclusion::new(Err(refusal)) },
    };
    let is_first = delivery_count.is_none_or(|deliveries| deliveries <= 1);
    let answer = process(Delivery::begin(&app, store, &invocation, &message, is_first)).await.map(|()| Answer::done());
    failpoint!("before-settle" if answer.is_ok());
    Conclusion { answer, tracking_id: Some(message.tracking_id), delivery_count }
}

/// The message, and the store once it is open.
async fn read_message<'a>(app: &'a App, text: &str) -> Result<(Message, &'a StatusStore), Refusal> {
    let wait = app.config.time_budget.store_wait;
    let store = tokio::time::timeout(wait, app.store.wait()).await.map_err(|_| store_is_away(&StoreError::NotApplied))?;
    let read = adoption::read(app, store, wait, text).await.map_err(|error| store_is_away(&error))?;
    read.map(|message| (message, store)).map_err(|unreadable| Refusal::abandon(unreadable.to_string()))
}

/// Tries until the message may be completed (`Ok`) or must be delivered again (`Err`).
async fn process(mut delivery: Delivery<'_>) -> Result<(), Refusal> {
    loop {
        match attempt(&mut delivery).await {
            Ok(()) | Err(Next::Complete) => return Ok(()),
            Err(Next::Abandon(refusal)) => return Err(refusal),
            Err(Next::LookAgain(reason)) => delivery.prepare_to_look_again(reason).await?,
        }
    }
}

/// One look at the order, and everything that follows from it while nothing comes in between.
async fn attempt(delivery: &mut Delivery<'_>) -> Result<(), Next> {
    let found = delivery.look().await?;
    let (claimed, permit) = ClaimAttempt { delivery, found: &found }.claim().instrument(info_span!(target: SPANS, "claim")).await?;
    let attempt = claimed.record.attempt;
    let mut order = ClaimedOrder::new(delivery, claimed);
    let outcome = order.work(permit).instrument(info_span!(target: SPANS, "work", waybill.order.attempt = attempt)).await?;
    order.record_end(outcome).instrument(info_span!(target: SPANS, "end")).await
}

/// What follows when an attempt stops before its last step. An `Err` only so that `?` leaves the attempt.
enum Next {
    /// Nothing is left to do for this message, which is no failure: it may be completed.
    Complete,
    /// The message must be delivered again.
    Abandon(Refusal),
    /// The order must be looked at again.
    LookAgain(Reason),
}

/// Why an order is looked at again.
enum Reason {
    /// The record was not the latest version, or may not have been.
    Stale,
    /// The store did not answer a write. The decision is made anew: by the time the store answers, a lease granted in that write may
    /// have run out.
    Unwritten(StoreError),
    /// Something may end the wait before this moment, such as the worker that holds the order, and no message will come: looked at often.
    Held(Timestamp),
    /// No worker may take the order before this moment, and no message will come for it: slept through.
    Waits(Timestamp),
}

/// One delivery of a message, and how long it may still take.
struct Delivery<'a> {
    app: &'a Arc<App>,
    store: &'a StatusStore,
    invocation: &'a str,
    message: &'a Message,
    /// Whether the message was never delivered before, as far as the host says. Only such a delivery tells how long the queue is.
    is_first: bool,
    /// The work must have ended by then: at `functionTimeout` the host ends the whole handler.
    deadline: Instant,
    /// How long the delivery waits for an order for which no message will come (`config/time_budget.rs`).
    order_wait: WaitBudget,
    /// Looks since the last wait whose record was not the latest version, or could not be replaced.
    stale_looks: u32,
    /// Since when the store has not answered a write.
    unwritten_since: Option<Instant>,
    /// `wakeAt` of each write of this delivery whose answer was lost. The write may stand, and no copy of the message was scheduled
    /// for it.
    unconfirmed_wake_ups: Vec<Timestamp>,
    /// Whether a line in the log says that this delivery puts its order off.
    told_put_off: bool,
    /// Whether the order that this delivery has claimed had waited for nothing but its turn in the queue.
    only_queued: bool,
}

impl<'a> Delivery<'a> {
    fn begin(app: &'a Arc<App>, store: &'a StatusStore, invocation: &'a Invocation, message: &'a Message, is_first: bool) -> Self {
        Self {
            app,
            store,
            invocation: &invocation.id,
            message,
            is_first,
            deadline: invocation.started + app.config.time_budget.working_time,
            order_wait: WaitBudget { until: invocation.started + app.config.time_budget.claim_wait, looks: 0 },
            stale_looks: 0,
            unwritten_since: None,
            unconfirmed_wake_ups: Vec::new(),
            told_put_off: false,
            only_queued: false,
        }
    }

    /// Reads the order. After a look at an old version, the latest one is read, with a pause: several deliveries that write at the
    /// same time would otherwise refuse each other again and again.
    async fn look(&self) -> Result<Versioned, Next> {
        let Some(left) = self.deadline.checked_duration_since(Instant::now()) else { return Err(too_late()) };
        let (store, wait, tracking_id) = (self.store, self.app.config.time_budget.store_wait.min(left), self.message.tracking_id);
        let found = if self.stale_looks == 0 {
            functions::retry_store(wait, || store.read(tracking_id)).await
        } else {
            tokio::time::sleep(LOOK_PAUSE.first * self.stale_looks.min(LONGEST_STALE_PAUSE)).await;
            functions::retry_store(wait, || store.read_latest(tracking_id)).await
        };
        let found = found.map_err(|error| match error {
            // After a rollback. The record carries its `dueAt`, so the sweeper of the newer version sends a message again.
            StoreError::Newer(_) => {
                warn!(order.tracking_id = %tracking_id, %error, "a message is completed unread: its order waits for the newer version of this program");
                Next::Complete
            }
            error => Next::Abandon(store_is_away(&error)),
        })?;
        let missing = "no order has this tracking id: it has expired, or its records are elsewhere";
        found.ok_or_else(|| Next::Abandon(Refusal::abandon(missing)))
    }

    /// Before a message is completed because of what a record says: that record may be an old version, so the latest is read once.
    fn confirm_latest(&self) -> Result<(), Next> {
        if self.stale_looks == 0 && self.store.may_lag() { Err(Next::LookAgain(Reason::Stale)) } else { Ok(()) }
    }

    /// Replaces the record that was found at `etag`, once.
    async fn replace(&self, record: &Record, etag: &Etag) -> Result<Etag, Next> {
        match self.store.replace(record, etag).await {
            Ok(Replaced::Replaced(etag)) => Ok(etag),
            Ok(Replaced::Stale) => Err(Next::LookAgain(Reason::Stale)),
            Err(error) => Err(Next::LookAgain(Reason::Unwritten(error))),
        }
    }

    /// Waits as long as the reason asks for; `Err` when its budget is spent.
    async fn prepare_to_look_again(&mut self, reason: Reason) -> Result<(), Refusal> {
        match reason {
            Reason::Stale => self.stale_looks += 1,
            Reason::Unwritten(error) => {
                if self.unwritten_since.get_or_insert_with(Instant::now).elapsed() > self.app.config.time_budget.store_wait {
                    return Err(store_is_away(&error));
                }
                warn!(order.tracking_id = %self.message.tracking_id, %error, "the store does not answer; deciding again");
                self.stale_looks += 1;
            }
            Reason::Held(until) => {
                self.order_wait.wait_a_little(self.store.now().until(until)).await?;
                (self.stale_looks, self.unwritten_since) = (0, None);
            }
            Reason::Waits(until) => {
                self.order_wait.wait(self.store.now().until(until)).await?;
                (self.stale_looks, self.unwritten_since) = (0, None);
            }
        }
        Ok(())
    }
}

/// How long a delivery may wait for its order.
struct WaitBudget {
    until: Instant,
    looks: u32,
}

impl WaitBudget {
    /// Waits a little, longer with each look; never past `left` by more than the first pause.
    async fn wait_a_little(&mut self, left: Duration) -> Result<(), Refusal> {
        let pause = LOOK_PAUSE.pause(self.looks).min(left + LOOK_PAUSE.first);
        self.looks += 1;
        self.wait(pause).await
    }

    /// Waits for `left`, or until the budget is spent. The budget is spent before the message is abandoned, since Service Bus
    /// delivers an abandoned message again at once, and dead-letters it after `maxDeliveryCount` deliveries.
    async fn wait(&self, left: Duration) -> Result<(), Refusal> {
        let budget = self.until.saturating_duration_since(Instant::now());
        tokio::time::sleep(left.min(budget)).await;
        if left > budget {
            return Err(Refusal::abandon("this order still waits, for another worker or its next try; its message is to come back later"));
        }
        Ok(())
    }
}

fn too_late() -> Next {
    Next::Abandon(Refusal::abandon("too little is left of functionTimeout; its message is to come back"))
}

fn store_is_away(error: &StoreError) -> Refusal {
    Refusal::abandon(error.to_string())
}
