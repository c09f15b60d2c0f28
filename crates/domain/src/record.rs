//! What is stored of an order: one record, and the types in it.
//!
//! What may become of a record is decided in [`lifecycle`](crate::lifecycle).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::timestamp::Timestamp;
use crate::tracking::TrackingId;

/// The version this program writes. It reads this one and every older one.
/// 1: without retries and re-emissions, which are absent then.
pub const SCHEMA_VERSION: u32 = 2;
/// Transitions that a record keeps: the first, and the latest of the others. The counters still count those that were dropped.
pub const MAX_HISTORY: usize = 16;
/// Longest message of a failure, in bytes: a record is small beside its order.
pub const MAX_FAILURE: usize = 500;

/// Everything known of one order; one item in the store, id and partition key are the tracking id.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Form of this record; see [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The order's id, which clients know.
    pub tracking_id: TrackingId,
    /// The caller that submitted the order. No other may see it.
    pub owner: String,
    /// Random id of the order's life, which begins with the record and anew with each re-drive. A message of another life is completed
    /// without an effect.
    pub life: Uuid,
    /// Life under whose idempotency key the work is asked for, where that is an earlier life. The earlier life failed without the work's
    /// own verdict, so its work may have been done unseen, and must not be done twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_life: Option<Uuid>,
    /// The order as it was accepted, byte for byte.
    pub order: Arc<RawValue>,
    /// SHA-256 of the order's canonical form, in hexadecimal.
    pub fingerprint: String,
    /// Where the request came from.
    pub metadata: Metadata,
    /// Where the order stands.
    pub status: Status,
    /// 0 to 100, never backwards.
    pub progress: u8,
    /// What the work is doing, or did last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Raised by every claim, and by every end that is written without the lease; never reset while the record is kept.
    pub fence: u64,
    /// Tries that gave a verdict or are running.
    pub attempt: u32,
    /// Claims that ended without a verdict: a crash, a lost lease.
    pub interruptions: u32,
    /// Tries before the last re-drive. The budget of tries does not count them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempts_before: u32,
    /// How often the message was sent again since the last claim.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub emissions: u32,
    /// Copies of the message that deliveries which met a live lease have scheduled in this life; see [`MAX_WAKE_UPS`](crate::lifecycle::MAX_WAKE_UPS).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wake_ups: u32,
    /// The worker's right to the order; absent while no worker holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// The owner asked to cancel the order while a worker held it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel_requested: bool,
    /// When the next try may begin; present while a retry waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// When the scheduled copy of the message arrives. A moment that has passed says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake_at: Option<Timestamp>,
    /// When the sweeper looks whether the order is stuck; absent once terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
    /// After this moment the order fails, even while it waits.
    pub deadline: Timestamp,
    /// What the work made of the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Arc<RawValue>>,
    /// Why the order failed, or why its last try did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// When the order was recorded, which is before its 202.
    pub submitted_at: Timestamp,
    /// When the order was first claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When this record last changed.
    pub updated_at: Timestamp,
    /// When the order ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// What happened, oldest first; see [`MAX_HISTORY`].
    pub history: Vec<Transition>,
    /// Seconds for which the store keeps the record after its last change; set when terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Record {
    /// The latest claim's right to write.
    pub fn token(&self) -> FencingToken {
        FencingToken { life: self.life, fence: self.fence }
    }

    /// The life under whose idempotency key the work is asked for.
    pub fn key_life(&self) -> Uuid {
        self.key_life.unwrap_or(self.life)
    }
}

/// A claim's right to write. The life belongs to it, since fences begin again at 0 when an order is sent once more after its record
/// has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FencingToken {
    /// The record's life at the claim.
    pub life: Uuid,
    /// The fence that the claim raised.
    pub fence: u64,
}

/// Where an order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Recorded, not claimed yet; the message is on its way.
    Accepted,
    /// Claimed at least once, not ended.
    Processing,
    /// Ended with a result.
    Completed,
    /// Ended with an error.
    Failed,
    /// Ended because the owner asked for it.
    Cancelled,
}

impl Status {
    /// Whether the order has ended. Only an operator can put it back on its way.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    const ALL: [Self; 5] = [Self::Accepted, Self::Processing, Self::Completed, Self::Failed, Self::Cancelled];

    /// The name that clients and logs see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl std::str::FromStr for Status {
    type Err = ();

    /// Reads what [`Status::as_str`] gives.
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(())
    }
}

/// Where a request came from. The message carries it too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// The API that took the request.
    pub api_name: String,
    /// The operation of that API.
    pub operation_name: String,
    /// The caller's subscription at a gateway, if there is a gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription_id: Option<String>,
    /// When the request arrived.
    pub received_at: Timestamp,
    /// W3C trace context of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The caller.
    pub owner: String,
}

/// One worker's right to write, until a moment by the store's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// The process that holds the lease.
    pub holder: Holder,
    /// The invocation that claimed the order: one process runs many.
    pub invocation: String,
    /// When the lease runs out unless it is renewed.
    pub expires_at: Timestamp,
}

/// A process, told apart from every other process, earlier ones included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Name of the instance.
    pub instance: String,
    /// Boot of the machine and process namespace; absent where the system does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// Process id.
    pub process: u32,
    /// When the process started, in the system's own ticks. Process ids are used again.
    pub started: u64,
}

/// Why an order failed, as its owner may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable code, for programs.
    pub code: String,
    /// Explanation, for people.
    pub message: String,
}

impl Failure {
    /// A failure with a stable code. A message beyond [`MAX_FAILURE`] is cut.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MAX_FAILURE));
        Self { code: code.into(), message }
    }
}

/// One thing that happened to an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
    /// Number of the attempt in which it happened; 0 before the first.
    pub attempt: u32,
    /// Why a try failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// What can happen to an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// Recorded.
    Accepted,
    /// A worker took the order.
    Claimed,
    /// A worker took the order from one that vanished.
    Interrupted,
    /// A try failed, and another is to follow.
    Retrying,
    /// An operator put the order back on its way after it had failed.
    Redriven,
    /// Ended with a result.
    Completed,
    /// Ended with an error.
    Failed,
    /// Ended because the owner asked for it.
    Cancelled,
}

impl Event {
    const ALL: [Self; 8] =
        [Self::Accepted, Self::Claimed, Self::Interrupted, Self::Retrying, Self::Redriven, Self::Completed, Self::Failed, Self::Cancelled];

    /// The name that records and clients see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Claimed => "claimed",
            Self::Interrupted => "interrupted",
            Self::Retrying => "retrying",
            Self::Redriven => "redriven",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads what [`Event::as_str`] gives.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == text)
    }

    /// Whether this event ends the order.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}
