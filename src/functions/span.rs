//! The span of an invocation: below the host's, or below the request or message that it is about.

use serving::trace::{self, SPANS};
use tracing::field::{Empty, display};
use tracing::{Span, info_span};

use crate::domain::message;
use crate::envelope;
use crate::functions::invocation::Invocation;
use crate::functions::reply::Conclusion;

/// What calls a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trigger {
    Http,
    Queue,
    Timer,
}

impl Trigger {
    fn of(function: &str) -> Self {
        match function {
            "OrderProcessor" | "OrderDeadLetter" => Self::Queue,
            "OrderSweeper" => Self::Timer,
            _ => Self::Http,
        }
    }
}

/// The span of an invocation. The host delivers a message inside a request of its own, so the span hangs below that request and is
/// linked to the one that made the message; where the host has no span, it hangs below the latter (OpenTelemetry semantic conventions
/// for messaging, "Messaging spans").
pub(super) fn of(function: &'static str, invocation: &Invocation) -> Span {
    if !trace::is_on() {
        return Span::none();
    }
    let trigger = Trigger::of(function);
    let (name, kind, trigger_name) = match trigger {
        Trigger::Http => (function, "server", "http"),
        Trigger::Queue => ("process orders", "consumer", "pubsub"),
        Trigger::Timer => (function, "server", "timer"),
    };
    let span = info_span!(
        target: SPANS,
        "invocation",
        otel.name = name,
        otel.kind = kind,
        faas.trigger = trigger_name,
        faas.invocation_id = invocation.id,
        waybill.function = function,
        waybill.order.tracking_id = Empty,
        messaging.system = (trigger == Trigger::Queue).then_some("servicebus"),
        messaging.operation.name = (trigger == Trigger::Queue).then_some("process"),
        messaging.operation.type = (trigger == Trigger::Queue).then_some("process"),
        messaging.message.conversation_id = Empty,
        messaging.servicebus.message.delivery_count = Empty,
        http.response.status_code = Empty,
        error.type = Empty
    );
    let host = invocation.traceparent.as_deref();
    let origin = if host.is_none() || trigger == Trigger::Queue { origin(trigger, invocation) } else { None };
    if let Some(parent) = host.or(origin.as_deref()) {
        trace::set_parent(&span, parent);
    }
    if let (Some(_), Some(origin)) = (host, &origin) {
        trace::link(&span, origin);
    }
    span
}

/// `traceparent` of the client's request, or of the span that made the message.
fn origin(trigger: Trigger, invocation: &Invocation) -> Option<String> {
    let body = invocation.body.whole().ok()?;
    // Most name none, and would be read twice for nothing. The first letter may be a capital in the name of a header.
    if !str::from_utf8(body).is_ok_and(|text| text.contains("raceparent")) {
        return None;
    }
    match trigger {
        Trigger::Http => envelope::http_request(body).ok()?.header("traceparent").next().map(str::to_owned),
        Trigger::Queue => message::traceparent(&envelope::queue_message(body).ok()?.text),
        Trigger::Timer => None,
    }
}

/// Adds what is known at the end of an invocation.
pub(super) fn end(span: &Span, conclusion: &Conclusion) {
    if span.is_disabled() {
        return;
    }
    if let Some(tracking_id) = conclusion.tracking_id {
        span.record("waybill.order.tracking_id", display(tracking_id));
        if conclusion.delivery_count.is_some() {
            span.record("messaging.message.conversation_id", display(tracking_id));
        }
    }
    if let Some(deliveries) = conclusion.delivery_count {
        span.record("messaging.servicebus.message.delivery_count", deliveries);
    }
    match &conclusion.answer {
        Ok(answer) => {
            if let Some(status) = answer.status_code() {
                span.record("http.response.status_code", status);
                if status >= 500 {
                    span.record("error.type", status);
                    trace::fail(span, "the client was answered with an error");
                }
            }
        }
        Err(refusal) => {
            span.record("error.type", refusal.status.as_u16());
            trace::fail(span, "the invocation failed");
        }
    }
}
