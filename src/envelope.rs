//! The JSON that the Functions host and a custom handler exchange; only this module knows it.
//!
//! The host sends `POST /{Function}` with `{"Data":{"{binding}":..},"Metadata":{..}}`; the answer is
//! `{"Outputs":{..},"Logs":[..],"ReturnValue":..}`. No decision depends on `Metadata`: top-level properties of a message replace the
//! host's of the same name (azure-functions-host #7119).

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

/// The claim in which the host names a function key.
const KEY_ID: &str = "http://schemas.microsoft.com/2017/07/functions/claims/keyid";

/// A request to a function with an HTTP trigger, as the host passes it on.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HttpRequest<'a> {
    /// `scheme://host/path?query` as the client sent it; the query may hold a function key.
    #[serde(borrow)]
    pub url: Cow<'a, str>,
    /// Headers, with names as the client wrote them; each has an array of values.
    #[serde(borrow, default)]
    pub headers: Headers<'a>,
    /// Route parameters; an optional one that is absent is `null`.
    #[serde(borrow, default)]
    pub params: Params<'a>,
    /// The client's identities as the host sees them; read only by [`HttpRequest::function_key`].
    #[serde(borrow, default)]
    identities: Option<&'a RawValue>,
    /// The body as text; base64 for `application/octet-stream` and `multipart/*`. Absent if the client sent none or sent it chunked:
    /// the host drops a chunked body (azure-functions-host #4926).
    #[serde(borrow, default)]
    pub body: Option<Cow<'a, str>>,
}

impl HttpRequest<'_> {
    /// Every value of a header; the case of the name does not matter.
    pub fn header<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s str> {
        self.headers
            .0
            .iter()
            .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
            .flat_map(|(_, values)| values.iter().map(AsRef::as_ref))
    }

    /// Whether a web page sent the request, as the browser's headers say (Fetch Metadata). A page of the same origin is not counted if
    /// its request has no `Origin`.
    pub fn is_from_web_page(&self) -> bool {
        let is_foreign = |site: &str| !matches!(site.trim(), "same-origin" | "none");
        self.header("origin").next().is_some() || self.header("sec-fetch-site").any(is_foreign)
    }

    /// A value of the query, not decoded: the handler's own query values need no escapes.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query_pairs().find_map(|(key, value)| (key == name).then_some(value))
    }

    /// Names and values of the query, neither decoded; a name without `=` has the value "".
    pub fn query_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let query = self.url.split('#').next().and_then(|url| url.split_once('?')).map_or("", |(_, query)| query);
        query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    /// The name of the function key that authorized the request (docs/functions-host.md §7). `func start` and the stand-in host name
    /// none.
    pub fn function_key(&self) -> Option<String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Identity {
            authentication_type: Option<String>,
            is_authenticated: Option<bool>,
            claims: Option<Vec<Claim>>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Claim {
            #[serde(rename = "Type")]
            kind: String,
            value: String,
        }
        let identities: Vec<Identity> = serde_json::from_str(self.identities?.get()).ok()?;
        // Only the host's own identity: another issuer could put any text into this claim.
        let own = |identity: &Identity| {
            identity.authentication_type.as_deref() == Some("WebJobsAuthLevel") && identity.is_authenticated == Some(true)
        };
        let mut claims = identities.into_iter().filter(own).flat_map(|identity| identity.claims.unwrap_or_default());
        claims.find_map(|claim| (claim.kind == KEY_ID).then_some(claim.value))
    }

    /// A route parameter.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).and_then(|(_, value)| value.as_deref())
    }
}

/// Client headers in order.
#[derive(Debug, Default)]
pub struct Headers<'a>(Vec<(Cow<'a, str>, Vec<Cow<'a, str>>)>);

/// Route parameters in order.
#[derive(Debug, Default)]
pub struct Params<'a>(Vec<(Cow<'a, str>, Option<Cow<'a, str>>)>);

/// Text that borrows if the JSON has no escapes; a `Cow` in a collection never borrows in serde.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Headers<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values<'a>(Vec<Cow<'a, str>>);
        impl<'de: 'a, 'a> Deserialize<'de> for Values<'a> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(OneOrMany).map(Values)
            }
        }
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Vec<Cow<'de, str>>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a header value or an array of them")
            }
            fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
                Ok(vec![Cow::Borrowed(value)])
            }
            fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
                Ok(vec![Cow::Owned(value.to_owned())])
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Vec::new())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some(Text(value)) = elements.next_element()? {
                    values.push(value);
                }
                Ok(values)
            }
        }
        deserializer
            .deserialize_map(Pairs::<Values<'de>>::new())
            .map(|pairs| Self(pairs.into_iter().map(|(name, values)| (name, values.0)).collect()))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Params<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = deserializer.deserialize_map(Pairs::<Option<Text<'de>>>::new())?;
        Ok(Self(pairs.into_iter().map(|(name, value)| (name, value.map(|Text(text)| text))).collect()))
    }
}

/// A JSON object as pairs, in order.
struct Pairs<V>(std::marker::PhantomData<V>);

impl<V> Pairs<V> {
    fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<'de, V: Deserialize<'de>> Visitor<'de> for Pairs<V> {
    type Value = Vec<(Cow<'de, str>, V)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::with_capacity(members.size_hint().unwrap_or(8));
        while let Some((Text(name), value)) = members.next_entry()? {
            pairs.push((name, value));
        }
        Ok(pairs)
    }
}

