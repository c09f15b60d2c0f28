//! Sends messages to the orders' queue; the only module that uses the Service Bus client.
//!
//! The client is `azure_messaging_servicebus` 0.21 (2024, no longer maintained), the last official crate that was published. It uses
//! the REST protocol; HTTP client and authorization are our own.
//! Possible replacements: the official crate of the same name for AMQP, once it is published and can schedule messages (today
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
use jiff::SignedDuration;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use serving::trace::{self, SPANS};
use sha2::Sha256;
use tokio::time::Instant;
use tracing::{Instrument, info_span};
use uuid::Uuid;

use crate::config::identity::Identity;
use crate::config::service_bus::{Access, ServiceBus};
use crate::config::time_budget::SERVICE_BUS_DEADLINE;
use crate::domain::timestamp::Timestamp;
use crate::metrics::{METRICS, SendOperation, Sent};
use crate::outbound;
use crate::outbound::backoff::Backoff;
use crate::outbound::backoff::jittered;

/// Longest time to connect. Shorter than [`SERVICE_BUS_DEADLINE`], so that an unreachable namespace is known not to have the message.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Repetitions after a failed attempt to send.
const REPETITIONS: u32 = 2;
/// Mean pauses before the repetitions.
const PAUSE: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_millis(400) };
/// Life of a signature. Long, since the clocks of this machine and of Service Bus may differ by minutes.
const SIGNATURE_LIFE: Duration = Duration::from_hours(1);
/// Longest description of a queue, in bytes.
const MAX_DESCRIPTION: usize = 1024 * 1024;
/// A message's life that counts as endless: the longest time of .NET is 29,247 years.
const ENDLESS: Duration = Duration::from_hours(24 * 365 * 1000);
/// The scope of tokens for Service Bus.
const SCOPE: &str = "https://servicebus.azure.net/.default";

/// A client that sends to the orders' queue.
#[derive(Debug, Clone)]
pub struct Queue {
    client: QueueClient,
    transport: Arc<Transport>,
    name: String,
}

/// How many messages a queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Messages to be delivered, or locked by a receiver.
    pub active: u64,
    /// Messages scheduled for later.
    pub scheduled: u64,
    /// Messages in the dead-letter queue.
    pub dead: u64,
}

/// How a queue is set up, and how full it is. A property that Service Bus left out, or wrote in an unknown form, is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// How many messages the queue holds.
    pub counts: Counts,
    /// `Active`, unless an operator has disabled the queue or a half of it.
    pub status: Option<String>,
    /// How long a receiver holds a message before Service Bus gives it to another one.
    pub lock: Option<Duration>,
    /// Deliveries of a message until it is dead-lettered.
    pub max_deliveries: Option<u32>,
    /// The life of a message; `None`: without end.
    pub life: Option<Duration>,
    /// Whether a message whose life is over is dead-lettered rather than deleted.
    pub dead_letters_expired: Option<bool>,
    /// Whether messages need a session.
    pub sessions: Option<bool>,
    /// Bytes used, and the most that may be.
    pub bytes: Option<(u64, u64)>,
}

/// Why a queue could not be described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DescribeError {
    /// There is no token for the identity.
    NoToken(String),
    /// The credential may not read the description: 401 or 403.
    Denied(u16),
    /// There is no such queue.
    Missing,
    /// The namespace does not answer, or not as Service Bus does.
    Away(String),
}

impl fmt::Display for DescribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoToken(reason) | Self::Away(reason) => f.write_str(reason),
            Self::Denied(status) => {
                write!(f, "Service Bus answers {status}: counting needs the role Azure Service Bus Data Owner, or the claim Manage")
            }
            Self::Missing => f.write_str("the queue that OrdersQueue names does not exist"),
        }
    }
}

impl std::error::Error for DescribeError {}

