//! HTTP answers of the host: functions below `/api`, a part of `/admin`, and a welcome page.

pub mod route;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};
use serde_json::json;
use tokio::sync::Semaphore;
use tracing::{error, info, warn};

use crate::app::App;
use crate::app::function::Trigger;
use crate::dispatch::{Callable, Dispatcher, Failed, Invocation};
use crate::handler::client::HOST_VERSION;
use crate::trigger::http::route::{Params, Route, decode};
use crate::trigger::queue;
use crate::wire::answer::{self, Reply};
use crate::wire::invocation::{self, Identity};

/// Largest body, the limit of Kestrel and the host. There a larger body breaks the connection; here it gets an answer.
const MAX_BODY: usize = 100 * 1024 * 1024;
/// Time for a client's body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(100);

type HttpResponse = Response<Full<Bytes>>;

/// HTTP server of the host.
pub(crate) struct Front {
    dispatcher: Arc<Dispatcher>,
    functions: Vec<Arc<Callable>>,
    routes: Vec<Entry>,
    prefix: String,
    custom_headers: Vec<(HeaderName, HeaderValue)>,
    cors: Vec<String>,
    cors_credentials: bool,
    outstanding: AtomicUsize,
    max_outstanding: Option<usize>,
    concurrent: Option<Semaphore>,
    started: Instant,
    name: &'static str,
}

/// Place of one outstanding request; freed when the request ends or its client leaves.
struct Outstanding<'a> {
    outstanding: &'a AtomicUsize,
    before: usize,
}

