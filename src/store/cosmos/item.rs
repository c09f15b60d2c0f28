//! A record as an item of Cosmos DB.
//!
//! The top level holds what Cosmos DB uses: `id` (also the partition key), `ttl` and `dueAt`. The order is in `record`. Cosmos DB
//! keeps numbers as floats and charges by size, so order and result are stored as text, exactly as they came; moments are
//! milliseconds; and values that follow from others are left out. Without order and result an item stays below 2 KB. A usual order
//! stays below 1 KB with both, and a URL that an order names for its callback adds its own length; charges are counted in units of 1 KB.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::domain::order::Names;
use crate::domain::record::{self, Callback, Event, Failure, Lease, Metadata, Record, Status, Transition};
use crate::domain::timestamp::Timestamp;
use crate::domain::tracking::TrackingId;
use crate::store::{Place, StoreError};

/// Newest item version. This program reads every version up to this one, and writes version 1 where an item has no callback that a
/// program of that version would drop; see [`Record::version`].
pub(super) const VERSION: u32 = 2;
/// Version of an item whose record has this version.
const fn version_of(record: u32) -> u32 {
    if record < record::SCHEMA_VERSION { 1 } else { VERSION }
}

/// A record as Cosmos DB stores it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Item {
    pub(super) id: TrackingId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due_at: Option<Milliseconds>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl: Option<u32>,
    /// Random id of the write, by which a write whose answer was lost is recognised. 52 bits, which a float holds. Stored as `mark`.
    #[serde(rename = "mark")]
    pub(super) write_id: i64,
    record: Body,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    version: u32,
    owner: String,
    life: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_life: Option<Uuid>,
    order: Text,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    names: Option<Names>,
    fingerprint: String,
    request: Request,
    status: Status,
    /// Absent when it is the usual progress of the status: 100 for `completed`, else 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    progress: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stage: Option<String>,
    fence: u64,
    attempt: u32,
    /// Absent when zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interruptions: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempts_before: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    emissions: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sent_again_at: Option<Milliseconds>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wake_ups: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<Lease>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    cancel_requested: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_at: Option<Milliseconds>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wake_at: Option<Milliseconds>,
    deadline: Milliseconds,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Text>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
    submitted_at: Milliseconds,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started_at: Option<Milliseconds>,
    updated_at: Milliseconds,
    history: Vec<Step>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    callback: Option<Callback>,
}

/// The order's metadata, except its owner, which is in [`Body`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    api: String,
    operation: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subscription_id: Option<String>,
    /// Absent when equal to `submittedAt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    received_at: Option<Milliseconds>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
}

/// An item that a query found, whether or not this program can read it.
#[derive(Debug)]
pub(super) struct Found {
    /// Its id, as it is kept.
    pub(super) id: String,
    /// Its place in a list, newest first; `None`: it does not tell.
    pub(super) place: Option<Place>,
    /// The record, or the reason why it cannot be read, without the item's text.
    pub(super) record: Result<Record, String>,
}

