//! A recorded invocation: what the host sent to the handler, and what the handler answered, as one JSON file.

pub(crate) mod mask;
pub(crate) mod recorder;
pub mod folder;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::words;

/// Version of the file's format. A file of another version is refused.
pub const FORMAT: u64 = 1;
/// Letters of an id from which on its beginning stands for the whole.
const BEGINNING: usize = 8;

/// One invocation. Members that are not known are passed over.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recording {
    /// [`FORMAT`].
    pub format: u64,
    /// Name of the app's folder.
    pub app: String,
    /// Name of the function.
    pub function: String,
    /// Kind of its trigger: `http`, `queue` or `timer`.
    pub trigger: String,
    /// Id of the invocation.
    pub invocation: Uuid,
    /// Whether the client's request was passed on as it is (`enableForwardingHttpRequest`), instead of inside an invocation.
    #[serde(default)]
    pub forwarded: bool,
    /// Moment at which the request was sent. No two events of a folder have the same moment.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub began: Timestamp,
    /// Moment at which the answer was read whole, or was given up.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub ended: Timestamp,
    /// What the handler got.
    pub request: Request,
    /// What the handler answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// Why there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// A request to a handler. `Host` and what frames the body are the sender's own, and not kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Method, such as `POST`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Pairs of a name in small letters and a value, in the order in which they were sent.
    pub headers: Vec<(String, String)>,
    /// Body, if it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Body in base64, if it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

/// An answer of a handler.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// As those of a request.
    pub headers: Vec<(String, String)>,
    /// Body, if it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Body in base64, if it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

/// A body as its two members: text, or base64.
pub(crate) fn body_of(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok("") => (None, None),
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

/// The bytes of a body; `None` if the base64 is none.
pub(crate) fn bytes_of(text: Option<&String>, base64: Option<&String>) -> Option<Vec<u8>> {
    match (text, base64) {
        (Some(text), _) => Some(text.clone().into_bytes()),
        (None, Some(base64)) => STANDARD.decode(base64).ok(),
        (None, None) => Some(Vec::new()),
    }
}

impl Recording {
    /// Whether the request or the answer has this text as a word: an id of an invocation, of an order or of anything else. An id is meant
    /// by its first eight letters too, as lines for people show it.
    pub fn holds(&self, id: &str) -> bool {
        let is_meant = |text: &str| {
            let begins = |word: &str| word.len() == 36 && word.get(..id.len()).is_some_and(|start| start.eq_ignore_ascii_case(id));
            words::has(text, id) || id.len() >= BEGINNING && words::words(text).any(begins)
        };
        let of_body = |text: Option<&String>, base64: Option<&String>| {
            let bytes = base64.and_then(|base64| STANDARD.decode(base64).ok());
            text.is_some_and(|text| is_meant(text)) || bytes.is_some_and(|bytes| is_meant(&String::from_utf8_lossy(&bytes)))
        };
        let of_headers = |headers: &[(String, String)]| headers.iter().any(|(_, value)| is_meant(value));
        let Request { path, headers, body, body_base64, .. } = &self.request;
        is_meant(&self.invocation.to_string())
            || is_meant(path)
            || of_headers(headers)
            || of_body(body.as_ref(), body_base64.as_ref())
            || self
                .answer
                .as_ref()
                .is_some_and(|answer| of_headers(&answer.headers) || of_body(answer.body.as_ref(), answer.body_base64.as_ref()))
    }
}

fn as_text<S: Serializer>(moment: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{moment:.6}"))
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| serde::de::Error::custom("began and ended are moments such as 2026-12-01T02:56:10.123456Z"))
}
