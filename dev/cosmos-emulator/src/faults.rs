//! Faults on demand, one at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::asked::Operation;
use crate::emulator::Answer;
use crate::stale::Replica;

/// A fault, in the form that the control port reads and shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operations: Option<Vec<Operation>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// The fault's duration; without it the fault lasts until it is cleared.
    pub(crate) seconds: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Kind {
    /// Answer 429 with `retryAfterMs`.
    Throttle,
    /// Answer 503.
    Unavailable,
    /// Answer 500.
    Internal,
    /// Apply nothing and hold the request until the fault is over, then close the connection.
    Hang,
    /// Apply a write, then close the connection instead of answering.
    DropAfterWrite,
    /// Close the connection and apply nothing.
    DropBefore,
    /// Answer reads from a replica that lags by `lagMs`.
    Stale,
    /// Close the public port.
    Refuse,
    /// Apply at once, and answer `ms` later.
    Delay,
}

/// The current fault, if any.
#[derive(Debug, Default)]
pub(crate) struct Faults(RwLock<Option<Arc<Active>>>);

/// A fault in force.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) fault: Fault,
    pub(crate) replica: Replica,
    /// Requests that the fault will still hit.
    remaining: AtomicU64,
    over: watch::Sender<bool>,
}

impl Fault {
    /// Parses a fault; the error says what to change.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let fault: Self = serde_json::from_slice(json).map_err(|error| format!("this is not a fault: {error}"))?;
        Duration::try_from_secs_f64(fault.seconds.unwrap_or_default()).map_err(|error| format!("seconds: {error}"))?;
        let needs = [
            ("retryAfterMs", fault.kind == Kind::Throttle, fault.retry_after_ms.is_some()),
            ("lagMs", fault.kind == Kind::Stale, fault.lag_ms.is_some()),
            ("ms", fault.kind == Kind::Delay, fault.ms.is_some()),
        ];
        for (name, needed, given) in needs {
            match (needed, given) {
                (true, false) => return Err(format!("this kind needs {name}")),
                (false, true) => return Err(format!("this kind has no {name}")),
                _ => {}
            }
        }
        if fault.kind == Kind::Refuse && (fault.operations.is_some() || fault.count.is_some()) {
            return Err("refuse is for connections: it has neither operations nor count".into());
        }
        Ok(fault)
    }

    /// The delay of answers.
    pub(crate) fn delay(&self) -> Duration {
        Duration::from_millis(self.ms.unwrap_or_default())
    }

    /// The answer that replaces the emulator's, for the kinds that have one.
    pub(crate) fn answer(&self) -> Option<Answer> {
        match self.kind {
            Kind::Throttle => Some(
                Answer::problem(429, "TooManyRequests", "Request rate is large. Please retry after sometime.")
                    .with_header("x-ms-substatus", 3200)
                    .with_header("x-ms-retry-after-ms", self.retry_after_ms.unwrap_or_default()),
            ),
            Kind::Unavailable => Some(Answer::problem(503, "ServiceUnavailable", "Service is currently unavailable.")),
            Kind::Internal => Some(Answer::problem(500, "InternalServerError", "An internal error occurred.")),
            _ => None,
        }
    }

    fn hits(&self, operation: Operation) -> bool {
        let chosen = match (&self.operations, self.kind) {
            (Some(operations), _) => operations.contains(&operation),
            (None, Kind::Hang | Kind::Unavailable | Kind::Internal | Kind::Throttle) => true,
            (None, _) => operation.is_document(),
        };
        match self.kind {
            Kind::DropAfterWrite => chosen && operation.is_write(),
            Kind::Refuse => false,
            _ => chosen,
        }
    }
}

impl Faults {
    /// The fault that hits this request, counted. A stale read counts only when the replica answers it.
    pub(crate) fn hit(&self, operation: Operation) -> Option<Arc<Active>> {
        self.current().filter(|active| active.fault.kind != Kind::Stale && active.fault.hits(operation) && active.take())
    }

    /// The current fault, if it is [`Kind::Stale`].
    pub(crate) fn stale(&self) -> Option<Arc<Active>> {
        self.current().filter(|active| active.fault.kind == Kind::Stale)
    }

    pub(crate) fn current(&self) -> Option<Arc<Active>> {
        self.0.read().clone()
    }

    /// Replaces the fault, or clears it; the old fault is over.
    pub(crate) fn replace(&self, fault: Option<Fault>) -> Option<Arc<Active>> {
        let active = fault.map(|fault| {
            Arc::new(Active {
                replica: Replica::new(Duration::from_millis(fault.lag_ms.unwrap_or_default())),
                remaining: AtomicU64::new(fault.count.unwrap_or(u64::MAX)),
                over: watch::Sender::new(false),
                fault,
            })
        });
        let old = std::mem::replace(&mut *self.0.write(), active.clone());
        if let Some(old) = old {
            old.over.send_replace(true);
        }
        active
    }
}

impl Active {
    /// Whether the fault hits a read; counts the read.
    pub(crate) fn takes_read(&self) -> bool {
        self.fault.hits(Operation::Read) && self.take()
    }

    /// Waits until the fault is over: cleared, replaced, or past its duration.
    pub(crate) async fn over(&self) {
        // Cannot fail: `self` holds the sender.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// The fault for the control port, with its remaining count; `None` once the count is used up.
    pub(crate) fn remaining_fault(&self) -> Option<Fault> {
        let remaining = self.remaining.load(Ordering::Relaxed);
        (remaining > 0).then(|| Fault { count: self.fault.count.map(|_| remaining), ..self.fault.clone() })
    }

    fn take(&self) -> bool {
        self.remaining.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |remaining| remaining.checked_sub(1)).is_ok()
    }
}