/// Why a send failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendError {
    /// The message was not sent.
    NotSent(String),
    /// The message may have been sent.
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
    /// Makes a client; does not connect. `Err`: the setting that cannot be used.
    pub fn new(config: &ServiceBus) -> Result<Self, String> {
        let transport = Arc::new(Transport::new(config)?);
        // The crate's namespace and key are placeholders: the transport sets the real ones.
        let client = QueueClient::new(Arc::<Transport>::clone(&transport), "namespace", config.queue.as_str(), "policy", String::new());
        Ok(Self { client: client.map_err(|error| error.to_string())?, transport, name: config.queue.clone() })
    }

    /// The queue's name, `OrdersQueue`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a message.
    pub async fn send(&self, text: &str) -> Result<(), SendError> {
        self.put(text, None).await
    }

    /// Sends a message as it came, which need not be text.
    pub async fn send_bytes(&self, body: Vec<u8>) -> Result<(), SendError> {
        let body = match String::from_utf8(body) {
            Ok(text) => return self.send(&text).await,
            Err(error) => error.into_bytes(),
        };
        // The crate sends text only.
        let mut url = self.transport.endpoint.clone();
        url.set_path(&format!("/{}/messages", self.name));
        let mut request = Request::new(url, azure_core_021::Method::Post);
        request.insert_headers(&options(None));
        request.set_body(body);
        self.transport.execute_request(&request).await.map(drop).map_err(not_sent)
    }

    /// Sends a message that is delivered at `at`, or up to one second later: Service Bus schedules by whole seconds.
    pub async fn send_at(&self, text: &str, at: Timestamp) -> Result<(), SendError> {
        self.put(text, Some(at)).await
    }

    /// The host name of the namespace.
    pub fn namespace(&self) -> &str {
        self.transport.endpoint.host_str().unwrap_or_default()
    }

    /// The queue's message counts, from its [description](Self::describe).
    pub async fn counts(&self) -> Result<Counts, DescribeError> {
        Ok(self.describe().await?.counts)
    }

    /// The queue's description ("Get Queue" in the Service Bus management REST reference). Needs the claim Manage, or the role Azure
    /// Service Bus Data Owner, or a role with `Microsoft.ServiceBus/namespaces/queues/read`. The Functions extension asks the same
    /// question to know how many instances are needed.
    pub async fn describe(&self) -> Result<Description, DescribeError> {
        let text = self.transport.get(&format!("/{}", self.name), "api-version=2021-05").await?;
        described(&text).ok_or_else(|| DescribeError::Away("the queue's description from Service Bus has no counts".into()))
    }

    async fn put(&self, text: &str, at: Option<Timestamp>) -> Result<(), SendError> {
        let operation = if at.is_some() { SendOperation::Schedule } else { SendOperation::Send };
        let span = info_span!(
            target: SPANS,
            "send",
            otel.name = "send orders",
            otel.kind = "producer",
            messaging.system = "servicebus",
            messaging.operation.name = operation.as_str(),
            messaging.operation.type = "send",
            messaging.destination.name = self.name,
            server.address = self.namespace()
        );
        let sent = self.client.send_message(text, Some(options(at))).instrument(span.clone()).await.map_err(not_sent);
        if sent.is_err() {
            trace::fail(&span, "the message was not sent, or may not have been");
        }
        let was_sent = match &sent {
            Ok(()) => Sent::Yes,
            Err(SendError::NotSent(_)) => Sent::No,
            Err(SendError::Unknown(_)) => Sent::Unknown,
        };
        METRICS.sent_messages.count((operation, was_sent));
        sent
    }
}

/// Options of a message that is delivered now or at `at`. One id serves all repetitions of the request: a queue with duplicate
/// detection keeps only one copy.
fn options(at: Option<Timestamp>) -> SendMessageOptions {
    let mut properties = json!({ "MessageId": Uuid::new_v4().simple().to_string() });
    if let Some(at) = at {
        properties["ScheduledEnqueueTimeUtc"] = http_date(at).into();
    }
    SendMessageOptions {
        // The content type that the host's output binding sets, so that the trigger reads both the same way.
        content_type: Some("text/plain".into()),
        // Set here, since the crate's own broker properties write `+0000` where Service Bus documents `GMT`.
        custom_properties: Some(HashMap::from([("brokerproperties".into(), properties.to_string())])),
        ..SendMessageOptions::default()
    }
}

/// Why a send failed. An error that is not from the transport occurred before anything was sent.
fn not_sent(error: azure_core_021::Error) -> SendError {
    error.into_downcast().unwrap_or_else(|error| SendError::NotSent(error.to_string()))
}

