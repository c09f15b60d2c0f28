//! `OrderStatus`: the record as its customer may see it.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use tracing::error;

use crate::bookmark::Bookmark;
use crate::envelope::{self, Answer, HttpRequest};
use crate::functions::{self, App, Conclusion, Refusal, durations};
use crate::idempotency::TrackingId;
use crate::lifecycle::{Failure, Record, Status, Transition};
use crate::problem::Problem;
use crate::routes::Invocation;
use crate::store::{StatusStore, Versioned};
use crate::timestamp::Timestamp;

/// The body of a status.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    tracking_id: TrackingId,
    status: Status,
    progress: u8,
    stage: Option<&'a str>,
    attempt: u32,
    submitted_at: Timestamp,
    started_at: Option<Timestamp>,
    updated_at: Timestamp,
    completed_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a Failure>,
    /// Why the last try failed, while another is to come.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<&'a Failure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<Timestamp>,
    history: &'a [Transition],
}

impl<'a> Shown<'a> {
    fn of(record: &'a Record) -> Self {
        Self {
            tracking_id: record.tracking_id,
            status: record.status,
            progress: record.progress,
            stage: record.stage.as_deref(),
            attempt: record.attempt,
            submitted_at: record.submitted_at,
            started_at: record.started_at,
            updated_at: record.updated_at,
            completed_at: record.completed_at,
            result: record.result.as_deref(),
            error: record.error.as_ref().filter(|_| record.status.is_terminal()),
            last_error: record.error.as_ref().filter(|_| !record.status.is_terminal()),
            next_attempt_at: record.retry_at,
            history: &record.history,
        }
    }
}

/// Takes a tracking id, reads its record, answers with what a customer may see.
pub async fn run(app: &App, invocation: &Invocation) -> Conclusion {
    let read = |body| envelope::http_request(body).map_err(|error| Refusal::unreadable(&error));
    let request = match invocation.body.whole().and_then(|body| read(body)) {
        Ok(request) => request,
        Err(refusal) => return Conclusion::new(Err(refusal)),
    };
    let tracking_id = request.param("trackingId").and_then(TrackingId::parse);
    let response = match look_up(app, &request, tracking_id).await {
        Ok(found) => {
            let mut headers = Vec::new();
            if !found.record.status.is_terminal() {
                // The store's clock; it is open, since it answered.
                let now = app.store.get().map_or(found.record.updated_at, StatusStore::now);
                headers.extend(durations::retry_after(functions::expected(app).next_look(&found.record, now)));
            }
            functions::json(200, headers, &Shown::of(&found.record))
        }
        Err(problem) => functions::problem(&problem),
    };
    Conclusion::new(Ok(Answer::respond(response))).about(tracking_id)
}

async fn look_up(app: &App, request: &HttpRequest<'_>, tracking_id: Option<TrackingId>) -> Result<Arc<Versioned>, Problem> {
    let missing = || {
        let asked = request.param("trackingId").unwrap_or_default();
        Problem::order_not_found(if tracking_id.is_some() {
            "no order has this tracking id; records of ended orders are kept for a limited time"
        } else if asked.is_empty() {
            "ask for orders/{trackingId}/status"
        } else {
            "this is not a tracking id; use the statusUrl of the 202 as it stands"
        })
    };
    let tracking_id = tracking_id.ok_or_else(missing)?;
    let store = functions::store_for_customer(app).await.ok_or_else(|| Problem::unavailable(None))?;
    let bookmark = request.query(functions::BOOKMARK).and_then(|sealed| Bookmark::open(sealed, store.tracking_key(), tracking_id));
    match store.read_recent(tracking_id, bookmark).await {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(missing()),
        Err(error) => {
            error!(order.tracking_id = %tracking_id, %error, "a record could not be read");
            Err(Problem::unavailable(None))
        }
    }
}
