//! Decisions about an order: record and event in, decision out.
//!
//! Nothing here reads a clock, a store or the environment, so that every interleaving can be tried in a model.
//! The rules are the section "Interleavings" of `ARCHITECTURE.md`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use uuid::Uuid;

use crate::order::Names;
use crate::record::{
    Callback, Event, Failure, FencingToken, Holder, Lease, MAX_HISTORY, Metadata, Notice, NoticeState, Record, SCHEMA_VERSION, Status,
    Transition,
};
use crate::timestamp::Timestamp;
use crate::tracking::TrackingId;

/// Limits of an order's time and tries.
#[derive(Debug, Clone)]
pub struct Budgets {
    /// Length of a lease.
    pub lease: Duration,
    /// Failed tries after which the order fails.
    pub max_attempts: u32,
    /// Longest pause before the second try. It doubles with each later try, up to `retry_cap`.
    pub retry_base: Duration,
    /// Longest pause before any try.
    pub retry_cap: Duration,
    /// Interruptions after which the order fails (`interrupted`).
    pub max_interruptions: u32,
    /// From submission, or from a re-drive, to the moment after which the order fails.
    pub order_deadline: Duration,
    /// Time for which the record of an ended order is kept.
    pub retention: Duration,
    /// Time after its submission when an order that no worker has claimed is overdue.
    pub overdue_after: Duration,
    /// Whether the end of every order is told to a URL of the deployment.
    pub tells_ends: bool,
}

/// A new order, about to be recorded.
#[derive(Debug)]
pub struct Submission {
    /// Derived from the request; see [`crate::tracking`].
    pub tracking_id: TrackingId,
    /// Random id of the life that begins.
    pub life: Uuid,
    /// The order as sent.
    pub order: Arc<RawValue>,
    /// The names to be kept beside the order; see [`Record::names`].
    pub names: Names,
    /// SHA-256 of the order's canonical form, in hexadecimal.
    pub fingerprint: String,
    /// Origin of the request.
    pub metadata: Metadata,
    /// URL that the order names for the callback of its end.
    pub callback_url: Option<String>,
}

/// The record of a new order. `wait` is the recent wait of orders for their first claim.
pub fn accept(submission: Submission, wait: Duration, now: Timestamp, budgets: &Budgets) -> Record {
    // Noted now, since the order may be ended by a program that has not the setting, such as an operator's command.
    let is_told = submission.callback_url.is_some() || budgets.tells_ends;
    let record = Record {
        schema_version: SCHEMA_VERSION,
        tracking_id: submission.tracking_id,
        owner: submission.metadata.owner.clone(),
        life: submission.life,
        key_life: None,
        order: submission.order,
        names: Some(submission.names),
        fingerprint: submission.fingerprint,
        metadata: submission.metadata,
        status: Status::Accepted,
        progress: 0,
        stage: None,
        fence: 0,
        attempt: 0,
        interruptions: 0,
        attempts_before: 0,
        emissions: 0,
        sent_again_at: None,
        wake_ups: 0,
        lease: None,
        cancel_requested: false,
        retry_at: None,
        wake_at: None,
        due_at: Some(now.after(budgets.overdue_after.max(patience(wait, budgets)).min(budgets.order_deadline))),
        deadline: now.after(budgets.order_deadline),
        result: None,
        error: None,
        submitted_at: now,
        started_at: None,
        updated_at: now,
        completed_at: None,
        history: vec![Transition { at: now, event: Event::Accepted, attempt: 0, code: None }],
        ttl: None,
        callback: is_told.then_some(Callback { url: submission.callback_url, notice: None }),
    };
    Record { schema_version: record.version(), ..record }
}

/// The end of a new order that a gateway accepted unread, and that cannot be processed. No worker ever claims such an order, so its
/// fence stays 0.
pub fn refuse(accepted: Record, failure: Failure, now: Timestamp, budgets: &Budgets) -> Record {
    let mut record = accepted;
    end(&mut record, Verdict::Refused(failure), now, budgets);
    record
}

/// Meaning of a request whose record already exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resubmission {
    /// The same order, not yet claimed, or overdue: give the same answer and send the message again. The first message may never have
    /// been sent, or may have been dead-lettered.
    EmitAgain,
    /// The same order, being worked on or ended: give the same answer.
    Repeat,
    /// Another order under the same key.
    Conflict,
}

