//! Black-box tests: the real executable, real sockets, real files.

#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "helpers are public to the modules of this binary, and a failed unwrap is a failed test"
)]

mod child;
mod contract;
mod crash;
mod foreign;
mod host;
mod ingress;
mod panic;
mod processor;
mod queue;
mod settings;
mod status;
mod support;
mod walk;
