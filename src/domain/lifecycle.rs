//! What may become of an order: record and event in, decision out.
//!
//! Nothing here reads a clock, a store or the environment, so that every interleaving can be tried in a model.
//! The rules are the section "Interleavings" of `ARCHITECTURE.md`.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::domain::timestamp::Timestamp;
use crate::domain::tracking::TrackingId;

/// The version this program writes. It reads this one and every older one.
/// 1: without retries and re-emissions, which are absent then.
pub const SCHEMA_VERSION: u32 = 2;
/// So many transitions are kept: the first, and the latest of the others. The counters say what is no longer shown.
pub const MAX_HISTORY: usize = 16;
/// Longest message of a failure, in bytes: a record is small beside its order.
pub const MAX_FAILURE: usize = 500;

/// Everything known of one order; one item in the store, id and partition key are the tracking id.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Form of this record; see [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Its id.
    pub tracking_id: TrackingId,
    /// Who may see it.
    pub owner: String,
    /// Random, made with the record and renewed by a re-drive; a message of another life is completed unread.
    pub life: Uuid,
    /// The life under whose key the work is asked for, where it is an earlier one: it failed without the work's own verdict, and
    /// what may have been done unseen must not be done again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_life: Option<Uuid>,
    /// The order as it was accepted, to the letter.
    pub order: Arc<RawValue>,
    /// SHA-256 of the order's canonical form, in hexadecimal.
    pub fingerprint: String,
    /// Where the request came from.
    pub metadata: Metadata,
    /// Where the order stands.
    pub status: Status,
    /// 0 to 100, never backwards.
    pub progress: u8,
    /// What the work is doing, or did last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Raised by every claim and by every finish by someone who does not hold the lease; never reset while the record is kept.
    pub fence: u64,
    /// Tries that reached the work and gave a verdict or are running.
    pub attempt: u32,
    /// Claims that ended without a verdict: a crash, a lost lease.
    pub interruptions: u32,
    /// Tries before the last re-drive, which the budget does not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempts_before: u32,
    /// How often its message was sent again since somebody last claimed it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub emissions: u32,
    /// Copies of its message that were scheduled by those who met a live lease, in this life; see [`MAX_WAKE_UPS`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wake_ups: u32,
    /// Who works on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// Its owner wishes it cancelled, and somebody still works on it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel_requested: bool,
    /// When the next try may begin; present while a retry waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// When a copy of its message arrives that was scheduled; one that has passed says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake_at: Option<Timestamp>,
    /// When to look whether it is stuck; absent once terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
    /// After this moment it fails, waits included.
    pub deadline: Timestamp,
    /// What the work made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Arc<RawValue>>,
    /// Why it failed, or why its last try did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// When it was recorded, which is before its 202.
    pub submitted_at: Timestamp,
    /// When it was first claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When this record last changed.
    pub updated_at: Timestamp,
    /// When it reached its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// What happened, oldest first; see [`MAX_HISTORY`].
    pub history: Vec<Transition>,
    /// Seconds the store keeps it after its last change; set when terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Record {
    /// A moment to write down: two instances may disagree by a second, and yet no order ends before it began. Leases and the
    /// like follow the clock as it is.
    fn not_before(&self, now: Timestamp) -> Timestamp {
        now.max(self.updated_at)
    }

    /// What the latest claim may write with.
    pub fn token(&self) -> FencingToken {
        FencingToken { life: self.life, fence: self.fence }
    }

    /// The life whose key goes with every request for the work.
    pub fn key_life(&self) -> Uuid {
        self.key_life.unwrap_or(self.life)
    }

    /// A moment to look at it, or the end of its time if that comes before.
    fn due(&self, moment: Timestamp) -> Timestamp {
        moment.min(self.deadline)
    }
}

/// A claim's right to write. Without the life, fences would begin again with an order that is sent once more after its record
/// has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FencingToken {
    /// Of the record.
    pub life: Uuid,
    /// Of the claim.
    pub fence: u64,
}

/// Where an order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Recorded; its message is on its way.
    Accepted,
    /// Claimed at least once, not ended.
    Processing,
    /// Ended with a result.
    Completed,
    /// Ended with an error.
    Failed,
    /// Ended by its owner's wish.
    Cancelled,
}

