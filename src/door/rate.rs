//! The rate limit: each caller has a quota of requests, refilled evenly.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::RateLimiter;
use governor::clock::{Clock, MonotonicClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use moka::future::Cache;
use moka::policy::EvictionPolicy;

use crate::domain::problem::{Outcome, Problem};
use crate::domain::timestamp::whole_seconds;
use crate::door::rate_key::RateKey;

/// Callers whose quota is kept, most recent first. A caller beyond this number gets a full quota again; a load of more callers than
/// this within one period is limited by admission.
const MAX_CALLERS: u64 = 50_000;
/// Shortest interval between two requests that the limiter can represent.
const LEAST_INTERVAL: Duration = Duration::from_nanos(1);

type Limiter = RateLimiter<NotKeyed, InMemoryState, MonotonicClock, StateInformationMiddleware>;

/// The quotas of all callers, on this instance.
pub struct Rate {
    /// Requests per period; `None`: no limit.
    quota: Option<(NonZeroU32, Duration)>,
    callers: Cache<[u8; 16], Arc<Limiter>>,
}

/// A caller's quota after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    limit: u32,
    period: Duration,
    /// Requests that may follow at once; 0 if this one exceeded the quota.
    remaining: u32,
    /// Time until one more request is allowed.
    wait: Duration,
    exceeded: bool,
}

impl Rate {
    /// `limit` requests per `period`; a `limit` of zero means none.
    pub fn new(limit: u32, period: Duration) -> Self {
        // After a period without requests a quota is full again, so it need not be kept.
        let callers = Cache::builder().max_capacity(MAX_CALLERS).time_to_idle(period).eviction_policy(EvictionPolicy::lru());
        Self { quota: NonZeroU32::new(limit).map(|limit| (limit, period)), callers: callers.build() }
    }

    /// Counts a request. `None`: there is no limit.
    pub async fn take(&self, key: RateKey<'_>) -> Option<Quota> {
        let (limit, period) = self.quota?;
        let interval = (period / limit.get()).max(LEAST_INTERVAL);
        let fresh = async {
            let quota = governor::Quota::with_period(interval).unwrap_or(governor::Quota::per_second(limit)).allow_burst(limit);
            Arc::new(RateLimiter::direct_with_clock(quota, MonotonicClock).with_middleware())
        };
        let limiter = self.callers.get_with(key.digest(), fresh).await;
        let (remaining, wait, exceeded) = match limiter.check() {
            Ok(state) => (state.remaining_burst_capacity(), interval, false),
            Err(refused) => (0, refused.wait_time_from(MonotonicClock.now()), true),
        };
        Some(Quota { limit: limit.get(), period, remaining, wait, exceeded })
    }
}

impl Quota {
    /// The problem for a request beyond the quota; `None` within it.
    pub fn refusal(&self) -> Option<Problem> {
        let (limit, period, wait) = (self.limit, self.period.as_secs(), whole_seconds(self.wait));
        self.exceeded.then(|| Problem {
            outcome: Some(Outcome::Unknown),
            retry_after: Some(wait),
            ..Problem::rate_limited(format!(
                "at most {limit} {} in {period} s; this one recorded nothing: send it again in {wait} s",
                if limit == 1 { "request" } else { "requests" }
            ))
        })
    }

    /// The header fields of draft-ietf-httpapi-ratelimit-headers-11. At most `r` requests are allowed within the next `t` seconds;
    /// `Retry-After` of a refusal is never shorter than `t`.
    pub fn headers(&self) -> [(&'static str, String); 2] {
        let (limit, period) = (self.limit, self.period.as_secs());
        [
            ("RateLimit-Policy", format!("\"default\";q={limit};w={period}")),
            ("RateLimit", format!("\"default\";r={};t={}", self.remaining, whole_seconds(self.wait))),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    async fn asked(rate: &Rate, key: RateKey<'_>, times: u32) -> Quota {
        for _ in 1..times {
            rate.take(key).await;
        }
        rate.take(key).await.unwrap()
    }

    #[tokio::test]
    async fn the_quota_is_used_up_one_by_one_and_then_every_request_is_refused() {
        let rate = Rate::new(3, HOUR);

        let second = asked(&rate, RateKey::Unknown, 2).await;
        let third = rate.take(RateKey::Unknown).await.unwrap();
        let fourth = rate.take(RateKey::Unknown).await.unwrap();

        assert_eq!((second.remaining, second.exceeded, third.remaining, third.exceeded), (1, false, 0, false));
        assert_eq!((fourth.remaining, fourth.exceeded), (0, true));
        assert_eq!(fourth.headers()[1].1, "\"default\";r=0;t=1200");
        assert_eq!(fourth.refusal().unwrap().retry_after, Some(1200));
        assert!(third.refusal().is_none());
    }

    #[tokio::test]
    async fn a_limit_of_zero_means_no_limit_and_the_largest_limit_can_be_counted() {
        assert_eq!(Rate::new(0, HOUR).take(RateKey::Unknown).await, None);
        assert!(!asked(&Rate::new(u32::MAX, Duration::from_secs(1)), RateKey::Unknown, 1000).await.exceeded);
    }

    #[tokio::test]
    async fn the_quotas_of_the_most_recent_callers_are_kept() {
        let rate = Rate::new(1, HOUR);
        let last = RateKey::Owner("last");
        for number in 0..120_000_u32 {
            let address = std::net::Ipv4Addr::from_bits(number).into();
            rate.take(RateKey::Address(address)).await;
            if number == 110_000 {
                rate.take(last).await;
            }
        }

        rate.callers.run_pending_tasks().await;
        assert!(rate.callers.entry_count() <= MAX_CALLERS, "{}", rate.callers.entry_count());
        assert!(rate.take(last).await.unwrap().exceeded);
    }
}
