//! `OrderProcessor`: a message arrives, its order is claimed, worked on and ended; every other copy changes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

use crate::envelope::{self, Answer};
use crate::functions::{self, App, Conclusion, Refusal};
use crate::lifecycle::{self, Claim, Claimant, Failure, Fenced, Record, Verdict};
use crate::message::{self, Message};
use crate::process;
use crate::routes::Invocation;
use crate::store::{Replaced, StatusStore, StoreError, Versioned};

/// First and longest pause between two looks at an order that somebody else holds: he may end at any time, or vanish.
const LOOK_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Takes a message, claims its order, does the work, ends it.
pub async fn run(app: &Arc<App>, invocation: &Invocation) -> Conclusion {
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
    let answer = process(app, &invocation.id, &message).await.map(|()| Answer::done());
    Conclusion { answer, tracking_id: Some(message.tracking_id), delivery_count: queue_message.delivery_count }
}

/// `Ok`: the message may be completed. `Err`: it must be delivered again.
async fn process(app: &Arc<App>, invocation: &str, message: &Message) -> Result<(), Refusal> {
    let until = Instant::now() + app.config.store_wait;
    let patience = Instant::now() + app.config.claim_wait;
    let away = |error: StoreError| Refusal::abandon(error.to_string());
    let store = tokio::time::timeout(app.config.store_wait, app.store.wait()).await.map_err(|_| away(StoreError::NotApplied))?;
    let (mut pause, longest) = LOOK_PAUSE;
    let mut refusals = 0;
    loop {
        let found = if refusals == 0 {
            functions::hold(until, || store.read(message.tracking_id)).await
        } else {
            // Others write too; nobody wins by asking without a pause.
            tokio::time::sleep(LOOK_PAUSE.0 * refusals.min(10)).await;
            functions::hold(until, || store.read_latest(message.tracking_id)).await
        };
        let found = found.map_err(away)?;
        let Some(found) = found else {
            return Err(Refusal::abandon("no order has this tracking id: it has expired, or its records are elsewhere"));
        };
        let holder = found.record.lease.as_ref().map(|lease| &lease.holder);
        let claimant = Claimant {
            life: message.life,
            holder: &app.holder,
            invocation,
            now: store.now(),
            holder_gone: holder.is_some_and(|holder| process::is_gone(holder, &app.holder)),
        };
        match lifecycle::claim(&found.record, &claimant, &app.config.budgets) {
            Claim::NothingToDo => return Ok(()),
            Claim::Wait(_) if Instant::now() + pause > patience => {
                return Err(Refusal::abandon("another worker still holds this order; its message is to come back later"));
            }
            Claim::Wait(lease_end) => {
                // Never past the end of the lease by more than a look.
                tokio::time::sleep(pause.min(claimant.now.until(lease_end) + LOOK_PAUSE.0)).await;
                pause = (pause * 2).min(longest);
                continue;
            }
            Claim::GiveUp(record) => {
                if let Replaced::Replaced(_) = functions::hold(until, || store.replace(&record, &found.etag)).await.map_err(away)? {
                    log_transition(&record, "order failed");
                    return Ok(());
                }
            }
            Claim::Take(record) if app.fulfillment.is_immediate() => {
                // Pure work may join claim and finish in one write: nothing outside can have happened if it is lost.
                let verdict = app.fulfillment.run_at_once(&record.order);
                let Ok(ended) = lifecycle::finish(&record, record.fence, verdict, store.now(), &app.config.budgets) else {
                    return Err(Refusal::abandon("a claim does not own its order: this is a bug"));
                };
                if let Replaced::Replaced(_) = functions::hold(until, || store.replace(&ended, &found.etag)).await.map_err(away)? {
                    log_transition(&record, "order claimed");
                    log_transition(&ended, ended_text(&ended));
                    return Ok(());
                }
            }
            Claim::Take(record) => {
                if let Replaced::Replaced(etag) = functions::hold(until, || store.replace(&record, &found.etag)).await.map_err(away)? {
                    log_transition(&record, "order claimed");
                    return work(app, store, Versioned { record, etag }).await;
                }
            }
            Claim::Held(record) => return work(app, store, Versioned { record, etag: found.etag }).await,
        }
        refusals += 1;
    }
}

