//! Sends messages to the orders' queue; the only module that knows a Service Bus client.
//!
//! The client is `azure_messaging_servicebus` 0.21 (2024, no longer maintained): the last official one that was published, for
//! the REST protocol. It has neither an HTTP client nor a key here: both are ours.
//! What replaces it: the official crate of the same name, which speaks AMQP, once it is published and can schedule (today
//! `publish = false` and a stub, Azure/azure-sdk-for-rust #4934), or our own sender on `azure_core_amqp` 1.2 (rustls, still beta).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use azure_core::credentials::{Secret, TokenCredential};
use azure_core::http::Url;
use azure_core_021::error::ErrorKind;
use azure_core_021::headers::Headers;
use azure_core_021::{Body, HttpClient, Request, Response, StatusCode};
use azure_messaging_servicebus::service_bus::{QueueClient, SendMessageOptions};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderValue, Method, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use sha2::Sha256;
use tokio::time::Instant;
use uuid::Uuid;

use crate::config::identity::Identity;
use crate::config::service_bus::{Access, ServiceBus};
use crate::domain::timestamp::Timestamp;
use crate::outbound;
use crate::outbound::backoff::Backoff;
use crate::outbound::backoff::jittered;

/// From a call to its answer, token and repetitions included: an invocation waits for it.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// Until a connection stands. Less than the deadline, so that a namespace out of reach is known to have got nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A message is tried once more, and once more.
const REPETITIONS: u32 = 2;
/// Mean pauses before the repetitions.
const PAUSE: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_millis(400) };
/// Life of a signature: clocks may differ by minutes.
const SIGNATURE_LIFE: Duration = Duration::from_hours(1);
/// Longest description of a queue.
const MAX_DESCRIPTION: usize = 1024 * 1024;
/// What tokens are asked for.
const SCOPE: &str = "https://servicebus.azure.net/.default";

/// The orders' queue, as we send to it.
#[derive(Debug, Clone)]
pub struct Queue {
    client: QueueClient,
    transport: Arc<Transport>,
    name: String,
}

/// How many messages a queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// To be delivered, or just being worked on.
    pub active: u64,
    /// For later.
    pub scheduled: u64,
    /// Given up.
    pub dead: u64,
}

/// Why a message is not known to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendError {
    /// It was not sent.
    NotSent(String),
    /// It may have been sent.
    Unknown(String),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(reason) => write!(f, "the message was not sent: {reason}"),
            Self::Unknown(reason) => write!(f, "the message may have been sent: {reason}"),
        }
    }
}

impl std::error::Error for SendError {}

impl Queue {
    /// Prepares everything; connects to nothing. `Err`: why there can be no client.
    pub fn new(config: &ServiceBus) -> Result<Self, String> {
        let transport = Arc::new(Transport::new(config)?);
        // Namespace and key of the crate's own are never used: the transport knows better.
        let client = QueueClient::new(Arc::<Transport>::clone(&transport), "namespace", config.queue.as_str(), "policy", String::new());
        Ok(Self { client: client.map_err(|error| error.to_string())?, transport, name: config.queue.clone() })
    }

    /// The queue's name, `OrdersQueue`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a message for now.
    pub async fn send(&self, text: &str) -> Result<(), SendError> {
        self.put(text, None).await
    }

    /// Sends a message that is delivered at `at`, or up to a second later: Service Bus is told whole seconds.
    pub async fn send_at(&self, text: &str, at: Timestamp) -> Result<(), SendError> {
        self.put(text, Some(at)).await
    }

    /// How many messages there are, without a look at any of them ("Get Queue" of the Service Bus management REST reference). Needs
    /// the claim Manage, or the role Azure Service Bus Data Owner.
    pub async fn counts(&self) -> Result<Counts, String> {
        let text = self.transport.get(&format!("/{}", self.name), "api-version=2021-05").await.map_err(|failure| failure.reason)?;
        let count = |name: &str| {
            let (_, rest) = text.split_once(&format!("{name}>"))?;
            rest.split('<').next()?.trim().parse().ok()
        };
        let counts = || {
            Some(Counts {
                active: count("ActiveMessageCount")?,
                scheduled: count("ScheduledMessageCount")?,
                dead: count("DeadLetterMessageCount")?,
            })
        };
        counts().ok_or_else(|| "Service Bus describes the queue without its counts".to_owned())
    }

    async fn put(&self, text: &str, at: Option<Timestamp>) -> Result<(), SendError> {
        // One id for all repetitions: a queue with duplicate detection keeps one of them.
        let mut properties = json!({ "MessageId": Uuid::new_v4().simple().to_string() });
        if let Some(at) = at {
            properties["ScheduledEnqueueTimeUtc"] = http_date(at).into();
        }
        let options = SendMessageOptions {
            // As the host's output binding has it, so that the trigger reads both alike.
            content_type: Some("text/plain".into()),
            // The crate's own form of these writes `+0000` where Service Bus documents `GMT`.
            custom_properties: Some(HashMap::from([("brokerproperties".into(), properties.to_string())])),
            ..SendMessageOptions::default()
        };
        let sent = self.client.send_message(text, Some(options)).await;
        // Whatever is not the transport's own error came before it.
        sent.map_err(|error| error.into_downcast().unwrap_or_else(|error| SendError::NotSent(error.to_string())))
    }
}

