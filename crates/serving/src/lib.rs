//! What a program needs that serves HTTP on one machine and must end well.
//!
//! The accept loop with its drain, the signals that ask to stop, log lines, facts of this process, and places where tests kill it.

pub mod failpoints;
pub mod log;
pub mod process;
pub mod running;
pub mod server;
pub mod stop;
