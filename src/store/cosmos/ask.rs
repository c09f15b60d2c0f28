//! One call to Cosmos DB: its deadline, its repetitions, its charge, and whether a failed write may have been applied.
//!
//! The SDK repeats a 429 after the pause that the service names, and fails over between regions. It repeats a 5xx without a pause, so
//! it may do that once; later repetitions are made here, with pauses.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use azure_data_cosmos::diagnostics::DiagnosticsContext;
use azure_data_cosmos::models::ItemResponse;
use azure_data_cosmos::options::{
    ContentResponseOnWrite, EndToEndOperationLatencyPolicy, OperationOptionsBuilder, ThrottlingRetryOptionsBuilder,
};
use azure_data_cosmos::{CosmosError, CosmosStatus};
use serde_json::{Value, json};
use serving::trace;
use tracing::field::display;
use tracing::{Instrument, debug};

use crate::metrics::{Engine, METRICS, Operation};
use crate::outbound::backoff::{Backoff, jittered};
use crate::store;

/// Repetitions by the SDK after a 429.
const THROTTLED_REPETITIONS: u32 = 3;
/// Longest total wait of the SDK before those repetitions.
const THROTTLED_WAIT: Duration = Duration::from_secs(3);
/// Repetitions made here. After them the call fails, and the caller may try again with longer pauses.
const REPETITIONS: u32 = 2;
/// Pauses before the repetitions made here; each is shortened to a random 50 to 100 %.
const PAUSE: Backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_millis(200) };
/// How long after its deadline a call that the SDK has not ended is ended here.
const GRACE: Duration = Duration::from_millis(250);

/// A call that failed.
#[derive(Debug)]
pub(super) struct Failed {
    /// The status of the last answer, or the SDK's status for no answer.
    pub(super) status: CosmosStatus,
    /// Whether a write may have been applied: a request was sent, and no answer refused that request.
    pub(super) may_be_applied: bool,
}

/// An answer, with the number of its requests and their charge.
pub(super) struct Answer<T> {
    pub(super) value: T,
    requests: usize,
    charge: f64,
}

impl<T> Answer<T> {
    /// Adds the requests and the charge of a part of the answer.
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

/// Calls until there is a final answer or `timeout` has passed. `call` gets the options of one attempt; its future is large, so it is
/// boxed here.
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
    let span = store::span(Engine::Cosmos, operation);
    let deadline = started + timeout;
    let mut may_be_applied = false;
    let (mut requests, mut charge) = (0, 0.0);
    let mut repetitions = 0;
    let outcome = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let status = match tokio::time::timeout(left + GRACE, Box::pin(call(options(left)))).instrument(span.clone()).await {
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
    // Not found, conflict and precondition failed are answers, not failures.
    let answered = status.is_none_or(|status| matches!(u16::from(status.status_code()), 404 | 409 | 412));
    charges.add(operation, requests, charge, !answered);
    store::measure(Engine::Cosmos, operation, answered, started.elapsed());
    METRICS.request_charge.record(operation, charge);
    span.record("azure.cosmosdb.operation.request_charge", charge);
    if let Some(status) = status {
        span.record("db.response.status_code", display(u16::from(status.status_code())));
    }
    if !answered {
        trace::fail(&span, "Cosmos DB did not answer");
    }
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

/// The SDK's options for one attempt.
fn options(left: Duration) -> OperationOptionsBuilder {
    let throttling =
        ThrottlingRetryOptionsBuilder::new().with_max_retry_count(THROTTLED_REPETITIONS).with_max_retry_wait_time(THROTTLED_WAIT).build();
    OperationOptionsBuilder::new()
        .with_end_to_end_latency_policy(EndToEndOperationLatencyPolicy::new(left.max(Duration::from_millis(1))))
        .with_content_response_on_write(ContentResponseOnWrite::Disabled)
        .with_throttling_retry_options(throttling)
        // One repetition, in another region or in the same one.
        .with_max_failover_retry_count(1)
}

/// Whether the service did not process the request, or may not have.
fn is_worth_repeating(status: CosmosStatus) -> bool {
    matches!(u16::from(status.status_code()), 408 | 410 | 449 | 500..)
}

/// Whether any request of a failed write was sent and not refused. The SDK repeats requests, so the status of the last one (a 409, a
/// 412) is not enough.
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

/// Calls and charges since the start, by operation.
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

    /// Calls of all kinds.
    pub(super) fn calls(&self) -> u64 {
        self.0.iter().map(|count| count.calls.load(Ordering::Relaxed)).sum()
    }

    /// Calls, requests on the wire, failures and request units by operation, for operators.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub(super) fn figures(&self) -> Value {
        let figures = Operation::ALL.iter().map(|operation| {
            let count = &self.0[*operation as usize];
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let charge = load(&count.charge) as f64 / 1e3;
            let figures = json!({ "calls": load(&count.calls), "requests": load(&count.requests), "failed": load(&count.failed), "requestCharge": charge });
            (operation.as_str().to_owned(), figures)
        });
        Value::Object(figures.collect())
    }
}
