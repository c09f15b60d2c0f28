//! A stand-in for the Azure Functions host on one machine, for any custom handler.
//!
//! The stand-in reads the real `host.json`, `*/function.json` and `local.settings.json`, starts the handler as a child process, and
//! calls the handler only over HTTP, in the host's own JSON. Its durable queue and its timers need only a directory.

pub mod arguments;
pub mod host;

pub mod app;
mod activity;
mod dispatch;
pub mod handler;
mod log_filter;
pub mod recording;
pub mod replay;
pub mod report;
pub mod service_bus;
pub mod trigger;
mod watch;
pub mod wire;
pub mod console;
mod words;
