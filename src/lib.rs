//! Waybill: an Azure Functions custom handler that turns "please do this slow thing" into a 202 that is never a lie.
//!
//! Start with `ARCHITECTURE.md`; the modules stand in reading order.

// What a person types.
pub mod cli;
pub mod config;
pub mod demo;
pub mod logging;

// Where everything may be killed, and the proof that this loses nothing; not in the product.
#[cfg(feature = "failpoints")]
pub mod crash_matrix;
pub mod failpoints;
pub mod operate;

// The domain, pure.
pub mod bookmark;
pub mod idempotency;
pub mod lifecycle;
pub mod message;
pub mod order;
pub mod problem;
pub mod quarantine;
pub mod timestamp;

// The handler.
pub mod auth;
pub mod breaker;
pub mod caller;
pub mod envelope;
pub mod fulfillment;
pub mod functions;
pub mod identity;
pub mod limits;
pub mod openapi;
pub mod outbound;
pub mod process;
pub mod random;
pub mod routes;
pub mod serve;
pub mod server;
pub mod service_bus;
pub mod sqlite;
pub mod store;

// The stand-in for the Functions host.
pub mod local;
