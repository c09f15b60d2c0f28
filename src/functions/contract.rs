//! Bodies of requests and answers. Records may change without these types, and these types without the records.
//!
//! `open_api` describes them to clients; the names of the types are those of the schemas. A member that may be null is described in place,
//! and one that may be absent is never null: from a choice between a type and null, generators make a class without a value.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, OneOfBuilder, Schema, Type};

use crate::domain::order::{self, MAX_UNIT_PRICE};
use crate::domain::record::{self, Record};
use crate::domain::{problem, timestamp, tracking};

/// An order. Other members than these are kept with it.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Order {
    /// The customer's own number for it; no control characters.
    #[schema(
        min_length = 1,
        max_length = 128,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$"
    )]
    pub order_id: String,
    /// Who ordered; no control characters.
    #[schema(
        min_length = 1,
        max_length = 128,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$"
    )]
    pub customer_id: String,
    /// ISO 4217, three capital letters.
    #[schema(pattern = "^[A-Z]{3}$")]
    pub currency: String,
    /// At least one line.
    #[schema(min_items = 1, max_items = 500)]
    pub items: Vec<Item>,
    /// For people.
    #[schema(max_length = 2_000, required = false)]
    pub note: Option<String>,
}

/// One line of an order.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Item {
    /// What is ordered.
    #[schema(
        min_length = 1,
        max_length = 64,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$"
    )]
    pub sku: String,
    /// How many.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub quantity: u64,
    /// Exact; 0 to [`MAX_UNIT_PRICE`].
    #[schema(schema_with = unit_price)]
    pub unit_price: String,
}

/// As a string or a number.
fn unit_price() -> Schema {
    let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some(r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,6})?$"));
    let number = ObjectBuilder::new().schema_type(Type::Number).minimum(Some(0)).maximum(Some(MAX_UNIT_PRICE)).multiple_of(Some(0.000_001));
    let either = OneOfBuilder::new().item(text).item(number);
    Schema::OneOf(either.description(Some("Exact, from 0 to 1,000,000,000 with at most 6 places.")).build())
}

/// An order is accepted.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedOrder<'a> {
    tracking_id: TrackingId,
    status: Status,
    message: &'static str,
    status_url: &'a str,
    submitted_at: Timestamp,
    estimated_completion: Timestamp,
}

impl<'a> AcceptedOrder<'a> {
    /// The answer for an order that has just been accepted, or was before.
    pub fn of(record: &Record, status_url: &'a str, estimated_completion: timestamp::Timestamp) -> Self {
        Self {
            tracking_id: TrackingId(record.tracking_id),
            status: record.status.into(),
            message: match record.status {
                record::Status::Accepted => "The order is accepted; follow it at statusUrl.",
                record::Status::Processing => "The order was accepted before and is being processed; follow it at statusUrl.",
                record::Status::Completed | record::Status::Failed | record::Status::Cancelled => {
                    "The order was accepted before and has ended; its outcome is at statusUrl."
                }
            },
            status_url,
            submitted_at: Timestamp(record.submitted_at),
            estimated_completion: Timestamp(estimated_completion),
        }
    }
}

/// The status of an order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderStatus<'a> {
    tracking_id: TrackingId,
    /// The customer's own number for it.
    order_id: String,
    /// Who ordered.
    customer_id: String,
    status: Status,
    /// Percent, never backwards.
    #[schema(maximum = 100)]
    progress: u8,
    /// What the work is doing, or did last.
    #[schema(required)]
    stage: Option<&'a str>,
    /// Tries that reached the work.
    attempt: u32,
    submitted_at: Timestamp,
    /// When the work began.
    #[schema(required, value_type = Option<String>, format = "date-time")]
    started_at: Option<Timestamp>,
    updated_at: Timestamp,
    /// When the order ended; null until then.
    #[schema(required, value_type = Option<String>, format = "date-time")]
    completed_at: Option<Timestamp>,
    /// The owner has asked to cancel the order, and a worker still holds it; absent otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    cancel_requested: bool,
    /// What the work made of it; any JSON, with a completed order.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    result: Option<&'a RawValue>,
    /// With a failed order.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Failure<'a>, required = false)]
    error: Option<Failure<'a>>,
    /// Why the last try failed, while another is to come.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Failure<'a>, required = false)]
    last_error: Option<Failure<'a>>,
    /// When that other try begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = "date-time", required = false)]
    next_attempt_at: Option<Timestamp>,
    /// Oldest first; of very many the first and the latest.
    history: Vec<Transition<'a>>,
}

