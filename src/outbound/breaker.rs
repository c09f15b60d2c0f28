//! A circuit breaker: while a dependency is down it is not called, and no caller waits to find out that it is down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{info, warn};

use crate::outbound::backoff::{Backoff, jittered};

/// Counts failed calls, and decides whether another call may begin.
#[derive(Debug)]
pub struct Breaker {
    /// The name of the dependency in the log.
    what: &'static str,
    /// Consecutive failures that open the breaker.
    failures: u32,
    /// The pause before each probe, by the number of probes that failed before it.
    pauses: Backoff,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Closed: any call may begin. Holds the number of consecutive failures.
    Closed { failures: u32 },
    /// Open: no call may begin before that moment; then one may, the probe.
    Open { until: Instant, failed_probes: u32 },
    /// Half-open: since that moment the probe is running, or about to begin.
    HalfOpen { since: Instant, failed_probes: u32 },
}

/// The right to call once. A permit that is dropped without an [`end`](Permit::end) was not used; if it was the probe's, another
/// caller may have it.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    breaker: Option<Arc<Breaker>>,
    probe: bool,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(what: &'static str, failures: u32, pauses: Backoff) -> Self {
        Self { what, failures, pauses, state: Mutex::new(State::Closed { failures: 0 }) }
    }

    /// Whether any call may begin.
    pub fn is_closed(&self) -> bool {
        matches!(*self.state.lock(), State::Closed { .. })
    }

    /// The state, for operators: `closed`, `open`, `half-open`.
    pub fn as_str(&self) -> &'static str {
        match *self.state.lock() {
            State::Closed { .. } => "closed",
            State::Open { .. } => "open",
            State::HalfOpen { .. } => "half-open",
        }
    }

    /// The right to call. `Err`: the time after which to ask for it again.
    pub fn admit(self: &Arc<Self>, now: Instant) -> Result<Permit, Duration> {
        let mut state = self.state.lock();
        let probe = match *state {
            State::Closed { .. } => false,
            State::Open { until, .. } if now < until => return Err(until - now),
            State::Open { failed_probes, .. } => {
                info!("asking {} whether it is back", self.what);
                *state = State::HalfOpen { since: now, failed_probes };
                true
            }
            // The probe may take a while. The random part keeps those that wait from coming back all at once.
            State::HalfOpen { .. } => return Err(longer(self.pauses.first)),
        };
        Ok(Permit { breaker: Some(Arc::clone(self)), probe })
    }

    /// A success. While the breaker is not closed only the probe's counts: other calls began earlier, and tell of an earlier time.
    fn succeed(&self, probe: bool) {
        let mut state = self.state.lock();
        match *state {
            State::HalfOpen { .. } if probe => info!("{} is back", self.what),
            State::Closed { .. } => {}
            _ => return,
        }
        *state = State::Closed { failures: 0 };
    }

    fn fail(&self, probe: bool, now: Instant) {
        let mut state = self.state.lock();
        let failed_probes = match &mut *state {
            State::HalfOpen { failed_probes, .. } if probe => failed_probes.saturating_add(1),
            State::Closed { failures } => {
                *failures += 1;
                if *failures < self.failures {
                    return;
                }
                0
            }
            _ => return,
        };
        let pause = longer(self.pauses.pause(failed_probes));
        warn!(breaker.pause_ms = pause.as_millis(), "{} is down; it is left alone for a while", self.what);
        *state = State::Open { until: now + pause, failed_probes };
    }

    fn give_back(&self) {
        let mut state = self.state.lock();
        if let State::HalfOpen { since, failed_probes } = *state {
            *state = State::Open { until: since, failed_probes };
        }
    }
}

impl Permit {
    /// A permit where nothing can be down.
    pub const fn free() -> Self {
        Self { breaker: None, probe: false }
    }

    /// Records the end of the call, and whether the dependency answered.
    pub fn end(mut self, was_there: bool, now: Instant) {
        match self.breaker.take() {
            Some(breaker) if was_there => breaker.succeed(self.probe),
            Some(breaker) => breaker.fail(self.probe, now),
            None => {}
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(breaker) = self.breaker.take().filter(|_| self.probe) {
            breaker.give_back();
        }
    }
}

/// A pause, longer by up to a quarter at random: instances that lost the dependency together do not come back together.
fn longer(pause: Duration) -> Duration {
    jittered(pause, 1.0, 1.25)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(10);

    fn breaker(now: Instant, failures: u32) -> Arc<Breaker> {
        let breaker = Arc::new(Breaker::new("it", 5, Backoff { first: PAUSE, longest: Duration::from_mins(2) }));
        for _ in 0..failures {
            breaker.admit(now).unwrap().end(false, now);
        }
        breaker
    }

    /// The pause of a breaker that is open at `now`, checked against the pause that it should have.
    fn open(breaker: &Arc<Breaker>, now: Instant, pause: Duration) -> Duration {
        let left = breaker.admit(now).unwrap_err();
        assert!(left >= pause && left <= pause.mul_f64(1.25), "{left:?}");
        left
    }

    #[test]
    fn it_opens_after_so_many_failures_in_a_row() {
        let now = Instant::now();

        drop(breaker(now, 4).admit(now).unwrap());
        open(&breaker(now, 5), now, PAUSE);
    }

    #[test]
    fn one_success_in_between_starts_the_count_again() {
        let now = Instant::now();
        let breaker = breaker(now, 4);
        breaker.admit(now).unwrap().end(true, now);
        for _ in 0..4 {
            breaker.admit(now).unwrap().end(false, now);
        }

        drop(breaker.admit(now).unwrap());
    }

    #[test]
    fn after_the_pause_there_is_one_probe_at_a_time_and_its_success_closes() {
        let now = Instant::now();
        let breaker = breaker(now, 5);
        let later = now + open(&breaker, now, PAUSE);

        let probe = breaker.admit(later).unwrap();
        assert!(breaker.admit(later).is_err());
        probe.end(true, later);

        let _two = (breaker.admit(later).unwrap(), breaker.admit(later).unwrap());
    }

    #[test]
    fn failing_probes_double_the_pause_up_to_its_limit() {
        let mut now = Instant::now();
        let breaker = breaker(now, 5);

        for seconds in [10, 20, 40, 80, 120, 120] {
            now += open(&breaker, now, Duration::from_secs(seconds));
            breaker.admit(now).unwrap().end(false, now);
        }
    }

    #[test]
    fn a_probe_that_never_happened_gives_its_place_back() {
        let now = Instant::now();
        let breaker = breaker(now, 5);
        let later = now + open(&breaker, now, PAUSE);

        drop(breaker.admit(later).unwrap());

        drop(breaker.admit(later).unwrap());
    }

    #[test]
    fn calls_from_before_it_opened_decide_nothing() {
        let now = Instant::now();
        let breaker = breaker(now, 3);
        let late: Vec<_> = (0..6).map(|_| breaker.admit(now).unwrap()).collect();
        let [good, bad, good_too, bad_too, first, second] = late.try_into().unwrap();
        first.end(false, now);
        second.end(false, now);
        let later = now + open(&breaker, now, PAUSE);

        good.end(true, now);
        bad.end(false, later);
        open(&breaker, now, PAUSE);
        let probe = breaker.admit(later).unwrap();
        good_too.end(true, later);
        bad_too.end(false, later);

        assert!(breaker.admit(later).is_err(), "the probe is still out");
        probe.end(true, later);
        drop(breaker.admit(later).unwrap());
    }
}
