//! Admin endpoints of the host, without keys, as under `func start`; and reports of invocations, which are this host's own.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::App;
use crate::dispatch::{Callable, Invocation};
use crate::handler::client::HOST_VERSION;
use crate::report;
use crate::trigger::http::{Front, HttpResponse, collected, empty, is_from_web_page, is_json, json_answer, text};
use crate::trigger::manual;

/// Largest body of a run by hand, which becomes one message: the largest message of a Service Bus queue.
const MAX_INPUT: u32 = 256 * 1024;
/// Beginning of the paths of reports.
const REPORTS: &str = "/admin/invocations/";

/// Whether a path is the host's own, so that no function gets its requests.
pub(super) fn is_own(path: &str) -> bool {
    path == "/admin/functions" || ["/admin/host/", "/admin/functions/", REPORTS].iter().any(|own| path.starts_with(own))
}

/// A function as the host's list of functions has it.
pub(super) struct Listed {
    name: String,
    /// Contents of its `function.json`.
    config: Value,
    /// Path below the host, for an HTTP trigger.
    path: Option<String>,
    is_disabled: bool,
}

/// Every function that can run or is switched off.
pub(super) fn listed(app: &App) -> Vec<Listed> {
    let paths = app.urls("");
    let running = app.functions.iter().map(|function| (&function.name, false));
    let all = running.chain(app.disabled.iter().map(|name| (name, true)));
    all.map(|(name, is_disabled)| {
        let text = host_json::text_of(&app.root.join(name).join("function.json"));
        let config = text.and_then(|text| host_json::parse(&text)).unwrap_or_default();
        Listed { name: name.clone(), config, path: paths.get(name).cloned(), is_disabled }
    })
    .collect()
}

/// Adds the id under which the report of an invocation is.
pub(super) fn name_report(answer: &mut HttpResponse, id: Option<Uuid>) {
    if let Some(value) = id.and_then(|id| HeaderValue::from_str(&id.to_string()).ok()) {
        answer.headers_mut().insert(report::ID, value);
    }
}

impl Front {
    /// A new invocation of a function, with a report if the request asks for one. The handler is told nothing of that. A client
    /// elsewhere gets no report: one has the lines about every id in its request, such as that of an order of another client.
    pub(super) fn invocation(&self, function: &Callable, headers: &mut HeaderMap) -> Invocation {
        let mut invocation = Invocation::new();
        if headers.remove(report::ASK).is_some() && self.is_for_this_machine {
            invocation.report = Some(self.dispatcher.activity.reports.ask(invocation.id, &function.name));
        }
        invocation
    }

    pub(super) async fn admin(self: &Arc<Self>, request: Request<Incoming>) -> HttpResponse {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().trim_end_matches('/').to_owned();
        match (&parts.method, path.as_str()) {
            (&Method::GET | &Method::POST, "/admin/host/ping") => empty(StatusCode::OK),
            (&Method::GET, "/admin/host/status") => {
                let queue = self.dispatcher.broker.figures().await.unwrap_or_default();
                let status = json!({
                    "id": "functions-host",
                    "state": self.dispatcher.handler.state(),
                    "version": HOST_VERSION,
                    "processUptime": u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
                    "handlerPort": self.dispatcher.handler.port(),
                    "reports": self.is_for_this_machine,
                    "serviceBus": queue,
                });
                json_answer(StatusCode::OK, &status)
            }
            (&Method::GET, "/admin/functions") => {
                let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
                json_answer(StatusCode::OK, &self.listed.iter().map(|listed| listed.shown(host)).collect())
            }
            (&Method::GET, path) if path.starts_with(REPORTS) => {
                let Ok(id) = path[REPORTS.len()..].parse() else { return empty(StatusCode::NOT_FOUND) };
                match self.dispatcher.activity.reports.take(id).await {
                    Some(report) => json_answer(StatusCode::OK, &report),
                    None => empty(StatusCode::NOT_FOUND),
                }
            }
            (&Method::POST, path) => match path.strip_prefix("/admin/functions/") {
                Some(_) if is_from_web_page(&parts.headers) && !is_json(&parts.headers) => {
                    text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a web page must send Content-Type: application/json\n")
                }
                Some(name) => match collected(body, MAX_INPUT).await {
                    Ok(body) => self.run_by_hand(name, &body, &parts.headers),
                    Err(answer) => answer,
                },
                None => empty(StatusCode::NOT_FOUND),
            },
            _ => empty(StatusCode::NOT_FOUND),
        }
    }

    /// `POST /admin/functions/{name}` with `{"input": "text"}`: 202, and the function runs.
    fn run_by_hand(self: &Arc<Self>, name: &str, body: &[u8], headers: &HeaderMap) -> HttpResponse {
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
        let is_reported = self.is_for_this_machine && headers.contains_key(report::ASK);
        match manual::run(&self.dispatcher, function, input.as_deref().unwrap_or_default(), is_reported) {
            Ok(id) => {
                let mut answer = empty(StatusCode::ACCEPTED);
                name_report(&mut answer, is_reported.then_some(id));
                answer
            }
            Err(manual::Refused::Http(route)) => {
                let prefix = if self.prefix.is_empty() { String::new() } else { format!("/{}", self.prefix) };
                text(StatusCode::BAD_REQUEST, &format!("{} has an HTTP trigger: call {prefix}/{route}\n", function.name))
            }
            Err(manual::Refused::NoEnvelope) => empty(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

impl Listed {
    /// The form of the host (`FunctionMetadataResponse.cs`), without the addresses of files.
    fn shown(&self, host: &str) -> Value {
        let url = self.path.as_ref().map(|path| format!("http://{host}/{}", path.trim_start_matches('/')));
        json!({
            "name": self.name,
            "config": self.config,
            "href": format!("http://{host}/admin/functions/{}", self.name),
            "invoke_url_template": url,
            "language": "custom",
            "isDisabled": self.is_disabled,
        })
    }
}