/// The HTTP date (RFC 1123; "Message Headers and Properties" in the Service Bus REST reference) of the first whole second not before
/// `at`.
fn http_date(at: Timestamp) -> String {
    let milliseconds = at.as_milliseconds();
    let seconds = milliseconds.div_euclid(1000) + i64::from(milliseconds.rem_euclid(1000) > 0);
    let moment = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
    moment.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// The HTTP client that the crate uses: pins every URL to one namespace, authorizes requests, repeats them, and keeps the deadline.
struct Transport {
    client: reqwest::Client,
    endpoint: Url,
    key: Key,
}

enum Key {
    /// The key of a policy of the namespace or of the queue; both sign for the queue.
    Shared {
        name: String,
        key: Secret,
        resource: String,
    },
    /// A signature as the connection string has it.
    Signature(Secret),
    Token(Identity, Arc<dyn TokenCredential>),
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transport({})", self.endpoint)
    }
}

/// Why one attempt failed.
struct Failure {
    reason: String,
    maybe_sent: bool,
    /// The shortest pause before another attempt; `None`: another attempt is useless.
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
        let deadline = Instant::now() + SERVICE_BUS_DEADLINE;
        let (mut repetitions, mut maybe_sent) = (0, false);
        loop {
            let Err(failure) = self.try_once(request, deadline).await else {
                return Ok(Response::new(StatusCode::Created, Headers::new(), Box::pin(futures_util::stream::empty())));
            };
            // One attempt that may have reached the queue makes the outcome unknown.
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
            Access::Signature(signature) => Key::Signature(signature.clone()),
            Access::Identity(identity) => {
                let credential = crate::outbound::identity::credential(identity)
                    .map_err(|error| format!("there is no credential for {identity}: {error}"))?;
                Key::Token(identity.clone(), credential)
            }
        };
        let client = outbound::http::client().connect_timeout(CONNECT_TIMEOUT).build().map_err(|error| error.to_string())?;
        Ok(Self { client, endpoint: config.endpoint.clone(), key })
    }

    /// Sends once. `Ok` is 201, the only status that confirms the message.
    async fn try_once(&self, request: &Request, deadline: Instant) -> Result<(), Failure> {
        let mut response = self.prepare(request, deadline).await?.send().await.map_err(|error| broken(&error))?;
        let status = response.status().as_u16();
        let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|text| text.to_str().ok()?.parse().ok());
        // Read to the end so that the connection is reused; not logged, since it may quote the message.
        while let Ok(Some(_)) = response.chunk().await {}
        let reason = format!("Service Bus answers {status}{}", self.advice(status));
        match status {
            201 => Ok(()),
            429 => Err(Failure { reason, maybe_sent: false, again: Some(Duration::from_secs(retry_after.unwrap_or(0))) }),
            408 | 500.. => Err(Failure { reason, maybe_sent: true, again: Some(Duration::from_secs(retry_after.unwrap_or(0))) }),
            // Another success status is not from Service Bus: the outcome is unknown.
            ..300 => Err(Failure { reason, maybe_sent: true, again: None }),
            _ => Err(Failure::not_sent(reason)),
        }
    }

    /// Reads a path of the namespace, at most [`MAX_DESCRIPTION`].
    async fn get(&self, path: &str, query: &str) -> Result<String, DescribeError> {
        let deadline = Instant::now() + SERVICE_BUS_DEADLINE;
        let away = |error: &reqwest::Error| DescribeError::Away(broken(error).reason);
        let mut url = self.endpoint.clone();
        url.set_path(path);
        url.set_query(Some(query));
        let authorization = self.header(deadline).await.map_err(|failure| DescribeError::NoToken(failure.reason))?;
        let left = deadline.saturating_duration_since(Instant::now());
        let request = self.client.get(url).header(header::AUTHORIZATION, authorization).timeout(left);
        let mut response = request.send().await.map_err(|error| away(&error))?;
        let status = response.status().as_u16();
        let body = outbound::http::body(&mut response, MAX_DESCRIPTION).await.map_err(|error| away(&error))?;
        let body = body.ok_or_else(|| DescribeError::Away("the answer of Service Bus is too long".into()))?;
        match status {
            200 => Ok(String::from_utf8_lossy(&body).into_owned()),
            401 | 403 => Err(DescribeError::Denied(status)),
            404 | 410 => Err(DescribeError::Missing),
            _ => Err(DescribeError::Away(format!("Service Bus answers {status}"))),
        }
    }

    async fn header(&self, deadline: Instant) -> Result<HeaderValue, Failure> {
        let authorization = HeaderValue::from_str(&self.authorization(deadline).await?);
        let mut authorization = authorization.map_err(|_| Failure::not_sent("the token is not a valid header value".into()))?;
        authorization.set_sensitive(true);
        Ok(authorization)
    }

    async fn prepare(&self, request: &Request, deadline: Instant) -> Result<reqwest::RequestBuilder, Failure> {
        let Body::Bytes(body) = request.body() else { return Err(Failure::not_sent("the request's body is a stream".into())) };
        let method = Method::from_bytes(request.method().as_ref().as_bytes()).unwrap_or_default();
        let mut prepared = self.client.request(method, self.pinned(request.url())).body(body.clone());
        for (name, value) in request.headers().iter().filter(|(name, _)| name.as_str() != header::AUTHORIZATION.as_str()) {
            prepared = prepared.header(name.as_str(), value.as_str());
        }
        let authorization = self.header(deadline).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        Ok(prepared.header(header::AUTHORIZATION, authorization).timeout(left))
    }

    /// The same path in our namespace. A URL may come from a server (`Location`), which must not get our token.
    fn pinned(&self, url: &Url) -> Url {
        let mut pinned = self.endpoint.clone();
        pinned.set_path(url.path());
        pinned.set_query(url.query());
        pinned
    }

    async fn authorization(&self, deadline: Instant) -> Result<String, Failure> {
        match &self.key {
            Key::Shared { name, key, resource } => Ok(sign(resource, name, key)),
            Key::Signature(signature) => Ok(signature.secret().to_owned()),
            Key::Token(identity, credential) => {
                let refused = |reason: &dyn fmt::Display| Failure::not_sent(format!("no token for {identity}: {reason}"));
                let token = tokio::time::timeout_at(deadline, credential.get_token(&[SCOPE], None)).await;
                let token = token.map_err(|_| refused(&"it did not come in time"))?.map_err(|error| refused(&error))?;
                Ok(format!("Bearer {}", token.token.secret()))
            }
        }
    }

    /// Advice for an operator about an error status.
    fn advice(&self, status: u16) -> String {
        match (status, &self.key) {
            (401 | 403, Key::Token(identity, _)) => format!(": give {identity} the role Azure Service Bus Data Sender"),
            (401 | 403, Key::Shared { name, .. }) => format!(": the policy {name} must exist, have this key and include the claim Send"),
            (401 | 403, Key::Signature(_)) => {
                ": the SharedAccessSignature in ServiceBusConnection must be for this queue, not have expired and include the claim Send"
                    .into()
            }
            (404 | 410, _) => ": the queue that OrdersQueue names does not exist".into(),
            _ => String::new(),
        }
    }
}