/// Decides about a request that found a record under its key.
pub fn resubmit(found: &Record, fingerprint: &str, now: Timestamp) -> Resubmission {
    let overdue = !found.status.is_terminal() && found.due_at.is_some_and(|due_at| due_at <= now);
    if found.fingerprint != fingerprint {
        Resubmission::Conflict
    } else if found.status == Status::Accepted || overdue {
        Resubmission::EmitAgain
    } else {
        Resubmission::Repeat
    }
}

/// A delivery that asks to claim its order.
#[derive(Debug)]
pub struct Claimant<'a> {
    /// The life that the message names.
    pub life: Uuid,
    /// The process that asks.
    pub holder: &'a Holder,
    /// The invocation that asks.
    pub invocation: &'a str,
    /// Current time by the store's clock.
    pub now: Timestamp,
    /// Whether the process that the record's lease names is known to have ended: same instance, same boot, no such process.
    pub holder_gone: bool,
}

/// Next step of a claimant.
#[derive(Debug)]
pub enum Claim {
    /// The order has ended, or the message belongs to another life: complete the message and change nothing.
    NothingToDo,
    /// Another worker holds the order, or a retry waits, until this moment. Where copies of messages can be scheduled: write the record,
    /// schedule a copy for its `wakeAt`, and complete this message. Without a record, a copy is scheduled already, or the sweeper sends
    /// one.
    Wait(Timestamp, Option<Record>),
    /// Write this record; then the order belongs to this invocation. If the invocation's claim is recorded already, because only the
    /// answer to that write was lost or came late, the record renews the lease.
    Take(Record),
    /// A budget is spent, or the owner asked to cancel the order: write this end.
    GiveUp(Record),
}

/// Decides whether an order may be claimed: the order is accepted, its lease has run out, or its worker has ended; and no budget is
/// spent.
pub fn claim(found: &Record, claimant: &Claimant<'_>, budgets: &Budgets) -> Claim {
    let now = claimant.now;
    if found.status.is_terminal() || found.life != claimant.life {
        return Claim::NothingToDo;
    }
    if let Some(lease) = &found.lease {
        if lease.holder == *claimant.holder && lease.invocation == claimant.invocation {
            // The work has not begun, and the order may have been cancelled, or its deadline may have passed, since the claim was written.
            return give_up(found, false, now, budgets).map_or_else(|| Claim::Take(renewed(found, now, budgets)), Claim::GiveUp);
        }
        if lease.expires_at > now && !claimant.holder_gone {
            return Claim::Wait(lease.expires_at, step_aside(found, lease.expires_at, now, budgets));
        }
    }
    let interrupted = found.lease.is_some();
    if let Some(record) = give_up(found, interrupted, now, budgets) {
        return Claim::GiveUp(record);
    }
    if let Some(retry_at) = found.retry_at.filter(|retry_at| *retry_at > now.after(TOLERANCE)) {
        return Claim::Wait(retry_at, wake_up(found, retry_at, now, budgets));
    }
    let interruptions = found.interruptions + u32::from(interrupted);
    let mut record = found.clone();
    let expires_at = now.after(budgets.lease);
    record.fence += 1;
    record.status = Status::Processing;
    record.interruptions = interruptions;
    // An interrupted try gave no verdict, so the next claim continues the same try.
    record.attempt += u32::from(!interrupted);
    record.lease = Some(Lease { holder: claimant.holder.clone(), invocation: claimant.invocation.into(), expires_at });
    record.due_at = Some(expires_at);
    record.retry_at = None;
    record.wake_at = None;
    record.emissions = 0;
    record.sent_again_at = None;
    record.started_at.get_or_insert(found.not_before(now));
    note(&mut record, if interrupted { Event::Interrupted } else { Event::Claimed }, None, now);
    Claim::Take(record)
}

/// Time by which a scheduled message may arrive early, by the store's clock.
const TOLERANCE: Duration = Duration::from_secs(2);
/// Most copies of the message that deliveries which meet a live lease may schedule in one life of an order. Without the limit, a broker
/// that delivers every message three times would gain one more copy with every try. Such a copy only saves time: the sweeper checks
/// the order when the lease has run out.
pub const MAX_WAKE_UPS: u32 = 2;

