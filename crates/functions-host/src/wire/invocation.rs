//! The exact envelope the host posts to a custom handler: `{"Data":{..},"Metadata":{..}}` (host §3).

use std::borrow::Cow;
use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use host_json::newtonsoft::{Json, Way, read};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderName};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::trigger::http::route::Params;
use crate::wire::newtonsoft::{
    into_text, looks_like_json, push, write_compact, write_date_time, write_string, write_string_in_string, write_to_the_second,
};
use crate::wire::spelling::{self, KNOWN, LISTED_FIRST};

/// The host's own binding data, the `sys` of every invocation (`SystemBindingData`).
#[derive(Debug, Clone, Copy)]
pub struct Sys<'a> {
    /// The function's name.
    pub method_name: &'a str,
    /// Start of the invocation.
    pub utc_now: Timestamp,
    /// A fresh GUID.
    pub rand_guid: Uuid,
}

/// Identity that the host gives the client (host §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// Admin: `func start` gives it to every client.
    LocalAdmin,
    /// A request without a key in Azure.
    Anonymous,
}

/// A client's request to an httpTrigger.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The trigger binding's name, most often `req`.
    pub binding: &'a str,
    /// `scheme://host/path?query` as the client sent it.
    pub url: &'a str,
    /// The method in capitals.
    pub method: &'a str,
    /// The query without its question mark, still encoded.
    pub query: Option<&'a str>,
    /// Every header of the client.
    pub headers: &'a HeaderMap,
    /// The names of the headers as the client spelt them, as far as that is known.
    pub names: &'a [&'a str],
    /// Values of the route's parameters.
    pub params: &'a Params,
    /// `None` when the client sent no `Content-Length`: the host loses a chunked body (host issue #4926).
    pub body: Option<&'a [u8]>,
    /// Identity that the host gives the client.
    pub identity: Identity,
}

/// Form of a message in `Data`, by `dataType` of a serviceBusTrigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageForm {
    /// Left out of `function.json`: text, but parsed JSON in a batch.
    Unset,
    /// `string`
    String,
    /// `binary`
    Binary,
}

/// The receiving client, which the host shows to the handler.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Host name of the Service Bus namespace.
    pub fully_qualified_namespace: &'a str,
    /// Name of the client, by default the namespace and a GUID.
    pub identifier: &'a str,
}

/// A received Service Bus message.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the fields are the broker's own nouns")]
pub struct Message<'a> {
    pub body: &'a [u8],
    pub message_id: &'a str,
    pub content_type: Option<&'a str>,
    /// 1 on the first delivery.
    pub delivery_count: u32,
    pub dead_letter_source: Option<&'a str>,
    pub lock_token: Uuid,
    pub enqueued_at: Timestamp,
    pub expires_at: Timestamp,
    pub sequence_number: u64,
    pub correlation_id: Option<&'a str>,
    pub subject: Option<&'a str>,
    pub reply_to: Option<&'a str>,
    pub to: Option<&'a str>,
    pub session_id: Option<&'a str>,
    pub reply_to_session_id: Option<&'a str>,
    pub partition_key: Option<&'a str>,
    pub transaction_partition_key: Option<&'a str>,
    /// Application properties, also with the broker's `DeadLetterReason` and its description.
    pub application_properties: &'a Map<String, Value>,
}

/// Schedule status kept by the timer's monitor.
#[derive(Debug, Clone, Copy)]
pub struct ScheduleStatus {
    /// The last occurrence.
    pub last: Timestamp,
    /// The next occurrence.
    pub next: Timestamp,
    /// Moment when this status was recorded.
    pub last_updated: Timestamp,
}

/// The envelope of an httpTrigger (host §3.3a).
pub fn http(request: &Request, sys: &Sys) -> Vec<u8> {
    let headers = headers(request.headers, request.names);
    let query = query(request.query);
    let body = request.body.filter(|body| !body.is_empty());
    let text = body.map(host_json::decode);

    let mut metadata = Metadata::default();
    if let Some(text) = &text {
        promote(&mut metadata, text);
    }
    for (name, values) in query.iter() {
        if !name.eq_ignore_ascii_case("code") {
            metadata.set(Cow::Borrowed(name), Entry::Text(Cow::Borrowed(values.last())));
        }
    }
    for (name, value) in request.params {
        let entry = value.as_deref().map_or(Entry::Null, |value| Entry::Text(Cow::Borrowed(value)));
        metadata.set(Cow::Borrowed(name), entry);
    }
    metadata.set_if_absent("Query", Entry::Query(&query));
    metadata.set_if_absent("Headers", Entry::Headers(&headers));
    // The request itself is binding data under the trigger's name, hides a body property of that name, and is then left out.
    metadata.set(Cow::Borrowed(request.binding), Entry::Null);
    metadata.set_sys(sys);

    let mut out = String::with_capacity(2048 + 2 * body.map_or(0, <[u8]>::len));
    out.push_str("{\"Data\":{");
    write_string(&mut out, request.binding);
    out.push_str(":{\"Url\":");
    write_string(&mut out, request.url);
    out.push_str(",\"Method\":");
    write_string(&mut out, request.method);
    out.push_str(",\"Query\":");
    write_object(&mut out, query.iter(), |out, values| {
        write_string(out, &values.joined());
    });
    out.push_str(",\"Headers\":");
    write_object(&mut out, headers.iter().map(Header::pair), |out, values| {
        write_array(out, values, |out, value| write_string(out, value));
    });
    out.push_str(",\"Params\":");
    let params = request.params.iter().map(|(name, value)| (name.as_str(), value));
    write_object(&mut out, params, |out, value| match value {
        Some(value) => write_string(out, value),
        None => out.push_str("null"),
    });
    out.push_str(",\"Identities\":");
    out.push_str(identities(request.identity));
    if let Some(body) = body {
        out.push_str(",\"Body\":");
        match &text {
            Some(text) if !is_octets_or_multipart(request.headers) => write_string(&mut out, text),
            _ => write_base64(&mut out, body),
        }
    }
    out.push_str("}},\"Metadata\":");
    metadata.write(&mut out);
    out.push('}');
    out.into_bytes()
}

