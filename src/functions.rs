//! The functions: each takes an invocation, decides, records, answers.

pub mod durations;
pub mod open_api;
pub mod order_cancel;
pub mod order_dead_letter;
pub mod order_ingress;
pub mod order_list;
pub mod order_processor;
pub mod order_status;
pub mod order_sweeper;
pub mod shown;
pub mod underway;
pub mod waits;
pub mod watch;

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use tokio::sync::SetOnce;
use tracing::{error, info};
use warp::http::StatusCode;

use crate::auth::Auth;
use crate::config::Config;
use crate::envelope::{self, Answer, HttpRequest, Response};
use crate::fulfillment::Fulfillment;
use crate::functions::durations::{Durations, Expected};
use crate::functions::underway::Underway;
use crate::functions::waits::Waits;
use crate::functions::watch::{Places, Watch};
use crate::idempotency::TrackingId;
use crate::lifecycle::{Holder, Record, Status};
use crate::limits::admission::Admission;
use crate::limits::key::RateKey;
use crate::limits::rate::{Rate, Standing};
use crate::problem::Problem;
use crate::routes::{Invocation, InvocationBody};
use crate::server::Running;
use crate::service_bus::Queue;
use crate::store::{StatusStore, StoreError};

/// How long a customer's request waits for a store that is just being opened.
const OPENING: Duration = Duration::from_secs(2);
/// Name of the bookmark in the query of a status URL.
const BOOKMARK: &str = "seen";
/// First and longest pause between two questions to a store that does not answer.
const STORE_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What every function works with.
pub struct App {
    /// The settings.
    pub config: Config,
    /// Set once the store is open; the port is bound before that.
    pub store: SetOnce<StatusStore>,
    /// Where copies of messages can be scheduled, if anywhere; without it an invocation waits with its message.
    pub queue: Option<Queue>,
    /// Invocations that go on when their connection breaks; a stop waits for them.
    pub running: Running,
    /// Those who wait for an order to change.
    pub watch: Watch,
    /// Those whose order is looked for where reads may lag.
    pub looking: Places,
    /// Set when the handler has been asked to stop.
    pub stopping: SetOnce<()>,
    /// How long orders wait for their first claim.
    pub waits: Waits,
    /// Checks bearer tokens, if they are what lets callers in.
    pub auth: Option<Auth>,
    /// How long they take.
    pub durations: Durations,
    /// How often a caller may ask.
    pub rate: Rate,
    /// Whether new orders are accepted.
    pub admission: Admission,
    /// The requests that may record an order.
    pub underway: Underway,
    /// The work.
    pub fulfillment: Fulfillment,
    /// This process, as leases name it.
    pub holder: Holder,
}

/// How an invocation ended: what the host is answered, and what the log says.
#[derive(Debug)]
pub struct Conclusion {
    /// An answer, or a refusal that the host turns into an empty 500 or an abandoned message.
    pub answer: Result<Answer, Refusal>,
    /// The order it was about, once known.
    pub tracking_id: Option<TrackingId>,
    /// For messages.
    pub delivery_count: Option<u32>,
}

/// An invocation that fails on purpose.
#[derive(Debug)]
pub struct Refusal {
    /// Never 2xx.
    pub status: StatusCode,
    /// For the log.
    pub reason: String,
}

impl Refusal {
    /// The host sent what is no invocation.
    pub fn malformed(reason: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason: format!("not an invocation of this function: {reason}") }
    }

    /// The host sent an envelope that cannot be read. Names the kind of mistake and its place: serde's text may quote a body.
    pub fn unreadable(error: &serde_json::Error) -> Self {
        Self::malformed(&format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column()))
    }

    /// The message is to be delivered again, and dead-lettered in the end.
    pub fn abandon(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, reason: reason.into() }
    }
}

impl Conclusion {
    fn new(answer: Result<Answer, Refusal>) -> Self {
        Self { answer, tracking_id: None, delivery_count: None }
    }

    fn about(self, tracking_id: Option<TrackingId>) -> Self {
        Self { tracking_id, ..self }
    }

    /// The one line of an invocation.
    pub fn log(&self, function: &str, invocation: &str, duration: Duration) {
        let tracking_id = self.tracking_id.map(tracing::field::display);
        let duration_ms = (duration.as_secs_f64() * 1e6).round() / 1e3;
        match &self.answer {
            Ok(answer) => info!(
                function.name = function,
                invocation.id = invocation,
                order.tracking_id = tracking_id,
                message.delivery_count = self.delivery_count,
                http.status = answer.status_code(),
                duration_ms,
                "{function} answered"
            ),
            Err(refusal) => error!(
                function.name = function,
                invocation.id = invocation,
                order.tracking_id = tracking_id,
                message.delivery_count = self.delivery_count,
                duration_ms,
                "{function} failed: {}",
                refusal.reason
            ),
        }
    }
}