/// Reads the Atom entry of a queue. `None`: it has no counts.
fn described(text: &str) -> Option<Description> {
    // Each element stands once in an entry, with a prefix or without.
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("{name}>"))?;
        Some(rest.split('<').next()?.trim())
    };
    let number = |name: &str| element(name)?.parse::<u64>().ok();
    let flag = |name: &str| element(name)?.parse::<bool>().ok();
    let duration = |name: &str| element(name)?.parse::<SignedDuration>().ok()?.try_into().ok();
    Some(Description {
        counts: Counts {
            active: number("ActiveMessageCount")?,
            scheduled: number("ScheduledMessageCount")?,
            dead: number("DeadLetterMessageCount")?,
        },
        status: element("<Status").map(str::to_owned),
        lock: duration("<LockDuration"),
        max_deliveries: number("<MaxDeliveryCount").and_then(|count| count.try_into().ok()),
        life: element("<DefaultMessageTimeToLive").and_then(life),
        dead_letters_expired: flag("<DeadLetteringOnMessageExpiration"),
        sessions: flag("<RequiresSession"),
        bytes: number("<SizeInBytes").zip(number("<MaxSizeInMegabytes").map(|size| size << 20)),
    })
}

/// The life of a message, such as `P14DT0H30M`. `None`: without end, which Service Bus writes as the longest time of .NET.
fn life(text: &str) -> Option<Duration> {
    let (days, rest) = text.strip_prefix('P')?.split_once('D').map_or((0, text), |(days, rest)| (days.parse().unwrap_or(u64::MAX), rest));
    let rest = match rest {
        "" => SignedDuration::ZERO,
        rest if rest.starts_with('P') => rest.parse().ok()?,
        rest => format!("P{rest}").parse().ok()?,
    };
    let whole = Duration::from_secs(days.checked_mul(24 * 60 * 60)?).checked_add(rest.try_into().ok()?)?;
    (whole < ENDLESS).then_some(whole)
}

