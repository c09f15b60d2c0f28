//! `OrderCancel`: its owner does not want an order any more.

use std::sync::Arc;
use std::time::Duration;

use tracing::error;

use crate::domain::lifecycle::{self, Cancel, Record};
use crate::domain::problem::{ASK_AGAIN, Problem};
use crate::domain::tracking::TrackingId;
use crate::door::caller::{self, Right};
use crate::envelope::{Answer, HttpRequest, Response};
use crate::functions::app::App;
use crate::functions::durations;
use crate::functions::invocation::Invocation;
use crate::functions::reply::{self, Conclusion};
use crate::functions::shown;
use crate::functions::{self};
use crate::store::{Replaced, StatusStore, StoreError};

/// So often somebody else may have written in between; its worker writes a few times a minute.
const LOOKS: u32 = 20;
/// After each of them, once more.
const PAUSE: Duration = Duration::from_millis(10);

/// Takes a tracking id, writes the end or the wish, answers with the order as it is then.
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
    Conclusion::new(Ok(Answer::respond(response))).about(tracking_id)
}

async fn cancel(app: &App, request: &HttpRequest<'_>, owner: &str, tracking_id: Option<TrackingId>) -> Result<Response, Problem> {
    let missing = || shown::missing(request, tracking_id);
    let tracking_id = tracking_id.ok_or_else(missing)?;
    let store = app.store_for_customer().await.ok_or_else(|| Problem::unavailable(ASK_AGAIN))?;
    let failed = |store_error: StoreError| {
        error!(order.tracking_id = %tracking_id, error = %store_error, "an order could not be cancelled");
        match store_error {
            StoreError::NotApplied => Problem::unavailable(ASK_AGAIN),
            StoreError::Unknown | StoreError::Unreadable(_) => Problem::unavailable(NOT_KNOWN),
        }
    };
    for look in 0..LOOKS {
        tokio::time::sleep(PAUSE * look).await;
        let found = store.read_latest(tracking_id).await.map_err(failed)?;
        // An operator sees the orders of others, and leaves them alone.
        let Some(found) = found else { return Err(missing()) };
        if found.record.owner != owner {
            // Answered as one that is not there, and as late.
            drop(store.read_latest(tracking_id.unused()).await);
            return Err(missing());
        }
        let (record, text) = match lifecycle::cancel(&found.record, store.now(), &app.config.budgets) {
            Cancel::Cancelled => return Ok(shown::status(200, &found.record)),
            Cancel::Requested => return Ok(requested(app, request, &found.record)),
            Cancel::Ended => return Err(Problem::ended(found.record.status)),
            Cancel::End(record) => (record, functions::ended_text(&found.record)),
            Cancel::Request(record) => (record, "cancellation requested"),
        };
        if store.replace(&record, &found.etag).await.map_err(failed)? == Replaced::Stale {
            continue;
        }
        if record.status.is_terminal() {
            functions::log_transition(&record, functions::ended_text(&record));
            return Ok(shown::status(200, &record));
        }
        functions::log_transition(&record, text);
        return Ok(requested(app, request, &record));
    }
    Err(Problem { retry_after: Some(1), ..Problem::store_unavailable("the order changes too often at the moment; send the request again") })
}

/// What is told when the answer of the store is lost.
const NOT_KNOWN: &str = "it is not known whether the order was cancelled; send the same request again to find out";

/// Its worker is to see the wish.
fn requested(app: &App, request: &HttpRequest<'_>, record: &Record) -> Response {
    let orders = shown::orders_url(app.config.public_base_url.as_deref(), &request.url, 1);
    let mut response = shown::status(202, record);
    reply::set_header(&mut response, "Location", format!("{orders}/{}/status", record.tracking_id));
    let now = app.store.get().map_or(record.updated_at, StatusStore::now);
    let next_look = app.estimate().next_look(record, now);
    // Work that can be broken off ends when its worker sees the wish.
    let seen = if app.fulfillment.can_break_off() { app.config.lease_renewal } else { next_look };
    response.headers.extend(durations::retry_after(next_look.min(seen)));
    response
}
