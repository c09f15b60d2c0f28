//! Black-box tests: the real executable, real sockets, real files.

#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "helpers are public to the modules of this binary, and a failed unwrap is a failed test"
)]

mod child;
mod crash;
mod foreign;
mod host;
mod panic;
mod queue;
mod support;
mod walk;