impl<'a> Outstanding<'a> {
    fn take(outstanding: &'a AtomicUsize) -> Self {
        Self { outstanding, before: outstanding.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Route of a function that runs, or of one that is switched off.
struct Entry {
    route: Route,
    target: Option<Target>,
}

#[derive(Clone)]
struct Target {
    binding: String,
    function: Arc<Callable>,
}

impl Front {
    /// Prepares the routes of an app, in the order of the functions' names: the first that fits gets a request, as on the real host.
    pub(crate) fn new(app: &App, dispatcher: Arc<Dispatcher>, functions: Vec<Arc<Callable>>, name: &'static str) -> Self {
        let target = |route: &Route| {
            let function = functions.iter().find(|function| function.name == route.function && !route.disabled)?;
            let Trigger::Http { name, .. } = &function.trigger else { return None };
            Some(Target { binding: name.clone(), function: Arc::clone(function) })
        };
        let routes = app.routes.iter().map(|route| Entry { target: target(route), route: route.clone() }).collect();
        for (place, route) in app.routes.iter().enumerate() {
            if let Some(line) = route.never_reached(app.routes[..place].iter()) {
                warn!("{line}");
            }
        }
        let header = |(name, value): &(String, String)| Some((name.parse().ok()?, value.parse().ok()?));
        Self {
            dispatcher,
            functions,
            routes,
            prefix: app.host.http.route_prefix.clone(),
            custom_headers: app.host.http.custom_headers.iter().filter_map(header).collect(),
            cors: app.local_host.cors.clone(),
            cors_credentials: app.local_host.cors_credentials,
            outstanding: AtomicUsize::new(0),
            max_outstanding: app.host.http.max_outstanding_requests,
            concurrent: app.host.http.max_concurrent_requests.map(Semaphore::new),
            started: Instant::now(),
            name,
        }
    }

    /// Answers one request.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> HttpResponse {
        let origin = request.headers().get(header::ORIGIN).cloned();
        let mut answer = match origin.as_ref().and_then(|origin| self.preflight(&request, origin)) {
            Some(answer) => answer,
            None => self.throttled(request).await,
        };
        if let Some(origin) = origin {
            self.allow_origin(&origin, answer.headers_mut());
        }
        for (name, value) in &self.custom_headers {
            answer.headers_mut().entry(name).or_insert_with(|| value.clone());
        }
        answer
    }

    async fn throttled(self: &Arc<Self>, request: Request<Incoming>) -> HttpResponse {
        let Some(most) = self.max_outstanding else { return self.limited(request).await };
        let place = Outstanding::take(&self.outstanding);
        if place.before < most { self.limited(request).await } else { empty(StatusCode::TOO_MANY_REQUESTS) }
    }

    async fn limited(self: &Arc<Self>, request: Request<Incoming>) -> HttpResponse {
        // The semaphore is never closed.
        let _permit = match &self.concurrent {
            Some(concurrent) => concurrent.acquire().await.ok(),
            None => None,
        };
        if !has_one_host(request.version(), request.headers()) {
            return closing(empty(StatusCode::BAD_REQUEST));
        }
        let path = request.uri().path();
        match self.find(&decode(path), request.method()) {
            Some((Some(target), params)) => return self.call(target, params, request).await,
            Some((None, _)) => return empty(StatusCode::NOT_FOUND),
            None => {}
        }
        match path {
            "/" if request.method() == Method::GET => {
                text(StatusCode::OK, &format!("{} is up; its functions are listed where it was started\n", self.name))
            }
            _ if path.starts_with("/admin/") => self.admin(request).await,
            _ => empty(StatusCode::NOT_FOUND),
        }
    }

    /// The first route by name that fits, and its function unless that is switched off. A method that is not listed is a 404, as on the
    /// real host.
    fn find(&self, path: &str, method: &Method) -> Option<(Option<Target>, Params)> {
        self.routes.iter().find_map(|Entry { route, target }| Some((target.clone(), route.matches(path, method.as_str())?)))
    }

    async fn call(self: &Arc<Self>, target: Target, params: Params, request: Request<Incoming>) -> HttpResponse {
        let (parts, body) = request.into_parts();
        // The host passes on a body only with a Content-Length (azure-functions-host #4926); a chunked body is read and lost.
        let sized = parts.headers.contains_key(header::CONTENT_LENGTH);
        let body = match collected(body).await {
            Ok(body) => body,
            Err(answer) => return answer,
        };
        let Target { binding, function } = target;
        let dispatcher = Arc::clone(&self.dispatcher);
        let invocation = Invocation::new();
        if function.forwards {
            // A separate task, so that a client that leaves does not cancel the invocation.
            let task = tokio::spawn(async move { forward(&dispatcher, &function, &invocation, Request::from_parts(parts, body)).await });
            return task.await.unwrap_or_else(|error| broken_down(&error));
        }
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
        let url = format!("http://{host}{}", parts.uri.path_and_query().map_or("/", |path| path.as_str()));
        let envelope = invocation::http(
            &invocation::Request {
                binding: &binding,
                url: &url,
                method: parts.method.as_str(),
                query: parts.uri.query(),
                headers: &parts.headers,
                params: &params,
                body: (sized && !body.is_empty()).then_some(&body[..]),
                identity: Identity::LocalAdmin,
            },
            &invocation.sys(&function.name),
        );
        // A separate task: a client that leaves does not cancel the invocation.
        let task = tokio::spawn(async move { dispatcher.invoke(&function, &invocation, envelope).await });
        match task.await {
            Ok(Ok(Reply::Response(response))) => respond(response, &parts.method),
            Ok(Ok(Reply::None)) => empty(StatusCode::NO_CONTENT),
            Ok(Err(Failed(Some(begun)))) => respond(*begun, &parts.method),
            Ok(Ok(Reply::Failed(..)) | Err(Failed(None))) => empty(StatusCode::INTERNAL_SERVER_ERROR),
            Err(error) => broken_down(&error),
        }
    }

    /// Admin endpoints of the host, without keys, as under `func start`.
    async fn admin(self: &Arc<Self>, request: Request<Incoming>) -> HttpResponse {
        let (parts, body) = request.into_parts();
        match (&parts.method, parts.uri.path().trim_end_matches('/')) {
            (&Method::GET | &Method::POST, "/admin/host/ping") => empty(StatusCode::OK),
            (&Method::GET, "/admin/host/status") => {
                let queue = self.dispatcher.broker.figures().await.unwrap_or_default();
                let status = json!({
                    "id": "functions-host",
                    "state": self.dispatcher.handler.state(),
                    "version": HOST_VERSION,
                    "processUptime": u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
                    "handlerPort": self.dispatcher.handler.port(),
                    "serviceBus": queue,
                });
                json_answer(StatusCode::OK, &status)
            }
            (&Method::POST, path) => match path.strip_prefix("/admin/functions/") {
                Some(name) => {
                    let name = name.to_owned();
                    match collected(body).await {
                        Ok(body) => self.run_by_hand(&name, &body),
                        Err(answer) => answer,
                    }
                }
                None => empty(StatusCode::NOT_FOUND),
            },
            _ => empty(StatusCode::NOT_FOUND),
        }
    }

    /// `POST /admin/functions/{name}` with `{"input": "text"}`: 202, and the function runs.
    fn run_by_hand(self: &Arc<Self>, name: &str, body: &[u8]) -> HttpResponse {
        #[derive(serde::Deserialize)]
        struct Input {
            #[serde(default)]
            input: Option<String>,
        }
        let Some(function) = self.functions.iter().find(|function| function.name.eq_ignore_ascii_case(name)) else {
            return empty(StatusCode::NOT_FOUND);
        };
        let input = if body.trim_ascii().is_empty() { Ok(Input { input: None }) } else { serde_json::from_slice::<Input>(body) };
        let Ok(Input { input }) = input else {
            return text(StatusCode::BAD_REQUEST, "send {\"input\": \"text\"}\n");
        };
        let invocation = Invocation::new();
        let envelope = match &function.trigger {
            Trigger::Http { route, .. } => {
                let prefix = if self.prefix.is_empty() { String::new() } else { format!("/{}", self.prefix) };
                return text(StatusCode::BAD_REQUEST, &format!("{} has an HTTP trigger: call {prefix}/{route}\n", function.name));
            }
            Trigger::Queue { .. } => queue::manual_envelope(function, input.as_deref().unwrap_or_default(), &invocation),
            Trigger::Timer { name, .. } => Some(invocation::timer(name, None, false, &invocation.sys(&function.name))),
        };
        let Some(envelope) = envelope else { return empty(StatusCode::INTERNAL_SERVER_ERROR) };
        info!(function.name = function.name, invocation.id = %invocation.id, "run by hand");
        let (dispatcher, function) = (Arc::clone(&self.dispatcher), Arc::clone(function));
        tokio::spawn(async move { dispatcher.invoke(&function, &invocation, envelope).await });
        empty(StatusCode::ACCEPTED)
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        self.cors.iter().any(|allowed| allowed == "*" || allowed.as_bytes().eq_ignore_ascii_case(origin.as_bytes()))
    }

    fn preflight(&self, request: &Request<Incoming>, origin: &HeaderValue) -> Option<HttpResponse> {
        let method = request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
        if request.method() != Method::OPTIONS || !self.allows(origin) {
            return None;
        }
        let mut answer = empty(StatusCode::NO_CONTENT);
        answer.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_METHODS, method.clone());
        if let Some(headers) = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            answer.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_HEADERS, headers.clone());
        }
        Some(answer)
    }

    fn allow_origin(&self, origin: &HeaderValue, headers: &mut HeaderMap) {
        if !self.allows(origin) {
            return;
        }
        let any = self.cors.iter().any(|allowed| allowed == "*") && !self.cors_credentials;
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, if any { HeaderValue::from_static("*") } else { origin.clone() });
        if self.cors_credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if !any {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
    }
}

