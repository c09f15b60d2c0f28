//! What a store promises, tried on every engine: two instances look at the same records.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use uuid::Uuid;
use waybill::config::{Config, Records};
use waybill::domain::lifecycle::{self, Budgets, Claim, Claimant, Submission, Sweep, Verdict};
use waybill::domain::order::Names;
use waybill::domain::quarantine::{Discarded, Quarantined};
use waybill::domain::record::{Failure, Holder, Metadata, Record, Status};
use waybill::domain::timestamp::Timestamp;
use waybill::domain::tracking::TrackingId;
use waybill::store::cosmos::CosmosStore;
use waybill::store::sqlite::SqliteStore;
use waybill::store::{Created, Due, Etag, Filter, Listed, Replaced, Selection, StatusStore, Versioned, Waiting};

use crate::emulator::Emulator;
use crate::support::{Directory, PATIENCE};

/// Each fact becomes a test of each engine.
macro_rules! facts {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[test] fn $name() { super::on_sqlite(super::$name); })*
        }
        mod cosmos {
            $(#[test] fn $name() { super::on_cosmos(super::$name); })*
        }
    };
}

facts! {
    a_record_is_created_once_and_comes_back_to_the_letter
    of_many_creates_at_once_one_wins
    of_many_replacements_of_one_version_one_wins
    a_replacement_needs_the_version_that_stands
    a_worker_claims_advances_and_finishes
    an_expired_record_is_gone_and_its_id_is_free
    overdue_orders_are_found_longest_due_first
    an_order_waits_since_its_message_was_sent_and_while_it_is_not_overdue
    a_list_has_the_orders_that_match
    a_long_list_has_each_order_once
    a_recent_read_sees_what_was_created_and_soon_what_was_changed
    nothing_is_found_where_nothing_is
    a_message_that_came_back_to_quarantine_is_not_released
    a_kept_message_is_found_behind_discarded_and_expired_ones
    many_messages_in_quarantine_are_taken_once_each
    a_discarded_message_lives_no_longer_than_its_time
}

/// Asks until it is so.
async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let asking = async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        while !is_so().await {
            pause.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Two instances on one store.
struct Instances {
    here: StatusStore,
    there: StatusStore,
}

fn on_sqlite<F: Future<Output = ()>>(fact: impl Fn(Instances) -> F) {
    let data = Directory::new();
    let open = || StatusStore::Sqlite(SqliteStore::open(data.path(), None).unwrap());
    run(fact(Instances { here: open(), there: open() }));
}

fn on_cosmos<F: Future<Output = ()>>(fact: impl Fn(Instances) -> F) {
    let emulator = Emulator::start(&[]);
    run(async {
        fact(Instances { here: connect(&emulator).await, there: connect(&emulator).await }).await;
    });
}

pub async fn connect(emulator: &Emulator) -> StatusStore {
    let mut environment: BTreeMap<String, String> = emulator.settings().iter().cloned().collect();
    environment.insert("FUNCTIONS_CUSTOMHANDLER_PORT".into(), "1".into());
    let Records::Cosmos(config, key) = Config::read(&environment).unwrap().storage.records else { panic!("not in Cosmos DB") };
    StatusStore::Cosmos(CosmosStore::connect(&config, &key, drop).await)
}

pub fn run(fact: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(2 * PATIENCE, fact).await.expect("it takes too long") });
}

pub fn budgets() -> Budgets {
    Budgets {
        lease: Duration::from_secs(30),
        max_attempts: 5,
        retry_base: Duration::from_secs(2),
        retry_cap: Duration::from_mins(5),
        max_interruptions: 20,
        order_deadline: Duration::from_hours(24),
        retention: Duration::from_hours(1),
        overdue_after: Duration::from_mins(2),
        tells_ends: false,
    }
}

fn raw(text: &str) -> Arc<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap().into()
}

