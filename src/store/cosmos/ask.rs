//! One question to Cosmos DB: its deadline, its repetitions, what it cost, and whether a failed write may stand all the same.
//!
//! The SDK repeats a 429 as the service asks, and knows about regions. It repeats a 5xx without a pause, so it does that once,
//! and all later repetitions are ours, with pauses.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use azure_data_cosmos::diagnostics::DiagnosticsContext;
use azure_data_cosmos::models::ItemResponse;
use azure_data_cosmos::options::{
    ContentResponseOnWrite, EndToEndOperationLatencyPolicy, OperationOptionsBuilder, ThrottlingRetryOptionsBuilder,
};
use azure_data_cosmos::{CosmosError, CosmosStatus};
use serde_json::{Map, Value, json};
use tracing::debug;

use crate::outbound::backoff::{Backoff, jittered};

/// Repetitions of a question that the service refuses with 429.
const THROTTLED_REPETITIONS: u32 = 3;
/// How long those repetitions may wait altogether.
const THROTTLED_WAIT: Duration = Duration::from_secs(3);
/// So many repetitions are ours: after that whoever asked decides, with longer pauses.
const REPETITIONS: u32 = 2;
/// Pauses before repetitions of ours, of each of which up to a random half is left out.
const PAUSE: Backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_millis(200) };
/// The SDK ends a question at its deadline by itself; should it not, we do so this much later.
const GRACE: Duration = Duration::from_millis(250);

/// The kinds of questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Create,
    Read,
    Replace,
    Delete,
    Query,
}

impl Operation {
    /// In the order of their numbers.
    const ALL: [Self; 5] = [Self::Create, Self::Read, Self::Replace, Self::Delete, Self::Query];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Read => "read",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::Query => "query",
        }
    }
}

/// A question that was not answered as wished.
#[derive(Debug)]
pub(super) struct Failed {
    /// The last answer, or what the SDK made of none.
    pub(super) status: CosmosStatus,
    /// Whether a write may have been applied: some request left whose own answer does not refuse it.
    pub(super) may_be_applied: bool,
}

/// An answer, and what it took.
pub(super) struct Answer<T> {
    pub(super) value: T,
    requests: usize,
    charge: f64,
}

impl<T> Answer<T> {
    /// Adds what a part of the answer took.
    pub(super) fn counting(mut self, diagnostics: &DiagnosticsContext) -> Self {
        self.requests += diagnostics.request_count();
        self.charge += diagnostics.total_request_charge().value();
        self
    }

    pub(super) const fn of(value: T) -> Self {
        Self { value, requests: 0, charge: 0.0 }
    }
}

impl From<ItemResponse> for Answer<ItemResponse> {
    fn from(response: ItemResponse) -> Self {
        let diagnostics = response.diagnostics();
        Self::of(response).counting(&diagnostics)
    }
}

/// Asks until there is an answer that settles it, or `timeout` has passed. `call` is given the options of one try; the future it
/// gives is large, and boxed here.
pub(super) async fn ask<T, F>(
    charges: &Charges,
    operation: Operation,
    timeout: Duration,
    mut call: impl FnMut(OperationOptionsBuilder) -> F,
) -> Result<T, Failed>
where
    F: Future<Output = Result<Answer<T>, CosmosError>>,
{
    let started = Instant::now();
    let deadline = started + timeout;
    let mut may_be_applied = false;
    let (mut requests, mut charge) = (0, 0.0);
    let mut repetitions = 0;
    let outcome = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let status = match tokio::time::timeout(left + GRACE, Box::pin(call(options(left)))).await {
            Ok(Ok(answer)) => {
                requests += answer.requests;
                charge += answer.charge;
                break Ok(answer.value);
            }
            Ok(Err(error)) => {
                may_be_applied |= may_have_been_applied(&error);
                if let Some(diagnostics) = error.diagnostics() {
                    requests += diagnostics.request_count();
                    charge += diagnostics.total_request_charge().value();
                }
                error.status()
            }
            Err(_) => {
                may_be_applied = true;
                CosmosStatus::new(azure_core::http::StatusCode::RequestTimeout)
            }
        };
        let pause = jittered(PAUSE.pause(repetitions), 0.5, 1.0);
        if repetitions == REPETITIONS || !is_worth_repeating(status) || Instant::now() + pause >= deadline {
            break Err(status);
        }
        repetitions += 1;
        tokio::time::sleep(pause).await;
    };
    let status = outcome.as_ref().err();
    // What is not there, there already, or changed meanwhile is an answer.
    let answered = status.is_none_or(|status| matches!(u16::from(status.status_code()), 404 | 409 | 412));
    charges.add(operation, requests, charge, !answered);
    debug!(
        cosmos.operation = operation.as_str(),
        cosmos.requests = requests,
        cosmos.request_charge = charge,
        cosmos.status = status.map(tracing::field::display),
        duration_ms = (started.elapsed().as_secs_f64() * 1e6).round() / 1e3,
        "asked Cosmos DB"
    );
    outcome.map_err(|status| Failed { status, may_be_applied })
}

