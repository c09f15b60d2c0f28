//! The work behind HTTP: one call, answered at once, line by line, or later (202 and `Location`).
//!
//! Answers of the backend stay within this program, except a result, a problem's title and detail, an error's code and message, and
//! the name of a stage: those reach the customer, cut and without control characters. Bodies are never logged.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use parking_lot::Mutex;
use reqwest::{Client, RequestBuilder, Response, Url};
use serde::Deserialize;
use serde_json::value::RawValue;
use serving::trace;
use tokio::sync::watch;
use tracing::{Instrument, info, warn};
use uuid::Uuid;

use crate::config;
use crate::config::fulfillment::{BREAKER_FAILURES, MAX_BREAKER_PAUSE};
use crate::domain::json::Json;
use crate::domain::lifecycle::Verdict;
use crate::domain::record::{Failure, Record};
use crate::domain::tracking::TrackingId;
use crate::fulfillment::work::{Done, Failed, Job, MAX_RESULT, Work, clean};
use crate::fulfillment::{Outcome, Step};
use crate::metrics::{Dependency, METRICS, Method, StatusClass};
use crate::outbound;
use crate::outbound::backoff::Backoff;
use crate::outbound::breaker::{self, Breaker, Caller, Permit};

/// Longest time to connect: within a data centre it takes milliseconds, and an absent backend is known soon.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time after which an idle connection is closed: sooner than usual servers close it (Node.js: five seconds), since a request on a
/// connection that the server is closing costs a try.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// Longest part of a problem that is read, in bytes.
const MAX_PROBLEM: usize = 16 * 1024;
/// The trace that a request belongs to (W3C Trace Context).
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Pauses between two polls where the backend names none.
const POLL: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(10) };
/// Shortest pause between two polls, where the backend names a shorter one.
const MIN_ASKED_POLL: Duration = Duration::from_millis(200);
/// Longest pause between two polls, where the backend names a longer one.
const MAX_ASKED_POLL: Duration = Duration::from_secs(30);
/// Longest pause before another try that the backend may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);
/// The share of one call in the mean: one in this many.
const MEAN_OF: u32 = 5;

const UNAVAILABLE: &str = "backend_unavailable";

/// An HTTP service that does the work.
#[derive(Debug)]
pub struct Backend {
    client: Client,
    url: Url,
    timeout: Duration,
    authorization: Option<HeaderValue>,
    breaker: Arc<Breaker>,
    /// The mean time of recent calls.
    mean: Mutex<Option<Duration>>,
}

/// The reason why there is no result.
enum Trouble {
    /// The backend's own verdict.
    Refused(Failure),
    /// An answer that cannot be understood, and would not be at another try.
    Final(Failure),
    /// The backend answers, and asks for another try.
    Busy(Failure, Option<Duration>),
    /// The backend does not answer in time or to the end, or answers that it failed: in general, or for this order alone.
    Down(Failure, Option<Duration>),
    /// A transport error between this program and the backend.
    Broken(reqwest::Error),
}

impl From<reqwest::Error> for Trouble {
    fn from(error: reqwest::Error) -> Self {
        Self::Broken(error)
    }
}

impl Backend {
    /// Prepares everything; connects to nothing. One client makes all calls. The client keeps connections but no cookies, follows
    /// no redirects (an order and its `Authorization` go only where the setting says), and uses no proxy from the environment: such
    /// a proxy is for the internet, and a backend is usually inside the network.
    pub fn new(config: &config::fulfillment::Http) -> Result<Self, String> {
        let pauses = Backoff { first: config.breaker_pause, longest: MAX_BREAKER_PAUSE };
        info!(backend.origin = config.url.origin().ascii_serialization(), "orders are worked on by an HTTP backend");
        let client = outbound::http::client().connect_timeout(CONNECT_TIMEOUT).pool_idle_timeout(IDLE_TIMEOUT).build();
        let client = client.map_err(|error| error.to_string())?;
        Ok(Self {
            client,
            url: config.url.clone(),
            timeout: config.timeout,
            authorization: config.authorization.clone(),
            breaker: Arc::new(Breaker::new(Dependency::Backend, BREAKER_FAILURES, pauses)),
            mean: Mutex::default(),
        })
    }

