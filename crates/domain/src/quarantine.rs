//! Quarantine: messages that cannot be processed, kept whole for an operator.

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
    /// The whole message.
    pub text: String,
}

impl Quarantined {
    /// A message to be put in quarantine.
    pub fn new(key: &TrackingKey, text: String, reason: String, dead_letter_reason: Option<&str>, kept_at: Timestamp) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&key.authenticate(&[b"quarantine".as_slice(), text.as_bytes()])[..16]);
        let dead_letter_reason = dead_letter_reason.map(|reason| reason[..reason.floor_char_boundary(MAX_DESCRIPTION)].to_owned());
        Self { id: Uuid::new_v8(id), reason, dead_letter_reason, kept_at, text }
    }
}