impl Found {
    /// Reads an item.
    pub(super) fn of(item: &RawValue) -> Self {
        #[derive(Deserialize)]
        struct Seen {
            id: TrackingId,
            record: SeenBody,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct SeenBody {
            submitted_at: Milliseconds,
        }
        let place = |submitted_at, tracking_id| Place { submitted_at, tracking_id };
        let read = serde_json::from_str::<Item>(item.get())
            .map_err(|_| unreadable(serde_json::from_str(item.get()).ok()))
            .and_then(Item::into_record);
        match read {
            Ok(record) => {
                Self { id: record.tracking_id.to_string(), place: Some(place(record.submitted_at, record.tracking_id)), record: Ok(record) }
            }
            Err(error) => {
                let seen = serde_json::from_str::<Seen>(item.get()).ok();
                Self { id: id_of(item), place: seen.map(|seen| place(seen.record.submitted_at.0, seen.id)), record: Err(error.reason()) }
            }
        }
    }
}

/// The id of an item, whatever else is in it.
pub(super) fn id_of(item: &RawValue) -> String {
    #[derive(Deserialize)]
    struct Seen {
        id: String,
    }
    serde_json::from_str(item.get()).map_or_else(|_| "?".into(), |seen: Seen| seen.id)
}

impl Item {
    /// The item that keeps a record.
    pub(super) fn of(record: &Record) -> Self {
        let Metadata { api_name, operation_name, subscription_id, received_at, traceparent, owner: _ } = &record.metadata;
        let progress = (record.progress != implied_progress(record.status)).then_some(record.progress);
        Self {
            id: record.tracking_id,
            due_at: record.due_at.map(Milliseconds),
            ttl: record.ttl,
            write_id: Uuid::new_v4().as_u64_pair().0.cast_signed() >> 12,
            record: Body {
                version: version_of(record.version()),
                owner: record.owner.clone(),
                life: record.life,
                key_life: record.key_life,
                order: Text(Arc::clone(&record.order)),
                names: record.names.clone(),
                fingerprint: record.fingerprint.clone(),
                request: Request {
                    api: api_name.clone(),
                    operation: operation_name.clone(),
                    subscription_id: subscription_id.clone(),
                    received_at: (*received_at != record.submitted_at).then_some(Milliseconds(*received_at)),
                    traceparent: traceparent.clone(),
                },
                status: record.status,
                progress,
                stage: record.stage.clone(),
                fence: record.fence,
                attempt: record.attempt,
                interruptions: (record.interruptions > 0).then_some(record.interruptions),
                attempts_before: (record.attempts_before > 0).then_some(record.attempts_before),
                emissions: (record.emissions > 0).then_some(record.emissions),
                sent_again_at: record.sent_again_at.map(Milliseconds),
                wake_ups: (record.wake_ups > 0).then_some(record.wake_ups),
                lease: record.lease.clone(),
                cancel_requested: record.cancel_requested,
                retry_at: record.retry_at.map(Milliseconds),
                wake_at: record.wake_at.map(Milliseconds),
                deadline: Milliseconds(record.deadline),
                result: record.result.clone().map(Text),
                error: record.error.clone(),
                submitted_at: Milliseconds(record.submitted_at),
                started_at: record.started_at.map(Milliseconds),
                updated_at: Milliseconds(record.updated_at),
                history: record.history.iter().map(|transition| Step::of(transition, record.submitted_at)).collect(),
                callback: record.callback.clone(),
            },
        }
    }

    /// The record that the item holds.
    pub(super) fn into_record(self) -> Result<Record, StoreError> {
        let Self { id, due_at, ttl, write_id: _, record: body } = self;
        if body.version > VERSION {
            return Err(newer(body.version));
        }
        let submitted_at = body.submitted_at.0;
        let history: Vec<Transition> = body.history.into_iter().map(|step| step.into_transition(submitted_at)).collect();
        let ended_at = || history.iter().rev().find(|transition| transition.event.is_end()).map_or(body.updated_at.0, |end| end.at);
        let record = Record {
            schema_version: record::SCHEMA_VERSION,
            tracking_id: id,
            metadata: Metadata {
                api_name: body.request.api,
                operation_name: body.request.operation,
                subscription_id: body.request.subscription_id,
                received_at: body.request.received_at.map_or(submitted_at, |moment| moment.0),
                traceparent: body.request.traceparent,
                owner: body.owner.clone(),
            },
            owner: body.owner,
            life: body.life,
            key_life: body.key_life,
            order: body.order.0,
            names: body.names,
            fingerprint: body.fingerprint,
            status: body.status,
            progress: body.progress.unwrap_or_else(|| implied_progress(body.status)),
            stage: body.stage,
            fence: body.fence,
            attempt: body.attempt,
            interruptions: body.interruptions.unwrap_or(0),
            attempts_before: body.attempts_before.unwrap_or(0),
            emissions: body.emissions.unwrap_or(0),
            sent_again_at: body.sent_again_at.map(|moment| moment.0),
            wake_ups: body.wake_ups.unwrap_or(0),
            lease: body.lease,
            cancel_requested: body.cancel_requested,
            retry_at: body.retry_at.map(|moment| moment.0),
            wake_at: body.wake_at.map(|moment| moment.0),
            due_at: due_at.map(|moment| moment.0),
            deadline: body.deadline.0,
            result: body.result.map(|text| text.0),
            error: body.error,
            submitted_at,
            started_at: body.started_at.map(|moment| moment.0),
            updated_at: body.updated_at.0,
            completed_at: body.status.is_terminal().then(ended_at),
            history,
            ttl,
            callback: body.callback,
        };
        Ok(Record { schema_version: record.version(), ..record })
    }
}

/// An item of any version. A newer one may have any form, except for its version.
#[derive(Debug, Deserialize)]
pub(super) struct AnyItem {
    record: AnyBody,
}

#[derive(Debug, Deserialize)]
struct AnyBody {
    version: u32,
}

/// Why what was found is no item of a version that this program knows. Without the parser's text, which may quote the order.
pub(super) fn unreadable(found: Option<AnyItem>) -> StoreError {
    match found {
        Some(item) if item.record.version > VERSION => newer(item.record.version),
        _ => StoreError::Unreadable("the item is not an order this program knows".into()),
    }
}

fn newer(version: u32) -> StoreError {
    StoreError::Newer(format!("its item version {version} is newer than {VERSION}"))
}

/// The approximate size of an item in bytes.
pub(super) fn weight(order: &RawValue, result: Option<&RawValue>) -> usize {
    2048 + order.get().len() + result.map_or(0, |result| result.get().len())
}

const fn implied_progress(status: Status) -> u8 {
    match status {
        Status::Completed => 100,
        _ => 0,
    }
}

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Milliseconds(Timestamp);

impl Serialize for Milliseconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.0.as_milliseconds())
    }
}

