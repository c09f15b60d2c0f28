//! The outcome of a command for one order: a code for machines, a sentence for people.

use std::fmt::{self, Display, Formatter};

use serde_json::{Value, json};

use crate::cli::operate::id_prefix::IdPrefix;
use crate::domain::record::Status;
use crate::domain::tracking::TrackingId;
use crate::store::StoreError;

/// A change of one order.
#[derive(Debug, Clone, Copy)]
pub(super) enum Done {
    /// Accepted again, and its message is sent.
    Sent,
    /// Accepted again; the sweeper sends its message.
    Accepted,
    Cancelled,
    CancelRequested,
    /// Its callback is pending; the handler sends it.
    ToBeTold,
}

impl Done {
    /// The name for machines.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Accepted => "accepted",
            Self::Cancelled => "cancelled",
            Self::CancelRequested => "cancel_requested",
            Self::ToBeTold => "callback_pending",
        }
    }
}

impl Display for Done {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sent => "sent again",
            Self::Accepted => "accepted again; the sweeper sends its message",
            Self::Cancelled => "cancelled",
            Self::ToBeTold => "its callback is pending again, under the same id; the handler sends it at the next run of OrderSweeper",
            Self::CancelRequested => {
                "cancellation requested; the order's worker, or the next to claim the order, sees the request before the next attempt at \
                 the latest"
            }
        })
    }
}

/// Why an order was not found or not changed.
#[derive(Debug)]
pub(super) enum Refused {
    Unknown(String),
    Ambiguous(IdPrefix, Vec<TrackingId>),
    NotFailed(Status),
    /// It was refused before any worker claimed it.
    NotValid,
    Ended(Status),
    NotEnded(Status),
    NoTarget,
    Store(StoreError),
}

impl Refused {
    fn code(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "order_not_found",
            Self::Ambiguous(..) => "ambiguous_id",
            Self::NotFailed(_) => "not_failed",
            Self::NotValid => "not_valid",
            Self::Ended(_) => "order_ended",
            Self::NotEnded(_) => "not_ended",
            Self::NoTarget => "no_target",
            Self::Store(StoreError::Unreadable(_) | StoreError::Newer(_)) => "unreadable",
            Self::Store(StoreError::NotApplied | StoreError::Unknown) => "store_unavailable",
        }
    }

    /// The refusal for machines.
    pub(super) fn json(&self, id: &str) -> Value {
        let mut told = json!({ "trackingId": id, "problem": self.code() });
        match self {
            Self::NotFailed(status) | Self::Ended(status) | Self::NotEnded(status) => told["status"] = status.as_str().into(),
            Self::Ambiguous(_, ids) => told["trackingIds"] = json!(ids),
            Self::NotValid | Self::Unknown(_) | Self::NoTarget | Self::Store(_) => {}
        }
        told
    }
}

impl Display for Refused {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(id) => {
                write!(
                    f,
                    "no order has the tracking id {id}; waybill orders list --order finds an order by its number, and records of ended \
                     orders are kept for a limited time"
                )
            }
            Self::Ambiguous(prefix, ids) => {
                let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
                write!(f, "more than one tracking id begins with {prefix}: {}", ids.join(", "))
            }
            Self::NotFailed(status) => write!(f, "it is {}, and only failed orders can be sent again", status.as_str()),
            Self::NotValid => f.write_str("it was refused when it was read, and no work can be done for it: its error says what to correct before its client sends it again"),
            Self::Ended(status) => write!(f, "it is {} and stays so", status.as_str()),
            Self::NotEnded(status) => write!(f, "it is {}, and only the end of an order is told", status.as_str()),
            Self::NoTarget => f.write_str("neither the order nor CALLBACK_URL names a URL to tell it to"),
            Self::Store(error) => f.write_str(&describe(error)),
        }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A failure of the store, for an operator.
pub(super) fn describe(error: &StoreError) -> String {
    match error {
        StoreError::NotApplied | StoreError::Unknown => "the store does not answer".into(),
        StoreError::Unreadable(_) | StoreError::Newer(_) => error.to_string(),
    }
}