/// The record that a delivery writes when it meets a live lease, before it schedules a copy of its message. The copy is for a little
/// after the end of the lease: one that arrives early, by the store's clock, would find the lease alive.
fn step_aside(found: &Record, expires_at: Timestamp, now: Timestamp, budgets: &Budgets) -> Option<Record> {
    let until = expires_at.after(TOLERANCE.min(budgets.lease / 2));
    let record = wake_up(found, until, now, budgets).filter(|_| found.wake_ups < MAX_WAKE_UPS)?;
    Some(Record { wake_ups: found.wake_ups + 1, ..record })
}

/// The record without its `wakeAt`: the copy could not be scheduled, and no delivery may rely on it.
pub fn take_back_wake_up(found: &Record) -> Record {
    Record { wake_at: None, ..found.clone() }
}

/// The record to write before a copy of the message is scheduled. No worker can work on the order before `until`: the copy is for that
/// moment, or a little later if `until` is near. `None` if a copy is scheduled already: wake-ups do not multiply.
pub fn wake_up(found: &Record, until: Timestamp, now: Timestamp, budgets: &Budgets) -> Option<Record> {
    // A copy that is nearly due may be the message in hand, which arrived early. A copy that is recorded now must be further away
    // than the tolerance, so that other deliveries which ask at the same time rely on it.
    let stands = found.wake_at.is_some_and(|wake_at| wake_at > now.after(TOLERANCE));
    let until = until.max(now.after(TOLERANCE * 2));
    // Should the copy be lost, the sweeper sends one.
    let due_at = found.due_at.max(Some(found.due(until.after(budgets.overdue_after))));
    (!stands).then(|| Record { wake_at: Some(until), due_at, ..found.clone() })
}

/// The record of an order whose claim is recorded, and whose work its claimant will not begin: the work cannot be done before `until`.
/// The claim was no try, and no later claim may count it as an interruption. A copy of the message is to be scheduled for `wakeAt`.
pub fn release(found: &Record, until: Timestamp, now: Timestamp, budgets: &Budgets) -> Record {
    let until = until.max(now.after(TOLERANCE * 2));
    Record {
        lease: None,
        attempt: found.attempt.saturating_sub(1),
        wake_at: Some(until),
        due_at: Some(found.due(until.after(budgets.overdue_after))),
        ..found.clone()
    }
}

/// The end of an order that no worker works on, if a budget is spent or the owner asked to cancel it. `interrupted`: the lease in the
/// record is that of a worker that ended without a verdict.
fn give_up(found: &Record, interrupted: bool, now: Timestamp, budgets: &Budgets) -> Option<Record> {
    let interruptions = found.interruptions + u32::from(interrupted);
    let verdict = if found.cancel_requested {
        Verdict::Cancelled
    } else if now >= found.deadline {
        Verdict::Failed(Failure::new("deadline_exceeded", "the order was not processed in time"))
    } else if interrupted && interruptions >= budgets.max_interruptions {
        Verdict::Failed(Failure::new("interrupted", "processing was interrupted too often"))
    } else {
        return None;
    };
    let mut record = found.clone();
    record.fence += 1;
    record.interruptions = interruptions;
    end(&mut record, verdict, now, budgets);
    Some(record)
}

/// Answer to a request to cancel.
#[derive(Debug)]
pub enum Cancel {
    /// The order is cancelled already.
    Cancelled,
    /// The order has another terminal status, and keeps it.
    Ended,
    /// The request is recorded already, and the worker has not seen it yet.
    Requested,
    /// No worker holds the order, though a retry may wait: write this end.
    End(Record),
    /// A worker holds the order: write this request. The worker sees it at its next renewal, and every later claim, sweep or dead letter
    /// ends the order before anything else.
    Request(Record),
}

/// Decides about the owner's request to cancel an order.
pub fn cancel(found: &Record, now: Timestamp, budgets: &Budgets) -> Cancel {
    let wish = || Record { cancel_requested: true, updated_at: found.not_before(now), ..found.clone() };
    if found.status == Status::Cancelled {
        Cancel::Cancelled
    } else if found.status.is_terminal() {
        Cancel::Ended
    } else if found.lease.as_ref().is_none_or(|lease| lease.expires_at <= now) {
        give_up(&wish(), found.lease.is_some(), now, budgets).map_or(Cancel::Requested, Cancel::End)
    } else if found.cancel_requested {
        Cancel::Requested
    } else {
        Cancel::Request(wish())
    }
}

