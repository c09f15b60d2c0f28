//! HTTP answers of the host: functions below `/api`, a part of `/admin`, and a welcome page.

mod admin;
pub(crate) mod head;
pub mod route;
mod target;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use serving::host_names;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{error, warn};

use crate::activity::Outcome;
use crate::app::App;
use crate::app::function::Trigger;
use crate::dispatch::{self, Callable, Dispatcher, Failed, Invocation};
use crate::handler::client::HOST_VERSION;
use crate::recording::recorder::Exchange;
use crate::trigger::http::head::Head;
use crate::trigger::http::route::{Params, Route};
use crate::trigger::http::target::Path;
use crate::wire::answer::{self, Reply};
use crate::wire::forwarding;
use crate::wire::invocation::{self, Identity};

/// Largest body, the limit of Kestrel and the host. There a larger body breaks the connection; here it gets an answer.
const MAX_BODY: u32 = 100 * 1024 * 1024;
/// Time for a client's body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(100);

/// Time that a scraper of metrics waits for a handler.
const METRICS_WAIT: Duration = Duration::from_secs(1);
/// Body above which a request takes a share of [`LARGE_BODIES`], and its invocation is built apart from other requests.
const LARGE: u32 = 256 * 1024;
/// Bytes of large bodies that are held at the same time, so that clients cannot fill the memory. One of the largest fits.
const LARGE_BODIES: u32 = 128 * 1024 * 1024;

type HttpResponse = Response<Full<Bytes>>;

