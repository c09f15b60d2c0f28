//! `SQLite` with group commit, in a data directory that is private to the user.

pub mod database;
pub mod directory;
mod files;
