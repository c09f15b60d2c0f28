//! Every sequence of events in a small world: one order, two workers, a broker, a sweeper, and a limited number of faults. The
//! product's own functions decide about the record; the model supplies their callers, the moments of calls, and the losses between.
//!
//! The search is written here because `stateright` cannot check the most important property: from every state, some path without a
//! fault leads to an end. Its `eventually` follows single paths up to where they meet. `stateright` also depends on a web server.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a failed test")]
#![expect(clippy::struct_excessive_bools, clippy::unused_self, reason = "a state is what it is; every step is asked in the same way")]

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use uuid::Uuid;
use waybill_domain::callback::{self, Next, Told};
use waybill_domain::lifecycle::{self, Budgets, Cancel, Claim, Claimant, DeadLetter, Fenced, Resubmission, Submission, Sweep, Verdict};
use waybill_domain::order::Names;
use waybill_domain::record::{Callback, Failure, FencingToken, Holder, Lease, Metadata, Notice, NoticeState, Record, Status};
use waybill_domain::timestamp::Timestamp;
use waybill_domain::tracking::TrackingId;

/// Step of time, as long as the tolerance for copies that arrive early.
const TICK: Duration = Duration::from_secs(2);
/// Present of every state; moments are relative to it.
const NOW: Timestamp = Timestamp::from_milliseconds(1_000_000_000_000);
const LEASE: Ticks = 2;
const RETRY: Ticks = 2;
const AWAY: Ticks = 2;
const FIRST_LOOK: Ticks = 2;
/// Furthest moment of a scheduled copy: the copy for the end of a lease arrives a tick after that end.
const FURTHEST: Ticks = LEASE + 1;
/// Longest pause of the sweeper in the model; the product's pauses may be longer.
const LONGEST: Ticks = 4;
/// Deadline that never comes.
const NEVER: Ticks = Ticks::MAX;
const MAX_ATTEMPTS: u8 = 2;
const MAX_INTERRUPTIONS: u8 = 2;
const MAX_DELIVERIES: usize = 3;
/// Most scheduled copies that have not arrived yet, in any state: wake-ups do not multiply.
const MOST_WAITING: usize = 3;
/// Lives of an order: the first, and one after a re-drive.
const LIVES: usize = 2;
/// Most tries of a callback in any state of the model, whose receiver fails no more often than its faults allow.
const MOST_TRIES: u8 = 5;
/// Time after the begin of a try in which no other may begin; longer in the product.
const HELD: Ticks = 2;
/// Fence of the record, and of a worker that knows the latest claim.
const FENCE: u64 = 10;

/// Distance of a moment from now; 0 for a past moment.
type Ticks = u8;
type Violation = &'static str;
type Label = (&'static str, usize);

/// Kinds of faults; a scope limits the number of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// A worker, the sweeper, the reader or the operator crashes at any step. A worker's message comes back.
    Crash,
    /// A crash only in the middle of the work.
    Kill,
    /// The store does not answer, or a wait takes too long: an invocation fails without holding the order.
    Abandon,
    /// A worker sleeps until its lease has run out, then continues.
    Pause,
    /// The broker delivers a message twice.
    Duplicate,
    /// The host or an operator does not send a message.
    LostSend,
    /// The broker loses the lock of a message whose worker is still at work, and delivers the message again.
    LostLock,
    /// A write is done, but its writer is told that the write was refused.
    LostAnswer,
    /// A copy cannot be scheduled, and the worker learns so.
    NotScheduled,
    /// A scheduled copy never arrives.
    LostCopy,
    /// A scheduled copy arrives early.
    Early,
    /// The backend is known not to answer.
    Away,
    /// A program that is too old to read the record takes a message.
    Older,
    /// The client sends its order again.
    AskAgain,
    /// The client sends its order again and is refused.
    AskRefused,
    /// An operator re-drives a failed order.
    Redrive,
    /// The owner asks to cancel the order.
    Cancel,
    /// The receiver of the callback does not confirm it.
    NotConfirmed,
    /// The receiver wants no callback.
    Gone,
    /// A process that sends callbacks crashes, or is told that a write was refused which is done.
    SenderCrash,
    /// An operator asks for the callback once more.
    TellAgain,
    /// The receiver of the callback has no place for one more try.
    Busy,
}

const FAULTS: usize = Fault::Busy as usize + 1;

/// A part of the world that is searched completely.
#[derive(Clone)]
struct Scope {
    name: &'static str,
    faults: &'static [(Fault, u8)],
    /// Copies of messages can be scheduled; otherwise, without a Service Bus client, a worker waits in its invocation.
    schedules: bool,
    sweeps: bool,
    /// Other workers see a crash at once.
    sees_crashes: bool,
    /// Claim and end are one write.
    pure: bool,
    deadline: Ticks,
    /// Known wait of orders for their first claim.
    wait: Ticks,
    /// Messages that the sweeper sends while no worker claims. The product goes on sending, in growing pauses; after this number the
    /// model sends only lost messages again.
    emissions: u8,
    /// Most copies of the message at one moment, including dead letters.
    most: usize,
    /// The end of the order is told.
    tells: bool,
}

const PLAIN: Scope = Scope {
    name: "",
    faults: &[],
    schedules: true,
    sweeps: true,
    sees_crashes: false,
    pure: false,
    deadline: NEVER,
    wait: 0,
    emissions: 0,
    most: 0,
    tells: false,
};

/// Every part of a record that decides anything, with moments relative to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Sketch {
    status: Status,
    life: u8,
    progress: u8,
    attempt: u8,
    attempts_before: u8,
    interruptions: u8,
    emissions: u8,
    wake_ups: u8,
    wish: bool,
    lease: Option<(Who, Ticks)>,
    retry: Option<Ticks>,
    wake: Option<Ticks>,
    due: Option<Ticks>,
    deadline: Ticks,
    /// Time since the last change.
    idle: Ticks,
    /// State and tries of the notice.
    notice: Option<(NoticeState, u8)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    /// Current invocation of this worker.
    Worker(usize),
    /// An invocation that has ended.
    Former,
}

/// A change of the record, decided and not yet written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Change {
    sketch: Sketch,
    raises_fence: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Worker {
    at: At,
    /// Life and deliveries of the message in hand, while its lock is held.
    message: Option<(u8, u8)>,
    /// Life of the message.
    life: u8,
    /// The worker's fence is an old one.
    fenced: bool,
    /// The worker knows the latest version of the record.
    fresh: bool,
    /// The worker's lease ran out while the worker slept.
    paused: bool,
    /// Another worker has claimed or ended the order since: the fence must tell.
    superseded: bool,
    /// The worker itself has ended the order, but the answer to that write was lost.
    ended: bool,
}

const IDLE: Worker =
    Worker { at: At::Idle, message: None, life: 0, fenced: false, fresh: false, paused: false, superseded: false, ended: false };

/// Next step of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    Idle,
    Look,
    /// A write; without a change, another write came in between.
    Write(Purpose, Option<Change>),
    /// Schedule a copy for the first moment; there is nothing to do before the second.
    Schedule(Ticks, Ticks),
    /// Wait in the invocation: no message will arrive.
    Wait(Ticks),
    Call,
    Called,
    Conclude(Ending),
    Complete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Purpose {
    Claim,
    /// Schedule a copy; there is nothing to do until this moment.
    Wake(Ticks),
    /// Take back a copy that could not be scheduled; there is nothing to do until this moment.
    NotScheduled(Ticks),
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Ending {
    Completed,
    Failed,
    Again,
    BrokenOff,
}

impl Purpose {
    fn next_when_refused(self) -> At {
        if let Self::NotScheduled(until) = self { At::Wait(until) } else { At::Look }
    }
}

impl Worker {
    fn is_working(&self) -> bool {
        matches!(self.at, At::Call | At::Called | At::Conclude(_))
    }

    /// Sort key of a worker, since two workers are interchangeable.
    fn rank(&self) -> (u8, Option<(u8, u8)>, u8, [bool; 5]) {
        let at = match self.at {
            At::Idle => 0,
            At::Look => 1,
            At::Write(Purpose::Claim, change) => 2 + u8::from(change.is_some()),
            At::Write(Purpose::Wake(moment), change) => 10 + 2 * moment + u8::from(change.is_some()),
            At::Write(Purpose::NotScheduled(moment), change) => 20 + 2 * moment + u8::from(change.is_some()),
            At::Write(Purpose::End, change) => 4 + u8::from(change.is_some()),
            At::Schedule(moment, until) => 100 + 8 * moment + until,
            At::Wait(moment) => 50 + moment,
            At::Call => 6,
            At::Called => 7,
            At::Conclude(ending) => 40 + ending as u8,
            At::Complete => 8,
        };
        (at, self.message, self.life, [self.fenced, self.fresh, self.paused, self.superseded, self.ended])
    }
}

/// State of the sweeper, or of the reader of dead letters, which holds the life of its letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Helper {
    Idle,
    Write { letter: u8, change: Option<Change>, emits: bool },
    Emit { letter: u8, life: u8 },
}

