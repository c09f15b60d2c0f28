//! Decisions about the callback that tells of an order's end: record and event in, decision out, as in [`lifecycle`].
//!
//! The end itself writes the pending notice (`lifecycle`). From then on every try is two writes: [`begin`] before it sends, [`finish`] after
//! its answer. A process that dies in between leaves a notice that is due again later.

use std::time::Duration;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::lifecycle;
use crate::record::{Callback, Event, Notice, NoticeState, Record, Status};
use crate::timestamp::Timestamp;

/// Longest time of one try, from its first look at the receiver's name to the status of the answer.
pub const TRY: Duration = Duration::from_secs(15);
/// Longest URL of a receiver, in bytes.
pub const MAX_URL: usize = 2_048;
/// Time after the decision to try in which no other try is due: up to four seconds until the try begins, the try itself, [`TOLERANCE`],
/// and a second for the write of its result.
const HELD: Duration = Duration::from_secs(22);
/// Pauses after the first, the second, … failed try. They add up to three days; there is one try more than pauses.
const PAUSES: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(14),
    Duration::from_hours(20),
    Duration::from_hours(24),
];
/// Tries of a notice, unless an operator asks for more.
pub const MAX_TRIES: u32 = 10;
const _: () = assert!(PAUSES.len() == MAX_TRIES as usize - 1);
/// Time after which no try follows, however few there were: a receiver may ask for long pauses.
const LONGEST: Duration = Duration::from_hours(84);
/// Longest pause that a receiver may ask for.
const MAX_ASKED: Duration = Duration::from_hours(24);
/// Time before the record expires that the last try keeps free, since the sweeper looks once a minute; less of a short retention.
const SPARE: Duration = Duration::from_mins(10);
/// Pause before the next look at a callback whose receiver has no place for it, a tenth less or more.
const BUSY: Duration = Duration::from_mins(1);
/// Time by which a try may begin early: the store's clock may be set back between the end and the first try.
const TOLERANCE: Duration = Duration::from_secs(2);

/// The id of the callback of the order's end. It is derived from the order's life, which has one end: every try has the same id, and the
/// end after a re-drive has another.
pub fn id(record: &Record) -> String {
    let mut hash = Sha256::new_with_prefix(b"callback");
    hash.update(record.tracking_id.as_bytes());
    hash.update(record.life.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    format!("msg_{}", Uuid::new_v8(bytes).simple())
}

/// The type of the callback of an order with this status; `None`: the order has not ended.
pub fn kind(status: Status) -> Option<&'static str> {
    match status {
        Status::Completed => Some("order.completed"),
        Status::Failed => Some("order.failed"),
        Status::Cancelled => Some("order.cancelled"),
        Status::Accepted | Status::Processing => None,
    }
}

/// Next step for the callback of an order.
#[derive(Debug)]
pub enum Next {
    /// The order has not ended, nothing is to be told of its end, the next try is not due, or another process tries.
    Nothing,
    /// Write this record, and only then send.
    Try(Record),
    /// The tries are over: write this record.
    GiveUp(Record),
}

/// Decides whether a try may begin.
pub fn begin(found: &Record, now: Timestamp) -> Next {
    let Some(notice) = due(found, now) else { return Next::Nothing };
    // The last try was cut off by a crash, so its failure is noted nowhere.
    if tries(notice) >= MAX_TRIES {
        let code = notice.code.clone().unwrap_or_else(|| "interrupted".into());
        return Next::GiveUp(settled(found, NoticeState::GivenUp, Some(code), now));
    }
    let mut record = found.clone();
    let attempts = notice.attempts + 1;
    set(&mut record, Notice { attempts, ..notice.clone() });
    let until = until(found, notice);
    let pause = pause(tries(notice) + 1, 0.5);
    record.due_at = Some(now.after(HELD).max(now.after(HELD + pause).min(until)));
    touch(&mut record, now);
    Next::Try(record)
}

/// Whether a try may begin, or the tries are over.
pub fn is_due(found: &Record, now: Timestamp) -> bool {
    due(found, now).is_some()
}

