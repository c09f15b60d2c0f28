//! The stand-in as a program that starts it sees it.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a failed step of a test ends the test")]

mod config;
mod conformance;
mod environment;
mod handler;
mod routing;
mod support;
