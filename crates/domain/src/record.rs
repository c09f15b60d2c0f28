//! Stored form of an order: one record, and the types in it.
//!
//! [`lifecycle`](crate::lifecycle) decides every change of a record.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::order::Names;
use crate::timestamp::Timestamp;
use crate::tracking::TrackingId;

/// Newest record version. This program reads this version and every older one, and writes a record with the oldest of the two versions
/// that holds everything in the record ([`Record::version`]), so that a rollback concerns as few orders as possible.
/// Version 1 has no retries and no re-emissions, version 2 no callback with a URL or a notice: a program of version 2 would drop them.
pub const SCHEMA_VERSION: u32 = 3;
/// Version of a record without a callback that an older program would drop.
const WITHOUT_CALLBACK: u32 = 2;
/// Transitions that a record keeps: the first, and the latest of the others. The counters also count dropped transitions.
pub const MAX_HISTORY: usize = 16;
/// Longest code of a failure, in bytes: each entry of the history has one.
pub const MAX_CODE: usize = 100;
/// Longest message of a failure, in bytes, so that a record stays small beside its order.
pub const MAX_FAILURE: usize = 500;

/// All facts about one order: one item in the store, whose id and partition key are the tracking id.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Version of this record; see [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The order's id, which clients know.
    pub tracking_id: TrackingId,
    /// The caller that submitted the order. No other caller may see the order.
    pub owner: String,
    /// Random id of the order's life, which begins with the record and anew with each re-drive. A message of another life is completed
    /// without an effect.
    pub life: Uuid,
    /// Earlier life whose idempotency key the work is called with. That life failed without the work's own verdict, so the work may have
    /// been done unseen, and must not be done twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_life: Option<Uuid>,
    /// The order as it was accepted, byte for byte.
    pub order: Arc<RawValue>,
    /// Number and customer of the order, so that no reader of the record parses the order for them. Absent in earlier records, whose
    /// order has `orderId` and `customerId`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Names>,
    /// SHA-256 of the order's canonical form, in hexadecimal.
    pub fingerprint: String,
    /// Origin of the request.
    pub metadata: Metadata,
    /// Status of the order.
    pub status: Status,
    /// Progress of the work, 0 to 100; never goes back.
    pub progress: u8,
    /// Current stage of the work, or the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Fence: every claim raises it, and so does every end that is written without the lease. Never reset while the record is kept.
    pub fence: u64,
    /// Tries that gave a verdict, and the running one.
    pub attempt: u32,
    /// Claims that ended without a verdict, by a crash or a lost lease.
    pub interruptions: u32,
    /// Tries before the last re-drive. The budget of tries does not count them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempts_before: u32,
    /// Times that the message was sent again since the last claim.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub emissions: u32,
    /// Moment of the first of these `emissions`. Records of earlier programs do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_again_at: Option<Timestamp>,
    /// Copies of the message scheduled in this life by deliveries that met a live lease; see [`MAX_WAKE_UPS`](crate::lifecycle::MAX_WAKE_UPS).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wake_ups: u32,
    /// Lease of the worker; absent while no worker holds the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// The owner asked to cancel the order while a worker held it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel_requested: bool,
    /// Moment when the next try may begin; present while a retry waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// Moment when the scheduled copy of the message arrives. A past moment means nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake_at: Option<Timestamp>,
    /// Moment when the sweeper checks whether the order is stuck. In a terminal status, the moment of the next try of a pending callback;
    /// absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
    /// Moment after which the order fails, even while it waits.
    pub deadline: Timestamp,
    /// Result of the work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Arc<RawValue>>,
    /// Reason why the order failed, or its last try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// Moment when the order was recorded, which is before its 202.
    pub submitted_at: Timestamp,
    /// Moment of the first claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Moment of the record's last change.
    pub updated_at: Timestamp,
    /// Moment when the order ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// Transitions, oldest first; see [`MAX_HISTORY`].
    pub history: Vec<Transition>,
    /// Seconds for which the store keeps the record after its last change; set in a terminal status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// Callback that tells of the order's end; absent where nothing is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<Callback>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Record {
    /// Right to write of the latest claim.
    pub fn token(&self) -> FencingToken {
        FencingToken { life: self.life, fence: self.fence }
    }

    /// The names that the customer gave the order.
    pub fn names(&self) -> Names {
        self.names.clone().unwrap_or_else(|| Names::of(&self.order))
    }

    /// Moment of the latest claim.
    pub fn claimed_at(&self) -> Option<Timestamp> {
        let claim = self.history.iter().rev().find(|transition| matches!(transition.event, Event::Claimed | Event::Interrupted));
        claim.map(|claim| claim.at)
    }

    /// Life whose idempotency key the work is called with.
    pub fn key_life(&self) -> Uuid {
        self.key_life.unwrap_or(self.life)
    }

    /// Version that a record with these contents is written with; see [`SCHEMA_VERSION`].
    pub fn version(&self) -> u32 {
        let would_be_dropped = self.callback.as_ref().is_some_and(|callback| callback.url.is_some() || callback.notice.is_some());
        let has_event = self.history.iter().any(|transition| transition.event.is_of_callback());
        if would_be_dropped || has_event { SCHEMA_VERSION } else { WITHOUT_CALLBACK }
    }

    /// The notice of the order's end, if the order has ended and its end is told.
    pub fn notice(&self) -> Option<&Notice> {
        self.callback.as_ref().and_then(|callback| callback.notice.as_ref()).filter(|_| self.status.is_terminal())
    }
}

