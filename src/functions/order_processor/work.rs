//! The work on a claimed order, and the record of its end.

use std::sync::Arc;
use std::time::Instant;

use serving::failpoint;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tracing::{Instrument, error, warn};

use crate::domain::lifecycle::{self, Fenced, Verdict};
use crate::domain::record::{FencingToken, Record};
use crate::fulfillment::{self, Outcome, Permit, Step};
use crate::functions;
use crate::functions::order_processor::{Delivery, LOOK_PAUSE, Next, store_is_away, wake_up};
use crate::functions::told;
use crate::outbound::backoff;
use crate::store::{Replaced, StoreError, Versioned};

/// An order that this delivery has claimed. Every write of the order goes through here: progress, renewal of the lease, end.
pub(super) struct ClaimedOrder<'a> {
    delivery: &'a Delivery<'a>,
    /// The latest version known.
    latest: Versioned,
    token: FencingToken,
}

/// Why a change was not written.
enum NotWritten {
    /// The order is not this delivery's any more, or has ended.
    Fenced(Fenced),
    /// The store did not answer, or the record cannot be read.
    Store(StoreError),
}

impl From<Fenced> for NotWritten {
    fn from(fenced: Fenced) -> Self {
        Self::Fenced(fenced)
    }
}

impl From<StoreError> for NotWritten {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl<'a> ClaimedOrder<'a> {
    /// An order as it was claimed.
    pub(super) fn new(delivery: &'a Delivery<'a>, claimed: Versioned) -> Self {
        Self { delivery, token: claimed.record.token(), latest: claimed }
    }

    /// Does the work. Meanwhile every renewal writes the lease and the progress, and reads whether the owner asked to cancel.
    pub(super) async fn work(&mut self, permit: Permit) -> Result<Outcome, Next> {
        let (app, store) = (self.delivery.app, self.delivery.store);
        let (sender, mut steps) = mpsc::channel(1);
        let (cancel, cancelled) = watch::channel(false);
        let (claimed, worker) = (self.latest.record.clone(), Arc::clone(app));
        // A task of its own, so that a panic in the work ends in a verdict.
        let mut task = tokio::spawn(async move { worker.fulfillment.run(permit, claimed, sender, cancelled).await }.in_current_span());
        let mut renewal = tokio::time::interval(app.config.lease_renewal());
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        renewal.reset();
        // Progress waits for the next renewal where writes are paid for.
        let progress_pause = store.progress_pause(app.config.lease_renewal());
        let (mut step, mut written) = (None, Instant::now());
        loop {
            tokio::select! {
                biased;
                Some(next) = steps.recv() => {
                    step = Some(next);
                    if written.elapsed() < progress_pause {
                        continue;
                    }
                }
                _ = renewal.tick() => {}
                outcome = &mut task => return Ok(outcome.unwrap_or_else(|error| {
                    error!(order.tracking_id = %self.latest.record.tracking_id, %error, "the work broke down");
                    Outcome::Ended(fulfillment::broken_down())
                })),
            }
            match self.renew(step.as_ref()).await {
                Ok(()) => {
                    failpoint!("after-renewal");
                    renewal.reset();
                    written = Instant::now();
                    if self.latest.record.cancel_requested {
                        if app.fulfillment.can_break_off() {
                            task.abort();
                            return Ok(Outcome::Ended(Verdict::Cancelled));
                        }
                        cancel.send_replace(true);
                    }
                }
                Err(NotWritten::Fenced(fenced)) => {
                    task.abort();
                    return Err(self.stop(fenced));
                }
                // The work goes on, and the next renewal asks again. If the lease runs out before, the fence decides.
                Err(NotWritten::Store(error)) => {
                    warn!(order.tracking_id = %self.latest.record.tracking_id, %error, "progress could not be recorded");
                }
            }
        }
    }

