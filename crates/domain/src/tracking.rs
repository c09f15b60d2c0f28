//! Tracking ids: not guessable, and derived from a request, so that the same request finds the same record.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

use crate::order::Names;

/// Longest `Idempotency-Key` header, in bytes.
pub const MAX_KEY: usize = 255;

/// The id of an order's record. Where no login is required, the id is enough to read the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrackingId(Uuid);

impl TrackingId {
    /// Parses a hyphenated `UUIDv8`, in upper or lower case: the only form of a tracking id.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 36 {
            return None;
        }
        Uuid::try_parse(text).ok().filter(|id| id.get_version_num() == 8).map(Self)
    }

    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// An id of the same form that no order has. A read of this id takes as long as any miss, so that the time of an answer does not tell
    /// another owner's order from no order.
    #[must_use]
    pub fn unused(self) -> Self {
        let bytes = self.0.into_bytes().map(|byte| !byte);
        Self(Uuid::new_v8(bytes))
    }

    /// The bytes of the id.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for TrackingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    }
}

/// Secret of the deployment, from which tracking ids are derived. Never printed.
#[derive(Clone)]
pub struct TrackingKey(Vec<u8>);

impl TrackingKey {
    /// A key of at least 32 bytes; `None` for a shorter one, which could be guessed.
    pub fn new(secret: Vec<u8>) -> Option<Self> {
        (secret.len() >= 32).then_some(Self(secret))
    }

    /// HMAC-SHA-256 over the parts, each preceded by its length.
    pub fn authenticate(&self, parts: &[impl AsRef<[u8]>]) -> [u8; 32] {
        self.mac(parts).finalize().into_bytes().into()
    }

    /// Whether `code` is a prefix of [`TrackingKey::authenticate`], compared in constant time.
    pub fn confirms(&self, parts: &[impl AsRef<[u8]>], code: &[u8]) -> bool {
        self.mac(parts).verify_truncated_left(code).is_ok()
    }

    fn mac(&self, parts: &[impl AsRef<[u8]>]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        for part in parts {
            mac.update(&(part.as_ref().len() as u64).to_be_bytes());
            mac.update(part.as_ref());
        }
        mac
    }
}

impl fmt::Debug for TrackingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrackingKey(..)")
    }
}

/// Key by which two requests are the same request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdempotencyKey<'a> {
    /// The header `Idempotency-Key`.
    Header(&'a str),
    /// Customer and number of the order. Where they stand in an order does not count.
    Order(&'a str, &'a str),
}

impl<'a> IdempotencyKey<'a> {
    /// The header if there is one, else the names in the order. `None`: the order has no number.
    pub fn of(header: Option<&'a str>, names: &'a Names) -> Option<Self> {
        let by_names = || (!names.order_id.is_empty()).then_some(Self::Order(&names.customer_id, &names.order_id));
        header.map(Self::Header).or_else(by_names)
    }

    /// A `UUIDv8` of HMAC-SHA-256 over the length-prefixed kind of key, owner and key (RFC 9562 section 5.8).
    pub fn tracking_id(self, key: &TrackingKey, owner: &str) -> TrackingId {
        let (kind, first, second) = match self {
            Self::Header(header) => ("header", header, ""),
            Self::Order(customer_id, order_id) => ("order", customer_id, order_id),
        };
        let digest = key.authenticate(&[kind, owner, first, second]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        TrackingId(Uuid::new_v8(bytes))
    }
}

/// The key in an `Idempotency-Key` header: 1 to [`MAX_KEY`] visible ASCII characters, no spaces. One pair of quotes around the key is
/// dropped: the IETF draft defines a quoted string, but most clients send the key bare.
pub fn header_key(value: &str) -> Option<&str> {
    // Spaces and tabs around a header's value are not part of the value; other white space is (RFC 9110 section 5.6.3).
    let value = value.trim_matches([' ', '\t']);
    let value = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    let visible = value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
    (!value.is_empty() && value.len() <= MAX_KEY && visible).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_by_kind_owner_parts_and_secret() {
        let key = |byte| TrackingKey::new(vec![byte; 32]).unwrap();
        let ids = [
            IdempotencyKey::Order("a", "bc").tracking_id(&key(1), "o"),
            IdempotencyKey::Order("ab", "c").tracking_id(&key(1), "o"),
            IdempotencyKey::Order("a", "bc").tracking_id(&key(1), "p"),
            IdempotencyKey::Order("a", "bc").tracking_id(&key(2), "o"),
            IdempotencyKey::Header("a").tracking_id(&key(1), "o"),
            IdempotencyKey::Order("a", "").tracking_id(&key(1), "o"),
        ];
        for (i, id) in ids.iter().enumerate() {
            assert!(!ids[..i].contains(id));
            assert_eq!(TrackingId::parse(&id.to_string()), Some(*id));
        }
        assert_eq!(ids[0], IdempotencyKey::Order("a", "bc").tracking_id(&key(1), "o"));
    }

    #[test]
    fn only_a_hyphenated_uuid_of_version_8_is_a_tracking_id() {
        for text in
            ["", "x", "0d6f2f1e7c514a0e9a553f3b6a1d2c10", "{0d6f2f1e-7c51-4a0e-9a55-3f3b6a1d2c1}", "0d6f2f1e-7c51-4a0e-9a55-3f3b6a1d2cZZ"]
        {
            assert_eq!(TrackingId::parse(text), None, "{text}");
        }
    }
}