/// Callback that tells of an order's end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Callback {
    /// URL that the order itself named. Absent: the end is told to the URL of the deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Notice of the end; absent until the order ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<Notice>,
}

/// Notice of one end of an order: how far the callback of that end has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// State of the callback.
    pub state: NoticeState,
    /// Tries that have begun. Each try raises the number before it sends.
    pub attempts: u32,
    /// Tries before an operator asked for more. The budget of tries does not count them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempts_before: u32,
    /// Moment when the budget of time began: the end, or the operator's request.
    pub since: Timestamp,
    /// Reason why the last try failed, as a short code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// State of a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NoticeState {
    /// The receiver has not confirmed the callback; the record's `dueAt` is the moment of the next try.
    Pending,
    /// The receiver has confirmed the callback.
    Delivered,
    /// The receiver said that it wants none, or the tries are over.
    GivenUp,
}

/// Right to write of a claim. The life is part of the token, since fences begin again at 0 when an order is sent again after its
/// record has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FencingToken {
    /// The record's life at the claim.
    pub life: Uuid,
    /// The fence that the claim raised.
    pub fence: u64,
}

/// Status of an order.
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
    /// Whether the order has ended. Only an operator can re-drive it.
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

    /// The status with this name, as [`Status::as_str`] writes it.
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(())
    }
}

/// Origin of a request. The message carries the origin too.
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
    /// Moment when the request arrived.
    pub received_at: Timestamp,
    /// W3C trace context of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The caller.
    pub owner: String,
}

/// Right of one worker to write, until a moment by the store's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// Process that holds the lease.
    pub holder: Holder,
    /// Invocation that claimed the order: one process runs many invocations.
    pub invocation: String,
    /// Moment when the lease runs out unless it is renewed.
    pub expires_at: Timestamp,
}

/// Identity of a process, distinct from every other process, including earlier ones.
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
    /// Start of the process, in the system's own ticks, since process ids are reused.
    pub started: u64,
}

/// Reason why an order failed, as its owner may see it.
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
        let code = &code[..code.floor_char_boundary(MAX_CODE)];
        message.truncate(message.floor_char_boundary(MAX_FAILURE));
        Self { code: code.into(), message }
    }
}

/// One thing that happened to an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// Moment of the event.
    pub at: Timestamp,
    /// The event.
    pub event: Event,
    /// Number of the attempt at the event; 0 before the first.
    pub attempt: u32,
    /// Failure of the try.
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
    /// A worker took over the order of a worker that ended without a verdict.
    Interrupted,
    /// A try failed, and another follows.
    Retrying,
    /// An operator put the order back on its way after it had failed.
    Redriven,
    /// Ended with a result.
    Completed,
    /// Ended with an error.
    Failed,
    /// Ended because the owner asked for it.
    Cancelled,
    /// The receiver of the callback has confirmed it.
    Notified,
    /// The callback was given up.
    Unnotified,
    /// An operator asked for the callback once more.
    Renotified,
}

impl Event {
    const ALL: [Self; 11] = [
        Self::Accepted,
        Self::Claimed,
        Self::Interrupted,
        Self::Retrying,
        Self::Redriven,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::Notified,
        Self::Unnotified,
        Self::Renotified,
    ];

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
            Self::Notified => "notified",
            Self::Unnotified => "unnotified",
            Self::Renotified => "renotified",
        }
    }

    /// The event with this name, as [`Event::as_str`] writes it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == text)
    }

    /// Whether this event ends the order.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// Whether this event is one of the callback.
    pub const fn is_of_callback(self) -> bool {
        matches!(self, Self::Notified | Self::Unnotified | Self::Renotified)
    }
}
