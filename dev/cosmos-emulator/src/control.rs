//! The control port: figures, faults, tokens and the container, for tests and people on this machine.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::connections::{Connection, Service};
use crate::faults::Fault;
use crate::host::Host;

/// For lists of tokens; faults are a line.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// What answers on the control port.
#[derive(Debug)]
pub(crate) struct Control(pub(crate) Arc<Host>);

impl Service for Control {
    async fn answer(&self, request: Request<Incoming>, _: Connection) -> Response<Full<Bytes>> {
        let host = &self.0;
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, MAX_BODY_BYTES).collect().await else {
            return refusal(StatusCode::BAD_REQUEST, "the body is too large or broke off");
        };
        let body = body.to_bytes();
        match (&head.method, head.uri.path()) {
            (&Method::GET, "/figures") => ok(&host.figures.to_json(host.documents().await)),
            (&Method::POST, "/figures/reset") => {
                host.figures.reset();
                done()
            }
            (&Method::GET, "/fault") => ok(&json!(host.faults.current().and_then(|active| active.remaining_fault()))),
            (&Method::PUT, "/fault") => match Fault::parse(&body) {
                Ok(fault) => set_fault(host, Some(fault)).await,
                Err(problem) => refusal(StatusCode::BAD_REQUEST, &problem),
            },
            (&Method::DELETE, "/fault") => set_fault(host, None).await,
            (&Method::PUT, "/tokens") => match serde_json::from_slice(&body) {
                Ok(tokens) => {
                    host.authorization.accept_tokens(tokens);
                    done()
                }
                Err(error) => refusal(StatusCode::BAD_REQUEST, &format!("this is not a list of tokens: {error}")),
            },
            (&Method::POST, "/container") => host.create_container().await.into(),
            (&Method::DELETE, "/container") => host.delete_container().await.into(),
            (method, path) => refusal(StatusCode::NOT_FOUND, &format!("there is no {method} {path}")),
        }
    }
}

async fn set_fault(host: &Arc<Host>, fault: Option<Fault>) -> Response<Full<Bytes>> {
    match host.set_fault(fault).await {
        Ok(()) => done(),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &format!("cannot listen again: {error}")),
    }
}

fn done() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn ok(value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(value.to_string()));
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}

fn refusal(status: StatusCode, problem: &str) -> Response<Full<Bytes>> {
    let mut response = ok(&json!({"error": problem}));
    *response.status_mut() = status;
    response
}