/// HTTP server of the host.
pub(crate) struct Front {
    dispatcher: Arc<Dispatcher>,
    functions: Vec<Arc<Callable>>,
    /// The functions as their files describe them, for `GET /admin/functions`.
    listed: Vec<admin::Listed>,
    routes: Vec<Entry>,
    prefix: String,
    custom_headers: Vec<(HeaderName, HeaderValue)>,
    cors: Vec<String>,
    cors_credentials: bool,
    /// Names that `Host` may have besides those of this machine; `*` is every name.
    allowed_hosts: Vec<String>,
    large_bodies: Arc<Semaphore>,
    outstanding: AtomicUsize,
    max_outstanding: Option<usize>,
    concurrent: Option<Semaphore>,
    started: Instant,
    name: &'static str,
    /// Whether only this machine reaches the host: a browser gets the console at `/`, and a client the reports that it asks for.
    is_for_this_machine: bool,
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
    pub(crate) fn new(
        app: &App,
        dispatcher: Arc<Dispatcher>,
        functions: Vec<Arc<Callable>>,
        name: &'static str,
        is_for_this_machine: bool,
    ) -> Self {
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
            listed: admin::listed(app),
            functions,
            routes,
            prefix: app.host.http.route_prefix.clone(),
            custom_headers: app.host.http.custom_headers.iter().filter_map(header).collect(),
            cors: app.local_host.cors.clone(),
            cors_credentials: app.local_host.cors_credentials,
            allowed_hosts: app.local_host.allowed_hosts.clone(),
            large_bodies: Arc::new(Semaphore::new(LARGE_BODIES as usize)),
            outstanding: AtomicUsize::new(0),
            max_outstanding: app.host.http.max_outstanding_requests,
            concurrent: app.host.http.max_concurrent_requests.map(Semaphore::new),
            started: Instant::now(),
            name,
            is_for_this_machine,
        }
    }

    /// Answers one request; its head, as far as it is known, tells how the client spelt the names of headers.
    pub(crate) async fn answer(self: Arc<Self>, mut request: Request<Incoming>, head: Option<Head>) -> HttpResponse {
        if let Some(head) = head {
            request.extensions_mut().insert(head);
        }
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
        let host_mistake = target::host_mistake(request.version(), request.headers());
        let is_ascii = request.uri().path_and_query().is_none_or(|target| target.as_str().is_ascii());
        let path = Path::read(request.uri().path()).filter(|_| is_ascii && host_mistake != Some(StatusCode::BAD_REQUEST));
        let Some(path) = path else { return closing(empty(StatusCode::BAD_REQUEST)) };
        if !self.is_allowed(request.headers()) {
            warn!("a request was refused: its Host is no name of this machine; Host.AllowedHosts in local.settings.json adds names");
            return text(StatusCode::MISDIRECTED_REQUEST, "Host is no name of this machine\n");
        }
        if path.as_str() == "*" && request.method() != Method::OPTIONS {
            return empty(StatusCode::METHOD_NOT_ALLOWED);
        }
        let is_own = admin::is_own(path.as_str());
        if !is_own && let Some((target, params)) = self.find(path.as_str(), request.method()) {
            return match (target, host_mistake) {
                (None, _) => empty(StatusCode::NOT_FOUND),
                (Some(_), Some(status)) => empty(status),
                (Some(target), None) => self.call(target, params, &path, request).await,
            };
        }
        match path.as_str() {
            "/" if request.method() == Method::GET => {
                let more = if self.is_for_this_machine {
                    "open this address in a browser"
                } else {
                    "its functions are listed where it was started"
                };
                text(StatusCode::OK, &format!("{} is up; {more}\n", self.name))
            }
            "/metrics" if request.method() == Method::GET => self.metrics().await,
            _ if is_own => self.admin(request).await,
            _ => empty(StatusCode::NOT_FOUND),
        }
    }

    /// Whether a request names this machine: a web page whose own name points here does not (DNS rebinding).
    fn is_allowed(&self, headers: &HeaderMap) -> bool {
        let is_any = || self.allowed_hosts.iter().any(|allowed| allowed == "*");
        host_names::are_local(headers, &self.allowed_hosts) || target::is_address(headers) || is_any()
    }

    /// The first route by name that fits, and its function unless that is switched off. A method that is not listed is a 404, as on the
    /// real host.
    fn find(&self, path: &str, method: &Method) -> Option<(Option<Target>, Params)> {
        self.routes.iter().find_map(|Entry { route, target }| Some((target.clone(), route.matches(path, method.as_str())?)))
    }

    async fn call(self: &Arc<Self>, target: Target, params: Params, path: &Path, mut request: Request<Incoming>) -> HttpResponse {
        let invocation = self.invocation(&target.function, request.headers_mut());
        let id = invocation.report.is_some().then_some(invocation.id);
        let mut answer = self.answered(target, params, path, request, invocation).await;
        admin::name_report(&mut answer, id);
        answer
    }

    async fn answered(
        self: &Arc<Self>,
        target: Target,
        params: Params,
        path: &Path,
        request: Request<Incoming>,
        invocation: Invocation,
    ) -> HttpResponse {
        let (parts, body) = request.into_parts();
        let Target { binding, function } = target;
        let target = |query: &str| format!("{}{query}", path.escaped());
        // The host passes on a body only with a Content-Length (azure-functions-host #4926); a chunked body is read and lost.
        let chunked = parts.headers.contains_key(header::TRANSFER_ENCODING);
        let place = match self.place_for(&body) {
            Ok(place) => place,
            Err(answer) => return *answer,
        };
        let body = match if chunked { drained(body).await } else { collected(body, MAX_BODY).await } {
            Ok(body) => body,
            Err(answer) => return answer,
        };
        let dispatcher = Arc::clone(&self.dispatcher);
        if function.forwards {
            let target = target(&forwarding::query(parts.uri.query()));
            let headers = match forwarding::request(&parts.method, &parts.headers, !body.is_empty()) {
                Ok(headers) => headers,
                Err(reason) => {
                    dispatch::failed(&function, &invocation, None, &reason);
                    return empty(StatusCode::INTERNAL_SERVER_ERROR);
                }
            };
            let mut request = Request::new(body);
            *request.method_mut() = parts.method;
            *request.headers_mut() = headers;
            // Among them is the spelling of the names, which only hyper can read.
            *request.extensions_mut() = parts.extensions;
            // A separate task: a client that leaves does not cancel the invocation, whose body keeps its place.
            let task = tokio::spawn(async move {
                let _place = place;
                forward(&dispatcher, &function, &invocation, request, &target).await
            });
            return task.await.unwrap_or_else(|error| broken_down(&error));
        }
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
        let url = format!("http://{host}{}", target(&parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default()));
        let method = parts.method.clone();
        let called = Arc::clone(&function);
        let large = body.len() > LARGE as usize;
        let prepare = move || {
            let envelope = invocation::http(
                &invocation::Request {
                    binding: &binding,
                    url: &url,
                    method: parts.method.as_str(),
                    query: parts.uri.query(),
                    headers: &parts.headers,
                    names: &parts.extensions.get::<Head>().map(Head::names).unwrap_or_default(),
                    params: &params,
                    body: (!body.is_empty()).then_some(&body[..]),
                    identity: Identity::LocalAdmin,
                },
                &invocation.sys(&called.name),
            );
            (invocation, envelope)
        };
        // A separate task: a client that leaves does not cancel the invocation, whose body keeps its place.
        let task = tokio::spawn(async move {
            let _place = place;
            // A large one takes seconds, in which the thread would answer no other request.
            let (invocation, envelope) = if large { tokio::task::spawn_blocking(prepare).await? } else { prepare() };
            Ok(dispatcher.invoke(&function, &invocation, envelope).await)
        });
        match task.await.flatten() {
            Ok(Ok(Reply::Response(response))) => respond(response, &method),
            Ok(Ok(Reply::None)) => empty(StatusCode::NO_CONTENT),
            Ok(Err(Failed(Some(begun)))) => respond(*begun, &method),
            Ok(Ok(Reply::Failed(..)) | Err(Failed(None))) => empty(StatusCode::INTERNAL_SERVER_ERROR),
            Err(error) => broken_down(&error),
        }
    }

    /// A share of the memory for large bodies, held until the invocation ends.
    fn place_for(&self, body: &Incoming) -> Result<Option<OwnedSemaphorePermit>, Box<HttpResponse>> {
        let size = u32::try_from(body.size_hint().lower()).unwrap_or(u32::MAX);
        if size > MAX_BODY {
            return Err(Box::new(too_large(MAX_BODY)));
        }
        if size <= LARGE {
            return Ok(None);
        }
        Arc::clone(&self.large_bodies).try_acquire_many_owned(size).map(Some).map_err(|_| {
            let mut answer = closing(text(StatusCode::SERVICE_UNAVAILABLE, "the host holds too many large bodies; try again\n"));
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            Box::new(answer)
        })
    }

    /// The handler's own `/metrics`, if it has any: its port is chosen anew at each start, and a scraper needs one that stays. The real
    /// host has no such path.
    async fn metrics(&self) -> HttpResponse {
        // A scraper asks again; a request for a function waits longer.
        let is_up = tokio::time::timeout(METRICS_WAIT, self.dispatcher.handler.wait_until_ready()).await;
        if !is_up.unwrap_or(false) {
            return text(StatusCode::SERVICE_UNAVAILABLE, "no handler is up\n");
        }
        match self.dispatcher.handler.forward(Request::new(Bytes::new()), "metrics", &Exchange::default()).await {
            Ok(answer) => {
                let mut response = Response::new(Full::new(answer.body));
                *response.status_mut() = answer.status;
                let content_type = answer.headers.get(header::CONTENT_TYPE).cloned();
                response.headers_mut().extend(content_type.map(|value| (header::CONTENT_TYPE, value)));
                response
            }
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{error}\n")),
        }
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

fn too_large(most: u32) -> HttpResponse {
    closing(text(StatusCode::PAYLOAD_TOO_LARGE, &format!("send a body of at most {most} bytes\n")))
}

/// Body of a client's request, or the answer if the body is above `most` bytes, broken or late.
async fn collected(body: Incoming, most: u32) -> Result<Bytes, HttpResponse> {
    if body.size_hint().lower() > u64::from(most) {
        return Err(too_large(most));
    }
    let body = Limited::new(body, most as usize);
    read(most, async { body.collect().await.map(http_body_util::Collected::to_bytes) }).await
}

/// Reads a body without keeping it.
async fn drained(body: Incoming) -> Result<Bytes, HttpResponse> {
    let mut body = Limited::new(body, MAX_BODY as usize);
    let reading = async {
        while let Some(frame) = body.frame().await {
            frame?;
        }
        Ok(Bytes::new())
    };
    read(MAX_BODY, reading).await
}

async fn read(
    most: u32,
    reading: impl Future<Output = Result<Bytes, Box<dyn std::error::Error + Send + Sync>>>,
) -> Result<Bytes, HttpResponse> {
    match tokio::time::timeout(BODY_TIMEOUT, reading).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(most)),
        Ok(Err(_)) => Err(closing(empty(StatusCode::BAD_REQUEST))),
        Err(_) => Err(closing(empty(StatusCode::REQUEST_TIMEOUT))),
    }
}