/// RFC 1123, as HTTP has it ("Message Headers and Properties" of the Service Bus REST reference); never earlier than `at`.
fn http_date(at: Timestamp) -> String {
    let milliseconds = at.as_milliseconds();
    let seconds = milliseconds.div_euclid(1000) + i64::from(milliseconds.rem_euclid(1000) > 0);
    let moment = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
    moment.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// The crate's way to Service Bus: one namespace, whatever URL it asks for; our own proof of who we are; a deadline.
struct Transport {
    client: reqwest::Client,
    endpoint: Url,
    key: Key,
}

enum Key {
    /// Of a policy, either the namespace's or the queue's own; both sign for the queue.
    Shared {
        name: String,
        key: Secret,
        resource: String,
    },
    Token(Identity, Arc<dyn TokenCredential>),
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transport({})", self.endpoint)
    }
}

/// Why one try failed.
struct Failure {
    reason: String,
    maybe_sent: bool,
    /// Whether another try makes sense, and the shortest pause before it.
    again: Option<Duration>,
}

impl Failure {
    fn not_sent(reason: String) -> Self {
        Self { reason, maybe_sent: false, again: None }
    }
}

#[async_trait]
impl HttpClient for Transport {
    async fn execute_request(&self, request: &Request) -> azure_core_021::Result<Response> {
        let deadline = Instant::now() + DEADLINE;
        let (mut repetitions, mut maybe_sent) = (0, false);
        loop {
            let Err(failure) = self.try_once(request, deadline).await else {
                return Ok(Response::new(StatusCode::Created, Headers::new(), Box::pin(futures_util::stream::empty())));
            };
            // One try that may have reached the queue is enough.
            maybe_sent |= failure.maybe_sent;
            let pause = failure.again.map(|least| least.max(jittered(PAUSE.pause(repetitions), 0.5, 1.5)));
            let Some(pause) = pause.filter(|pause| repetitions < REPETITIONS && Instant::now() + *pause < deadline) else {
                let kind = if maybe_sent { SendError::Unknown } else { SendError::NotSent };
                return Err(azure_core_021::Error::new(ErrorKind::Other, kind(failure.reason)));
            };
            tokio::time::sleep(pause).await;
            repetitions += 1;
        }
    }
}

impl Transport {
    fn new(config: &ServiceBus) -> Result<Self, String> {
        let key = match &config.access {
            Access::Key { name, key } => {
                Key::Shared { name: name.clone(), key: key.clone(), resource: format!("{}{}", config.endpoint, config.queue) }
            }
            Access::Identity(identity) => {
                let credential = crate::outbound::identity::credential(identity)
                    .map_err(|error| format!("there is no credential for {identity}: {error}"))?;
                Key::Token(identity.clone(), credential)
            }
        };
        let client = outbound::http::client().connect_timeout(CONNECT_TIMEOUT).build().map_err(|error| error.to_string())?;
        Ok(Self { client, endpoint: config.endpoint.clone(), key })
    }

