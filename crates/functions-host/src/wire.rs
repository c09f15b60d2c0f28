//! JSON between host and handler, byte for byte as the real host writes and reads it.

pub(crate) mod answer;
pub mod invocation;
mod newtonsoft;
