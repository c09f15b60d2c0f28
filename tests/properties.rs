//! What holds for every sequence of events, and every order. What strangers write is in `fuzz.rs`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::value::RawValue;
use uuid::Uuid;
use waybill::domain::json::Json;
use waybill::domain::lifecycle::{self, Budgets, Claim, Claimant, Fenced, Submission, Sweep, Verdict};
use waybill::domain::order::{Names, Order};
use waybill::domain::record::{self, Event, Failure, FencingToken, Holder, MAX_HISTORY, Metadata, Record};
use waybill::domain::timestamp::Timestamp;
use waybill::domain::tracking::{IdempotencyKey, TrackingKey};
use waybill::functions::completion_times::{CompletionTimes, Estimate};
use waybill::functions::queue_wait::QueueWait;

const LIFE: Uuid = Uuid::from_u128(1);
const ORDER: &str = r#"{"orderId":"o","customerId":"c","currency":"EUR","items":[{"sku":"s","quantity":1,"unitPrice":"1.10"}],"z":1.10}"#;

fn budgets() -> Budgets {
    Budgets {
        lease: Duration::from_secs(30),
        max_attempts: 3,
        retry_base: Duration::from_secs(1),
        retry_cap: Duration::from_secs(10),
        max_interruptions: 4,
        order_deadline: Duration::from_mins(10),
        retention: Duration::from_secs(1000),
        overdue_after: Duration::from_mins(2),
        tells_ends: false,
    }
}

fn accepted() -> Record {
    let key = TrackingKey::new(vec![7; 32]).unwrap();
    let metadata = Metadata {
        api_name: "orders".into(),
        operation_name: "submitOrder".into(),
        subscription_id: None,
        received_at: Timestamp::from_milliseconds(0),
        traceparent: None,
        owner: "anonymous".into(),
    };
    let submission = Submission {
        tracking_id: IdempotencyKey::Header("k").tracking_id(&key, "anonymous"),
        life: LIFE,
        order: raw(ORDER),
        names: Names::default(),
        fingerprint: "f".into(),
        metadata,
        callback_url: None,
    };
    lifecycle::accept(submission, Duration::ZERO, Timestamp::from_milliseconds(0), &budgets())
}

/// The record, claimed by a worker at this moment.
fn claimed(found: &Record, now: Timestamp) -> Record {
    let claimant = Claimant { life: found.life, holder: &holder(1), invocation: "i", now, holder_gone: false };
    match lifecycle::claim(found, &claimant, &budgets()) {
        Claim::Take(record) => record,
        other => panic!("{other:?}"),
    }
}

/// An order that no worker claimed in its time, put back by an operator.
fn redriven_unclaimed(now: Timestamp) -> Record {
    let Sweep::GiveUp(failed) = lifecycle::sweep(&accepted(), Duration::ZERO, now, &budgets()) else { panic!("its time is over") };
    lifecycle::redrive(&failed, Uuid::from_u128(2), now, &budgets()).unwrap()
}

fn raw(text: &str) -> Arc<RawValue> {
    RawValue::from_string(text.into()).unwrap().into()
}

fn holder(process: u32) -> Holder {
    Holder { instance: "i".into(), boot: Some("b".into()), process, started: 1 }
}