impl Status {
    /// Whether nothing more happens to it by itself.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    const ALL: [Self; 5] = [Self::Accepted, Self::Processing, Self::Completed, Self::Failed, Self::Cancelled];

    /// As clients and logs see it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl std::str::FromStr for Status {
    type Err = ();

    /// Reads what [`Status::as_str`] gives.
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(())
    }
}

/// Where a request came from; travels in the message too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// The API that took it.
    pub api_name: String,
    /// Its operation.
    pub operation_name: String,
    /// The caller's subscription at a gateway, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription_id: Option<String>,
    /// When it arrived.
    pub received_at: Timestamp,
    /// W3C trace context of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Who asked.
    pub owner: String,
}

/// One worker's right to write, until a moment by the store's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// Who holds it.
    pub holder: Holder,
    /// The invocation that claimed: one process runs many.
    pub invocation: String,
    /// When it runs out unless renewed.
    pub expires_at: Timestamp,
}

/// A process, told apart from every other that ever was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Name of the instance.
    pub instance: String,
    /// Boot of its machine, with the process namespace; absent where the system does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// Process id.
    pub process: u32,
    /// When the process started, in the system's own ticks: process ids are used again.
    pub started: u64,
}

/// Why an order failed, as its customer may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable, for machines.
    pub code: String,
    /// For people.
    pub message: String,
}

impl Failure {
    /// A failure with a stable code. A message beyond [`MAX_FAILURE`] is cut.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MAX_FAILURE));
        Self { code: code.into(), message }
    }
}

/// One step of an order's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// When.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
    /// The attempt it belongs to; 0 before the first.
    pub attempt: u32,
    /// Why a try failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// What can happen to an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// Recorded.
    Accepted,
    /// A worker took it.
    Claimed,
    /// A worker took it from one that vanished.
    Interrupted,
    /// A try failed, and another is to follow.
    Retrying,
    /// An operator put it back on its way after it had failed.
    Redriven,
    /// Ended.
    Completed,
    /// Ended.
    Failed,
    /// Ended.
    Cancelled,
}

impl Event {
    const ALL: [Self; 8] =
        [Self::Accepted, Self::Claimed, Self::Interrupted, Self::Retrying, Self::Redriven, Self::Completed, Self::Failed, Self::Cancelled];

    /// As records and clients see it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Claimed => "claimed",
            Self::Interrupted => "interrupted",
            Self::Retrying => "retrying",
            Self::Redriven => "redriven",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads what [`Event::as_str`] gives.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == text)
    }

    /// Whether the order has ended with it.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// What an order may spend.
#[derive(Debug, Clone)]
pub struct Budgets {
    /// Length of a lease.
    pub lease: Duration,
    /// Tries that may fail before the order does.
    pub max_attempts: u32,
    /// The longest pause before the second try; doubled for each later one, up to `retry_cap`.
    pub retry_base: Duration,
    /// The longest pause there is.
    pub retry_cap: Duration,
    /// The claim that would be interrupted for the so-manieth time fails the order instead.
    pub max_interruptions: u32,
    /// From submission to the end, waits included.
    pub order_deadline: Duration,
    /// How long a terminal record is kept.
    pub retention: Duration,
    /// When the first look at an order that nobody claimed is due.
    pub first_look: Duration,
}

/// A new order, about to be recorded.
#[derive(Debug)]
pub struct Submission {
    /// Derived from the request; see [`crate::domain::tracking`].
    pub tracking_id: TrackingId,
    /// Random.
    pub life: Uuid,
    /// The body as sent.
    pub order: Arc<RawValue>,
    /// Of the body.
    pub fingerprint: String,
    /// Of the request.
    pub metadata: Metadata,
}

