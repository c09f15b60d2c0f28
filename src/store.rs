//! Records with compare-and-set; nothing outside knows which engine keeps them.

pub mod sqlite;

use serde_json::Value;

use crate::idempotency::{TrackingId, TrackingKey};
use crate::lifecycle::Record;
use crate::store::sqlite::SqliteStore;
use crate::timestamp::Timestamp;

/// The version of a record as the store names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etag(pub String);

/// A record, and the version it was read at.
#[derive(Debug, Clone)]
pub struct Versioned {
    /// The record.
    pub record: Record,
    /// Its version.
    pub etag: Etag,
}

/// What became of a create.
#[derive(Debug)]
pub enum Created {
    /// It is recorded.
    Created,
    /// A record of this id is there already.
    Exists(Versioned),
}

/// What became of a replace.
#[derive(Debug, PartialEq, Eq)]
pub enum Replaced {
    /// It is recorded, under this version.
    Replaced(Etag),
    /// The record changed, or is gone, since it was read.
    Stale,
}

/// Why the store did not answer.
#[derive(Debug)]
pub enum StoreError {
    /// Nothing was written.
    NotApplied,
    /// A write may or may not have been applied.
    Unknown,
    /// A record is there that this program cannot read.
    Unreadable(String),
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotApplied => f.write_str("the store did not take the request"),
            Self::Unknown => f.write_str("the store did not confirm the write"),
            Self::Unreadable(reason) => write!(f, "a record cannot be read: {reason}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// Where records are kept.
#[derive(Clone)]
pub enum StatusStore {
    /// One file on this machine.
    Sqlite(SqliteStore),
}

impl StatusStore {
    /// The record of this id, unless it has expired.
    pub async fn read(&self, tracking_id: TrackingId) -> Result<Option<Versioned>, StoreError> {
        match self {
            Self::Sqlite(store) => store.read(tracking_id).await,
        }
    }

    /// Records a new order, unless its id is taken. On disk when this returns.
    pub async fn create(&self, record: &Record) -> Result<Created, StoreError> {
        match self {
            Self::Sqlite(store) => store.create(record).await,
        }
    }

    /// Replaces the record that was read at `etag`. On disk when this returns.
    pub async fn replace(&self, record: &Record, etag: &Etag) -> Result<Replaced, StoreError> {
        match self {
            Self::Sqlite(store) => store.replace(record, etag).await,
        }
    }

    /// The store's clock: leases are judged by it.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::Sqlite(_) => sqlite::now(),
        }
    }

    /// The secret of the deployment that is kept beside the records.
    pub fn tracking_key(&self) -> &TrackingKey {
        match self {
            Self::Sqlite(store) => store.tracking_key(),
        }
    }

    /// Figures for operators.
    pub fn figures(&self) -> Value {
        match self {
            Self::Sqlite(store) => store.figures(),
        }
    }
}
