//! The door: who comes in and how often; the rules are in `docs/auth.md` and `docs/limits.md`.

pub mod caller;
pub mod token;
pub mod issuer_keys;
pub mod rate;
pub mod rate_key;
pub mod admission;