    /// Records what the try came to: the order's end, or the wait for its next try, for which a copy of the message is then scheduled.
    /// `Ok`: the message may be completed.
    pub(super) async fn record_end(mut self, outcome: Outcome) -> Result<(), Next> {
        failpoint!("mid-work");
        self.write_end(&outcome).await?;
        let record = &self.latest.record;
        if let Some(retry_at) = record.retry_at {
            failpoint!("after-retry-record");
            told::transition(record, "order waits for its next try");
            return wake_up::schedule(self.delivery, &self.latest, retry_at).await;
        }
        failpoint!("after-finish");
        self.delivery.app.completion_times.observe_end(record, self.delivery.only_queued);
        functions::ended(self.delivery.app, record);
        Ok(())
    }

    /// Writes the end of the try, again and again while the store does not answer. No write is repeated after the delivery's deadline.
    async fn write_end(&mut self, outcome: &Outcome) -> Result<(), Next> {
        let (store, config, token) = (self.delivery.store, &self.delivery.app.config, self.token);
        // The same for every repetition of the write.
        let jitter = backoff::share();
        let until = self.delivery.deadline.min(Instant::now() + config.time_budget.store_wait);
        let end = |found: &Record| match outcome {
            Outcome::Ended(verdict) => lifecycle::finish(found, token, verdict.clone(), store.now(), &config.budgets),
            Outcome::Again(failure, after) => lifecycle::retry(found, token, failure.clone(), *after, jitter, store.now(), &config.budgets),
        };
        loop {
            failpoint!("before-finish" if matches!(outcome, Outcome::Ended(_)));
            failpoint!("before-retry-record" if matches!(outcome, Outcome::Again(..)));
            match self.write(end).await {
                // The answer to an earlier repetition was lost.
                Ok(()) | Err(NotWritten::Fenced(Fenced::AlreadyEnded)) => return Ok(()),
                Err(NotWritten::Fenced(fenced)) => return Err(self.stop(fenced)),
                Err(NotWritten::Store(error)) if Instant::now() >= until || error.is_answer() => {
                    return Err(Next::Abandon(store_is_away(&error)));
                }
                Err(NotWritten::Store(error)) => {
                    let tracking_id = self.latest.record.tracking_id;
                    warn!(order.tracking_id = %tracking_id, %error, "the end of a try could not be recorded; trying again");
                    tokio::time::sleep(LOOK_PAUSE.longest).await;
                }
            }
        }
    }

    /// Renews the lease, and writes the progress along with it.
    async fn renew(&mut self, step: Option<&Step>) -> Result<(), NotWritten> {
        let (token, store, budgets) = (self.token, self.delivery.store, &self.delivery.app.config.budgets);
        let (progress, stage) = step.map_or((0, None), |step| (step.progress, Some(&*step.stage)));
        // The clock is read for each write: after a refused one, a lease from before it may have run out.
        self.write(|found| lifecycle::advance(found, token, progress, stage, store.now(), budgets)).await
    }

    /// Writes a change. A refused write is followed by a look: the change is applied to the new version, if the order is still this
    /// delivery's.
    async fn write(&mut self, change: impl Fn(&Record) -> Result<Record, Fenced>) -> Result<(), NotWritten> {
        let store = self.delivery.store;
        loop {
            let record = change(&self.latest.record)?;
            match store.replace(&record, &self.latest.etag).await? {
                Replaced::Replaced(etag) => {
                    self.latest = Versioned { record, etag };
                    return Ok(());
                }
                Replaced::Stale => match store.read_latest(record.tracking_id).await? {
                    Some(found) => self.latest = found,
                    None => return Err(StoreError::Unreadable("it is gone".into()).into()),
                },
            }
        }
    }

    /// The order has ended, or another worker has it: this delivery changes nothing more.
    fn stop(&self, fenced: Fenced) -> Next {
        if fenced == Fenced::Superseded {
            let record = &self.latest.record;
            warn!(order.tracking_id = %record.tracking_id, order.fence = record.fence, "another worker took this order; nothing more is written here");
        }
        Next::Complete
    }
}
