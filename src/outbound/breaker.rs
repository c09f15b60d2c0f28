//! A circuit breaker: while a dependency is down it is not called, and no caller waits to find out that it is down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{info, warn};
use uuid::Uuid;

use crate::metrics::{BreakerState, Dependency, METRICS};
use crate::outbound::backoff::{Backoff, jittered};

/// Counts failed calls, and decides whether another call may begin.
#[derive(Debug)]
pub struct Breaker {
    dependency: Dependency,
    /// Consecutive failures that open the breaker.
    failures: usize,
    /// The pause before each probe, by the number of probes that failed before it.
    pauses: Backoff,
    /// The number of probes so far, through all times that the breaker was open: a late end must not count for another probe.
    probes: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Any call may begin. Holds the consecutive failures, by their callers: `None` counts each time, a caller counts once.
    Closed { failures: Vec<Option<Uuid>> },
    /// No call may begin, except probes.
    Open(Open),
}

#[derive(Debug)]
struct Open {
    /// No probe may begin before this moment.
    until: Instant,
    failed_probes: u32,
    /// The probe that is running, or about to begin, by its number.
    probe: Option<u64>,
    /// The number of probes before the breaker opened. A probe of an earlier time tells nothing of this one.
    before: u64,
    /// A caller that has not failed was refused, and is expected back by this moment.
    expected: Option<Instant>,
}

/// For whom a call is made.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// The caller.
    pub id: Uuid,
    /// Whether an earlier call for this caller failed: the next one may fail for the same reason, and would tell little as a probe.
    pub has_failed: bool,
}

/// How a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// The dependency could not be reached by any caller: counts each time.
    Unreachable,
    /// Perhaps because of its caller alone: counts once for each caller.
    ForCaller,
}

/// The right to call once. A permit that is dropped without an end was not used; if it was the probe's, another caller may have it.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    breaker: Option<Arc<Breaker>>,
    caller: Option<Caller>,
    /// The number of the probe, if the call is one.
    probe: Option<u64>,
}

impl State {
    fn told(&self) -> BreakerState {
        match self {
            Self::Closed { .. } => BreakerState::Closed,
            Self::Open(Open { probe: None, .. }) => BreakerState::Open,
            Self::Open(_) => BreakerState::HalfOpen,
        }
    }
}

impl Breaker {
    /// A closed breaker.
    pub fn new(dependency: Dependency, failures: usize, pauses: Backoff) -> Self {
        METRICS.breaker(dependency, BreakerState::Closed);
        Self { dependency, failures, pauses, probes: AtomicU64::new(0), state: Mutex::new(State::Closed { failures: Vec::new() }) }
    }

    /// Whether any call may begin.
    pub fn is_closed(&self) -> bool {
        matches!(*self.state.lock(), State::Closed { .. })
    }