/// The record of an order nobody has worked on. `wait` is how long orders have lately waited for their first claim.
pub fn accept(submission: Submission, wait: Duration, now: Timestamp, budgets: &Budgets) -> Record {
    Record {
        schema_version: SCHEMA_VERSION,
        tracking_id: submission.tracking_id,
        owner: submission.metadata.owner.clone(),
        life: submission.life,
        key_life: None,
        order: submission.order,
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
        wake_ups: 0,
        lease: None,
        cancel_requested: false,
        retry_at: None,
        wake_at: None,
        due_at: Some(now.after(budgets.first_look.max(patience(wait, budgets)).min(budgets.order_deadline))),
        deadline: now.after(budgets.order_deadline),
        result: None,
        error: None,
        submitted_at: now,
        started_at: None,
        updated_at: now,
        completed_at: None,
        history: vec![Transition { at: now, event: Event::Accepted, attempt: 0, code: None }],
        ttl: None,
    }
}

/// What a request means whose record already exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resubmission {
    /// The same order, not yet claimed, or overdue: the same answer, and the message once more, since the first may never have
    /// left, or have been dead-lettered.
    EmitAgain,
    /// The same order, on its way or at its end: the same answer.
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

/// A worker that holds a message and asks for its order.
#[derive(Debug)]
pub struct Claimant<'a> {
    /// Of the message.
    pub life: Uuid,
    /// The asking process.
    pub holder: &'a Holder,
    /// The asking invocation.
    pub invocation: &'a str,
    /// By the store's clock.
    pub now: Timestamp,
    /// Whether the process named in the record's lease is known to be gone (same instance, same boot, no such process).
    pub holder_gone: bool,
}

/// What a claimant does next.
#[derive(Debug)]
pub enum Claim {
    /// The order is at its end, or the message is of another life: complete the message, change nothing.
    NothingToDo,
    /// Somebody else holds it, or a retry waits, at least until this moment. Where copies of messages can be scheduled: write
    /// the record, schedule one for its `wakeAt`, and complete this one; without a record one is on its way already, or the
    /// sweeper sends one.
    Wait(Timestamp, Option<Record>),
    /// Write this; then the order is ours. Also when this invocation's own claim already stands, the answer to whose write was
    /// lost: then its lease is renewed.
    Take(Record),
    /// A budget is spent, or its owner wished it cancelled: write this end.
    GiveUp(Record),
}

/// Decides who may work on an order: one that is accepted, or whose lease has run out or whose worker is gone, with budget left.
pub fn claim(found: &Record, claimant: &Claimant<'_>, budgets: &Budgets) -> Claim {
    let now = claimant.now;
    if found.status.is_terminal() || found.life != claimant.life {
        return Claim::NothingToDo;
    }
    if let Some(lease) = &found.lease {
        if lease.holder == *claimant.holder && lease.invocation == claimant.invocation {
            return Claim::Take(renewed(found, now, budgets));
        }
        if lease.expires_at > now && !claimant.holder_gone {
            return Claim::Wait(lease.expires_at, step_aside(found, lease.expires_at, now, budgets));
        }
    }
    let interrupted = found.lease.is_some();
    if let Some(record) = give_up(found, now, budgets) {
        return Claim::GiveUp(record);
    }
    if let Some(retry_at) = found.retry_at.filter(|retry_at| *retry_at > now.after(TOLERANCE)) {
        return Claim::Wait(retry_at, wake(found, retry_at, now, budgets));
    }
    let interruptions = found.interruptions + u32::from(interrupted);
    let mut record = found.clone();
    let expires_at = now.after(budgets.lease);
    record.fence += 1;
    record.status = Status::Processing;
    record.interruptions = interruptions;
    // A try that was cut off is still the same try: it gave no verdict.
    record.attempt += u32::from(!interrupted);
    record.lease = Some(Lease { holder: claimant.holder.clone(), invocation: claimant.invocation.into(), expires_at });
    record.due_at = Some(expires_at);
    record.retry_at = None;
    record.wake_at = None;
    record.emissions = 0;
    record.started_at.get_or_insert(found.not_before(now));
    note(&mut record, if interrupted { Event::Interrupted } else { Event::Claimed }, None, now);
    Claim::Take(record)
}

/// A scheduled message may come this much early, by the store's clock.
const TOLERANCE: Duration = Duration::from_secs(2);
/// So many copies of its message those who meet a live lease schedule in one life of an order, however many of them there are and
/// however long the work takes: a broker that delivers everything three times would otherwise have one more for every try. They
/// save time only: the sweeper looks when the lease has run out.
pub const MAX_WAKE_UPS: u32 = 2;

