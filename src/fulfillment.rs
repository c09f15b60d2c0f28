//! The work for which an order is accepted.

pub mod http;
pub mod pricing;
pub mod work;

use std::borrow::Cow;
use std::fmt::{self, Debug, Formatter};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use tokio::sync::{mpsc, watch};
use tracing::error;

use crate::domain::lifecycle::Verdict;
use crate::domain::record::{Failure, Record};
use crate::domain::tracking::TrackingId;
use crate::fulfillment::work::{Done, Failed, Job, Work};
use crate::outbound::breaker;

/// The progress of the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Percent.
    pub progress: u8,
    /// The stage that begins now.
    pub stage: Cow<'static, str>,
}

/// The outcome of a try.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The order ends with this verdict.
    Ended(Verdict),
    /// The try failed, and another may succeed; it must not begin before this pause, if one is named.
    Again(Failure, Option<Duration>),
}

/// The right to try once; if dropped unused, it is given back.
pub type Permit = breaker::Permit;

/// The work, of any type.
#[derive(Clone)]
pub struct Fulfillment {
    work: Arc<dyn AnyWork>,
    /// The time for one try. `None`: the work itself keeps to one.
    timeout: Option<Duration>,
}

/// The deadline of a try of work that keeps to a time of its own.
const FAR: Duration = Duration::from_hours(24);

impl Fulfillment {
    /// Work that itself keeps to a time for one try.
    pub fn new(work: impl Work) -> Self {
        Self { work: Arc::new(work), timeout: None }
    }

    /// The same work, given up after this time for one try.
    #[must_use]
    pub fn within(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// The expected time of the work.
    pub fn estimate(&self) -> Duration {
        self.work.estimate()
    }

    /// The state of the breaker before the work.
    pub fn breaker(&self) -> &'static str {
        self.work.breaker()
    }

    /// The verdict at once, where the work is pure and needs no time: claim and end may then be one write.
    pub fn at_once(&self, tracking_id: TrackingId, order: &RawValue) -> Option<Verdict> {
        // A panic here would end the invocation, and the message with it again and again.
        let told = catch_unwind(AssertUnwindSafe(|| self.work.at_once(order.get())));
        let Ok(told) = told else {
            error!(order.tracking_id = %tracking_id, "the work broke down");
            return Some(broken_down());
        };
        match work::outcome(told?, false) {
            Outcome::Ended(verdict) => Some(verdict),
            // Another try is for `run`, whose every write is an attempt.
            Outcome::Again(..) => None,
        }
    }

    /// Whether the work may be broken off.
    pub fn can_break_off(&self) -> bool {
        self.work.can_break_off()
    }

    /// The right to try this order, which is about to be claimed. `Err`: the time for which no try should begin.
    pub fn admit(&self, record: &Record) -> Result<Permit, Duration> {
        self.work.admit(record)
    }

    /// Does the work of a claimed order, and sends each step before the step begins. Dropped when the order is not the caller's any more.
    pub async fn run(&self, permit: Permit, record: Record, steps: mpsc::Sender<Step>, cancelled: watch::Receiver<bool>) -> Outcome {
        let timeout = self.timeout.unwrap_or(FAR);
        let deadline = Instant::now() + timeout;
        let (progress, latest) = watch::channel(None);
        let job = Job { record, permit, progress, cancelled: cancelled.clone(), deadline };
        tokio::select! {
            told = tokio::time::timeout(timeout, self.work.run(job)) => match told {
                Ok(told) => work::outcome(told, *cancelled.borrow()),
                Err(_) => Outcome::Again(Failure::new("work_timeout", "the work did not do the order in time"), None),
            },
            () = pass_on(latest, steps) => Outcome::Again(Failure::new("given_up", "the order is not this worker's any more"), None),
        }
    }
}

/// The verdict of work that panicked.
pub fn broken_down() -> Verdict {
    Verdict::Failed(Failure::new("internal_error", "the order could not be processed"))
}

/// Passes on the latest step, however slowly steps are received: work never waits for that. Ends when the receiver is dropped.
async fn pass_on(mut latest: watch::Receiver<Option<Step>>, steps: mpsc::Sender<Step>) {
    loop {
        tokio::select! {
            () = steps.closed() => return,
            Ok(()) = latest.changed() => {}
        }
        let step = latest.borrow_and_update().clone();
        if let Some(step) = step
            && steps.send(step).await.is_err()
        {
            return;
        }
    }
}

impl Debug for Fulfillment {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fulfillment").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// [`Work`] of any type.
trait AnyWork: Send + Sync {
    fn at_once(&self, order: &str) -> Option<Result<Done, Failed>>;
    fn run(&self, job: Job) -> Pin<Box<dyn Future<Output = Result<Done, Failed>> + Send + '_>>;
    fn estimate(&self) -> Duration;
    fn can_break_off(&self) -> bool;
    fn admit(&self, record: &Record) -> Result<Permit, Duration>;
    fn breaker(&self) -> &'static str;
}

impl<W: Work> AnyWork for W {
    fn at_once(&self, order: &str) -> Option<Result<Done, Failed>> {
        Work::at_once(self, order)
    }

    fn run(&self, job: Job) -> Pin<Box<dyn Future<Output = Result<Done, Failed>> + Send + '_>> {
        Box::pin(Work::run(self, job))
    }

    fn estimate(&self) -> Duration {
        Work::estimate(self)
    }

    fn can_break_off(&self) -> bool {
        Work::can_break_off(self)
    }

    fn admit(&self, record: &Record) -> Result<Permit, Duration> {
        Work::admit(self, record)
    }

    fn breaker(&self) -> &'static str {
        Work::breaker(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Panics;

    impl Work for Panics {
        async fn run(&self, _: Job) -> Result<Done, Failed> {
            panic!("the work is broken")
        }

        fn at_once(&self, _: &str) -> Option<Result<Done, Failed>> {
            panic!("the work is broken")
        }
    }

    #[test]
    fn work_at_once_that_panics_fails_its_order() {
        let order = RawValue::from_string("{}".into()).unwrap();

        match Fulfillment::new(Panics).at_once(TrackingId::from_bytes([8; 16]), &order) {
            Some(Verdict::Failed(failure)) => assert_eq!(failure.code, "internal_error"),
            other => panic!("{other:?}"),
        }
    }
}
