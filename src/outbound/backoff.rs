//! Chance, to keep those apart who failed together.

use std::time::Duration;

/// A pause times a random factor between these two.
pub fn jittered(pause: Duration, least: f64, most: f64) -> Duration {
    pause.mul_f64(least + (most - least) * share())
}

/// From 0 to 1; without randomness the mean.
pub fn share() -> f64 {
    f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX)
}
