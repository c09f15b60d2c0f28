//! `OrderStatus` and `OrderShow`: answers an order's status, at once or when it changes.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::error;

use crate::domain::bookmark::Bookmark;
use crate::domain::problem::{ASK_AGAIN, Problem};
use crate::domain::record::Record;
use crate::domain::tracking::TrackingId;
use crate::door::caller::{self, Caller, Right};
use crate::door::rate_key::RateKey;
use crate::envelope::{HttpRequest, Response};
use crate::functions::app::App;
use crate::functions::completion_times;
use crate::functions::invocation::Invocation;
use crate::functions::page;
use crate::functions::reply::{self, Conclusion};
use crate::functions::shown;
use crate::store::{StatusStore, StoreError, Versioned};

/// Longest wait for a change, in seconds: proxies close connections that are silent for longer.
const MAX_WAIT: u64 = 30;

/// Takes a tracking id, reads its record, answers with the parts that its owner may see.
pub async fn run(app: Arc<App>, invocation: Invocation) -> Conclusion {
    let request = match invocation.http_request() {
        Ok(request) => request,
        Err(conclusion) => return conclusion,
    };
    let tracking_id = request.param("trackingId").and_then(TrackingId::parse);
    let is_page = page::is_wanted(&request);
    let answer = async {
        let caller = caller::identify(&app.callers, &request, Right::Read).await?;
        let found = look_up(&app, &request, &caller, tracking_id).await?;
        Ok(if is_page { as_page(&app, &found.record) } else { status(&app, &request, &caller.owner, found).await })
    };
    let mut response = match answer.await {
        Ok(response) => response,
        Err(problem) if is_page => page::of_problem(&problem),
        Err(problem) => reply::problem(&problem),
    };
    reply::set_header(&mut response, "Vary", "Accept".into());
    Conclusion::respond(&request, response).about(tracking_id)
}

/// The order's status for the person who opened its link.
fn as_page(app: &App, record: &Record) -> Response {
    // The store's clock: the store is open, since it has answered.
    let now = app.store.get().map_or(record.updated_at, StatusStore::now);
    let version = shown::status(200, record);
    let etag = version.headers.iter().find(|(name, _)| *name == "ETag").map_or("", |(_, value)| value.as_str());
    page::of_order(record, etag, now, app.estimate().next_look(record, now))
}

/// The order's status, after the wait that the client asked for.
async fn status(app: &App, request: &HttpRequest<'_>, owner: &str, found: Arc<Versioned>) -> Response {
    let known: Vec<&str> = request.header("if-none-match").collect();
    // `If-None-Match: *` matches every version, so there is no change to wait for.
    let knows_all = known.iter().any(|tags| tags.trim() == "*");
    let wait = preferred_wait(request.header("prefer")).filter(|_| !found.record.status.is_terminal() && !knows_all);
    let mut response = shown::status(200, &found.record);
    let mut record = Arc::clone(&found);
    let mut applied = None;
    if let Some(seconds) = wait
        && let Some(store) = app.store.get()
        && (known.is_empty() || knows(&known, &response))
    {
        let end = Instant::now() + Duration::from_secs(seconds);
        // With an ETag the request waits for any other version; without one for another status or attempt, not for each percent.
        let (status, attempt) = (found.record.status, found.record.attempt);
        let matters = |now: &Versioned| {
            if known.is_empty() {
                now.record.status != status || now.record.attempt != attempt
            } else {
                now.etag != found.etag && !knows(&known, &shown::status(200, &now.record))
            }
        };
        let key = RateKey::of(request, owner, &app.config.limits).digest();
        if let Some(latest) = app.watchers.wait(store, &app.stopping, key, Arc::clone(&found), end, matters).await {
            response = shown::status(200, &latest.record);
            record = latest;
            applied = Some(seconds);
        }
    }
    if knows(&known, &response) {
        // The type of the content stays: the host would call a response without one text/plain, and caches would believe it.
        response.status_code = 304;
        response.body.clear();
    }
    if !record.record.status.is_terminal() {
        // The store's clock: the store is open, since it has answered.
        let now = app.store.get().map_or(record.record.updated_at, StatusStore::now);
        response.headers.extend(completion_times::retry_after(app.estimate().next_look(&record.record, now)));
    }
    if let Some(seconds) = applied {
        reply::set_header(&mut response, "Preference-Applied", format!("wait={seconds}"));
    }
    response
}