/// The failure of an attempt without an answer.
fn broken(error: &reqwest::Error) -> Failure {
    let reason = if error.is_timeout() { "no answer came in time".into() } else { outbound::http::reason(error) };
    Failure { reason, maybe_sent: !error.is_connect() && !error.is_builder(), again: (!error.is_builder()).then_some(Duration::ZERO) }
}

/// A shared access signature ("Service Bus access control with Shared Access Signatures"). The crate's own function signs for a
/// fixed host name, which is wrong in national clouds and locally.
fn sign(resource: &str, name: &str, key: &Secret) -> String {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (resource, expiry) = (encoded(resource), (now + SIGNATURE_LIFE).as_secs());
    // The key is used as text, not decoded from base64.
    let mut mac = Hmac::<Sha256>::new_from_slice(key.secret().as_bytes()).expect("HMAC takes a key of any length");
    mac.update(format!("{resource}\n{expiry}").as_bytes());
    let signature = encoded(&STANDARD.encode(mac.finalize().into_bytes()));
    format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}&skn={}", encoded(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_rounded_up_to_whole_seconds() {
        let date = |milliseconds| http_date(Timestamp::from_milliseconds(milliseconds));

        assert_eq!(date(784_111_777_000), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(784_111_776_001), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn a_queue_is_described_by_its_entry() {
        let entry = "<entry><content><QueueDescription xmlns=\"x\"><LockDuration>PT5M</LockDuration><MaxSizeInMegabytes>1024</MaxSizeInMegabytes>\
                     <RequiresSession>false</RequiresSession><DefaultMessageTimeToLive>P14DT1H</DefaultMessageTimeToLive>\
                     <DeadLetteringOnMessageExpiration>true</DeadLetteringOnMessageExpiration><MaxDeliveryCount>10</MaxDeliveryCount>\
                     <SizeInBytes>2048</SizeInBytes><Status>Active</Status><CountDetails><d2p1:ActiveMessageCount>7</d2p1:ActiveMessageCount>\
                     <d2p1:DeadLetterMessageCount>1</d2p1:DeadLetterMessageCount><d2p1:ScheduledMessageCount>2</d2p1:ScheduledMessageCount>\
                     </CountDetails></QueueDescription></content></entry>";
        let described = described(entry).unwrap();

        assert_eq!(described.counts, Counts { active: 7, scheduled: 2, dead: 1 });
        assert_eq!((described.lock, described.max_deliveries), (Some(Duration::from_mins(5)), Some(10)));
        assert_eq!((described.sessions, described.dead_letters_expired), (Some(false), Some(true)));
        assert_eq!((described.life, described.bytes), (Some(Duration::from_hours(337)), Some((2048, 1 << 30))));
        assert_eq!(described.status.as_deref(), Some("Active"));
    }

    #[test]
    fn a_life_is_read_as_service_bus_writes_it() {
        for (text, expected) in [
            ("PT1H", Some(Duration::from_hours(1))),
            ("P14D", Some(Duration::from_hours(336))),
            ("P10675199DT2H48M5.4775807S", None),
            ("for ever", None),
        ] {
            assert_eq!(life(text), expected, "{text}");
        }
    }

    #[test]
    fn every_url_is_pinned_to_the_namespace() {
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
