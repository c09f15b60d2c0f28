//! How much: what one caller may ask for, and how much may wait before new orders are refused; the rules are in `docs/limits.md`.

pub mod admission;
pub mod key;
pub mod rate;

use std::time::Duration;

/// As `Retry-After` has it, in whole seconds and never none.
pub fn whole_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis().div_ceil(1000).max(1)).unwrap_or(u32::MAX)
}
