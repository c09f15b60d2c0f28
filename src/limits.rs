//! How much: what one caller may ask for, and how much may wait before new orders are refused; the rules are in `docs/limits.md`.

pub mod admission;
pub mod key;
pub mod rate;
