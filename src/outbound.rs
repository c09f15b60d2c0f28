//! How this process calls others: HTTP, who it is towards Azure, Service Bus, and what it does when they fail.

pub mod http;
pub mod identity;
pub mod service_bus;
pub mod breaker;
pub mod backoff;
pub mod callback;