impl<'a> From<&'a Record> for OrderStatus<'a> {
    /// The part of a record that its owner may see: no lease, no fence, no owner.
    fn from(record: &'a Record) -> Self {
        let failure = record.error.as_ref().map(|record::Failure { code, message }| Failure { code, message });
        let (error, last_error) = if record.status.is_terminal() { (failure, None) } else { (None, failure) };
        let order::Names { order_id, customer_id } = record.names();
        Self {
            tracking_id: TrackingId(record.tracking_id),
            order_id,
            customer_id,
            status: record.status.into(),
            progress: record.progress,
            stage: record.stage.as_deref(),
            attempt: record.attempt,
            submitted_at: Timestamp(record.submitted_at),
            started_at: record.started_at.map(Timestamp),
            updated_at: Timestamp(record.updated_at),
            completed_at: record.completed_at.map(Timestamp),
            cancel_requested: record.cancel_requested,
            result: record.result.as_deref(),
            error,
            last_error,
            next_attempt_at: record.retry_at.map(Timestamp),
            history: record.history.iter().map(Transition::from).collect(),
        }
    }
}

/// A page of orders.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderList {
    pub(super) orders: Vec<ListedOrder>,
    /// Where the next page is; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub(super) next: Option<String>,
    /// The `cursor` in it, for clients that make the URL themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub(super) next_cursor: Option<String>,
}

/// An order among others.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListedOrder {
    tracking_id: TrackingId,
    order_id: String,
    customer_id: String,
    status: Status,
    progress: u8,
    submitted_at: Timestamp,
    updated_at: Timestamp,
    /// When the order ended; null until then.
    #[schema(required, value_type = Option<String>, format = "date-time")]
    completed_at: Option<Timestamp>,
    /// With a failed order.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    error_code: Option<String>,
    status_url: String,
}

impl ListedOrder {
    /// The part of a record that a list shows, in a list at this URL.
    pub fn of(record: &Record, url: &str) -> Self {
        let order::Names { order_id, customer_id } = record.names();
        Self {
            tracking_id: TrackingId(record.tracking_id),
            order_id,
            customer_id,
            status: record.status.into(),
            progress: record.progress,
            submitted_at: Timestamp(record.submitted_at),
            updated_at: Timestamp(record.updated_at),
            completed_at: record.completed_at.map(Timestamp),
            error_code: record.error.as_ref().filter(|_| record.status.is_terminal()).map(|failure| failure.code.clone()),
            status_url: format!("{url}/{}/status", record.tracking_id),
        }
    }
}

/// The id of an order. Where callers need not log in, the id is all that a client needs to read the status.
#[derive(Debug, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, format = "uuid")]
pub struct TrackingId(tracking::TrackingId);

/// A moment in UTC with milliseconds, e.g. `2026-11-24T10:15:30.123Z` (RFC 3339 section 5.6).
#[derive(Debug, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, format = "date-time")]
pub struct Timestamp(timestamp::Timestamp);

impl From<timestamp::Timestamp> for Timestamp {
    fn from(moment: timestamp::Timestamp) -> Self {
        Self(moment)
    }
}

/// Where an order stands.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "`record::Status` has them")]
pub enum Status {
    Accepted,
    Processing,
    Completed,
    Failed,
    Cancelled,
}

impl From<record::Status> for Status {
    fn from(status: record::Status) -> Self {
        match status {
            record::Status::Accepted => Self::Accepted,
            record::Status::Processing => Self::Processing,
            record::Status::Completed => Self::Completed,
            record::Status::Failed => Self::Failed,
            record::Status::Cancelled => Self::Cancelled,
        }
    }
}

