//! Client of the handler: invocations, forwarded requests, and whether the handler can be called.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::{mpsc, watch};
use tracing::debug;

use crate::recording::recorder::Exchange;

/// Host version that this stand-in follows.
pub(crate) const HOST_VERSION: &str = "4.1037.0.0";
/// Time that an invocation waits for a starting handler: four times thirty seconds.
const READY_WAIT: Duration = Duration::from_mins(2);
/// Largest answer that is accepted; the real host would hold a larger one in memory.
const MAX_ANSWER: usize = 128 * 1024 * 1024;

/// Whether the handler can be called.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    Starting,
    Ready(Running),
    /// The handler ended with exit code 0: the host does not restart it, and every call fails at once.
    Gone,
}

/// A start of the handler.
#[derive(Debug, Clone)]
pub(super) struct Running {
    /// Number of the start.
    pub(super) generation: u64,
    /// Port on which it listens.
    pub(super) port: u16,
    /// Sender of which every call holds a clone: once all are dropped, no call runs.
    pub(super) busy: mpsc::Sender<()>,
}

/// Client of the handler; cheap to clone.
#[derive(Clone)]
pub(crate) struct Handler {
    pub(super) client: HandlerClient,
    pub(super) port: u16,
    pub(super) chunked: bool,
    pub(super) phase: watch::Receiver<Phase>,
    /// Starts that were replaced and still end their calls.
    pub(super) draining: watch::Receiver<BTreeSet<u64>>,
    pub(super) kills: mpsc::Sender<u64>,
}

/// The HTTP client that calls the handler.
pub(super) type HandlerClient = Client<HttpConnector, FramedBody>;

/// An HTTP client that keeps connections, and writes header names as the host does: those of a forwarded request as the client did.
pub(super) fn http_client() -> HandlerClient {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_mins(1))
        .http1_title_case_headers(true)
        .http1_preserve_header_case(true)
        .build(connector)
}

/// Answer of a handler, whose body is not read yet.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    /// Status of the answer.
    pub(crate) status: StatusCode,
    /// Headers of the answer.
    pub(crate) headers: hyper::HeaderMap,
    /// Extensions of the answer, among them the spelling of its header names for hyper.
    pub(crate) extensions: hyper::http::Extensions,
    /// Body of the answer.
    pub(crate) body: Bytes,
}

/// Failure of a call of the handler.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The handler has ended and will not be started.
    Gone,
    /// The handler did not become ready in time.
    NotReady,
    /// The host stops, and starts no handler any more.
    Stopping,
    /// The connection broke: the handler crashed, or closed it.
    Broken(String),
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone => f.write_str("the handler has exited with code 0, and the host does not restart it then"),
            Self::Stopping => f.write_str("the host stops, and no handler runs"),
            Self::NotReady => f.write_str("the handler did not become ready in time"),
            Self::Broken(reason) => write!(f, "the connection to the handler broke: {reason}"),
        }
    }
}

impl Handler {
    /// Port on which the handler listens, or will.
    pub(crate) fn port(&self) -> u16 {
        match &*self.phase.borrow() {
            Phase::Ready(running) => running.port,
            Phase::Starting | Phase::Gone => self.port,
        }
    }

    /// Posts an invocation. The exchange gets the number of the start that takes it.
    pub(crate) async fn invoke(
        &self,
        function: &str,
        invocation: &str,
        envelope: Vec<u8>,
        exchange: &Exchange,
    ) -> Result<RawAnswer, CallError> {
        let running = self.ready().await?;
        let request = Request::post(uri(running.port, function)?)
            .header("X-Azure-Functions-HostVersion", HOST_VERSION)
            .header("X-Azure-Functions-InvocationId", invocation)
            .header(USER_AGENT, "Azure-Functions-Host/4.1037.0.0")
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"))
            .body(FramedBody { data: Some(envelope.into()), sized: !self.chunked });
        self.call(running, request.map_err(|error| CallError::Broken(error.to_string()))?, exchange).await
    }

    /// Passes a request on as it is (`enableForwardingHttpRequest`). The exchange gets the number of the start that takes it.
    pub(crate) async fn forward(
        &self,
        mut request: Request<Bytes>,
        path_and_query: &str,
        exchange: &Exchange,
    ) -> Result<RawAnswer, CallError> {
        let running = self.ready().await?;
        *request.uri_mut() = uri(running.port, path_and_query.trim_start_matches('/'))?;
        self.call(running, request.map(|body| FramedBody { data: (!body.is_empty()).then_some(body), sized: true }), exchange).await
    }