    /// Sends once; `Ok` is 201, the one answer that says that Service Bus has the message.
    async fn try_once(&self, request: &Request, deadline: Instant) -> Result<(), Failure> {
        let mut response = self.prepare(request, deadline).await?.send().await.map_err(|error| broken(&error))?;
        let status = response.status().as_u16();
        let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|text| text.to_str().ok()?.parse().ok());
        // Read to its end, the connection is used again; what it says may repeat what was sent.
        while let Ok(Some(_)) = response.chunk().await {}
        let reason = format!("Service Bus answers {status}{}", self.advice(status));
        match status {
            201 => Ok(()),
            429 => Err(Failure { reason, maybe_sent: false, again: Some(Duration::from_secs(retry_after.unwrap_or(0))) }),
            408 | 500.. => Err(Failure { reason, maybe_sent: true, again: Some(Duration::from_secs(retry_after.unwrap_or(0))) }),
            // Whoever that was.
            ..300 => Err(Failure { reason, maybe_sent: true, again: None }),
            _ => Err(Failure::not_sent(reason)),
        }
    }

    /// Reads what stands at a path of the namespace; at most a mebibyte.
    async fn get(&self, path: &str, query: &str) -> Result<String, Failure> {
        let deadline = Instant::now() + DEADLINE;
        let mut url = self.endpoint.clone();
        url.set_path(path);
        url.set_query(Some(query));
        let request = self.client.get(url).header(header::AUTHORIZATION, self.header(deadline).await?);
        let left = deadline.saturating_duration_since(Instant::now());
        let mut response = request.timeout(left).send().await.map_err(|error| broken(&error))?;
        let status = response.status().as_u16();
        let body = outbound::http::body(&mut response, MAX_DESCRIPTION).await.map_err(|error| broken(&error))?;
        let body = body.ok_or_else(|| Failure::not_sent("the answer of Service Bus is too long".into()))?;
        match status {
            200 => Ok(String::from_utf8_lossy(&body).into_owned()),
            401 | 403 => Err(Failure::not_sent(format!(
                "Service Bus answers {status}: counting needs the role Azure Service Bus Data Owner, or the claim Manage"
            ))),
            _ => Err(Failure::not_sent(format!("Service Bus answers {status}{}", self.advice(status)))),
        }
    }

    async fn header(&self, deadline: Instant) -> Result<HeaderValue, Failure> {
        let authorization = HeaderValue::from_str(&self.authorization(deadline).await?);
        let mut authorization = authorization.map_err(|_| Failure::not_sent("the token is none for HTTP".into()))?;
        authorization.set_sensitive(true);
        Ok(authorization)
    }

    async fn prepare(&self, request: &Request, deadline: Instant) -> Result<reqwest::RequestBuilder, Failure> {
        let Body::Bytes(body) = request.body() else { return Err(Failure::not_sent("its body is a stream".into())) };
        let method = Method::from_bytes(request.method().as_ref().as_bytes()).unwrap_or_default();
        let mut prepared = self.client.request(method, self.pinned(request.url())).body(body.clone());
        for (name, value) in request.headers().iter().filter(|(name, _)| name.as_str() != header::AUTHORIZATION.as_str()) {
            prepared = prepared.header(name.as_str(), value.as_str());
        }
        let authorization = self.header(deadline).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        Ok(prepared.header(header::AUTHORIZATION, authorization).timeout(left))
    }

    /// The same path at our namespace. URLs also come from servers (`Location`), and none of them is to get our token.
    fn pinned(&self, url: &Url) -> Url {
        let mut pinned = self.endpoint.clone();
        pinned.set_path(url.path());
        pinned.set_query(url.query());
        pinned
    }

    async fn authorization(&self, deadline: Instant) -> Result<String, Failure> {
        match &self.key {
            Key::Shared { name, key, resource } => Ok(sign(resource, name, key)),
            Key::Token(identity, credential) => {
                let refused = |reason: &dyn fmt::Display| Failure::not_sent(format!("no token for {identity}: {reason}"));
                let token = tokio::time::timeout_at(deadline, credential.get_token(&[SCOPE], None)).await;
                let token = token.map_err(|_| refused(&"none came in time"))?.map_err(|error| refused(&error))?;
                Ok(format!("Bearer {}", token.token.secret()))
            }
        }
    }

    /// What to do about an answer.
    fn advice(&self, status: u16) -> String {
        match (status, &self.key) {
            (401 | 403, Key::Token(identity, _)) => format!(": give {identity} the role Azure Service Bus Data Sender"),
            (401 | 403, Key::Shared { name, .. }) => format!(": the policy {name} must exist, have this key and allow to send"),
            (404 | 410, _) => ": there must be a queue with the name that OrdersQueue has".into(),
            _ => String::new(),
        }
    }
}

/// What broke before there was an answer.
fn broken(error: &reqwest::Error) -> Failure {
    let reason = if error.is_timeout() { "no answer came in time".into() } else { outbound::http::reason(error) };
    Failure { reason, maybe_sent: !error.is_connect() && !error.is_builder(), again: (!error.is_builder()).then_some(Duration::ZERO) }
}

/// A shared access signature ("Service Bus access control with Shared Access Signatures"). The crate's own names a host that
/// neither national clouds nor local ones have.
fn sign(resource: &str, name: &str, key: &Secret) -> String {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (resource, expiry) = (encoded(resource), (now + SIGNATURE_LIFE).as_secs());
    // The key is its text; it is not decoded.
    let mut mac = Hmac::<Sha256>::new_from_slice(key.secret().as_bytes()).expect("HMAC takes a key of any length");
    mac.update(format!("{resource}\n{expiry}").as_bytes());
    let signature = encoded(&STANDARD.encode(mac.finalize().into_bytes()));
    format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}&skn={}", encoded(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_in_whole_seconds_and_never_early() {
        let date = |milliseconds| http_date(Timestamp::from_milliseconds(milliseconds));

        assert_eq!(date(784_111_777_000), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(784_111_776_001), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn whatever_url_is_asked_for_the_namespace_is_asked() {
        let endpoint = Url::parse("https://shop.servicebus.windows.net/").unwrap();
        let access = Access::Key { name: "send".into(), key: Secret::new("key") };
        let transport = Transport::new(&ServiceBus { endpoint, access, queue: "orders".into() }).unwrap();

        for (asked, pinned) in [
            ("https://namespace.servicebus.windows.net/orders/messages", "https://shop.servicebus.windows.net/orders/messages"),
            ("http://thief.example:81/orders/messages/1/lock?x=1", "https://shop.servicebus.windows.net/orders/messages/1/lock?x=1"),
            ("https://user:word@thief.example//thief.example/a", "https://shop.servicebus.windows.net//thief.example/a"),
        ] {
            assert_eq!(transport.pinned(&Url::parse(asked).unwrap()).as_str(), pinned);
        }
    }
}
