//! Stand-in for Service Bus on this machine.

pub mod broker;
pub(crate) mod connection;
pub(crate) mod rest;
