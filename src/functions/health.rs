//! `Health`: whether this app can keep its promise now, for probes of App Service, Front Door and API Management.
//!
//! Anyone may ask, and any number of times: the store is asked once a second at most. An operator also gets the figures.

use std::sync::Arc;

use serde_json::json;

use crate::door::caller::{self, Right};
use crate::envelope::{Answer, HttpRequest};
use crate::functions::app::App;
use crate::functions::invocation::Invocation;
use crate::functions::reply::{self, Conclusion};

/// Seconds after which a probe that got a 503 may ask again.
const AGAIN: &str = "1";

/// Answers 200 or 503.
pub async fn run(app: Arc<App>, invocation: Invocation) -> Conclusion {
    let request = match invocation.http_request() {
        Ok(request) => request,
        Err(conclusion) => return conclusion,
    };
    let store = app.probe_store_lately().await;
    let status = if store.is_some() { 200 } else { 503 };
    let mut body = json!({ "status": if store.is_some() { "ready" } else { "not ready" } });
    if is_operator(&app, &request).await {
        body["store"] = store.unwrap_or_default();
        app.add_figures(&mut body);
    }
    let headers = if status == 200 { Vec::new() } else { vec![("Retry-After", AGAIN.into())] };
    Conclusion::new(Ok(Answer::respond(reply::json(status, headers, &body))))
}

/// Whether the caller's token has the operator's role (`AUTH_OPERATOR_ROLE`).
async fn is_operator(app: &App, request: &HttpRequest<'_>) -> bool {
    caller::identify(&app.callers, request, Right::Read).await.is_ok_and(|caller| caller.operator)
}