/// State of a process that sends callbacks, which knows the life and the try that it has claimed, and how long no other may try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Sender {
    Idle,
    /// Writes the claim of a try; `false`: another write came in between.
    Write(bool),
    Send(u8, u8, Ticks),
    /// The answer of the receiver.
    Answered(u8, u8, Answer),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Answer {
    Confirmed,
    NotConfirmed,
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Ingress {
    Start,
    Recorded,
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    record: Option<Sketch>,
    /// Messages by life and deliveries; the first delivery is 0.
    ready: [[u8; MAX_DELIVERIES]; LIVES],
    /// Scheduled messages by life and distance of their moment.
    scheduled: [[u8; FURTHEST as usize + 1]; LIVES],
    dead: [u8; LIVES],
    workers: [Worker; 2],
    ingress: Ingress,
    sweeper: Helper,
    reader: Helper,
    /// Life whose message the operator has not sent yet.
    operator: Option<u8>,
    faults: [u8; FAULTS],
    /// Calls to the backend in this life.
    calls: u8,
    /// Lives that have had their outcome.
    ended: [bool; LIVES],
    /// Faults after which a worker may be gone, or a lease may have run out.
    interrupting: u8,
    senders: [Sender; 2],
    /// Lives whose callback the receiver has confirmed, and those that it wants none of.
    confirmed: [bool; LIVES],
    gone: [bool; LIVES],
}

impl State {
    fn start(scope: &Scope) -> Self {
        let mut faults = [0; FAULTS];
        for (fault, budget) in scope.faults {
            faults[*fault as usize] = *budget;
        }
        Self {
            record: None,
            ready: [[0; MAX_DELIVERIES]; LIVES],
            scheduled: [[0; FURTHEST as usize + 1]; LIVES],
            dead: [0; LIVES],
            workers: [IDLE; 2],
            ingress: Ingress::Start,
            sweeper: Helper::Idle,
            reader: Helper::Idle,
            operator: None,
            faults,
            calls: 0,
            ended: [false; LIVES],
            interrupting: 0,
            senders: [Sender::Idle; 2],
            confirmed: [false; LIVES],
            gone: [false; LIVES],
        }
    }

    /// Whether the order has ended, and nothing is left to be told of it.
    fn is_ended(&self) -> bool {
        let is_told = |record: &Sketch| record.notice.is_none_or(|(state, _)| state != NoticeState::Pending);
        self.record.is_some_and(|record| record.status.is_terminal() && is_told(&record))
    }

    fn copies(&self) -> usize {
        let sum = |counts: &[u8]| counts.iter().map(|count| usize::from(*count)).sum::<usize>();
        let queued: usize = (0..LIVES).map(|life| sum(&self.ready[life]) + sum(&self.scheduled[life])).sum();
        let reading = usize::from(self.reader != Helper::Idle);
        queued + sum(&self.dead) + reading + self.workers.iter().filter(|worker| worker.message.is_some()).count()
    }

    /// Number of copies that wait for their moment.
    fn waiting(&self) -> usize {
        self.scheduled.iter().flatten().map(|count| usize::from(*count)).sum()
    }

    fn send(&mut self, life: u8) {
        self.ready[usize::from(life)][0] += 1;
    }

    fn redeliver(&mut self, (life, deliveries): (u8, u8)) {
        match self.ready[usize::from(life)].get_mut(usize::from(deliveries) + 1) {
            Some(count) => *count += 1,
            None => self.dead[usize::from(life)] += 1,
        }
    }

    /// Ends the invocation of worker `k`, which completes its message if the lock was still held.
    fn complete(&mut self, k: usize) {
        self.workers[k] = IDLE;
        self.each_sketch(|sketch| {
            if let Some((who, _)) = &mut sketch.lease
                && *who == Who::Worker(k)
            {
                *who = Who::Former;
            }
        });
    }

    fn abandon(&mut self, k: usize) {
        let message = self.workers[k].message;
        self.complete(k);
        if let Some(message) = message {
            self.redeliver(message);
        }
    }

    fn changes(&mut self) -> impl Iterator<Item = &mut Option<Change>> {
        let workers = self.workers.iter_mut().filter_map(|worker| match &mut worker.at {
            At::Write(_, change) => Some(change),
            _ => None,
        });
        let helpers = [&mut self.sweeper, &mut self.reader].into_iter().filter_map(|helper| match helper {
            Helper::Write { change, .. } => Some(change),
            _ => None,
        });
        workers.chain(helpers)
    }

    fn each_sketch(&mut self, mut change: impl FnMut(&mut Sketch)) {
        if let Some(record) = &mut self.record {
            change(record);
        }
        for pending in self.changes().flatten() {
            change(&mut pending.sketch);
        }
    }

    /// Sorts the workers, so that two states that differ only in their numbers become one.
    fn sort(&mut self) {
        self.senders.sort_unstable();
        if self.workers[0].rank() > self.workers[1].rank() {
            self.workers.swap(0, 1);
            self.each_sketch(|sketch| {
                if let Some((Who::Worker(k), _)) = &mut sketch.lease {
                    *k = 1 - *k;
                }
            });
        }
    }
}

struct Step {
    label: Label,
    is_fault: bool,
    to: Result<State, Violation>,
}

/// Steps that can follow a state.
struct Steps<'a> {
    from: &'a State,
    found: Vec<Step>,
}

impl Steps<'_> {
    fn step(&mut self, label: Label, change: impl FnOnce(&mut State) -> Result<(), Violation>) {
        let to = self.from.clone();
        self.push(label, false, to, change);
    }

    fn fault(&mut self, fault: Fault, label: Label, change: impl FnOnce(&mut State) -> Result<(), Violation>) {
        if self.from.faults[fault as usize] > 0 {
            let mut to = self.from.clone();
            to.faults[fault as usize] -= 1;
            to.interrupting += u8::from(matches!(fault, Fault::Crash | Fault::Kill | Fault::Abandon | Fault::Pause));
            self.push(label, true, to, change);
        }
    }

    fn push(&mut self, label: Label, is_fault: bool, mut to: State, change: impl FnOnce(&mut State) -> Result<(), Violation>) {
        let to = change(&mut to).map(|()| {
            to.sort();
            to
        });
        self.found.push(Step { label, is_fault, to });
    }
}

/// A rule that is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    ClaimIgnoresALiveLease,
    ClaimDoesNotRaiseTheFence,
    ClaimSetsNoDueAt,
    ClaimNeverGivesUp,
    ClaimForgetsTheWish,
    RenewedClaimForgetsTheWish,
    WriteDoesNotCheckTheFence,
    AnyoneFinishes,
    ProgressIsWrittenAsTold,
    RetryIgnoresTheBudget,
    RetryCompletesBeforeItWrites,
    WakeAlwaysSchedules,
    GiveUpDoesNotRaiseTheFence,
    SweepDoesNothing,
    SweepEmitsBeforeItWrites,
    SweepDoesNotMoveDueAt,
    DeadLetterIsDropped,
    RedriveKeepsTheLife,
    RedriveDoesNotRaiseTheFence,
    AwayKeepsTheLease,
    RefusedRepeatDoesNotMoveDueAt,
    EndWritesNoDueAt,
    RedriveKeepsTheNotice,
    SenderForgetsTheLife,
    SenderWritesNoTry,
    TryDoesNotMoveDueAt,
}

/// The product's decisions, with at most one rule removed.
struct Rules {
    budgets: Budgets,
    wait: Duration,
    without: Option<Mutant>,
}

impl Rules {
    fn lacks(&self, mutant: Mutant) -> bool {
        self.without == Some(mutant)
    }

    fn claim(&self, found: &Record, claimant: &Claimant<'_>) -> Claim {
        let holder_gone = claimant.holder_gone || self.lacks(Mutant::ClaimIgnoresALiveLease);
        let claimant = Claimant { holder_gone, ..*claimant };
        let is_own = found.lease.as_ref().is_some_and(|lease| lease.holder == *claimant.holder && lease.invocation == claimant.invocation);
        if is_own && self.lacks(Mutant::RenewedClaimForgetsTheWish) {
            return match lifecycle::claim(&Record { cancel_requested: false, ..found.clone() }, &claimant, &self.budgets) {
                Claim::Take(taken) => Claim::Take(Record { cancel_requested: found.cancel_requested, ..taken }),
                other => other,
            };
        }
        if self.lacks(Mutant::ClaimForgetsTheWish) {
            return lifecycle::claim(&Record { cancel_requested: false, ..found.clone() }, &claimant, &self.budgets);
        }
        if self.lacks(Mutant::ClaimNeverGivesUp) {
            let spared = Record { interruptions: 0, ..found.clone() };
            return match lifecycle::claim(&spared, &claimant, &self.budgets) {
                Claim::Take(taken) => Claim::Take(Record { interruptions: found.interruptions + taken.interruptions, ..taken }),
                other => other,
            };
        }
        match lifecycle::claim(found, &claimant, &self.budgets) {
            Claim::Take(taken) if self.lacks(Mutant::ClaimDoesNotRaiseTheFence) => Claim::Take(Record { fence: found.fence, ..taken }),
            Claim::Take(taken) if self.lacks(Mutant::ClaimSetsNoDueAt) => Claim::Take(Record { due_at: None, ..taken }),
            Claim::Wait(until, _) if self.lacks(Mutant::WakeAlwaysSchedules) => Claim::Wait(until, self.wake(found, until)),
            Claim::GiveUp(ended) => Claim::GiveUp(self.given_up(found, ended)),
            other => other,
        }
    }

