//! Records with compare-and-set; nothing outside knows which engine keeps them.

pub mod cosmos;
pub mod sqlite;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::domain::bookmark::Bookmark;
use crate::domain::lifecycle::{Record, Status};
use crate::domain::quarantine::Quarantined;
use crate::domain::timestamp::Timestamp;
use crate::domain::tracking::{TrackingId, TrackingKey};
use crate::store::cosmos::CosmosStore;
use crate::store::sqlite::SqliteStore;

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
    /// It is recorded. A reader elsewhere may need the bookmark to see it at once; none where every reader does.
    Created(Option<Bookmark>),
    /// A record of this id is there already.
    Exists(Versioned, Option<Bookmark>),
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
#[derive(Debug, Clone)]
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

/// A page of a customer's orders ends when so many bytes of records were read, if not before: they hold whole orders and results.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Which orders an operator asks for.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// In this status.
    pub status: Option<Status>,
    /// Submitted before this moment.
    pub submitted_before: Option<Timestamp>,
    /// Of this owner.
    pub owner: Option<String>,
}

/// A place in an owner's orders, newest first: behind this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// When that order was submitted.
    pub submitted_at: Timestamp,
    /// Orders of the same moment are told apart by their ids, the largest first.
    pub tracking_id: TrackingId,
}

/// Some orders of one owner, newest first.
#[derive(Debug)]
pub struct Page {
    /// No more than were asked for; fewer say nothing about what follows.
    pub records: Vec<Record>,
    /// Where the next page begins; none when this is the last.
    pub next: Option<Place>,
}

/// Where records are kept.
#[derive(Clone)]
pub enum StatusStore {
    /// One file on this machine.
    Sqlite(SqliteStore),
    /// A container of an Azure account.
    Cosmos(CosmosStore),
}

impl StatusStore {
    /// The record of this id, unless it has expired.
    pub async fn read(&self, tracking_id: TrackingId) -> Result<Option<Versioned>, StoreError> {
        match self {
            Self::Sqlite(store) => store.read(tracking_id).await,
            Self::Cosmos(store) => store.read(tracking_id).await,
        }
    }

    /// The record as it stands, to be asked after a refused write: what lags behind would be refused again.
    pub async fn read_latest(&self, tracking_id: TrackingId) -> Result<Option<Versioned>, StoreError> {
        match self {
            Self::Sqlite(store) => store.read(tracking_id).await,
            Self::Cosmos(store) => store.read_latest(tracking_id).await,
        }
    }

    /// Whether a read may give an older version than the latest.
    pub fn may_lag(&self) -> bool {
        match self {
            Self::Sqlite(_) => false,
            Self::Cosmos(store) => store.may_lag(),
        }
    }

    /// The record as it was at most a second ago: many who ask for one order share an answer. Where reads may lag it may be there
    /// all the same when this finds nothing; [`Self::read_until_visible`] tells.
    pub async fn read_recent(&self, tracking_id: TrackingId) -> Result<Option<Arc<Versioned>>, StoreError> {
        match self {
            Self::Sqlite(store) => Ok(store.read(tracking_id).await?.map(Arc::new)),
            Self::Cosmos(store) => store.read_recent(tracking_id).await,
        }
    }

    /// The record, or the certainty that there is none: where reads may lag, after a while of better looks.
    pub async fn read_until_visible(
        &self,
        tracking_id: TrackingId,
        bookmark: Option<Bookmark>,
    ) -> Result<Option<Arc<Versioned>>, StoreError> {
        match self {
            Self::Sqlite(store) => Ok(store.read(tracking_id).await?.map(Arc::new)),
            Self::Cosmos(store) => store.read_until_visible(tracking_id, bookmark).await,
        }
    }

    /// The record as it stands, by one look and no second: whoever is to be refused anyway is not worth more.
    pub async fn read_latest_once(&self, tracking_id: TrackingId) -> Result<Option<(Versioned, Option<Bookmark>)>, StoreError> {
        match self {
            Self::Sqlite(store) => Ok(store.read(tracking_id).await?.map(|found| (found, None))),
            Self::Cosmos(store) => store.read_latest_once(tracking_id).await,
        }
    }

