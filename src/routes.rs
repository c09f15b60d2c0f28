//! The handler's routes: one warp filter a function, and what watches the handler itself.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use serde_json::json;
use tokio::runtime::Handle;
use tracing::warn;
use warp::http::StatusCode;
use warp::http::header::CONTENT_TYPE;
use warp::reply::Response;
use warp::{Filter, Rejection};

use crate::functions::{
    self, App, Conclusion, Refusal, open_api, order_cancel, order_dead_letter, order_ingress, order_list, order_processor, order_status,
    order_sweeper,
};
use crate::openapi;

/// An invocation larger than this is read to its end and thrown away: an order that fits the queue is far smaller, even
/// escaped inside the envelope and promoted into its metadata.
pub const MAX_INVOCATION: usize = 4 * 1024 * 1024;
/// Until the body of an invocation has arrived; it comes from the same machine.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);

/// One call of a function by the host.
#[derive(Debug)]
pub struct Invocation {
    /// `X-Azure-Functions-InvocationId`: what the host's own log calls it.
    pub id: String,
    /// When its head arrived.
    pub started: Instant,
    /// The envelope.
    pub body: InvocationBody,
}

/// What came with an invocation.
#[derive(Debug)]
pub enum InvocationBody {
    /// All of it.
    Whole(Bytes),
    /// More than [`MAX_INVOCATION`]; it was thrown away.
    TooLarge,
    /// It broke off.
    Broken,
}

impl InvocationBody {
    /// The envelope, if it came whole.
    pub fn whole(&self) -> Result<&Bytes, Refusal> {
        match self {
            Self::Whole(body) => Ok(body),
            Self::TooLarge => Err(Refusal::malformed("it is too large")),
            Self::Broken => Err(Refusal::malformed("its body broke off")),
        }
    }
}

/// Every route of the handler.
pub fn routes(app: Arc<App>) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    // Asked one after the other: what is called most stands first.
    order_status(Arc::clone(&app))
        .or(order_ingress(Arc::clone(&app)))
        .unify()
        .or(order_processor(Arc::clone(&app)))
        .unify()
        .or(order_list(Arc::clone(&app)))
        .unify()
        .or(order_cancel(Arc::clone(&app)))
        .unify()
        .or(open_api())
        .unify()
        .or(order_dead_letter(Arc::clone(&app)))
        .unify()
        .or(order_sweeper(Arc::clone(&app)))
        .unify()
        .or(probe())
        .unify()
        .or(healthz())
        .unify()
        .or(readyz(app))
        .unify()
        .recover(rejected)
        .unify()
}

/// POST /`OrderIngress`
fn order_ingress(app: Arc<App>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path!("OrderIngress").and(invocation()).then(move |invocation| {
        to_the_end(Arc::clone(&app), invocation, |app, invocation| async move {
            respond(order_ingress::run(&app, &invocation).await, "OrderIngress", &invocation)
        })
    })
}

/// POST /`OrderProcessor`
fn order_processor(app: Arc<App>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path!("OrderProcessor").and(invocation()).then(move |invocation| {
        to_the_end(Arc::clone(&app), invocation, |app, invocation| async move {
            respond(order_processor::run(&app, &invocation).await, "OrderProcessor", &invocation)
        })
    })
}

/// POST /`OrderList`
fn order_list(app: Arc<App>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path!("OrderList").and(invocation()).then(move |invocation| {
        let app = Arc::clone(&app);
        async move { respond(order_list::run(&app, &invocation).await, "OrderList", &invocation) }
    })
}

/// POST /`OrderCancel`
fn order_cancel(app: Arc<App>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path!("OrderCancel").and(invocation()).then(move |invocation| {
        let app = Arc::clone(&app);
        async move { respond(order_cancel::run(&app, &invocation).await, "OrderCancel", &invocation) }
    })
}

/// POST /`OpenApi`
fn open_api() -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    let contract: Arc<str> = openapi::json().into();
    warp::path!("OpenApi").and(invocation()).map(move |invocation| respond(open_api::run(&contract), "OpenApi", &invocation))
}

/// POST /`OrderDeadLetter`
fn order_dead_letter(app: Arc<App>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path!("OrderDeadLetter").and(invocation()).then(move |invocation| {
        let app = Arc::clone(&app);
        async move { respond(order_dead_letter::run(&app, &invocation).await, "OrderDeadLetter", &invocation) }
    })
}

/// POST /`OrderSweeper`
fn order_sweeper(app: Arc<App>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path!("OrderSweeper").and(invocation()).then(move |invocation| {
        let app = Arc::clone(&app);
        async move { respond(order_sweeper::run(&app, &invocation).await, "OrderSweeper", &invocation) }
    })
}

/// Whatever becomes of the connection: hyper drops a request whose connection breaks, and work cut off in the middle holds its lease,
/// or leaves a write of which nobody hears what became of it.
fn to_the_end<F>(app: Arc<App>, invocation: Invocation, function: impl FnOnce(Arc<App>, Invocation) -> F) -> ToTheEnd
where
    F: Future<Output = Response> + Send + 'static,
{
    let place = app.running.enter();
    let answer = function(app, invocation);
    ToTheEnd(Some(Box::pin(async move {
        let _place = place;
        answer.await
    })))
}