/// Does the work of an order that is ours. This one task owns all its writes: progress, renewal, end.
async fn work(app: &Arc<App>, store: &StatusStore, mut own: Versioned) -> Result<(), Refusal> {
    let fence = own.record.fence;
    let (sender, mut steps) = mpsc::channel(1);
    let order = Arc::clone(&own.record.order);
    let worker = Arc::clone(app);
    // A task of its own, so that a panic in the work ends in a verdict.
    let mut task = tokio::spawn(async move { worker.fulfillment.run(order, sender).await });
    let mut renewal = tokio::time::interval(app.config.lease_renewal);
    renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    renewal.reset();
    // Progress rides on a renewal where writes are paid for.
    let pause = store.progress_pause(app.config.lease_renewal);
    let (mut progress, mut stage, mut written) = (0, None, Instant::now());
    let verdict = loop {
        tokio::select! {
            biased;
            Some(step) = steps.recv() => {
                (progress, stage) = (step.progress, Some(step.stage));
                if written.elapsed() < pause {
                    continue;
                }
            }
            _ = renewal.tick() => {}
            verdict = &mut task => break verdict.unwrap_or_else(|error| {
                error!(order.tracking_id = %own.record.tracking_id, %error, "the work broke down");
                Verdict::Failed(Failure::new("internal_error", "the order could not be processed"))
            }),
        };
        let change = |found: &Record| lifecycle::advance(found, fence, progress, stage, store.now(), &app.config.budgets);
        match write(store, &mut own, change).await {
            Ok(Ok(())) => {
                renewal.reset();
                written = Instant::now();
            }
            Ok(Err(fenced)) => {
                task.abort();
                return {
                    lost(&own.record, fenced);
                    Ok(())
                };
            }
            // Progress is worth no failure; the lease runs on, and the next renewal asks again.
            Err(error) => warn!(order.tracking_id = %own.record.tracking_id, %error, "progress could not be recorded"),
        }
    };
    let until = Instant::now() + app.config.store_wait;
    loop {
        let change = |found: &Record| lifecycle::finish(found, fence, verdict.clone(), store.now(), &app.config.budgets);
        match write(store, &mut own, change).await {
            Ok(Ok(())) => {
                log_transition(&own.record, ended_text(&own.record));
                return Ok(());
            }
            Ok(Err(fenced)) => {
                return {
                    lost(&own.record, fenced);
                    Ok(())
                };
            }
            Err(error) if Instant::now() >= until => return Err(Refusal::abandon(error.to_string())),
            Err(error) => {
                warn!(order.tracking_id = %own.record.tracking_id, %error, "the end of an order could not be recorded; trying again");
                tokio::time::sleep(LOOK_PAUSE.1).await;
            }
        }
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
                None => return Ok(Err(Fenced::Superseded)),
            },
        }
    }
}

fn lost(record: &Record, fenced: Fenced) {
    if fenced == Fenced::Superseded {
        warn!(order.tracking_id = %record.tracking_id, order.fence = record.fence, "another worker took this order; stopping without a trace");
    }
}

fn ended_text(record: &Record) -> &'static str {
    match record.status {
        lifecycle::Status::Completed => "order completed",
        _ => "order failed",
    }
}

fn log_transition(record: &Record, text: &'static str) {
    info!(
        order.tracking_id = %record.tracking_id,
        order.status = record.status.as_str(),
        order.fence = record.fence,
        order.attempt = record.attempt,
        order.interruptions = record.interruptions,
        error.code = record.error.as_ref().map(|failure| failure.code.as_str()),
        "{text}"
    );
}
