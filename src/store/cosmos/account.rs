//! The account's consistency level and clock, read without the SDK, which offers neither.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use azure_core::credentials::{Secret, TokenCredential};
use azure_core::http::Url;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use sha2::Sha256;

use crate::domain::timestamp::Timestamp;
use crate::outbound;
use crate::outbound::identity::{self, Tokens};
use crate::store::sqlite;

/// The REST version of these requests.
const API_VERSION: &str = "2020-07-15";
/// Longest reason in an error, in bytes.
const MAX_REASON: usize = 300;
/// The scope of tokens for Cosmos DB.
const SCOPE: &str = "https://cosmos.azure.com/.default";

/// A client for the account's REST API.
pub(super) struct Account {
    client: reqwest::Client,
    endpoint: Url,
    key: Key,
}

/// The key or token source that authorizes requests.
#[derive(Clone)]
pub(super) enum Key {
    Account(Secret),
    Token(Arc<Tokens>),
}

/// Why the account could not be read.
#[derive(Debug)]
pub(super) enum AccountError {
    /// No token: the reason, and whether the token endpoint refused the request.
    NoToken(String, bool),
    /// No answer, or not the answer of a Cosmos DB account.
    Away(String),
    /// An answer with this error status.
    Refused(u16),
}

impl fmt::Display for AccountError {
    /// One line of at most [`MAX_REASON`] bytes: a library's error may have many lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoToken(reason, _) | Self::Away(reason) => {
                let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
                f.write_str(&reason[..reason.floor_char_boundary(MAX_REASON)])
            }
            Self::Refused(status) => write!(f, "it answers {status}"),
        }
    }
}

/// The account's default consistency level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Level {
    Strong,
    BoundedStaleness,
    Session,
    ConsistentPrefix,
    Eventual,
}

impl Level {
    /// Whether a read may miss a write that Cosmos DB has confirmed to another instance.
    pub(super) const fn may_lag(self) -> bool {
        !matches!(self, Self::Strong | Self::BoundedStaleness)
    }
}

/// The account's properties.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Properties {
    user_consistency_policy: Policy,
    /// Whether each region takes writes, and compares `ETag`s with its own versions only.
    #[serde(default)]
    pub(super) enable_multiple_write_locations: bool,
    #[serde(default)]
    writable_locations: Vec<Location>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    default_consistency_level: Level,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Location {
    name: String,
}

impl Properties {
    /// The consistency level of reads.
    pub(super) const fn level(&self) -> Level {
        self.user_consistency_policy.default_consistency_level
    }

    /// The region that takes the writes.
    pub(super) fn write_region(&self) -> Option<&str> {
        self.writable_locations.first().map(|location| location.name.as_str())
    }
}

impl Account {
    /// Makes a client. `emulator`: the certificate is not checked, since it is self-signed.
    pub(super) fn new(endpoint: Url, key: Key, timeout: Duration, emulator: bool) -> Result<Self, reqwest::Error> {
        let client = outbound::http::client().timeout(timeout).tls_danger_accept_invalid_certs(emulator).build()?;
        Ok(Self { client, endpoint, key })
    }

