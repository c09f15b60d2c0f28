//! Pauses between tries: each is longer than the last, and a random factor separates instances that failed together.

use std::time::Duration;

/// A pause that doubles with each failure in a row.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The pause after the first failure.
    pub first: Duration,
    /// The longest pause, unless the first is longer.
    pub longest: Duration,
}

impl Backoff {
    /// The pause after a failure that follows `earlier` consecutive failures.
    pub fn pause(self, earlier: u32) -> Duration {
        self.first.saturating_mul(1 << earlier.min(31)).min(self.longest.max(self.first))
    }
}

/// A pause times a random factor between these two.
pub fn jittered(pause: Duration, least: f64, most: f64) -> Duration {
    pause.mul_f64(least + (most - least) * share())
}

/// A random number from 0 to 1; without randomness the mean.
pub fn share() -> f64 {
    f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_up_to_the_longest_however_many_failures_there_are() {
        let backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(5) };

        let pauses = [0, 1, 2, 3, 31, 32, u32::MAX].map(|earlier| backoff.pause(earlier).as_secs());

        assert_eq!(pauses, [1, 2, 4, 5, 5, 5, 5]);
    }
}