    fn given_up(&self, found: &Record, ended: Record) -> Record {
        if self.lacks(Mutant::GiveUpDoesNotRaiseTheFence) { Record { fence: found.fence, ..ended } } else { ended }
    }

    fn wake(&self, found: &Record, until: Timestamp) -> Option<Record> {
        let wake_at = found.wake_at.filter(|_| !self.lacks(Mutant::WakeAlwaysSchedules));
        lifecycle::wake_up(&Record { wake_at, ..found.clone() }, until, NOW, &self.budgets)
    }

    /// The record of a worker that finds its own claim and the backend away.
    fn release(&self, found: &Record, until: Timestamp) -> Option<Record> {
        if self.lacks(Mutant::AwayKeepsTheLease) {
            return self.wake(found, until);
        }
        Some(lifecycle::release(found, until, NOW, &self.budgets))
    }

    /// The record before a refused repeat of the order carries the message.
    fn refused_repeat(&self, found: &Record) -> Option<Record> {
        match lifecycle::sweep(found, self.wait, NOW, &self.budgets) {
            Sweep::Emit(_) if self.lacks(Mutant::RefusedRepeatDoesNotMoveDueAt) => Some(found.clone()),
            Sweep::Emit(record) => Some(record),
            _ => None,
        }
    }

    /// Token with this fence and the life of `found`: while a record is kept, the fence alone must tell an old life apart.
    fn token(found: &Record, fence: u64) -> FencingToken {
        FencingToken { fence, ..found.token() }
    }

    /// The record as the writer sees it: with a mutant, it passes for the writer's own.
    fn own(&self, found: &Record, fence: u64, mutants: &[Mutant]) -> Record {
        if mutants.iter().any(|mutant| self.lacks(*mutant)) {
            Record { fence, status: Status::Processing, ..found.clone() }
        } else {
            found.clone()
        }
    }

    fn advance(&self, found: &Record, fence: u64, progress: u8) -> Result<Record, Fenced> {
        let own = self.own(found, fence, &[Mutant::WriteDoesNotCheckTheFence]);
        let advanced = lifecycle::advance(&own, Self::token(found, fence), progress, None, NOW, &self.budgets)?;
        let progress = if self.lacks(Mutant::ProgressIsWrittenAsTold) { progress } else { advanced.progress };
        Ok(Record { progress, fence: found.fence, ..advanced })
    }

    fn conclude(&self, found: &Record, fence: u64, ending: Ending) -> Result<Record, Fenced> {
        let failure = || Failure::new("c", "m");
        let verdict = match ending {
            Ending::Completed => Verdict::Completed(found.order.clone()),
            Ending::Failed => Verdict::Failed(failure()),
            Ending::BrokenOff => Verdict::Cancelled,
            Ending::Again => {
                let mut own = self.own(found, fence, &[Mutant::WriteDoesNotCheckTheFence]);
                if self.lacks(Mutant::RetryIgnoresTheBudget) {
                    own.attempts_before = own.attempt;
                }
                let record = lifecycle::retry(&own, Self::token(found, fence), failure(), None, 1.0, NOW, &self.budgets)?;
                return Ok(Record { attempts_before: found.attempts_before, fence: found.fence, ..record });
            }
        };
        let own = self.own(found, fence, &[Mutant::WriteDoesNotCheckTheFence, Mutant::AnyoneFinishes]);
        let finished = lifecycle::finish(&own, Self::token(found, fence), verdict, NOW, &self.budgets)?;
        let due_at = finished.due_at.filter(|_| !self.lacks(Mutant::EndWritesNoDueAt));
        Ok(Record { fence: found.fence, due_at, ..finished })
    }

    fn begin_callback(&self, found: &Record) -> Next {
        match callback::begin(found, NOW) {
            Next::Try(tried) if self.lacks(Mutant::TryDoesNotMoveDueAt) => Next::Try(Record { due_at: found.due_at, ..tried }),
            other => other,
        }
    }

    fn finish_callback(&self, found: &Record, tried: (u8, u8), answer: Answer) -> Option<Record> {
        let life = if self.lacks(Mutant::SenderForgetsTheLife) { found.life } else { life(tried.0) };
        let notice = Notice { state: NoticeState::Pending, attempts: tried.1.into(), attempts_before: 0, since: NOW, code: None };
        let callback = Some(Callback { url: None, notice: Some(notice) });
        let tried = Record { life, callback, status: Status::Completed, ..found.clone() };
        let told = match answer {
            Answer::Confirmed => Told::Delivered,
            Answer::NotConfirmed => Told::Failed(String::new(), None),
            Answer::Gone => Told::Gone,
        };
        callback::finish(found, &tried, &told, 1.0, NOW)
    }

    fn sweep(&self, found: &Record) -> Sweep {
        match lifecycle::sweep(found, self.wait, NOW, &self.budgets) {
            _ if self.lacks(Mutant::SweepDoesNothing) => Sweep::Nothing,
            Sweep::Emit(_) if self.lacks(Mutant::SweepDoesNotMoveDueAt) => Sweep::Emit(found.clone()),
            Sweep::GiveUp(ended) => Sweep::GiveUp(self.given_up(found, ended)),
            other => other,
        }
    }

    fn dead_letter(&self, found: &Record, life: Uuid, holder_gone: bool) -> DeadLetter {
        match lifecycle::dead_letter(found, life, holder_gone, self.wait, NOW, &self.budgets) {
            _ if self.lacks(Mutant::DeadLetterIsDropped) => DeadLetter::Nothing,
            DeadLetter::GiveUp(ended) => DeadLetter::GiveUp(self.given_up(found, ended)),
            other => other,
        }
    }

    fn redrive(&self, found: &Record, life: Uuid) -> Option<Record> {
        let life = if self.lacks(Mutant::RedriveKeepsTheLife) { found.life } else { life };
        let redriven = lifecycle::redrive(found, life, NOW, &self.budgets)?;
        let fence = if self.lacks(Mutant::RedriveDoesNotRaiseTheFence) { found.fence } else { redriven.fence };
        let callback = if self.lacks(Mutant::RedriveKeepsTheNotice) { found.callback.clone() } else { redriven.callback };
        Some(Record { fence, callback, ..redriven })
    }
}

struct World<'a> {
    scope: &'a Scope,
    rules: Rules,
    /// Record of the new order, from which every other record is made.
    accepted: Record,
}

impl<'a> World<'a> {
    fn new(scope: &'a Scope, without: Option<Mutant>) -> Self {
        let order_deadline = if scope.deadline == NEVER { TICK * 1_000_000 } else { TICK * u32::from(scope.deadline) };
        let budgets = Budgets {
            lease: TICK * u32::from(LEASE),
            max_attempts: MAX_ATTEMPTS.into(),
            retry_base: TICK * u32::from(RETRY),
            retry_cap: TICK * u32::from(RETRY),
            max_interruptions: MAX_INTERRUPTIONS.into(),
            order_deadline,
            retention: TICK,
            overdue_after: TICK * u32::from(FIRST_LOOK),
            tells_ends: scope.tells,
        };
        let metadata = Metadata {
            api_name: String::new(),
            operation_name: String::new(),
            subscription_id: None,
            received_at: NOW,
            traceparent: None,
            owner: String::new(),
        };
        let submission = Submission {
            tracking_id: TrackingId::parse("0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10").unwrap(),
            life: life(0),
            order: RawValue::from_string("{}".into()).map(Arc::from).unwrap(),
            names: Names::default(),
            fingerprint: String::new(),
            metadata,
            callback_url: None,
        };
        let wait = TICK * u32::from(scope.wait);
        let accepted = lifecycle::accept(submission, wait, NOW, &budgets);
        Self { scope, rules: Rules { budgets, wait, without }, accepted }
    }

    fn record(&self, sketch: &Sketch) -> Record {
        let lease = sketch.lease.map(|(who, moment)| {
            let (holder, invocation) = invocation(who);
            Lease { holder, invocation, expires_at: ahead(moment) }
        });
        Record {
            status: sketch.status,
            life: life(sketch.life),
            progress: sketch.progress,
            fence: FENCE,
            attempt: sketch.attempt.into(),
            attempts_before: sketch.attempts_before.into(),
            interruptions: sketch.interruptions.into(),
            emissions: sketch.emissions.into(),
            wake_ups: sketch.wake_ups.into(),
            cancel_requested: sketch.wish,
            lease,
            retry_at: sketch.retry.map(ahead),
            wake_at: sketch.wake.map(ahead),
            due_at: sketch.due.map(ahead),
            deadline: if sketch.deadline == NEVER { NOW.after(TICK * 1_000_000) } else { ahead(sketch.deadline) },
            updated_at: Timestamp::from_milliseconds(NOW.as_milliseconds() - i64::from(sketch.idle) * milliseconds(TICK)),
            history: Vec::new(),
            callback: self.scope.tells.then(|| Callback { url: None, notice: sketch.notice.map(notice) }),
            ..self.accepted.clone()
        }
    }