/// Next step of the sweeper for an order that is due.
#[derive(Debug)]
pub enum Sweep {
    /// The order has ended, or is no longer due.
    Nothing,
    /// The order waits and is not overdue: write this record, which moves `dueAt` ahead.
    Postpone(Record),
    /// The order is overdue: write this record, which moves `dueAt` ahead, and only then send the message again.
    Emit(Record),
    /// A budget is spent, or the owner asked to cancel the order: write this end.
    GiveUp(Record),
}

/// Decides about an order whose `dueAt` has passed. `wait` is the recent wait of orders for their first claim. Nothing tells whether
/// the message of an `accepted` order was lost or waits behind others, and a second message makes a long queue longer.
pub fn sweep(found: &Record, wait: Duration, now: Timestamp, budgets: &Budgets) -> Sweep {
    if found.status.is_terminal() || found.due_at.is_none_or(|due_at| due_at > now) {
        return Sweep::Nothing;
    }
    if let Some(lease) = found.lease.as_ref().filter(|lease| lease.expires_at > now) {
        return Sweep::Postpone(Record { due_at: Some(lease.expires_at), ..found.clone() });
    }
    if let Some(record) = give_up(found, found.lease.is_some(), now, budgets) {
        return Sweep::GiveUp(record);
    }
    if let Some(wake_at) = found.wake_at.filter(|wake_at| *wake_at > now) {
        return Sweep::Postpone(Record { due_at: Some(found.due(wake_at.after(budgets.overdue_after))), ..found.clone() });
    }
    let patient_until = found.updated_at.after(patience(wait, budgets));
    if found.status == Status::Accepted && patient_until > now {
        // The order waits at most as long again: `wait` may come from a moment when no worker was there, e.g. a restart.
        let pause = now.until(patient_until).min(waited(found, now)).max(budgets.overdue_after);
        return Sweep::Postpone(Record { due_at: Some(found.due(now.after(pause))), ..found.clone() });
    }
    Sweep::Emit(emit_again(found, wait, now, budgets))
}

/// Number of usual waits after which an order that still waits is overdue.
const PATIENCE: u32 = 3;
/// Divisor of `order_deadline`: after that share of the deadline a waiting order is overdue, whatever the usual wait. With a usual
/// wait of one day, three usual waits would be three days.
const MOST_PATIENCE: u32 = 8;
/// Most doublings of the pause before the sweeper's next look; each re-emission doubles it.
const MAX_DOUBLINGS: u32 = 8;

/// Time that an order may wait for its first claim before it is overdue, where the usual wait is `wait`.
fn patience(wait: Duration, budgets: &Budgets) -> Duration {
    wait.saturating_mul(PATIENCE).min(budgets.order_deadline / MOST_PATIENCE)
}

/// Time for which an order has waited. A re-driven order has waited since its re-drive, which was its last change.
fn waited(found: &Record, now: Timestamp) -> Duration {
    found.updated_at.until(now)
}

/// The record to write before a message is sent again. Should that message be lost, the next look comes no later than the order has
/// waited already, or `overdue_after`, doubled with each message that was sent before.
fn emit_again(found: &Record, wait: Duration, now: Timestamp, budgets: &Budgets) -> Record {
    let pause = patience(wait, budgets).min(waited(found, now)).max(budgets.overdue_after);
    Record {
        due_at: Some(found.due(now.after(pause.saturating_mul(1 << found.emissions.min(MAX_DOUBLINGS))))),
        emissions: found.emissions + 1,
        sent_again_at: found.sent_again_at.or(Some(now)),
        ..found.clone()
    }
}

/// Next step for a dead letter.
#[derive(Debug)]
pub enum DeadLetter {
    /// The order does not need the message: the order has ended, is in another life or held, or a copy of its message is scheduled.
    Nothing,
    /// Write this record, and only then send the message again.
    Emit(Record),
    /// A budget is spent, or the owner asked to cancel the order: write this end.
    GiveUp(Record),
}

