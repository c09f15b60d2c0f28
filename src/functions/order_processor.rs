//! `OrderProcessor`: a message arrives, its order is claimed, worked on and ended; every other copy changes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serving::failpoint;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tracing::{error, warn};
use uuid::Uuid;

use crate::domain::lifecycle::{self, Claim, Claimant, Failure, Fenced, Record, Retried, Verdict};
use crate::domain::message::{self, Message};
use crate::domain::timestamp::Timestamp;
use crate::envelope::{self, Answer};
use crate::fulfillment::{Outcome, Permit};
use crate::functions::app::App;
use crate::functions::invocation::Invocation;
use crate::functions::reply::{Conclusion, Refusal};
use crate::functions::waits;
use crate::functions::{self};
use crate::outbound::backoff;
use crate::outbound::service_bus::Queue;
use crate::process;
use crate::store::{Replaced, StatusStore, StoreError, Versioned};

/// First and longest pause between two looks at an order that somebody else holds: he may end at any time, or vanish.
const LOOK_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Takes a message, claims its order, does the work, ends it.
pub async fn run(app: Arc<App>, invocation: Invocation) -> Conclusion {
    let read = |body| envelope::queue_message(body).map_err(|error| Refusal::unreadable(&error));
    let queue_message = match invocation.body.whole().and_then(|body| read(body)) {
        Ok(queue_message) => queue_message,
        Err(refusal) => return Conclusion::new(Err(refusal)),
    };
    let message = match message::read(&queue_message.text) {
        Ok(message) => message,
        Err(error) => {
            let conclusion = Conclusion::new(Err(Refusal::abandon(error.to_string())));
            return Conclusion { delivery_count: queue_message.delivery_count, ..conclusion };
        }
    };
    let is_first = queue_message.delivery_count.is_none_or(|deliveries| deliveries <= 1);
    let answer = process(&app, &invocation.id, &message, is_first).await.map(|()| Answer::done());
    failpoint!("before-settle" if answer.is_ok());
    Conclusion { answer, tracking_id: Some(message.tracking_id), delivery_count: queue_message.delivery_count }
}

/// `Ok`: the message may be completed. `Err`: it must be delivered again.
async fn process(app: &Arc<App>, invocation: &str, message: &Message, is_first_delivery: bool) -> Result<(), Refusal> {
    let began = Instant::now();
    let store = tokio::time::timeout(app.config.store_wait, app.store.wait()).await.map_err(|_| away(&StoreError::NotApplied))?;
    let mut patience = Patience { until: began + app.config.claim_wait, pause: LOOK_PAUSE.0 };
    let mut refusals = 0;
    let (mut unwritten, mut wished) = (None, Vec::new());
    let last = began + app.config.working_time();
    loop {
        let Some(left) = last.checked_duration_since(Instant::now()) else { return Err(too_late()) };
        let wait = app.config.store_wait.min(left);
        let found = if refusals == 0 {
            functions::hold(wait, || store.read(message.tracking_id)).await
        } else {
            // Others write too; nobody wins by asking without a pause.
            tokio::time::sleep(LOOK_PAUSE.0 * refusals.min(10)).await;
            functions::hold(wait, || store.read_latest(message.tracking_id)).await
        };
        let found = found
            .map_err(|error| away(&error))?
            .ok_or_else(|| Refusal::abandon("no order has this tracking id: it has expired, or its records are elsewhere"))?;
        let look = Look { app, store, found: &found, is_first_delivery, last };
        let claim = look.decide(invocation, message.life);
        // By an old version a message must not be completed that a newer one waits for.
        let unsure = match &claim {
            Claim::NothingToDo => found.record.life != message.life,
            Claim::Wait(_, wake) => app.queue.is_some() && wake.is_none(),
            Claim::GiveUp(_) | Claim::Take(_) => false,
        };
        if unsure && refusals == 0 && store.may_lag() {
            refusals = 1;
            continue;
        }
        let ended = match claim {
            Claim::NothingToDo => Tried::Done,
            Claim::Wait(moment, wake) => look.step_aside(&mut patience, moment, wake, &mut wished).await?,
            Claim::GiveUp(record) => look.end(record).await?,
            Claim::Take(record) => match (app.fulfillment.at_once(&record.order), app.fulfillment.admit()) {
                (Some(outcome), _) => look.take_at_once(record, outcome).await?,
                (None, Ok(permit)) => look.take(record, permit).await?,
                (None, Err(pause)) => look.wait_for_backend(&mut patience, pause, &mut wished).await?,
            },
        };
        match ended {
            Tried::Done => return Ok(()),
            Tried::LookAgain => (refusals, unwritten) = (0, None),
            Tried::WaitsUntil(moment) => {
                patience.wait_whole(store.now().until(moment)).await?;
                (refusals, unwritten) = (0, None);
            }
            Tried::Refused => refusals += 1,
            Tried::Unwritten(error) => {
                if unwritten.get_or_insert_with(Instant::now).elapsed() > app.config.store_wait {
                    return Err(away(&error));
                }
                warn!(order.tracking_id = %message.tracking_id, %error, "the store does not answer; deciding again");
                refusals += 1;
            }
        }
    }
}

