//! What a customer is told when a request cannot be served: RFC 9457 problem details.

use crate::order::Violation;
use crate::record::Status;

/// `detail` for a request that changes nothing and failed.
pub const ASK_AGAIN: &str = "ask again";

/// A problem, as the body of an answer with this `status`.
#[derive(Debug, Clone)]
pub struct Problem {
    /// Stable name of the kind of problem.
    pub kind: &'static str,
    /// Title of the kind; the same for every problem of one kind.
    pub title: &'static str,
    /// HTTP status code.
    pub status: u16,
    /// Explanation of this problem: what to change in the request.
    pub detail: String,
    /// All mistakes of the order.
    pub errors: Vec<Violation>,
    /// Whether the order may have been accepted despite the problem.
    pub outcome: Option<Outcome>,
    /// Status of an order that could not be cancelled.
    pub order_status: Option<Status>,
    /// Seconds to wait before the same request again; the header `Retry-After`.
    pub retry_after: Option<u32>,
    /// Other headers of the answer.
    pub headers: Vec<(&'static str, String)>,
}

/// Outcome of an order whose answer is a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Not accepted: the store was read, and has no order of this request.
    NotAccepted,
    /// Not known: an order may be recorded. The same request again tells.
    Unknown,
}

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident($status:literal, $kind:literal, $title:literal);)*) => {
        impl Problem {
            /// Status and type of every kind; `docs/problems.md` says what to do about each.
            pub const KINDS: &[(u16, &str)] = &[$(($status, concat!("urn:problem-type:waybill:", $kind))),*];

            $($(#[$doc])*
            pub fn $name(detail: impl Into<String>) -> Self {
                Self {
                    kind: concat!("urn:problem-type:waybill:", $kind),
                    title: $title,
                    status: $status,
                    detail: detail.into(),
                    errors: Vec::new(),
                    outcome: None,
                    order_status: None,
                    retry_after: None,
                    headers: Vec::new(),
                }
            })*
        }
    };
}

problems! {
    /// The request has no body.
    no_body(400, "no-body", "The request has no body");
    /// The body is not JSON.
    not_json(400, "not-json", "The body is not JSON");
    /// The order has mistakes, which `errors` lists.
    invalid_order(400, "invalid-order", "The order is not valid");
    /// The header `Idempotency-Key` cannot be used.
    invalid_idempotency_key(400, "invalid-idempotency-key", "The Idempotency-Key is not valid");
    /// The header `X-Callback-Url` cannot be used.
    invalid_callback_url(400, "invalid-callback-url", "The X-Callback-Url is not valid");
    /// No token, or none that is valid.
    unauthorized(401, "unauthorized", "A valid token is needed");
    /// A valid token that does not allow this.
    forbidden(403, "forbidden", "The token does not allow this");
    /// A request for the orders of a caller, where nothing tells callers apart.
    callers_not_identified(403, "callers-not-identified", "Callers are not told apart");
    /// The order is too large for the queue.
    order_too_large(413, "order-too-large", "The order is too large");
    /// A large body on a request that needs none.
    body_too_large(413, "body-too-large", "The body is too large");
    /// The body is neither JSON nor text.
    unsupported_media_type(415, "unsupported-media-type", "The content type is not supported");
    /// Another order has the same customer and order number.
    order_conflict(409, "order-conflict", "Another order has this orderId");
    /// Another order was sent under the same `Idempotency-Key`.
    idempotency_key_reused(422, "idempotency-key-reused", "The Idempotency-Key was used for another order");
    /// The order has ended, and cannot be cancelled any more.
    order_ended(409, "order-ended", "The order has ended");
    /// The query has mistakes.
    invalid_query(400, "invalid-query", "The query is not valid");
    /// No page of orders has this cursor.
    page_not_found(404, "page-not-found", "There is no such page");
    /// There is no such order, or not for this caller.
    order_not_found(404, "order-not-found", "There is no such order");
    /// This caller asks too often.
    rate_limited(429, "rate-limited", "Too many requests");
    /// The queue is so long that a new order would be processed too late.
    too_many_waiting(503, "too-many-waiting", "Too many orders are waiting");
    /// Orders cannot be recorded or read for a while.
    store_unavailable(503, "store-unavailable", "Orders cannot be recorded at the moment");
    /// Tokens cannot be checked for a while.
    auth_unavailable(503, "auth-unavailable", "Tokens cannot be checked at the moment");
}

impl Problem {
    /// The store does not answer, on a request that submits no order.
    pub fn unavailable(detail: &str) -> Self {
        Self { retry_after: Some(5), ..Self::store_unavailable(detail) }
    }

    /// The store did not confirm the order, which may be recorded.
    pub fn may_be_recorded() -> Self {
        let detail = "the order may have been accepted; send the same request again to find out";
        Self { outcome: Some(Outcome::Unknown), ..Self::unavailable(detail) }
    }

    /// This request recorded no order. An earlier request with the same key may have recorded one.
    pub fn nothing_recorded() -> Self {
        Self { outcome: Some(Outcome::Unknown), ..Self::unavailable("this request recorded nothing; send it again") }
    }

    /// The same problem after the store was read and has no such order.
    #[must_use]
    pub fn not_accepted(self) -> Self {
        Self { outcome: self.outcome.map(|_| Outcome::NotAccepted), ..self }
    }

    /// The order has ended with this status and cannot be cancelled.
    pub fn ended(status: Status) -> Self {
        Self { order_status: Some(status), ..Self::order_ended(format!("the order is {} and stays so", status.as_str())) }
    }

    /// The issuer of tokens does not answer.
    pub fn issuer_away(outcome: Option<Outcome>) -> Self {
        Self { outcome, retry_after: Some(5), ..Self::auth_unavailable("send the same request again") }
    }
}