/// Whether a web page sent the request, as the browser's headers say.
fn is_from_web_page(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    headers.contains_key(header::ORIGIN) || site.is_some_and(|site| !matches!(site, b"same-origin" | b"none"))
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

/// Forwards a request and its answer (`enableForwardingHttpRequest`).
async fn forward(
    dispatcher: &Arc<Dispatcher>,
    function: &Callable,
    invocation: &Invocation,
    mut request: Request<Bytes>,
    target: &str,
) -> HttpResponse {
    let id = invocation.id.to_string();
    let headers = request.headers_mut();
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
    let noted = dispatcher.begin(function, invocation);
    dispatcher.saw(function, invocation, &noted, request.body());
    let exchange = dispatcher.exchange(function, invocation);
    let call = async {
        let forwarded = dispatcher.handler.forward(request, target, &exchange).await;
        forwarded.map_err(|error| dispatch::failed(function, invocation, Some(&noted), &error))
    };
    let answered = dispatcher.within_timeout(function, invocation, &noted, &exchange, call).await;
    noted.end(match &answered {
        Ok(answer) => Outcome::Completed(Some(answer.status.as_u16())),
        Err(_) => Outcome::Failed,
    });
    drop(running);
    let Ok(answer) = answered else { return empty(StatusCode::INTERNAL_SERVER_ERROR) };
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = forwarding::answer(&answer.headers);
    *response.extensions_mut() = answer.extensions;
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
