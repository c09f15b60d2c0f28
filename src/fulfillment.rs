//! The work an order is accepted for.

pub mod pricing;

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::fulfillment::pricing::Pricing;
use crate::lifecycle::{Failure, Verdict};
use crate::order::Order;
use crate::order::json::Json;

/// How far the work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Percent.
    pub progress: u8,
    /// What comes now.
    pub stage: &'static str,
}

/// The built-in work: prices the order in named stages.
#[derive(Debug)]
pub struct Fulfillment {
    pricing: Pricing,
    delay: Duration,
}

impl Fulfillment {
    /// `delay` is slept before each stage, for demonstrations; zero makes the work end at once.
    pub fn new(pricing: Pricing, delay: Duration) -> Self {
        Self { pricing, delay }
    }

    /// How long the work is expected to take.
    pub fn estimate(&self) -> Duration {
        self.delay.saturating_mul(u32::try_from(pricing::STAGES.len()).unwrap_or(u32::MAX)) + Duration::from_secs(1)
    }

    /// Whether the work is pure and ends at once, so that claim and finish may be one write.
    pub fn is_immediate(&self) -> bool {
        self.delay.is_zero()
    }

    /// Does the work in one go.
    pub fn run_at_once(&self, order: &RawValue) -> Verdict {
        match read(order).map(|order| self.pricing.price(&order)) {
            Ok(Ok(result)) => Verdict::Completed(result),
            Ok(Err(failure)) | Err(failure) => Verdict::Failed(failure),
        }
    }

    /// Does the work stage by stage and tells each before it begins. Ends early when nobody listens any more.
    pub async fn run(&self, order: Arc<RawValue>, steps: mpsc::Sender<Step>) -> Verdict {
        for step in pricing::STAGES {
            if steps.send(step).await.is_err() {
                break;
            }
            tokio::time::sleep(self.delay).await;
        }
        self.run_at_once(&order)
    }
}

fn read(order: &RawValue) -> Result<Order, Failure> {
    // Recorded orders were valid when they were accepted; a later version may be stricter.
    let invalid = || Failure::new("invalid_order", "the recorded order is not valid any more");
    let json = Json::parse(order.get()).map_err(|_| invalid())?;
    Order::read(&json).map_err(|_| invalid())
}