    fn sketch(&self, record: &Record) -> Change {
        let who = |lease: &Lease| match lease.holder.process {
            0 => Who::Former,
            process => Who::Worker(process as usize - 1),
        };
        let small = |count: u32| u8::try_from(count).unwrap();
        let sketch = Sketch {
            status: record.status,
            life: u8::try_from(record.life.as_u128()).unwrap(),
            progress: record.progress,
            attempt: small(record.attempt),
            attempts_before: small(record.attempts_before),
            interruptions: small(record.interruptions),
            emissions: small(record.emissions),
            wake_ups: small(record.wake_ups),
            wish: record.cancel_requested,
            lease: record.lease.as_ref().map(|lease| (who(lease), ticks(lease.expires_at))),
            retry: record.retry_at.map(ticks),
            wake: record.wake_at.map(ticks),
            due: record.due_at.map(|due_at| ticks(due_at.min(ahead(LONGEST)))),
            deadline: if self.scope.deadline == NEVER { NEVER } else { ticks(record.deadline) },
            idle: self.longest_idle().min(u8::try_from(record.updated_at.until(NOW).as_secs() / TICK.as_secs()).unwrap()),
            notice: record
                .callback
                .as_ref()
                .and_then(|callback| callback.notice.as_ref())
                .map(|notice| (notice.state, small(notice.attempts))),
        };
        Change { sketch, raises_fence: record.fence > FENCE }
    }

    /// Longest idle time that makes a difference.
    fn longest_idle(&self) -> Ticks {
        3 * self.scope.wait
    }

    fn steps(&self, state: &State) -> Vec<Step> {
        let mut steps = Steps { from: state, found: Vec::new() };
        self.ingress(&mut steps);
        if let Some(found) = &state.record {
            let record = self.record(found);
            self.operator(&mut steps, &record);
            self.time(&mut steps);
            self.broker(&mut steps);
            for k in 0..state.workers.len() {
                self.worker(&mut steps, k, found, &record);
            }
            self.sweeper(&mut steps, found, &record);
            self.reader(&mut steps, &record);
            if self.scope.tells {
                self.senders(&mut steps, &record);
            }
        }
        steps.found
    }

    /// Steps of `OrderIngress`: the order is recorded first, then the host sends the message.
    fn ingress(&self, steps: &mut Steps<'_>) {
        let state = steps.from;
        match (state.ingress, &state.record) {
            (Ingress::Recorded, Some(record)) => {
                let life = record.life;
                steps.step(("the host sends", 0), |state| {
                    state.ingress = Ingress::Done;
                    state.send(life);
                    Ok(())
                });
                steps.fault(Fault::LostSend, ("the host does not send", 0), |state| {
                    state.ingress = Ingress::Done;
                    Ok(())
                });
            }
            (Ingress::Done, Some(record)) => {
                let life = record.life;
                if lifecycle::resubmit(&self.record(record), "", NOW) == Resubmission::EmitAgain {
                    steps.fault(Fault::AskAgain, ("the client asks again", 0), |state| {
                        state.send(life);
                        Ok(())
                    });
                }
                if let Some(changed) = self.rules.refused_repeat(&self.record(record)) {
                    let change = self.sketch(&changed);
                    steps.fault(Fault::AskRefused, ("a repeat is refused, and carries the message", 0), |state| {
                        write(state, None, change)?;
                        state.send(life);
                        let stays = state.record.is_some_and(|record| record.due == Some(0));
                        if stays { Err("an order stays overdue although its message is sent") } else { Ok(()) }
                    });
                    steps.fault(Fault::AskRefused, ("a repeat is refused, and the host does not send", 0), |state| {
                        write(state, None, change)
                    });
                }
            }
            _ => steps.step(("the order is recorded", 0), |state| {
                state.record = Some(self.sketch(&self.accepted).sketch);
                state.ingress = Ingress::Recorded;
                Ok(())
            }),
        }
    }

    /// Steps of the owner and the operator.
    fn operator(&self, steps: &mut Steps<'_>, record: &Record) {
        if let Cancel::End(changed) | Cancel::Request(changed) = lifecycle::cancel(record, NOW, &self.rules.budgets) {
            let change = self.sketch(&changed);
            steps.fault(Fault::Cancel, ("the order is to be cancelled", 0), |state| write(state, None, change));
        }
        if let Some(redriven) = self.rules.redrive(record, life(1)) {
            let change = self.sketch(&redriven);
            steps.fault(Fault::Redrive, ("the order is re-driven", 0), |state| {
                state.operator = Some(change.sketch.life);
                state.calls = 0;
                write(state, None, change)
            });
        }
        if let Some(life) = steps.from.operator {
            steps.step(("the operator sends", 0), |state| {
                state.operator = None;
                state.send(life);
                Ok(())
            });
            for fault in [Fault::LostSend, Fault::Crash] {
                steps.fault(fault, ("the operator does not send", 0), |state| {
                    state.operator = None;
                    Ok(())
                });
            }
        }
    }

    fn time(&self, steps: &mut Steps<'_>) {
        let state = steps.from;
        // A worker renews its lease in time, unless the worker sleeps.
        let asleep = [0, 1].map(|k| {
            let runs_out = |sketch: &Sketch| sketch.lease == Some((Who::Worker(k), 1));
            let claiming = matches!(&state.workers[k].at, At::Write(Purpose::Claim, Some(change)) if runs_out(&change.sketch));
            claiming || state.record.as_ref().is_some_and(runs_out)
        });
        let longest_idle = self.longest_idle();
        let pass = |state: &mut State| {
            state.each_sketch(|sketch| {
                let later = |moment: &mut Ticks| *moment = moment.saturating_sub(1);
                sketch.lease.iter_mut().for_each(|(_, moment)| later(moment));
                [&mut sketch.retry, &mut sketch.wake, &mut sketch.due].into_iter().flatten().for_each(later);
                if sketch.deadline != NEVER && !sketch.status.is_terminal() {
                    later(&mut sketch.deadline);
                }
                sketch.idle = (sketch.idle + 1).min(longest_idle);
            });
            for sender in &mut state.senders {
                if let Sender::Send(_, _, held) = sender {
                    *held = held.saturating_sub(1);
                }
            }
            for worker in &mut state.workers {
                match &mut worker.at {
                    At::Schedule(moment, until) => [moment, until].into_iter().for_each(|moment| *moment = moment.saturating_sub(1)),
                    At::Wait(until) | At::Write(Purpose::Wake(until) | Purpose::NotScheduled(until), _) => *until = until.saturating_sub(1),
                    _ => {}
                }
            }
            for (ready, scheduled) in state.ready.iter_mut().zip(&mut state.scheduled) {
                scheduled.rotate_left(1);
                ready[0] += std::mem::take(&mut scheduled[0]);
            }
            for (worker, asleep) in state.workers.iter_mut().zip(asleep) {
                worker.paused |= asleep;
            }
            Ok(())
        };
        if asleep.contains(&true) {
            steps.fault(Fault::Pause, ("time passes, a worker sleeps", 0), pass);
        } else {
            steps.step(("time passes", 0), pass);
        }
    }

    fn broker(&self, steps: &mut Steps<'_>) {
        let state = steps.from;
        let idle = state.workers.iter().position(|worker| worker.at == At::Idle);
        for life in 0..LIVES {
            let of = u8::try_from(life).unwrap();
            for deliveries in (0..MAX_DELIVERIES).filter(|deliveries| state.ready[life][*deliveries] > 0) {
                if let Some(k) = idle {
                    steps.step(("a message is delivered to", k), |state| {
                        state.ready[life][deliveries] -= 1;
                        let message = Some((of, u8::try_from(deliveries).unwrap()));
                        state.workers[k] = Worker { at: At::Look, message, life: of, ..IDLE };
                        Ok(())
                    });
                }
                steps.fault(Fault::Duplicate, ("a message is duplicated", 0), |state| {
                    state.ready[life][deliveries] += 1;
                    Ok(())
                });
            }
            for moment in (1..=FURTHEST as usize).filter(|moment| state.scheduled[life][*moment] > 0) {
                steps.fault(Fault::LostCopy, ("a scheduled copy is lost", 0), |state| {
                    state.scheduled[life][moment] -= 1;
                    Ok(())
                });
                if moment == 1 {
                    steps.fault(Fault::Early, ("a scheduled copy comes early", 0), |state| {
                        state.scheduled[life][moment] -= 1;
                        state.send(of);
                        Ok(())
                    });
                }
            }
        }
    }