/// Decides about a message that the queue dead-lettered. A dead letter is a lost delivery, not a verdict. The first one is sent again
/// at once. Later ones wait for the sweeper, whose pauses grow, since no dead letter may cause the next one without a pause.
/// `holder_gone`: as in [`Claimant::holder_gone`].
pub fn dead_letter(found: &Record, life: Uuid, holder_gone: bool, wait: Duration, now: Timestamp, budgets: &Budgets) -> DeadLetter {
    let held = !holder_gone && found.lease.as_ref().is_some_and(|lease| lease.expires_at > now);
    let comes_up = [found.wake_at, found.retry_at].into_iter().flatten().any(|moment| moment > now);
    if found.status.is_terminal() || found.life != life || held || comes_up {
        return DeadLetter::Nothing;
    }
    match give_up(found, found.lease.is_some(), now, budgets) {
        Some(record) => DeadLetter::GiveUp(record),
        None if found.emissions > 0 => DeadLetter::Nothing,
        None => DeadLetter::Emit(emit_again(found, wait, now, budgets)),
    }
}

/// Reason why a writer must not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fenced {
    /// The writer's own end of the order is recorded already: continue as if that write had been answered.
    AlreadyEnded,
    /// Another worker took the order: stop and write nothing.
    Superseded,
}

/// Checks that the claim of `token` still owns the order. After a refused write the record is read again, and the same change is
/// applied to the new version if this check allows it.
pub fn owned(found: &Record, token: FencingToken) -> Result<(), Fenced> {
    if found.token() != token {
        Err(Fenced::Superseded)
    } else if found.status.is_terminal() {
        // Every end without the lease raises the fence, so the writer itself wrote this end.
        Err(Fenced::AlreadyEnded)
    } else {
        Ok(())
    }
}

/// Renews the lease of a live worker, and moves the progress forward.
pub fn advance(
    found: &Record,
    token: FencingToken,
    progress: u8,
    stage: Option<&str>,
    now: Timestamp,
    budgets: &Budgets,
) -> Result<Record, Fenced> {
    owned(found, token)?;
    let mut record = renewed(found, now, budgets);
    record.progress = record.progress.max(progress.min(100));
    if let Some(stage) = stage {
        record.stage = Some(stage.into());
    }
    Ok(record)
}

fn renewed(found: &Record, now: Timestamp, budgets: &Budgets) -> Record {
    let mut record = found.clone();
    let expires_at = now.after(budgets.lease);
    if let Some(lease) = &mut record.lease {
        lease.expires_at = expires_at;
    }
    record.due_at = Some(expires_at);
    record.updated_at = found.not_before(now);
    record
}

/// End of the work.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Done, with this result.
    Completed(Arc<RawValue>),
    /// Failed, as far as this program can tell. The work may have been done unseen, so a re-drive calls it with the same key.
    Failed(Failure),
    /// Failed by the work's own verdict. A re-drive uses a new key, since the old key would only return this answer.
    Refused(Failure),
    /// Ended because the owner asked for it.
    Cancelled,
}

/// The record after a failed try of the claim of `token`, where another try may succeed. The order either waits for its next try
/// (`retryAt`) or ends: this was the last try, the next would begin after the deadline, or the owner asked to cancel the order.
/// The pause before the next try is `jitter` (0 to 1) times a pause that doubles with each try, or `after` if that is longer.
/// A record that waits already, because only the answer to its write was lost, stays unchanged.
pub fn retry(
    found: &Record,
    token: FencingToken,
    failure: Failure,
    after: Option<Duration>,
    jitter: f64,
    now: Timestamp,
    budgets: &Budgets,
) -> Result<Record, Fenced> {
    owned(found, token)?;
    // Every other writer that removes the lease raises the fence, so the writer itself wrote this wait.
    if found.lease.is_none() && found.retry_at.is_some() {
        return Ok(found.clone());
    }
    let mut record = found.clone();
    let tries = found.attempt - found.attempts_before.min(found.attempt);
    let longest = budgets.retry_base.saturating_mul(1 << tries.saturating_sub(1).min(20)).min(budgets.retry_cap);
    let pause = longest.mul_f64(jitter.clamp(0.0, 1.0)).max(after.unwrap_or_default());
    let retry_at = now.after(pause);
    if found.cancel_requested {
        end(&mut record, Verdict::Cancelled, now, budgets);
        return Ok(record);
    }
    if tries >= budgets.max_attempts || retry_at >= found.deadline {
        end(&mut record, Verdict::Failed(failure), now, budgets);
        return Ok(record);
    }
    note(&mut record, Event::Retrying, Some(failure.code.clone()), now);
    record.error = Some(failure);
    record.lease = None;
    record.retry_at = Some(retry_at);
    record.wake_at = Some(retry_at);
    // Should the copy be lost, the sweeper sends one.
    record.due_at = Some(found.due(retry_at.after(budgets.overdue_after)));
    Ok(record)
}