    /// The state, for operators: `closed`, `open`, `half-open`.
    pub fn as_str(&self) -> &'static str {
        self.state.lock().told().as_str()
    }

    /// Writes a new state to the metrics. Called under the lock of the state, so that the last one is written last.
    fn tell(&self, state: &State) {
        METRICS.breaker(self.dependency, state.told());
    }

    /// The dependency, in the log.
    fn what(&self) -> &'static str {
        match self.dependency {
            Dependency::Store => "the store",
            Dependency::Backend => "the backend",
        }
    }

    /// The right to call, where callers are not told apart. `Err`: the time after which to ask for it again.
    pub fn admit(self: &Arc<Self>, now: Instant) -> Result<Permit, Duration> {
        self.admit_caller(None, now)
    }

    /// The right to call for this caller. A caller that has failed gets no probe while one that has not is expected.
    pub fn admit_for(self: &Arc<Self>, caller: Caller, now: Instant) -> Result<Permit, Duration> {
        self.admit_caller(Some(caller), now)
    }

    fn admit_caller(self: &Arc<Self>, caller: Option<Caller>, now: Instant) -> Result<Permit, Duration> {
        let permit = |probe| Permit { breaker: Some(Arc::clone(self)), caller, probe };
        let mut state = self.state.lock();
        let State::Open(open) = &mut *state else { return Ok(permit(None)) };
        let has_failed = caller.is_some_and(|caller| caller.has_failed);
        let pause = if now < open.until {
            // A probe may be answered at any time. The random part keeps those that wait from coming back all at once.
            if open.probe.is_some() { longer(self.pauses.first).min(open.until - now) } else { open.until - now }
        } else if let Some(expected) = open.expected.filter(|expected| has_failed && now < *expected) {
            expected - now
        } else {
            info!("asking {} whether it is back", self.what());
            let number = self.probes.fetch_add(1, Ordering::Relaxed) + 1;
            if open.probe.replace(number).is_some() {
                // The probe before it was not answered in its time.
                open.failed_probes = open.failed_probes.saturating_add(1);
            }
            open.until = now + longer(self.pauses.pause(open.failed_probes.saturating_add(1)));
            self.tell(&state);
            return Ok(permit(Some(number)));
        };
        if caller.is_some_and(|caller| !caller.has_failed) {
            open.expected = open.expected.max(Some(now + pause + self.pauses.first));
        }
        Err(pause)
    }

    /// A success. While the breaker is not closed only a probe's counts: other calls began earlier, and tell of an earlier time.
    fn succeed(&self, probe: Option<u64>) {
        let mut state = self.state.lock();
        match &mut *state {
            State::Closed { failures } => failures.clear(),
            State::Open(open) if probe.is_some_and(|probe| probe > open.before) => {
                info!("{} is back", self.what());
                *state = State::Closed { failures: Vec::new() };
                self.tell(&state);
            }
            State::Open(_) => {}
        }
    }

    fn fail(&self, permit: &Permit, failed: Failed, now: Instant) {
        let mut state = self.state.lock();
        let (failed_probes, before, expected) = match &mut *state {
            State::Closed { failures } => {
                let caller = permit.caller.filter(|_| failed == Failed::ForCaller).map(|caller| caller.id);
                if caller.is_none() || !failures.contains(&caller) {
                    failures.push(caller);
                }
                if failures.len() < self.failures {
                    return;
                }
                (0, self.probes.load(Ordering::Relaxed), None)
            }
            // A caller that failed before its probe may have failed again for its own reason, which tells nothing new.
            State::Open(open) if open.probe.is_some() && open.probe == permit.probe => {
                let tells_nothing = failed == Failed::ForCaller && permit.caller.is_some_and(|caller| caller.has_failed);
                (open.failed_probes.saturating_add(u32::from(!tells_nothing)), open.before, open.expected)
            }
            State::Open(_) => return,
        };
        let pause = longer(self.pauses.pause(failed_probes));
        warn!(breaker.pause_ms = pause.as_millis(), "{} is down; it is left alone for a while", self.what());
        *state = State::Open(Open { until: now + pause, failed_probes, probe: None, before, expected });
        self.tell(&state);
    }

    fn give_back(&self, probe: u64, now: Instant) {
        let mut state = self.state.lock();
        if let State::Open(open) = &mut *state
            && open.probe == Some(probe)
        {
            open.probe = None;
            open.until = now;
            self.tell(&state);
        }
    }
}

impl Permit {
    /// Permit where nothing can be down.
    pub const fn free() -> Self {
        Self { breaker: None, caller: None, probe: None }
    }

    /// Records that the dependency has begun to answer. A probe has its answer then, and others need not wait for the end of its call.
    pub fn is_answered(&mut self) {
        if let Some(breaker) = &self.breaker
            && let Some(probe) = self.probe.take()
        {
            breaker.succeed(Some(probe));
        }
    }

    /// Records the end of the call, and whether the dependency answered.
    pub fn end(self, was_there: bool, now: Instant) {
        self.end_with(if was_there { Ok(()) } else { Err(Failed::Unreachable) }, now);
    }