    /// The headers of every request for an order. The key stays the same until the backend has given its verdict, so that a backend
    /// that honours the key does the work once; a re-drive after a verdict has another key, and is not answered with the old
    /// failure.
    fn headers(&self, record: &Record) -> HeaderMap {
        let key = HeaderValue::try_from(format!("{}/{}", record.tracking_id, record.key_life())).expect("two UUIDs are visible ASCII");
        let mut headers = HeaderMap::from_iter([
            (ACCEPT, HeaderValue::from_static("application/json, application/x-ndjson")),
            (HeaderName::from_static("prefer"), HeaderValue::from_static("respond-async")),
            (HeaderName::from_static("idempotency-key"), key),
            (HeaderName::from_static("x-waybill-attempt"), record.attempt.into()),
        ]);
        let traceparent = record.metadata.traceparent.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
        headers.extend(traceparent.map(|value| (TRACEPARENT, value)));
        headers.extend(self.authorization.clone().map(|value| (AUTHORIZATION, value)));
        headers
    }
}

impl Work for Backend {
    /// Calls once for a claimed order, polls included, and passes progress on. The call is dropped when the worker has lost the order.
    async fn run(&self, job: Job) -> Result<Done, Failed> {
        let Job { record, mut permit, progress, .. } = job;
        let started = Instant::now();
        let headers = self.headers(&record);
        let call = Call { client: &self.client, timeout: self.timeout, url: &self.url, tracking_id: record.tracking_id, headers, progress };
        let ended = tokio::time::timeout(self.timeout, call.run(record.order.get(), &mut permit))
            .await
            .unwrap_or_else(|_| Err(Trouble::Down(Failure::new("backend_timeout", "the backend did not do the order in time"), None)));
        let was_there = match &ended {
            Err(Trouble::Broken(error)) if error.is_connect() => Err(breaker::Failed::Unreachable),
            // An order that the backend cannot digest may crash it, hang it, or get a 500 from it, while all others are done.
            Err(Trouble::Broken(_) | Trouble::Down(..)) => Err(breaker::Failed::ForCaller),
            _ => Ok(()),
        };
        permit.end_with(was_there, Instant::now());
        if matches!(ended, Ok(_) | Err(Trouble::Refused(_) | Trouble::Final(_))) {
            let mut mean = self.mean.lock();
            let took = started.elapsed();
            *mean = Some(mean.map_or(took, |mean| (mean * (MEAN_OF - 1) + took) / MEAN_OF));
        }
        let failed = match ended {
            Ok(result) => return Ok(Done(result)),
            Err(Trouble::Refused(failure)) => Outcome::Ended(Verdict::Refused(failure)),
            Err(Trouble::Final(failure)) => Outcome::Ended(Verdict::Failed(failure)),
            Err(Trouble::Busy(failure, after) | Trouble::Down(failure, after)) => Outcome::Again(failure, after),
            Err(Trouble::Broken(error)) => {
                let reason = outbound::http::reason(&error);
                warn!(order.tracking_id = %record.tracking_id, order.attempt = record.attempt, reason, "a call to the backend broke off");
                let reached = if error.is_connect() { "the backend could not be reached" } else { "the backend's answer broke off" };
                Outcome::Again(Failure::new(UNAVAILABLE, reached), None)
            }
        };
        Err(Failed(failed))
    }

    /// The mean time of recent calls that gave a verdict, exponentially weighted; a second before the first.
    fn estimate(&self) -> Duration {
        self.mean.lock().unwrap_or(Duration::from_secs(1))
    }

    fn admit(&self, record: &Record) -> Result<Permit, Duration> {
        let order = Caller { id: Uuid::from_bytes(*record.tracking_id.as_bytes()), has_failed: record.error.is_some() };
        self.breaker.admit_for(order, Instant::now())
    }

    fn breaker(&self) -> &'static str {
        self.breaker.as_str()
    }
}

/// One order's call.
struct Call<'a> {
    client: &'a Client,
    timeout: Duration,
    url: &'a Url,
    tracking_id: TrackingId,
    headers: HeaderMap,
    progress: watch::Sender<Option<Step>>,
}

