//! The REST protocol of Service Bus over the local queue: send, receive and settle, for clients that hold the key.
//!
//! Follows the "Service Bus REST API" reference, without topics, sessions, batches, and custom properties of sent messages. There is
//! no identity on this machine, so a request needs a signature by a key in the connection strings that the app's bindings name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use group_commit::database;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;
use tracing::error;
use uuid::Uuid;

use crate::app::App;
use crate::app::function::{Output, Trigger};
use crate::service_bus::broker::{Broker, DEAD_LETTER_SUFFIX, Outgoing, Properties, Received, Settled, after, until};
use crate::service_bus::connection::{Access, ConnectionString};

/// Largest message in a Standard namespace, including its properties ("Service Bus quotas").
const MAX_MESSAGE: usize = 256 * 1024;
/// Time for a client's body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Wait of a receiver that names no timeout.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);
/// Longest wait of a receiver.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// Parts of a shared access signature: the resource, the signature over it and the expiry, the expiry, and the name of the key.
const SIGNATURE: [&str; 4] = ["sr", "sig", "se", "skn"];
/// Life of a message in a queue without a default (Service Bus: 14 days).
const DEFAULT_LIFE: Duration = Duration::from_hours(336);

type HttpResponse = Response<Full<Bytes>>;

/// Data plane of a namespace with the queues of an app.
pub(crate) struct Rest {
    broker: Broker,
    /// Queue names in lower case, without dead-letter queues.
    queues: BTreeSet<String>,
    /// Shared access policies: names and keys.
    keys: Vec<(String, String)>,
    /// Signatures that connection strings hold. Their keys are unknown here, so each is taken as it is.
    signatures: Vec<String>,
    /// Host names by which a signature may call this namespace.
    hosts: Vec<String>,
    address: SocketAddr,
}

