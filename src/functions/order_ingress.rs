//! `OrderIngress`: records a new order, and only then accepts it.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serving::failpoint;
use serving::trace;
use tracing::error;
use uuid::Uuid;

use crate::domain::bookmark::Bookmark;
use crate::domain::form::{OrderForm, Unacceptable};
use crate::domain::lifecycle::{self, Resubmission, Submission, Sweep};
use crate::domain::message;
use crate::domain::problem::Problem;
use crate::domain::record::{Metadata, Record};
use crate::domain::tracking::{self, IdempotencyKey};
use crate::door::admission;
use crate::door::caller::{self, Right};
use crate::door::rate::Quota;
use crate::door::rate_key;
use crate::envelope::{Answer, HttpRequest};
use crate::functions;
use crate::functions::app::App;
use crate::functions::completion_times;
use crate::functions::contract::AcceptedOrder;
use crate::functions::in_flight::Entry;
use crate::functions::invocation::{Invocation, InvocationBody};
use crate::functions::reply::{self, Conclusion};
use crate::functions::shown;
use crate::functions::told;
use crate::outbound::breaker::Permit;
use crate::store::{Created, Replaced, StatusStore, StoreError, Versioned};

/// Longest read of the record before a refusal: the order may have been accepted before.
const REFUSAL_WAIT: Duration = Duration::from_secs(1);
/// The same while the store's breaker is open.
const SHORT_REFUSAL_WAIT: Duration = Duration::from_millis(250);

/// Takes an order, records it, answers 202 together with the message.
pub async fn run(app: Arc<App>, invocation: Invocation) -> Conclusion {
    if matches!(invocation.body, InvocationBody::TooLarge) {
        return Conclusion::new(Ok(Answer::respond(reply::problem(&too_large()))));
    }
    let request = match invocation.http_request() {
        Ok(request) => request,
        Err(conclusion) => return conclusion,
    };
    let owner = match caller::identify(&app.callers, &request, Right::Submit).await {
        Ok(caller) => caller.owner,
        Err(problem) => return Conclusion::respond(&request, reply::problem(&problem)),
    };
    let read = read(&app, &request, &owner).await.map(|read| (app.in_flight.enter(read.record.tracking_id), read));
    let quota = app.quota(&request, &owner).await;
    let too_often = quota.as_ref().and_then(Quota::refusal);
    let submitted = match (read, too_often) {
        (Ok((entry, read)), too_often) => record(&app, &entry, read, too_often).await,
        // The rate limit comes first: a request beyond it is not told what is wrong with the order.
        (Err(problem), too_often) => Err(too_often.unwrap_or(problem)),
    };
    let headers = quota.iter().flat_map(Quota::headers);
    match submitted {
        Ok(submitted) => {
            failpoint!("before-answer");
            Conclusion::new(Ok(accepted(&app, &request, &submitted, headers))).about(Some(submitted.record.tracking_id))
        }
        Err(problem) => {
            let mut response = reply::problem(&problem);
            response.headers.extend(headers);
            Conclusion::respond(&request, response)
        }
    }
}

/// An order that may be recorded.
struct Read<'a> {
    store: &'a StatusStore,
    record: Record,
    message: String,
    /// Whether the tracking id comes from an `Idempotency-Key` header.
    by_header: bool,
    /// Why a new order is refused. One that was accepted before may name a receiver that is allowed no more.
    refusal: Option<Problem>,
}

struct Submitted {
    record: Record,
    /// The message, if it is to be sent.
    message: Option<String>,
    /// The sealed bookmark for the status URL.
    bookmark: Option<String>,
}

/// Checks a request, and makes its record and its message.
async fn read<'a>(app: &'a App, request: &HttpRequest<'_>, owner: &str) -> Result<Read<'a>, Problem> {
    shown::only_known_query(request, &[])?;
    let header = idempotency_header(request)?;
    let (callback_url, refusal) = match callback_header(app, request) {
        Ok(url) => (url, None),
        Err(refusal) => (None, Some(refusal)),
    };
    let text = body_text(request)?;
    // Before parsing: a tree of many small values is far larger than its text.
    if text.len() > message::MAX_BYTES {
        return Err(too_large());
    }
    let form = &app.config.order_form;
    let order = form.read(&text).map_err(unacceptable)?;
    let key = IdempotencyKey::of(header, &order.names).ok_or_else(|| {
        Problem::invalid_idempotency_key(
            "send an Idempotency-Key header, a new one for each order: orders have no number of their own here",
        )
    })?;

    let store = app.store_for_customer().await.ok_or_else(Problem::nothing_recorded)?;
    let now = store.now();
    let (tracking_id, by_header) = (key.tracking_id(store.tracking_key(), owner), matches!(key, IdempotencyKey::Header(_)));
    let submission = Submission {
        tracking_id,
        life: Uuid::new_v4(),
        order: order.text,
        names: order.names,
        fingerprint: functions::hex(&order.fingerprint),
        metadata: Metadata {
            api_name: "orders".into(),
            operation_name: "submitOrder".into(),
            subscription_id: rate_key::subscription(request, &app.config.limits).map(str::to_owned),
            received_at: now,
            traceparent: trace::traceparent()
                .or_else(|| request.header("traceparent").next().filter(|value| value.len() <= 64 && value.is_ascii()).map(str::to_owned)),
            owner: owner.to_owned(),
        },
        callback_url,
    };
    let record = lifecycle::accept(submission, app.queue_wait.usual(), now, &app.config.budgets);
    let message = message::write(&record);
    Ok(Read { store, record, message, by_header, refusal })
}