fn too_late() -> Refusal {
    Refusal::abandon("too little is left of functionTimeout; its message is to come back")
}

fn away(error: &StoreError) -> Refusal {
    Refusal::abandon(error.to_string())
}

/// What came of one look at an order.
enum Tried {
    /// The message may be completed.
    Done,
    /// No message will come for it; this one looks again.
    LookAgain,
    /// Its next try is due then, and no message will come for it.
    WaitsUntil(Timestamp),
    /// Somebody else wrote in between.
    Refused,
    /// The store did not answer. What was decided is old by the time it does: a lease granted then may have run out.
    Unwritten(StoreError),
}

/// Unpacks a write that was done; otherwise ends the look with what came of it.
macro_rules! written {
    ($replaced:expr) => {
        match $replaced {
            Ok(Replaced::Replaced(etag)) => etag,
            Ok(Replaced::Stale) => return Ok(Tried::Refused),
            Err(error) => return Ok(Tried::Unwritten(error)),
        }
    };
}

/// An order as it was found, and what can be done about it.
struct Look<'a> {
    app: &'a Arc<App>,
    store: &'a StatusStore,
    found: &'a Versioned,
    is_first_delivery: bool,
    /// By then the work of this invocation must have ended.
    last: Instant,
}

impl Look<'_> {
    fn decide(&self, invocation: &str, life: Uuid) -> Claim {
        let holder = self.found.record.lease.as_ref().map(|lease| &lease.holder);
        let claimant = Claimant {
            life,
            holder: &self.app.holder,
            invocation,
            now: self.store.now(),
            holder_gone: holder.is_some_and(|holder| process::is_gone(holder, &self.app.holder)),
        };
        lifecycle::claim(&self.found.record, &claimant, &self.app.config.budgets)
    }

    async fn replace(&self, record: &Record) -> Result<Replaced, StoreError> {
        self.store.replace(record, &self.found.etag).await
    }

    /// Another worker has it, or its next try is not due: a copy of the message is scheduled for then, if none is yet, and this
    /// one is done with. Where nothing can be scheduled, this one waits. `wished`: each `wakeAt` of a write of ours whose answer was
    /// lost; no copy was scheduled for it.
    async fn step_aside(
        &self,
        patience: &mut Patience,
        moment: Timestamp,
        wake: Option<Record>,
        wished: &mut Vec<Timestamp>,
    ) -> Result<Tried, Refusal> {
        if let Some(queue) = &self.app.queue {
            let own = match wake {
                Some(record) => {
                    let replaced = self.replace(&record).await;
                    // It may be written yet.
                    wished.extend(record.wake_at.filter(|_| replaced.is_err()));
                    Versioned { etag: written!(replaced), record }
                }
                None if self.found.record.wake_at.is_some_and(|wake_at| wished.contains(&wake_at)) => self.found.clone(),
                None => return Ok(Tried::Done),
            };
            wished.clear();
            if schedule(self.store, queue, &own).await {
                return Ok(Tried::Done);
            }
            return Ok(Tried::WaitsUntil(moment));
        }
        patience.wait(self.store.now().until(moment)).await?;
        Ok(Tried::LookAgain)
    }

    /// The backend is known to be away: waiting for it is no try.
    async fn wait_for_backend(&self, patience: &mut Patience, pause: Duration, wished: &mut Vec<Timestamp>) -> Result<Tried, Refusal> {
        let now = self.store.now();
        let moment = now.after(pause);
        let wake = lifecycle::wake(&self.found.record, moment, now, &self.app.config.budgets);
        self.step_aside(patience, moment, wake, wished).await
    }

    async fn end(&self, record: Record) -> Result<Tried, Refusal> {
        written!(self.replace(&record).await);
        functions::log_transition(&record, functions::ended_text(&record));
        Ok(Tried::Done)
    }

    /// Pure work may join claim and end in one write: nothing outside can have happened if it is lost.
    async fn take_at_once(&self, record: Record, outcome: Outcome) -> Result<Tried, Refusal> {
        let Ok(ended) = lifecycle::finish(&record, record.token(), verdict(outcome), self.store.now(), &self.app.config.budgets) else {
            return Err(Refusal::abandon("a claim does not own its order: this is a bug"));
        };
        written!(self.replace(&ended).await);
        self.claimed(&record);
        self.app.durations.observe_end(&ended);
        functions::log_transition(&record, "order claimed");
        functions::log_transition(&ended, functions::ended_text(&ended));
        Ok(Tried::Done)
    }

    /// A claim was recorded: how long its order waited says how long the queue is.
    fn claimed(&self, record: &Record) {
        if let Some(wait) = waits::first_wait(&self.found.record, record, self.is_first_delivery) {
            self.app.waits.observe(wait);
            self.app.admission.observe_claim(wait);
        }
    }

    async fn take(&self, record: Record, permit: Permit) -> Result<Tried, Refusal> {
        // Whoever is still at it at `functionTimeout` takes the whole handler along. The message comes back at once, with all of its
        // time.
        if Instant::now() + self.app.config.longest_try() > self.last {
            return Err(too_late());
        }
        failpoint!("before-claim");
        let (decided, decided_at) = (Instant::now(), SystemTime::now());
        let etag = written!(self.replace(&record).await);
        // By an answer that came so late, or to a machine that slept, the lease may have run out, and another may have ended the
        // order since: nobody is called before the claim was renewed.
        if decided.elapsed().max(decided_at.elapsed().unwrap_or_default()) > self.app.config.budgets.lease / 2 {
            return Ok(Tried::Unwritten(StoreError::Unknown));
        }
        failpoint!("after-claim");
        self.claimed(&record);
        functions::log_transition(&record, "order claimed");
        work(self.app, self.store, Versioned { record, etag }, permit, self.last).await
    }
}

