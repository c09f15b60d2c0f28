//! Spans of a trace, and how they hang together across processes by W3C trace context.
//!
//! A span is one of `tracing` with the target [`SPANS`]. Unless a collector is told of spans, they are disabled and cost nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::field::Empty;
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Target of spans. Log lines do not show them.
pub const SPANS: &str = "trace";

/// Header, and member of messages, with the context of a span (W3C Trace Context).
const TRACEPARENT: &str = "traceparent";

static IS_ON: AtomicBool = AtomicBool::new(false);

/// Says that spans are collected.
pub fn turn_on() {
    IS_ON.store(true, Ordering::Relaxed);
}

/// Whether spans are collected.
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Hangs a span below another one. Call it before the span is entered.
pub fn set_parent(span: &Span, traceparent: &str) {
    // Only a span that is disabled or entered has no place below another.
    let _ = span.set_parent(context(traceparent));
}

/// Links a span to another one that caused it, and in whose trace it need not be.
pub fn link(span: &Span, traceparent: &str) {
    let caused_by = context(traceparent).span().span_context().clone();
    if caused_by.is_valid() {
        span.add_link(caused_by);
    }
}

/// `traceparent` of the span in which this is called. `None`: no spans are collected.
pub fn traceparent() -> Option<String> {
    if !is_on() {
        return None;
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut carrier);
    carrier.remove(TRACEPARENT)
}

/// A request of ours, from its sending to the head of its answer. One that is given up before, or that is never answered, has failed.
#[derive(Debug)]
pub struct Request {
    span: Span,
    is_over: bool,
}

impl Request {
    /// Begins the span of a request. The rest of its URL may have a secret in it.
    pub fn begin(method: &str, host: Option<&str>, port: Option<u16>) -> Self {
        let span = info_span!(
            target: SPANS,
            "call",
            otel.name = method,
            otel.kind = "client",
            http.request.method = method,
            server.address = host,
            server.port = port,
            http.response.status_code = Empty,
            error.type = Empty
        );
        Self { span, is_over: false }
    }

    /// The span, to be entered while the request is on its way.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Notes the status of the answer; 400 and above is a failure (OpenTelemetry semantic conventions, "HTTP client span").
    pub fn answered(mut self, status: u16) {
        self.is_over = true;
        self.span.record("http.response.status_code", status);
        if status >= 400 {
            self.failed(status.to_string().as_str(), "the answer is an error");
        }
    }

    /// Notes that there is no answer. Code and reason must be such that may leave this process.
    pub fn unanswered(mut self, code: &str, reason: &'static str) {
        self.is_over = true;
        self.failed(code, reason);
    }

    fn failed(&self, code: &str, reason: &'static str) {
        self.span.record("error.type", code);
        fail(&self.span, reason);
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.is_over {
            self.failed("given_up", "no answer came in the time that there was");
        }
    }
}

/// Marks a span as failed. The reason must be one that may leave this process.
pub fn fail(span: &Span, reason: &'static str) {
    span.set_status(Status::error(reason));
}

fn context(traceparent: &str) -> opentelemetry::Context {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    // A context of its own: the current one may be that of another span.
    TraceContextPropagator::new().extract_with_context(&opentelemetry::Context::new(), &carrier)
}