impl<'de> Deserialize<'de> for Milliseconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        i64::deserialize(deserializer).map(Timestamp::from_milliseconds).map(Self)
    }
}

/// JSON as text.
#[derive(Debug, Clone)]
struct Text(Arc<RawValue>);

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.get())
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        RawValue::from_string(text).map(|raw| Self(raw.into())).map_err(|_| serde::de::Error::custom("the text is not JSON"))
    }
}

/// A transition as `12 claimed 1`: milliseconds after the submission, event, attempt, and the code of a failure.
#[derive(Debug, Clone, PartialEq)]
struct Step {
    after: i64,
    event: Event,
    attempt: u32,
    code: Option<String>,
}

impl Step {
    fn of(transition: &Transition, submitted_at: Timestamp) -> Self {
        let after = transition.at.as_milliseconds() - submitted_at.as_milliseconds();
        Self { after, event: transition.event, attempt: transition.attempt, code: transition.code.clone() }
    }

    fn into_transition(self, submitted_at: Timestamp) -> Transition {
        let at = Timestamp::from_milliseconds(submitted_at.as_milliseconds().saturating_add(self.after));
        Transition { at, event: self.event, attempt: self.attempt, code: self.code }
    }
}

impl Serialize for Step {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (space, code) = self.code.as_ref().map_or(("", ""), |code| (" ", code.as_str()));
        serializer.collect_str(&format_args!("{} {} {}{space}{code}", self.after, self.event.as_str(), self.attempt))
    }
}

