//! The handler's routes: one warp filter per function, and the probes.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use serde_json::json;
use tokio::runtime::Handle;
use tracing::{Instrument, warn};
use warp::filters::BoxedFilter;
use warp::http::header::CONTENT_TYPE;
use warp::http::{HeaderValue, StatusCode};
use warp::reply::Response;
use warp::{Filter, Rejection};

use crate::functions::app::App;
use crate::functions::invocation::Invocation;
use crate::functions::reply::Conclusion;
use crate::functions::span;
use crate::functions::{
    doctor, health, open_api, order_cancel, order_dead_letter, order_ingress, order_list, order_processor, order_status, order_sweeper,
};
use crate::metrics::{METRICS, prometheus};

/// The functions that the handler serves, in the order of their names.
pub const FUNCTIONS: [&str; 11] = [
    "Doctor",
    "Health",
    "OpenApi",
    "OrderCancel",
    "OrderDeadLetter",
    "OrderIngress",
    "OrderList",
    "OrderProcessor",
    "OrderShow",
    "OrderStatus",
    "OrderSweeper",
];

/// Every route of the handler.
pub fn routes(app: Arc<App>) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    // warp tries the filters in this order: the functions called most are first. The others are boxed, since each `or` makes the type, and
    // with it the future of every request, larger.
    function("OrderStatus", &app, order_status::run)
        .or(lasting_function("OrderIngress", &app, order_ingress::run))
        .unify()
        .or(lasting_function("OrderProcessor", &app, order_processor::run))
        .unify()
        .or(seldom_called(app))
        .unify()
        .recover(rejected)
        .unify()
}

fn seldom_called(app: Arc<App>) -> BoxedFilter<(Response,)> {
    // A function has one route, and an order has two URLs: its own, and that of its status.
    function("OrderShow", &app, order_status::run)
        .or(function("OrderList", &app, order_list::run))
        .unify()
        .or(function("OrderCancel", &app, order_cancel::run))
        .unify()
        .or(function("OpenApi", &app, open_api::run))
        .unify()
        .or(function("Health", &app, health::run))
        .unify()
        .or(function("Doctor", &app, doctor::run))
        .unify()
        .or(function("OrderDeadLetter", &app, order_dead_letter::run))
        .unify()
        .or(lasting_function("OrderSweeper", &app, order_sweeper::run))
        .unify()
        .or(probe())
        .unify()
        .or(healthz())
        .unify()
        .or(readyz(app))
        .unify()
        .or(metrics())
        .unify()
        .boxed()
}

/// POST /`name`: a function that ends when its connection breaks.
fn function<F, A>(name: &'static str, app: &Arc<App>, run: F) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<F, A>
where
    F: Fn(Arc<App>, Invocation) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Conclusion> + Send + 'static,
{
    let app = Arc::clone(app);
    warp::path(name)
        .and(warp::path::end())
        .and(invocation())
        .then(move |invocation| respond(name, Arc::clone(&app), invocation, run.clone()))
}

/// POST /`name`: a function that goes on when its connection breaks. Otherwise hyper drops its future: interrupted work would keep its
/// lease, and the result of a write would be lost.
fn lasting_function<F, A>(
    name: &'static str,
    app: &Arc<App>,
    run: F,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<F, A>
where
    F: Fn(Arc<App>, Invocation) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Conclusion> + Send + 'static,
{
    let app = Arc::clone(app);
    warp::path(name).and(warp::path::end()).and(invocation()).then(move |invocation| {
        let running = app.running.enter();
        let answer = respond(name, Arc::clone(&app), invocation, run.clone());
        Lasting(Some(Box::pin(async move {
            let _running = running;
            answer.await
        })))
    })
}

/// Runs a function, writes its log line, and makes the answer to the host.
async fn respond<A: Future<Output = Conclusion>>(
    name: &'static str,
    app: Arc<App>,
    invocation: Invocation,
    run: impl FnOnce(Arc<App>, Invocation) -> A,
) -> Response {
    let (id, started) = (invocation.id.clone(), invocation.started);
    let span = span::of(name, &invocation);
    let conclusion = run(app, invocation).instrument(span.clone()).await;
    span::end(&span, &conclusion);
    let took = started.elapsed();
    conclusion.measure(name, took);
    span.in_scope(|| conclusion.log(name, &id, took));
    match conclusion.answer {
        Ok(answer) => {
            let mut response = Response::new(Bytes::from(answer.to_json()).into());
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(refusal) => plain(refusal.status, "the invocation failed; see the handler's log\n"),
    }
}

/// A future that continues in its own task when it is dropped with its connection.
struct Lasting(Option<Pin<Box<dyn Future<Output = Response> + Send>>>);

impl Future for Lasting {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Response> {
        // Taken out while polled, so that a future that panics is not continued.
        let Some(mut answer) = self.0.take() else { return Poll::Pending };
        let polled = answer.as_mut().poll(context);
        if polled.is_pending() {
            self.0 = Some(answer);
        }
        polled
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        if let (Some(answer), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(answer);
        }
    }
}

/// GET / — the host's readiness probe and its periodic ping; the host ignores the answer (docs/functions-host.md, readiness).
fn probe() -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path::end().and(warp::get()).map(|| plain(StatusCode::OK, ""))
}

/// GET /healthz — the process is alive.
fn healthz() -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path!("healthz").and(warp::get()).map(|| json_response(StatusCode::OK, &json!({ "status": "alive" })))
}

/// GET /readyz — the store answers and takes writes.
fn readyz(app: Arc<App>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path!("readyz").and(warp::get()).then(move || {
        let app = Arc::clone(&app);
        async move {
            let (status, mut body) = match app.probe_store().await {
                Ok(figures) => (StatusCode::OK, json!({ "status": "ready", "store": figures })),
                Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, json!({ "status": "not ready", "reason": reason })),
            };
            app.add_figures(&mut body);
            json_response(status, &body)
        }
    })
}

/// GET /metrics — what this process counts and measures, for Prometheus.
fn metrics() -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path!("metrics").and(warp::get()).map(|| {
        let mut response = Response::new(prometheus::text(&METRICS.read()).into());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(prometheus::CONTENT_TYPE));
        response
    })
}

fn invocation() -> impl Filter<Extract = (Invocation,), Error = Rejection> + Copy {
    warp::post()
        .and(warp::header::optional::<String>("x-azure-functions-invocationid"))
        .and(warp::header::optional::<String>("traceparent"))
        .and(warp::body::stream())
        .then(Invocation::receive)
}

async fn rejected(rejection: Rejection) -> Result<Response, Infallible> {
    let status = if rejection.is_not_found() {
        StatusCode::NOT_FOUND
    } else if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        StatusCode::METHOD_NOT_ALLOWED
    } else {
        StatusCode::BAD_REQUEST
    };
    warn!(http.status = status.as_u16(), "a request to an unknown function; the host calls POST /{{Function}}");
    Ok(json_response(status, &json!({ "title": "there is no such function", "status": status.as_u16() })))
}

fn plain(status: StatusCode, body: &'static str) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
}

fn json_response(status: StatusCode, body: &serde_json::Value) -> Response {
    let mut response = Response::new(body.to_string().into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Function, Receiver};

    #[test]
    fn every_function_is_measured() {
        for name in FUNCTIONS {
            assert!(Function::of(name).is_some() != Receiver::of(name).is_some(), "{name}");
        }
    }
}