/// The envelope of a serviceBusTrigger for one message (host §3.3b).
///
/// A JSON body is not parsed into `Data`, but its properties shadow the broker's metadata (host issue #7119).
pub fn message(binding: &str, message: &Message, form: MessageForm, client: &Client, sys: &Sys) -> Vec<u8> {
    let text = (form != MessageForm::Binary).then(|| String::from_utf8_lossy(message.body));

    let mut metadata = Metadata::default();
    for name in ACTIONS {
        metadata.set(Cow::Borrowed(name), Entry::Empty);
    }
    metadata.set(Cow::Borrowed("Client"), Entry::Client(client));
    for (name, field) in FIELDS {
        metadata.set(Cow::Borrowed(name), field(message).into());
    }
    metadata.set_sys(sys);
    if let Some(text) = &text {
        promote(&mut metadata, text);
    }

    let mut out = String::with_capacity(2048 + 3 * message.body.len());
    out.push_str("{\"Data\":{");
    write_string(&mut out, binding);
    out.push(':');
    match &text {
        Some(text) => write_string_in_string(&mut out, text),
        None => write_base64(&mut out, message.body),
    }
    out.push_str("},\"Metadata\":");
    metadata.write(&mut out);
    out.push('}');
    out.into_bytes()
}

/// The envelope of a serviceBusTrigger with `cardinality: many` (host §3.3b).
///
/// Without a `dataType` the host parses every message, and one that is not JSON fails the whole batch.
/// No body property is promoted here.
pub fn messages(binding: &str, messages: &[Message], form: MessageForm, client: &Client, sys: &Sys) -> Result<Vec<u8>, String> {
    let mut data = String::new();
    data.push('[');
    for (position, message) in messages.iter().enumerate() {
        if position > 0 {
            data.push(',');
        }
        let text = String::from_utf8_lossy(message.body);
        match form {
            MessageForm::Binary => write_base64(&mut data, message.body),
            MessageForm::String => write_string(&mut data, &text),
            MessageForm::Unset => {
                let value = read(&text, Way::Parse).map_err(|mistake| format!("message {position} of the batch is not JSON: {mistake}"))?;
                write_compact(&mut data, &value);
            }
        }
    }
    data.push(']');

    let mut out = String::with_capacity(2048 + 2 * data.len());
    out.push_str("{\"Data\":{");
    write_string(&mut out, binding);
    out.push(':');
    write_string(&mut out, &data);
    out.push_str("},\"Metadata\":{");
    for name in ACTIONS {
        push(&mut out, format_args!("\"{name}\":{{}},"));
    }
    out.push_str("\"Client\":");
    client.write(&mut out);
    for (name, field) in FIELDS {
        push(&mut out, format_args!(",\"{name}Array\":"));
        data.clear();
        write_array(&mut data, messages, |out, message| {
            field(message).write_in_array(out);
        });
        write_string(&mut out, &data);
    }
    out.push_str(",\"sys\":");
    sys.write(&mut out);
    out.push_str("}}");
    Ok(out.into_bytes())
}

/// The envelope of a timerTrigger (host §3.3c).
///
/// There is no schedule status with `useMonitor: false`, nor in the first run.
pub fn timer(binding: &str, schedule_status: Option<&ScheduleStatus>, is_past_due: bool, sys: &Sys) -> Vec<u8> {
    let mut out = String::with_capacity(512);
    out.push_str("{\"Data\":{");
    write_string(&mut out, binding);
    out.push_str(":{\"Schedule\":{\"AdjustForDST\":true},\"ScheduleStatus\":");
    match schedule_status {
        None => out.push_str("null"),
        Some(status) => {
            out.push_str("{\"Last\":\"");
            write_date_time(&mut out, utc(status.last));
            out.push_str("+00:00\",\"Next\":\"");
            write_date_time(&mut out, utc(status.next));
            out.push_str("+00:00\",\"LastUpdated\":\"");
            write_date_time(&mut out, utc(status.last_updated));
            out.push_str("+00:00\"}");
        }
    }
    push(&mut out, format_args!(",\"IsPastDue\":{is_past_due}}}}},\"Metadata\":{{\"sys\":"));
    sys.write(&mut out);
    out.push_str("}}");
    out.into_bytes()
}

/// Objects of the .NET extension that are of no use to a custom handler.
const ACTIONS: [&str; 5] = ["MessageReceiver", "MessageSession", "MessageActions", "SessionActions", "ReceiveActions"];