pub fn record(now: Timestamp) -> Record {
    let metadata = Metadata {
        api_name: "orders".into(),
        operation_name: "submitOrder".into(),
        subscription_id: Some("subscription".into()),
        received_at: now,
        traceparent: None,
        owner: "somebody".into(),
    };
    // Digits that no float keeps, spaces, an escape that is no character.
    let order = raw(r#"{ "price":12345678901234567890.10, "note":"\ud800 é \u0000" }"#);
    let submission = Submission {
        tracking_id: TrackingId::from_bytes(*Uuid::new_v4().as_bytes()),
        life: Uuid::new_v4(),
        order,
        names: Names { order_id: "o".into(), customer_id: "c".into() },
        fingerprint: "f".repeat(64),
        metadata,
        callback_url: None,
    };
    lifecycle::accept(submission, Duration::ZERO, now, &budgets())
}

fn text(record: &Record) -> String {
    serde_json::to_string(record).unwrap()
}

async fn created(store: &StatusStore, record: &Record) {
    assert!(matches!(store.create(record).await.unwrap(), Created::Created(_)));
}

async fn read(store: &StatusStore, record: &Record) -> Versioned {
    store.read(record.tracking_id).await.unwrap().expect("it is there")
}

fn claim(found: &Record, now: Timestamp) -> Record {
    let holder = Holder { instance: "here".into(), boot: None, process: 1, started: 1 };
    let claimant = Claimant { life: found.life, holder: &holder, invocation: "i", now, holder_gone: false };
    match lifecycle::claim(found, &claimant, &budgets()) {
        Claim::Take(record) => record,
        other => panic!("{other:?}"),
    }
}

async fn a_record_is_created_once_and_comes_back_to_the_letter(Instances { here, there }: Instances) {
    let record = record(here.now());
    let other = Record { life: Uuid::new_v4(), fingerprint: "0".repeat(64), ..record.clone() };

    created(&here, &record).await;
    let second = there.create(&other).await.unwrap();

    let Created::Exists(found, _) = second else { panic!("{second:?}") };
    assert_eq!(text(&found.record), text(&record));
    assert_eq!(text(&read(&there, &record).await.record), text(&record));
}

async fn of_many_creates_at_once_one_wins(Instances { here, there }: Instances) {
    let record = record(here.now());

    let creates = (0..8).map(|number| {
        let store = if number % 2 == 0 { &here } else { &there };
        let record = Record { life: Uuid::new_v4(), ..record.clone() };
        async move { matches!(store.create(&record).await.unwrap(), Created::Created(_)) }
    });
    let won = futures_util::future::join_all(creates).await;

    assert_eq!(won.iter().filter(|won| **won).count(), 1, "{won:?}");
}

async fn of_many_replacements_of_one_version_one_wins(Instances { here, there }: Instances) {
    let record = record(here.now());
    created(&here, &record).await;
    let found = read(&here, &record).await;

    let replacements = (0..8).map(|number| {
        let store = if number % 2 == 0 { &here } else { &there };
        let changed = Record { fence: number, ..found.record.clone() };
        let etag = &found.etag;
        async move { (number, store.replace(&changed, etag).await.unwrap() != Replaced::Stale) }
    });
    let outcomes = futures_util::future::join_all(replacements).await;

    let won: Vec<u64> = outcomes.into_iter().filter(|(_, won)| *won).map(|(number, _)| number).collect();
    assert_eq!(won, [read(&there, &record).await.record.fence]);
}

async fn a_replacement_needs_the_version_that_stands(Instances { here, there }: Instances) {
    let record = record(here.now());
    created(&here, &record).await;
    let first = read(&there, &record).await;
    let changed = Record { fence: 1, ..record.clone() };

    let Replaced::Replaced(second) = here.replace(&changed, &first.etag).await.unwrap() else { panic!("it was not stale") };
    let stale = there.replace(&Record { fence: 2, ..record.clone() }, &first.etag).await.unwrap();
    let again = there.replace(&Record { fence: 3, ..record.clone() }, &second).await.unwrap();
    let foreign = there.replace(&record, &Etag("\"nobody's\"".into())).await.unwrap();

    assert_eq!(stale, Replaced::Stale);
    assert!(matches!(again, Replaced::Replaced(_)));
    assert_eq!(foreign, Replaced::Stale);
    assert_eq!(read(&here, &record).await.record.fence, 3);
}

async fn a_worker_claims_advances_and_finishes(Instances { here, there }: Instances) {
    let record = record(here.now());
    created(&here, &record).await;
    let found = read(&there, &record).await;
    let claimed = claim(&found.record, there.now());
    let Replaced::Replaced(etag) = there.replace(&claimed, &found.etag).await.unwrap() else { panic!("it was not stale") };
    let advanced = lifecycle::advance(&claimed, claimed.token(), 40, Some("half way"), there.now(), &budgets()).unwrap();
    let Replaced::Replaced(etag) = there.replace(&advanced, &etag).await.unwrap() else { panic!("it was not stale") };
    assert_eq!(text(&read(&here, &record).await.record), text(&advanced));

    let verdict = Verdict::Completed(raw(r#"{"total":"1.10"}"#));
    let finished = lifecycle::finish(&advanced, advanced.token(), verdict, there.now(), &budgets()).unwrap();
    there.replace(&finished, &etag).await.unwrap();

    let ended = read(&here, &record).await.record;
    assert_eq!(text(&ended), text(&finished));
    assert_eq!((ended.status, ended.progress, ended.due_at), (Status::Completed, 100, None));
}

async fn an_expired_record_is_gone_and_its_id_is_free(Instances { here, there }: Instances) {
    let record = record(here.now());
    created(&here, &record).await;
    let found = read(&here, &record).await;
    let short = Budgets { retention: Duration::from_secs(1), ..budgets() };
    let claimed = claim(&found.record, here.now());
    let ended = lifecycle::finish(&claimed, claimed.token(), Verdict::Completed(raw("1")), here.now(), &short).unwrap();
    let Replaced::Replaced(etag) = here.replace(&ended, &found.etag).await.unwrap() else { panic!("it was not stale") };

    until("it is gone", async || there.read(record.tracking_id).await.unwrap().is_none()).await;

    assert_eq!(there.replace(&ended, &etag).await.unwrap(), Replaced::Stale);
    created(&there, &Record { life: Uuid::new_v4(), ..record.clone() }).await;
    assert_eq!(read(&here, &record).await.record.status, Status::Accepted);
}

async fn overdue_orders_are_found_longest_due_first(Instances { here, there }: Instances) {
    let now = here.now();
    let ago = |minutes: i64| Timestamp::from_milliseconds(now.as_milliseconds() - minutes * 60_000);
    let [fresh, older, oldest, ended] = [record(now), record(ago(10)), record(ago(30)), record(ago(40))];
    for record in [&fresh, &older, &oldest, &ended] {
        created(&here, record).await;
    }
    let found = read(&here, &ended).await;
    let claimed = claim(&found.record, now);
    let finished = lifecycle::finish(&claimed, claimed.token(), Verdict::Completed(raw("1")), now, &budgets()).unwrap();
    here.replace(&finished, &found.etag).await.unwrap();
    let [told, held] = [record(ago(50)), record(ago(60))];
    for record in [&told, &held] {
        created(&here, record).await;
    }
    let found = read(&here, &told).await;
    let claimed = claim(&found.record, ago(45));
    let tells = Budgets { tells_ends: true, ..budgets() };
    let finished = lifecycle::finish(&claimed, claimed.token(), Verdict::Completed(raw("1")), ago(44), &tells).unwrap();
    here.replace(&finished, &found.etag).await.unwrap();
    let found = read(&here, &held).await;
    here.replace(&claim(&found.record, ago(20)), &found.etag).await.unwrap();

    let open = [oldest.tracking_id, held.tracking_id, older.tracking_id];
    assert_eq!(there.overdue(10, 0, Due::Open).await.unwrap(), open);
    assert_eq!(there.overdue(1, 0, Due::Open).await.unwrap(), open[..1]);
    assert_eq!(there.overdue(10, 1, Due::Open).await.unwrap(), open[1..]);
    assert!(there.overdue(10, 3, Due::Open).await.unwrap().is_empty());
    assert_eq!(there.overdue(10, 0, Due::Callback).await.unwrap(), [told.tracking_id]);
    assert_eq!(there.overdue(10, 0, Due::Processing).await.unwrap(), [held.tracking_id]);
}

async fn an_order_waits_since_its_message_was_sent_and_while_it_is_not_overdue(Instances { here, there }: Instances) {
    let now = here.now();
    let ago = |seconds: i64| Timestamp::from_milliseconds(now.as_milliseconds() - seconds * 1_000);
    let [overdue, sent_again, put_off, fresh] = [record(ago(300)), record(ago(290)), record(ago(60)), record(ago(10))];
    for record in [&overdue, &sent_again, &put_off, &fresh] {
        created(&here, record).await;
    }
    let found = read(&here, &sent_again).await;
    let Sweep::Emit(emitted) = lifecycle::sweep(&found.record, Duration::ZERO, ago(20), &budgets()) else { panic!("it is overdue") };
    here.replace(&emitted, &found.etag).await.unwrap();
    let found = read(&here, &put_off).await;
    let woken = lifecycle::wake_up(&found.record, now.after(Duration::from_mins(5)), now, &budgets()).unwrap();
    here.replace(&woken, &found.etag).await.unwrap();

    let waiting = there.waiting(10).await.unwrap();

    let expected = [(ago(20), false), (ago(10), false), (ago(60), true)];
    assert_eq!(waiting, expected.map(|(since, is_put_off)| Waiting { since, is_put_off }));
    assert_eq!(there.waiting(1).await.unwrap().len(), 1);
}

async fn a_list_has_the_orders_that_match(Instances { here, there }: Instances) {
    let now = here.now();
    let ago = |minutes: i64| Timestamp::from_milliseconds(now.as_milliseconds() - minutes * 60_000);
    let orders = [(record(ago(30)), "interrupted"), (record(ago(20)), "interrupted"), (record(ago(10)), "backend_unavailable")];
    for (record, code) in &orders {
        created(&here, record).await;
        let found = read(&here, record).await;
        let claimed = claim(&found.record, now);
        let failed = Verdict::Failed(Failure::new(code, "why"));
        let failed = lifecycle::finish(&claimed, claimed.token(), failed, now, &budgets()).unwrap();
        here.replace(&failed, &found.etag).await.unwrap();
    }
    let open = record(ago(5));
    created(&here, &open).await;
    let [oldest, older, newer] = orders.map(|(record, _)| record.tracking_id);
    let listed_at_most = async |filter: Filter, limit: u32| -> Vec<_> {
        let mut ids = Vec::new();
        let taken = there.each(&filter, limit, |listed| match listed {
            Listed::Record(record) => ids.push(record.tracking_id),
            Listed::Unreadable(record) => panic!("{record:?}"),
        });
        taken.await.unwrap();
        ids
    };
    let listed = async |filter: Filter| listed_at_most(filter, 10).await;

    assert_eq!(listed(Filter::default()).await, [open.tracking_id, newer, older, oldest]);
    assert_eq!(listed(Filter { error: Some("interrupted".into()), ..Filter::default() }).await, [older, oldest]);
    assert_eq!(listed(Filter { submitted_since: Some(ago(20)), ..Filter::default() }).await, [open.tracking_id, newer, older]);
    assert_eq!(listed(Filter { submitted_before: Some(ago(20)), ..Filter::default() }).await, [oldest]);
    let failed =
        Filter { status: Some(Status::Failed), error: Some("interrupted".into()), submitted_since: Some(ago(25)), ..Filter::default() };
    assert_eq!(listed(failed).await, [older]);
    assert_eq!(listed_at_most(Filter::default(), 2).await, [open.tracking_id, newer]);
    assert!(listed(Filter { order_id: Some("none".into()), ..Filter::default() }).await.is_empty());
}

/// More than are read at once.
async fn a_long_list_has_each_order_once(Instances { here, there }: Instances) {
    let now = here.now();
    let records: Vec<Record> = (0..230).map(|number| record(Timestamp::from_milliseconds(now.as_milliseconds() - number / 40))).collect();
    for record in &records {
        created(&here, record).await;
    }
    let mut seen = Vec::new();

    let every = Filter::default();
    let taken = there.each(&every, u32::MAX >> 1, |listed| match listed {
        Listed::Record(record) => seen.push((record.submitted_at, record.tracking_id)),
        Listed::Unreadable(record) => panic!("{record:?}"),
    });
    taken.await.unwrap();

    assert!(seen.windows(2).all(|pair| pair[0] > pair[1]), "newest first, none twice");
    assert_eq!(seen.len(), records.len());
    let [some, other] = [records[0].tracking_id, records[1].tracking_id].map(|id| *id.as_bytes());
    let ids = async |first, last| there.between(TrackingId::from_bytes(first), TrackingId::from_bytes(last), 300).await.unwrap();
    assert_eq!(ids(some, some).await, [records[0].tracking_id]);
    assert!(ids(some.min(other), some.max(other)).await.len() >= 2);
    assert_eq!(ids([0; 16], [0xff; 16]).await.len(), records.len());
}

async fn a_recent_read_sees_what_was_created_and_soon_what_was_changed(Instances { here, there }: Instances) {
    let record = record(here.now());
    assert!(there.read_recent(record.tracking_id).await.unwrap().is_none());
    created(&here, &record).await;

    let found = there.read_recent(record.tracking_id).await.unwrap().expect("it is visible at once");
    here.replace(&Record { fence: 1, ..record.clone() }, &found.etag).await.unwrap();

    let is_changed = async || there.read_recent(record.tracking_id).await.unwrap().expect("it stays visible").record.fence == 1;
    until("the change is seen", is_changed).await;
}

async fn nothing_is_found_where_nothing_is(Instances { here, .. }: Instances) {
    let record = record(here.now());

    assert!(here.read(record.tracking_id).await.unwrap().is_none());
    assert!(here.read_recent(record.tracking_id).await.unwrap().is_none());
    assert_eq!(here.replace(&record, &Etag("\"1\"".into())).await.unwrap(), Replaced::Stale);
    assert!(here.overdue(10, 0, Due::Open).await.unwrap().is_empty());
    here.answers().await.unwrap();
}

async fn a_message_that_came_back_to_quarantine_is_not_released(Instances { here, there }: Instances) {
    let long = Duration::from_secs(i32::MAX as u64);
    let kept = |moment| Quarantined::new(here.tracking_key(), b"text", "reason".into(), None, Timestamp::from_milliseconds(moment), long);
    let (first, again) = (kept(1), kept(2));
    here.quarantine(&first).await.unwrap();
    assert_eq!(in_quarantine(&there, Selection::All, 10).await, std::slice::from_ref(&first));

    here.quarantine(&again).await.unwrap();

    assert!(!there.release(&first).await.unwrap());
    assert_eq!(in_quarantine(&there, Selection::All, 10).await, std::slice::from_ref(&again));
    assert!(there.release(&again).await.unwrap());
    assert!(in_quarantine(&here, Selection::All, 10).await.is_empty());
    assert!(!here.release(&again).await.unwrap());
}

/// At most this number of messages in quarantine, all of which can be read.
async fn in_quarantine(store: &StatusStore, selection: Selection, limit: u32) -> Vec<Quarantined> {
    let mut messages = Vec::new();
    store.quarantined(selection, limit, |kept| messages.push(kept.unwrap())).await.unwrap();
    messages
}

async fn many_messages_in_quarantine_are_taken_once_each(Instances { here, there }: Instances) {
    let mut kept: Vec<_> = (0..120).map(|number| quarantined(&here, &number.to_string(), here.now(), Duration::from_hours(1))).collect();
    for message in &kept {
        here.quarantine(message).await.unwrap();
    }

    let mut taken = in_quarantine(&there, Selection::All, 1_000).await;
    let some = in_quarantine(&there, Selection::Kept, 110).await;

    kept.sort_by_key(|message| message.id);
    taken.sort_by_key(|message| message.id);
    assert_eq!((taken, some.len()), (kept, 110));
}

fn quarantined(store: &StatusStore, text: &str, kept_at: Timestamp, retention: Duration) -> Quarantined {
    Quarantined::new(store.tracking_key(), text.as_bytes(), "reason".into(), None, kept_at, retention)
}

async fn discard(store: &StatusStore, message: &Quarantined) {
    let why = Discarded { at: store.now(), reason: "a test".into() };
    assert!(store.discard(message, &Quarantined { discarded: Some(why), ..message.clone() }).await.unwrap());
}

async fn a_kept_message_is_found_behind_discarded_and_expired_ones(Instances { here, there }: Instances) {
    let (now, long) = (here.now(), Duration::from_hours(1));
    let expired = quarantined(&here, "expired", Timestamp::from_milliseconds(now.as_milliseconds() - 60_000), Duration::from_secs(1));
    here.quarantine(&expired).await.unwrap();
    for number in 0..5 {
        let discarded = quarantined(&here, &format!("discarded {number}"), now, long);
        here.quarantine(&discarded).await.unwrap();
        discard(&here, &discarded).await;
    }
    let kept = quarantined(&here, "kept", now, long);
    here.quarantine(&kept).await.unwrap();

    let first = async |selection| in_quarantine(&there, selection, 1).await;
    // Cosmos DB keeps an item for a second at least.
    until("the kept one is found", async || first(Selection::Kept).await == std::slice::from_ref(&kept)).await;
    assert_eq!(first(Selection::All).await.len(), 1);
    until("the expired one is gone", async || in_quarantine(&there, Selection::All, 10).await.len() == 6).await;
}

async fn a_discarded_message_lives_no_longer_than_its_time(Instances { here, there }: Instances) {
    let before = Timestamp::from_milliseconds(here.now().as_milliseconds() - 3_595_000);
    let message = quarantined(&here, "text", before, Duration::from_hours(1));
    here.quarantine(&message).await.unwrap();
    discard(&here, &message).await;
    assert_eq!(in_quarantine(&there, Selection::All, 10).await.len(), 1);

    until("it is gone", async || in_quarantine(&there, Selection::All, 10).await.is_empty()).await;
}