/// The record under which one who meets a live lease schedules a copy of his message for when it has run out. It comes a little
/// later: one that comes early, by the store's clock, would find the lease alive.
fn step_aside(found: &Record, expires_at: Timestamp, now: Timestamp, budgets: &Budgets) -> Option<Record> {
    let until = expires_at.after(TOLERANCE.min(budgets.lease / 2));
    let record = wake(found, until, now, budgets).filter(|_| found.wake_ups < MAX_WAKE_UPS)?;
    Some(Record { wake_ups: found.wake_ups + 1, ..record })
}

/// The copy of the message under whose `wakeAt` this record was written could not be scheduled: nobody may rely on it.
pub fn not_scheduled(found: &Record) -> Record {
    Record { wake_at: None, ..found.clone() }
}

/// Nobody can work on an order before `until`: the record under which a copy of its message is scheduled for then, or for a moment
/// later if that is soon. None when one is on its way already: wake-ups do not multiply.
pub fn wake(found: &Record, until: Timestamp, now: Timestamp, budgets: &Budgets) -> Option<Record> {
    // One that is nearly due may be the very message that asks, which came early; and one that is written now is to stand for those
    // who ask at the same time.
    let stands = found.wake_at.is_some_and(|wake_at| wake_at > now.after(TOLERANCE));
    let until = until.max(now.after(TOLERANCE * 2));
    // Should the copy be lost, the sweeper sends one.
    let due_at = found.due_at.max(Some(found.due(until.after(budgets.first_look))));
    (!stands).then(|| Record { wake_at: Some(until), due_at, ..found.clone() })
}