impl Call<'_> {
    async fn run(&self, order: &str, permit: &mut Permit) -> Result<Arc<RawValue>, Trouble> {
        let request = self.client.post(self.url.clone()).header(CONTENT_TYPE, "application/json").body(order.to_owned());
        let response = self.send(request).await?;
        if response.status().is_success() {
            permit.is_answered();
        }
        match response.status() {
            StatusCode::ACCEPTED => self.poll(response).await,
            status if !status.is_success() => Err(self.refusal(response).await),
            _ if has_type(&response, "application/x-ndjson") => self.follow(response).await,
            _ => self.whole_result(response).await,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, reqwest::Error> {
        let mut request = request.headers(self.headers.clone()).build()?;
        let url = request.url();
        let noted = trace::Request::begin(request.method().as_str(), url.host_str(), url.port_or_known_default());
        let traceparent = noted.span().in_scope(trace::traceparent).and_then(|text| HeaderValue::try_from(text).ok());
        if let Some(traceparent) = traceparent {
            request.headers_mut().insert(TRACEPARENT, traceparent);
        }
        let method = if request.method() == reqwest::Method::POST { Method::Post } else { Method::Get };
        let started = Instant::now();
        let answer = self.client.execute(request).instrument(noted.span().clone()).await;
        let status = answer.as_ref().ok().map(|answer| answer.status().as_u16());
        METRICS.backend_duration.time((method, StatusClass::of_status(status)), started.elapsed());
        match status {
            Some(status) => noted.answered(status),
            None => noted.unanswered("broken_off", "the backend could not be reached, or its answer broke off"),
        }
        answer
    }

    /// Polls `Location` until there is a verdict; otherwise only the call's deadline ends it.
    async fn poll(&self, mut response: Response) -> Result<Arc<RawValue>, Trouble> {
        let nowhere = || Trouble::Final(invalid("the backend took the order and did not say where to ask for it"));
        let mut url = location(&response, self.url).ok_or_else(nowhere)??;
        let mut polls = 0;
        // The body of a 202 may report progress, and may be anything else.
        if let Some(members) = read(&mut response, MAX_RESULT).await.ok().as_deref().and_then(members) {
            self.tell(&members);
        }
        loop {
            let asked = outbound::http::retry_after(response.headers());
            tokio::time::sleep(asked.map_or(POLL.pause(polls), |asked| asked.clamp(MIN_ASKED_POLL, MAX_ASKED_POLL))).await;
            polls += 1;
            response = self.send(self.client.get(url.clone())).await?;
            let status = response.status();
            if status == StatusCode::SEE_OTHER {
                let elsewhere = location(&response, &url).ok_or_else(|| redirected(status))??;
                response = self.send(self.client.get(elsewhere)).await?;
                return match response.status() {
                    StatusCode::ACCEPTED => Err(Trouble::Final(invalid("the backend says where its result is, and it is not there"))),
                    status if !status.is_success() => Err(self.lost_sight(response).await),
                    _ => self.whole_result(response).await,
                };
            }
            if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
                // The backend took the order, and has lost it since: the same key asks for it again.
                return Err(Trouble::Busy(
                    Failure::new(UNAVAILABLE, format!("the backend lost the order (HTTP {})", status.as_u16())),
                    None,
                ));
            }
            if !status.is_success() {
                return Err(self.lost_sight(response).await);
            }
            if status == StatusCode::ACCEPTED {
                url = location(&response, &url).unwrap_or(Ok(url))?;
            }
            let is_end_told = is_end_told(&response);
            let body = read(&mut response, MAX_RESULT).await;
            let body = if status == StatusCode::ACCEPTED { body.unwrap_or_default() } else { body? };
            let members = members(&body).unwrap_or_default();
            match text(&members, "status").map(|text| text.to_ascii_lowercase()).as_deref() {
                _ if status == StatusCode::ACCEPTED => self.tell(&members),
                // The result itself stands where the operation stood.
                None => return self.result(&body, is_end_told),
                Some("completed" | "succeeded") => {
                    return self.result(members.get("result").map_or(&body, |result| result.get().as_bytes()), true);
                }
                Some("failed" | "cancelled" | "canceled") => return Err(failed(&members)),
                Some(_) => self.tell(&members),
            }
        }
    }

    /// The meaning of an answer that is no success. Only 400 and 422 are surely about the order itself, with nothing done for it;
    /// other codes may come from a proxy before the backend.
    async fn refusal(&self, mut response: Response) -> Trouble {
        let status = response.status();
        let after = outbound::http::retry_after(response.headers()).map(|after| after.min(MAX_RETRY_AFTER));
        let failure = |code| Failure::new(code, format!("the backend cannot do the order now (HTTP {})", status.as_u16()));
        match status.as_u16() {
            300..=399 => redirected(status),
            425 => Trouble::Busy(failure(UNAVAILABLE), after),
            // An earlier request under this key is still being worked on (draft-ietf-httpapi-idempotency-key-header-07, section
            // 2.6), for example one that this program sent before it was killed. Five tries together give it the time of one.
            409 => Trouble::Busy(failure("backend_busy"), after.or(Some(self.timeout / 4))),
            429 => Trouble::Busy(failure("backend_busy"), after),
            408 | 500.. => Trouble::Down(failure(UNAVAILABLE), after),
            status => {
                let problem = has_type(&response, "application/problem+json");
                let body = if problem { read(&mut response, MAX_PROBLEM).await.unwrap_or_default() } else { Vec::new() };
                let members = members(&body).unwrap_or_default();
                let told = ["title", "detail"].into_iter().filter_map(|name| text(&members, name));
                let message: Vec<_> = std::iter::once(format!("the backend refused the order (HTTP {status})")).chain(told).collect();
                let failure = Failure::new("backend_rejected", message.join(": "));
                if matches!(status, 400 | 422) { Trouble::Refused(failure) } else { Trouble::Final(failure) }
            }
        }
    }

    /// The meaning of such an answer for an order that the backend has taken: the work may be done already, or later, whatever the
    /// answer says.
    async fn lost_sight(&self, response: Response) -> Trouble {
        match self.refusal(response).await {
            Trouble::Refused(failure) => Trouble::Final(failure),
            other => other,
        }
    }

    /// Reads line by line until one has a verdict.
    async fn follow(&self, mut response: Response) -> Result<Arc<RawValue>, Trouble> {
        let is_end_told = is_end_told(&response);
        let mut unread = Vec::new();
        while let Some(line) = next_line(&mut response, &mut unread).await? {
            // Empty lines keep connections alive.
            if line.trim_ascii().is_empty() {
                continue;
            }
            let is_whole = is_end_told || line.ends_with(b"\n");
            let no_object = || {
                if is_whole { Trouble::Final(invalid("a line of the backend's answer is no JSON object")) } else { broken_off() }
            };
            let members = members(&line).ok_or_else(no_object)?;
            let is_step = members.contains_key("progress") || members.contains_key("stage");
            // Many serialisers write an absent member as null, which must not end an order.
            let is_told = |raw: &RawValue| raw.get() != "null";
            if let Some(told) = members.get("result").filter(|raw| is_told(raw) || !is_step) {
                return self.result(told.get().as_bytes(), true);
            }
            if members.get("error").is_some_and(|raw| is_told(raw)) {
                return Err(failed(&members));
            }
            self.tell(&members);
        }
        Err(Trouble::Down(Failure::new(UNAVAILABLE, "the backend's answer ended before its result"), None))
    }

    /// The whole answer as the result.
    async fn whole_result(&self, mut response: Response) -> Result<Arc<RawValue>, Trouble> {
        let is_end_told = is_end_told(&response);
        self.result(&read(&mut response, MAX_RESULT).await?, is_end_told)
    }

    /// A text as the result of work that is done; an empty text is `null`. A result that some client could not read is left out: its
    /// order is done all the same. Without a told end, what is no whole JSON was cut off.
    fn result(&self, text: &[u8], is_end_told: bool) -> Result<Arc<RawValue>, Trouble> {
        if text.len() > MAX_RESULT {
            return Err(too_large());
        }
        let decoded = String::from_utf8_lossy(text);
        let json = match decoded.strip_prefix('\u{feff}').unwrap_or(&decoded).trim_ascii() {
            "" if !is_end_told => return Err(broken_off()),
            "" => "null",
            json => json,
        };
        let no_json = |_| if is_end_told { Trouble::Final(invalid("the backend's answer is no JSON")) } else { broken_off() };
        let raw = RawValue::from_string(json.to_owned()).map_err(no_json)?;
        let flaw = match Json::parse(json) {
            _ if matches!(decoded, Cow::Owned(_)) => "it is not UTF-8".to_owned(),
            Err(error) => error.to_string(),
            Ok(json) if !json.has_readable_numbers() => "a number in it is too large or too long".into(),
            Ok(_) => return Ok(raw.into()),
        };
        warn!(order.tracking_id = %self.tracking_id, flaw, "the backend did the order, and its result is left out: clients could not read it");
        Ok(null())
    }

    /// Moves progress, if this line reports a new value.
    fn tell(&self, members: &Members<'_>) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and 100 then")]
        let percent = |percent: f64| percent.clamp(0.0, 100.0) as u8;
        let progress = members.get("progress").and_then(|raw| serde_json::from_str(raw.get()).ok()).map(percent);
        let stage = text(members, "stage").map(Cow::Owned);
        if progress.is_none() && stage.is_none() {
            return;
        }
        self.progress.send_if_modified(|latest| {
            let step = latest.clone().unwrap_or(Step { progress: 0, stage: Cow::Borrowed("working") });
            let next = Some(Step { progress: progress.unwrap_or(step.progress), stage: stage.unwrap_or(step.stage) });
            let is_new = *latest != next;
            *latest = next;
            is_new
        });
    }
}