/// One piece of a message's metadata, by how it is encoded.
enum Field<'a> {
    Text(Option<&'a str>),
    Number(u64),
    Id(Uuid),
    /// A `DateTime`: no zone on the wire.
    Utc(Timestamp),
    /// A `DateTimeOffset`.
    Offset(Timestamp),
    Properties(&'a Map<String, Value>),
}

type Read = for<'a> fn(&Message<'a>) -> Field<'a>;

/// `ServiceBusTriggerBindingStrategy.AddBindingData` in its order.
const FIELDS: [(&str, Read); 21] = [
    ("DeliveryCount", |message| Field::Number(message.delivery_count.into())),
    ("DeadLetterSource", |message| Field::Text(message.dead_letter_source)),
    ("LockToken", |message| Field::Id(message.lock_token)),
    ("ExpiresAtUtc", |message| Field::Utc(message.expires_at)),
    ("ExpiresAt", |message| Field::Offset(message.expires_at)),
    ("EnqueuedTimeUtc", |message| Field::Utc(message.enqueued_at)),
    ("EnqueuedTime", |message| Field::Offset(message.enqueued_at)),
    ("MessageId", |message| Field::Text(Some(message.message_id))),
    ("ContentType", |message| Field::Text(message.content_type)),
    ("ReplyTo", |message| Field::Text(message.reply_to)),
    ("SequenceNumber", |message| Field::Number(message.sequence_number)),
    ("To", |message| Field::Text(message.to)),
    ("Subject", |message| Field::Text(message.subject)),
    ("Label", |message| Field::Text(message.subject)),
    ("CorrelationId", |message| Field::Text(message.correlation_id)),
    ("ApplicationProperties", |message| Field::Properties(message.application_properties)),
    ("UserProperties", |message| Field::Properties(message.application_properties)),
    ("SessionId", |message| Field::Text(message.session_id)),
    ("ReplyToSessionId", |message| Field::Text(message.reply_to_session_id)),
    ("PartitionKey", |message| Field::Text(message.partition_key)),
    ("TransactionPartitionKey", |message| Field::Text(message.transaction_partition_key)),
];

impl Field<'_> {
    /// Writes the value inside the JSON text of a batch, where dates keep their fraction (host issue #6997).
    fn write_in_array(&self, out: &mut String) {
        match *self {
            Field::Text(None) => out.push_str("null"),
            Field::Text(Some(text)) => write_string(out, text),
            Field::Number(number) => push(out, format_args!("{number}")),
            Field::Id(id) => push(out, format_args!("\"{id}\"")),
            Field::Utc(at) => {
                out.push('"');
                write_date_time(out, utc(at));
                out.push('"');
            }
            Field::Offset(at) => {
                out.push('"');
                write_date_time(out, utc(at));
                out.push_str("+00:00\"");
            }
            Field::Properties(properties) => write_properties(out, properties),
        }
    }
}

/// A value of `Metadata`, encoded only when it is written because a later one may take its place.
enum Entry<'a> {
    /// No value; removes an earlier value of the same name too.
    Null,
    Text(Cow<'a, str>),
    Json(Json<'a>),
    Field(Field<'a>),
    Empty,
    Client(&'a Client<'a>),
    Query(&'a NameMap<'a, Values<'a>>),
    Headers(&'a [Header<'a>]),
    Sys(&'a Sys<'a>),
}

impl<'a> From<Field<'a>> for Entry<'a> {
    fn from(field: Field<'a>) -> Self {
        match field {
            Field::Text(None) => Self::Null,
            Field::Text(Some(text)) => Self::Text(Cow::Borrowed(text)),
            field => Self::Field(field),
        }
    }
}

impl Entry<'_> {
    fn write(&self, out: &mut String) {
        match self {
            Entry::Null => out.push_str("null"),
            Entry::Text(text) => write_string_in_string(out, text),
            Entry::Json(value) => write_compact(out, value),
            Entry::Empty => out.push_str("{}"),
            Entry::Client(client) => client.write(out),
            Entry::Sys(sys) => sys.write(out),
            Entry::Query(query) => {
                write_object(out, query.iter(), |out, values| {
                    write_string(out, values.last());
                });
            }
            Entry::Headers(headers) => {
                write_object(out, headers.iter().map(Header::pair), |out, values| {
                    write_string(out, &comma_joined(values));
                });
            }
            Entry::Field(Field::Text(text)) => {
                write_string_in_string(out, text.unwrap_or_default());
            }
            Entry::Field(Field::Number(number)) => push(out, format_args!("\"{number}\"")),
            Entry::Field(Field::Id(id)) => push(out, format_args!("\"\\\"{id}\\\"\"")),
            Entry::Field(Field::Utc(at)) => {
                out.push('"');
                write_to_the_second(out, utc(*at));
                out.push('"');
            }
            Entry::Field(Field::Offset(at)) => {
                out.push('"');
                write_to_the_second(out, utc(*at));
                out.push_str("+00:00\"");
            }
            Entry::Field(Field::Properties(properties)) => write_properties(out, properties),
        }
    }
}

/// The host's binding data: a later value takes the place and the casing of an earlier one of the same name.
type Metadata<'a> = NameMap<'a, Entry<'a>>;