/// Goes on in a task of its own when it is dropped.
struct ToTheEnd(Option<Pin<Box<dyn Future<Output = Response> + Send>>>);

impl Future for ToTheEnd {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Response> {
        // Taken out meanwhile: should it panic, there is nothing that could go on.
        let Some(mut answer) = self.0.take() else { return Poll::Pending };
        let polled = answer.as_mut().poll(context);
        if polled.is_pending() {
            self.0 = Some(answer);
        }
        polled
    }
}

impl Drop for ToTheEnd {
    fn drop(&mut self) {
        if let (Some(answer), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(answer);
        }
    }
}

/// POST /`OrderStatus`
fn order_status(app: Arc<App>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path!("OrderStatus").and(invocation()).then(move |invocation| {
        let app = Arc::clone(&app);
        async move { respond(order_status::run(&app, &invocation).await, "OrderStatus", &invocation) }
    })
}

/// GET / — the host's readiness probe and its periodic ping; the answer is ignored (functions-host, readiness).
fn probe() -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path::end().and(warp::get()).map(|| plain(StatusCode::OK, ""))
}

/// GET /healthz — the process is alive.
fn healthz() -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path!("healthz").and(warp::get()).map(|| json_response(StatusCode::OK, &json!({ "status": "alive" })))
}

/// GET /readyz — the store answers.
fn readyz(app: Arc<App>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path!("readyz").and(warp::get()).then(move || {
        let app = Arc::clone(&app);
        async move {
            let (status, mut body) = match functions::probe_store(&app).await {
                Some(figures) => (StatusCode::OK, json!({ "status": "ready", "store": figures })),
                None => (StatusCode::SERVICE_UNAVAILABLE, json!({ "status": "not ready", "reason": "the store does not answer" })),
            };
            body["admission"] = app.admission.figures();
            body["waiting"] = json!({ "forChange": app.watch.waiting(), "forVisibility": app.looking.taken() });
            json_response(status, &body)
        }
    })
}

fn invocation() -> impl Filter<Extract = (Invocation,), Error = Rejection> + Copy {
    warp::post().and(warp::header::optional::<String>("x-azure-functions-invocationid")).and(warp::body::stream()).then(
        |id: Option<String>, body| async move {
            let started = Instant::now();
            // Only tools that are not the host leave the id out.
            let id = id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
            let body = tokio::time::timeout(BODY_TIMEOUT, collect(body)).await.unwrap_or(InvocationBody::Broken);
            Invocation { id, started, body }
        },
    )
}

/// The body, chunked or not, capped while it is read. The rest of one that is too large is read all the same: an answer before
/// the end of a request is lost when the host is still sending.
async fn collect(body: impl Stream<Item = Result<impl Buf, warp::Error>>) -> InvocationBody {
    let mut body = std::pin::pin!(body);
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut length = 0;
    while let Some(chunk) = body.next().await {
        let Ok(mut chunk) = chunk else { return InvocationBody::Broken };
        length += chunk.remaining();
        if length > MAX_INVOCATION {
            (first, rest) = (Bytes::new(), BytesMut::new());
        } else if first.is_empty() && rest.is_empty() {
            first = chunk.copy_to_bytes(chunk.remaining());
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&chunk.copy_to_bytes(chunk.remaining()));
        }
    }
    match length {
        length if length > MAX_INVOCATION => InvocationBody::TooLarge,
        _ if rest.is_empty() => InvocationBody::Whole(first),
        _ => InvocationBody::Whole(rest.freeze()),
    }
}

/// What the host is answered, and the line that says so.
fn respond(conclusion: Conclusion, function: &'static str, invocation: &Invocation) -> Response {
    conclusion.log(function, &invocation.id, invocation.started.elapsed());
    match conclusion.answer {
        Ok(answer) => {
            let mut response = Response::new(Bytes::from(answer.to_json()).into());
            response.headers_mut().insert(CONTENT_TYPE, warp::http::HeaderValue::from_static("application/json"));
            response
        }
        Err(refusal) => plain(refusal.status, "the invocation failed; see the handler's log\n"),
    }
}

async fn rejected(rejection: Rejection) -> Result<Response, Infallible> {
    let status = if rejection.is_not_found() {
        StatusCode::NOT_FOUND
    } else if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        StatusCode::METHOD_NOT_ALLOWED
    } else {
        StatusCode::BAD_REQUEST
    };
    warn!(http.status = status.as_u16(), "a request to no function; the host calls POST /{{Function}}");
    Ok(json_response(status, &json!({ "title": "no such function here", "status": status.as_u16() })))
}

fn plain(status: StatusCode, body: &'static str) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
}

fn json_response(status: StatusCode, body: &serde_json::Value) -> Response {
    let mut response = Response::new(body.to_string().into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, warp::http::HeaderValue::from_static("application/json"));
    response
}
