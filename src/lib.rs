//! Waybill: an Azure Functions custom handler that turns "please do this slow thing" into a 202 that is never a lie.
//!
//! Start with `ARCHITECTURE.md`. The modules are rooms, in reading order; which may import which is checked by
//! `tests/it/structure.rs`.

/// What an order is and what may become of it; a crate of its own, so that the compiler keeps it pure.
pub use waybill_domain as domain;

pub mod envelope;
pub mod config;
pub mod outbound;
pub mod store;
pub mod fulfillment;
pub mod door;
pub mod functions;
pub mod cli;