impl<'a> Metadata<'a> {
    fn set_if_absent(&mut self, name: &'static str, entry: Entry<'a>) {
        if self.find(name).is_none() {
            self.set(Cow::Borrowed(name), entry);
        }
    }

    /// A body that has `sys` keeps it, and the host's own goes under its internal name (`SystemBindingData.AddToBindingData`).
    fn set_sys(&mut self, sys: &'a Sys<'a>) {
        let name = if self.find("sys").is_some() { "$sys" } else { "sys" };
        self.set(Cow::Borrowed(name), Entry::Sys(sys));
    }

    /// Null values and names that end in "trigger" are not passed on (`ScriptInvocationContextExtensions`).
    fn write(&self, out: &mut String) {
        let passed_on = self.iter().filter(|(name, entry)| !matches!(entry, Entry::Null) && !ends_in_trigger(name));
        write_object(out, passed_on, |out, entry| entry.write(out));
    }
}

/// Adds the properties of a text that is a JSON object; arrays and nulls are skipped (`Utility.ApplyBindingData`).
///
/// Text that is not JSON is no error to the host, and neither is it here.
fn promote<'a>(metadata: &mut Metadata<'a>, text: &'a str) {
    if !looks_like_json(text) {
        return;
    }
    let Ok(Json::Object(members)) = read(text.trim(), Way::Parse) else {
        return;
    };
    for (name, value) in members {
        match value {
            Json::Array(_) => {}
            Json::Object(_) => metadata.set(name, Entry::Json(value)),
            scalar => {
                if let Some(text) = into_text(scalar) {
                    metadata.set(name, Entry::Text(text));
                }
            }
        }
    }
}

/// A map in the order of insertion whose names are compared as `StringComparer.OrdinalIgnoreCase` does.
struct NameMap<'a, V> {
    entries: Vec<(Cow<'a, str>, V)>,
    /// Built once there are many names, so that a hostile body costs linear time.
    places: HashMap<String, usize>,
}

impl<V> Default for NameMap<'_, V> {
    fn default() -> Self {
        Self { entries: Vec::new(), places: HashMap::new() }
    }
}

impl<'a, V> NameMap<'a, V> {
    const FEW: usize = 32;

    fn find(&self, name: &str) -> Option<usize> {
        if self.entries.len() <= Self::FEW {
            self.entries.iter().position(|(other, _)| same_name(other, name))
        } else {
            self.places.get(&folded(name)).copied()
        }
    }

    fn set(&mut self, name: Cow<'a, str>, value: V) {
        match self.find(&name) {
            Some(place) => self.entries[place].1 = value,
            None => self.add(name, value),
        }
    }

    fn add(&mut self, name: Cow<'a, str>, value: V) {
        self.entries.push((name, value));
        let count = self.entries.len();
        let unknown = match count.checked_sub(Self::FEW) {
            None | Some(0) => count..count,
            Some(1) => 0..count,
            Some(_) => count - 1..count,
        };
        for place in unknown {
            self.places.insert(folded(&self.entries[place].0), place);
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.entries.iter().map(|(name, value)| (name.as_ref(), value))
    }
}

/// The values of one query key, of which there is nearly always one.
struct Values<'a> {
    first: Cow<'a, str>,
    others: Vec<Cow<'a, str>>,
}

impl Values<'_> {
    fn last(&self) -> &str {
        self.others.last().unwrap_or(&self.first)
    }

    /// The values with commas between them; empty ones are left out (`StringValues.ToString`).
    fn joined(&self) -> Cow<'_, str> {
        if self.others.is_empty() {
            return Cow::Borrowed(&self.first);
        }
        let values = std::iter::once(&self.first).chain(&self.others).map(AsRef::as_ref);
        let values: Vec<&str> = values.filter(|value: &&str| !value.is_empty()).collect();
        Cow::Owned(values.join(","))
    }
}

/// The keys of a query, each once, with its values joined.
pub(crate) fn query_values(sent: Option<&str>) -> Vec<(String, String)> {
    query(sent).iter().map(|(name, values)| (name.to_owned(), values.joined().into_owned())).collect()
}

fn query(query: Option<&str>) -> NameMap<'_, Values<'_>> {
    let mut keys: NameMap<Values> = NameMap::default();
    let pairs = query.unwrap_or_default().split('&');
    for pair in pairs.filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (unescape(key), unescape(value));
        match keys.find(&key) {
            None => keys.add(key, Values { first: value, others: Vec::new() }),
            Some(place) => {
                let (name, values) = &mut keys.entries[place];
                values.others.push(value);
                // ASP.NET stores the second and third value anew, and with them the key as it was spelled then.
                if values.others.len() < 3 {
                    *name = key;
                }
            }
        }
    }
    keys
}

/// Decodes `+` and `%XX`; what is not a valid escape, or not UTF-8 when decoded, stays as it was sent.
fn unescape(text: &str) -> Cow<'_, str> {
    let text = if text.contains('+') { Cow::Owned(text.replace('+', " ")) } else { Cow::Borrowed(text) };
    if !text.contains('%') {
        return text;
    }
    let bytes: Cow<[u8]> = percent_decode_str(&text).into();
    let mut decoded = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        decoded.push_str(chunk.valid());
        for byte in chunk.invalid() {
            push(&mut decoded, format_args!("%{byte:02X}"));
        }
    }
    Cow::Owned(decoded)
}