/// The record of a failed order that an operator re-drives: a new life with a fresh budget. `None` if the order has not failed, or was
/// refused unclaimed ([`refuse`]): it is no order that work could be done for.
/// If the work itself refused ([`Verdict::Refused`]), it is called with a new key, which has no answer yet; otherwise with the old key,
/// since the work may have been done unseen. Earlier tries stay counted, and a worker of the old life is fenced off.
/// Write the record before its message is sent; if the message is lost, the sweeper sends it.
pub fn redrive(found: &Record, life: Uuid, now: Timestamp, budgets: &Budgets) -> Option<Record> {
    if found.status != Status::Failed || found.fence == 0 {
        return None;
    }
    let mut record = found.clone();
    record.status = Status::Accepted;
    record.life = life;
    record.fence += 1;
    record.attempts_before = record.attempt;
    record.interruptions = 0;
    record.emissions = 0;
    record.sent_again_at = None;
    record.wake_ups = 0;
    record.progress = 0;
    record.stage = None;
    record.error = None;
    record.result = None;
    record.completed_at = None;
    record.ttl = None;
    record.due_at = Some(now.after(budgets.overdue_after.min(budgets.order_deadline)));
    record.deadline = now.after(budgets.order_deadline);
    // The end that the notice tells of is undone. The next end has its own notice, with another id.
    if let Some(callback) = &mut record.callback {
        callback.notice = None;
    }
    note(&mut record, Event::Redriven, None, now);
    Some(record)
}

/// The end of an order by the worker that holds it.
pub fn finish(found: &Record, token: FencingToken, verdict: Verdict, now: Timestamp, budgets: &Budgets) -> Result<Record, Fenced> {
    owned(found, token)?;
    let mut record = found.clone();
    end(&mut record, verdict, now, budgets);
    Ok(record)
}

fn end(record: &mut Record, verdict: Verdict, now: Timestamp, budgets: &Budgets) {
    record.key_life = matches!(verdict, Verdict::Failed(_)).then(|| record.key_life());
    let event = match verdict {
        Verdict::Completed(result) => {
            record.status = Status::Completed;
            record.progress = 100;
            record.result = Some(result);
            record.error = None;
            Event::Completed
        }
        Verdict::Failed(failure) | Verdict::Refused(failure) => {
            record.status = Status::Failed;
            record.error = Some(failure);
            Event::Failed
        }
        Verdict::Cancelled => {
            record.status = Status::Cancelled;
            record.error = None;
            Event::Cancelled
        }
    };
    let code = record.error.as_ref().map(|failure| failure.code.clone());
    record.lease = None;
    record.cancel_requested = false;
    record.retry_at = None;
    record.wake_at = None;
    record.due_at = None;
    if budgets.tells_ends || record.callback.is_some() {
        // In the same write as the end, by every writer of an end: if the process dies next, the sweeper finds the callback by `dueAt`.
        record.callback.get_or_insert_default().notice =
            Some(Notice { state: NoticeState::Pending, attempts: 0, attempts_before: 0, since: now, code: None });
        record.due_at = Some(now);
    }
    record.completed_at = Some(record.not_before(now));
    record.ttl = Some(u32::try_from(budgets.retention.as_secs()).unwrap_or(u32::MAX));
    note(record, event, code, now);
}

/// Adds a transition to the history, and sets the record's version by what the record holds.
pub(crate) fn note(record: &mut Record, event: Event, code: Option<String>, now: Timestamp) {
    let now = record.not_before(now);
    record.updated_at = now;
    record.history.push(Transition { at: now, event, attempt: record.attempt, code });
    if record.history.len() > MAX_HISTORY {
        record.history.remove(1);
    }
    record.schema_version = record.version();
}

impl Record {
    /// Moment that a change records, never before the record's last one: clocks of two instances may differ by a second, yet no order may
    /// end before it began. Leases follow the clock unchanged.
    pub(crate) fn not_before(&self, now: Timestamp) -> Timestamp {
        now.max(self.updated_at)
    }

    /// `moment`, or the order's deadline if that comes first: the sweeper looks at an order that no worker holds by its deadline.
    fn due(&self, moment: Timestamp) -> Timestamp {
        moment.min(self.deadline)
    }
}
