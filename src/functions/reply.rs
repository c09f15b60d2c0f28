//! What the host is answered, and the client behind it.

use std::time::Duration;

use serde::Serialize;
use tracing::{error, info};
use warp::http::StatusCode;

use crate::domain::problem::Problem;
use crate::domain::tracking::TrackingId;
use crate::envelope::{Answer, Response};
use crate::functions::contract;

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
    /// An end that is about no order yet.
    pub fn new(answer: Result<Answer, Refusal>) -> Self {
        Self { answer, tracking_id: None, delivery_count: None }
    }

    /// The same, about this order.
    #[must_use]
    pub fn about(self, tracking_id: Option<TrackingId>) -> Self {
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

/// A JSON body for a client.
pub fn json(status_code: u16, headers: Vec<(&'static str, String)>, body: &impl Serialize) -> Response {
    let body = serde_json::to_string(body).expect("bodies have only string keys");
    let mut all = vec![("Content-Type", "application/json".to_owned()), ("Cache-Control", "no-store".to_owned())];
    all.extend(headers);
    Response { status_code, headers: all, body }
}

/// Sets a header, or replaces it.
pub fn set_header(response: &mut Response, name: &'static str, value: String) {
    match response.headers.iter_mut().find(|(set, _)| *set == name) {
        Some((_, set)) => *set = value,
        None => response.headers.push((name, value)),
    }
}

/// A problem for a client. A customer's mistake is a successful invocation: anything else becomes an empty 500.
pub fn problem(problem: &Problem) -> Response {
    let mut response = json(problem.status, Vec::new(), &contract::Problem::from(problem));
    response.headers[0].1 = "application/problem+json".into();
    if let Some(seconds) = problem.retry_after {
        response.headers.push(("Retry-After", seconds.to_string()));
    }
    response.headers.extend(problem.headers.iter().cloned());
    response
}
