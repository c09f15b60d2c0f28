//! Whether new orders are accepted at all: not while too much waits already, nor while the store is away.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tracing::warn;

use crate::config::limits::Limits;
use crate::domain::problem::{Outcome, Problem};
use crate::domain::timestamp::Timestamp;
use crate::domain::timestamp::whole_seconds;
use crate::outbound::backoff::Backoff;
use crate::outbound::breaker::{Breaker, Permit};
use crate::store::{StatusStore, StoreError};

/// The backlog is looked at this often, at most.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What was seen longer ago says nothing: nobody is refused for what may be over, nor let in by it.
const STALE: Duration = Duration::from_secs(15);
/// How long a look is waited for while nothing is known.
const FIRST_LOOK: Duration = Duration::from_millis(500);
/// So many waiting orders are looked at.
const SAMPLE: u32 = 50;
/// So many of the oldest do not count: a few orders that are stuck, and which nobody can work on, are not a backlog.
const IGNORED_OLDEST: usize = 10;
/// So many orders in a row must have waited long when they were claimed: one that was stuck is not a backlog.
const CLAIMS_NEEDED: usize = 3;
/// What claims tell of is over soon: when no more come, all that waited may have been claimed.
const RECENT: Duration = Duration::from_secs(1);
/// Shortest pause that a client is asked for: the backlog is not looked at again before.
const MIN_PAUSE: Duration = LOOK_EVERY;
/// Longest pause that a client is asked for: a backlog cannot be foreseen further than that.
const MAX_PAUSE: Duration = Duration::from_mins(5);
/// Longest pause between two probes of a store that is away, unless the first pause is set to more: customers wait for its return.
const MAX_BREAKER_PAUSE: Duration = Duration::from_secs(15);

/// Decides whether new orders are accepted, on this instance.
pub struct Admission {
    max_age: Duration,
    breaker: Arc<Breaker>,
    backlog: Arc<Mutex<Backlog>>,
    /// Held by the one who looks.
    looking: Arc<tokio::sync::Mutex<()>>,
}

/// What was seen of the orders that wait.
#[derive(Debug, Default, Clone, Copy)]
struct Backlog {
    /// Whether or not there was an answer.
    asked: Option<Instant>,
    latest: Option<Reading>,
    before: Option<Reading>,
    /// When this instance claimed the last orders, and how long they had waited; the very last first.
    claims: [Option<(Instant, Duration)>; CLAIMS_NEEDED],
}

/// How long orders had waited at a moment, by the oldest of them.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    age: Duration,
}

impl Admission {
    /// Everybody is let in at first.
    pub fn new(limits: &Limits) -> Self {
        let pauses = Backoff { first: limits.store_breaker_pause, longest: MAX_BREAKER_PAUSE };
        Self {
            max_age: limits.admission_max_age,
            breaker: Arc::new(Breaker::new("the store", limits.store_breaker_failures, pauses)),
            backlog: Arc::default(),
            looking: Arc::default(),
        }
    }

    /// Has the backlog looked at, if the last look was long enough ago and nobody is looking. What is decided meanwhile goes by the
    /// last look; where that says nothing any more, this one is waited for.
    pub async fn look(&self, store: &StatusStore) {
        if self.max_age.is_zero() || !self.breaker.is_closed() {
            return;
        }
        let now = Instant::now();
        let (since, is_known) = {
            let backlog = lock(&self.backlog);
            (backlog.asked.map(|asked| now.duration_since(asked)), backlog.age(now).is_some())
        };
        let is_due = since.is_none_or(|since| since >= LOOK_EVERY);
        if is_due {
            self.begin_look(store, now);
        }
        if !is_known && (is_due || since.is_some_and(|since| since < FIRST_LOOK)) {
            // Who looks holds it until he has seen.
            let _ = tokio::time::timeout(FIRST_LOOK, self.looking.lock()).await;
        }
    }

    fn begin_look(&self, store: &StatusStore, now: Instant) {
        let Ok(turn) = Arc::clone(&self.looking).try_lock_owned() else { return };
        lock(&self.backlog).asked = Some(now);
        let (store, backlog) = (store.clone(), Arc::clone(&self.backlog));
        tokio::spawn(async move {
            let _turn = turn;
            match store.waiting(SAMPLE).await {
                Ok(submitted) => lock(&backlog).see(Reading { at: Instant::now(), age: age(submitted, store.now()) }),
                Err(error) => warn!(%error, "the backlog could not be looked at; nobody is refused for it"),
            }
        });
    }

