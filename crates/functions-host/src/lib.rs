//! A stand-in for the Azure Functions host: plays it on one machine, for any custom handler.
//!
//! It reads the real `host.json`, `*/function.json` and `local.settings.json`, starts the handler as a child process, and calls
//! it only over HTTP, in the host's own JSON. What is behind it (a durable queue, timers) needs nothing but a directory.

pub mod arguments;
pub mod host;

pub mod app;
mod dispatch;
pub mod handler;
pub mod service_bus;
pub mod trigger;
pub mod wire;