/// One event: a writer read the record some versions ago, and now writes a change of it.
#[derive(Debug, Clone)]
enum Step {
    Claim { worker: u32, invocation: u8, gone: bool, other_life: bool, stale: Option<Index>, wait: i64 },
    Advance { fence: u64, progress: u8, stale: Option<Index>, wait: i64 },
    Finish { fence: u64, completed: bool, stale: Option<Index>, wait: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    let stale = || proptest::option::weighted(0.3, any::<Index>());
    // Clocks mostly go forwards, a little or past a lease, sometimes past the deadline, and sometimes back.
    let wait = || prop_oneof![6 => 0..2_000i64, 3 => 20_000..40_000i64, 1 => 100_000..400_000i64, 1 => -50_000..0i64];
    prop_oneof![
        4 => (0..3u32, 0..2u8, proptest::bool::weighted(0.3), proptest::bool::weighted(0.1), stale(), wait())
            .prop_map(|(worker, invocation, gone, other_life, stale, wait)| Step::Claim { worker, invocation, gone, other_life, stale, wait }),
        4 => (0..6u64, any::<u8>(), stale(), wait()).prop_map(|(fence, progress, stale, wait)| Step::Advance { fence, progress, stale, wait }),
        1 => (0..6u64, any::<bool>(), stale(), wait()).prop_map(|(fence, completed, stale, wait)| Step::Finish { fence, completed, stale, wait }),
    ]
}

/// The store: every version there ever was. Only what was made from the latest is written.
struct Versions(Vec<Record>);

impl Versions {
    fn latest(&self) -> &Record {
        self.0.last().unwrap()
    }

    fn seen(&self, stale: Option<&Index>) -> usize {
        stale.map_or(self.0.len() - 1, |index| index.index(self.0.len()))
    }

    fn write(&mut self, seen: usize, record: Record) -> bool {
        let fits = seen == self.0.len() - 1;
        if fits {
            self.0.push(record);
        }
        fits
    }