/// Refusal of a request: status, and what is wrong.
struct Refusal(StatusCode, &'static str);

const UNKNOWN_QUEUE: Refusal = Refusal(StatusCode::GONE, "no binding of this app names this queue");
const LOCK_LOST: Refusal =
    Refusal(StatusCode::NOT_FOUND, "no message is held under this lock: the lock ran out, or the message was settled");
const TOO_LARGE: Refusal = Refusal(StatusCode::PAYLOAD_TOO_LARGE, "a message has at most 256 KB, its properties included");

impl Rest {
    /// Prepares the queues and keys of an app, to be served at `address`.
    pub(crate) fn new(app: &App, environment: &BTreeMap<String, String>, broker: Broker, address: SocketAddr) -> Self {
        let hosts = vec![address.to_string(), format!("localhost:{}", address.port())];
        let mut rest = Self { broker, queues: BTreeSet::new(), keys: Vec::new(), signatures: Vec::new(), hosts, address };
        for function in &app.functions {
            let trigger = match &function.trigger {
                Trigger::Queue { queue, connection, .. } => Some((queue, connection)),
                Trigger::Http { .. } | Trigger::Timer { .. } => None,
            };
            let outputs = function.outputs.iter().filter_map(|output| match output {
                Output::ServiceBus { queue, connection, .. } => Some((queue, connection)),
                Output::Http { .. } => None,
            });
            for (queue, connection) in trigger.into_iter().chain(outputs) {
                let queue = queue.to_ascii_lowercase();
                rest.queues.insert(queue.strip_suffix(DEAD_LETTER_SUFFIX).unwrap_or(&queue).to_owned());
                let is_it =
                    |name: &str| name.eq_ignore_ascii_case(connection) || name.eq_ignore_ascii_case(&format!("AzureWebJobs{connection}"));
                let mut settings = app.settings.iter().chain(environment);
                let text = settings.find_map(|(name, value)| is_it(name).then_some(value));
                if let Some(known) = text.and_then(|text| ConnectionString::parse(text)) {
                    match known.access {
                        Access::Key(name, key) => rest.keys.push((name.to_owned(), key.to_owned())),
                        Access::Signature(signature) => rest.signatures.push(signature.to_owned()),
                    }
                    rest.hosts.push(known.host.to_ascii_lowercase());
                }
            }
        }
        rest
    }

    /// Answers one request.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> HttpResponse {
        self.respond(request).await.unwrap_or_else(|Refusal(status, detail)| {
            let body = format!("<Error><Code>{}</Code><Detail>{detail}</Detail></Error>", status.as_u16());
            let mut answer = answer(status, body.into());
            answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml; charset=utf-8"));
            answer
        })
    }

    async fn respond(&self, request: Request<Incoming>) -> Result<HttpResponse, Refusal> {
        let (parts, body) = request.into_parts();
        let path = percent_decode_str(parts.uri.path()).decode_utf8().map_err(|_| UNKNOWN_QUEUE)?;
        self.admit(&parts.headers, &path)?;
        if parts.method == Method::GET {
            return self.describe(&path).await;
        }
        let (queue, rest) = self.find(&path).ok_or(UNKNOWN_QUEUE)?;
        match (&parts.method, &rest[..]) {
            (&Method::POST, []) => self.send(&queue, &parts.headers, body).await,
            (&Method::POST, ["head"]) => {
                let Some(message) = self.receive(&queue, parts.uri.query()).await? else {
                    return Ok(answer(StatusCode::NO_CONTENT, Bytes::new()));
                };
                let lock = format!("http://{}/{queue}/messages/{}/{}", self.address, message.sequence_number, message.lock_token);
                let mut answer = self.delivery(StatusCode::CREATED, message);
                answer.headers_mut().extend(HeaderValue::try_from(lock).map(|lock| (header::LOCATION, lock)));
                Ok(answer)
            }
            (&Method::DELETE, ["head"]) => {
                let Some(message) = self.receive(&queue, parts.uri.query()).await? else {
                    return Ok(answer(StatusCode::NO_CONTENT, Bytes::new()));
                };
                settled(self.broker.complete(&message).await)?;
                Ok(self.delivery(StatusCode::OK, message))
            }
            (&Method::DELETE, [id, lock]) => settled(self.broker.complete(&self.held(&queue, id, lock).await?).await),
            (&Method::PUT, [id, lock]) => settled(self.broker.abandon(&queue, &self.held(&queue, id, lock).await?).await),
            (&Method::POST, [id, lock]) => settled(self.broker.renew(&self.held(&queue, id, lock).await?).await),
            _ => Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "messages are sent, received, completed, abandoned or renewed here")),
        }
    }

    /// The queue that a path names, and the rest of the path after `/messages`.
    fn find<'p>(&self, path: &'p str) -> Option<(String, Vec<&'p str>)> {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let is_messages = |segment: &&str| segment.eq_ignore_ascii_case("messages");
        let position = segments.iter().rposition(is_messages)?;
        let queue = segments[..position].join("/").to_ascii_lowercase();
        let known = self.queues.contains(queue.strip_suffix(DEAD_LETTER_SUFFIX).unwrap_or(&queue));
        known.then(|| (queue, segments[position + 1..].to_vec()))
    }

    /// A queue as "Get Queue" of the management protocol describes it.
    async fn describe(&self, path: &str) -> Result<HttpResponse, Refusal> {
        let queue = path.trim_matches('/').to_ascii_lowercase();
        if !self.queues.contains(&queue) {
            return Err(Refusal(StatusCode::NOT_FOUND, "no binding of this app names this queue"));
        }
        let figures = self.broker.figures().await.map_err(|error| failed(&error))?;
        let count = |queue: &str, names: &[&str]| names.iter().filter_map(|name| figures["queues"][queue][name].as_u64()).sum::<u64>();
        let rules = self.broker.rules();
        let entry = format!(
            "<entry xmlns=\"http://www.w3.org/2005/Atom\"><title type=\"text\">{queue}</title><content type=\"application/xml\">\
             <QueueDescription xmlns=\"http://schemas.microsoft.com/netservices/2010/10/servicebus/connect\">\
             <LockDuration>PT{}S</LockDuration><MaxSizeInMegabytes>1024</MaxSizeInMegabytes><RequiresSession>false</RequiresSession>\
             <DefaultMessageTimeToLive>P14D</DefaultMessageTimeToLive>\
             <DeadLetteringOnMessageExpiration>true</DeadLetteringOnMessageExpiration>\
             <MaxDeliveryCount>{}</MaxDeliveryCount><Status>Active</Status><CountDetails>\
             <ActiveMessageCount>{}</ActiveMessageCount><DeadLetterMessageCount>{}</DeadLetterMessageCount>\
             <ScheduledMessageCount>{}</ScheduledMessageCount></CountDetails></QueueDescription></content></entry>",
            rules.lock_duration.as_secs_f64(),
            rules.max_delivery_count,
            count(&queue, &["active", "locked"]),
            count(&format!("{queue}{DEAD_LETTER_SUFFIX}"), &["active", "locked"]),
            count(&queue, &["scheduled"]),
        );
        let mut answer = answer(StatusCode::OK, entry.into());
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/atom+xml;type=entry;charset=utf-8"));
        Ok(answer)
    }

    async fn send(&self, queue: &str, headers: &HeaderMap, body: Incoming) -> Result<HttpResponse, Refusal> {
        let bad = |detail| Refusal(StatusCode::BAD_REQUEST, detail);
        if queue.ends_with(DEAD_LETTER_SUFFIX) {
            return Err(bad("nothing can be sent to a dead-letter queue"));
        }
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|text| text.to_str().ok()).map(str::to_owned);
        if content_type.as_deref().is_some_and(|text| text.starts_with("application/vnd.microsoft.servicebus.json")) {
            return Err(bad("batches are not taken here"));
        }
        let described = headers.get("brokerproperties").map_or(&b"{}"[..], HeaderValue::as_bytes);
        let Described { message_id, correlation_id, label, reply_to, to, time_to_live, scheduled_enqueue_time_utc } =
            serde_json::from_slice(described)
                .map_err(|_| bad("BrokerProperties is not a JSON object with properties of the right types"))?;
        let scheduled_at = scheduled_enqueue_time_utc.map(|text| jiff::fmt::rfc2822::parse(&text)).transpose();
        let scheduled_at = scheduled_at.map_err(|_| bad("ScheduledEnqueueTimeUtc is no date like Sun, 06 Nov 1994 08:49:37 GMT"))?;
        let time_to_live = time_to_live.map(Duration::try_from_secs_f64).transpose();
        let time_to_live = time_to_live.map_err(|_| bad("TimeToLive is no number of seconds"))?;
        let body = match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_MESSAGE).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) => return Err(TOO_LARGE),
            Err(_) => return Err(Refusal(StatusCode::REQUEST_TIMEOUT, "the body did not arrive")),
        };
        if body.len() + described.len() > MAX_MESSAGE {
            return Err(TOO_LARGE);
        }
        let properties = Properties {
            message_id: message_id.unwrap_or_default(),
            content_type,
            correlation_id,
            subject: label,
            reply_to,
            to,
            ..Properties::default()
        };
        let scheduled_at = scheduled_at.map(|at| at.timestamp());
        let message = Outgoing { body: body.into(), properties, scheduled_at, time_to_live };
        self.broker.send(queue, vec![message]).await.map_err(|error| failed(&error))?;
        Ok(answer(StatusCode::CREATED, Bytes::new()))
    }

    async fn receive(&self, queue: &str, query: Option<&str>) -> Result<Option<Received>, Refusal> {
        let mut pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        let patience = match pairs.find(|(name, _)| name.eq_ignore_ascii_case("timeout")).map(|(_, seconds)| seconds.parse()) {
            None => DEFAULT_WAIT,
            Some(Ok(seconds)) => Duration::from_secs(seconds).min(MAX_WAIT),
            Some(Err(_)) => return Err(Refusal(StatusCode::BAD_REQUEST, "timeout is no number of seconds")),
        };
        let received = self.broker.receive_within(queue, 1, patience).await;
        Ok(received.map_err(|error| failed(&error))?.pop())
    }

    /// The locked message; `id` is its id or its sequence number.
    async fn held(&self, queue: &str, id: &str, lock: &str) -> Result<Received, Refusal> {
        let lock = Uuid::parse_str(lock).map_err(|_| LOCK_LOST)?;
        let held = self.broker.held(queue, lock).await.map_err(|error| failed(&error))?;
        held.filter(|held| held.properties.message_id == id || held.sequence_number.to_string() == id).ok_or(LOCK_LOST)
    }

    /// A message as the answer to its receiver. The sender's own properties are headers; a text property is in quotes.
    fn delivery(&self, status: StatusCode, message: Received) -> HttpResponse {
        let Received { sequence_number, lock_token, delivery_count, enqueued_at, expires_at, body, properties } = message;
        let life = expires_at.map_or(DEFAULT_LIFE, |at| until(enqueued_at, at));
        let mut described = json!({
            "DeliveryCount": delivery_count,
            "EnqueuedSequenceNumber": 0,
            "EnqueuedTimeUtc": http_date(enqueued_at),
            "LockToken": lock_token,
            "LockedUntilUtc": http_date(after(Timestamp::now(), self.broker.lock_duration())),
            "MessageId": properties.message_id,
            "SequenceNumber": sequence_number,
            "State": "Active",
            "TimeToLive": life.as_secs_f64(),
        });
        let more = [
            ("CorrelationId", properties.correlation_id),
            ("Label", properties.subject),
            ("ReplyTo", properties.reply_to),
            ("To", properties.to),
            ("DeadLetterSource", properties.dead_letter_source),
        ];
        for (name, value) in more {
            if let Some(value) = value {
                described[name] = value.into();
            }
        }
        let mut answer = answer(status, body.into());
        let own = properties.application_properties.iter().filter_map(|(name, value)| Some((name.parse().ok()?, header_text(value)?)));
        let headers = answer.headers_mut();
        headers.extend(own.map(|(name, value): (HeaderName, _)| (name, value)));
        headers.extend(header_text(&described).map(|value| (HeaderName::from_static("brokerproperties"), value)));
        let content_type = properties.content_type.and_then(|text| HeaderValue::try_from(text).ok());
        headers.extend(content_type.map(|value| (header::CONTENT_TYPE, value)));
        answer
    }

    /// Checks `SharedAccessSignature sr=…&sig=…&se=…&skn=…`: a signature over the resource as written there and the expiry, by the
    /// key's text ("Service Bus access control with Shared Access Signatures").
    fn admit(&self, headers: &HeaderMap, path: &str) -> Result<(), Refusal> {
        let no = |detail| Refusal(StatusCode::UNAUTHORIZED, detail);
        let given = headers.get(header::AUTHORIZATION).and_then(|text| text.to_str().ok()).ok_or(no("there is no Authorization"))?;
        if self.signatures.iter().any(|known| known == given) {
            return Ok(());
        }
        let signature = given
            .strip_prefix("SharedAccessSignature ")
            .ok_or(no("Authorization must be a SharedAccessSignature: there is no identity here"))?;
        let mut parts = [None; 4];
        for part in signature.split('&') {
            let place = part.split_once('=').and_then(|(name, value)| Some((SIGNATURE.iter().position(|known| *known == name)?, value)));
            let is_new = place.is_some_and(|(place, value)| parts[place].replace(value).is_none());
            if !is_new {
                return Err(no("the signature must have sr, sig, se and skn, each once, and nothing else"));
            }
        }
        let [Some(resource), Some(mac), Some(expiry), Some(name)] = parts else { return Err(no("the signature is not complete")) };
        let decoded = |text| percent_decode_str(text).decode_utf8().map_err(|_| no("the signature is not readable"));
        let name = decoded(name)?;
        let mac = STANDARD.decode(decoded(mac)?.as_bytes()).unwrap_or_default();
        let signed = format!("{resource}\n{expiry}");
        let is_signed = self.keys.iter().filter(|(known, _)| *known == name).any(|(_, key)| {
            let mut expected = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes a key of any length");
            expected.update(signed.as_bytes());
            expected.verify_slice(&mac).is_ok()
        });
        if !is_signed {
            return Err(no("no policy of the app's connection strings has signed this"));
        }
        let seconds = expiry.parse::<i64>().map_err(|_| no("the signature has no expiry"))?;
        if seconds.saturating_mul(1000) <= Timestamp::now().as_millisecond() {
            return Err(no("the signature has expired"));
        }
        let resource = decoded(resource)?.to_ascii_lowercase();
        let (_, resource) = resource.split_once("://").unwrap_or(("", &resource));
        let (host, resource) = resource.split_once('/').unwrap_or((resource, ""));
        let (resource, path) = (resource.trim_matches('/'), path.trim_matches('/').to_ascii_lowercase());
        let is_below = resource.is_empty() || path.strip_prefix(resource).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if is_below && self.hosts.iter().any(|known| known == host) { Ok(()) } else { Err(no("the signature is for another resource")) }
    }
}

