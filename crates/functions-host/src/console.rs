//! Console: a page on which a person sees what the host does, and the JSON behind the page.
//!
//! The page is at `/`. All else is below `/admin/console/`: as on the real host, no function can have a route there. The console is for
//! a browser on this machine, so it exists only while the host listens on the loopback interface, and answers only under its names.

pub(crate) mod body;
mod door;
mod events;
pub mod panel;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::activity::{Activity, Tally};
use crate::app::App;
use crate::app::function::Trigger;
use crate::console::body::Answered;
use crate::console::events::Streams;
use crate::console::panel::{Panel, Query, Refused};
use crate::dispatch::{Callable, Dispatcher};
use crate::handler::client::HOST_VERSION;
use crate::service_bus::broker::{Broker, DEAD_LETTER_SUFFIX, Shown, State, Wanted};
use crate::trigger::manual;

/// Everything of the console but its page.
const ROOT: &str = "/admin/console";
/// Most messages of one answer.
const MESSAGES: u32 = 100;
/// Bytes of a message's body that are shown.
const BODY: u32 = 4096;
/// Bytes of messages after which an answer has no further one.
const ALL_BODIES: usize = 512 * 1024;
/// Largest body of a request: the largest message of a Service Bus queue, written as JSON.
const MAX_BODY: usize = 1024 * 1024;
/// Time for a request's body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Runs of a timer that are told in advance.
const NEXT_RUNS: usize = 3;

/// Only the console's own files are loaded, and it is shown in no other page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";
const PAGE: &str = include_str!("console/page.html");
const STYLE: &str = include_str!("console/page.css");
const SCRIPT: &str = include_str!("console/page.js");
const ICON: &str = include_str!("console/icon.svg");

