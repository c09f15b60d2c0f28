//! `SQLite` with group commit, in a data directory that is private to the user.

pub mod database;
pub mod directory;
pub mod backup;
mod files;
mod mark;
#[cfg(all(test, target_os = "linux"))]
mod kills;