    /// Sends a recorded request again, framed as the host frames it. The exchange gets the number of the start that takes it.
    pub(crate) async fn resend(
        &self,
        mut request: Request<Bytes>,
        is_forwarded: bool,
        exchange: &Exchange,
    ) -> Result<RawAnswer, CallError> {
        let running = self.ready().await?;
        let path = request.uri().path_and_query().map_or("", |path| path.as_str());
        *request.uri_mut() = uri(running.port, path.trim_start_matches('/'))?;
        let sized = is_forwarded || !self.chunked;
        self.call(running, request.map(|body| FramedBody { data: (!body.is_empty()).then_some(body), sized }), exchange).await
    }

    /// Calls a start of the handler, which is not ended meanwhile because of a newer one.
    async fn call(&self, running: Running, request: Request<FramedBody>, exchange: &Exchange) -> Result<RawAnswer, CallError> {
        exchange.generation.get_or_init(|| running.generation);
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        exchange.sends(request.method().as_str(), path, request.headers(), request.body().data.as_ref());
        let answered = self.answered(running, request).await;
        match &answered {
            Ok(answer) => exchange.answered(answer.status.as_u16(), &answer.headers, &answer.body),
            Err(error) => exchange.failed(&error.to_string()),
        }
        answered
    }

    async fn answered(&self, running: Running, request: Request<FramedBody>) -> Result<RawAnswer, CallError> {
        let broken = |error: &dyn std::error::Error| CallError::Broken(source_text(error));
        let response = self.client.request(request).await.map_err(|error| broken(&error))?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| broken(error.as_ref()))?.to_bytes();
        // Until here it counts as busy.
        drop(running.busy);
        Ok(RawAnswer { status: parts.status, headers: parts.headers, extensions: parts.extensions, body })
    }

    async fn ready(&self) -> Result<Running, CallError> {
        let mut phase = self.phase.clone();
        let settled = async { phase.wait_for(|phase| !matches!(phase, Phase::Starting)).await.map(|phase| phase.clone()) };
        match tokio::time::timeout(READY_WAIT, settled).await {
            Ok(Ok(Phase::Ready(running))) => Ok(running),
            Ok(Ok(Phase::Starting | Phase::Gone)) => Err(CallError::Gone),
            // The supervisor has ended.
            Ok(Err(_)) => Err(CallError::Stopping),
            Err(_) => Err(CallError::NotReady),
        }
    }

    /// State of the host, as its admin endpoint reports it.
    pub(crate) fn state(&self) -> &'static str {
        match &*self.phase.borrow() {
            Phase::Starting => "Starting",
            Phase::Ready(_) => "Running",
            Phase::Gone => "Error",
        }
    }

    /// Number of the current start of the handler, if it is ready.
    pub(crate) fn generation(&self) -> Option<u64> {
        match &*self.phase.borrow() {
            Phase::Ready(running) => Some(running.generation),
            Phase::Starting | Phase::Gone => None,
        }
    }

    /// Ends this start of the handler, with every call in it, and starts the handler again, as the host does after a `functionTimeout`.
    /// Does not count as an error of the handler. A start that was replaced and still ends its calls is ended too, without a new start.
    /// When this returns, the old process gets no further call: a message whose call failed with it may be delivered again at once.
    pub(crate) async fn kill(&self, generation: u64) {
        let ended = |phase: &Phase| !matches!(phase, Phase::Ready(running) if running.generation == generation);
        let drained = |draining: &BTreeSet<u64>| !draining.contains(&generation);
        if self.kills.send(generation).await.is_err()
            || self.phase.clone().wait_for(ended).await.is_err()
            || self.draining.clone().wait_for(drained).await.is_err()
        {
            debug!("the host is stopping; it ends the handler itself");
        }
    }

    /// Waits until the handler has answered its first probe.
    pub(crate) async fn wait_until_ready(&self) -> bool {
        self.ready().await.is_ok()
    }

    /// Waits for the first handler that answers, however long its build takes. `false`: there will be none.
    pub(crate) async fn wait_for_first(&self) -> bool {
        self.phase.clone().wait_for(|phase| matches!(phase, Phase::Ready(_))).await.is_ok()
    }
}

fn uri(port: u16, path: &str) -> Result<Uri, CallError> {
    format!("http://127.0.0.1:{port}/{path}").parse().map_err(|_| CallError::Broken(format!("{path:?} is no path")))
}

fn source_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// A body of one piece, framed by its length or, as the real host sends it in Azure, chunked.
#[derive(Debug)]
pub(crate) struct FramedBody {
    pub(super) data: Option<Bytes>,
    pub(super) sized: bool,
}

impl Body for FramedBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.data.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.data {
            _ if !self.sized => SizeHint::new(),
            Some(data) => SizeHint::with_exact(data.len() as u64),
            None => SizeHint::with_exact(0),
        }
    }
}
