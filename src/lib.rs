//! Waybill: an Azure Functions custom handler that turns "please do this slow thing" into a 202 that is never a lie.
//!
//! Start with `ARCHITECTURE.md`; the modules stand in reading order.

pub mod cli;
pub mod config;
pub mod logging;

pub mod order;
pub mod idempotency;
pub mod timestamp;
pub mod lifecycle;
pub mod message;
pub mod problem;

pub mod serve;
pub mod server;
pub mod routes;
pub mod envelope;
pub mod functions;
pub mod fulfillment;
pub mod process;
pub mod store;
pub mod sqlite;