impl<'de> Deserialize<'de> for Step {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut words = text.splitn(4, ' ');
        let mut next = || words.next().ok_or_else(|| serde::de::Error::custom("a step has three words"));
        let (after, event, attempt) = (next()?, next()?, next()?);
        let code = words.next().map(str::to_owned);
        Ok(Self {
            after: after.parse().map_err(serde::de::Error::custom)?,
            event: Event::parse(event).ok_or_else(|| serde::de::Error::custom("no such event"))?,
            attempt: attempt.parse().map_err(serde::de::Error::custom)?,
            code,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::lifecycle;
    use crate::domain::lifecycle::{Budgets, Claim, Claimant, Submission, Verdict};
    use crate::domain::record::{Holder, MAX_FAILURE, MAX_HISTORY};

    fn raw(text: &str) -> Arc<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap().into()
    }

    fn budgets() -> Budgets {
        Budgets {
            lease: Duration::from_secs(30),
            max_attempts: 5,
            retry_base: Duration::from_secs(2),
            retry_cap: Duration::from_mins(5),
            max_interruptions: 1000,
            order_deadline: Duration::from_hours(24),
            retention: Duration::from_hours(168),
            overdue_after: Duration::from_mins(2),
            tells_ends: false,
        }
    }

    fn accepted(order: &str) -> Record {
        let now = Timestamp::from_milliseconds(1_790_000_000_123);
        let metadata = Metadata {
            api_name: "orders".into(),
            operation_name: "submitOrder".into(),
            subscription_id: None,
            received_at: now,
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            owner: "anonymous".into(),
        };
        let tracking_id = TrackingId::parse("0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10").unwrap();
        let submission = Submission {
            tracking_id,
            life: Uuid::nil(),
            order: raw(order),
            names: Names::of(&raw(order)),
            fingerprint: "f".repeat(64),
            metadata,
            callback_url: None,
        };
        lifecycle::accept(submission, Duration::ZERO, now, &budgets())
    }

    /// Claims the record by a new process, after the last lease has run out.
    fn claimed(found: &Record, number: u32) -> Record {
        let holder = Holder { instance: "i".repeat(64), boot: Some("b".repeat(56)), process: u32::MAX, started: u64::from(number) << 40 };
        let invocation = Uuid::max().to_string();
        let now = found.updated_at.after(Duration::from_hours(1));
        let claimant = Claimant { life: found.life, holder: &holder, invocation: &invocation, now, holder_gone: true };
        match lifecycle::claim(found, &claimant, &Budgets { order_deadline: Duration::from_hours(10_000), ..budgets() }) {
            Claim::Take(record) => record,
            other => panic!("{other:?}"),
        }
    }

    fn comes_back(record: &Record) {
        let text = serde_json::to_string(&Item::of(record)).unwrap();
        let back = serde_json::from_str::<Item>(&text).unwrap().into_record().unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), serde_json::to_string(record).unwrap());
    }

    #[test]
    fn a_record_comes_back_as_it_went() {
        let order = r#"{"big":12345678901234567890.10,"text":"\ud800 \"x\" é","e":1E400}"#;
        let accepted = accepted(order);
        let first = claimed(&accepted, 1);
        let working = lifecycle::advance(&first, first.token(), 40, Some("adding tax"), accepted.updated_at, &budgets()).unwrap();
        let interrupted = claimed(&working, 2);
        let token = interrupted.token();
        let now = interrupted.updated_at;
        let completed = lifecycle::finish(&interrupted, token, Verdict::Completed(raw(r#"{"total":1.10}"#)), now, &budgets()).unwrap();
        let failed = lifecycle::finish(&interrupted, token, Verdict::Failed(Failure::new("c", "m")), now, &budgets()).unwrap();

        let retried = lifecycle::retry(&interrupted, token, Failure::new("busy now", "m"), None, 0.5, now, &budgets()).unwrap();
        assert!(retried.retry_at.is_some(), "{retried:?}");
        let redriven = lifecycle::redrive(&failed, Uuid::max(), now, &budgets()).unwrap();

        let told = lifecycle::finish(&interrupted, token, Verdict::Cancelled, now, &Budgets { tells_ends: true, ..budgets() }).unwrap();
        assert_eq!((Item::of(&completed).record.version, Item::of(&told).record.version), (1, 2));

        for record in [accepted, working, interrupted, completed, failed, retried, redriven, told] {
            comes_back(&record);
        }
    }

    #[test]
    fn without_order_and_result_an_item_stays_below_two_kilobytes() {
        let mut record = accepted("{}");
        record.deadline = record.deadline.after(Duration::from_hours(100_000));
        for number in 0..2 * u32::try_from(MAX_HISTORY).unwrap() {
            record = claimed(&record, number);
        }
        record = lifecycle::advance(
            &record,
            record.token(),
            99,
            Some("a stage of some length, as work may name it"),
            record.updated_at,
            &budgets(),
        )
        .unwrap();
        // Every attempt fails with the longest code there is.
        let mut retried = accepted("{}");
        for number in 0..u32::try_from(MAX_HISTORY).unwrap() {
            let many = Budgets { max_attempts: 1000, ..budgets() };
            let failure = Failure::new("backend_unavailable", "m".repeat(MAX_FAILURE));
            let claimed = claimed(&retried, number);
            let claimed = Record { deadline: claimed.updated_at.after(Duration::from_hours(1_000)), ..claimed };
            retried = lifecycle::retry(&claimed, claimed.token(), failure, None, 1.0, claimed.updated_at, &many).unwrap();
            assert!(retried.retry_at.is_some(), "{retried:?}");
        }
        let failed = lifecycle::finish(
            &record,
            record.token(),
            Verdict::Failed(Failure::new("code", "m".repeat(2 * MAX_FAILURE))),
            record.updated_at,
            &budgets(),
        );

        for record in [record, retried, failed.unwrap()] {
            let length = serde_json::to_string(&Item::of(&record)).unwrap().len();
            assert!(length <= 2048, "{length}");
        }
    }

    #[test]
    fn an_item_of_a_newer_program_is_refused() {
        let mut item = Item::of(&accepted("{}"));
        item.record.version = VERSION + 1;

        assert!(matches!(item.clone().into_record(), Err(StoreError::Newer(_))));
        let text = serde_json::to_string(&item).unwrap().replace("accepted", "suspended");
        let read = |text: &str| serde_json::from_str::<Item>(text).map_err(|_| unreadable(serde_json::from_str(text).ok()));
        assert!(matches!(read(&text), Err(StoreError::Newer(_))));
        assert!(matches!(read(&text.replace("\"version\":3", "\"version\":1")), Err(StoreError::Unreadable(_))));
    }
}
