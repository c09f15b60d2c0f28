//! Answers that are kept for every page of the console.
//!
//! Each page asks at each event, and a list costs the store up to 1,000 records. One list at a time is read, and after it the store has
//! its time for the handler.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use functions_host::console::panel::Refused;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Times the pause after a reading is as long as the reading.
const SHARE: u32 = 20;
/// Longest time for which the problem of a reading is told again.
const LONGEST_PROBLEM: Duration = Duration::from_mins(1);

type Told = Result<Value, Refused>;

/// The latest answer of each list.
#[derive(Default)]
pub(super) struct Kept {
    readings: Mutex<BTreeMap<&'static str, Reading>>,
    actions: AtomicU64,
}

struct Reading {
    told: Told,
    /// Actions before the reading.
    actions: u64,
    until: Instant,
}

impl Kept {
    /// The kept answer of a list, or that of `read` once the pause is over: at least `pause`, and 20 times what the reading took.
    pub(super) async fn get(&self, list: &'static str, pause: Duration, read: impl Future<Output = Told>) -> Told {
        let mut readings = self.readings.lock().await;
        let (actions, begun) = (self.actions.load(Ordering::SeqCst), Instant::now());
        if let Some(reading) = readings.get(list).filter(|reading| reading.actions == actions && begun < reading.until) {
            return reading.told.clone();
        }
        let told = read.await;
        let longest = if told.is_ok() { Duration::MAX } else { LONGEST_PROBLEM.max(pause) };
        let pause = pause.max(begun.elapsed() * SHARE).min(longest);
        readings.insert(list, Reading { told: told.clone(), actions, until: Instant::now() + pause });
        told
    }

    /// Lets the next reading of every list be a fresh one.
    pub(super) fn forget(&self) {
        self.actions.fetch_add(1, Ordering::SeqCst);
    }
}