/// How the SDK is to try once.
fn options(left: Duration) -> OperationOptionsBuilder {
    let throttling =
        ThrottlingRetryOptionsBuilder::new().with_max_retry_count(THROTTLED_REPETITIONS).with_max_retry_wait_time(THROTTLED_WAIT).build();
    OperationOptionsBuilder::new()
        .with_end_to_end_latency_policy(EndToEndOperationLatencyPolicy::new(left.max(Duration::from_millis(1))))
        .with_content_response_on_write(ContentResponseOnWrite::Disabled)
        .with_throttling_retry_options(throttling)
        // Another region, or the same once more.
        .with_max_failover_retry_count(1)
}

/// Nobody processed it, or nobody knows.
fn is_worth_repeating(status: CosmosStatus) -> bool {
    matches!(u16::from(status.status_code()), 408 | 410 | 449 | 500..)
}

/// Whether some request of a failed write left here and was not itself refused. The SDK repeats by itself, so the last answer
/// alone (a 409, a 412) does not tell.
fn may_have_been_applied(error: &CosmosError) -> bool {
    let refuses = |status: CosmosStatus| matches!(u16::from(status.status_code()), 400 | 401 | 403 | 404 | 409 | 412 | 413 | 429);
    match error.diagnostics() {
        Some(diagnostics) if diagnostics.request_count() > 0 => diagnostics.requests().iter().any(|request| {
            let repeated = request.failed_transport_shards().iter().any(|shard| shard.request_sent().may_have_been_sent());
            repeated || (request.request_sent().may_have_been_sent() && !refuses(*request.status()))
        }),
        _ => !refuses(error.status()),
    }
}

/// What was asked since the start, by operation.
#[derive(Debug, Default)]
pub(super) struct Charges([Count; Operation::ALL.len()]);

#[derive(Debug, Default)]
struct Count {
    calls: AtomicU64,
    failed: AtomicU64,
    requests: AtomicU64,
    /// In thousandths of a request unit.
    charge: AtomicU64,
}

impl Charges {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "charges are small and never negative")]
    fn add(&self, operation: Operation, requests: usize, charge: f64, failed: bool) {
        let count = &self.0[operation as usize];
        count.calls.fetch_add(1, Ordering::Relaxed);
        count.failed.fetch_add(u64::from(failed), Ordering::Relaxed);
        count.requests.fetch_add(requests as u64, Ordering::Relaxed);
        count.charge.fetch_add((charge * 1e3).round() as u64, Ordering::Relaxed);
    }

    /// Questions of all kinds.
    pub(super) fn calls(&self) -> u64 {
        self.0.iter().map(|count| count.calls.load(Ordering::Relaxed)).sum()
    }

    /// For operators: calls, requests on the wire, failures, and request units, by operation.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub(super) fn figures(&self) -> Value {
        let figures = Operation::ALL.map(|operation| {
            let count = &self.0[operation as usize];
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let charge = load(&count.charge) as f64 / 1e3;
            let figures = json!({ "calls": load(&count.calls), "requests": load(&count.requests), "failed": load(&count.failed), "requestCharge": charge });
            (operation.as_str().to_owned(), figures)
        });
        Value::Object(Map::from_iter(figures))
    }
}