/// Why an order failed, as its customer may see it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Failure<'a> {
    /// Stable, for machines.
    code: &'a str,
    /// For people.
    message: &'a str,
}

/// One step of an order's way.
#[derive(Debug, Serialize, ToSchema)]
pub struct Transition<'a> {
    /// When.
    at: Timestamp,
    /// What happened.
    event: Event,
    /// The attempt it belongs to; 0 before the first.
    attempt: u32,
    /// Why a try failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    code: Option<&'a str>,
}

impl<'a> From<&'a record::Transition> for Transition<'a> {
    fn from(transition: &'a record::Transition) -> Self {
        let record::Transition { at, event, attempt, code } = transition;
        Self { at: Timestamp(*at), event: (*event).into(), attempt: *attempt, code: code.as_deref() }
    }
}

/// What can happen to an order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "`record::Event` has them")]
pub enum Event {
    Accepted,
    Claimed,
    Interrupted,
    Retrying,
    Redriven,
    Completed,
    Failed,
    Cancelled,
    Notified,
    Unnotified,
    Renotified,
}

impl From<record::Event> for Event {
    fn from(event: record::Event) -> Self {
        match event {
            record::Event::Accepted => Self::Accepted,
            record::Event::Claimed => Self::Claimed,
            record::Event::Interrupted => Self::Interrupted,
            record::Event::Retrying => Self::Retrying,
            record::Event::Redriven => Self::Redriven,
            record::Event::Completed => Self::Completed,
            record::Event::Failed => Self::Failed,
            record::Event::Cancelled => Self::Cancelled,
            record::Event::Notified => Self::Notified,
            record::Event::Unnotified => Self::Unnotified,
            record::Event::Renotified => Self::Renotified,
        }
    }
}

/// A problem, as the body of an answer with this `status`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem<'a> {
    /// Stable name of the kind of problem.
    #[serde(rename = "type")]
    #[schema(schema_with = kinds)]
    kind: &'static str,
    /// The kind in words; the same for every problem of it.
    title: &'static str,
    /// HTTP status code.
    status: u16,
    /// What to change in this very request.
    #[schema(extensions(("x-ms-primary-error-message" = json!(true))))]
    detail: &'a str,
    /// Every mistake of an order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<Violation<'a>>,
    /// Whether the order may have been accepted all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Outcome, required = false)]
    outcome: Option<Outcome>,
    /// Where the order stands that could not be cancelled.
    #[serde(rename = "orderStatus", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Status, required = false)]
    order_status: Option<Status>,
}

fn kinds() -> Object {
    let kinds = problem::Problem::KINDS.iter().map(|(_, kind)| *kind);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(kinds)).build()
}

impl<'a> From<&'a problem::Problem> for Problem<'a> {
    fn from(problem: &'a problem::Problem) -> Self {
        let violation = |order::Violation { pointer, detail }: &'a order::Violation| Violation { pointer, detail };
        Self {
            kind: problem.kind,
            title: problem.title,
            status: problem.status,
            detail: &problem.detail,
            errors: problem.errors.iter().map(violation).collect(),
            outcome: problem.outcome.map(Outcome::from),
            order_status: problem.order_status.map(Status::from),
        }
    }
}

/// One thing wrong with an order, and where.
#[derive(Debug, Serialize, ToSchema)]
pub struct Violation<'a> {
    /// A JSON pointer into the body as it was sent (RFC 6901), e.g. `/items/0/quantity`; empty for the whole.
    pointer: &'a str,
    /// What to change.
    detail: &'a str,
}

/// Whether an order that was answered with a problem may have been accepted.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "`problem::Outcome` has them")]
pub enum Outcome {
    NotAccepted,
    Unknown,
}

impl From<problem::Outcome> for Outcome {
    fn from(outcome: problem::Outcome) -> Self {
        match outcome {
            problem::Outcome::NotAccepted => Self::NotAccepted,
            problem::Outcome::Unknown => Self::Unknown,
        }
    }
}
