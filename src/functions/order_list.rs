//! `OrderList`: the caller's own orders, newest first.

use std::fmt::Write;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tracing::error;

use crate::domain::problem::{ASK_AGAIN, Problem};
use crate::domain::timestamp::Timestamp;
use crate::domain::tracking::{TrackingId, TrackingKey};
use crate::door::caller::{self, ANONYMOUS, Right};
use crate::envelope::{HttpRequest, Response};
use crate::functions::app::App;
use crate::functions::contract::{ListedOrder, OrderList};
use crate::functions::invocation::Invocation;
use crate::functions::reply::{self, Conclusion};
use crate::functions::shown;
use crate::store::Place;

/// Orders in a page if the request names no `limit`.
const DEFAULT_LIMIT: usize = 20;
/// Most orders in a page.
const MAX_LIMIT: usize = 100;
/// Bytes of a cursor's seal.
const SEAL: usize = 8;

/// Reads a page of orders.
pub async fn run(app: Arc<App>, invocation: Invocation) -> Conclusion {
    let request = match invocation.http_request() {
        Ok(request) => request,
        Err(conclusion) => return conclusion,
    };
    let response = match caller::identify(&app.callers, &request, Right::Read).await {
        Ok(caller) => app.limited(&request, &caller.owner, list(&app, &request, &caller.owner)).await,
        Err(problem) => reply::problem(&problem),
    };
    Conclusion::respond(&request, response)
}

async fn list(app: &App, request: &HttpRequest<'_>, owner: &str) -> Result<Response, Problem> {
    if owner == ANONYMOUS && !app.config.anonymous_list {
        return Err(Problem::callers_not_identified(NO_LIST));
    }
    shown::only_known_query(request, &["status", "limit", "cursor"])?;
    let status = request.query("status").map(|text| text.parse().map_err(|()| Problem::invalid_query(STATUSES))).transpose()?;
    let limit = request.query("limit").map_or(Ok(DEFAULT_LIMIT), |text| {
        let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let limit = digits.and_then(|digits| digits.parse().ok()).filter(|limit| (1..=MAX_LIMIT).contains(limit));
        limit.ok_or_else(|| Problem::invalid_query(format!("limit must be a whole number from 1 to {MAX_LIMIT}")))
    })?;
    let store = app.store_for_customer().await.ok_or_else(|| Problem::unavailable(ASK_AGAIN))?;
    let key = store.tracking_key();
    let open = |text| {
        open(text, key, owner)
            .ok_or_else(|| Problem::page_not_found("use the `next` of the page before as it stands, or leave the cursor out to begin"))
    };
    let behind = request.query("cursor").map(open).transpose()?;
    let page = store.page(owner, status, behind, limit).await.map_err(|store_error| {
        error!(error = %store_error, "orders could not be listed");
        Problem::unavailable(ASK_AGAIN)
    })?;

    let url = shown::orders_url(app.config.public_base_url.as_deref(), &request.url, 0);
    let next_cursor = page.next.map(|place| seal(place, key, owner));
    let next = next_cursor.as_ref().map(|cursor| {
        let mut next = format!("{url}?limit={limit}");
        if let Some(status) = status {
            let _ = write!(next, "&status={}", status.as_str());
        }
        let _ = write!(next, "&cursor={cursor}");
        next
    });
    let orders = page.records.iter().map(|record| ListedOrder::of(record, &url)).collect();
    Ok(reply::json(200, Vec::new(), &OrderList { orders, next, next_cursor }))
}

/// The detail of a problem with a list for every caller. Its tracking ids would let each caller read and cancel the orders of all.
const NO_LIST: &str = "nothing tells the callers of this service apart, so it lists no orders; keep the statusUrl of each 202. Its \
                       operator can set AUTH_ISSUER, turn on the platform's login, give each caller a function key of its own, or set \
                       ANONYMOUS_LIST=true where all callers are one";
/// The detail of a problem with `status`.
const STATUSES: &str = "status must be accepted, processing, completed, failed or cancelled";

/// The cursor of a place: sealed for one owner.
fn seal(place: Place, key: &TrackingKey, owner: &str) -> String {
    let mut bytes = place.submitted_at.as_milliseconds().to_be_bytes().to_vec();
    bytes.extend_from_slice(place.tracking_id.as_bytes());
    let code = key.authenticate(&parts(owner, &bytes));
    bytes.extend_from_slice(&code[..SEAL]);
    URL_SAFE_NO_PAD.encode(bytes)
}

fn open(text: &str, key: &TrackingKey, owner: &str) -> Option<Place> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (place, code) = bytes.split_at_checked(24)?;
    if code.len() != SEAL || !key.confirms(&parts(owner, place), code) {
        return None;
    }
    let (moment, id) = place.split_at(8);
    let submitted_at = Timestamp::from_milliseconds(i64::from_be_bytes(moment.try_into().ok()?));
    Some(Place { submitted_at, tracking_id: TrackingId::from_bytes(id.try_into().ok()?) })
}

fn parts(owner: &str, place: &[u8]) -> [Vec<u8>; 3] {
    [b"cursor".to_vec(), owner.as_bytes().to_vec(), place.to_vec()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_opens_for_its_owner_only() {
        let key = TrackingKey::new(vec![7; 32]).unwrap();
        let id = TrackingId::parse("0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10").unwrap();
        let place = Place { submitted_at: Timestamp::from_milliseconds(1_234_567_890_123), tracking_id: id };
        let sealed = seal(place, &key, "one");

        assert_eq!(open(&sealed, &key, "one"), Some(place));
        assert_eq!(open(&sealed, &key, "two"), None);
        assert_eq!(open(&sealed, &TrackingKey::new(vec![8; 32]).unwrap(), "one"), None);
        for wrong in ["", "x", "AAAA", &sealed[1..], &sealed[..sealed.len() - 2], &"A".repeat(2000)] {
            assert_eq!(open(wrong, &key, "one"), None, "{wrong}");
        }
    }
}