    /// Writes as a worker does: after a refusal the worker reads again and applies the same change, if it still may.
    fn change(&mut self, seen: usize, change: impl Fn(&Record) -> Result<Record, Fenced>) -> Result<(), Fenced> {
        let record = change(&self.0[seen])?;
        if !self.write(seen, record) {
            let record = change(self.latest())?;
            self.0.push(record);
        }
        Ok(())
    }
}

fn rank(record: &Record) -> u8 {
    match record.status {
        record::Status::Accepted => 0,
        record::Status::Processing => 1,
        _ => 2,
    }
}

fn holds_alone(record: &Record) {
    let ends = record.history.iter().filter(|step| matches!(step.event, Event::Completed | Event::Failed | Event::Cancelled)).count();
    assert_eq!(ends, usize::from(record.status.is_terminal()), "{record:?}");
    assert!(record.history.len() <= MAX_HISTORY && record.history[0].event == Event::Accepted);
    assert!(record.progress <= 100);
    assert_eq!(record.lease.is_some(), rank(record) == 1, "{record:?}");
    assert_eq!(record.due_at.is_none(), record.status.is_terminal(), "{record:?}");
    assert_eq!(record.ttl.is_some(), record.status.is_terminal(), "{record:?}");
    assert_eq!(record.completed_at.is_some(), record.status.is_terminal(), "{record:?}");
    assert_eq!(record.result.is_some(), record.status == record::Status::Completed, "{record:?}");
    assert_eq!(record.error.is_some(), record.status == record::Status::Failed, "{record:?}");
    assert!(record.interruptions <= budgets().max_interruptions);
    assert_eq!(record.order.get(), ORDER);

    let text = serde_json::to_string(record).unwrap();
    assert_eq!(serde_json::to_string(&serde_json::from_str::<Record>(&text).unwrap()).unwrap(), text, "records survive the store");
}

fn follows(before: &Record, after: &Record) {
    assert!(!before.status.is_terminal(), "nothing follows an end: {before:?} {after:?}");
    assert!(rank(before) <= rank(after), "{before:?} {after:?}");
    assert!(before.progress <= after.progress && before.fence <= after.fence, "{before:?} {after:?}");
    assert!(before.attempt <= after.attempt && before.interruptions <= after.interruptions);
    assert_eq!((before.life, &before.fingerprint, before.submitted_at), (after.life, &after.fingerprint, after.submitted_at));
    assert!(before.started_at.is_none() || before.started_at == after.started_at);
    let same_holder = before.lease.as_ref().map(|lease| &lease.invocation) == after.lease.as_ref().map(|lease| &lease.invocation)
        && before.lease.as_ref().map(|lease| &lease.holder) == after.lease.as_ref().map(|lease| &lease.holder);
    assert!(before.fence < after.fence || same_holder || after.status.is_terminal(), "{before:?} {after:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_order_only_ever_moves_forwards(steps in vec(step(), 1..60)) {
        let budgets = budgets();
        let mut versions = Versions(vec![accepted()]);
        let mut now = 0;
        let mut claims = 0;
        let mut given_up_interrupted = 0;
        for step in steps {
            let length = versions.0.len();
            match step {
                Step::Claim { worker, invocation, gone, other_life, stale, wait } => {
                    now += wait;
                    let seen = versions.seen(stale.as_ref());
                    let (holder, invocation) = (holder(worker), invocation.to_string());
                    let found = versions.0[seen].clone();
                    let life = if other_life { Uuid::from_u128(2) } else { LIFE };
                    let time = Timestamp::from_milliseconds(now);
                    // No worker takes itself for gone.
                    let gone = gone && found.lease.as_ref().is_some_and(|lease| lease.holder != holder);
                    let claimant = Claimant { life, holder: &holder, invocation: &invocation, now: time, holder_gone: gone };
                    let live = found.lease.as_ref().is_some_and(|lease| lease.expires_at > time) && !gone;
                    match lifecycle::claim(&found, &claimant, &budgets) {
                        Claim::Take(record) if record.fence == found.fence => {
                            let lease = record.lease.as_ref().unwrap();
                            prop_assert!(lease.holder == holder && lease.invocation == invocation && lease.expires_at > time);
                            versions.write(seen, record);
                        }
                        Claim::Take(record) => {
                            prop_assert!(!live && !other_life && time < found.deadline);
                            prop_assert_eq!(record.fence, found.fence + 1);
                            prop_assert_eq!(&record.lease.as_ref().unwrap().holder, &holder);
                            prop_assert!(record.due_at == Some(record.lease.as_ref().unwrap().expires_at));
                            claims += u32::from(versions.write(seen, record));
                        }
                        Claim::GiveUp(record) => {
                            // Its own claim may be found already written; no work has begun then, so none is interrupted.
                            let own = found.lease.as_ref().is_some_and(|lease| lease.holder == holder && lease.invocation == invocation);
                            prop_assert!((own || !live) && !other_life);
                            prop_assert!(record.fence > found.fence && record.status == record::Status::Failed);
                            given_up_interrupted += u32::from(versions.write(seen, record) && found.lease.is_some() && !own);
                        }
                        Claim::Wait(until, _) => prop_assert!(live && until > time),
                        Claim::NothingToDo => prop_assert!(found.status.is_terminal() || other_life),
                    }
                }
                Step::Advance { fence, progress, stale, wait } => {
                    now += wait;
                    let before = versions.latest().clone();
                    let seen = versions.seen(stale.as_ref());
                    let time = Timestamp::from_milliseconds(now);
                    let changed = versions.change(seen, |found| lifecycle::advance(found, FencingToken { fence, ..found.token() }, progress, Some("stage"), time, &budgets));
                    let owned = before.fence == fence && !before.status.is_terminal();
                    prop_assert!(owned || changed.is_err() && versions.0.len() == length);
                }
                Step::Finish { fence, completed, stale, wait } => {
                    // Only a claim hands out a fence.
                    if fence == 0 {
                        continue;
                    }
                    now += wait;
                    let before = versions.latest().clone();
                    let seen = versions.seen(stale.as_ref());
                    let time = Timestamp::from_milliseconds(now);
                    let verdict = if completed { Verdict::Completed(raw("{}")) } else { Verdict::Failed(Failure::new("c", "m")) };
                    let changed = versions.change(seen, |found| lifecycle::finish(found, FencingToken { fence, ..found.token() }, verdict.clone(), time, &budgets));
                    let owned = before.fence == fence && !before.status.is_terminal();
                    prop_assert!(owned || changed.is_err() && versions.0.len() == length);
                }
            }
            if versions.0.len() > length {
                holds_alone(versions.latest());
                follows(&versions.0[length - 1], versions.latest());
            }
            let latest = versions.latest();
            prop_assert_eq!(latest.attempt + latest.interruptions, claims + given_up_interrupted, "{:?}", latest);
        }
    }

    #[test]
    fn an_order_that_clients_keep_asking_for_ends(lives in vec((0..3u32, 1_000..120_000i64), 1..60)) {
        let budgets = budgets();
        let mut record = accepted();
        let mut now = 0;
        for (worker, wait) in lives {
            now += wait;
            let claimant = Claimant { life: LIFE, holder: &holder(worker), invocation: "i", now: Timestamp::from_milliseconds(now), holder_gone: false };
            if let Claim::Take(taken) | Claim::GiveUp(taken) = lifecycle::claim(&record, &claimant, &budgets) {
                record = taken;
            }
        }
        let late = Timestamp::from_milliseconds(now + 2_000_000);
        let claimant = Claimant { life: LIFE, holder: &holder(9), invocation: "late", now: late, holder_gone: false };
        if let Claim::Take(taken) | Claim::GiveUp(taken) = lifecycle::claim(&record, &claimant, &budgets) {
            record = taken;
        }
        prop_assert!(record.status.is_terminal(), "{:?}", record);
    }
}

/// JSON whose numbers keep the text they are written as.
#[derive(Debug, Clone, PartialEq)]
enum Tree {
    Word(&'static str),
    Number(String),
    Text(String),
    Array(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        (any::<i32>(), 0..1_000_000u32).prop_map(|(whole, fraction)| format!("{whole}.{fraction:06}")),
        ("-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,40})?", -500..500i32).prop_map(|(mantissa, exponent)| format!("{mantissa}e{exponent}")),
        "-?(0|[1-9][0-9]{0,5})(\\.[0-9]{1,5})?[eE][+-]?[0-9]{1,25}",
    ]
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        prop::sample::select(vec!["null", "true", "false"]).prop_map(Tree::Word),
        number().prop_map(Tree::Number),
        any::<String>().prop_map(Tree::Text),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Tree::Array),
            prop::collection::btree_map(any::<String>(), inner, 0..6).prop_map(|members| Tree::Object(members.into_iter().collect())),
        ]
    })
}