struct Header<'a> {
    name: Cow<'a, str>,
    rank: usize,
    values: Vec<Cow<'a, str>>,
}

impl<'a> Header<'a> {
    fn pair(&self) -> (&str, &[Cow<'a, str>]) {
        (&self.name, &self.values)
    }
}

/// Over HTTP/1.1 a client's own spelling of an unknown name is kept; a name that is not in `names` gets the usual one.
fn headers<'a>(headers: &'a HeaderMap, names: &[&'a str]) -> Vec<Header<'a>> {
    let mut listed: Vec<Header> = headers
        .keys()
        .map(|name| {
            let known = spelling::known(name.as_str().as_bytes());
            let sent = || names.iter().find(|sent| sent.eq_ignore_ascii_case(name.as_str())).copied();
            let spelt = known.map(|place| KNOWN[place]).or_else(sent);
            Header {
                name: spelt.map_or_else(|| title_case(name), Cow::Borrowed),
                rank: known.unwrap_or(LISTED_FIRST).min(LISTED_FIRST),
                values: headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect(),
            }
        })
        .collect();
    listed.sort_by_key(|header| header.rank);
    listed
}

fn title_case(name: &HeaderName) -> Cow<'static, str> {
    let mut start = true;
    let title = name.as_str().chars().map(|character| {
        let title = if start { character.to_ascii_uppercase() } else { character };
        start = character == '-';
        title
    });
    Cow::Owned(title.collect())
}

fn is_octets_or_multipart(headers: &HeaderMap) -> bool {
    let media_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    media_type == "application/octet-stream" || media_type.contains("multipart/")
}

fn identities(identity: Identity) -> &'static str {
    match identity {
        Identity::LocalAdmin => concat!(
            r#"[{"AuthenticationType":"WebJobsAuthLevel","IsAuthenticated":true,"Actor":null,"BootstrapContext":null,"#,
            r#""Claims":[{"Issuer":"LOCAL AUTHORITY","OriginalIssuer":"LOCAL AUTHORITY","Properties":{},"#,
            r#""Type":"http://schemas.microsoft.com/2017/07/functions/claims/authlevel","Value":"Admin","#,
            r#""ValueType":"http://www.w3.org/2001/XMLSchema#string"}],"Label":null,"Name":null,"#,
            r#""NameClaimType":"http://schemas.xmlsoap.org/ws/2005/05/identity/claims/name","#,
            r#""RoleClaimType":"http://schemas.microsoft.com/ws/2008/06/identity/claims/role"}]"#,
        ),
        Identity::Anonymous => concat!(
            r#"[{"AuthenticationType":null,"IsAuthenticated":false,"Actor":null,"BootstrapContext":null,"#,
            r#""Claims":[],"Label":null,"Name":null,"#,
            r#""NameClaimType":"http://schemas.xmlsoap.org/ws/2005/05/identity/claims/name","#,
            r#""RoleClaimType":"http://schemas.microsoft.com/ws/2008/06/identity/claims/role"}]"#,
        ),
    }
}

impl Sys<'_> {
    fn write(&self, out: &mut String) {
        out.push_str("{\"MethodName\":");
        write_string(out, self.method_name);
        out.push_str(",\"UtcNow\":\"");
        write_date_time(out, utc(self.utc_now));
        push(out, format_args!("Z\",\"RandGuid\":\"{}\"}}", self.rand_guid));
    }
}

impl Client<'_> {
    fn write(&self, out: &mut String) {
        out.push_str("{\"FullyQualifiedNamespace\":");
        write_string(out, self.fully_qualified_namespace);
        out.push_str(",\"IsClosed\":false,\"TransportType\":0,\"Identifier\":");
        write_string(out, self.identifier);
        out.push('}');
    }
}

fn utc(at: Timestamp) -> DateTime {
    Offset::UTC.to_datetime(at)
}

fn write_object<'n, V>(out: &mut String, members: impl Iterator<Item = (&'n str, V)>, write: impl Fn(&mut String, &V)) {
    out.push('{');
    for (position, (name, value)) in members.enumerate() {
        if position > 0 {
            out.push(',');
        }
        write_string(out, name);
        out.push(':');
        write(out, &value);
    }
    out.push('}');
}

fn write_array<T>(out: &mut String, items: &[T], write: impl Fn(&mut String, &T)) {
    out.push('[');
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(']');
}

fn write_properties(out: &mut String, properties: &Map<String, Value>) {
    let members = properties.iter().map(|(name, value)| (name.as_str(), value));
    write_object(out, members, |out, value| write_property(out, value));
}

/// Application properties are typed values, not text the host parses, so a date in a string stays as it is.
fn write_property(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => write_string(out, text),
        Value::Array(items) => write_array(out, items, write_property),
        Value::Object(members) => write_properties(out, members),
        other => push(out, format_args!("{other}")),
    }
}

fn write_base64(out: &mut String, bytes: &[u8]) {
    out.push('"');
    STANDARD.encode_string(bytes, out);
    out.push('"');
}

fn comma_joined(values: &[Cow<str>]) -> String {
    values.join(",")
}

