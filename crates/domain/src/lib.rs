//! The domain, pure: no tokio, no warp, no clock, no environment, and no import from another crate of the workspace.

pub mod order;
pub mod json;
pub mod form;
pub mod tracking;
pub mod record;
pub mod failure;
pub mod lifecycle;
pub mod callback;
pub mod message;
pub mod gateway;
pub mod quarantine;
pub mod problem;
pub mod bookmark;
pub mod timestamp;
