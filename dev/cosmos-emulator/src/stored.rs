//! The parts of a stored document that matter here, parsed from text JSON or Cosmos binary JSON.

use azure_data_cosmos_driver::binary_json;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The parts of a stored document that decide its expiry.
#[derive(Debug, Deserialize)]
pub(crate) struct Stored {
    pub(crate) id: String,
    #[serde(rename = "_etag")]
    pub(crate) etag: String,
    /// The second of the last change.
    #[serde(rename = "_ts")]
    pub(crate) changed_at: u64,
    ttl: Option<Value>,
}

impl Stored {
    pub(crate) fn of(body: &[u8]) -> Option<Self> {
        parse(body)
    }

    /// The second at which the document expires, in a container with this default.
    pub(crate) fn expires_at(&self, default_ttl: i64) -> Option<u64> {
        let ttl = self.ttl.as_ref().and_then(Value::as_i64).unwrap_or(default_ttl);
        let ttl = u64::try_from(ttl).ok()?; // -1: never
        Some(self.changed_at.saturating_add(ttl))
    }
}

/// The id in the body of a write.
pub(crate) fn id(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Identified {
        id: String,
    }
    parse::<Identified>(body).map(|identified| identified.id)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    if binary_json::is_binary(body) { binary_json::from_slice(body).ok() } else { serde_json::from_slice(body).ok() }
}