/// The record of a callback that is due while its receiver has as many tries as one receiver may have. It costs the callback no try; after
/// the time for tries, or all of them, it is given up. `None`: no try may begin. `jitter` is from 0 to 1.
pub fn put_off(found: &Record, jitter: f64, now: Timestamp) -> Option<Record> {
    let notice = due(found, now)?;
    // A failed try says more.
    let code = notice.code.clone().unwrap_or_else(|| "receiver_busy".into());
    let until = until(found, notice);
    if now >= until || tries(notice) >= MAX_TRIES {
        return Some(settled(found, NoticeState::GivenUp, Some(code), now));
    }
    let mut record = found.clone();
    set(&mut record, Notice { code: Some(code), ..notice.clone() });
    record.due_at = Some(now.after(spread(BUSY, jitter)).min(until));
    touch(&mut record, now);
    Some(record)
}

/// Result of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The receiver confirmed the callback.
    Delivered,
    /// The receiver said that it wants no more of this.
    Gone,
    /// The try failed with this short code. The receiver may have asked for a pause.
    Failed(String, Option<Duration>),
}

/// The record after the try that [`begin`] wrote in `tried`, or `None` where the result changes nothing: the order was re-driven since, or
/// another try has settled the notice or goes on. `jitter` is from 0 to 1.
pub fn finish(found: &Record, tried: &Record, told: &Told, jitter: f64, now: Timestamp) -> Option<Record> {
    let notice = pending(found).filter(|_| found.life == tried.life)?;
    match told {
        // The receiver has the callback, or wants none: the answer to any try says so.
        Told::Delivered => Some(settled(found, NoticeState::Delivered, None, now)),
        Told::Gone => Some(settled(found, NoticeState::GivenUp, Some("http_410".into()), now)),
        Told::Failed(code, asked) => {
            if tried.notice().is_none_or(|tried| tried.attempts != notice.attempts) {
                return None;
            }
            if tries(notice) >= MAX_TRIES || now >= until(found, notice) {
                return Some(settled(found, NoticeState::GivenUp, Some(code.clone()), now));
            }
            let mut record = found.clone();
            set(&mut record, Notice { code: Some(code.clone()), ..notice.clone() });
            let pause = pause(tries(notice), jitter).max(asked.unwrap_or_default().min(MAX_ASKED));
            record.due_at = Some(now.after(pause).min(until(found, notice)));
            touch(&mut record, now);
            Some(record)
        }
    }
}

/// Why an operator cannot have a callback sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CannotSend {
    /// The order has not ended.
    NotEnded,
    /// Neither the order nor the deployment names a URL.
    NoTarget,
}

/// The record of an ended order whose callback an operator asks for once more, with the same id and a fresh budget of tries. `tells_ends`:
/// as in [`Budgets`](lifecycle::Budgets).
pub fn send_again(found: &Record, tells_ends: bool, now: Timestamp) -> Result<Record, CannotSend> {
    if !found.status.is_terminal() {
        return Err(CannotSend::NotEnded);
    }
    if found.callback.is_none() && !tells_ends {
        return Err(CannotSend::NoTarget);
    }
    let mut record = found.clone();
    let attempts = found.notice().map_or(0, |notice| notice.attempts);
    set(&mut record, Notice { state: NoticeState::Pending, attempts, attempts_before: attempts, since: now, code: None });
    // A try may be running: it began no later than the last change. One that is pending is not put off by being asked for again.
    let after_a_try = found.updated_at.after(HELD);
    let free = pending(found).and(found.due_at).map_or(after_a_try, |due_at| due_at.min(after_a_try));
    record.due_at = Some(if attempts > 0 { now.max(free) } else { now });
    touch(&mut record, now);
    note(&mut record, Event::Renotified, None, now);
    Ok(record)
}

fn pending(record: &Record) -> Option<&Notice> {
    record.notice().filter(|notice| notice.state == NoticeState::Pending)
}

/// The notice of an order whose next try is due.
fn due(record: &Record, now: Timestamp) -> Option<&Notice> {
    pending(record).filter(|_| record.due_at.is_none_or(|due_at| due_at <= now.after(TOLERANCE)))
}