/// Parses the envelope of a function whose HTTP trigger is named `req`.
pub fn http_request(body: &[u8]) -> Result<HttpRequest<'_>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Data<'a> {
        #[serde(borrow)]
        req: HttpRequest<'a>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Invocation<'a> {
        #[serde(borrow)]
        data: Data<'a>,
    }
    serde_json::from_slice::<Invocation<'_>>(body).map(|invocation| invocation.data.req)
}

/// One message of a queue trigger named `orderMessage` or `deadLetter`.
#[derive(Debug)]
pub struct QueueMessage {
    /// The message's text; where it is not UTF-8, U+FFFD stands for such bytes.
    pub text: String,
    /// The message as it came, where it is not UTF-8 and the binding has `dataType: binary`.
    pub bytes: Option<Vec<u8>>,
    /// The dead-letter reason, for people only: the message's sender can set any text.
    pub dead_letter_reason: Option<String>,
    /// The number of deliveries, for the log only: a message body can replace it.
    pub delivery_count: Option<u32>,
}

/// Parses the envelope of a function with a Service Bus trigger: the text is JSON-encoded twice, or in base64 with `dataType: binary`.
pub fn queue_message(body: &[u8]) -> Result<QueueMessage, serde_json::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Data<'a> {
        #[serde(borrow, alias = "deadLetter")]
        order_message: Cow<'a, str>,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "PascalCase", default)]
    struct Metadata<'a> {
        #[serde(borrow)]
        delivery_count: Option<&'a RawValue>,
        #[serde(borrow)]
        application_properties: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct DeadLetter {
        dead_letter_reason: String,
        #[serde(default)]
        dead_letter_error_description: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Invocation<'a> {
        #[serde(borrow)]
        data: Data<'a>,
        #[serde(borrow, default)]
        metadata: Metadata<'a>,
    }
    let invocation: Invocation<'_> = serde_json::from_slice(body)?;
    let message = &*invocation.data.order_message;
    let (text, bytes) = if message.starts_with('"') {
        (serde_json::from_str(message)?, None)
    } else {
        let bytes = STANDARD.decode(message).map_err(|_| serde::de::Error::custom("the message is neither text nor base64"))?;
        String::from_utf8(bytes)
            .map_or_else(|error| (String::from_utf8_lossy(error.as_bytes()).into_owned(), Some(error.into_bytes())), |text| (text, None))
    };
    let delivery_count = invocation.metadata.delivery_count.and_then(|raw| raw.get().trim_matches(['"', '\\']).parse().ok());
    let dead_letter = invocation.metadata.application_properties.and_then(|raw| serde_json::from_str::<DeadLetter>(raw.get()).ok());
    let dead_letter_reason = dead_letter.map(|dead| format!("{}: {}", dead.dead_letter_reason, dead.dead_letter_error_description));
    Ok(QueueMessage { text, bytes, dead_letter_reason, delivery_count })
}

/// A function's answer to the host: an HTTP response, messages, both or nothing.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Answer {
    #[serde(skip_serializing_if = "Outputs::is_empty")]
    outputs: Outputs,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outputs {
    #[serde(skip_serializing_if = "Option::is_none")]
    res: Option<Response>,
    /// Messages, as an array of strings: the only form that the host sends unchanged. Each string becomes one message.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    order_message: Vec<String>,
}

impl Outputs {
    fn is_empty(&self) -> bool {
        self.res.is_none() && self.order_message.is_empty()
    }
}

/// The host's response to the client.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// The HTTP status, named `statusCode`: the host ignores `status`.
    pub status_code: u16,
    /// Headers. A value must not contain CR, LF or non-ASCII characters: the host would answer 500 after the message is sent.
    #[serde(serialize_with = "as_map")]
    pub headers: Vec<(&'static str, String)>,
    /// The body, JSON as a string: the host would indent an object and rewrite its dates.
    pub body: String,
    /// The problem in the body, for the log only.
    #[serde(skip)]
    pub problem: Option<Box<LoggedProblem>>,
}

/// What the log says of a problem: no value of the request.
#[derive(Debug)]
pub struct LoggedProblem {
    /// Kind of the problem.
    pub kind: &'static str,
    /// Pointers of the mistakes in the order, separated by blanks.
    pub pointers: String,
}

fn as_map<S: Serializer>(headers: &[(&'static str, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(headers.iter().map(|(name, value)| (name, value)))
}

impl Answer {
    /// Success without outputs: `{}`. After an empty body the host would hang until its timeout.
    pub fn done() -> Self {
        Self { outputs: Outputs::default() }
    }

    /// A response for the client.
    pub fn respond(response: Response) -> Self {
        Self { outputs: Outputs { res: Some(response), order_message: Vec::new() } }
    }

    /// A response for the client and a message for the queue; the host sends the message first.
    pub fn respond_and_emit(response: Response, message: String) -> Self {
        Self { outputs: Outputs { res: Some(response), order_message: vec![message] } }
    }

    /// Messages for the queue; may be empty.
    pub fn emit(messages: Vec<String>) -> Self {
        Self { outputs: Outputs { res: None, order_message: messages } }
    }

    /// The HTTP status for the client, for the log.
    pub fn status_code(&self) -> Option<u16> {
        self.outputs.res.as_ref().map(|response| response.status_code)
    }

    /// How many messages the host is to send.
    pub fn messages(&self) -> usize {
        self.outputs.order_message.len()
    }

    /// The problem that the client is told, for the log.
    pub fn problem(&self) -> Option<&LoggedProblem> {
        self.outputs.res.as_ref().and_then(|response| response.problem.as_deref())
    }

    /// The body of the answer.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an answer has only string keys")
    }
}