/// How long an invocation waits for an order, where it cannot be woken by a message.
struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    /// Waits a little, with growing pauses; never past `left` by more than a look.
    async fn wait(&mut self, left: Duration) -> Result<(), Refusal> {
        let pause = self.pause;
        self.pause = (self.pause * 2).min(LOOK_PAUSE.1);
        self.wait_whole(pause.min(left + LOOK_PAUSE.0)).await
    }

    /// Waits as long as there is patience: a message that is abandoned comes back at once, and has so many deliveries only.
    async fn wait_whole(&self, left: Duration) -> Result<(), Refusal> {
        let patience = self.until.saturating_duration_since(Instant::now());
        tokio::time::sleep(left.min(patience)).await;
        if left > patience {
            return Err(Refusal::abandon("this order still waits, for another worker or its next try; its message is to come back later"));
        }
        Ok(())
    }
}

/// Sends a copy of an order's message for its `wakeAt`. `false`: it did not leave, or nobody knows; then the record says so, since
/// whoever looks next would rely on it.
async fn schedule(store: &StatusStore, queue: &Queue, own: &Versioned) -> bool {
    let Versioned { record, etag } = own;
    let Some(moment) = record.wake_at else { return false };
    let Err(error) = queue.send_at(&message::write(record), moment).await else {
        failpoint!("after-schedule");
        return true;
    };
    warn!(order.tracking_id = %record.tracking_id, %error, "a message could not be scheduled; waiting with this one");
    // Refused: somebody else has the order, and what he wrote counts.
    if let Err(error) = store.replace(&lifecycle::not_scheduled(record), etag).await {
        warn!(order.tracking_id = %record.tracking_id, %error, "nor could that be recorded; the sweeper sends it");
    }
    false
}

fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Completed(result) => Verdict::Completed(result),
        Outcome::Refused(failure) => Verdict::Refused(failure),
        Outcome::Failed(failure) | Outcome::Again(failure, _) => Verdict::Failed(failure),
        Outcome::BrokenOff => Verdict::Cancelled,
    }
}

