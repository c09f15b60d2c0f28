//! The queue's messages: each names an order and the life of its record.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::record::{Metadata, Record};
use crate::tracking::TrackingId;

/// The message version that this program writes. It must read every version up to this one, for ever: messages outlive deployments.
pub const SCHEMA_VERSION: u32 = 1;

/// Longest message, in bytes. A Standard queue takes 256 KB, header included (Service Bus quotas), and the host adds properties.
pub const MAX_BYTES: usize = 256_000;

/// A message as it is written. No property may have a name of the host's trigger metadata: top-level properties of the body replace
/// that metadata (azure-functions-host #7119).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    schema_version: u32,
    tracking_id: TrackingId,
    life: Uuid,
    data: &'a RawValue,
    metadata: &'a Metadata,
}

/// The parts of a message that the processor reads; the order itself is in the record.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    schema_version: u32,
    /// The order's tracking id.
    pub tracking_id: TrackingId,
    /// The life of the order's record.
    pub life: Uuid,
}

impl Message {
    /// The message of an order in this life.
    pub fn of(tracking_id: TrackingId, life: Uuid) -> Self {
        Self { schema_version: SCHEMA_VERSION, tracking_id, life }
    }
}

/// Reason why a message cannot be read.
#[derive(Debug)]
pub enum Unreadable {
    /// Not the JSON of a message; the reason quotes no content of the message.
    Malformed(String),
    /// Written by a newer version of this program.
    Newer(u32),
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed(reason) => write!(f, "not an order message: {reason}"),
            Self::Newer(version) => write!(f, "schema version {version} is newer than {SCHEMA_VERSION}: deploy the newer handler"),
        }
    }
}

impl std::error::Error for Unreadable {}

/// The text of the message for an order.
pub fn write(record: &Record) -> String {
    let message = Written {
        schema_version: SCHEMA_VERSION,
        tracking_id: record.tracking_id,
        life: record.life,
        data: &record.order,
        metadata: &record.metadata,
    };
    serde_json::to_string(&message).expect("a message has only string keys and in-memory parts")
}

/// `traceparent` of the span that made the message, if the message names one.
pub fn traceparent(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Traced {
        metadata: Origin,
    }
    #[derive(Deserialize)]
    struct Origin {
        traceparent: Option<String>,
    }
    serde_json::from_str::<Traced>(text).ok()?.metadata.traceparent
}

/// Reads a message's text.
pub fn read(text: &str) -> Result<Message, Unreadable> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        schema_version: u32,
    }
    match serde_json::from_str::<Message>(text) {
        Ok(message) if message.schema_version <= SCHEMA_VERSION => Ok(message),
        Ok(message) => Err(Unreadable::Newer(message.schema_version)),
        Err(error) => match serde_json::from_str::<Version>(text) {
            Ok(version) if version.schema_version > SCHEMA_VERSION => Err(Unreadable::Newer(version.schema_version)),
            // Only kind and position of the error: serde's text may quote the message.
            _ => Err(Unreadable::Malformed(format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column()))),
        },
    }
}