    fn worker(&self, steps: &mut Steps<'_>, k: usize, found: &Sketch, record: &Record) {
        let worker = steps.from.workers[k];
        if worker.at == At::Idle {
            return;
        }
        self.misfortune(steps, k);
        let fence = if worker.fenced { FENCE - 1 } else { FENCE };
        match worker.at {
            At::Idle | At::Wait(1..) => {}
            At::Look => self.look(steps, k, record),
            At::Write(purpose, None) => steps.step(("refused, looks again:", k), |state| {
                state.workers[k].at = purpose.next_when_refused();
                Ok(())
            }),
            At::Write(purpose, Some(change)) => {
                steps.step(("writes:", k), |state| {
                    wanted(state, purpose)?;
                    let at = match purpose {
                        Purpose::Claim => At::Call,
                        Purpose::Wake(until) => At::Schedule(change.sketch.wake.unwrap(), until),
                        Purpose::NotScheduled(until) => At::Wait(until),
                        Purpose::End => At::Complete,
                    };
                    state.workers[k].at = at;
                    write(state, Some(k), change)?;
                    state.workers[k].fresh = matches!(purpose, Purpose::Claim | Purpose::Wake(_));
                    Ok(())
                });
                steps.fault(Fault::LostAnswer, ("writes, is told otherwise:", k), |state| {
                    wanted(state, purpose)?;
                    state.workers[k].at = purpose.next_when_refused();
                    write(state, Some(k), change)
                });
            }
            At::Schedule(moment, until) => {
                steps.step(("schedules a copy:", k), |state| {
                    state.workers[k].at = At::Complete;
                    match usize::from(moment) {
                        0 => state.send(worker.life),
                        moment => state.scheduled[usize::from(worker.life)][moment] += 1,
                    }
                    Ok(())
                });
                // The change may only replace the version that announces the copy.
                let change = worker.fresh.then(|| self.sketch(&lifecycle::take_back_wake_up(record)));
                steps.fault(Fault::NotScheduled, ("cannot schedule a copy:", k), |state| {
                    state.workers[k].at = At::Write(Purpose::NotScheduled(until), change);
                    Ok(())
                });
            }
            At::Wait(0) => steps.step(("has waited:", k), |state| {
                state.workers[k].at = At::Look;
                Ok(())
            }),
            At::Call => {
                self.renew(steps, k, found, record, fence);
                self.break_off(steps, k, record, fence);
                steps.step(("calls the backend:", k), |state| {
                    state.workers[k].at = At::Called;
                    if found.life == worker.life {
                        state.calls += 1;
                        if state.calls > found.attempt - found.attempts_before + found.interruptions {
                            return Err("more calls than claims");
                        }
                    }
                    if worker.superseded && !worker.paused { Err("a call by an awake worker that had lost its order") } else { Ok(()) }
                });
            }
            At::Called => {
                self.renew(steps, k, found, record, fence);
                for ending in [Ending::Completed, Ending::Failed, Ending::Again] {
                    let label = ["completes the work:", "fails for good:", "fails for now:"][ending as usize];
                    if self.rules.lacks(Mutant::RetryCompletesBeforeItWrites) && ending == Ending::Again {
                        steps.step((label, k), |state| {
                            state.workers[k].message = None;
                            state.workers[k].at = At::Conclude(ending);
                            Ok(())
                        });
                    } else if worker.fresh {
                        self.conclude(steps, k, record, fence, ending, label);
                    } else {
                        steps.step((label, k), |state| {
                            state.workers[k].at = At::Conclude(ending);
                            Ok(())
                        });
                    }
                }
            }
            At::Conclude(ending) if worker.fresh => self.conclude(steps, k, record, fence, ending, "writes the end of the try:"),
            At::Conclude(_) => read_again(steps, k),
            At::Complete => steps.step(("completes the message:", k), |state| {
                state.complete(k);
                Ok(())
            }),
        }
    }

    fn misfortune(&self, steps: &mut Steps<'_>, k: usize) {
        let worker = steps.from.workers[k];
        let abandon = |state: &mut State| {
            state.abandon(k);
            Ok(())
        };
        steps.fault(Fault::Crash, ("crashes:", k), abandon);
        if worker.is_working() {
            steps.fault(Fault::Kill, ("is killed:", k), abandon);
        }
        let is_own = steps.from.record.is_some_and(|record| record.lease.is_some_and(|(who, _)| who == Who::Worker(k)));
        if worker.at == At::Look && !is_own {
            steps.fault(Fault::Older, ("cannot read the record:", k), |state| {
                state.complete(k);
                Ok(())
            });
        }
        if matches!(worker.at, At::Look | At::Wait(_)) {
            steps.fault(Fault::Abandon, ("abandons its message:", k), abandon);
        }
        if let Some(message) = worker.message {
            steps.fault(Fault::LostLock, ("loses the lock of its message:", k), |state| {
                state.workers[k].message = None;
                state.redeliver(message);
                Ok(())
            });
        }
    }

    fn holder_gone(&self, record: &Record) -> bool {
        self.scope.sees_crashes && record.lease.as_ref().is_some_and(|lease| lease.holder.process == 0)
    }

    fn look(&self, steps: &mut Steps<'_>, k: usize, record: &Record) {
        let worker = steps.from.workers[k];
        let (holder, invocation) = invocation(Who::Worker(k));
        let claimant =
            Claimant { life: life(worker.life), holder: &holder, invocation: &invocation, now: NOW, holder_gone: self.holder_gone(record) };
        let mut decides = |label, purpose, record: &Record| {
            let change = self.sketch(record);
            steps.step((label, k), |state| {
                state.workers[k].at = At::Write(purpose, Some(change));
                Ok(())
            });
        };
        match self.rules.claim(record, &claimant) {
            Claim::NothingToDo => steps.step(("has nothing to do:", k), |state| {
                state.complete(k);
                Ok(())
            }),
            Claim::Wait(until, wake) => self.step_aside(steps, k, None, until, wake),
            Claim::GiveUp(ended) => decides("gives up:", Purpose::End, &ended),
            Claim::Take(taken) if self.scope.pure => {
                for ending in [Ending::Completed, Ending::Failed] {
                    let ended = self.rules.conclude(&taken, taken.fence, ending).unwrap();
                    decides("takes and ends it:", Purpose::End, &ended);
                }
            }
            Claim::Take(taken) => {
                decides("takes it:", Purpose::Claim, &taken);
                let until = ahead(AWAY);
                let is_own = record.lease.as_ref().is_some_and(|lease| lease.holder == holder && lease.invocation == invocation);
                let wake = if is_own { self.rules.release(record, until) } else { self.rules.wake(record, until) };
                self.step_aside(steps, k, Some(Fault::Away), until, wake);
            }
        }
    }

    fn step_aside(&self, steps: &mut Steps<'_>, k: usize, fault: Option<Fault>, until: Timestamp, wake: Option<Record>) {
        // A worker that waits in its invocation looks again later.
        if !self.scope.schedules {
            return;
        }
        let change = wake.map(|record| self.sketch(&record));
        let aside = |state: &mut State| {
            match change {
                Some(change) => state.workers[k].at = At::Write(Purpose::Wake(ticks(until)), Some(change)),
                None => state.complete(k),
            }
            Ok(())
        };
        let label = (if change.is_some() { "steps aside:" } else { "leaves it to the wake-up that stands:" }, k);
        match fault {
            Some(fault) => steps.fault(fault, label, aside),
            None => steps.step(label, aside),
        }
    }

    fn renew(&self, steps: &mut Steps<'_>, k: usize, found: &Sketch, record: &Record, fence: u64) {
        let worker = steps.from.workers[k];
        if !worker.fresh {
            return read_again(steps, k);
        }
        let progress = if worker.at == At::Call { 20 } else { 60 };
        match self.rules.advance(record, fence, progress) {
            Ok(renewed) => {
                let change = self.sketch(&renewed);
                if change.sketch != *found {
                    steps.step(("renews its lease:", k), |state| {
                        state.workers[k].paused = false;
                        write(state, Some(k), change)
                    });
                }
            }
            Err(fenced) => stop(steps, k, fenced),
        }
    }

    /// A worker may see the request to cancel before the effect of its work.
    fn break_off(&self, steps: &mut Steps<'_>, k: usize, record: &Record, fence: u64) {
        if steps.from.workers[k].fresh && record.cancel_requested {
            self.conclude(steps, k, record, fence, Ending::BrokenOff, "breaks off:");
        }
    }

    fn conclude(&self, steps: &mut Steps<'_>, k: usize, record: &Record, fence: u64, ending: Ending, label: &'static str) {
        let concluded = match self.rules.conclude(record, fence, ending) {
            Ok(concluded) => concluded,
            Err(fenced) => return stop(steps, k, fenced),
        };
        let change = self.sketch(&concluded);
        let ends = change.sketch.status.is_terminal();
        steps.step((label, k), |state| {
            state.workers[k].at = match change.sketch.retry {
                Some(moment) if self.scope.schedules => At::Schedule(moment, moment),
                Some(moment) => At::Wait(moment),
                None => At::Complete,
            };
            write(state, Some(k), change)?;
            let Worker { at, message, life, .. } = state.workers[k];
            state.workers[k] = Worker { at, message, life, fresh: matches!(at, At::Schedule(..)), ..IDLE };
            Ok(())
        });
        steps.fault(Fault::LostAnswer, ("ends a try, is told otherwise:", k), |state| {
            state.workers[k].at = At::Conclude(ending);
            write(state, Some(k), change)?;
            state.workers[k].fresh = false;
            state.workers[k].ended |= ends;
            Ok(())
        });
    }

