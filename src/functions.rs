//! The functions: each takes an invocation, decides, records, answers.

pub mod routes;
pub mod app;
pub mod invocation;
pub mod reply;
pub mod contract;
pub mod order_ingress;
pub mod order_processor;
pub mod order_status;
pub mod order_list;
pub mod doctor;
pub mod health;
mod page;
pub mod order_cancel;
mod adoption;
pub mod order_dead_letter;
pub mod order_sweeper;
pub mod open_api;
mod own_contract;
pub mod shown;
mod span;
mod told;
pub mod in_flight;
pub mod watchers;
pub mod wait_slots;
pub mod holder;
pub mod queue_wait;
pub mod completion_times;
pub mod callbacks;

use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::domain::record::{Record, Status};
use crate::functions::app::App;
use crate::metrics::METRICS;
use crate::outbound::backoff::Backoff;
use crate::store::StoreError;

/// Pauses between two questions to a store that does not answer.
const STORE_PAUSE: Backoff = Backoff { first: Duration::from_millis(50), longest: Duration::from_secs(2) };

/// Asks the store again with growing pauses until it answers or `wait` has passed. An invocation that failed at once would be
/// redelivered at once, and spend all ten deliveries of its message within a second of an outage.
async fn retry_store<T, F: Future<Output = Result<T, StoreError>>>(wait: Duration, mut ask: impl FnMut() -> F) -> Result<T, StoreError> {
    let until = Instant::now() + wait;
    let mut repetitions = 0;
    loop {
        let pause = STORE_PAUSE.pause(repetitions);
        match ask().await {
            Err(error) if !error.is_answer() && Instant::now() + pause < until => {
                tracing::warn!(%error, "the store does not answer; asking again");
                tokio::time::sleep(pause).await;
                repetitions += 1;
            }
            answer => return answer,
        }
    }
}

/// The bytes in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// An end is recorded: says so, and has it told.
fn ended(app: &App, record: &Record) {
    let text = match record.status {
        Status::Completed => "order completed",
        Status::Cancelled => "order cancelled",
        _ => "order failed",
    };
    told::transition(record, text);
    METRICS.ended(record.status, record.submitted_at.until(record.completed_at.unwrap_or(record.updated_at)), record.attempt);
    app.callbacks.hand_over(record);
}