/// Records an order. With a `refusal` nothing is recorded, but an order that was accepted before is still answered with 202.
async fn record(app: &App, entry: &Entry<'_>, read: Read<'_>, refusal: Option<Problem>) -> Result<Submitted, Problem> {
    let Read { store, record, message, by_header, refusal: unacceptable } = read;
    let seal = |bookmark: Option<Bookmark>| bookmark.map(|bookmark| bookmark.seal(store.tracking_key(), record.tracking_id));
    app.admission.look(store).await;
    // Checked only now: an order that was accepted before may be too large today, since a gateway adds e.g. `traceparent`.
    let refusal = refusal.or(unacceptable).or_else(|| (message.len() > message::MAX_BYTES).then(too_large));
    let refusal = refusal.or_else(|| app.admission.refusal());
    let refused = refusal.is_some();
    let created = match refusal.map_or_else(|| app.admission.admit(), Err) {
        Err(refusal) => refuse_unless_recorded(app, store, entry, refusal).await?,
        Ok(permit) => create(app, store, entry, &record, permit).await?,
    };
    match created {
        Created::Created(bookmark) => {
            failpoint!("after-record");
            told::accepted(&record);
            Ok(Submitted { message: Some(message), bookmark: seal(bookmark), record })
        }
        Created::Exists(found, bookmark) => {
            let message = match lifecycle::resubmit(&found.record, &record.fingerprint, record.submitted_at) {
                // A repeated request sends the message again, since the first one may have been lost in an outage. A request beyond a
                // limit must not add work: it carries the message of an overdue order only.
                Resubmission::EmitAgain if refused => message_if_overdue(app, store, &found).await,
                Resubmission::EmitAgain => Some(message::write(&found.record)),
                Resubmission::Repeat => None,
                Resubmission::Conflict => return Err(conflict(by_header, &app.config.order_form)),
            };
            Ok(Submitted { record: found.record, message, bookmark: seal(bookmark) })
        }
    }
}

/// The message of an overdue order. Its `dueAt` moves ahead first, as in a sweep: of many requests, one carries the message.
async fn message_if_overdue(app: &App, store: &StatusStore, found: &Versioned) -> Option<String> {
    let decision = lifecycle::sweep(&found.record, app.queue_wait.usual(), store.now(), &app.config.budgets);
    let Sweep::Emit(record) = decision else { return None };
    match store.replace(&record, &found.etag).await {
        Ok(Replaced::Replaced(_)) | Err(StoreError::Unknown) => Some(message::write(&record)),
        // Stale: a worker or the sweeper takes care of the order.
        Ok(Replaced::Stale) | Err(StoreError::NotApplied | StoreError::Unreadable(_) | StoreError::Newer(_)) => None,
    }
}

/// Writes the record. After a failed write the record is read before the order is refused.
async fn create(app: &App, store: &StatusStore, entry: &Entry<'_>, record: &Record, permit: Permit) -> Result<Created, Problem> {
    failpoint!("before-record");
    let created = store.create(record).await;
    admission::end(permit, &created);
    let error = match created {
        Ok(created) => return Ok(created),
        Err(error) => error,
    };
    error!(order.tracking_id = %record.tracking_id, %error, "an order could not be recorded");
    match error {
        StoreError::NotApplied => refuse_unless_recorded(app, store, entry, Problem::nothing_recorded()).await,
        StoreError::Unknown | StoreError::Unreadable(_) | StoreError::Newer(_) => {
            entry.outcome_unknown(Instant::now());
            Err(Problem::may_be_recorded())
        }
    }
}

/// The record of an order that was accepted before, or the `refusal`. A record that a restart may not find counts as none. The refusal
/// says "not accepted" only if the latest version of the record is missing, no other request may be recording the order, and no failed
/// write may still show. A slow store delays the refusal by at most [`REFUSAL_WAIT`].
async fn refuse_unless_recorded(app: &App, store: &StatusStore, entry: &Entry<'_>, refusal: Problem) -> Result<Created, Problem> {
    let wait = if app.admission.store_answers() { REFUSAL_WAIT } else { SHORT_REFUSAL_WAIT };
    match tokio::time::timeout(wait, store.read_latest_once(entry.tracking_id())).await {
        Ok(Ok(Some((found, bookmark)))) if !store.may_show_write_in_doubt() => Ok(Created::Exists(found, bookmark)),
        Ok(Ok(None)) if entry.no_other_may_record(Instant::now()) && !store.has_write_in_doubt() => Err(refusal.not_accepted()),
        Ok(Ok(_) | Err(_)) | Err(_) => Err(refusal),
    }
}