/// Small trees, each of its own meaning, alike enough to be taken for one another.
fn whole_numbers() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        prop::sample::select(vec!["null", "true"]).prop_map(Tree::Word),
        (-2..12i8).prop_map(|number| Tree::Number(number.to_string())),
        "[a1]{0,2}".prop_map(Tree::Text),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Tree::Array),
            prop::collection::btree_map("[a1]{0,2}", inner, 0..3).prop_map(|members| Tree::Object(members.into_iter().collect())),
        ]
    })
}

/// An order, more or less: the right names with any values.
fn order() -> impl Strategy<Value = Tree> {
    let item = prop_oneof![
        tree(),
        (tree(), prop_oneof![number().prop_map(Tree::Number), tree()], prop_oneof![number().prop_map(Tree::Number), tree()]).prop_map(
            |(sku, quantity, price)| Tree::Object(vec![("sku".into(), sku), ("quantity".into(), quantity), ("unitPrice".into(), price)])
        )
    ];
    (tree(), tree(), tree(), vec(item, 0..5), tree()).prop_map(|(id, customer, currency, items, extra)| {
        Tree::Object(vec![
            ("orderId".into(), id),
            ("customerId".into(), customer),
            ("currency".into(), currency),
            ("items".into(), Tree::Array(items)),
            ("extra".into(), extra),
        ])
    })
}

/// Writes a tree; `choices` decides spaces, escapes, the order of keys and the spelling of numbers, none of which mean anything.
struct Writer<'a> {
    choices: std::iter::Cycle<std::slice::Iter<'a, u8>>,
    text: String,
}

impl<'a> Writer<'a> {
    fn write(tree: &Tree, choices: &'a [u8]) -> String {
        let mut writer = Self { choices: choices.iter().cycle(), text: String::new() };
        writer.tree(tree);
        writer.text
    }