    /// This instance claimed an order: how long that had waited tells of the backlog at once, and costs nothing.
    pub fn observe_claim(&self, wait: Duration) {
        lock(&self.backlog).see_claim(Instant::now(), wait);
    }

    /// How long the oldest waiting orders have waited; zero if that is not known.
    pub fn backlog(&self) -> Duration {
        lock(&self.backlog).age(Instant::now()).unwrap_or_default()
    }

    /// Why no new order is accepted while so much waits.
    pub fn refusal(&self) -> Option<Problem> {
        let now = Instant::now();
        let backlog = *lock(&self.backlog);
        let excess = backlog.age(now)?.checked_sub(self.max_age).filter(|excess| !excess.is_zero() && !self.max_age.is_zero())?;
        let pause = backlog.pause(excess);
        let detail = "this request recorded nothing, since orders that were accepted before already wait too long; send it again later";
        Some(Problem { outcome: Some(Outcome::Unknown), retry_after: Some(whole_seconds(pause)), ..Problem::too_many_waiting(detail) })
    }

    /// The right to ask the store once; or what a customer is told while it is left alone.
    pub fn admit(&self) -> Result<Permit, Problem> {
        self.breaker
            .admit(Instant::now())
            .map_err(|pause| Problem { retry_after: Some(whole_seconds(pause)), ..Problem::nothing_recorded() })
    }

    /// Whether the store is known to answer, or at least not known to be away.
    pub fn store_answers(&self) -> bool {
        self.breaker.is_closed()
    }

    /// For operators.
    pub fn figures(&self) -> Value {
        let age = lock(&self.backlog).age(Instant::now());
        json!({ "storeBreaker": self.breaker.as_str(), "backlogSeconds": age.map(|age| age.as_secs()), "accepting": self.refusal().is_none() && self.store_answers() })
    }
}

/// Tells what came of a question to the store. A record that cannot be read is an answer.
pub fn end<T>(permit: Permit, answer: &Result<T, StoreError>) {
    permit.end(!matches!(answer, Err(StoreError::NotApplied | StoreError::Unknown)), Instant::now());
}

impl Backlog {
    fn see(&mut self, reading: Reading) {
        self.before = self.latest.filter(|before| reading.at.duration_since(before.at) < STALE);
        self.latest = Some(reading);
    }

    fn see_claim(&mut self, now: Instant, wait: Duration) {
        self.claims.rotate_right(1);
        self.claims[0] = Some((now, wait));
    }

    /// By whatever was seen last.
    fn age(&self, now: Instant) -> Option<Duration> {
        let latest = self.latest.filter(|latest| now.duration_since(latest.at) < STALE);
        if let (Some((newest, _)), Some((oldest, _))) = (self.claims[0], self.claims[CLAIMS_NEEDED - 1])
            && now.duration_since(newest) < RECENT
            && now.duration_since(oldest) < STALE
            && latest.is_none_or(|latest| newest > latest.at)
        {
            return self.claims.into_iter().flatten().map(|(_, wait)| wait).min();
        }
        latest.map(|latest| latest.age)
    }

    /// When it may be worth asking again: as soon as the `excess` is gone, if it goes on as it did between the last
    /// two looks; where it does not shrink nobody knows, and what there is too much of is the best guess.
    fn pause(&self, excess: Duration) -> Duration {
        let shrinks = self.latest.zip(self.before).and_then(|(latest, before)| {
            let elapsed = latest.at.duration_since(before.at).as_secs_f64();
            let shrunk = before.age.checked_sub(latest.age)?.as_secs_f64();
            (elapsed > 0.0 && shrunk > 0.0).then(|| shrunk / elapsed)
        });
        let seconds = excess.as_secs_f64() / shrinks.unwrap_or(1.0);
        Duration::from_secs_f64(seconds.clamp(MIN_PAUSE.as_secs_f64(), MAX_PAUSE.as_secs_f64()))
    }
}

