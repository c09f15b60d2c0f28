//! Whether new orders are accepted: not while the backlog is too old, nor while the store does not answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing::warn;

use crate::config::limits::Limits;
use crate::domain::problem::{Outcome, Problem};
use crate::domain::timestamp::Timestamp;
use crate::domain::timestamp::whole_seconds;
use crate::metrics::Dependency;
use crate::outbound::backoff::Backoff;
use crate::outbound::breaker::{Breaker, Permit};
use crate::store::{StatusStore, StoreError, Waiting};

/// Shortest time between two readings of the backlog.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Age after which a reading no longer counts, neither to refuse orders nor to accept them: the backlog may have changed.
const STALE: Duration = Duration::from_secs(15);
/// How long a request waits for a reading while there is none that counts.
const FIRST_LOOK: Duration = Duration::from_millis(500);
/// Waiting orders in one reading.
const SAMPLE: u32 = 50;
/// Oldest orders of a reading that do not count: a few orders that are stuck are not a backlog.
const IGNORED_OLDEST: usize = 10;
/// Consecutive claims whose shortest wait counts: one order that was stuck is not a backlog.
const CLAIMS_NEEDED: usize = 3;
/// Age after which claims no longer count: when no more claims come, the backlog may be gone.
const RECENT: Duration = Duration::from_secs(1);
/// Shortest `Retry-After`: no new reading comes sooner.
const MIN_PAUSE: Duration = LOOK_EVERY;
/// Longest `Retry-After`: an estimate is not good for longer.
const MAX_PAUSE: Duration = Duration::from_mins(5);
/// Consecutive failures of the store that open the breaker.
const BREAKER_FAILURES: usize = 5;
/// Pauses between the probes of a store that does not answer; the longest is short, because clients wait for its return.
const BREAKER_PAUSES: Backoff = Backoff { first: Duration::from_secs(2), longest: Duration::from_secs(15) };

/// Decides whether new orders are accepted, on this instance.
pub struct Admission {
    max_age: Duration,
    breaker: Arc<Breaker>,
    backlog: Arc<Mutex<Backlog>>,
    /// The task that reads the backlog holds this lock until it has the answer.
    reading: Arc<tokio::sync::Mutex<()>>,
}

/// The last readings of the backlog, and the last claims.
#[derive(Debug, Default, Clone, Copy)]
struct Backlog {
    /// When the last reading began, with or without an answer.
    asked: Option<Instant>,
    latest: Option<Reading>,
    before: Option<Reading>,
    /// When this instance claimed its last orders, and how long they had waited; latest first.
    claims: [Option<(Instant, Duration)>; CLAIMS_NEEDED],
}

/// How long the oldest orders had waited at a moment.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    age: Duration,
    /// The same of the orders that wait for nothing but a worker.
    in_queue: Duration,
}

impl Admission {
    /// Accepts all orders until the first reading.
    pub fn new(limits: &Limits) -> Self {
        Self {
            max_age: limits.admission_max_age,
            breaker: Arc::new(Breaker::new(Dependency::Store, BREAKER_FAILURES, BREAKER_PAUSES)),
            backlog: Arc::default(),
            reading: Arc::default(),
        }
    }

    /// Starts a reading of the backlog, unless the last one is recent or one is under way. Waits for the reading only if no earlier
    /// one counts.
    pub async fn look(&self, store: &StatusStore) {
        if self.max_age.is_zero() || !self.breaker.is_closed() {
            return;
        }
        let now = Instant::now();
        let (since, is_known) = {
            let backlog = self.backlog.lock();
            (backlog.asked.map(|asked| now.duration_since(asked)), backlog.age(now).is_some())
        };
        let is_due = since.is_none_or(|since| since >= LOOK_EVERY);
        if is_due {
            self.begin_look(store, now);
        }
        if !is_known && (is_due || since.is_some_and(|since| since < FIRST_LOOK)) {
            let _ = tokio::time::timeout(FIRST_LOOK, self.reading.lock()).await;
        }
    }