    /// Reads the account's properties, and sets `clock` by the `Date` of the answer.
    pub(super) async fn look(&self, clock: &Clock) -> Result<Properties, AccountError> {
        let request = self.request("", "", "").await?;
        let sent = Instant::now();
        let response = request.send().await.map_err(away)?;
        let answered = Instant::now();
        if response.status() == reqwest::StatusCode::UNAUTHORIZED {
            self.forget_token();
        }
        if !response.status().is_success() {
            return Err(AccountError::Refused(response.status().as_u16()));
        }
        let date = response.headers().get("date").and_then(|date| date.to_str().ok());
        if let Some(date) = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()) {
            clock.observe(date.timestamp().as_second(), sent, answered);
        }
        let body = response.bytes().await.map_err(away)?;
        serde_json::from_slice(&body).map_err(|_| AccountError::Away("the answer is not that of a Cosmos DB account".into()))
    }

    /// Drops the cached token after the account refused it: the token may have expired unnoticed if this machine's clock is slow.
    pub(super) fn forget_token(&self) {
        if let Key::Token(tokens) = &self.key {
            tokens.forget();
        }
    }

    /// Whether the account has this database. `None`: the answer does not say.
    pub(super) async fn has_database(&self, name: &str) -> Option<bool> {
        let link = format!("dbs/{name}");
        let request = self.request("dbs", &link, &link).await.ok()?;
        match request.send().await.ok()?.status().as_u16() {
            200 => Some(true),
            404 => Some(false),
            _ => None,
        }
    }

    async fn request(&self, resource: &str, link: &str, path: &str) -> Result<reqwest::RequestBuilder, AccountError> {
        let date = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let signature = match &self.key {
            Key::Account(key) => format!("type=master&ver=1.0&sig={}", sign(key, resource, link, &date)),
            Key::Token(credential) => {
                let token = credential.get_token(&[SCOPE], None).await;
                let token = token.map_err(|error| AccountError::NoToken(error.to_string(), identity::is_refused(&error)))?;
                format!("type=aad&ver=1.0&sig={}", token.token.secret())
            }
        };
        let mut url = self.endpoint.clone();
        url.set_path(path);
        let authorization = utf8_percent_encode(&signature, NON_ALPHANUMERIC).to_string();
        Ok(self.client.get(url).header("authorization", authorization).header("x-ms-date", date).header("x-ms-version", API_VERSION))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err calls")]
fn away(error: reqwest::Error) -> AccountError {
    AccountError::Away(outbound::http::reason(&error))
}

/// The signature of a GET under the account's key ("Access control on Azure Cosmos DB resources", REST reference).
fn sign(key: &Secret, resource: &str, link: &str, date: &str) -> String {
    let key = STANDARD.decode(key.secret()).unwrap_or_default();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes a key of any length");
    mac.update(format!("get\n{resource}\n{link}\n{}\n\n", date.to_ascii_lowercase()).as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

/// The account's clock: set by its answers, carried on by this machine's monotonic clock. The machine's wall clock may be wrong.
pub(super) struct Clock {
    origin: Instant,
    /// The account's time at `origin`, in milliseconds since the Unix epoch.
    offset: AtomicI64,
    /// Lowest and highest `offset` that agree with all answers so far.
    bounds: Mutex<Option<(i64, i64)>>,
}

impl Clock {
    /// A clock that shows this machine's time until the account's first answer.
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), offset: AtomicI64::new(sqlite::now().as_milliseconds()), bounds: Mutex::new(None) }
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_milliseconds(self.offset.load(Ordering::Relaxed).saturating_add(self.since_origin(Instant::now())))
    }

    /// Sets the clock by an answer with this `date`, in whole seconds, to a request sent at `sent` and answered at `answered`. Each
    /// answer narrows the bounds; one that contradicts them (the machine slept, the account failed over) replaces them.
    fn observe(&self, date: i64, sent: Instant, answered: Instant) {
        let observed = (date * 1000 - self.since_origin(answered), date * 1000 + 999 - self.since_origin(sent));
        let mut bounds = self.bounds.lock();
        let narrowed = bounds.map(|(low, high)| (low.max(observed.0), high.min(observed.1))).filter(|(low, high)| low <= high);
        let (low, high) = narrowed.unwrap_or(observed);
        *bounds = Some((low, high));
        self.offset.store(low.midpoint(high), Ordering::Relaxed);
    }

    fn since_origin(&self, moment: Instant) -> i64 {
        i64::try_from(moment.saturating_duration_since(self.origin).as_millis()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_narrows_the_bounds_and_a_contradiction_replaces_them() {
        let clock = Clock::new();
        let at = |milliseconds| clock.origin + Duration::from_millis(milliseconds);
        let error = |real: i64| clock.offset.load(Ordering::Relaxed) - real;

        // The account's clock shows 1,000.700 s at the origin.
        clock.observe(1_000, at(0), at(100));
        assert!(error(1_000_700).abs() <= 500, "{}", error(1_000_700));
        clock.observe(1_001, at(350), at(360));
        assert!(error(1_000_700).abs() <= 200, "{}", error(1_000_700));

        clock.observe(5_000, at(400), at(410));
        assert!(error(4_999_900).abs() <= 700, "{}", error(4_999_900));
    }
}
