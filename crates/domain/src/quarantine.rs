//! Quarantine: messages that cannot be processed, kept whole for an operator.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::timestamp::Timestamp;
use crate::tracking::TrackingKey;

/// Longest dead-letter reason that is kept, in bytes.
const MAX_DESCRIPTION: usize = 1000;

/// A message in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quarantined {
    /// Id derived from the text, so that a message that arrives twice is kept once.
    pub id: Uuid,
    /// Reason why the message cannot be processed.
    pub reason: String,
    /// Dead-letter reason from the queue, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter_reason: Option<String>,
    /// Moment when the message was put in quarantine: the latest, if it was sent again and came back.
    pub kept_at: Timestamp,
    /// The whole message; where it is not UTF-8, U+FFFD stands for such bytes.
    pub text: String,
    /// The whole message as it came, where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// Seconds after `kept_at` after which the message is deleted; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// The decision of an operator that nothing is left to do about the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discarded: Option<Discarded>,
}

/// The decision that nothing is left to do about a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discarded {
    /// Moment of the decision.
    pub at: Timestamp,
    /// Reason, in the words of the operator.
    pub reason: String,
}

impl Quarantined {
    /// A message to be put in quarantine, for this time.
    pub fn new(
        key: &TrackingKey,
        body: &[u8],
        reason: String,
        dead_letter_reason: Option<&str>,
        kept_at: Timestamp,
        retention: Duration,
    ) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&key.authenticate(&[b"quarantine".as_slice(), body])[..16]);
        let dead_letter_reason = dead_letter_reason.map(|reason| reason[..reason.floor_char_boundary(MAX_DESCRIPTION)].to_owned());
        let base64 = std::str::from_utf8(body).is_err().then(|| STANDARD.encode(body));
        let ttl = Some(u32::try_from(retention.as_secs()).unwrap_or(u32::MAX));
        let text = String::from_utf8_lossy(body).into_owned();
        Self { id: Uuid::new_v8(id), reason, dead_letter_reason, kept_at, text, base64, ttl, discarded: None }
    }

    /// The message as it came.
    pub fn body(&self) -> Vec<u8> {
        let bytes = self.base64.as_ref().and_then(|text| STANDARD.decode(text).ok());
        bytes.unwrap_or_else(|| self.text.clone().into_bytes())
    }
}