    fn choice(&mut self, of: usize) -> usize {
        usize::from(*self.choices.next().unwrap()) % of
    }

    fn space(&mut self) {
        let space = ["", "", " ", "\n\t", "\r\n  "][self.choice(5)];
        self.text.push_str(space);
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        for letter in text.chars() {
            if self.choice(3) == 0 || letter.is_control() || matches!(letter, '"' | '\\') {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    let escape = if self.choice(2) == 0 { format!("\\u{unit:04x}") } else { format!("\\u{unit:04X}") };
                    self.text.push_str(&escape);
                }
            } else {
                self.text.push(letter);
            }
        }
        self.text.push('"');
    }

    fn number(&mut self, digits: &str) {
        let plain = !digits.contains(['e', 'E']);
        let spelled = match self.choice(5) {
            1 if plain && digits.contains('.') => format!("{digits}00"),
            2 if plain && !digits.contains('.') => format!("{digits}.0"),
            3 if plain => format!("{digits}e0"),
            4 if plain && !digits.contains('.') && digits != "0" => format!("{digits}0E-1"),
            _ => digits.to_owned(),
        };
        self.text.push_str(&spelled);
    }

    fn tree(&mut self, tree: &Tree) {
        self.space();
        match tree {
            Tree::Word(word) => self.text.push_str(word),
            Tree::Number(digits) => self.number(digits),
            Tree::Text(text) => self.string(text),
            Tree::Array(elements) => {
                self.text.push('[');
                for (index, element) in elements.iter().enumerate() {
                    if index > 0 {
                        self.text.push(',');
                    }
                    self.tree(element);
                }
                self.text.push(']');
            }
            Tree::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                for last in (1..members.len()).rev() {
                    members.swap(last, self.choice(last + 1));
                }
                self.text.push('{');
                for (index, (key, value)) in members.into_iter().enumerate() {
                    if index > 0 {
                        self.text.push(',');
                    }
                    self.space();
                    self.string(key);
                    self.space();
                    self.text.push(':');
                    self.tree(value);
                }
                self.text.push('}');
            }
        }
        self.space();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_fingerprint_depends_on_the_meaning_alone(tree in tree(), first in vec(any::<u8>(), 8..64), second in vec(any::<u8>(), 8..64)) {
        let (a, b) = (Writer::write(&tree, &first), Writer::write(&tree, &second));

        let (parsed_a, parsed_b) = (Json::parse(&a).unwrap(), Json::parse(&b).unwrap());

        prop_assert_eq!(parsed_a.fingerprint(), parsed_b.fingerprint(), "{} {}", a, b);
    }

    #[test]
    fn another_meaning_has_another_fingerprint(one in whole_numbers(), other in whole_numbers(), choices in vec(any::<u8>(), 8..64)) {
        prop_assume!(one != other);
        let (a, b) = (Writer::write(&one, &choices), Writer::write(&other, &choices));

        prop_assert_ne!(Json::parse(&a).unwrap().fingerprint(), Json::parse(&b).unwrap().fingerprint(), "{} {}", a, b);
    }

    #[test]
    fn an_order_of_any_values_is_read_or_refused_with_reasons(tree in order(), choices in vec(any::<u8>(), 8..64)) {
        let text = Writer::write(&tree, &choices);

        match Order::read(&Json::parse(&text).unwrap()) {
            Ok(order) => prop_assert!(!order.items.is_empty()),
            Err(violations) => {
                prop_assert!((1..=100).contains(&violations.len()));
                for violation in violations {
                    prop_assert!(violation.pointer.is_empty() || violation.pointer.starts_with('/'));
                }
            }
        }
    }
}

