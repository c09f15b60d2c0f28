//! Answers about one order: its status, the problem if there is none, and its URL.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::config;
use crate::domain::problem::Problem;
use crate::domain::record::Record;
use crate::domain::tracking::TrackingId;
use crate::envelope::{HttpRequest, Response};
use crate::functions::contract::OrderStatus;
use crate::functions::reply;

/// Name of the bookmark in the query of a status URL.
pub const BOOKMARK: &str = "seen";
/// Query parameters that the host or a gateway reads, in any case: keys of the function app and of API Management.
const KEYS: [&str; 3] = ["code", "clientId", "subscription-key"];
/// Characters of an unknown query parameter's name in a problem.
const MAX_NAME: usize = 64;
/// Bytes of the hash in an `ETag`: enough that no two versions of an order share one.
const ETAG: usize = 16;

/// The status of an order, in an answer that its owner may keep and ask for again with its `ETag` (RFC 9110 section 8.8.3).
pub fn status(status_code: u16, record: &Record) -> Response {
    let mut response = reply::json(status_code, Vec::new(), &OrderStatus::from(record));
    let hash = Sha256::digest(response.body.as_bytes());
    reply::set_header(&mut response, "Cache-Control", "private, no-cache".into());
    reply::set_header(&mut response, "ETag", format!("\"{}\"", URL_SAFE_NO_PAD.encode(&hash[..ETAG])));
    response
}

/// Seconds after which to ask again for an order that a gateway may have sent to the queue.
const ADOPTED: u32 = 5;

/// The problem when there is no order with this id, or not for this caller. `adopts`: an order that a gateway sent to the queue has a
/// record only when its message was delivered.
pub fn missing(request: &HttpRequest<'_>, tracking_id: Option<TrackingId>, adopts: bool) -> Problem {
    let asked = request.param("trackingId").unwrap_or_default();
    if tracking_id.is_some() && adopts {
        let detail = "no order has this tracking id; an order that the gateway sent to the queue is shown once a worker has taken it, and \
                      records of ended orders are kept for a limited time";
        return Problem { retry_after: Some(ADOPTED), ..Problem::order_not_found(detail) };
    }
    Problem::order_not_found(if tracking_id.is_some() {
        "no order has this tracking id; records of ended orders are kept for a limited time"
    } else if asked.is_empty() {
        "ask for orders/{trackingId}/status"
    } else {
        "this is not a tracking id; use the statusUrl of the 202 as it stands"
    })
}

/// Refuses a request with a query parameter that it does not take, or with one of its own twice: `?state=failed` would list every order.
pub fn only_known_query(request: &HttpRequest<'_>, known: &[&str]) -> Result<(), Problem> {
    let mut seen = Vec::new();
    for (name, _) in request.query_pairs() {
        if known.contains(&name) {
            if seen.contains(&name) {
                return Err(Problem::invalid_query(format!("send {name} once")));
            }
            seen.push(name);
        } else if !KEYS.iter().any(|key| name.eq_ignore_ascii_case(key)) {
            let name: String = if name.is_empty() { "a value without a name".into() } else { name.chars().take(MAX_NAME).collect() };
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Problem::invalid_query(format!("{name} is not a query parameter of this request; it takes {known}")));
        }
    }
    Ok(())
}

/// The client's URL of `/orders`: below `PUBLIC_BASE_URL` if it is set, else the requested URL without its last `segments`, which in
/// Azure is the public one. The query is dropped: it may hold a function key.
pub fn orders_url(public_base_url: Option<&str>, request_url: &str, segments: usize) -> String {
    if let Some(base) = public_base_url {
        return format!("{base}/orders");
    }
    let url = request_url.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let orders = (0..segments).try_fold(url, |url, _| url.rsplit_once('/').map(|(above, _)| above));
    // A header value must be visible ASCII, or the host answers 500 after the message is sent. A malformed `Host` leads nowhere.
    orders.filter(|url| config::is_web_url(url)).unwrap_or("/api/orders").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_orders_url_is_the_one_the_client_used_without_its_query() {
        let cases = [
            (None, "https://shop.example.com/api/orders?code=SECRET", 0, "https://shop.example.com/api/orders"),
            (None, "http://localhost:7071/api/orders/", 0, "http://localhost:7071/api/orders"),
            (None, "http://localhost:7071/api/Orders/ABC", 1, "http://localhost:7071/api/Orders"),
            (None, "http://localhost:7071/api/orders/%41bc/?x=/y", 1, "http://localhost:7071/api/orders"),
            (Some("https://a.example/x"), "http://inner/api/orders", 0, "https://a.example/x/orders"),
            (None, "http://h\u{e9}/api/orders", 0, "/api/orders"),
            (None, "http://a:b:c/api/orders", 0, "/api/orders"),
        ];
        for (base, url, segments, expected) in cases {
            assert_eq!(orders_url(base, url, segments), expected);
        }
    }
}
