//! Work in Rust: the trait that a handler of one's own implements, and the try of an order that the trait gets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::sync::watch;

use crate::domain::lifecycle::Verdict;
use crate::domain::record::{Failure, Record};
use crate::fulfillment::{Outcome, Permit, Step};

/// Longest result, and longest line of a stream of the backend, in bytes: the record must stay below the 2 MB of an item of Cosmos DB.
pub(super) const MAX_RESULT: usize = 512 * 1024;

/// Longest text of the work that clients see, such as a stage, in characters.
const MAX_TEXT: usize = 200;

/// The work for which orders are accepted.
///
/// One value does the work of all orders, many at a time. A try that panics fails its order, and no other.
pub trait Work: Send + Sync + 'static {
    /// Does the work of one order.
    ///
    /// It may be called again for the same order, after a crash or a failure that [may be tried again](Failed::retryable), always
    /// with the same [`Job::idempotency_key`]. The future is dropped at [`Job::deadline`], and when another worker has taken the order.
    fn run(&self, job: Job) -> impl Future<Output = Result<Done, Failed>> + Send;

    /// The outcome at once, where the work is pure and takes no time: then the order is claimed and ended in one write.
    /// `None`, which is the default: [`Work::run`] does the work.
    fn at_once(&self, order: &str) -> Option<Result<Done, Failed>> {
        let _ = order;
        None
    }

    /// The expected time of one order's work, for `Retry-After` and `estimatedCompletion`; a second by default.
    fn estimate(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Whether the future of [`Work::run`] may be dropped when the order's owner cancels the order. By default it may not, since its
    /// effect may have happened already; work that can be undone looks at [`Job::cancelled`].
    fn can_break_off(&self) -> bool {
        false
    }

    /// The right to try this order, which is about to be claimed. `Err`: the time for which no try should begin.
    #[doc(hidden)]
    fn admit(&self, record: &Record) -> Result<Permit, Duration> {
        let _ = record;
        Ok(Permit::free())
    }

    /// The state of the breaker before the work, if it has one.
    #[doc(hidden)]
    fn breaker(&self) -> &'static str {
        "closed"
    }
}

/// One try of one order.
pub struct Job {
    pub(super) record: Record,
    pub(super) permit: Permit,
    pub(super) progress: watch::Sender<Option<Step>>,
    pub(super) cancelled: watch::Receiver<bool>,
    pub(super) deadline: Instant,
}