/// Body of a client's request, or the answer if the body is too large, broken or late.
async fn collected(body: Incoming) -> Result<Bytes, HttpResponse> {
    let too_large = || closing(text(StatusCode::PAYLOAD_TOO_LARGE, "the host takes bodies of at most 100 MB\n"));
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(closing(empty(StatusCode::BAD_REQUEST))),
        Err(_) => Err(closing(empty(StatusCode::REQUEST_TIMEOUT))),
    }
}

/// Forwards a request and its answer unchanged (`enableForwardingHttpRequest`).
async fn forward(dispatcher: &Arc<Dispatcher>, function: &Callable, invocation: &Invocation, mut request: Request<Bytes>) -> HttpResponse {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let id = invocation.id.to_string();
    let headers = request.headers_mut();
    // Headers of one hop; the HTTP client writes its own.
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH, header::UPGRADE, header::TE] {
        headers.remove(name);
    }
    let product = format!("Azure-Functions-Host/{HOST_VERSION}");
    let agent = match headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()) {
        Some(agent) => format!("{agent} {product}"),
        None => product,
    };
    for (name, value) in
        [("user-agent", agent.as_str()), ("x-azure-functions-hostversion", HOST_VERSION), ("x-azure-functions-invocationid", &id)]
    {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    let running = dispatcher.running.clone();
    let generation = dispatcher.handler.generation();
    let call = async {
        dispatcher.handler.forward(request, &path).await.map_err(|error| {
            error!(function.name = function.name, invocation.id = id, "{} failed: {error}", function.name);
            Failed(None)
        })
    };
    let answered = dispatcher.within_timeout(function, &id, generation, call).await;
    drop(running);
    let Ok(answer) = answered else { return empty(StatusCode::INTERNAL_SERVER_ERROR) };
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH] {
        response.headers_mut().remove(name);
    }
    response
}

fn respond(response: answer::Response, method: &Method) -> HttpResponse {
    let Ok(status) = StatusCode::from_u16(response.status) else { return empty(StatusCode::INTERNAL_SERVER_ERROR) };
    let bodiless = matches!(status.as_u16(), 100..200 | 204 | 205 | 304) || method == Method::HEAD;
    let body = if bodiless { Bytes::new() } else { response.body.into() };
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    for (name, value) in response.headers {
        if name == header::TRANSFER_ENCODING {
            warn!("a Transfer-Encoding header in an answer hangs the client of the real host; it is left out");
        } else if name != header::CONTENT_LENGTH {
            answer.headers_mut().insert(name, value);
        }
    }
    if let Some(content_type) = response.content_type.and_then(|text| HeaderValue::from_str(&text).ok()) {
        answer.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    answer
}

/// Whether the Host header is only a host, without path, query or user, since it goes into URLs for clients; Kestrel answers 400 too.
fn has_one_host(version: Version, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let valid = |host: &HeaderValue| {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
        !host.is_empty() && host.as_bytes().iter().all(plain)
    };
    // HTTP/1.0 does not require a Host header.
    hosts.next().map_or(version == Version::HTTP_10, valid) && hosts.next().is_none()
}

fn broken_down(error: &tokio::task::JoinError) -> HttpResponse {
    error!(%error, "an invocation broke down inside the host");
    empty(StatusCode::INTERNAL_SERVER_ERROR)
}

fn empty(status: StatusCode) -> HttpResponse {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

fn text(status: StatusCode, body: &str) -> HttpResponse {
    let mut answer = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn json_answer(status: StatusCode, body: &serde_json::Value) -> HttpResponse {
    let mut answer = text(status, &body.to_string());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn closing(mut answer: HttpResponse) -> HttpResponse {
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}