/// The store for a customer's request, which must not wait long.
async fn store_for_customer(app: &App) -> Option<&StatusStore> {
    tokio::time::timeout(OPENING, app.store.wait()).await.ok()
}

/// Asks the store again with growing pauses until it answers or `wait` has passed. An invocation that failed at once would be
/// redelivered at once, and spend all ten deliveries of its message within a second of an outage; or of a deployment, whose
/// older instances cannot read what newer ones wrote.
async fn hold<T, F: Future<Output = Result<T, StoreError>>>(wait: Duration, mut ask: impl FnMut() -> F) -> Result<T, StoreError> {
    let until = Instant::now() + wait;
    let (mut pause, longest) = STORE_PAUSE;
    loop {
        match ask().await {
            Err(error) if Instant::now() + pause < until => {
                tracing::warn!(%error, "the store does not answer; asking again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
            answer => return answer,
        }
    }
}

/// Counts a request of this owner. `None`: there is no limit.
async fn standing(app: &App, request: &HttpRequest<'_>, owner: &str) -> Option<Standing> {
    app.rate.take(RateKey::of(request, owner, &app.config.limits)).await
}

/// Answers a request of this owner, unless he asks too often; and says in either case how often he may.
async fn limited(app: &App, request: &HttpRequest<'_>, owner: &str, answer: impl Future<Output = Result<Response, Problem>>) -> Response {
    let standing = standing(app, request, owner).await;
    let answer = match standing.as_ref().and_then(Standing::refusal) {
        // Whether an order was accepted is not the question here.
        Some(refusal) => Err(Problem { outcome: None, ..refusal }),
        None => answer.await,
    };
    let mut response = answer.unwrap_or_else(|refusal| problem(&refusal));
    response.headers.extend(standing.iter().flat_map(Standing::headers));
    response
}

/// What an order is expected to take that is submitted now.
fn expected(app: &App) -> Expected {
    app.durations.expected(app.fulfillment.estimate(), app.admission.backlog())
}

/// Asks the store one question; figures when it answers.
pub async fn probe_store(app: &App) -> Option<Value> {
    let store = app.store.get()?;
    store.answers().await.ok().map(|()| store.figures())
}

fn ended_text(record: &Record) -> &'static str {
    match record.status {
        Status::Completed => "order completed",
        Status::Cancelled => "order cancelled",
        _ => "order failed",
    }
}

fn log_transition(record: &Record, text: &'static str) {
    info!(
        order.tracking_id = %record.tracking_id,
        order.status = record.status.as_str(),
        order.fence = record.fence,
        order.attempt = record.attempt,
        order.interruptions = record.interruptions,
        error.code = record.error.as_ref().map(|failure| failure.code.as_str()),
        "{text}"
    );
}

/// A JSON body for a client.
fn json(status_code: u16, headers: Vec<(&'static str, String)>, body: &impl Serialize) -> Response {
    let body = serde_json::to_string(body).expect("bodies have only string keys");
    let mut all = vec![("Content-Type", "application/json".to_owned()), ("Cache-Control", "no-store".to_owned())];
    all.extend(headers);
    Response { status_code, headers: all, body }
}

/// The request of a client who has nothing to send but its line and its headers.
fn request(invocation: &Invocation) -> Result<HttpRequest<'_>, Conclusion> {
    if matches!(invocation.body, InvocationBody::TooLarge) {
        let too_large = Problem::body_too_large("send the request without a body");
        return Err(Conclusion::new(Ok(Answer::respond(problem(&too_large)))));
    }
    let read = |body| envelope::http_request(body).map_err(|error| Refusal::unreadable(&error));
    invocation.body.whole().and_then(|body| read(body)).map_err(|refusal| Conclusion::new(Err(refusal)))
}

/// Sets a header, or replaces it.
fn set_header(response: &mut Response, name: &'static str, value: String) {
    match response.headers.iter_mut().find(|(set, _)| *set == name) {
        Some((_, set)) => *set = value,
        None => response.headers.push((name, value)),
    }
}

/// A problem for a client. A customer's mistake is a successful invocation: anything else becomes an empty 500.
fn problem(problem: &Problem) -> Response {
    let mut response = json(problem.status, Vec::new(), problem);
    response.headers[0].1 = "application/problem+json".into();
    if let Some(seconds) = problem.retry_after {
        response.headers.push(("Retry-After", seconds.to_string()));
    }
    response.headers.extend(problem.headers.iter().cloned());
    response
}
