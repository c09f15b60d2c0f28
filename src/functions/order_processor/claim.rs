//! Claiming an order: its record decides what this delivery may do, and every decision is written down before it is acted on.

use std::time::{Duration, Instant, SystemTime};

use serving::failpoint;

use crate::domain::lifecycle::{self, Claim, Claimant, Verdict};
use crate::domain::record::Record;
use crate::domain::timestamp::Timestamp;
use crate::fulfillment::Permit;
use crate::functions;
use crate::functions::holder;
use crate::functions::order_processor::{Delivery, Next, Reason, too_late, wake_up};
use crate::functions::reply::Refusal;
use crate::functions::told;
use crate::metrics::METRICS;
use crate::store::{StoreError, Versioned};

/// A delivery that asks for its order, as the order was found.
pub(super) struct ClaimAttempt<'a, 'd> {
    pub(super) delivery: &'a mut Delivery<'d>,
    pub(super) found: &'a Versioned,
}

impl ClaimAttempt<'_, '_> {
    /// The order as this delivery has claimed it, and the right to do its work. What needs no work of this delivery is done here.
    pub(super) async fn claim(mut self) -> Result<(Versioned, Permit), Next> {
        let app = self.delivery.app;
        match self.decide() {
            Claim::NothingToDo => self.ignore()?,
            Claim::Wait(until, wake) => {
                let is_held = self.found.record.lease.is_some();
                self.step_aside(until, wake, if is_held { "another worker holds it" } else { "its next try is not due" }).await?;
            }
            Claim::GiveUp(record) => self.give_up(record).await?,
            Claim::Take(record) => {
                match (app.fulfillment.at_once(record.tracking_id, &record.order), app.fulfillment.admit(&self.found.record)) {
                    (Some(verdict), _) => self.take_and_end(record, verdict).await?,
                    (None, Ok(permit)) => return Ok((self.take(record).await?, permit)),
                    (None, Err(pause)) => self.wait_for_backend(pause).await?,
                }
            }
        }
        Err(Next::Complete)
    }

    fn decide(&self) -> Claim {
        let app = self.delivery.app;
        let holder = self.found.record.lease.as_ref().map(|lease| &lease.holder);
        let claimant = Claimant {
            life: self.delivery.message.life,
            holder: &app.holder,
            invocation: self.delivery.invocation,
            now: self.delivery.store.now(),
            holder_gone: holder.is_some_and(|holder| holder::is_gone(holder, &app.holder)),
        };
        lifecycle::claim(&self.found.record, &claimant, &app.config.budgets)
    }

    /// The order has ended, or the message belongs to another life of it. An old version may show an earlier life.
    fn ignore(&self) -> Result<(), Next> {
        if self.found.record.life == self.delivery.message.life { Ok(()) } else { self.delivery.confirm_latest() }
    }

    /// Another worker holds the order, or its next try is not due: a later copy of the message takes over. Where none can be scheduled,
    /// this delivery waits.
    async fn step_aside(&mut self, until: Timestamp, wake: Option<Record>, why: &'static str) -> Result<(), Next> {
        // Each delivery says it once.
        if !std::mem::replace(&mut self.delivery.told_put_off, true) {
            told::put_off(&self.found.record, why, until);
        }
        if self.delivery.app.queue.is_none() {
            if let Some(record) = wake.filter(|_| self.is_own()) {
                self.delivery.replace(&lifecycle::take_back_wake_up(&record), &self.found.etag).await?;
            }
            return Err(Next::LookAgain(Reason::Held(until)));
        }
        wake_up::record_and_schedule(self.delivery, self.found, wake, until).await
    }

    /// Whether the claim of this delivery is recorded already: the answer to that write was lost, or came late.
    fn is_own(&self) -> bool {
        let lease = self.found.record.lease.as_ref();
        lease.is_some_and(|lease| lease.holder == self.delivery.app.holder && lease.invocation == self.delivery.invocation)
    }

    /// The backend is known to be away: waiting for it is no try.
    async fn wait_for_backend(&mut self, pause: Duration) -> Result<(), Next> {
        let (now, budgets) = (self.delivery.store.now(), &self.delivery.app.config.budgets);
        let until = now.after(pause);
        let wake = if self.is_own() {
            Some(lifecycle::release(&self.found.record, until, now, budgets))
        } else {
            lifecycle::wake_up(&self.found.record, until, now, budgets)
        };
        self.step_aside(until, wake, "the backend does not answer").await
    }

    /// A budget is spent, or the owner asked to cancel the order: writes its end.
    async fn give_up(&self, record: Record) -> Result<(), Next> {
        self.delivery.replace(&record, &self.found.etag).await?;
        told::interruption(&self.found.record, &record);
        functions::ended(self.delivery.app, &record);
        Ok(())
    }

    /// Writes claim and end at once, where the work is pure: nothing outside can have happened if the write is lost.
    async fn take_and_end(&self, claimed: Record, verdict: Verdict) -> Result<(), Next> {
        let (app, now) = (self.delivery.app, self.delivery.store.now());
        let Ok(ended) = lifecycle::finish(&claimed, claimed.token(), verdict, now, &app.config.budgets) else {
            return Err(Next::Abandon(Refusal::abandon("a claim does not own its order: this is a bug")));
        };
        self.delivery.replace(&ended, &self.found.etag).await?;
        let only_queued = self.observe(&claimed);
        app.completion_times.observe_end(&ended, only_queued);
        failpoint!("after-end");
        functions::ended(app, &ended);
        Ok(())
    }

    /// Writes the claim.
    async fn take(&mut self, record: Record) -> Result<Versioned, Next> {
        let config = &self.delivery.app.config;
        // At `functionTimeout` the host ends the whole handler, and every other order in it. The message comes back at once, with all
        // of its time.
        if Instant::now() + config.time_budget.longest_try > self.delivery.deadline {
            return Err(too_late());
        }
        failpoint!("before-claim");
        let (decided, decided_at) = (Instant::now(), SystemTime::now());
        let etag = self.delivery.replace(&record, &self.found.etag).await?;
        // The answer came late, or this machine slept: the lease may have run out, and another delivery may have ended the order
        // since. The claim is renewed before the work begins.
        if decided.elapsed().max(decided_at.elapsed().unwrap_or_default()) > config.budgets.lease / 2 {
            return Err(Next::LookAgain(Reason::Unwritten(StoreError::Unknown)));
        }
        // A wake-up from before this claim is none of this try.
        self.delivery.unconfirmed_wake_ups.clear();
        failpoint!("after-claim");
        self.delivery.only_queued = self.observe(&record);
        Ok(Versioned { record, etag })
    }

    /// A claim is recorded. The wait of its order tells how long the queue is, if the order waited for nothing else: then `true`.
    fn observe(&self, claimed: &Record) -> bool {
        let app = self.delivery.app;
        let is_first = self.delivery.is_first && !self.delivery.told_put_off;
        let wait = app.queue_wait.observe_claim(&self.found.record, claimed, is_first);
        if let Some(wait) = wait {
            app.admission.observe_claim(wait);
            METRICS.queue_wait.time((), wait);
        }
        told::interruption(&self.found.record, claimed);
        told::transition(claimed, "order claimed");
        wait.is_some()
    }
}
