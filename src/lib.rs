//! Waybill: an Azure Functions custom handler that turns "please do this slow thing" into a 202 that is never a lie.
//!
//! Start with `ARCHITECTURE.md`. The modules are rooms, in reading order; which may import which is checked by
//! `tests/it/structure.rs`.

pub mod domain;
pub mod envelope;
pub mod config;
pub mod outbound;
pub mod store;
pub mod fulfillment;
pub mod door;
pub mod functions;
pub mod cli;

// The stand-in for the Functions host.
pub mod local;

// This process, and what it has in common with every server of ours.
pub mod failpoints;
pub mod logging;
pub mod process;
pub mod server;
pub mod sqlite;

// Where everything may be killed, and the proof that this loses nothing; not in the product.
#[cfg(feature = "failpoints")]
pub mod crash_matrix;

pub mod openapi;
