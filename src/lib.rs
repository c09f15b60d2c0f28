//! Waybill: an Azure Functions custom handler that turns "please do this slow thing" into a 202 that is never a lie.
//!
//! An order is recorded before it is accepted, and ends as exactly one of `completed`, `failed` and `cancelled`, whatever crashes.
//! This library is for a handler whose work is written in Rust. Work in any other language stands behind HTTP, and needs no library.
//!
//! # A handler of one's own
//!
//! 1. Implement [`Work`]: one call of [`Work::run`] is one try of one order.
//! 2. Call [`serve`] with it in `main`.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use serde::Deserialize;
//! use serde_json::json;
//! use waybill::{App, Done, Failed, Job, Work};
//!
//! #[derive(Deserialize)]
//! struct Report {
//!     title: String,
//! }
//!
//! struct Render;
//!
//! impl Work for Render {
//!     async fn run(&self, job: Job) -> Result<Done, Failed> {
//!         let report: Report = job.order()?;
//!         job.progress(50, "drawing");
//!         let Some(file) = draw(&report, &job.idempotency_key()).await else {
//!             return Err(Failed::retryable("printer_busy", "the printer is busy"));
//!         };
//!         Ok(json!({ "file": file }).into())
//!     }
//! }
//!
//! /// An effect outside goes under the key, so that it happens once however often it is asked for.
//! async fn draw(report: &Report, key: &str) -> Option<String> {
//!     # let _ = key;
//!     Some(format!("{}.pdf", report.title))
//! }
//!
//! fn main() -> ExitCode {
//!     waybill::serve(App::builder().work(Render))
//! }
//! ```
//!
//! `waybill new NAME --work rust` makes a folder with such a handler and all that the Functions host needs, and `waybill local` runs it.
//! The same handler is deployed. Its settings are those of Waybill; `FULFILLMENT_TIMEOUT` is the time for one try.
//!
//! # What work must bear
//!
//! **A try may come twice**, after a crash or a lost answer. Every try of an order has the same [`Job::idempotency_key`].
//!
//! Failures are of two kinds. After [`Failed::retryable`] another try follows, with growing pauses. [`Failed::permanent`] ends the order.
//! A panic fails the order for good, and harms no other.
//!
//! # The other modules
//!
//! They are parts of the program `waybill`, may change at any time, and are not shown here. `ARCHITECTURE.md` is their map.

use std::process::ExitCode;

pub use fulfillment::work::{Done, Failed, Job, Work};

/// What an order is and what may become of it; a crate of its own, so that the compiler keeps it pure.
#[doc(hidden)]
pub use waybill_domain as domain;

#[doc(hidden)]
pub mod envelope;
#[doc(hidden)]
pub mod config;
#[doc(hidden)]
pub mod metrics;
#[doc(hidden)]
pub mod outbound;
#[doc(hidden)]
pub mod store;
#[doc(hidden)]
pub mod fulfillment;
#[doc(hidden)]
pub mod door;
#[doc(hidden)]
pub mod functions;
#[doc(hidden)]
pub mod telemetry;
#[doc(hidden)]
pub mod cli;

/// A handler with work of its own.
#[derive(Debug)]
pub struct App {
    work: fulfillment::Fulfillment,
}

impl App {
    /// Begins a handler.
    pub fn builder() -> Builder {
        Builder {}
    }
}

/// A handler that has no work yet.
#[derive(Debug)]
pub struct Builder {}

impl Builder {
    /// Gives the handler its work.
    pub fn work(self, work: impl Work) -> App {
        App { work: fulfillment::Fulfillment::new(work) }
    }
}

/// Runs the handler until the Functions host, or a person, stops it. The host starts it as `host.json` says, and gives it its port; the
/// settings come from the environment. What is wrong with them goes to stderr, one line each.
pub fn serve(app: App) -> ExitCode {
    let served = config::environment().and_then(|environment| cli::serve::run(&environment, Some(app.work)));
    cli::ended(served.map(|()| ExitCode::SUCCESS))
}