#[test]
fn the_wait_of_an_order_that_an_operator_put_back_says_nothing_of_the_queue() {
    let day = Timestamp::from_milliseconds(86_400_000);
    let redriven = redriven_unclaimed(day);
    let queue_wait = QueueWait::default();

    assert_eq!(queue_wait.observe_claim(&redriven, &claimed(&redriven, day), true), None);
    assert_eq!(queue_wait.usual(), Duration::ZERO);
    let second = Timestamp::from_milliseconds(1_000);
    assert_eq!(queue_wait.observe_claim(&accepted(), &claimed(&accepted(), second), true), Some(Duration::from_secs(1)));
    assert_eq!(queue_wait.usual(), Duration::from_secs(1));
}

#[test]
fn a_worker_of_an_earlier_order_under_the_same_id_writes_nothing() {
    let now = Timestamp::from_milliseconds(0);
    let before = claimed(&accepted(), now);
    // Its record expired, and the order was sent again.
    let after = claimed(&Record { life: Uuid::from_u128(2), ..accepted() }, now);
    assert_eq!(before.fence, after.fence);

    let verdict = Verdict::Completed(raw("1"));
    assert_eq!(lifecycle::finish(&after, before.token(), verdict, now, &budgets()).err(), Some(Fenced::Superseded));
    assert_eq!(lifecycle::advance(&after, before.token(), 50, None, now, &budgets()).err(), Some(Fenced::Superseded));
}

#[test]
fn a_retry_whose_answer_was_lost_is_not_applied_twice() {
    let now = Timestamp::from_milliseconds(0);
    let claimed = claimed(&accepted(), now);
    let retry = |found: &Record| lifecycle::retry(found, claimed.token(), Failure::new("c", "m"), None, 1.0, now, &budgets()).unwrap();
    let first = retry(&claimed);
    assert!(first.retry_at.is_some(), "there are tries left");

    let second = retry(&first);

    assert_eq!((second.history.len(), second.retry_at), (first.history.len(), first.retry_at));
}

#[test]
fn an_order_is_asked_for_under_one_key_until_the_work_has_given_its_verdict() {
    let now = Timestamp::from_milliseconds(0);
    let failure = || Failure::new("c", "m");
    let redriven = |found: &Record, life| lifecycle::redrive(found, Uuid::from_u128(life), now, &budgets()).unwrap();
    let ended = |found: &Record, verdict| {
        let claimed = claimed(found, now);
        lifecycle::finish(&claimed, claimed.token(), verdict, now, &budgets()).unwrap()
    };

    let unseen = redriven(&ended(&accepted(), Verdict::Failed(failure())), 2);
    assert_eq!((unseen.life, unseen.key_life()), (Uuid::from_u128(2), LIFE));
    let still_unseen = redriven(&ended(&unseen, Verdict::Failed(failure())), 3);
    assert_eq!(still_unseen.key_life(), LIFE);
    let refused = redriven(&ended(&still_unseen, Verdict::Refused(failure())), 4);
    assert_eq!(refused.key_life(), Uuid::from_u128(4));
    let timely = Timestamp::from_milliseconds(budgets().order_deadline.as_millis().try_into().unwrap());
    assert_eq!(redriven_unclaimed(timely).key_life(), LIFE, "a worker that is gone may have done the work");
}

#[test]
fn a_sweep_is_due_by_the_deadline_however_long_the_queue_is() {
    let budgets = budgets();
    for wait in [0, 1, 60, 3_600, 36_000, 360_000].map(Duration::from_secs) {
        let submission = |record: Record| Submission {
            names: record.names(),
            tracking_id: record.tracking_id,
            life: record.life,
            order: record.order,
            fingerprint: record.fingerprint,
            metadata: record.metadata,
            callback_url: None,
        };
        let mut record = lifecycle::accept(submission(accepted()), wait, Timestamp::from_milliseconds(0), &budgets);
        let patience = Duration::from_millis(record.due_at.unwrap().as_milliseconds().try_into().unwrap());
        assert!(patience <= budgets.overdue_after.max(budgets.order_deadline / 8), "{wait:?}: {patience:?}");
        let looks = (0..100).find(|_| {
            let now = record.due_at.unwrap();
            assert!(now <= record.deadline, "{wait:?}: {now} is after {}", record.deadline);
            match lifecycle::sweep(&record, wait, now, &budgets) {
                Sweep::Postpone(next) | Sweep::Emit(next) => record = next,
                Sweep::GiveUp(_) => return true,
                Sweep::Nothing => panic!("it is due"),
            }
            false
        });
        assert!(looks.is_some(), "{wait:?}: it ends");
    }
}