    /// Records a new order, unless its id is taken. Kept for good when this returns.
    pub async fn create(&self, record: &Record) -> Result<Created, StoreError> {
        match self {
            Self::Sqlite(store) => store.create(record).await,
            Self::Cosmos(store) => store.create(record).await,
        }
    }

    /// Replaces the record that was read at `etag`. Kept for good when this returns.
    pub async fn replace(&self, record: &Record, etag: &Etag) -> Result<Replaced, StoreError> {
        match self {
            Self::Sqlite(store) => store.replace(record, etag).await,
            Self::Cosmos(store) => store.replace(record, etag).await,
        }
    }

    /// Orders whose `dueAt` has passed, longest due first, at most `limit`, of this status if one is given.
    pub async fn overdue(&self, limit: u32, status: Option<Status>) -> Result<Vec<TrackingId>, StoreError> {
        match self {
            Self::Sqlite(store) => store.overdue(limit, status).await,
            Self::Cosmos(store) => store.overdue(limit, status).await,
        }
    }

    /// When orders were submitted that nobody has claimed yet, at most `limit`: those whose `dueAt` comes first, which are the
    /// oldest as long as none was sent again.
    pub async fn waiting(&self, limit: u32) -> Result<Vec<Timestamp>, StoreError> {
        match self {
            Self::Sqlite(store) => store.waiting(limit).await,
            Self::Cosmos(store) => store.waiting(limit).await,
        }
    }

    /// Keeps a message that nobody can act on; once, however often it comes, as it came last. Kept for good when this returns.
    pub async fn quarantine(&self, quarantined: &Quarantined) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(store) => store.quarantine(quarantined).await,
            Self::Cosmos(store) => store.quarantine(quarantined).await,
        }
    }

    /// Orders for an operator, newest first, at most `limit`. Reads whole records; not for customers' requests.
    pub async fn list(&self, filter: &Filter, limit: u32) -> Result<Vec<Record>, StoreError> {
        match self {
            Self::Sqlite(store) => store.list(filter, limit).await,
            Self::Cosmos(store) => store.list(filter, limit).await,
        }
    }

    /// An owner's orders behind a place, newest first, at most `limit`, of this status if one is given.
    pub async fn page(&self, owner: &str, status: Option<Status>, behind: Option<Place>, limit: usize) -> Result<Page, StoreError> {
        match self {
            Self::Sqlite(store) => store.page(owner, status, behind, limit).await,
            Self::Cosmos(store) => store.page(owner, status, behind, limit).await,
        }
    }

    /// What is in quarantine, at most `limit`.
    pub async fn quarantined(&self, limit: u32) -> Result<Vec<Quarantined>, StoreError> {
        match self {
            Self::Sqlite(store) => store.quarantined(limit).await,
            Self::Cosmos(store) => store.quarantined(limit).await,
        }
    }

    /// A message leaves quarantine; it must be on its way by then. `false`: it is not there as it was read, perhaps because it came
    /// back meanwhile, and stays.
    pub async fn release(&self, quarantined: &Quarantined) -> Result<bool, StoreError> {
        match self {
            Self::Sqlite(store) => store.release(quarantined).await,
            Self::Cosmos(store) => store.release(quarantined).await,
        }
    }

    /// Asks one cheap question.
    pub async fn answers(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(store) => store.answers().await,
            Self::Cosmos(store) => store.answers().await,
        }
    }

    /// The store's clock: leases are judged by it.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::Sqlite(_) => sqlite::now(),
            Self::Cosmos(store) => store.now(),
        }
    }

    /// How long progress may wait for a write that is due anyway: writes of its own cost nothing here, or they are paid for.
    /// `renewal` is when the next one is due.
    pub fn progress_pause(&self, renewal: Duration) -> Duration {
        match self {
            Self::Sqlite(_) => Duration::ZERO,
            Self::Cosmos(_) => renewal,
        }
    }

    /// The secret of the deployment under which tracking ids are derived.
    pub fn tracking_key(&self) -> &TrackingKey {
        match self {
            Self::Sqlite(store) => store.tracking_key(),
            Self::Cosmos(store) => store.tracking_key(),
        }
    }

    /// Figures for operators.
    pub fn figures(&self) -> Value {
        match self {
            Self::Sqlite(store) => store.figures(),
            Self::Cosmos(store) => store.figures(),
        }
    }
}