/// A JSON object, its values unread.
type Members<'a> = BTreeMap<String, &'a RawValue>;

fn members(body: &[u8]) -> Option<Members<'_>> {
    serde_json::from_slice(body).ok()
}

/// A member that is a non-empty string, made fit to be shown.
fn text(members: &Members<'_>, name: &str) -> Option<String> {
    let text = Cow::<str>::deserialize(*members.get(name)?).ok()?;
    Some(clean(&text)).filter(|text| !text.is_empty())
}

/// The result `null`.
fn null() -> Arc<RawValue> {
    RawValue::NULL.to_owned().into()
}

/// The backend's own verdict: the work cannot be done; or not yet, where the answer says so.
fn failed(members: &Members<'_>) -> Trouble {
    // Not a `serde_json::Value`, for which some names of members are reserved.
    let error: Members<'_> = members.get("error").and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
    let told = [text(&error, "code"), text(&error, "message"), text(members, "error")];
    let message: Vec<_> = std::iter::once("the backend failed the order".to_owned()).chain(told.into_iter().flatten()).collect();
    let failure = Failure::new("backend_failed", message.join(": "));
    match members.get("retryable").map(|raw| raw.get()) {
        Some("true") => Trouble::Busy(failure, None),
        _ => Trouble::Refused(failure),
    }
}