impl Job {
    /// The order as the type of the work. The order fails for good (`invalid_order`) if it does not fit, and the client is told where.
    pub fn order<T: DeserializeOwned>(&self) -> Result<T, Failed> {
        serde_json::from_str(self.text()).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            Failed::permanent("invalid_order", format!("the order is not what the work expects, at {place} of its text"))
        })
    }

    /// The order as it was accepted, byte for byte.
    pub fn text(&self) -> &str {
        self.record.order.get()
    }

    /// The key of the work: the same for every try of an order, until the work itself has [failed it](Failed::permanent). An effect
    /// outside belongs under this key, so that it happens once.
    pub fn idempotency_key(&self) -> String {
        format!("{}/{}", self.record.tracking_id, self.record.key_life())
    }

    /// The number of the try; 1 for the first.
    pub fn attempt(&self) -> u32 {
        self.record.attempt
    }

    /// The moment when the try is given up, and tried again later (`FULFILLMENT_TIMEOUT`).
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Shows the client how far the work is, in percent, and which stage begins, cut to 200 characters. Progress never goes back. The
    /// work does not wait: of several steps in a short time only the last is written.
    pub fn progress(&self, percent: u8, stage: impl AsRef<str>) {
        self.progress.send_replace(Some(Step { progress: percent.min(100), stage: clean(stage.as_ref()).into() }));
    }

    /// Whether the order's owner has asked to cancel it. It is noticed with the next renewal of the lease, a third of `LEASE`.
    pub fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }

    /// Waits until the order's owner asks to cancel it. The work may then end with [`Failed::cancelled`], or go on.
    pub async fn cancelled(&self) {
        let mut cancelled = self.cancelled.clone();
        // Without a sender no request to cancel can arrive.
        if cancelled.wait_for(|cancelled| *cancelled).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The result of an order, any JSON.
#[derive(Debug, Clone)]
pub struct Done(pub(super) Arc<RawValue>);

impl Done {
    /// A value that serialises. The order fails for good (`invalid_result`) if it does not.
    pub fn new(result: &impl Serialize) -> Result<Self, Failed> {
        let raw = serde_json::value::to_raw_value(result);
        raw.map(|raw| Self(raw.into())).map_err(|_| Failed::permanent("invalid_result", "the result is no JSON"))
    }
}

impl From<serde_json::Value> for Done {
    fn from(value: serde_json::Value) -> Self {
        Self(serde_json::value::to_raw_value(&value).expect("JSON has only string keys").into())
    }
}

/// Why a try did not do the work.
///
/// The code, for programs, and the message, for people, reach the client: they must not contain anything secret.
#[derive(Debug, Clone)]
pub struct Failed(pub(super) Outcome);

impl Failed {
    /// Another try may succeed. It begins after a pause that grows with each try; after `MAX_ATTEMPTS` the order fails.
    pub fn retryable(code: &str, message: impl Into<String>) -> Self {
        Self(Outcome::Again(Failure::new(code, message), None))
    }

    /// No other try may begin before this pause.
    #[must_use]
    pub fn after(self, pause: Duration) -> Self {
        match self.0 {
            Outcome::Again(failure, _) => Self(Outcome::Again(failure, Some(pause))),
            ended @ Outcome::Ended(_) => Self(ended),
        }
    }

    /// No other try would succeed: the order fails. An operator may still send it again.
    pub fn permanent(code: &str, message: impl Into<String>) -> Self {
        Self(Outcome::Ended(Verdict::Refused(Failure::new(code, message))))
    }

    /// The work was broken off because the order's owner asked for it, and it has no effect.
    pub fn cancelled() -> Self {
        Self(Outcome::Ended(Verdict::Cancelled))
    }
}

/// A foreign text made fit to be shown.
pub(super) fn clean(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(MAX_TEXT).collect()
}

/// The outcome of a try. `is_cancelled`: the order's owner has asked to cancel it; work that reports a cancellation is believed only
/// then.
pub(super) fn outcome(told: Result<Done, Failed>, is_cancelled: bool) -> Outcome {
    let failed = |code, message: String| Outcome::Ended(Verdict::Failed(Failure::new(code, message)));
    match told {
        Ok(Done(result)) if result.get().len() > MAX_RESULT => {
            failed("result_too_large", format!("the result of the work is larger than {} KiB", MAX_RESULT / 1024))
        }
        Ok(Done(result)) => Outcome::Ended(Verdict::Completed(result)),
        Err(Failed(Outcome::Ended(Verdict::Cancelled))) if !is_cancelled => {
            failed("cancelled_unasked", "the work reported a cancellation that the order's owner had not requested".into())
        }
        Err(Failed(outcome)) => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(told: Result<Done, Failed>, is_cancelled: bool) -> String {
        match outcome(told, is_cancelled) {
            Outcome::Ended(Verdict::Failed(failure)) => failure.code,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn what_work_says_cannot_make_a_record_untrue_or_too_large() {
        let large = Done::from(serde_json::Value::from("x".repeat(MAX_RESULT)));

        assert_eq!(code(Ok(large), false), "result_too_large");
        assert_eq!(code(Err(Failed::cancelled()), false), "cancelled_unasked");
        assert!(matches!(outcome(Err(Failed::cancelled()), true), Outcome::Ended(Verdict::Cancelled)));
    }

    #[test]
    fn a_stage_is_short_and_has_no_control_characters() {
        assert_eq!(clean(&format!("a\u{7}b{}", "c".repeat(300))).len(), MAX_TEXT);
        assert_eq!(clean("a\u{7}b"), "ab");
    }
}
