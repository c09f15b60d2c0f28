//! The work for which an order is accepted.

pub mod http;
pub mod pricing;

use std::borrow::Cow;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::domain::json::Json;
use crate::domain::lifecycle::Verdict;
use crate::domain::order::Order;
use crate::domain::record::{Failure, Record};
use crate::fulfillment::http::Backend;
use crate::fulfillment::pricing::Pricing;
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

/// The work.
#[derive(Debug)]
pub enum Fulfillment {
    /// The built-in work, which is pure: prices the order in named stages. The pause is slept before each stage, for
    /// demonstrations; with zero the work ends at once.
    Pricing(Pricing, Duration),
    /// The work of an HTTP service.
    Http(Backend),
}

impl Fulfillment {
    /// The expected time of the work.
    pub fn estimate(&self) -> Duration {
        match self {
            Self::Pricing(_, pause) => {
                pause.saturating_mul(u32::try_from(pricing::STAGES.len()).unwrap_or(u32::MAX)) + Duration::from_secs(1)
            }
            Self::Http(backend) => backend.estimate(),
        }
    }

    /// The state of the breaker before the work.
    pub fn breaker(&self) -> &'static str {
        match self {
            Self::Pricing(..) => "closed",
            Self::Http(backend) => backend.breaker(),
        }
    }

    /// The result at once, where the work is pure and needs no time: claim and end may then be one write.
    pub fn at_once(&self, order: &RawValue) -> Option<Verdict> {
        match self {
            Self::Pricing(pricing, pause) => pause.is_zero().then(|| price(pricing, order)),
            Self::Http(_) => None,
        }
    }

    /// Whether the work can be broken off. A call in flight cannot: its effect may have happened already.
    pub fn can_break_off(&self) -> bool {
        match self {
            Self::Pricing(..) => true,
            Self::Http(_) => false,
        }
    }

    /// The right to try this order, which is about to be claimed. `Err`: the time for which no try should begin.
    pub fn admit(&self, record: &Record) -> Result<Permit, Duration> {
        match self {
            Self::Pricing(..) => Ok(Permit::free()),
            Self::Http(backend) => backend.admit(record),
        }
    }

    /// Does the work of a claimed order, and sends each step before the step begins. Ends early when the receiver of `steps` is
    /// dropped.
    pub async fn run(&self, permit: Permit, record: &Record, steps: mpsc::Sender<Step>) -> Outcome {
        match self {
            Self::Pricing(pricing, pause) => {
                for step in pricing::STAGES {
                    if steps.send(step).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(*pause).await;
                }
                Outcome::Ended(price(pricing, &record.order))
            }
            Self::Http(backend) => backend.run(permit, record, steps).await,
        }
    }
}

fn price(pricing: &Pricing, order: &RawValue) -> Verdict {
    match read(order).and_then(|order| pricing.price(&order)) {
        Ok(result) => Verdict::Completed(result),
        Err(failure) => Verdict::Refused(failure),
    }
}

fn read(order: &RawValue) -> Result<Order, Failure> {
    // Recorded orders were valid when they were accepted; a later version may be stricter.
    let invalid = || Failure::new("invalid_order", "the recorded order is not valid any more");
    let json = Json::parse(order.get()).map_err(|_| invalid())?;
    Order::read(&json).map_err(|_| invalid())
}