/// Properties in a sender's header `BrokerProperties`. Other properties are ignored, as Service Bus does.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Described {
    message_id: Option<String>,
    correlation_id: Option<String>,
    label: Option<String>,
    reply_to: Option<String>,
    to: Option<String>,
    time_to_live: Option<f64>,
    scheduled_enqueue_time_utc: Option<String>,
}

fn settled(settled: Result<Settled, database::Error>) -> Result<HttpResponse, Refusal> {
    match settled.map_err(|error| failed(&error))? {
        Settled::Done => Ok(answer(StatusCode::OK, Bytes::new())),
        Settled::LockLost => Err(LOCK_LOST),
    }
}

fn failed(error: &database::Error) -> Refusal {
    error!(%error, "the queue failed a request of the REST protocol");
    Refusal(StatusCode::INTERNAL_SERVER_ERROR, "the queue did not answer")
}

/// JSON in ASCII, for a header.
fn header_text(value: &Value) -> Option<HeaderValue> {
    let mut text = String::new();
    for character in value.to_string().chars() {
        if character.is_ascii() {
            text.push(character);
        } else {
            let mut units = [0; 2];
            text.extend(character.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    HeaderValue::try_from(text).ok()
}

fn http_date(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn answer(status: StatusCode, body: Bytes) -> HttpResponse {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer
}
