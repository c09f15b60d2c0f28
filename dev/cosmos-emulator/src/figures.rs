//! Counters of requests, charges and connections at the public port.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value, json};

use crate::asked::Operation;
use crate::emulator::Answer;

/// Counters since the start, or since they were reset.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    requests: [AtomicU64; Operation::ALL.len()],
    /// Charges in thousandths of a request unit, since there is no atomic float.
    charges: [AtomicU64; Operation::ALL.len()],
    refused: AtomicU64,
    faulted: AtomicU64,
    connections: AtomicU64,
}

impl Figures {
    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn reached(&self, operation: Operation) {
        self.requests[operation as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn faulted(&self) {
        self.faulted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn charged(&self, operation: Operation, answer: &Answer) {
        let charge = answer.header("x-ms-request-charge").and_then(|charge| charge.parse::<f64>().ok()).unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a charge is small and not negative")]
        let thousandths = (charge * 1000.0).round() as u64;
        self.charges[operation as usize].fetch_add(thousandths, Ordering::Relaxed);
    }

    pub(crate) fn reset(&self) {
        let counters = self.requests.iter().chain(&self.charges);
        for counter in counters.chain([&self.refused, &self.faulted, &self.connections]) {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// The figures as JSON for the control port.
    pub(crate) fn to_json(&self, documents: Option<u64>) -> Value {
        let count = |counter: &AtomicU64| Value::from(counter.load(Ordering::Relaxed));
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let charge = |counter: &AtomicU64| Value::from(counter.load(Ordering::Relaxed) as f64 / 1000.0);
        let mut figures = json!({
            "requests": by_operation(&self.requests, count),
            "charges": by_operation(&self.charges, charge),
            "refused": count(&self.refused),
            "faulted": count(&self.faulted),
            "connections": count(&self.connections),
        });
        if let Some(documents) = documents {
            figures["documents"] = documents.into();
        }
        figures
    }
}

fn by_operation(counters: &[AtomicU64], value: impl Fn(&AtomicU64) -> Value) -> Value {
    let named = Operation::ALL.iter().zip(counters).map(|(operation, counter)| {
        let name = serde_json::to_value(operation).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
        (name, value(counter))
    });
    Value::Object(named.collect::<Map<_, _>>())
}