/// Tries of the present budget.
fn tries(notice: &Notice) -> u32 {
    notice.attempts.saturating_sub(notice.attempts_before)
}

/// Moment after which a failed try is the last one: after [`LONGEST`], or a little before the record expires if that comes first.
fn until(record: &Record, notice: &Notice) -> Timestamp {
    let longest = notice.since.after(LONGEST);
    expiry(record).map_or(longest, |expiry| {
        let spare = SPARE.min(notice.since.until(expiry) / 10);
        let spare = i64::try_from(spare.as_millis()).unwrap_or(i64::MAX);
        longest.min(Timestamp::from_milliseconds(expiry.as_milliseconds().saturating_sub(spare)))
    })
}

fn expiry(record: &Record) -> Option<Timestamp> {
    record.ttl.map(|ttl| record.updated_at.after(Duration::from_secs(ttl.into())))
}

/// Pause after this number of tries, a tenth less or more.
fn pause(tries: u32, jitter: f64) -> Duration {
    spread(PAUSES[(tries.max(1) as usize - 1).min(PAUSES.len() - 1)], jitter)
}

fn spread(pause: Duration, jitter: f64) -> Duration {
    pause.mul_f64(0.9 + 0.2 * jitter.clamp(0.0, 1.0))
}

fn settled(found: &Record, state: NoticeState, code: Option<String>, now: Timestamp) -> Record {
    let mut record = found.clone();
    if let Some(notice) = found.notice() {
        set(&mut record, Notice { state, code: code.clone(), ..notice.clone() });
    }
    record.due_at = None;
    touch(&mut record, now);
    let event = if state == NoticeState::Delivered { Event::Notified } else { Event::Unnotified };
    note(&mut record, event, code, now);
    record
}

fn set(record: &mut Record, notice: Notice) {
    record.callback.get_or_insert_with(Callback::default).notice = Some(notice);
    record.schema_version = record.version();
}

/// Notes a change of the record that does not move the moment when the record expires: the store counts `ttl` from the last change.
fn touch(record: &mut Record, now: Timestamp) {
    let expiry = expiry(record);
    record.updated_at = record.not_before(now);
    record.ttl = expiry.map(|expiry| u32::try_from(record.updated_at.until(expiry).as_secs()).unwrap_or(u32::MAX).max(1));
}