fn ends_in_trigger(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len().checked_sub("trigger".len()).is_some_and(|from| bytes[from..].eq_ignore_ascii_case(b"trigger"))
}

fn same_name(one: &str, two: &str) -> bool {
    one.eq_ignore_ascii_case(two) || (!one.is_ascii() && !two.is_ascii() && folded(one) == folded(two))
}

fn folded(name: &str) -> String {
    name.to_uppercase()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn fixture(name: &str) -> String {
        let path = format!("{}/../../tests/fixtures/host/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    }

    fn timestamp(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Inputs of an envelope, read back from the envelope of a fixture.
    struct Known {
        text: String,
        envelope: Value,
    }

    impl Known {
        fn read(name: &str) -> Self {
            let text = fixture(name);
            let envelope = serde_json::from_str(&text).unwrap();
            Self { text, envelope }
        }

        fn sys(&self) -> Sys<'_> {
            let metadata = self.envelope["Metadata"].as_object().unwrap();
            let sys = metadata.get("$sys").unwrap_or(&metadata["sys"]);
            Sys {
                method_name: sys["MethodName"].as_str().unwrap_or("Process"),
                utc_now: timestamp(sys["UtcNow"].as_str().unwrap_or("2026-11-23T00:00:00Z")),
                rand_guid: sys["RandGuid"].as_str().unwrap_or_default().parse().unwrap_or_default(),
            }
        }

        fn http(&self, body: Option<&[u8]>, identity: Identity) -> String {
            let request = &self.envelope["Data"]["req"];
            let url = request["Url"].as_str().unwrap();
            let mut headers = HeaderMap::new();
            for (name, values) in request["Headers"].as_object().unwrap() {
                for value in values.as_array().unwrap() {
                    headers
                        .append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value.as_str().unwrap()).unwrap());
                }
            }
            let params = request["Params"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(name, value)| (name.clone(), value.as_str().map(str::to_owned)))
                .collect();
            let bytes = http(
                &Request {
                    binding: "req",
                    url,
                    method: request["Method"].as_str().unwrap(),
                    query: url.split_once('?').map(|(_, query)| query),
                    headers: &headers,
                    names: &[],
                    params: &params,
                    body,
                    identity,
                },
                &self.sys(),
            );
            String::from_utf8(bytes).unwrap()
        }

        fn body(&self) -> Option<&str> {
            self.envelope["Data"]["req"]["Body"].as_str()
        }
    }

    #[test]
    fn every_captured_http_envelope_comes_out_byte_for_byte() {
        for name in [
            "http-get",
            "http-post-chunked-client-loses-body",
            "http-post-empty",
            "http-post-invalid-json",
            "http-post-json-array",
            "http-post-json",
            "http-post-names-clash",
            "http-post-no-content-type",
            "http-post-octet-stream",
            "http-post-text",
            "http-post-utf8-bom",
        ] {
            let known = Known::read(&format!("captured/{name}.request.json"));
            let body = match name {
                "http-post-octet-stream" => Some(b"\x00\xff\x01".to_vec()),
                "http-post-utf8-bom" => Some(b"\xef\xbb\xbf{\"a\":\"\xc3\xa9\"}".to_vec()),
                "http-post-empty" => Some(Vec::new()),
                _ => known.body().map(|body| body.as_bytes().to_vec()),
            };

            let envelope = known.http(body.as_deref(), Identity::Anonymous);

            assert_eq!(envelope, known.text, "{name}");
        }
    }

    #[test]
    fn the_http_envelopes_from_source_come_out_byte_for_byte() {
        let order = Known::read("http-trigger-order-post.request.json");
        let binary = Known::read("http-trigger-binary-body.request.json");

        let order_envelope = order.http(order.body().map(str::as_bytes), Identity::LocalAdmin);
        let binary_envelope = binary.http(Some(b"\x00\x01\x02\xfd\xfe\xff"), Identity::Anonymous);

        assert_eq!(order_envelope, order.text);
        assert_eq!(binary_envelope, binary.text);
    }

    /// The fixture's identity is that of a function key, which the stand-in does not issue.
    #[test]
    fn a_get_without_a_body_differs_from_the_fixture_in_its_identity_only() {
        let known = Known::read("http-trigger-get-no-body.request.json");
        let from = known.text.find("\"Identities\":").unwrap() + "\"Identities\":".len();
        let to = known.text.find("}},\"Metadata\"").unwrap();
        let mut expected = known.text.clone();
        expected.replace_range(from..to, identities(Identity::Anonymous));

        assert_eq!(known.http(None, Identity::Anonymous), expected);
    }

    #[test]
    fn query_keys_merge_without_regard_to_case() {
        let keys = query(Some("Z=1&z=2&&a+b=%C3%A9%zz%FF+&k&=v"));
        let mut data = String::new();
        let mut metadata = String::new();

        write_object(&mut data, keys.iter(), |out, values| {
            write_string(out, &values.joined());
        });
        Entry::Query(&keys).write(&mut metadata);

        assert_eq!(data, r#"{"z":"1,2","a b":"é%zz%FF ","k":"","":"v"}"#);
        assert_eq!(metadata, r#"{"z":"2","a b":"é%zz%FF ","k":"","":"v"}"#);
    }

    #[test]
    fn header_names_get_their_usual_spelling() {
        for (sent, spelled) in [
            ("x-request-id", "X-Request-Id"),
            ("etag", "ETag"),
            ("te", "TE"),
            ("dnt", "DNT"),
            ("www-authenticate", "WWW-Authenticate"),
            ("tracestate", "tracestate"),
            ("baggage", "baggage"),
        ] {
            let mut map = HeaderMap::new();
            map.insert(HeaderName::from_static(sent), HeaderValue::from_static("v"));

            assert_eq!(headers(&map, &[])[0].name, spelled);
        }
    }

    #[test]
    fn an_absent_route_parameter_hides_what_the_query_said() {
        let headers = HeaderMap::new();
        let envelope = http(
            &Request {
                binding: "req",
                url: "http://x/a?id=7&Code=k",
                method: "POST",
                query: Some("id=7&Code=k"),
                headers: &headers,
                names: &[],
                params: &vec![("id".to_owned(), None)],
                body: Some(br#"{"REQ":1,"myTrigger":2,"ID":3,"x":1e2}"#),
                identity: Identity::Anonymous,
            },
            &Known::read("captured/http-get.request.json").sys(),
        );
        let envelope: Value = serde_json::from_slice(&envelope).unwrap();
        let names: Vec<&String> = envelope["Metadata"].as_object().unwrap().keys().collect();

        assert_eq!(names, ["x", "Query", "Headers", "sys"]);
        assert_eq!(envelope["Metadata"]["x"], "\"100\"");
    }

    #[test]
    fn ten_thousand_properties_are_promoted_once_each() {
        let members: Vec<String> = (0..20_000).map(|n| format!("\"Key{}\":{n}", n % 10_000)).collect();
        let body = format!("{{{},\"KEY5\":\"last\"}}", members.join(","));
        let mut metadata = Metadata::default();

        promote(&mut metadata, &body);

        assert_eq!(metadata.entries.len(), 10_000);
        let (name, entry) = &metadata.entries[5];
        assert_eq!(name, "Key5");
        assert!(matches!(entry, Entry::Text(text) if text == "last"));
    }

    #[test]
    fn hostile_bodies_are_passed_on_as_text() {
        let headers = HeaderMap::new();
        for body in [
            &b"{\"$serde_json::private::RawValue\":\"[[[[\",\"o\":{\"$serde_json::private::Number\":\"1\"}}"[..],
            b"{\"$serde_json::private::Number\":{}}",
            b"\xff\xfe{}\x00",
            &[b"{".repeat(100_000), b"}".repeat(100_000)].concat(),
            &[b"{\"a\":".repeat(100_000), b"}".repeat(100_000)].concat(),
        ] {
            let envelope = http(
                &Request {
                    binding: "req",
                    url: "http://x/",
                    method: "POST",
                    query: None,
                    headers: &headers,
                    names: &[],
                    params: &Vec::new(),
                    body: Some(body),
                    identity: Identity::LocalAdmin,
                },
                &Known::read("captured/http-get.request.json").sys(),
            );
            let envelope = String::from_utf8(envelope).unwrap();
            let mut text = String::new();
            write_string(&mut text, &host_json::decode(body));

            assert!(envelope.contains(&text));
        }
    }

    const CLIENT: Client = Client { fully_qualified_namespace: "localhost", identifier: "localhost-6d0f2a55-7b52-4f3e-a0a6-9f52bb0ddc8e" };

    fn bare<'a>(body: &'a [u8], properties: &'a Map<String, Value>) -> Message<'a> {
        Message {
            body,
            message_id: "m-0001",
            content_type: None,
            delivery_count: 1,
            dead_letter_source: None,
            lock_token: Uuid::nil(),
            enqueued_at: timestamp("2026-11-23T10:15:30.123Z"),
            expires_at: timestamp("2026-12-07T10:15:30.123Z"),
            sequence_number: 17,
            correlation_id: None,
            subject: None,
            reply_to: None,
            to: None,
            session_id: None,
            reply_to_session_id: None,
            partition_key: None,
            transaction_partition_key: None,
            application_properties: properties,
        }
    }

    fn properties(known: &Known) -> Map<String, Value> {
        known.envelope["Metadata"]["ApplicationProperties"].as_object().unwrap().clone()
    }

    #[test]
    fn the_single_message_envelopes_come_out_byte_for_byte() {
        let json = Known::read("servicebus-trigger-json.request.json");
        let json_body: String = serde_json::from_str(json.envelope["Data"]["orderMessage"].as_str().unwrap()).unwrap();
        let json_properties = properties(&json);
        let json_message = Message {
            message_id: "8c1d2e3f405142638495a6b7c8d9e0f1",
            content_type: Some("text/plain"),
            lock_token: "9a1c2b3d-4e5f-4607-8899-aabbccddeeff".parse().unwrap(),
            expires_at: timestamp("2026-11-23T11:15:30.123Z"),
            ..bare(json_body.as_bytes(), &json_properties)
        };
        let plain = Known::read("servicebus-trigger-plain-text.request.json");
        let plain_properties = properties(&plain);
        let plain_message = Message {
            delivery_count: 2,
            lock_token: "11111111-2222-4333-8444-555555555555".parse().unwrap(),
            sequence_number: 18,
            subject: Some("order.note"),
            correlation_id: Some("corr-7"),
            ..bare(b"hello \"world\"\nline 2", &plain_properties)
        };
        let binary = Known::read("servicebus-trigger-binary.request.json");
        let binary_properties = properties(&binary);
        let binary_message = Message {
            message_id: "m-0002",
            content_type: Some("application/octet-stream"),
            lock_token: "22222222-3333-4444-8555-666666666666".parse().unwrap(),
            sequence_number: 19,
            ..bare(b"\x00\x01\x02\xfd\xfe\xff", &binary_properties)
        };

        for (known, view, form) in [
            (json, json_message, MessageForm::Unset),
            (plain, plain_message, MessageForm::String),
            (binary, binary_message, MessageForm::Binary),
        ] {
            let envelope = message("orderMessage", &view, form, &CLIENT, &known.sys());
            assert_eq!(String::from_utf8(envelope).unwrap(), known.text);
        }
    }

    #[test]
    fn a_batch_comes_out_byte_for_byte() {
        let known = Known::read("servicebus-trigger-batch.request.json");
        let tenant = Map::from_iter([("tenant".to_owned(), Value::from("eu"))]);
        let none = Map::new();
        let first = Message {
            message_id: "m-1",
            content_type: Some("application/json"),
            lock_token: "11111111-2222-4333-8444-000000000001".parse().unwrap(),
            expires_at: timestamp("2026-11-23T11:15:30.123Z"),
            sequence_number: 20,
            ..bare(br#"{ "orderId": "A", "quantity": 1 }"#, &tenant)
        };
        let second = Message {
            message_id: "m-2",
            lock_token: "11111111-2222-4333-8444-000000000002".parse().unwrap(),
            enqueued_at: timestamp("2026-11-23T10:15:30.456Z"),
            expires_at: timestamp("2026-11-23T11:15:30.456Z"),
            sequence_number: 21,
            application_properties: &none,
            body: br#"{"orderId":"B","quantity":2}"#,
            ..first
        };

        let envelope = messages("orders", &[first, second], MessageForm::Unset, &CLIENT, &known.sys());

        assert_eq!(String::from_utf8(envelope.unwrap()).unwrap(), known.text);
    }

    #[test]
    fn a_batch_with_a_message_that_is_not_json_fails_unless_a_data_type_is_given() {
        let known = Known::read("servicebus-trigger-batch.request.json");
        let none = Map::new();
        let batch = [bare(b"1", &none), bare(b"a\"b", &none)];
        let data = |form| {
            messages("orders", &batch, form, &CLIENT, &known.sys()).map(|envelope| {
                let envelope: Value = serde_json::from_slice(&envelope).unwrap();
                envelope["Data"]["orders"].as_str().unwrap().to_owned()
            })
        };

        assert!(data(MessageForm::Unset).unwrap_err().contains("message 1"));
        assert_eq!(data(MessageForm::String).unwrap(), r#"["1","a\"b"]"#);
        assert_eq!(data(MessageForm::Binary).unwrap(), r#"["MQ==","YSJi"]"#);
    }

    /// The captured envelopes came through another queue's extension, which has fewer keys, so only its keys are compared.
    #[test]
    fn the_captured_queue_envelopes_come_out_with_the_same_values_in_the_same_order() {
        for name in ["queue-empty", "queue-json-array", "queue-json", "queue-number", "queue-text"] {
            let known = Known::read(&format!("captured/{name}.request.json"));
            let expected = known.envelope["Metadata"].as_object().unwrap();
            let body: String = serde_json::from_str(known.envelope["Data"]["orderMessage"].as_str().unwrap()).unwrap();
            let inner = |key: &str| -> String { serde_json::from_str(expected[key].as_str().unwrap()).unwrap() };
            let (message_id, lock_token) = (inner("MessageId"), inner("LockToken"));
            let properties = properties(&known);
            let view = Message {
                message_id: &message_id,
                lock_token: lock_token.parse().unwrap(),
                enqueued_at: timestamp(&format!("{}Z", expected["EnqueuedTimeUtc"].as_str().unwrap())),
                ..bare(body.as_bytes(), &properties)
            };

            let envelope = message("orderMessage", &view, MessageForm::Unset, &CLIENT, &known.sys());
            let mut envelope: Value = serde_json::from_slice(&envelope).unwrap();
            envelope["Metadata"].as_object_mut().unwrap().retain(|key, _| expected.contains_key(key));

            assert_eq!(envelope.to_string(), known.text, "{name}");
        }
    }

    #[test]
    fn the_timer_envelope_comes_out_byte_for_byte() {
        let known = Known::read("timer-trigger.request.json");
        let status = ScheduleStatus {
            last: timestamp("2026-11-23T10:10:00.0031234Z"),
            next: timestamp("2026-11-23T10:15:00Z"),
            last_updated: timestamp("2026-11-23T10:10:00.0031234Z"),
        };

        let envelope = timer("myTimer", Some(&status), false, &known.sys());
        let first_run = timer("myTimer", None, true, &known.sys());

        assert_eq!(String::from_utf8(envelope).unwrap(), known.text);
        assert!(
            String::from_utf8(first_run)
                .unwrap()
                .starts_with(r#"{"Data":{"myTimer":{"Schedule":{"AdjustForDST":true},"ScheduleStatus":null,"IsPastDue":true}}"#)
        );
    }
}
