//! The time of one invocation: the part of the host's `functionTimeout` for work and waits, after a reserve for the last writes.

use std::time::Duration;

use crate::config::function_timeout::FunctionTimeout;

/// Stages of the built-in work. `WORK_DELAY` is slept before each.
pub const STAGES: usize = 4;
/// Longest time from a call of Service Bus to its answer, token and repetitions included. The invocation waits for the answer.
pub const SERVICE_BUS_DEADLINE: Duration = Duration::from_secs(5);
/// Time for which another process may hold the write lock of `SQLite` before an operation fails.
pub const SQLITE_BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Time from a question to Cosmos DB to its answer, repetitions included, where `functionTimeout` is long enough.
pub const COSMOS_TIMEOUT: Duration = Duration::from_secs(5);

/// Share of a short `functionTimeout` that one question to Cosmos DB may take. Three of them are reserved for the last writes.
const COSMOS_SHARE: u32 = 20;
/// Shortest useful time for a question to Cosmos DB.
const LEAST_COSMOS_TIMEOUT: Duration = Duration::from_millis(100);
/// Longest wait for an order that another worker holds. A longer wait would block one of the host's few concurrent calls.
const LONGEST_CLAIM_WAIT: Duration = Duration::from_mins(3);
/// Longest wait for a store that does not answer.
const LONGEST_STORE_WAIT: Duration = Duration::from_mins(1);
/// Questions to the store that may begin last: a claim, a renewal, an end.
const LAST_WRITES: u32 = 3;
/// Time for everything else in the last writes: parsing, scheduling of tasks, the answer to the host.
const SLACK: Duration = Duration::from_secs(1);

/// The time of one invocation, divided.
#[derive(Debug, Clone)]
pub struct TimeBudget {
    /// The time after which the host ends the invocation, and the handler with it.
    pub function_timeout: FunctionTimeout,
    /// The time for working and waiting, after which the last writes still fit.
    pub working_time: Duration,
    /// The time for waiting for an order that another worker holds.
    pub claim_wait: Duration,
    /// The time for waiting for a store that does not answer.
    pub store_wait: Duration,
    /// The time for one try of the work.
    pub longest_try: Duration,
}

/// The targets of the last writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writes {
    /// Whether records are in Cosmos DB, not in a file.
    pub(super) cosmos: bool,
    /// Whether messages are scheduled in Service Bus.
    pub(super) service_bus: bool,
}

/// The time from a question to Cosmos DB to its answer: five seconds, or less where `functionTimeout` is short.
pub(super) fn cosmos_timeout(function_timeout: Duration) -> Duration {
    (function_timeout / COSMOS_SHARE).clamp(LEAST_COSMOS_TIMEOUT, COSMOS_TIMEOUT)
}

/// The reserve for the calls that may begin last: a claim, a renewal, an end, and the copy of a message for the next try.
fn reserve_for_last_writes(function_timeout: Duration, writes: Writes) -> Duration {
    let store = if writes.cosmos { cosmos_timeout(function_timeout) } else { SQLITE_BUSY_TIMEOUT };
    let queue = if writes.service_bus { SERVICE_BUS_DEADLINE } else { Duration::ZERO };
    store * LAST_WRITES + queue + SLACK
}

impl TimeBudget {
    /// Divides the time of an invocation. The error names the setting that does not fit.
    pub(super) fn share_out(
        function_timeout: FunctionTimeout,
        writes: Writes,
        (try_name, longest_try): (&str, Duration),
    ) -> (Self, Option<String>) {
        let whole = function_timeout.value;
        let working_time = whole.saturating_sub(reserve_for_last_writes(whole, writes));
        // Some of the time may have passed before a wait or a try begins.
        let most = working_time * 9 / 10;
        let problem = if !leaves_time(whole, writes) {
            // Sixty seconds are enough for any store and queue.
            let least = (1..=60).map(Duration::from_secs).find(|timeout| leaves_time(*timeout, writes)).unwrap_or(Duration::from_mins(1));
            let source = &function_timeout.source;
            Some(format!("{source} must be at least {least:?}, of which the store may need the most; it is {whole:?}"))
        } else if longest_try > most {
            let source = &function_timeout.source;
            Some(format!("{try_name} must be at most {most:?} by {source}: the host ends the whole handler then"))
        } else {
            None
        };
        let budget = Self {
            working_time,
            claim_wait: LONGEST_CLAIM_WAIT.min(whole * 3 / 5).min(most),
            store_wait: LONGEST_STORE_WAIT.min(whole / 5).min(most),
            longest_try,
            function_timeout,
        };
        (budget, problem)
    }
}

/// Whether at least a second is left for the work.
fn leaves_time(function_timeout: Duration, writes: Writes) -> bool {
    function_timeout >= reserve_for_last_writes(function_timeout, writes) + Duration::from_secs(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::function_timeout::{Source, UNLIMITED};

    const COSMOS: Writes = Writes { cosmos: true, service_bus: true };
    const EMBEDDED: Writes = Writes { cosmos: false, service_bus: false };

    fn shared_out(timeout: Duration, writes: Writes, longest_try: Duration) -> (TimeBudget, Option<String>) {
        let function_timeout = FunctionTimeout { value: timeout, source: Source::Variable, remark: None };
        TimeBudget::share_out(function_timeout, writes, ("A try", longest_try))
    }

    #[test]
    fn five_minutes_leave_three_for_an_order_and_one_for_the_store() {
        let (budget, problem) = shared_out(Duration::from_mins(5), COSMOS, Duration::from_mins(4));

        assert_eq!((budget.claim_wait, budget.store_wait), (Duration::from_mins(3), Duration::from_mins(1)));
        assert_eq!((budget.working_time, problem), (Duration::from_secs(279), None));
    }

    #[test]
    fn an_invocation_that_never_ends_waits_no_longer_and_tries_as_long_as_it_likes() {
        let (budget, problem) = shared_out(UNLIMITED, EMBEDDED, Duration::from_hours(1000));

        assert_eq!((budget.claim_wait, budget.store_wait, problem), (LONGEST_CLAIM_WAIT, LONGEST_STORE_WAIT, None));
    }

    #[test]
    fn waits_and_questions_shrink_with_the_time_there_is() {
        let (budget, problem) = shared_out(Duration::from_secs(10), COSMOS, Duration::ZERO);

        assert_eq!(cosmos_timeout(Duration::from_secs(10)), Duration::from_millis(500));
        assert_eq!((budget.working_time, problem), (Duration::from_millis(2500), None));
        assert_eq!((budget.claim_wait, budget.store_wait), (Duration::from_millis(2250), Duration::from_secs(2)));
    }

    #[test]
    fn what_cannot_fit_is_told_with_what_would() {
        let (_, problem) = shared_out(Duration::from_secs(16), EMBEDDED, Duration::ZERO);
        assert!(problem.unwrap().starts_with("FUNCTION_TIMEOUT must be at least 17s"));

        let (_, problem) = shared_out(Duration::from_secs(20), EMBEDDED, Duration::from_secs(4));
        assert!(problem.unwrap().starts_with("A try must be at most 3.6s by FUNCTION_TIMEOUT"));

        let (_, problem) = shared_out(Duration::from_secs(2), Writes { cosmos: true, service_bus: false }, Duration::ZERO);
        assert!(problem.unwrap().starts_with("FUNCTION_TIMEOUT must be at least 3s"));
    }
}
