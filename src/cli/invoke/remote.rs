//! An app that runs, in `waybill local` or in Azure: its functions, requests to them, and reports of invocations.

use std::time::Duration;

use functions_host::report;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Url};
use serde_json::{Value, json};

use crate::cli::app_files::INGRESS;
use crate::cli::invoke::input::{Header, Request, Sample};
use crate::cli::invoke::route::Route;
use crate::outbound;

/// Longest wait for an answer: longer than the longest `functionTimeout` that is a default in Azure.
const TIMEOUT: Duration = Duration::from_mins(31);
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 128 * 1024 * 1024;

/// What starts a function.
#[derive(Debug)]
pub(super) enum Trigger {
    /// A request.
    Http(Route),
    /// A message of this queue.
    Queue(String),
    /// A schedule, or something else that needs no input.
    Other,
}

/// A function of the app.
#[derive(Debug)]
pub(super) struct Function {
    /// Name.
    pub(super) name: String,
    /// Trigger.
    pub(super) trigger: Trigger,
    /// Whether a setting switches the function off.
    pub(super) is_disabled: bool,
}

impl Function {
    /// A function as the host's list describes it.
    fn read(listed: &Value) -> Option<Self> {
        let bindings = listed["config"]["bindings"].as_array().map(Vec::as_slice).unwrap_or_default();
        let kind = |binding: &Value| binding["type"].as_str().unwrap_or_default().to_ascii_lowercase();
        let trigger = bindings.iter().find(|binding| kind(binding).ends_with("trigger"));
        let trigger = match trigger.map(|binding| (kind(binding), binding)) {
            Some((kind, binding)) if kind == "httptrigger" => {
                // The host may have escaped the braces.
                let url = listed["invoke_url_template"].as_str().unwrap_or_default().replace("%7B", "{").replace("%7D", "}");
                let path = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest.find('/').map_or("/", |slash| &rest[slash..]));
                let methods = binding["methods"].as_array().into_iter().flatten().filter_map(Value::as_str);
                Trigger::Http(Route::new(path, methods.map(str::to_owned).collect()))
            }
            Some((kind, binding)) if kind != "timertrigger" => Trigger::Queue(binding["queueName"].as_str().unwrap_or_default().to_owned()),
            _ => Trigger::Other,
        };
        Some(Self { name: listed["name"].as_str()?.to_owned(), trigger, is_disabled: listed["isDisabled"] == true })
    }

    /// Input that fits the trigger.
    pub(super) fn sample(&self) -> Sample {
        match &self.trigger {
            Trigger::Http(_) if self.name == INGRESS => Sample::Order,
            Trigger::Http(route) if route.method(false) == "POST" => Sample::Json,
            Trigger::Queue(queue) if queue.ends_with("/$deadletterqueue") => Sample::Text,
            Trigger::Queue(_) if self.name == "OrderProcessor" => Sample::Message,
            Trigger::Queue(_) => Sample::Json,
            Trigger::Http(_) | Trigger::Other => Sample::Nothing,
        }
    }
}

/// An answer, and the report if the host gives one.
#[derive(Debug)]
pub(super) struct Answer {
    /// Method of the request.
    pub(super) method: String,
    /// URL of the request.
    pub(super) url: String,
    /// Status.
    pub(super) status: u16,
    /// Headers.
    pub(super) headers: Vec<(String, String)>,
    /// Body.
    pub(super) body: String,
    /// Report of the invocation.
    pub(super) report: Option<Value>,
}

/// A running app.
pub(super) struct Remote {
    client: Client,
    base: Url,
    has_key: bool,
}

