//! An order as its owner may see it: no lease, no fence, no owner.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::domain::lifecycle::{Failure, Record, Status, Transition};
use crate::domain::problem::Problem;
use crate::domain::timestamp::Timestamp;
use crate::domain::tracking::TrackingId;
use crate::envelope::{HttpRequest, Response};
use crate::functions::reply;

/// Name of the bookmark in the query of a status URL.
pub const BOOKMARK: &str = "seen";
/// Bytes of a hash that make an `ETag`: two versions of one order are never taken for the same.
const ETAG: usize = 16;

/// The status of an order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OrderStatus)]
pub struct Shown<'a> {
    tracking_id: TrackingId,
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
    #[schema(required)]
    started_at: Option<Timestamp>,
    updated_at: Timestamp,
    #[schema(required)]
    completed_at: Option<Timestamp>,
    /// Its owner wishes it cancelled, and somebody still works on it; absent otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    cancel_requested: bool,
    /// What the work made of it; any JSON, with a completed order.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    result: Option<&'a RawValue>,
    /// With a failed order.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a Failure>,
    /// Why the last try failed, while another is to come.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<&'a Failure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<Timestamp>,
    /// Oldest first; of very many the first and the latest.
    history: &'a [Transition],
}

impl<'a> Shown<'a> {
    /// What may be seen of a record.
    pub fn of(record: &'a Record) -> Self {
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
            cancel_requested: record.cancel_requested,
            result: record.result.as_deref(),
            error: record.error.as_ref().filter(|_| record.status.is_terminal()),
            last_error: record.error.as_ref().filter(|_| !record.status.is_terminal()),
            next_attempt_at: record.retry_at,
            history: &record.history,
        }
    }

    /// As an answer that may be kept by its owner and is asked for again with its `ETag` (RFC 9110 section 8.8.3).
    pub fn response(&self, status_code: u16) -> Response {
        let mut response = reply::json(status_code, Vec::new(), self);
        let hash = Sha256::digest(response.body.as_bytes());
        reply::set_header(&mut response, "Cache-Control", "private, no-cache".into());
        reply::set_header(&mut response, "ETag", format!("\"{}\"", URL_SAFE_NO_PAD.encode(&hash[..ETAG])));
        response
    }
}

/// There is no order of this id, or not for this caller.
pub fn missing(request: &HttpRequest<'_>, tracking_id: Option<TrackingId>) -> Problem {
    let asked = request.param("trackingId").unwrap_or_default();
    Problem::order_not_found(if tracking_id.is_some() {
        "no order has this tracking id; records of ended orders are kept for a limited time"
    } else if asked.is_empty() {
        "ask for orders/{trackingId}/status"
    } else {
        "this is not a tracking id; use the statusUrl of the 202 as it stands"
    })
}

/// Where the orders are, as the client knows it: below `PUBLIC_BASE_URL` when that is set, else the URL the client used, which is the
/// public one in Azure, without its last `segments`. Its query is dropped: it may hold a function key.
pub fn orders_url(public_base_url: Option<&str>, request_url: &str, segments: usize) -> String {
    if let Some(base) = public_base_url {
        return format!("{base}/orders");
    }
    let url = request_url.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let orders = (0..segments).try_fold(url, |url, _| url.rsplit_once('/').map(|(above, _)| above));
    // A header value must be visible ASCII, or the host answers 500 after the message is sent.
    orders.filter(|url| url.bytes().all(|byte| byte.is_ascii_graphic())).unwrap_or("/api/orders").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_where_the_client_found_them_and_no_query_is_kept() {
        let cases = [
            (None, "https://shop.example.com/api/orders?code=SECRET", 0, "https://shop.example.com/api/orders"),
            (None, "http://localhost:7071/api/orders/", 0, "http://localhost:7071/api/orders"),
            (None, "http://localhost:7071/api/Orders/ABC", 1, "http://localhost:7071/api/Orders"),
            (None, "http://localhost:7071/api/orders/%41bc/?x=/y", 1, "http://localhost:7071/api/orders"),
            (Some("https://a.example/x"), "http://inner/api/orders", 0, "https://a.example/x/orders"),
            (None, "http://h\u{e9}/api/orders", 0, "/api/orders"),
        ];
        for (base, url, segments, expected) in cases {
            assert_eq!(orders_url(base, url, segments), expected);
        }
    }
}
