//! Answers to the host and, inside them, to the client.

use std::time::Duration;

use serde::Serialize;
use serving::log::PEOPLE;
use tracing::{error, info};
use warp::http::StatusCode;

use crate::domain::problem::Problem;
use crate::domain::tracking::TrackingId;
use crate::envelope::{Answer, HttpRequest, LoggedProblem, Response};
use crate::functions::contract;
use crate::metrics::{Answered, METRICS, SendOperation, Sent};

/// Headers that a web page's script may read. Without a list it may read none of them.
const EXPOSED: &str = "Location, Retry-After, retry-after-ms, ETag, Preference-Applied, RateLimit, RateLimit-Policy, WWW-Authenticate";

/// The end of an invocation: the answer to the host, and the fields of the log line.
#[derive(Debug)]
pub struct Conclusion {
    /// An answer, or a refusal that the host turns into an empty 500 or an abandoned message.
    pub answer: Result<Answer, Refusal>,
    /// The order of the invocation, if known.
    pub tracking_id: Option<TrackingId>,
    /// The message's delivery count, for queue triggers.
    pub delivery_count: Option<u32>,
}

/// An invocation that fails on purpose.
#[derive(Debug)]
pub struct Refusal {
    /// The HTTP status, never 2xx.
    pub status: StatusCode,
    /// The reason, for the log only.
    pub reason: String,
}

impl Refusal {
    /// A refusal of a request that is not an invocation.
    pub fn malformed(reason: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason: format!("not an invocation of this function: {reason}") }
    }

    /// A refusal of an envelope that cannot be parsed. Names only the kind and position of the error: serde's text may quote a body.
    pub fn unreadable(error: &serde_json::Error) -> Self {
        Self::malformed(&format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column()))
    }

    /// A refusal that abandons the message: it is delivered again, and dead-lettered in the end.
    pub fn abandon(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, reason: reason.into() }
    }
}

impl Conclusion {
    /// An end without an order.
    pub fn new(answer: Result<Answer, Refusal>) -> Self {
        Self { answer, tracking_id: None, delivery_count: None }
    }

    /// An end with a response to this request.
    pub fn respond(request: &HttpRequest<'_>, mut response: Response) -> Self {
        expose(request, &mut response);
        Self::new(Ok(Answer::respond(response)))
    }

    /// The same end, of an invocation about this order.
    #[must_use]
    pub fn about(self, tracking_id: Option<TrackingId>) -> Self {
        Self { tracking_id, ..self }
    }

    /// Measures the invocation.
    pub fn measure(&self, function: &str, duration: Duration) {
        let answered = match &self.answer {
            Ok(answer) => match answer.status_code() {
                Some(500..) => Answered::Unavailable,
                Some(400..) => Answered::Refused,
                _ => Answered::Done,
            },
            Err(_) => Answered::Failed,
        };
        METRICS.invoked(function, answered, duration);
        if let Ok(answer) = &self.answer {
            if let Some(problem) = answer.problem() {
                METRICS.refused(function, problem.kind);
            }
            METRICS.sent_messages.add((SendOperation::Output, Sent::Yes), answer.messages() as u64);
        }
    }

    /// Writes the log line of the invocation.
    pub fn log(&self, function: &str, invocation: &str, duration: Duration) {
        let tracking_id = self.tracking_id.map(tracing::field::display);
        let duration_ms = (duration.as_secs_f64() * 1e6).round() / 1e3;
        match &self.answer {
            Ok(answer) => {
                let problem = answer.problem();
                info!(
                    function.name = function,
                    invocation.id = invocation,
                    order.tracking_id = tracking_id,
                    message.delivery_count = self.delivery_count,
                    http.status = answer.status_code(),
                    problem.type = problem.map(|problem| problem.kind),
                    problem.pointers = problem.map(|problem| problem.pointers.as_str()).filter(|pointers| !pointers.is_empty()),
                    duration_ms,
                    "{function} answered"
                );
                if let (Some(problem), Some(status)) = (problem, answer.status_code()) {
                    let kind = problem.kind.rsplit(':').next().unwrap_or_default();
                    info!(target: PEOPLE, look = "wait", "{function}  {status} {kind}  {}", problem.pointers);
                }
            }
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

/// A JSON body for a client.
pub fn json(status_code: u16, headers: Vec<(&'static str, String)>, body: &impl Serialize) -> Response {
    let body = serde_json::to_string(body).expect("bodies have only string keys");
    let mut all = vec![("Content-Type", "application/json".to_owned()), ("Cache-Control", "no-store".to_owned())];
    all.extend(headers);
    Response { status_code, headers: all, body, problem: None }
}

/// Lets a web page's script read the headers of this response. Whether the page may call at all, and hear the answer, is decided by the
/// host: its CORS settings name the origins, and no headers.
pub fn expose(request: &HttpRequest<'_>, response: &mut Response) {
    if request.header("origin").next().is_some() {
        response.headers.push(("Access-Control-Expose-Headers", EXPOSED.to_owned()));
    }
}

/// Sets a header, or replaces it.
pub fn set_header(response: &mut Response, name: &'static str, value: String) {
    match response.headers.iter_mut().find(|(set, _)| *set == name) {
        Some((_, set)) => *set = value,
        None => response.headers.push((name, value)),
    }
}

/// A problem for a client, inside a successful invocation: the host turns a failed invocation into an empty 500.
pub fn problem(problem: &Problem) -> Response {
    let mut response = json(problem.status, Vec::new(), &contract::Problem::from(problem));
    response.headers[0].1 = "application/problem+json".into();
    if let Some(seconds) = problem.retry_after {
        response.headers.push(("Retry-After", seconds.to_string()));
    }
    response.headers.extend(problem.headers.iter().cloned());
    let pointers = problem.errors.iter().map(|error| error.pointer.as_str()).collect::<Vec<_>>().join(" ");
    response.problem = Some(Box::new(LoggedProblem { kind: problem.kind, pointers }));
    response
}