/// The end of an order that nobody works on and that has spent a budget, or is to be cancelled.
fn give_up(found: &Record, now: Timestamp, budgets: &Budgets) -> Option<Record> {
    let interruptions = found.interruptions + u32::from(found.lease.is_some());
    let verdict = if found.cancel_requested {
        Verdict::Cancelled
    } else if now >= found.deadline {
        Verdict::Failed(Failure::new("deadline_exceeded", "the order was not processed in time"))
    } else if found.lease.is_some() && interruptions >= budgets.max_interruptions {
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

/// What a wish to cancel comes to.
#[derive(Debug)]
pub enum Cancel {
    /// It is cancelled already.
    Cancelled,
    /// It has ended otherwise, and stays so.
    Ended,
    /// The wish stands already: its worker is to see it.
    Requested,
    /// Nobody works on it: write this end, retry waits included.
    End(Record),
    /// Somebody works on it: write this wish, which he sees at his next renewal, and whoever comes after him first of all.
    Request(Record),
}

/// Decides about its owner's wish to cancel an order.
pub fn cancel(found: &Record, now: Timestamp, budgets: &Budgets) -> Cancel {
    let wish = || Record { cancel_requested: true, updated_at: found.not_before(now), ..found.clone() };
    if found.status == Status::Cancelled {
        Cancel::Cancelled
    } else if found.status.is_terminal() {
        Cancel::Ended
    } else if found.lease.as_ref().is_none_or(|lease| lease.expires_at <= now) {
        give_up(&wish(), now, budgets).map_or(Cancel::Requested, Cancel::End)
    } else if found.cancel_requested {
        Cancel::Requested
    } else {
        Cancel::Request(wish())
    }
}

/// What the sweeper does about an order that is due.
#[derive(Debug)]
pub enum Sweep {
    /// It is at its end, or not due any more.
    Nothing,
    /// Write this, which moves `dueAt` ahead: the order waits, and is not overdue.
    Postpone(Record),
    /// Write this, which moves `dueAt` ahead, and only then send the message again.
    Emit(Record),
    /// A budget is spent, or its owner wished it cancelled: write this end.
    GiveUp(Record),
}

/// Decides about an order whose `dueAt` has passed. `wait` is how long orders have lately waited for their first claim: whether
/// an `accepted` order was never sent or merely waits behind others cannot be known, and sending it again would feed the queue.
pub fn sweep(found: &Record, wait: Duration, now: Timestamp, budgets: &Budgets) -> Sweep {
    if found.status.is_terminal() || found.due_at.is_none_or(|due_at| due_at > now) {
        return Sweep::Nothing;
    }
    if let Some(lease) = found.lease.as_ref().filter(|lease| lease.expires_at > now) {
        return Sweep::Postpone(Record { due_at: Some(lease.expires_at), ..found.clone() });
    }
    if let Some(record) = give_up(found, now, budgets) {
        return Sweep::GiveUp(record);
    }
    if let Some(wake_at) = found.wake_at.filter(|wake_at| *wake_at > now) {
        return Sweep::Postpone(Record { due_at: Some(found.due(wake_at.after(budgets.first_look))), ..found.clone() });
    }
    // A re-driven order has waited since its re-drive, which is when it last changed.
    let patient_until = found.updated_at.after(patience(wait, budgets));
    if found.status == Status::Accepted && patient_until > now {
        return Sweep::Postpone(Record { due_at: Some(found.due(patient_until.max(now.after(budgets.first_look)))), ..found.clone() });
    }
    Sweep::Emit(emit_again(found, wait, now, budgets))
}

/// An order that waits longer than so many times the usual wait is overdue,
const PATIENCE: u32 = 3;
/// or longer than this part of its time: after a day's queue nobody may wait for days before he looks whether a message was lost.
const MOST_PATIENCE: u32 = 8;
/// `dueAt` doubles with each re-emission up to this many times.
const MAX_DOUBLINGS: u32 = 8;

/// How long an order may wait for its first claim before it is overdue, where orders usually wait so long.
fn patience(wait: Duration, budgets: &Budgets) -> Duration {
    wait.saturating_mul(PATIENCE).min(budgets.order_deadline / MOST_PATIENCE)
}

/// The record of an order whose message is about to be sent again.
fn emit_again(found: &Record, wait: Duration, now: Timestamp, budgets: &Budgets) -> Record {
    let pause = budgets.first_look.max(patience(wait, budgets)).saturating_mul(1 << found.emissions.min(MAX_DOUBLINGS));
    Record { due_at: Some(found.due(now.after(pause))), emissions: found.emissions + 1, ..found.clone() }
}

/// What a dead letter is followed by.
#[derive(Debug)]
pub enum DeadLetter {
    /// Its order needs it no more: it is at its end, in another life, held, or comes up by itself.
    Nothing,
    /// Write this, and only then send the message again.
    Emit(Record),
    /// A budget is spent, or its owner wished it cancelled: write this end.
    GiveUp(Record),
}

/// Decides about a message that the queue gave up. It is a lost delivery, not a verdict. The first is made good at once; an order
/// whose messages die again and again waits for the sweeper, whose pauses grow: no dead letter may cause the next without a pause.
/// `holder_gone`: as in [`Claimant::holder_gone`].
pub fn dead_letter(found: &Record, life: Uuid, holder_gone: bool, wait: Duration, now: Timestamp, budgets: &Budgets) -> DeadLetter {
    let held = !holder_gone && found.lease.as_ref().is_some_and(|lease| lease.expires_at > now);
    let comes_up = [found.wake_at, found.retry_at].into_iter().flatten().any(|moment| moment > now);
    if found.status.is_terminal() || found.life != life || held || comes_up {
        return DeadLetter::Nothing;
    }
    match give_up(found, now, budgets) {
        Some(record) => DeadLetter::GiveUp(record),
        None if found.emissions > 0 => DeadLetter::Nothing,
        None => DeadLetter::Emit(emit_again(found, wait, now, budgets)),
    }
}

/// Why a writer must not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fenced {
    /// Its own finishing write already stands: go on as if it had been answered.
    AlreadyEnded,
    /// Somebody else took the order: stop without a trace.
    Superseded,
}

/// Checks that the writer whose claim gave him `token` still owns the order. After a refused write the record is read again and
/// the same change applied to the new version; this says whether it may be.
pub fn owned(found: &Record, token: FencingToken) -> Result<(), Fenced> {
    if found.token() != token {
        Err(Fenced::Superseded)
    } else if found.status.is_terminal() {
        // Everyone who ends an order without its lease raises the fence, so this end is the writer's own.
        Err(Fenced::AlreadyEnded)
    } else {
        Ok(())
    }
}

/// The worker is alive and so far: renews its lease, and moves progress forwards.
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

/// How the work ended.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// With this result.
    Completed(Arc<RawValue>),
    /// For good, whatever has been done for it.
    Failed(Failure),
    /// For good, by the work's own word: asked once more, it must not give the same answer unasked.
    Refused(Failure),
    /// By its owner's wish, and without an effect.
    Cancelled,
}