impl Remote {
    /// An app at this URL. `Err`: the key would be sent in the clear.
    pub(super) fn new(base: Url, key: Option<&str>) -> Result<Self, String> {
        let is_local = matches!(base.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            if base.scheme() == "http" && !is_local {
                return Err(format!("{base} is not encrypted, so the key is not sent: use https"));
            }
            let mut value = HeaderValue::from_str(key).map_err(|_| "the key has characters that no key has")?;
            value.set_sensitive(true);
            headers.insert("x-functions-key", value);
        }
        let client = outbound::http::client().default_headers(headers).connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT);
        Ok(Self { client: client.build().map_err(|error| error.to_string())?, base, has_key: key.is_some() })
    }

    /// Every function of the app.
    pub(super) async fn functions(&self) -> Result<Vec<Function>, String> {
        let answer = self.send(Method::GET, "/admin/functions", None, &[]).await?;
        match answer.status {
            200 => {
                let listed: Vec<Value> =
                    serde_json::from_str(&answer.body).map_err(|_| format!("{} is no app of Azure Functions", self.base))?;
                Ok(listed.iter().filter_map(Function::read).collect())
            }
            401 | 403 if self.has_key => {
                Err(format!("{} does not take the key: its functions are told to the master key alone", self.base))
            }
            401 | 403 => Err(format!("{} needs its master key: pass --key-file FILE, or set FUNCTIONS_KEY", self.base)),
            status => Err(format!("{} is no app of Azure Functions that runs: {} is answered with {status}", self.base, answer.url)),
        }
    }

    /// Whether the host gives reports of invocations, as `waybill local` does and Azure does not.
    pub(super) async fn gives_reports(&self) -> Result<bool, String> {
        let answer = self.send(Method::GET, "/admin/host/status", None, &[]).await?;
        let status: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        Ok(answer.status == 200 && status["reports"] == true)
    }

    /// Requests a function with an HTTP trigger.
    pub(super) async fn call(&self, request: Request, headers: &[Header]) -> Result<Answer, String> {
        let method = Method::from_bytes(request.method.as_bytes()).map_err(|error| error.to_string())?;
        self.reported(method, &request.target, request.body, headers).await
    }

    /// Runs any other function.
    pub(super) async fn run(&self, name: &str, input: &str) -> Result<Answer, String> {
        let body = json!({ "input": input }).to_string();
        self.reported(Method::POST, &format!("/admin/functions/{name}"), Some(body), &[]).await
    }

    async fn reported(&self, method: Method, target: &str, body: Option<String>, headers: &[Header]) -> Result<Answer, String> {
        let mut all = headers.to_vec();
        all.push((HeaderName::from_static(report::ASK), HeaderValue::from_static("1")));
        let mut answer = self.send(method, target, body, &all).await?;
        if let Some(place) = answer.headers.iter().position(|(name, _)| name == report::ID) {
            let (_, id) = answer.headers.remove(place);
            let report = self.send(Method::GET, &format!("/admin/invocations/{id}"), None, &[]).await?;
            answer.report = serde_json::from_str(&report.body).ok();
        }
        Ok(answer)
    }

    async fn send(&self, method: Method, target: &str, body: Option<String>, headers: &[Header]) -> Result<Answer, String> {
        let url = self.base.join(target).map_err(|error| format!("{target}: {error}"))?;
        let mut request = self.client.request(method.clone(), url.clone());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(body) = body {
            if !headers.iter().any(|(name, _)| name == CONTENT_TYPE) {
                request = request.header(CONTENT_TYPE, "application/json");
            }
            request = request.body(body);
        }
        let mut response = request.send().await.map_err(|error| self.unreached(&error))?;
        let status = response.status().as_u16();
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let body = outbound::http::body(&mut response, MAX_ANSWER).await.map_err(|error| self.unreached(&error))?;
        let body = body.ok_or_else(|| format!("the answer is larger than {MAX_ANSWER} bytes"))?;
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { method: method.to_string(), url: url.to_string(), status, headers, body, report: None })
    }

    fn unreached(&self, error: &reqwest::Error) -> String {
        let base = self.base.as_str().trim_end_matches('/');
        if error.is_connect() {
            let reason = outbound::http::reason(error);
            return format!("nothing answers at {base} ({reason}): start `waybill local` in the app's folder, or name another --url");
        }
        format!("{base} did not answer: {}", outbound::http::reason(error))
    }
}
