//! Authorization of requests: by the account's key, or by a token that was set at the control port.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use hyper::{HeaderMap, Method};
use parking_lot::RwLock;
use percent_encoding::percent_decode_str;
use sha2::Sha256;

use crate::asked::{Asked, header};
use crate::emulator::Answer;

/// Largest difference between a signature's date and this machine's clock, as in Azure.
const TOLERANCE: Duration = Duration::from_secs(15 * 60);

/// The accepted key and tokens.
#[derive(Debug)]
pub(crate) struct Authorization {
    key: Hmac<Sha256>,
    tokens: RwLock<HashSet<String>>,
}

/// Why a request is refused. No answer says what would have been accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Missing,
    Wrong,
    /// A signature with a date beyond [`TOLERANCE`].
    Stale,
}

impl Authorization {
    /// Accepts the account's `key`, in base64.
    pub(crate) fn new(key: &str) -> Result<Self, String> {
        let key = STANDARD.decode(key).map_err(|error| format!("the key is not base64: {error}"))?;
        let key = Hmac::new_from_slice(&key).map_err(|error| format!("the key cannot be used: {error}"))?;
        Ok(Self { key, tokens: RwLock::default() })
    }

    /// Replaces the accepted tokens.
    pub(crate) fn accept_tokens(&self, tokens: HashSet<String>) {
        *self.tokens.write() = tokens;
    }

    pub(crate) fn check(&self, method: &Method, asked: &Asked, headers: &HeaderMap) -> Result<(), Refusal> {
        let given = header(headers, "authorization").ok_or(Refusal::Missing)?;
        let given = percent_decode_str(given).decode_utf8().map_err(|_| Refusal::Wrong)?;
        if let Some(token) = given.strip_prefix("type=aad&ver=1.0&sig=") {
            let tokens = self.tokens.read();
            return if tokens.contains(token) { Ok(()) } else { Err(Refusal::Wrong) };
        }
        let signature = given.strip_prefix("type=master&ver=1.0&sig=").ok_or(Refusal::Wrong)?;
        let signature = STANDARD.decode(signature).map_err(|_| Refusal::Wrong)?;
        let date = header(headers, "x-ms-date").or_else(|| header(headers, "date")).ok_or(Refusal::Wrong)?;
        let (kind, link) = signed_resource(&asked.path);
        // A client that addresses by resource id signs only the last id, in lower case.
        let is_signed = self.is_signature(&signature, method, kind, link, date)
            || self.is_signature(&signature, method, kind, &last_segment(link).to_lowercase(), date);
        if !is_signed {
            return Err(Refusal::Wrong);
        }
        if is_near(date).ok_or(Refusal::Wrong)? { Ok(()) } else { Err(Refusal::Stale) }
    }

    fn is_signature(&self, signature: &[u8], method: &Method, kind: &str, link: &str, date: &str) -> bool {
        let mut hmac = self.key.clone();
        let method = method.as_str().to_ascii_lowercase();
        for part in [&method, kind, link, &date.to_ascii_lowercase(), ""] {
            hmac.update(part.as_bytes());
            hmac.update(b"\n");
        }
        hmac.verify_slice(signature).is_ok()
    }
}

impl Refusal {
    pub(crate) fn answer(self) -> Answer {
        match self {
            Self::Missing => Answer::problem(
                401,
                "Unauthorized",
                "Required Header authorization is missing. Ensure a valid Authorization token is passed.",
            ),
            Self::Wrong => Answer::problem(
                401,
                "Unauthorized",
                "The input authorization token can't serve the request. The wrong key is being used or the expected payload is not \
                 built as per the protocol.",
            ),
            Self::Stale => Answer::problem(
                403,
                "Forbidden",
                "The authorization token is not valid at the current time. Check the clock of the client.",
            ),
        }
    }
}

/// The resource type and the link that a client signs: for a feed, the link of its parent.
fn signed_resource(path: &str) -> (&str, &str) {
    let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
    let is_feed = path.split('/').count() % 2 == 1;
    if is_feed { (last, parent) } else { (last_segment(parent), path) }
}

fn last_segment(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether a date is within [`TOLERANCE`]; `None` if it is not a date.
fn is_near(date: &str) -> Option<bool> {
    let date = httpdate::parse_http_date(&proper_case(date)).ok()?;
    let now = SystemTime::now();
    let apart = now.duration_since(date).or_else(|_| date.duration_since(now)).ok()?;
    Some(apart <= TOLERANCE)
}

/// The date in the case that the parser needs: some clients send `tue, 01 nov 1994 08:12:31 gmt`.
fn proper_case(date: &str) -> String {
    let mut previous = ' ';
    let mut proper: String = date
        .chars()
        .map(|character| {
            let begins = !previous.is_ascii_alphabetic();
            previous = character;
            if begins { character.to_ascii_uppercase() } else { character.to_ascii_lowercase() }
        })
        .collect();
    if proper.ends_with("Gmt") {
        proper.replace_range(proper.len() - 3.., "GMT");
    }
    proper
}
