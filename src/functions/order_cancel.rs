//! `OrderCancel`: cancels an order for its owner.

use std::sync::Arc;
use std::time::Duration;

use tracing::error;

use crate::domain::lifecycle::{self, Cancel};
use crate::domain::problem::{ASK_AGAIN, Problem};
use crate::domain::record::Record;
use crate::domain::tracking::TrackingId;
use crate::door::caller::{self, Right};
use crate::envelope::{HttpRequest, Response};
use crate::functions::app::App;
use crate::functions::completion_times;
use crate::functions::invocation::Invocation;
use crate::functions::reply::{self, Conclusion};
use crate::functions::shown;
use crate::functions::told;
use crate::functions::{self};
use crate::store::{Replaced, StatusStore, StoreError, Versioned};

/// Attempts to write, each after another request changed the record; an order's worker writes a few times a minute.
const ATTEMPTS: u32 = 20;
/// Pause before the second attempt; it grows by the same amount each time.
const PAUSE: Duration = Duration::from_millis(10);

/// Takes a tracking id, records the end or the request to cancel, answers with the order's status.
pub async fn run(app: Arc<App>, invocation: Invocation) -> Conclusion {
    let request = match invocation.http_request() {
        Ok(request) => request,
        Err(conclusion) => return conclusion,
    };
    let tracking_id = request.param("trackingId").and_then(TrackingId::parse);
    let response = match caller::identify(&app.callers, &request, Right::Submit).await {
        Ok(caller) => app.limited(&request, &caller.owner, cancel(&app, &request, &caller.owner, tracking_id)).await,
        Err(problem) => reply::problem(&problem),
    };
    Conclusion::respond(&request, response).about(tracking_id)
}

async fn cancel(app: &App, request: &HttpRequest<'_>, owner: &str, tracking_id: Option<TrackingId>) -> Result<Response, Problem> {
    // The page of an order cancels it at the URL that it was opened with.
    shown::only_known_query(request, &[shown::BOOKMARK])?;
    let missing = || shown::missing(request, tracking_id, app.config.gateway_owner.is_some());
    let tracking_id = tracking_id.ok_or_else(missing)?;
    let store = app.store_for_customer().await.ok_or_else(|| Problem::unavailable(ASK_AGAIN))?;
    let failed = |store_error: StoreError| {
        error!(order.tracking_id = %tracking_id, error = %store_error, "an order could not be cancelled");
        match store_error {
            StoreError::NotApplied => Problem::unavailable(ASK_AGAIN),
            StoreError::Unknown | StoreError::Unreadable(_) | StoreError::Newer(_) => Problem::unavailable(NOT_KNOWN),
        }
    };
    for attempt in 0..ATTEMPTS {
        tokio::time::sleep(PAUSE * attempt).await;
        let Some(found) = own(store, tracking_id, owner).await.map_err(failed)? else { return Err(missing()) };
        let record = match lifecycle::cancel(&found.record, store.now(), &app.config.budgets) {
            Cancel::Cancelled => return Ok(shown::status(200, &found.record)),
            Cancel::Requested => return Ok(requested(app, request, &found.record)),
            Cancel::Ended => return Err(Problem::ended(found.record.status)),
            Cancel::End(record) | Cancel::Request(record) => record,
        };
        if store.replace(&record, &found.etag).await.map_err(failed)? == Replaced::Stale {
            continue;
        }
        if record.status.is_terminal() {
            functions::ended(app, &record);
            return Ok(shown::status(200, &record));
        }
        told::transition(&record, "cancellation requested");
        return Ok(requested(app, request, &record));
    }
    Err(Problem { retry_after: Some(1), ..Problem::store_unavailable("the order is changing too fast; send the request again") })
}

/// The latest version of the owner's record. An operator's token may read the orders of other owners, but not change them. Another
/// owner's record takes the same reads as a missing one: the time of an answer must not tell them apart.
async fn own(store: &StatusStore, tracking_id: TrackingId, owner: &str) -> Result<Option<Versioned>, StoreError> {
    let found = store.read_latest_once(tracking_id).await?.map(|(found, _)| found);
    let is_anothers = found.is_some();
    let own = |found: Option<Versioned>| found.filter(|found| found.record.owner == owner);
    if let Some(found) = own(found) {
        return Ok(Some(found));
    }
    if !store.may_lag() {
        return Ok(None);
    }
    store.read_latest(if is_anothers { tracking_id.unused() } else { tracking_id }).await.map(own)
}

/// The detail of a problem when the store did not confirm the write.
const NOT_KNOWN: &str = "it is not known whether the order was cancelled; send the same request again to find out";

/// The answer while the order's worker has not yet seen the request to cancel.
fn requested(app: &App, request: &HttpRequest<'_>, record: &Record) -> Response {
    let orders = shown::orders_url(app.config.public_base_url.as_deref(), &request.url, 1);
    let mut response = shown::status(202, record);
    reply::set_header(&mut response, "Location", format!("{orders}/{}/status", record.tracking_id));
    let now = app.store.get().map_or(record.updated_at, StatusStore::now);
    let next_look = app.estimate().next_look(record, now);
    // Work that can be interrupted ends at the worker's next renewal of the lease, which sees the request.
    let seen = if app.fulfillment.can_break_off() { app.config.lease_renewal() } else { next_look };
    response.headers.extend(completion_times::retry_after(next_look.min(seen)));
    response
}
