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
