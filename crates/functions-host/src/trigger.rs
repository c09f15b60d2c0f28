//! Triggers of a function: a client's request, a message, a moment.

pub mod http;
pub(crate) mod queue;
pub(crate) mod manual;
pub mod timer;