fn invalid(message: &str) -> Failure {
    Failure::new("invalid_result", message)
}

fn broken_off() -> Trouble {
    Trouble::Down(Failure::new(UNAVAILABLE, "the backend's answer broke off"), None)
}

fn too_large() -> Trouble {
    Trouble::Final(Failure::new("result_too_large", format!("the backend's result is larger than {} KiB", MAX_RESULT / 1024)))
}

fn redirected(status: StatusCode) -> Trouble {
    Trouble::Final(Failure::new("backend_redirected", format!("the backend leads elsewhere (HTTP {})", status.as_u16())))
}

/// `Location`, if it leads to the same origin: no other server may see the requests for an order.
fn location(response: &Response, base: &Url) -> Option<Result<Url, Trouble>> {
    let value = response.headers().get(LOCATION)?;
    let url = value.to_str().ok().and_then(|text| base.join(text).ok());
    // A user in the URL would take the place of the `Authorization` of the settings.
    let own = |url: &Url| url.origin() == base.origin() && url.username().is_empty() && url.password().is_none();
    Some(url.filter(own).ok_or_else(|| redirected(response.status())))
}

/// Whether the response says where its body ends. Without that, HTTP/1 cannot tell the end of a body from a connection that broke.
fn is_end_told(response: &Response) -> bool {
    let says = |name| response.headers().contains_key(name);
    response.status() == StatusCode::NO_CONTENT || response.version() >= Version::HTTP_2 || says(CONTENT_LENGTH) || says(TRANSFER_ENCODING)
}

fn has_type(response: &Response, wanted: &str) -> bool {
    let value = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case(wanted))
}

/// A body of at most `limit` bytes.
async fn read(response: &mut Response, limit: usize) -> Result<Vec<u8>, Trouble> {
    outbound::http::body(response, limit).await?.ok_or_else(too_large)
}

/// The next line, with its line break; the last line need not have one.
async fn next_line(response: &mut Response, unread: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Trouble> {
    loop {
        if let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let rest = unread.split_off(end + 1);
            return Ok(Some(std::mem::replace(unread, rest)));
        }
        if unread.len() > MAX_RESULT {
            return Err(too_large());
        }
        match response.chunk().await? {
            Some(chunk) => unread.extend_from_slice(&chunk),
            None => return Ok((!unread.is_empty()).then(|| std::mem::take(unread))),
        }
    }
}