fn accepted(app: &App, request: &HttpRequest<'_>, submitted: &Submitted, quota: impl Iterator<Item = (&'static str, String)>) -> Answer {
    let record = &submitted.record;
    let orders = shown::orders_url(app.config.public_base_url.as_deref(), &request.url, 0);
    let mut status_url = format!("{orders}/{}/status", record.tracking_id);
    if let Some(bookmark) = &submitted.bookmark {
        let _ = write!(status_url, "?{}={bookmark}", shown::BOOKMARK);
    }
    // The store's clock: the store is open, since it has answered.
    let now = app.store.get().map_or(record.updated_at, StatusStore::now);
    let estimate = app.estimate();
    let body = AcceptedOrder::of(record, &status_url, estimate.completion(record, now));
    let mut headers = vec![("Location", status_url.clone())];
    headers.extend(completion_times::retry_after(estimate.next_look(record, now)));
    headers.extend(quota);
    let mut response = reply::json(202, headers, &body);
    reply::expose(request, &mut response);
    match &submitted.message {
        Some(message) => Answer::respond_and_emit(response, message.clone()),
        None => Answer::respond(response),
    }
}

fn idempotency_header<'r>(request: &'r HttpRequest<'_>) -> Result<Option<&'r str>, Problem> {
    let mut values = request.header("idempotency-key");
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::invalid_idempotency_key("the request has more than one Idempotency-Key header; send one"));
    }
    let limit = tracking::MAX_KEY;
    tracking::header_key(value).map(Some).ok_or_else(|| {
        Problem::invalid_idempotency_key(format!("send 1 to {limit} visible ASCII characters without spaces, or leave the header out"))
    })
}

/// The URL that the order names for its callback.
fn callback_header(app: &App, request: &HttpRequest<'_>) -> Result<Option<String>, Problem> {
    let mut values = request.header("x-callback-url");
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::invalid_callback_url("the request has more than one X-Callback-Url header; send one"));
    }
    // The URL is not repeated: it may have a secret in it.
    let refused = |why| Problem::invalid_callback_url(format!("X-Callback-Url cannot be called: {why}"));
    app.callbacks.own_url(value.trim()).map(|url| Some(url.to_string())).map_err(refused)
}

fn body_text<'r>(request: &'r HttpRequest<'_>) -> Result<Cow<'r, str>, Problem> {
    if let Some(encoding) = request.header("content-encoding").find(|value| !value.trim().eq_ignore_ascii_case("identity")) {
        let name = Some(encoding).filter(|name| name.len() <= 64 && name.bytes().all(|byte| matches!(byte, b' '..=b'~')));
        let detail = format!("send the order without Content-Encoding: {}", name.unwrap_or("it must be absent or identity"));
        return Err(Problem { headers: vec![("Accept-Encoding", "identity".into())], ..Problem::unsupported_media_type(detail) });
    }
    let content_type = request.header("content-type").next().unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // No Content-Type counts as JSON, but not from a web page. Any page may send that, forms and plain text without a CORS preflight.
    let may_be_absent = !request.is_from_web_page();
    if !(media_type.is_empty() && may_be_absent || media_type == "application/json" || media_type.ends_with("+json")) {
        return Err(Problem::unsupported_media_type("send the order as Content-Type: application/json"));
    }
    match &request.body {
        Some(body) if !body.trim_ascii().is_empty() => Ok(Cow::Borrowed(body)),
        Some(_) => Err(Problem::no_body("send the order as JSON")),
        None => Err(Problem::no_body(
            "send the order as JSON with a Content-Length header; a body sent with Transfer-Encoding: chunked does not arrive",
        )),
    }
}

fn unacceptable(reason: Unacceptable) -> Problem {
    let errors = match reason {
        Unacceptable::NotJson(reason) => return Problem::not_json(format!("{reason}; send one JSON object")),
        Unacceptable::Invalid(errors) => errors,
    };
    let count = errors.len();
    let detail = format!("{count} {} to correct; see errors", if count == 1 { "mistake" } else { "mistakes" });
    Problem { errors, ..Problem::invalid_order(detail) }
}

fn too_large() -> Problem {
    Problem::order_too_large(format!("an order with its metadata takes at most {} bytes; split it", message::MAX_BYTES))
}

/// The problem of a conflict. Does not name the tracking id of the other order, which would allow reading that order.
fn conflict(by_header: bool, form: &OrderForm) -> Problem {
    if by_header {
        Problem::idempotency_key_reused("send another order under another Idempotency-Key")
    } else {
        let (identity, place) = (form.identity(), form.number());
        Problem::order_conflict(format!("an order with this {identity} and other contents was accepted before; use another {place}"))
    }
}