/// Whether `If-None-Match` matches this response (RFC 9110 section 13.1.2). Weak tags match too, since proxies weaken tags.
fn knows(known: &[&str], response: &Response) -> bool {
    let etag = response.headers.iter().find(|(name, _)| *name == "ETag").map(|(_, value)| value.as_str());
    let mut tags = known.iter().flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || Some(tag.strip_prefix("W/").unwrap_or(tag)) == etag)
}

/// The seconds of `Prefer: wait=N` (RFC 7240 section 4.3), at most [`MAX_WAIT`]. The first `wait` counts; a malformed one is ignored.
fn preferred_wait<'r>(values: impl Iterator<Item = &'r str>) -> Option<u64> {
    let mut preferences = values.flat_map(list_members).filter_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim())
    });
    let unquoted = |value: &'r str| value.strip_prefix('"').map_or(Some(value), |rest| rest.strip_suffix('"'));
    let digits = preferences.next().and_then(unquoted).filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some(digits.parse().unwrap_or(MAX_WAIT).min(MAX_WAIT)).filter(|seconds| *seconds > 0)
}

/// The members of a list header: separated by commas outside quoted strings (RFC 9110 section 5.6).
fn list_members(value: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    value.split(move |letter| {
        let separates = letter == ',' && !quoted;
        quoted ^= letter == '"' && !escaped;
        escaped = letter == '\\' && quoted && !escaped;
        separates
    })
}

async fn look_up(
    app: &App,
    request: &HttpRequest<'_>,
    caller: &Caller,
    tracking_id: Option<TrackingId>,
) -> Result<Arc<Versioned>, Problem> {
    shown::only_known_query(request, &[shown::BOOKMARK])?;
    let missing = || shown::missing(request, tracking_id, app.config.gateway_owner.is_some());
    let tracking_id = tracking_id.ok_or_else(missing)?;
    let store = app.store_for_customer().await.ok_or_else(|| Problem::unavailable(ASK_AGAIN))?;
    let bookmark = request.query(shown::BOOKMARK).and_then(|sealed| Bookmark::open(sealed, store.tracking_key(), tracking_id));
    let caller_key = || RateKey::of(request, &caller.owner, &app.config.limits).digest();
    find(app, store, caller_key, caller, tracking_id, bookmark).await?.ok_or_else(missing)
}

/// The record, if the caller may see it. Where reads may lag, a missing record is read again until it is visible or certainly absent.
/// Each such request holds a connection, and any client can invent tracking ids, so without a free slot the request is answered 503.
/// Another owner's record takes the same reads as a missing one: the time of an answer must not tell them apart.
async fn find(
    app: &App,
    store: &StatusStore,
    caller_key: impl Fn() -> [u8; 16],
    caller: &Caller,
    tracking_id: TrackingId,
    bookmark: Option<Bookmark>,
) -> Result<Option<Arc<Versioned>>, Problem> {
    let unread = |error: StoreError| {
        error!(order.tracking_id = %tracking_id, %error, "a record could not be read");
        Problem::unavailable(ASK_AGAIN)
    };
    let found = store.read_recent(tracking_id).await.map_err(unread)?;
    let is_anothers = found.is_some();
    let visible = |found: Option<Arc<Versioned>>| found.filter(|found| caller.may_see(&found.record.owner));
    if let Some(found) = visible(found) {
        return Ok(Some(found));
    }
    if !store.may_lag() {
        return Ok(None);
    }
    let (tracking_id, bookmark) = if is_anothers { (tracking_id.unused(), None) } else { (tracking_id, bookmark) };
    let _place = app.visibility_slots.take(caller_key()).ok_or_else(|| Problem::unavailable(ASK_AGAIN))?;
    store.read_until_visible(tracking_id, bookmark).await.map_err(unread).map(visible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wait_preference_counts_and_a_malformed_one_is_ignored() {
        for (values, expected) in [
            (&["wait=10"][..], Some(10)),
            (&["respond-async, Wait = 5; x=y"], Some(5)),
            (&["return=minimal", "wait=7, wait=9"], Some(7)),
            (&["wait=\"3\""], Some(3)),
            (&["wait=600"], Some(30)),
            (&["wait=99999999999999999999999"], Some(30)),
            (&["wait=0"], None),
            (&["wait"], None),
            (&["wait=-1"], None),
            (&["wait=1.5"], None),
            (&["waiting=5"], None),
            (&["x=\"a,wait=5\""], None),
            (&["x=\"a\\\",wait=5\""], None),
            (&["x=\"a\", wait=5"], Some(5)),
            (&["wait=\"5"], None),
            (&[], None),
        ] {
            assert_eq!(preferred_wait(values.iter().copied()), expected, "{values:?}");
        }
    }
}