    fn sweeper(&self, steps: &mut Steps<'_>, found: &Sketch, record: &Record) {
        let state = steps.from;
        match state.sweeper {
            Helper::Idle if self.scope.sweeps => {
                let (decided, emits) = match self.rules.sweep(record) {
                    Sweep::Nothing => return,
                    Sweep::Emit(_) if found.emissions >= self.scope.emissions && state.copies() > 0 => return,
                    Sweep::Emit(record) => (record, true),
                    Sweep::Postpone(record) | Sweep::GiveUp(record) => (record, false),
                };
                let change = Some(self.sketch(&decided));
                let first = emits && self.rules.lacks(Mutant::SweepEmitsBeforeItWrites);
                steps.step(("the sweeper looks", 0), |state| {
                    state.sweeper = Helper::Write { letter: 0, change, emits: emits && !first };
                    if first {
                        state.send(found.life);
                    }
                    Ok(())
                });
            }
            Helper::Idle => {}
            Helper::Write { change: None, .. } => steps.step(("the sweeper is too late", 0), |state| {
                state.sweeper = Helper::Idle;
                Ok(())
            }),
            Helper::Write { change: Some(change), emits, .. } => steps.step(("the sweeper writes", 0), |state| {
                state.sweeper = if emits { Helper::Emit { letter: 0, life: change.sketch.life } } else { Helper::Idle };
                write(state, None, change)
            }),
            Helper::Emit { life, .. } => steps.step(("the sweeper sends", 0), |state| {
                state.sweeper = Helper::Idle;
                state.send(life);
                Ok(())
            }),
        }
        if state.sweeper != Helper::Idle {
            steps.fault(Fault::Crash, ("the sweeper crashes", 0), |state| {
                state.sweeper = Helper::Idle;
                Ok(())
            });
        }
    }

    fn reader(&self, steps: &mut Steps<'_>, record: &Record) {
        let state = steps.from;
        match state.reader {
            Helper::Idle => {
                for letter in (0..LIVES).filter(|life| state.dead[*life] > 0) {
                    let of = u8::try_from(letter).unwrap();
                    let (decided, emits) = match self.rules.dead_letter(record, life(of), self.holder_gone(record)) {
                        DeadLetter::Nothing => (None, false),
                        DeadLetter::Emit(record) => (Some(record), true),
                        DeadLetter::GiveUp(record) => (Some(record), false),
                    };
                    let change = decided.map(|record| self.sketch(&record));
                    steps.step(("a dead letter is read", 0), |state| {
                        state.dead[letter] -= 1;
                        if change.is_some() {
                            state.reader = Helper::Write { letter: of, change, emits };
                        }
                        Ok(())
                    });
                }
            }
            Helper::Write { letter, change: None, .. } => steps.step(("the dead letter is read again", 0), |state| {
                state.reader = Helper::Idle;
                state.dead[usize::from(letter)] += 1;
                Ok(())
            }),
            Helper::Write { letter, change: Some(change), emits } => steps.step(("the reader of dead letters writes", 0), |state| {
                state.reader = if emits { Helper::Emit { letter, life: change.sketch.life } } else { Helper::Idle };
                write(state, None, change)
            }),
            Helper::Emit { life, .. } => steps.step(("the reader of dead letters sends", 0), |state| {
                state.reader = Helper::Idle;
                state.send(life);
                Ok(())
            }),
        }
        if let Helper::Write { letter, .. } | Helper::Emit { letter, .. } = state.reader {
            steps.fault(Fault::Crash, ("the reader of dead letters crashes", 0), |state| {
                state.reader = Helper::Idle;
                state.dead[usize::from(letter)] += 1;
                Ok(())
            });
        }
    }
}

impl World<'_> {
    /// Steps of the processes that send callbacks, which look at an order as soon as it is due.
    fn senders(&self, steps: &mut Steps<'_>, record: &Record) {
        let state = steps.from;
        if let Ok(again) = callback::send_again(record, self.scope.tells, NOW) {
            let change = self.sketch(&again);
            steps.fault(Fault::TellAgain, ("an operator asks for the callback", 0), |state| write(state, None, change));
        }
        for k in 0..state.senders.len() {
            match state.senders[k] {
                Sender::Idle => match self.rules.begin_callback(record) {
                    Next::Nothing => {}
                    Next::GiveUp(given_up) => {
                        let change = self.sketch(&given_up);
                        steps.step(("a callback is given up", k), |state| write(state, None, change));
                    }
                    Next::Try(_) => {
                        if let Some(put_off) = callback::put_off(record, 1.0, NOW) {
                            let change = self.sketch(&put_off);
                            steps.fault(Fault::Busy, ("a callback is put off", k), |state| write(state, None, change));
                        }
                        steps.step(("a sender looks", k), |state| {
                            state.senders[k] = Sender::Write(true);
                            Ok(())
                        });
                    }
                },
                Sender::Write(false) => steps.step(("a sender is too late", k), |state| {
                    state.senders[k] = Sender::Idle;
                    Ok(())
                }),
                Sender::Write(true) => {
                    let Next::Try(written) = self.rules.begin_callback(record) else { continue };
                    let change = self.sketch(&written);
                    let (life, tries) = (change.sketch.life, change.sketch.notice.map_or(0, |(_, tries)| tries));
                    steps.step(("a sender writes its try", k), |state| {
                        if !self.rules.lacks(Mutant::SenderWritesNoTry) {
                            write(state, None, change)?;
                        }
                        let is_held = state.senders.iter().any(|sender| matches!(sender, Sender::Send(other, _, 1..) if *other == life));
                        state.senders[k] = Sender::Send(life, tries, HELD);
                        if is_held { Err("two tries of a callback at once") } else { Ok(()) }
                    });
                }
                Sender::Send(life, tries, _) => {
                    for (fault, answer) in
                        [(None, Answer::Confirmed), (Some(Fault::NotConfirmed), Answer::NotConfirmed), (Some(Fault::Gone), Answer::Gone)]
                    {
                        let send = |state: &mut State| {
                            let of = usize::from(life);
                            if !state.ended[of] {
                                return Err("a callback of an order that has not ended");
                            }
                            state.confirmed[of] |= answer == Answer::Confirmed;
                            state.gone[of] |= answer == Answer::Gone;
                            state.senders[k] = Sender::Answered(life, tries, answer);
                            Ok(())
                        };
                        match fault {
                            None => steps.step(("a callback is confirmed", k), send),
                            Some(fault) => steps.fault(fault, ("a callback is not confirmed", k), send),
                        }
                    }
                }
                Sender::Answered(life, tries, answer) => {
                    let change = self.rules.finish_callback(record, (life, tries), answer).map(|record| self.sketch(&record));
                    steps.step(("a sender writes the answer", k), |state| {
                        state.senders[k] = Sender::Idle;
                        change.map_or(Ok(()), |change| write(state, None, change))
                    });
                }
            }
            if state.senders[k] != Sender::Idle {
                steps.fault(Fault::SenderCrash, ("a sender crashes", k), |state| {
                    state.senders[k] = Sender::Idle;
                    Ok(())
                });
            }
        }
    }
}

fn notice((state, attempts): (NoticeState, u8)) -> Notice {
    Notice { state, attempts: attempts.into(), attempts_before: 0, since: NOW, code: None }
}

fn read_again(steps: &mut Steps<'_>, k: usize) {
    steps.step(("refused, reads again:", k), |state| {
        state.workers[k].fresh = true;
        Ok(())
    });
}

fn stop(steps: &mut Steps<'_>, k: usize, fenced: Fenced) {
    steps.step(("stops:", k), |state| {
        if fenced == Fenced::AlreadyEnded && !state.workers[k].ended {
            return Err("a worker took another's end for its own");
        }
        state.complete(k);
        Ok(())
    });
}

/// A claim precedes the call to the backend, whether the claim is the first one or is renewed.
fn wanted(state: &State, purpose: Purpose) -> Result<(), Violation> {
    let unwanted = purpose == Purpose::Claim && state.record.is_some_and(|record| record.wish);
    if unwanted { Err("a claim of an order that is to be cancelled") } else { Ok(()) }
}

