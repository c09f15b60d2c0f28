//! Parts of an HTTP server on one machine that must stop cleanly.
//!
//! The accept loop with its drain, the signals that ask to stop, log lines and other output, facts of this process, failpoints, and the names of this machine.

pub mod failpoints;
pub mod host_names;
pub mod log;
pub mod output;
pub mod process;
pub mod running;
pub mod server;
pub mod stop;
pub mod terminal;
pub mod trace;