    fn begin_look(&self, store: &StatusStore, now: Instant) {
        let Ok(turn) = Arc::clone(&self.reading).try_lock_owned() else { return };
        self.backlog.lock().asked = Some(now);
        let (store, backlog) = (store.clone(), Arc::clone(&self.backlog));
        tokio::spawn(async move {
            let _turn = turn;
            match store.waiting(SAMPLE).await {
                Ok(waiting) => backlog.lock().add(Reading::of(&waiting, store.now(), Instant::now())),
                Err(error) => warn!(%error, "the backlog could not be read; orders are accepted"),
            }
        });
    }

    /// Notes how long an order had waited when this instance claimed it: this measures the backlog without a query.
    pub fn observe_claim(&self, wait: Duration) {
        self.backlog.lock().add_claim(Instant::now(), wait);
    }

    /// How long the oldest orders in the queue have waited; zero if unknown. An order that a delivery has put off, e.g. while the backend
    /// is away, holds up no other.
    pub fn queue_age(&self) -> Duration {
        self.backlog.lock().by_claims_or(Instant::now(), |reading| reading.in_queue).unwrap_or_default()
    }

    /// The problem for a new order while the backlog is too old.
    pub fn refusal(&self) -> Option<Problem> {
        let now = Instant::now();
        let backlog = *self.backlog.lock();
        let excess = backlog.age(now)?.checked_sub(self.max_age).filter(|excess| !excess.is_zero() && !self.max_age.is_zero())?;
        let pause = backlog.pause(excess);
        let detail = "this request recorded nothing, since orders that were accepted before already wait too long; send it again later";
        Some(Problem { outcome: Some(Outcome::Unknown), retry_after: Some(whole_seconds(pause)), ..Problem::too_many_waiting(detail) })
    }

    /// A permit for one call to the store, or the problem while the breaker is open.
    pub fn admit(&self) -> Result<Permit, Problem> {
        self.breaker
            .admit(Instant::now())
            .map_err(|pause| Problem { retry_after: Some(whole_seconds(pause)), ..Problem::nothing_recorded() })
    }

    /// Whether the store's breaker is closed.
    pub fn store_answers(&self) -> bool {
        self.breaker.is_closed()
    }

    /// Figures for operators.
    pub fn figures(&self) -> Value {
        let age = self.backlog.lock().age(Instant::now());
        json!({ "storeBreaker": self.breaker.as_str(), "backlogSeconds": age.map(|age| age.as_secs()), "accepting": self.refusal().is_none() && self.store_answers() })
    }
}

/// Reports to the breaker how a call to the store ended. A record that cannot be read counts as an answer.
pub fn end<T>(permit: Permit, answer: &Result<T, StoreError>) {
    permit.end(!matches!(answer, Err(StoreError::NotApplied | StoreError::Unknown)), Instant::now());
}

impl Backlog {
    fn add(&mut self, reading: Reading) {
        self.before = self.latest.filter(|before| reading.at.duration_since(before.at) < STALE);
        self.latest = Some(reading);
    }

    fn add_claim(&mut self, now: Instant, wait: Duration) {
        self.claims.rotate_right(1);
        self.claims[0] = Some((now, wait));
    }

    /// How long orders wait, whatever for. `None` if it is unknown.
    fn age(&self, now: Instant) -> Option<Duration> {
        self.by_claims_or(now, |reading| reading.age)
    }

    /// How long orders wait, by the last claims or by the last reading, whichever is later. `None` if neither counts.
    fn by_claims_or(&self, now: Instant, read: impl FnOnce(Reading) -> Duration) -> Option<Duration> {
        let latest = self.latest.filter(|latest| now.duration_since(latest.at) < STALE);
        if let (Some((newest, _)), Some((oldest, _))) = (self.claims[0], self.claims[CLAIMS_NEEDED - 1])
            && now.duration_since(newest) < RECENT
            && now.duration_since(oldest) < STALE
            && latest.is_none_or(|latest| newest > latest.at)
        {
            return self.claims.into_iter().flatten().map(|(_, wait)| wait).min();
        }
        latest.map(read)
    }