#[test]
fn a_sweep_puts_an_order_off_at_most_as_long_as_it_has_waited() {
    let budgets = Budgets { order_deadline: Duration::from_hours(24), ..budgets() };
    let long = Duration::from_secs(3_600);
    let looked_at = |record: &Record, now| match lifecycle::sweep(record, long, now, &budgets) {
        Sweep::Postpone(next) => next,
        other => panic!("{other:?}"),
    };
    let first = Record { deadline: Timestamp::from_milliseconds(86_400_000), ..accepted() };
    let second = looked_at(&first, first.due_at.unwrap());
    let third = looked_at(&second, second.due_at.unwrap());

    let waited = [first, second, third].map(|record| record.submitted_at.until(record.due_at.unwrap()));

    assert_eq!(waited, [1, 2, 4].map(|times| budgets.overdue_after * times));
}

#[test]
fn a_message_that_is_lost_again_is_missed_no_later_than_its_order_has_waited() {
    let budgets = budgets();
    let claimed = claimed(&accepted(), Timestamp::from_milliseconds(0));
    let due = claimed.due_at.unwrap();

    let Sweep::Emit(sent) = lifecycle::sweep(&claimed, Duration::from_secs(3_600), due, &budgets) else { panic!("its worker is gone") };

    assert_eq!(due.until(sent.due_at.unwrap()), budgets.overdue_after.max(budgets.lease));
    assert_eq!((sent.emissions, sent.sent_again_at), (1, Some(due)));
}

#[test]
fn at_no_moment_does_more_progress_mean_a_later_look_and_what_has_ended_is_looked_at_at_once() {
    let estimate = Estimate { whole: Duration::from_secs(200), work: Duration::from_secs(100) };
    let claimed = claimed(&accepted(), Timestamp::from_milliseconds(0));
    let at = |seconds: i64, progress: u8| {
        let now = Timestamp::from_milliseconds(seconds * 1_000);
        estimate.next_look(&Record { progress, ..claimed.clone() }, now)
    };
    for seconds in [0, 1, 50, 90, 99, 100, 101, 500] {
        let looks: Vec<Duration> = (0..=100).map(|progress| at(seconds, progress)).collect();
        assert!(looks.is_sorted_by(|earlier, later| earlier >= later), "{seconds} s: {looks:?}");
    }
    assert_eq!((at(0, 0), at(0, 50), at(90, 25)), (Duration::from_secs(50), Duration::from_secs(25), Duration::from_secs(5)));

    let verdict = Verdict::Completed(raw("1"));
    let ended = lifecycle::finish(&claimed, claimed.token(), verdict, Timestamp::from_milliseconds(0), &budgets()).unwrap();
    let day = Timestamp::from_milliseconds(86_400_000);
    assert_eq!(estimate.next_look(&ended, day), Duration::from_millis(250));
    assert_eq!(estimate.completion(&ended, day), Timestamp::from_milliseconds(0));
}

#[test]
fn an_order_that_waits_for_its_next_try_is_not_expected_before_it() {
    let estimate = Estimate { whole: Duration::from_secs(2), work: Duration::from_secs(1) };
    let now = Timestamp::from_milliseconds(0);
    let claimed = claimed(&accepted(), now);
    let after = Some(Duration::from_mins(5));
    let waits = lifecycle::retry(&claimed, claimed.token(), Failure::new("c", "m"), after, 0.0, now, &budgets()).unwrap();
    let due = waits.retry_at.expect("there are tries left");

    assert_eq!(estimate.completion(&waits, now), due.after(Duration::from_secs(1)));
}