/// Adds an event of the callback to the history, in place of the last one: however often an operator asks, the order's own way stays
/// readable.
fn note(record: &mut Record, event: Event, code: Option<String>, now: Timestamp) {
    while record.history.last().is_some_and(|last| last.event.is_of_callback()) {
        record.history.pop();
    }
    lifecycle::note(record, event, code, now);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::value::RawValue;

    use super::*;
    use crate::lifecycle::{Budgets, Cancel, Submission};
    use crate::order::Names;
    use crate::record::{MAX_HISTORY, Metadata};
    use crate::tracking::TrackingId;

    const START: Timestamp = Timestamp::from_milliseconds(1_790_000_000_000);

    fn budgets(retention: Duration) -> Budgets {
        Budgets {
            lease: Duration::from_secs(30),
            max_attempts: 5,
            retry_base: Duration::from_secs(2),
            retry_cap: Duration::from_mins(5),
            max_interruptions: 20,
            order_deadline: Duration::from_hours(24),
            retention,
            overdue_after: Duration::from_mins(2),
            tells_ends: true,
        }
    }

    fn ended(retention: Duration) -> Record {
        let metadata = Metadata {
            api_name: "orders".into(),
            operation_name: "submitOrder".into(),
            subscription_id: None,
            received_at: START,
            traceparent: None,
            owner: "anonymous".into(),
        };
        let submission = Submission {
            tracking_id: TrackingId::parse("0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10").unwrap(),
            life: Uuid::nil(),
            order: RawValue::from_string("{}".into()).map(Arc::from).unwrap(),
            names: Names::default(),
            fingerprint: String::new(),
            metadata,
            callback_url: None,
        };
        let budgets = budgets(retention);
        let accepted = lifecycle::accept(submission, Duration::ZERO, START, &budgets);
        assert_eq!((accepted.schema_version, accepted.notice()), (2, None));
        match lifecycle::cancel(&accepted, START, &budgets) {
            Cancel::End(record) => record,
            other => panic!("{other:?}"),
        }
    }

    /// The record after every try has failed, and the moments of the tries.
    fn all_fail(mut record: Record, mut now: Timestamp, asked: Option<Duration>) -> (Record, Vec<Timestamp>) {
        let mut tries = Vec::new();
        while record.notice().unwrap().state == NoticeState::Pending {
            now = now.max(record.due_at.unwrap());
            match begin(&record, now) {
                Next::Try(begun) => {
                    tries.push(now);
                    assert!(matches!(begin(&begun, now.after(TRY)), Next::Nothing), "one try at a time");
                    record = finish(&begun, &begun, &Told::Failed("http_500".into(), asked), 1.0, now.after(TRY)).unwrap();
                }
                Next::GiveUp(given_up) => record = given_up,
                Next::Nothing => panic!("{record:?} at {now}"),
            }
        }
        (record, tries)
    }

    #[test]
    fn tries_go_on_for_three_days_and_the_record_expires_as_if_there_were_none() {
        let first = ended(Duration::from_hours(168));
        let (record, tries) = all_fail(first.clone(), START, None);

        assert_eq!(tries.len(), MAX_TRIES as usize);
        let took = START.until(*tries.last().unwrap());
        assert!((Duration::from_hours(72)..LONGEST).contains(&took), "{took:?}");
        let notice = record.notice().unwrap();
        assert_eq!((notice.state, notice.attempts, notice.code.as_deref()), (NoticeState::GivenUp, 10, Some("http_500")));
        assert_eq!((record.due_at, record.schema_version), (None, 3));
        let (told, was) = (expiry(&record).unwrap(), expiry(&first).unwrap());
        assert!(told <= was && told.until(was) < Duration::from_secs(30), "{told} {was}");
        assert_eq!(record.history.last().map(|last| (last.event, last.code.as_deref())), Some((Event::Unnotified, Some("http_500"))));
    }

    #[test]
    fn the_last_try_comes_before_the_record_expires() {
        for hours in [1, 5, 24, 60] {
            let first = ended(Duration::from_hours(hours));
            let (record, tries) = all_fail(first.clone(), START, None);

            let last = *tries.last().unwrap();
            let left = last.until(expiry(&first).unwrap());
            assert!(left > Duration::from_mins(5) && left < Duration::from_secs(602), "{hours} {left:?}");
            assert_eq!(record.notice().unwrap().state, NoticeState::GivenUp);
        }
    }

    #[test]
    fn a_receiver_may_ask_for_a_pause_within_bounds() {
        let (_, tries) = all_fail(ended(Duration::from_hours(168)), START, Some(Duration::from_hours(10_000)));

        assert_eq!(tries[0].until(tries[1]), MAX_ASKED + TRY);
        assert!(tries[0].until(*tries.last().unwrap()) <= LONGEST, "{tries:?}");
    }

    #[test]
    fn a_notice_that_no_process_looked_at_in_time_is_still_tried_once() {
        let record = ended(Duration::from_hours(168));

        assert!(matches!(begin(&record, START.after(Duration::from_hours(167))), Next::Try(_)));
    }

    #[test]
    fn a_try_that_was_cut_off_is_given_up_after_the_last_one() {
        let mut record = ended(Duration::from_hours(168));
        let mut tries = 0;
        loop {
            match begin(&record, record.due_at.unwrap()) {
                Next::Try(begun) => (record, tries) = (begun, tries + 1),
                Next::GiveUp(given_up) => break record = given_up,
                Next::Nothing => panic!("{record:?}"),
            }
        }

        assert_eq!((tries, record.notice().unwrap().code.as_deref()), (MAX_TRIES, Some("interrupted")));
    }

    #[test]
    fn a_callback_whose_receiver_is_busy_loses_no_try_and_is_given_up_in_time() {
        let mut record = ended(Duration::from_hours(168));
        let mut now = START;
        while record.notice().unwrap().state == NoticeState::Pending {
            now = record.due_at.unwrap();
            let put_off = put_off(&record, 0.5, now).unwrap();
            assert!(super::put_off(&put_off, 0.5, now).is_none() && matches!(begin(&put_off, now), Next::Nothing), "it is not due");
            record = put_off;
        }

        let notice = record.notice().unwrap();
        assert_eq!((notice.state, notice.attempts, notice.code.as_deref()), (NoticeState::GivenUp, 0, Some("receiver_busy")));
        assert_eq!((START.until(now), record.due_at), (LONGEST, None));
    }

    #[test]
    fn a_late_answer_counts_if_the_receiver_has_the_callback_and_not_if_it_failed() {
        let record = ended(Duration::from_hours(168));
        let Next::Try(first) = begin(&record, START) else { panic!() };
        let Next::Try(second) = begin(&first, first.due_at.unwrap()) else { panic!() };
        let now = second.updated_at.after(Duration::from_secs(1));

        assert!(finish(&second, &first, &Told::Failed("timeout".into(), None), 0.5, now).is_none());
        let delivered = finish(&second, &first, &Told::Delivered, 0.5, now).unwrap();
        assert_eq!(delivered.notice().unwrap().state, NoticeState::Delivered);
        assert!(finish(&delivered, &second, &Told::Gone, 0.5, now).is_none(), "it is settled");
    }

    #[test]
    fn the_id_is_the_same_for_every_try_and_another_after_a_redrive() {
        let record = ended(Duration::from_hours(168));
        let Next::Try(first) = begin(&record, START) else { panic!() };
        let again = send_again(&first, true, START).unwrap();
        let failed = Record { status: Status::Failed, ..first.clone() };
        let redriven = lifecycle::redrive(&failed, Uuid::max(), START, &budgets(Duration::from_hours(168))).unwrap();

        assert_eq!([id(&record), id(&first), id(&again)], [id(&record), id(&record), id(&record)]);
        assert_ne!(id(&redriven), id(&record));
        assert!(redriven.callback.as_ref().unwrap().notice.is_none());
        assert!(finish(&redriven, &first, &Told::Delivered, 0.5, START).is_none(), "that end is undone");
        assert!(matches!(begin(&redriven, START.after(LONGEST)), Next::Nothing), "it has not ended");
        assert_eq!(send_again(&redriven, true, START).unwrap_err(), CannotSend::NotEnded);
        assert_eq!(send_again(&Record { callback: None, ..record }, false, START).unwrap_err(), CannotSend::NoTarget);
    }

    #[test]
    fn asking_again_and_again_puts_no_callback_off() {
        let (given_up, _) = all_fail(ended(Duration::from_hours(168)), START, None);
        let asked = given_up.updated_at.after(Duration::from_secs(1));
        let mut record = send_again(&given_up, true, asked).unwrap();
        let due_at = record.due_at;
        for second in 1..15 {
            record = send_again(&record, true, asked.after(Duration::from_secs(second))).unwrap();
        }

        assert_eq!(record.due_at, due_at);
        let Next::Try(tried) = begin(&record, due_at.unwrap()) else { panic!("{record:?}") };
        let again = send_again(&tried, true, tried.updated_at.after(Duration::from_secs(1))).unwrap();
        assert!(matches!(begin(&again, tried.updated_at.after(TRY)), Next::Nothing), "the try may be running");
    }

    #[test]
    fn however_often_an_operator_asks_the_end_stays_in_the_history() {
        let mut record = ended(Duration::from_hours(168));
        for _ in 0..2 * MAX_HISTORY {
            record = send_again(&record, true, record.updated_at).unwrap();
            record = all_fail(record.clone(), record.updated_at, None).0;
        }

        let events: Vec<_> = record.history.iter().map(|transition| transition.event).collect();
        assert_eq!(events, [Event::Accepted, Event::Cancelled, Event::Unnotified]);
    }
}