    /// The `Retry-After` of a refusal: the time until the `excess` is gone at the rate between the last two readings, or the `excess`
    /// itself if the backlog does not shrink.
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

impl Reading {
    fn of(waiting: &[Waiting], now: Timestamp, at: Instant) -> Self {
        let all = waiting.iter().map(|order| order.since).collect();
        let in_queue = waiting.iter().filter(|order| !order.is_put_off).map(|order| order.since).collect();
        Self { at, age: age(all, now), in_queue: age(in_queue, now) }
    }
}

/// How long the oldest of these orders has waited, without the [`IGNORED_OLDEST`].
fn age(mut since: Vec<Timestamp>, now: Timestamp) -> Duration {
    since.sort_unstable();
    since.get(IGNORED_OLDEST).map_or(Duration::ZERO, |oldest| oldest.until(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn submitted(seconds_ago: impl IntoIterator<Item = i64>) -> Vec<Timestamp> {
        seconds_ago.into_iter().map(|ago| Timestamp::from_milliseconds(-ago * 1000)).collect()
    }

    fn reading(at: Instant, age: Duration) -> Reading {
        Reading { at, age, in_queue: age }
    }

    #[test]
    fn orders_that_are_put_off_are_a_backlog_and_are_not_in_the_queue() {
        let put_off = submitted([600; 20]).into_iter().map(|since| Waiting { since, is_put_off: true });
        let in_queue = submitted([5; 20]).into_iter().map(|since| Waiting { since, is_put_off: false });
        let waiting: Vec<_> = put_off.chain(in_queue).collect();

        let reading = Reading::of(&waiting, Timestamp::from_milliseconds(0), Instant::now());

        assert_eq!((reading.age, reading.in_queue), (Duration::from_mins(10), Duration::from_secs(5)));
    }

    #[test]
    fn a_few_stuck_orders_are_not_a_backlog() {
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
                backlog.add(reading(start + LOOK_EVERY * number, Duration::from_secs(*age)));
            }
            let excess = Duration::from_secs(ages.last().unwrap() - 600);
            backlog.pause(excess).as_secs()
        };

        assert_eq!(pause(&[640]), 40, "one reading: the excess");
        assert_eq!(pause(&[650, 640]), 20, "it shrinks by two seconds a second");
        assert_eq!(pause(&[630, 640]), 40, "it grows");
        assert_eq!((pause(&[601]), pause(&[86_400])), (5, 300), "at least 5 s, at most 5 min");
    }

    #[test]
    fn an_old_reading_does_not_count() {
        let now = Instant::now();
        let mut backlog = Backlog::default();
        backlog.add(reading(now, Duration::from_hours(1)));

        assert_eq!(backlog.age(now + LOOK_EVERY), Some(Duration::from_hours(1)));
        assert_eq!(backlog.age(now + STALE), None);
    }

    #[test]
    fn three_recent_claims_count_until_the_next_reading() {
        let now = Instant::now();
        let later = now + LOOK_EVERY / 2;
        let mut backlog = Backlog::default();
        backlog.add(reading(now, Duration::ZERO));
        let mut claims = [7, 8].into_iter();
        let mut claim = |backlog: &mut Backlog| backlog.add_claim(later, Duration::from_secs(claims.next().unwrap_or(9)));

        claim(&mut backlog);
        claim(&mut backlog);
        assert_eq!(backlog.age(later), Some(Duration::ZERO), "two claims are too few");
        claim(&mut backlog);
        assert_eq!(backlog.age(later), Some(Duration::from_secs(7)));
        assert_eq!(backlog.age(later + RECENT), Some(Duration::ZERO));
        backlog.add(reading(later + RECENT / 2, Duration::from_secs(1)));
        assert_eq!(backlog.age(later + RECENT / 2), Some(Duration::from_secs(1)), "the later reading counts");
    }

    #[test]
    fn a_single_claim_does_not_replace_a_reading() {
        let now = Instant::now();
        let hour = Duration::from_hours(1);
        let mut backlog = Backlog::default();
        backlog.add(reading(now, hour));

        backlog.add_claim(now + RECENT / 2, hour);
        assert_eq!(backlog.age(now + RECENT / 2), Some(hour));
        for _ in 0..CLAIMS_NEEDED {
            backlog.add_claim(now, Duration::ZERO);
        }
        backlog.add(reading(now + STALE, hour));
        backlog.add_claim(now + STALE + RECENT / 2, hour);
        assert_eq!(backlog.age(now + STALE + RECENT / 2), Some(hour), "old claims do not count");
    }
}
