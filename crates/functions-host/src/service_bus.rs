//! Stand-in for Service Bus on this machine.

pub mod broker;
mod connection;
pub(crate) mod rest;