#[test]
fn what_an_order_took_that_an_operator_put_back_says_nothing_of_others() {
    let day = Timestamp::from_milliseconds(86_400_000);
    let redriven = redriven_unclaimed(day);
    let claimed = claimed(&redriven, day);
    let ended = lifecycle::finish(&claimed, claimed.token(), Verdict::Completed(raw("1")), day, &budgets()).unwrap();
    let times = CompletionTimes::default();

    let only_queued = QueueWait::default().observe_claim(&redriven, &claimed, true).is_some();
    times.observe_end(&ended, only_queued);

    assert_eq!(times.estimate(Duration::from_secs(1), Duration::ZERO).whole, Duration::from_secs(1));
}

#[test]
fn an_order_that_a_delivery_has_put_off_says_nothing_of_the_queue() {
    let now = Timestamp::from_milliseconds(0);
    let put_off = lifecycle::wake_up(&accepted(), now.after(Duration::from_mins(5)), now, &budgets()).unwrap();
    let later = now.after(Duration::from_mins(6));
    let queue_wait = QueueWait::default();

    assert_eq!(queue_wait.observe_claim(&put_off, &claimed(&put_off, later), true), None);
    assert_eq!(queue_wait.usual(), Duration::ZERO);
    assert_eq!(queue_wait.observe_claim(&accepted(), &claimed(&accepted(), later), true), Some(Duration::from_mins(6)));
}

#[test]
fn a_wait_from_before_the_start_makes_the_sweeper_no_more_patient() {
    let later = Timestamp::from_milliseconds(360_000);
    let queue_wait = QueueWait::default();
    queue_wait.begin();

    let wait = queue_wait.observe_claim(&accepted(), &claimed(&accepted(), later), true);

    assert_eq!(wait, Some(Duration::from_mins(6)));
    assert!(queue_wait.usual() < Duration::from_mins(1), "{:?}", queue_wait.usual());
}

#[test]
fn the_time_before_a_message_was_sent_again_or_a_wake_up_came_delays_no_look() {
    let estimate = Estimate { whole: Duration::from_secs(10), work: Duration::from_secs(1) };
    let now = Timestamp::from_milliseconds(300_000);
    let moment = |seconds_ago: i64| Timestamp::from_milliseconds(now.as_milliseconds() - seconds_ago * 1_000);
    let sent_again = Record { sent_again_at: Some(moment(4)), emissions: 1, ..accepted() };
    let to_wake = Record { wake_at: Some(moment(-20)), ..accepted() };
    let woken = Record { wake_at: Some(moment(20)), ..accepted() };
    let again = claimed(&Record { started_at: Some(moment(600)), ..accepted() }, moment(3));

    assert_eq!(estimate.next_look(&sent_again, now), Duration::from_secs(3));
    assert_eq!(estimate.completion(&to_wake, now), now.after(Duration::from_secs(21)));
    assert_eq!(estimate.next_look(&woken, now), Duration::from_secs(2));
    assert_eq!(estimate.next_look(&again, now), Duration::from_millis(300));
}

#[test]
fn a_wake_up_that_is_nearly_due_may_be_the_message_that_asks_and_counts_for_none() {
    let (now, budgets) = (Timestamp::from_milliseconds(0), budgets());
    let until = now.after(Duration::from_secs(20));
    let waits = |wake_at| Record { wake_at: Some(wake_at), ..accepted() };

    assert!(lifecycle::wake_up(&waits(now.after(Duration::from_secs(10))), until, now, &budgets).is_none());
    assert!(lifecycle::wake_up(&waits(now.after(Duration::from_secs(1))), until, now, &budgets).is_some());
    // The record stands for all deliveries that read it at the same time, however soon one of them asks to be woken.
    for wish in [0, 1, 2, 3, 20].map(Duration::from_secs) {
        let written = lifecycle::wake_up(&accepted(), now.after(wish), now, &budgets).unwrap();
        assert!(lifecycle::wake_up(&written, now.after(wish), now, &budgets).is_none(), "{wish:?}");
    }
}