    /// Records the end of the call, and how it failed.
    pub fn end_with(mut self, ended: Result<(), Failed>, now: Instant) {
        match (self.breaker.take(), ended) {
            (Some(breaker), Ok(())) => breaker.succeed(self.probe),
            (Some(breaker), Err(failed)) => breaker.fail(&self, failed, now),
            (None, _) => {}
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let (Some(breaker), Some(probe)) = (self.breaker.take(), self.probe) {
            breaker.give_back(probe, Instant::now());
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
        let breaker = Arc::new(Breaker::new(Dependency::Backend, 5, Backoff { first: PAUSE, longest: Duration::from_mins(2) }));
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
    fn a_probe_of_an_earlier_time_tells_nothing_of_a_later_one() {
        let now = Instant::now();
        let breaker = breaker(now, 5);
        let hung = breaker.admit(now + PAUSE * 2).unwrap();
        breaker.admit(now + PAUSE * 5).unwrap().end(true, now);
        for _ in 0..5 {
            breaker.admit(now).unwrap().end(false, now);
        }
        let probe = breaker.admit(now + PAUSE * 2).unwrap();

        hung.end(true, now + PAUSE * 2);
        assert!(!breaker.is_closed());
        probe.end(true, now + PAUSE * 2);
        assert!(breaker.is_closed());
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

    /// The `number`th caller.
    fn caller(number: u128, has_failed: bool) -> Caller {
        Caller { id: Uuid::from_u128(number), has_failed }
    }

    fn fails_for(breaker: &Arc<Breaker>, caller: Caller, now: Instant) {
        breaker.admit_for(caller, now).unwrap().end_with(Err(Failed::ForCaller), now);
    }

    #[test]
    fn one_caller_counts_once_however_often_it_fails() {
        let now = Instant::now();
        let breaker = breaker(now, 0);
        for number in (0..4).cycle().take(40) {
            fails_for(&breaker, caller(number, true), now);
        }
        assert!(breaker.is_closed());

        fails_for(&breaker, caller(4, false), now);

        open(&breaker, now, PAUSE);
    }

    #[test]
    fn a_caller_that_has_failed_leaves_the_probe_to_one_that_has_not_and_does_not_wait_for_ever() {
        let now = Instant::now();
        let breaker = breaker(now, 5);
        let later = now + open(&breaker, now, PAUSE);
        let (failed, fresh) = (caller(1, true), caller(2, false));
        assert_eq!(breaker.admit_for(fresh, now).unwrap_err(), later - now);

        assert_eq!(breaker.admit_for(failed, later).unwrap_err(), PAUSE);

        drop(breaker.admit_for(fresh, later).unwrap());
        drop(breaker.admit_for(failed, later + PAUSE).unwrap());
    }

    #[test]
    fn a_caller_that_has_failed_probes_where_no_other_is_expected() {
        let now = Instant::now();
        let breaker = breaker(now, 5);
        let later = now + open(&breaker, now, PAUSE);

        drop(breaker.admit_for(caller(1, true), later).unwrap());
    }

    #[test]
    fn a_failed_caller_that_fails_again_as_the_probe_makes_the_pause_no_longer() {
        let mut now = Instant::now();
        let breaker = breaker(now, 5);

        for _ in 0..3 {
            now += open(&breaker, now, PAUSE);
            fails_for(&breaker, caller(1, true), now);
        }

        now += open(&breaker, now, PAUSE);
        fails_for(&breaker, caller(2, false), now);
        open(&breaker, now, PAUSE * 2);
    }

    #[test]
    fn a_probe_that_is_not_answered_is_followed_by_another_whose_success_counts_as_its_own() {
        let now = Instant::now();
        let breaker = breaker(now, 5);
        let first_at = now + open(&breaker, now, PAUSE);
        let first = breaker.admit(first_at).unwrap();
        assert!(breaker.admit(first_at + PAUSE).unwrap_err() <= PAUSE.mul_f64(1.25));

        let second_at = first_at + PAUSE.mul_f64(2.5);
        let second = breaker.admit(second_at).unwrap();
        first.end(false, second_at);
        assert_eq!(breaker.as_str(), "half-open", "the second is out");
        second.end(true, second_at);

        assert!(breaker.is_closed());
    }

    #[test]
    fn an_answer_closes_it_and_what_the_probe_fails_with_later_counts_as_any_failure() {
        let now = Instant::now();
        let breaker = breaker(now, 5);
        let later = now + open(&breaker, now, PAUSE);
        let mut probe = breaker.admit(later).unwrap();

        probe.is_answered();

        assert!(breaker.is_closed());
        probe.end(false, later);
        for _ in 0..3 {
            breaker.admit(later).unwrap().end(false, later);
        }
        assert!(breaker.is_closed());
        breaker.admit(later).unwrap().end(false, later);
        assert!(!breaker.is_closed());
    }
}