/// Does the work of an order that is ours. This one task owns all its writes: progress, renewal, end. The last one is not
/// begun anew after `last`.
async fn work(app: &Arc<App>, store: &StatusStore, mut own: Versioned, permit: Permit, last: Instant) -> Result<Tried, Refusal> {
    let token = own.record.token();
    let (sender, mut steps) = mpsc::channel(1);
    let (claimed, worker) = (own.record.clone(), Arc::clone(app));
    // A task of its own, so that a panic in the work ends in a verdict.
    let mut task = tokio::spawn(async move { worker.fulfillment.run(permit, &claimed, sender).await });
    let mut renewal = tokio::time::interval(app.config.lease_renewal);
    renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    renewal.reset();
    // Progress rides on a renewal where writes are paid for.
    let pause = store.progress_pause(app.config.lease_renewal);
    let (mut progress, mut stage, mut written) = (0, None, Instant::now());
    let outcome = loop {
        tokio::select! {
            biased;
            Some(step) = steps.recv() => {
                (progress, stage) = (step.progress, Some(step.stage));
                if written.elapsed() < pause {
                    continue;
                }
            }
            _ = renewal.tick() => {}
            outcome = &mut task => break outcome.unwrap_or_else(|error| {
                error!(order.tracking_id = %own.record.tracking_id, %error, "the work broke down");
                Outcome::Failed(Failure::new("internal_error", "the order could not be processed"))
            }),
        };
        let change = |found: &Record| lifecycle::advance(found, token, progress, stage.as_deref(), store.now(), &app.config.budgets);
        match write(store, &mut own, change).await {
            Ok(Ok(())) => {
                failpoint!("after-renewal");
                renewal.reset();
                written = Instant::now();
                if own.record.cancel_requested && app.fulfillment.can_break_off() {
                    task.abort();
                    break Outcome::BrokenOff;
                }
            }
            Ok(Err(fenced)) => {
                task.abort();
                lost(&own.record, fenced);
                return Ok(Tried::Done);
            }
            // Progress is worth no failure; the lease runs on, and the next renewal asks again.
            Err(error) => warn!(order.tracking_id = %own.record.tracking_id, %error, "progress could not be recorded"),
        }
    };
    failpoint!("mid-work");
    // The same for every repetition of the write.
    let jitter = backoff::share();
    let until = last.min(Instant::now() + app.config.store_wait);
    loop {
        let (now, budgets) = (store.now(), &app.config.budgets);
        let change = |found: &Record| match &outcome {
            Outcome::Again(failure, after) => {
                lifecycle::retry(found, token, failure.clone(), *after, jitter, now, budgets).map(|retried| match retried {
                    Retried::Waits(record, _) | Retried::Ended(record) => record,
                })
            }
            outcome => lifecycle::finish(found, token, verdict(outcome.clone()), now, budgets),
        };
        failpoint!("before-finish" if !matches!(outcome, Outcome::Again(..)));
        failpoint!("before-retry-record" if matches!(outcome, Outcome::Again(..)));
        match write(store, &mut own, change).await {
            Ok(Ok(())) => break,
            Ok(Err(fenced)) => {
                lost(&own.record, fenced);
                return Ok(Tried::Done);
            }
            Err(error) if Instant::now() >= until || matches!(error, StoreError::Unreadable(_)) => return Err(away(&error)),
            Err(error) => {
                warn!(order.tracking_id = %own.record.tracking_id, %error, "the end of a try could not be recorded; trying again");
                tokio::time::sleep(LOOK_PAUSE.1).await;
            }
        }
    }
    let record = &own.record;
    let Some(retry_at) = record.retry_at else {
        failpoint!("after-finish");
        app.durations.observe_end(record);
        functions::log_transition(record, functions::ended_text(record));
        return Ok(Tried::Done);
    };
    failpoint!("after-retry-record");
    functions::log_transition(record, "order waits for its next try");
    match &app.queue {
        Some(queue) if schedule(store, queue, &own).await => Ok(Tried::Done),
        _ => Ok(Tried::WaitsUntil(retry_at)),
    }
}

/// Writes a change; a refused writer reads again and applies the same change to the new version, if the order is still his.
async fn write(
    store: &StatusStore,
    own: &mut Versioned,
    change: impl Fn(&Record) -> Result<Record, Fenced>,
) -> Result<Result<(), Fenced>, StoreError> {
    loop {
        let record = match change(&own.record) {
            Ok(record) => record,
            Err(fenced) => return Ok(Err(fenced)),
        };
        match store.replace(&record, &own.etag).await? {
            Replaced::Replaced(etag) => {
                *own = Versioned { record, etag };
                return Ok(Ok(()));
            }
            Replaced::Stale => match store.read_latest(own.record.tracking_id).await? {
                Some(found) => *own = found,
                None => return Err(StoreError::Unreadable("it is gone".into())),
            },
        }
    }
}

fn lost(record: &Record, fenced: Fenced) {
    if fenced == Fenced::Superseded {
        warn!(order.tracking_id = %record.tracking_id, order.fence = record.fence, "another worker took this order; stopping without a trace");
    }
}