/// How long the oldest of these have waited, the very oldest aside.
fn age(mut submitted: Vec<Timestamp>, now: Timestamp) -> Duration {
    submitted.sort_unstable();
    submitted.get(IGNORED_OLDEST).map_or(Duration::ZERO, |oldest| oldest.until(now))
}

fn lock(backlog: &Mutex<Backlog>) -> MutexGuard<'_, Backlog> {
    // Whatever was written there is whole.
    backlog.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn submitted(seconds_ago: impl IntoIterator<Item = i64>) -> Vec<Timestamp> {
        seconds_ago.into_iter().map(|ago| Timestamp::from_milliseconds(-ago * 1000)).collect()
    }

    #[test]
    fn a_few_stuck_orders_are_no_backlog() {
        let now = Timestamp::from_milliseconds(0);

        assert_eq!(age(Vec::new(), now), Duration::ZERO);
        assert_eq!(age(submitted([86_400; IGNORED_OLDEST]), now), Duration::ZERO);
        assert_eq!(age(submitted((0..50).chain([86_400; 3])), now), Duration::from_secs(42));
    }

    #[test]
    fn the_pause_follows_how_fast_the_backlog_shrinks() {
        let start = Instant::now();
        let pause = |ages: &[u64]| {
            let mut backlog = Backlog::default();
            for (number, age) in (0..).zip(ages) {
                backlog.see(Reading { at: start + LOOK_EVERY * number, age: Duration::from_secs(*age) });
            }
            let excess = Duration::from_secs(ages.last().unwrap() - 600);
            backlog.pause(excess).as_secs()
        };

        assert_eq!(pause(&[640]), 40, "what there is too much of");
        assert_eq!(pause(&[650, 640]), 20, "it shrinks by two seconds a second");
        assert_eq!(pause(&[630, 640]), 40, "it grows");
        assert_eq!((pause(&[601]), pause(&[86_400])), (5, 300), "never at once, and never for ever");
    }

    #[test]
    fn what_was_seen_long_ago_says_nothing() {
        let now = Instant::now();
        let mut backlog = Backlog::default();
        backlog.see(Reading { at: now, age: Duration::from_hours(1) });

        assert_eq!(backlog.age(now + LOOK_EVERY), Some(Duration::from_hours(1)));
        assert_eq!(backlog.age(now + STALE), None);
    }

    #[test]
    fn claims_tell_at_once_and_not_for_long_and_one_late_order_tells_nothing() {
        let now = Instant::now();
        let later = now + LOOK_EVERY / 2;
        let mut backlog = Backlog::default();
        backlog.see(Reading { at: now, age: Duration::ZERO });
        let mut claims = [7, 8].into_iter();
        let mut claim = |backlog: &mut Backlog| backlog.see_claim(later, Duration::from_secs(claims.next().unwrap_or(9)));

        claim(&mut backlog);
        claim(&mut backlog);
        assert_eq!(backlog.age(later), Some(Duration::ZERO), "what was seen of the others");
        claim(&mut backlog);
        assert_eq!(backlog.age(later), Some(Duration::from_secs(7)));
        assert_eq!(backlog.age(later + RECENT), Some(Duration::ZERO));
        backlog.see(Reading { at: later + RECENT / 2, age: Duration::from_secs(1) });
        assert_eq!(backlog.age(later + RECENT / 2), Some(Duration::from_secs(1)), "what was seen last counts");
    }

    #[test]
    fn a_first_claim_does_not_hide_what_was_seen() {
        let now = Instant::now();
        let hour = Duration::from_hours(1);
        let mut backlog = Backlog::default();
        backlog.see(Reading { at: now, age: hour });

        backlog.see_claim(now + RECENT / 2, hour);
        assert_eq!(backlog.age(now + RECENT / 2), Some(hour));
        for _ in 0..CLAIMS_NEEDED {
            backlog.see_claim(now, Duration::ZERO);
        }
        backlog.see(Reading { at: now + STALE, age: hour });
        backlog.see_claim(now + STALE + RECENT / 2, hour);
        assert_eq!(backlog.age(now + STALE + RECENT / 2), Some(hour), "claims of long ago say nothing");
    }
}