/// Writes the record: every other version that a worker or helper knows becomes old.
fn write(state: &mut State, writer: Option<usize>, change: Change) -> Result<(), Violation> {
    let (Some(before), after) = (state.record, change.sketch) else { return Err("a record that is not there is written") };
    let same_life = before.life == after.life;
    // A write of an ended order is one of its callback.
    let tells = same_life && before.status.is_terminal() && after.status.is_terminal();
    let (ends, life) = (after.status.is_terminal() && !tells, usize::from(after.life));
    if tells && before.status != after.status {
        return Err("a second outcome in one life");
    }
    if ends && std::mem::replace(&mut state.ended[life], true) {
        return Err("a second outcome in one life");
    }
    if writer.is_some_and(|k| state.workers[k].superseded) {
        return Err("a write by a worker that had lost its order");
    }
    if same_life && before.progress > after.progress {
        return Err("progress went backwards");
    }
    let holds = |sketch: &Sketch, k| sketch.lease.is_some_and(|(who, _)| who == Who::Worker(k));
    // A worker that has not begun to work takes its claim back.
    let releases = writer.is_some_and(|k| holds(&before, k) && after.lease.is_none() && after.retry.is_none() && !ends);
    if same_life && before.attempt > after.attempt + u8::from(releases) {
        return Err("tries were forgotten");
    }
    let has_run_out = before.lease.is_some_and(|(_, expires)| expires == 0);
    if same_life && has_run_out && after.interruptions > before.interruptions.max(state.interrupting) {
        return Err("an interruption that was none");
    }
    if after.attempt - after.attempts_before > MAX_ATTEMPTS {
        return Err("more tries than the budget allows");
    }
    if after.interruptions + u8::from(!ends) > MAX_INTERRUPTIONS {
        return Err("more interruptions than the budget allows");
    }
    let is_over = after.status.is_terminal();
    if is_over && after.notice.is_some_and(|(state, _)| (state == NoticeState::Pending) != after.due.is_some()) {
        return Err("a callback has a dueAt exactly as long as it is pending");
    }
    if is_over == after.due.is_some() && after.notice.is_none() {
        return Err("an order has a dueAt exactly as long as it has not ended");
    }
    if !is_over && after.notice.is_some() {
        return Err("a notice of an order that has not ended");
    }
    match after.notice {
        Some((NoticeState::Delivered, _)) if !state.confirmed[life] => return Err("a callback counts as delivered that no receiver has"),
        Some((NoticeState::GivenUp, _)) if !state.gone[life] => return Err("a callback is given up too early"),
        Some((_, tries)) if tries > MOST_TRIES => return Err("too many tries of a callback"),
        _ => {}
    }
    if before.wish && after.retry.is_some() {
        return Err("a further try of an order that is to be cancelled");
    }
    let takes = writer.is_some_and(|k| holds(&after, k) && !holds(&before, k));
    for (k, worker) in state.workers.iter_mut().enumerate() {
        if writer == Some(k) {
            continue;
        }
        worker.fresh = false;
        if worker.is_working() {
            worker.fenced |= change.raises_fence;
            worker.superseded |= takes || ends || !same_life;
        }
    }
    state.changes().for_each(|change| *change = None);
    for sender in &mut state.senders {
        if let Sender::Write(is_current) = sender {
            *is_current = false;
        }
    }
    state.record = Some(after);
    Ok(())
}

fn life(number: u8) -> Uuid {
    Uuid::from_u128(number.into())
}

fn invocation(who: Who) -> (Holder, String) {
    let (process, invocation) = match who {
        Who::Former => (0, "former"),
        Who::Worker(k) => (u32::try_from(k).unwrap() + 1, "current"),
    };
    (Holder { instance: String::new(), boot: None, process, started: 0 }, invocation.into())
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap()
}

fn ahead(moment: Ticks) -> Timestamp {
    NOW.after(TICK * u32::from(moment))
}

fn ticks(moment: Timestamp) -> Ticks {
    u8::try_from(NOW.until(moment).as_millis().div_ceil(TICK.as_millis())).unwrap()
}

/// Result of the search of one scope.
struct Explored {
    states: usize,
    most: usize,
    took: Duration,
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} states, at most {} copies, {:.1} s", self.states, self.most, self.took.as_secs_f64())
    }
}

/// A violation, and the shortest path to it.
struct Broken {
    violation: Violation,
    states: usize,
    trace: String,
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (among {} states)\n{}", self.violation, self.states, self.trace)
    }
}

type Known = HashMap<State, usize, BuildHasherDefault<Mix>>;