/// Content of an answer, and its type.
type Content = (StatusCode, &'static str, Answered);

/// The console of one host.
pub(crate) struct Console {
    port: u16,
    dispatcher: Arc<Dispatcher>,
    functions: Vec<Arc<Callable>>,
    /// Functions that do not run, each with the reason.
    idle: Vec<(String, String)>,
    prefix: String,
    /// Whether `/` belongs to a function.
    root_is_taken: bool,
    panel: Option<Arc<dyn Panel>>,
    streams: Streams,
    started: Timestamp,
    name: &'static str,
    data: String,
}

/// Facts about a host that its console shows.
pub(crate) struct Facts {
    /// Port on which the host listens.
    pub(crate) port: u16,
    /// Command that started the host.
    pub(crate) name: &'static str,
    /// Directory of the messages.
    pub(crate) data: String,
}

impl Console {
    /// Prepares the console of a host.
    pub(crate) fn new(
        app: &App,
        dispatcher: Arc<Dispatcher>,
        functions: Vec<Arc<Callable>>,
        panel: Option<Arc<dyn Panel>>,
        facts: Facts,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let disabled = app.disabled.iter().map(|name| (name.clone(), "disabled".to_owned()));
        Self {
            port: facts.port,
            dispatcher,
            functions,
            idle: app.in_error.iter().cloned().chain(disabled).collect(),
            prefix: app.host.http.route_prefix.clone(),
            root_is_taken: app.routes.iter().any(|route| route.matches("/", "GET").is_some()),
            panel,
            streams: Streams::new(stop),
            started: Timestamp::now(),
            name: facts.name,
            data: facts.data,
        }
    }

    /// Whether a request is for the console. `/` is the console's for a browser, which asks for HTML; programs get the line of the host.
    pub(crate) fn takes(&self, request: &Request<Incoming>) -> bool {
        match request.uri().path() {
            "/" => {
                let accepts = |value: &HeaderValue| value.as_bytes().windows(9).any(|part| part.eq_ignore_ascii_case(b"text/html"));
                request.method() == Method::GET
                    && !self.root_is_taken
                    && request.headers().get_all(header::ACCEPT).iter().any(accepts)
                    && door::is_named(request.headers(), self.port)
            }
            path => path.strip_prefix(ROOT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }

    /// Answers a request that the console takes.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Answered> {
        let (status, kind, content) = self.content(request).await;
        let mut answer = Response::new(content);
        *answer.status_mut() = status;
        for (name, value) in [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "no-store"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "same-origin"),
            (header::VARY, "Accept"),
            (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
            (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        ] {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        answer
    }

    async fn content(&self, request: Request<Incoming>) -> Content {
        let (parts, body) = request.into_parts();
        if !door::is_named(&parts.headers, self.port) {
            return problem(StatusCode::MISDIRECTED_REQUEST, "Host is no name of this machine with this port");
        }
        let path = parts.uri.path();
        let path = path.strip_prefix(ROOT).unwrap_or(path);
        let Some(path) = path.strip_prefix("/api/") else {
            return match (path, parts.method == Method::GET) {
                ("" | "/", true) => file("text/html; charset=utf-8", PAGE),
                ("/page.css", true) => file("text/css; charset=utf-8", STYLE),
                ("/page.js", true) => file("text/javascript; charset=utf-8", SCRIPT),
                ("/panel.js", true) => file("text/javascript; charset=utf-8", self.panel.as_ref().map_or("", |panel| panel.script())),
                ("/icon.svg", true) => file("image/svg+xml", ICON),
                _ => problem(StatusCode::NOT_FOUND, "there is nothing here"),
            };
        };
        let path: Vec<&str> = path.split('/').collect();
        match parts.method {
            Method::GET if !door::may_read(&parts.headers) => problem(StatusCode::FORBIDDEN, "only the page of the console reads here"),
            Method::GET if path == ["events"] => match self.streams.open(self.activity().watch()) {
                Some(events) => (StatusCode::OK, "text/event-stream", Answered::Events(events)),
                None => problem(StatusCode::SERVICE_UNAVAILABLE, "too many pages follow; close one"),
            },
            Method::GET => told(self.read(&path, &query(parts.uri.query())).await),
            Method::POST if !door::may_act(&parts.headers) => {
                problem(StatusCode::FORBIDDEN, "send Origin and Content-Type: application/json, as the page of the console does")
            }
            Method::POST => match collected(body, &parts.headers).await {
                Ok(body) => told(self.act(&path, body).await),
                Err((status, text)) => problem(status, text),
            },
            _ => problem(StatusCode::METHOD_NOT_ALLOWED, "GET reads, POST acts"),
        }
    }

    async fn read(&self, path: &[&str], query: &Query) -> Result<Value, Refused> {
        match path {
            ["app"] => Ok(self.app()),
            ["functions"] => Ok(self.functions()),
            ["invocations"] => {
                let mut told = self.activity().since(query.get("since").and_then(|number| number.parse().ok()).unwrap_or(0));
                // Revisions and numbers are those of one start of the host.
                told["startedAt"] = self.started.to_string().into();
                Ok(told)
            }
            ["queues"] => self.queues().await,
            ["messages"] => self.messages(query).await,
            ["panel", source @ ..] => match &self.panel {
                Some(panel) => panel.read(&source.join("/"), query).await,
                None => Err(Refused::Unknown("this handler has no panel".into())),
            },
            _ => Err(Refused::Unknown("there is no such source".into())),
        }
    }

    async fn act(&self, path: &[&str], body: Value) -> Result<Value, Refused> {
        match path {
            ["functions", name, "run"] => {
                let function = self.functions.iter().find(|function| function.name == *name);
                let function = function.ok_or_else(|| Refused::Unknown("there is no such function".into()))?;
                let input = match &body["input"] {
                    Value::Null => "",
                    Value::String(input) => input,
                    _ => return Err(Refused::Wrong("send {\"input\": \"text\"}".into())),
                };
                let id = manual::run(&self.dispatcher, function, input, false).map_err(|refused| match refused {
                    manual::Refused::Http(_) => Refused::Wrong("the function has an HTTP trigger: call its URL".into()),
                    manual::Refused::NoEnvelope => Refused::Unavailable("the host cannot make an invocation of it".into()),
                })?;
                Ok(json!({ "invocation": id }))
            }
            ["panel", action @ ..] => match &self.panel {
                Some(panel) => panel.act(&action.join("/"), body).await,
                None => Err(Refused::Unknown("this handler has no panel".into())),
            },
            _ => Err(Refused::Unknown("there is no such action".into())),
        }
    }

    fn activity(&self) -> &Arc<Activity> {
        &self.dispatcher.activity
    }

    fn broker(&self) -> &Broker {
        &self.dispatcher.broker
    }

    fn app(&self) -> Value {
        json!({
            "name": self.name,
            "hostVersion": HOST_VERSION,
            "state": self.dispatcher.handler.state(),
            "handlerPort": self.dispatcher.handler.port(),
            "data": self.data,
            "startedAt": self.started.to_string(),
            "now": Timestamp::now().to_string(),
            "panel": self.panel.as_ref().is_some_and(|panel| panel.is_there()),
        })
    }

    fn functions(&self) -> Value {
        let running = self.functions.iter().map(|function| {
            let Callable { name, trigger, queues, .. } = &**function;
            let Tally { completed, failed, running } = self.activity().tally_of(name);
            let trigger = match trigger {
                Trigger::Http { route, methods, .. } => {
                    let path = [self.prefix.trim_matches('/'), route.trim_matches('/')];
                    let path: String = path.iter().filter(|part| !part.is_empty()).flat_map(|part| ["/", part]).collect();
                    let methods = methods.as_ref().map(|methods| methods.iter().map(|method| method.to_uppercase()).collect::<Vec<_>>());
                    json!({ "kind": "http", "path": if path.is_empty() { "/" } else { &path }, "methods": methods })
                }
                Trigger::Queue { queue, .. } => json!({ "kind": "queue", "queue": queue }),
                Trigger::Timer { schedule, .. } => {
                    let runs = self.activity().timer_of(name);
                    let first = runs.map(|runs| runs.next).or_else(|| schedule.next(Timestamp::now()));
                    let next = std::iter::successors(first, |run| schedule.next(*run)).take(NEXT_RUNS);
                    let next: Vec<String> = next.map(|run| run.to_string()).collect();
                    json!({ "kind": "timer", "last": runs.and_then(|runs| runs.last).map(|run| run.to_string()), "next": next })
                }
            };
            json!({
                "name": name, "trigger": trigger, "sendsTo": queues, "completed": completed, "failed": failed, "running": running,
                "sample": self.panel.as_ref().and_then(|panel| panel.sample(name)),
            })
        });
        let idle: Vec<Value> = self.idle.iter().map(|(name, reason)| json!({ "name": name, "reason": reason })).collect();
        json!({ "functions": running.collect::<Vec<_>>(), "idle": idle })
    }

    /// Every queue that a function reads or writes, and every other one that holds a message.
    async fn queues(&self) -> Result<Value, Refused> {
        let figures = self.broker().figures().await.map_err(|_| Refused::Unavailable("the queue does not answer".into()))?;
        let count = |queue: &str, what: &str| figures["queues"][queue][what].as_u64().unwrap_or_default();
        let used = self.functions.iter().flat_map(|function| {
            let read = match &function.trigger {
                Trigger::Queue { queue, .. } => Some(queue),
                Trigger::Http { .. } | Trigger::Timer { .. } => None,
            };
            read.into_iter().chain(&function.queues)
        });
        let filled = figures["queues"].as_object().into_iter().flat_map(|queues| queues.keys());
        let mut names: Vec<String> = used.chain(filled).map(|name| name.to_ascii_lowercase()).collect();
        for name in &mut names {
            name.truncate(name.strip_suffix(DEAD_LETTER_SUFFIX).map_or(name.len(), str::len));
        }
        names.sort_unstable();
        names.dedup();
        let shown = names.iter().map(|name| {
            let dead = format!("{name}{DEAD_LETTER_SUFFIX}");
            json!({
                "name": name,
                "active": count(name, "active"), "locked": count(name, "locked"), "scheduled": count(name, "scheduled"),
                "dead": count(&dead, "active") + count(&dead, "locked") + count(&dead, "scheduled"),
            })
        });
        Ok(json!({ "queues": shown.collect::<Vec<_>>(), "maxDeliveries": self.broker().rules().max_delivery_count }))
    }

    async fn messages(&self, query: &Query) -> Result<Value, Refused> {
        let state = query.get("state").map(String::as_str).filter(|state| !state.is_empty());
        let queue = query.get("queue").cloned();
        let (queue, state) = match state {
            None => (queue, None),
            Some("active") => (queue, Some(State::Active)),
            Some("locked") => (queue, Some(State::Locked)),
            Some("scheduled") => (queue, Some(State::Scheduled)),
            Some("dead") => (queue.map(|queue| format!("{queue}{DEAD_LETTER_SUFFIX}")), None),
            Some(_) => return Err(Refused::Wrong("state is active, locked, scheduled or dead".into())),
        };
        let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(MESSAGES).min(MESSAGES);
        let contains = query.get("contains").filter(|text| !text.is_empty()).cloned();
        let wanted = Wanted { queue, state, contains, limit, body: BODY, bytes: ALL_BODIES };
        let messages = self.broker().look(wanted).await.map_err(|_| Refused::Unavailable("the queue does not answer".into()))?;
        Ok(json!({ "messages": messages.iter().map(shown).collect::<Vec<_>>() }))
    }
}

fn shown(message: &Shown) -> Value {
    let (queue, is_dead) = match message.queue.strip_suffix(DEAD_LETTER_SUFFIX) {
        Some(queue) => (queue, true),
        None => (message.queue.as_str(), false),
    };
    let state = match message.state {
        _ if is_dead => "dead",
        State::Active => "active",
        State::Locked => "locked",
        State::Scheduled => "scheduled",
    };
    json!({
        "number": message.sequence_number,
        "queue": queue,
        "state": state,
        "sentAt": message.enqueued_at.to_string(),
        "readyAt": message.ready_at.to_string(),
        "deliveries": message.delivery_count,
        "properties": message.properties,
        "size": message.size,
        "text": String::from_utf8_lossy(&message.body),
        "isWhole": i64::try_from(message.body.len()) == Ok(message.size),
    })
}

/// Query of a target, decoded; of two parameters with one name the last counts.
fn query(query: Option<&str>) -> Query {
    let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(name, value)| (decoded(name), decoded(value))).collect()
}

/// The JSON of a request.
async fn collected(body: Incoming, headers: &HeaderMap) -> Result<Value, (StatusCode, &'static str)> {
    let expected = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if expected.is_some_and(|length| length > MAX_BODY) {
        return Err((StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"));
    }
    let body = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect());
    match body.await {
        Ok(Ok(body)) => serde_json::from_slice(&body.to_bytes()).map_err(|_| (StatusCode::BAD_REQUEST, "the body is not JSON")),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err((StatusCode::PAYLOAD_TOO_LARGE, "the body is too large")),
        Ok(Err(_)) => Err((StatusCode::BAD_REQUEST, "the body is broken off")),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the body is late")),
    }
}

fn file(kind: &'static str, text: &'static str) -> Content {
    (StatusCode::OK, kind, text.into())
}

fn told(answer: Result<Value, Refused>) -> Content {
    match answer {
        Ok(value) => (StatusCode::OK, "application/json", Answered::Whole(Full::new(Bytes::from(value.to_string())))),
        Err(Refused::Unknown(text)) => problem(StatusCode::NOT_FOUND, &text),
        Err(Refused::Wrong(text)) => problem(StatusCode::BAD_REQUEST, &text),
        Err(Refused::Unavailable(text)) => problem(StatusCode::SERVICE_UNAVAILABLE, &text),
    }
}

fn problem(status: StatusCode, text: &str) -> Content {
    let body = json!({ "problem": text }).to_string();
    (status, "application/json", Answered::Whole(Full::new(Bytes::from(body))))
}