/// What a failed try is followed by.
#[derive(Debug)]
pub enum Retried {
    /// Write this, schedule a copy of the message for that moment, and only then complete this one.
    Waits(Record, Timestamp),
    /// It was the last try, or the next would come too late, or its owner wished it cancelled: write this end.
    Ended(Record),
}

/// A try of the worker whose claim gave him `token` failed, and another may succeed: after a pause of `jitter` (0 to 1) times an
/// exponentially growing one, or what the backend asked for if that is longer. What stands already, the answer to whose write was
/// lost, stays as it is.
pub fn retry(
    found: &Record,
    token: FencingToken,
    failure: Failure,
    after: Option<Duration>,
    jitter: f64,
    now: Timestamp,
    budgets: &Budgets,
) -> Result<Retried, Fenced> {
    owned(found, token)?;
    // Nobody else lets go of the lease without raising the fence.
    if let (None, Some(retry_at)) = (&found.lease, found.retry_at) {
        return Ok(Retried::Waits(found.clone(), retry_at));
    }
    let mut record = found.clone();
    let tries = found.attempt - found.attempts_before.min(found.attempt);
    let longest = budgets.retry_base.saturating_mul(1 << tries.saturating_sub(1).min(20)).min(budgets.retry_cap);
    let pause = longest.mul_f64(jitter.clamp(0.0, 1.0)).max(after.unwrap_or_default());
    let retry_at = now.after(pause);
    if found.cancel_requested {
        end(&mut record, Verdict::Cancelled, now, budgets);
        return Ok(Retried::Ended(record));
    }
    if tries >= budgets.max_attempts || retry_at >= found.deadline {
        end(&mut record, Verdict::Failed(failure), now, budgets);
        return Ok(Retried::Ended(record));
    }
    note(&mut record, Event::Retrying, Some(failure.code.clone()), now);
    record.error = Some(failure);
    record.lease = None;
    record.retry_at = Some(retry_at);
    record.wake_at = Some(retry_at);
    // Should the copy be lost, the sweeper sends one.
    record.due_at = Some(found.due(retry_at.after(budgets.first_look)));
    Ok(Retried::Waits(record, retry_at))
}

/// An operator puts a failed order back on its way, in a new life, with a fresh budget. Where the work said itself that it failed,
/// it is asked for under a new key, which has no answer yet; otherwise under the old one, since it may have been done unseen. Tries
/// made stay counted, and whoever still works in the old life is fenced off. None when it has not failed.
/// To be written before its message is sent; should that not happen, the sweeper sends it.
pub fn redrive(found: &Record, life: Uuid, now: Timestamp, budgets: &Budgets) -> Option<Record> {
    if found.status != Status::Failed {
        return None;
    }
    let mut record = found.clone();
    record.status = Status::Accepted;
    record.life = life;
    record.fence += 1;
    record.attempts_before = record.attempt;
    record.interruptions = 0;
    record.emissions = 0;
    record.wake_ups = 0;
    record.progress = 0;
    record.stage = None;
    record.error = None;
    record.result = None;
    record.completed_at = None;
    record.ttl = None;
    record.due_at = Some(now.after(budgets.first_look.min(budgets.order_deadline)));
    record.deadline = now.after(budgets.order_deadline);
    note(&mut record, Event::Redriven, None, now);
    Some(record)
}

/// The worker's own end of an order.
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
    record.completed_at = Some(record.not_before(now));
    record.ttl = Some(u32::try_from(budgets.retention.as_secs()).unwrap_or(u32::MAX));
    note(record, event, code, now);
}

fn note(record: &mut Record, event: Event, code: Option<String>, now: Timestamp) {
    let now = record.not_before(now);
    record.updated_at = now;
    record.history.push(Transition { at: now, event, attempt: record.attempt, code });
    if record.history.len() > MAX_HISTORY {
        record.history.remove(1);
    }
}