/// Fast hash: millions of states are hashed in a build without optimisation, and no attacker chooses colliding ones.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u8(*byte);
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(byte.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number.cast_unsigned() as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

/// Searches breadth first, so that a violation is found by the shortest path.
fn explore(scope: &Scope, without: Option<Mutant>) -> Result<Explored, Broken> {
    let started = Instant::now();
    let world = World::new(scope, without);
    let start = State::start(scope);
    let mut known = Known::from_iter([(start.clone(), 0)]);
    let mut queue = VecDeque::from([start]);
    let mut came: Vec<(usize, Label)> = vec![(0, ("start", 0))];
    let (mut calm, mut ends, mut most) = (Vec::new(), Vec::new(), 0);
    let mut from = 0;
    while let Some(state) = queue.pop_front() {
        if state.is_ended() {
            ends.push(from);
        }
        most = most.max(state.copies());
        if state.waiting() > MOST_WAITING {
            return Err(broken(&known, &came, from, None, "too many wake-ups"));
        }
        if most > scope.most {
            return Err(broken(&known, &came, from, None, "too many copies of the message"));
        }
        for step in world.steps(&state) {
            let next = match step.to {
                Ok(next) => next,
                Err(violation) => return Err(broken(&known, &came, from, Some(step.label), violation)),
            };
            let fresh = came.len();
            let to = match known.entry(next) {
                Entry::Occupied(entry) => *entry.get(),
                Entry::Vacant(entry) => {
                    queue.push_back(entry.key().clone());
                    came.push((from, step.label));
                    *entry.insert(fresh)
                }
            };
            if !step.is_fault {
                calm.push((from, to));
            }
        }
        from += 1;
    }
    match stuck(came.len(), &calm, ends) {
        Some(first) => Err(broken(&known, &came, first, None, "no way leads to an end")),
        None => Ok(Explored { states: came.len(), most, took: started.elapsed() }),
    }
}

/// The first state from which no path without a fault leads to an end.
fn stuck(states: usize, calm: &[(usize, usize)], ends: Vec<usize>) -> Option<usize> {
    let mut before = vec![Vec::new(); states];
    for (from, to) in calm {
        before[*to].push(*from);
    }
    let mut fine = vec![false; states];
    let mut open = ends;
    while let Some(state) = open.pop() {
        if !std::mem::replace(&mut fine[state], true) {
            open.append(&mut before[state]);
        }
    }
    fine.iter().position(|fine| !fine)
}

fn broken(known: &Known, came: &[(usize, Label)], at: usize, last: Option<Label>, violation: Violation) -> Broken {
    let mut way = vec![at];
    while *way.last().unwrap() != 0 {
        way.push(came[*way.last().unwrap()].0);
    }
    let states: HashMap<usize, &State> =
        known.iter().filter(|(_, number)| way.contains(number)).map(|(state, number)| (*number, state)).collect();
    let mut lines: Vec<_> = way
        .iter()
        .rev()
        .map(|number| {
            let state = states[number];
            let (what, who) = came[*number].1;
            let workers = state.workers.map(|worker| worker.at);
            format!(
                "{what} {who}\n    {:?}\n    ready {:?} scheduled {:?} dead {:?} workers {workers:?} senders {:?}",
                state.record, state.ready, state.scheduled, state.dead, state.senders
            )
        })
        .collect();
    lines.extend(last.map(|(what, who)| format!("{what} {who}")));
    Broken { violation, states: came.len(), trace: lines.join("\n") }
}

/// Scopes that are searched together in some seconds, in a build without optimisation.
const SCOPES: &[Scope] = &[
    Scope { name: "a crash, a kill", faults: &[(Fault::Crash, 1), (Fault::Kill, 1)], most: 6, ..PLAIN },
    Scope { name: "two kills that others see at once", faults: &[(Fault::Kill, 2)], sees_crashes: true, most: 6, ..PLAIN },
    Scope { name: "a pause, a crash", faults: &[(Fault::Pause, 1), (Fault::Crash, 1)], most: 5, ..PLAIN },
    Scope { name: "two lost locks", faults: &[(Fault::LostLock, 2)], most: 6, ..PLAIN },
    Scope {
        name: "a pause, a lost answer, a duplicate",
        faults: &[(Fault::Pause, 1), (Fault::LostAnswer, 1), (Fault::Duplicate, 1)],
        most: 5,
        ..PLAIN
    },
    Scope {
        name: "two duplicates, a lost send, asked again",
        faults: &[(Fault::Duplicate, 2), (Fault::LostSend, 1), (Fault::AskAgain, 1)],
        emissions: 1,
        most: 8,
        ..PLAIN
    },
    Scope {
        name: "a lost copy, one not scheduled, one early, the backend away",
        faults: &[(Fault::LostCopy, 1), (Fault::NotScheduled, 1), (Fault::Early, 1), (Fault::Away, 1)],
        most: 4,
        ..PLAIN
    },
    Scope {
        name: "no sweeper, a kill, a copy that comes early",
        faults: &[(Fault::Kill, 1), (Fault::Early, 1)],
        sweeps: false,
        most: 4,
        ..PLAIN
    },
    Scope { name: "a re-drive, a pause", faults: &[(Fault::Redrive, 1), (Fault::Pause, 1)], most: 5, ..PLAIN },
    Scope { name: "two pauses, a duplicate", faults: &[(Fault::Pause, 2), (Fault::Duplicate, 1)], most: 5, ..PLAIN },
    Scope {
        name: "a re-drive, a lost answer, a lost send",
        faults: &[(Fault::Redrive, 1), (Fault::LostAnswer, 1), (Fault::LostSend, 1)],
        most: 5,
        ..PLAIN
    },
    Scope {
        name: "a long queue, a lost send, asked again",
        faults: &[(Fault::LostSend, 1), (Fault::AskAgain, 1)],
        wait: 1,
        emissions: 2,
        most: 8,
        ..PLAIN
    },
    Scope {
        name: "waiting in place: a crash, a duplicate, an abandoned message",
        faults: &[(Fault::Crash, 1), (Fault::Duplicate, 1), (Fault::Abandon, 1)],
        schedules: false,
        most: 3,
        ..PLAIN
    },
    Scope { name: "a wish to cancel, a crash", faults: &[(Fault::Cancel, 1), (Fault::Crash, 1)], most: 5, ..PLAIN },
    Scope { name: "a wish to cancel, a pause", faults: &[(Fault::Cancel, 1), (Fault::Pause, 1)], most: 5, ..PLAIN },
    Scope { name: "a deadline, a pause, a crash", faults: &[(Fault::Pause, 1), (Fault::Crash, 1)], deadline: 4, most: 4, ..PLAIN },
    Scope {
        name: "pure work: a crash, a duplicate, a lost answer",
        faults: &[(Fault::Crash, 1), (Fault::Duplicate, 1), (Fault::LostAnswer, 1)],
        pure: true,
        most: 3,
        ..PLAIN
    },
    Scope {
        name: "a callback: not confirmed, two crashes of its senders, a busy receiver",
        faults: &[(Fault::NotConfirmed, 1), (Fault::SenderCrash, 2), (Fault::Busy, 1)],
        pure: true,
        most: 2,
        tells: true,
        ..PLAIN
    },
    Scope {
        name: "a callback that its receiver refuses, asked for again, a crash of a sender",
        faults: &[(Fault::Gone, 1), (Fault::TellAgain, 1), (Fault::SenderCrash, 1)],
        pure: true,
        most: 2,
        tells: true,
        ..PLAIN
    },
    Scope {
        name: "a callback: a wish to cancel, a re-drive",
        faults: &[(Fault::Cancel, 1), (Fault::Redrive, 1)],
        pure: true,
        most: 3,
        tells: true,
        ..PLAIN
    },
];

/// Scopes, rules that each one needs, and the violation without each rule.
const NEEDED: &[(Scope, &[(Mutant, Violation)])] = &[
    (
        Scope { name: "nothing goes wrong", emissions: 1, most: 5, ..PLAIN },
        &[
            (Mutant::ClaimSetsNoDueAt, "an order has a dueAt exactly as long as it has not ended"),
            (Mutant::RetryIgnoresTheBudget, "more tries than the budget allows"),
            (Mutant::SweepDoesNotMoveDueAt, "too many copies of the message"),
        ],
    ),
    (
        Scope { name: "pure work, two crashes", faults: &[(Fault::Crash, 2)], pure: true, emissions: 1, most: 2, ..PLAIN },
        &[(Mutant::SweepEmitsBeforeItWrites, "too many copies of the message")],
    ),
    (
        Scope { name: "a pause, a duplicate", faults: &[(Fault::Pause, 1), (Fault::Duplicate, 1)], most: 5, ..PLAIN },
        &[
            (Mutant::ClaimIgnoresALiveLease, "a call by an awake worker that had lost its order"),
            (Mutant::ClaimDoesNotRaiseTheFence, "a write by a worker that had lost its order"),
            (Mutant::WriteDoesNotCheckTheFence, "a write by a worker that had lost its order"),
            (Mutant::AnyoneFinishes, "a write by a worker that had lost its order"),
            (Mutant::ProgressIsWrittenAsTold, "progress went backwards"),
        ],
    ),
    (
        Scope { name: "a wish to cancel, a kill", faults: &[(Fault::Cancel, 1), (Fault::Kill, 1)], most: 5, ..PLAIN },
        &[(Mutant::ClaimForgetsTheWish, "a claim of an order that is to be cancelled")],
    ),
    (
        Scope { name: "a wish to cancel, a lost answer", faults: &[(Fault::Cancel, 1), (Fault::LostAnswer, 1)], most: 5, ..PLAIN },
        &[(Mutant::RenewedClaimForgetsTheWish, "a claim of an order that is to be cancelled")],
    ),
    (
        Scope {
            name: "the backend away, a lost answer",
            faults: &[(Fault::Away, 2), (Fault::LostAnswer, 1), (Fault::Duplicate, 1)],
            most: 5,
            ..PLAIN
        },
        &[(Mutant::AwayKeepsTheLease, "an interruption that was none")],
    ),
    (
        Scope { name: "two messages at an older program, a crash", faults: &[(Fault::Older, 2), (Fault::Crash, 1)], most: 5, ..PLAIN },
        &[(Mutant::SweepDoesNothing, "no way leads to an end")],
    ),
    (
        Scope {
            name: "a lost send, asked again in vain, a crash",
            faults: &[(Fault::LostSend, 1), (Fault::AskRefused, 2), (Fault::Crash, 1)],
            most: 7,
            ..PLAIN
        },
        &[(Mutant::RefusedRepeatDoesNotMoveDueAt, "an order stays overdue although its message is sent")],
    ),
    (
        Scope { name: "two pauses", faults: &[(Fault::Pause, 2)], most: 4, ..PLAIN },
        &[(Mutant::GiveUpDoesNotRaiseTheFence, "a worker took another's end for its own")],
    ),
    (
        Scope { name: "three duplicates", faults: &[(Fault::Duplicate, 3)], most: 7, ..PLAIN },
        &[(Mutant::WakeAlwaysSchedules, "too many wake-ups")],
    ),
    (
        Scope { name: "a lost send", faults: &[(Fault::LostSend, 1)], most: 4, ..PLAIN },
        &[(Mutant::SweepDoesNothing, "no way leads to an end")],
    ),
    (
        Scope { name: "no sweeper, two kills", faults: &[(Fault::Kill, 2)], sweeps: false, most: 3, ..PLAIN },
        &[
            (Mutant::RetryCompletesBeforeItWrites, "no way leads to an end"),
            (Mutant::ClaimNeverGivesUp, "more interruptions than the budget allows"),
        ],
    ),
    (
        Scope { name: "no sweeper, abandoned until dead", faults: &[(Fault::Abandon, 3)], sweeps: false, most: 2, ..PLAIN },
        &[(Mutant::DeadLetterIsDropped, "no way leads to an end")],
    ),
    (
        Scope { name: "a re-drive, a lost answer", faults: &[(Fault::Redrive, 1), (Fault::LostAnswer, 1)], most: 5, ..PLAIN },
        &[
            (Mutant::RedriveKeepsTheLife, "progress went backwards"),
            (Mutant::RedriveDoesNotRaiseTheFence, "a write by a worker that had lost its order"),
        ],
    ),
    (
        Scope {
            name: "a callback: a re-drive, a crash of a sender",
            faults: &[(Fault::Redrive, 1), (Fault::SenderCrash, 1)],
            pure: true,
            most: 3,
            tells: true,
            ..PLAIN
        },
        &[
            (Mutant::EndWritesNoDueAt, "a callback has a dueAt exactly as long as it is pending"),
            (Mutant::RedriveKeepsTheNotice, "a notice of an order that has not ended"),
            (Mutant::SenderForgetsTheLife, "a callback counts as delivered that no receiver has"),
            (Mutant::SenderWritesNoTry, "two tries of a callback at once"),
            (Mutant::TryDoesNotMoveDueAt, "two tries of a callback at once"),
        ],
    ),
];

#[test]
fn every_order_ends_once() {
    explore_all(SCOPES);
}

fn explore_all(scopes: &[Scope]) {
    let next = AtomicUsize::new(0);
    let search = || {
        while let Some(scope) = scopes.get(next.fetch_add(1, Ordering::Relaxed)) {
            let explored = explore(scope, None).unwrap_or_else(|broken| panic!("{}: {broken:?}", scope.name));
            println!("{}: {explored}", scope.name);
        }
    };
    std::thread::scope(|threads| {
        threads.spawn(search);
        search();
    });
}

#[test]
fn each_rule_is_needed() {
    for (scope, mutants) in NEEDED {
        let explored = explore(scope, None).unwrap_or_else(|broken| panic!("{}: {broken:?}", scope.name));
        println!("{}: {explored}", scope.name);
        for (mutant, violation) in *mutants {
            let Err(broken) = explore(scope, Some(*mutant)) else { panic!("{}: no violation without the rule: {mutant:?}", scope.name) };
            println!("  {mutant:?}: {}, after {} states", broken.violation, broken.states);
            assert_eq!(broken.violation, *violation, "{mutant:?}: {broken:?}");
        }
    }
}
