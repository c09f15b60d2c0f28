//! A message that nobody can act on, kept whole for a person to look at.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::timestamp::Timestamp;
use crate::domain::tracking::TrackingKey;

/// Longest description of the queue that is kept, in bytes.
const MAX_DESCRIPTION: usize = 1000;

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quarantined {
    /// Derived from the text: a message that comes twice is kept once.
    pub id: Uuid,
    /// Why nobody can act on it.
    pub reason: String,
    /// Why the queue gave it up, in the queue's words, as far as it told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter_reason: Option<String>,
    /// When it was last kept: one that was sent again and came back was kept anew.
    pub kept_at: Timestamp,
    /// The whole message.
    pub text: String,
}

impl Quarantined {
    /// A message to be kept.
    pub fn new(key: &TrackingKey, text: String, reason: String, dead_letter_reason: Option<&str>, kept_at: Timestamp) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&key.authenticate(&[b"quarantine".as_slice(), text.as_bytes()])[..16]);
        let dead_letter_reason = dead_letter_reason.map(|reason| reason[..reason.floor_char_boundary(MAX_DESCRIPTION)].to_owned());
        Self { id: Uuid::new_v8(id), reason, dead_letter_reason, kept_at, text }
    }
}
