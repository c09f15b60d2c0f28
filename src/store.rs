//! Records with compare-and-set. No caller knows which engine keeps them.

pub mod cosmos;
pub mod sqlite;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use serving::trace::SPANS;
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use crate::domain::bookmark::Bookmark;
use crate::domain::quarantine::Quarantined;
use crate::domain::record::{Record, Status};
use crate::domain::timestamp::Timestamp;
use crate::domain::tracking::{TrackingId, TrackingKey};
use crate::metrics::{Engine, METRICS, Operation, Replied};
use crate::store::cosmos::CosmosStore;
use crate::store::sqlite::SqliteStore;

/// The version of a record, in the store's own form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etag(pub String);

/// A record and its version.
#[derive(Debug, Clone)]
pub struct Versioned {
    /// The record.
    pub record: Record,
    /// The version that was read.
    pub etag: Etag,
}

/// The result of a create.
#[derive(Debug)]
pub enum Created {
    /// The record is written. The bookmark lets another instance see the record at once; `None`: every instance sees it at once.
    Created(Option<Bookmark>),
    /// A record with this id exists.
    Exists(Versioned, Option<Bookmark>),
}

/// Asks the embedded store, in a span, and measures the time.
async fn ask<T>(operation: Operation, question: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let started = Instant::now();
    let answer = question.instrument(span(Engine::Sqlite, operation)).await;
    let is_answer = answer.as_ref().err().is_none_or(StoreError::is_answer);
    measure(Engine::Sqlite, operation, is_answer, started.elapsed());
    answer
}

/// Measures a question to the store.
fn measure(engine: Engine, operation: Operation, is_answered: bool, took: Duration) {
    METRICS.store_duration.time((engine, (operation, if is_answered { Replied::Yes } else { Replied::No })), took);
}

/// The span of a question to the store.
fn span(engine: Engine, operation: Operation) -> Span {
    info_span!(
        target: SPANS,
        "question",
        otel.name = operation.as_str(),
        otel.kind = "client",
        db.system.name = engine.as_str(),
        db.operation.name = operation.as_str(),
        db.response.status_code = Empty,
        azure.cosmosdb.operation.request_charge = Empty
    )
}

/// The result of a replace.
#[derive(Debug, PartialEq, Eq)]
pub enum Replaced {
    /// The record is written; this is its new version.
    Replaced(Etag),
    /// The record changed or expired since it was read.
    Stale,
}

/// Why a call to the store failed.
#[derive(Debug, Clone)]
pub enum StoreError {
    /// Nothing was written.
    NotApplied,
    /// A write may or may not have been applied.
    Unknown,
    /// A record exists, but this program cannot read it.
    Unreadable(String),
    /// A record exists, and a newer version of this program wrote it. That version reads it again after a rollback is over.
    Newer(String),
}

impl StoreError {
    /// Whether the store answered: asking again changes nothing.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Unreadable(_) | Self::Newer(_))
    }

    /// Why a record cannot be read; else why the call failed.
    fn reason(&self) -> String {
        match self {
            Self::Unreadable(reason) | Self::Newer(reason) => reason.clone(),
            Self::NotApplied | Self::Unknown => self.to_string(),
        }
    }
}

impl From<serde_json::Error> for StoreError {
    /// Kind and position of the error only: serde's text may quote the order.
    fn from(error: serde_json::Error) -> Self {
        Self::Unreadable(format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column()))
    }
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotApplied => f.write_str("the store did not take the request"),
            Self::Unknown => f.write_str("the store did not confirm the write"),
            Self::Unreadable(reason) | Self::Newer(reason) => write!(f, "a record cannot be read: {reason}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// Bytes of records after which a page of a customer's orders ends: a record holds the whole order and its result.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Which orders an operator asks for.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Orders in this status.
    pub status: Option<Status>,
    /// Orders submitted before this moment.
    pub submitted_before: Option<Timestamp>,
    /// Orders submitted at this moment or later.
    pub submitted_since: Option<Timestamp>,
    /// Orders of this owner.
    pub owner: Option<String>,
    /// Orders whose error has this code.
    pub error: Option<String>,
    /// Orders with this `orderId`.
    pub order_id: Option<String>,
    /// Orders with this `customerId`.
    pub customer_id: Option<String>,
}

impl Filter {
    /// Whether a record is one of those that are asked for.
    fn matches(&self, record: &Record) -> bool {
        let names = || record.names();
        self.status.is_none_or(|status| record.status == status)
            && self.submitted_before.is_none_or(|moment| record.submitted_at < moment)
            && self.submitted_since.is_none_or(|moment| record.submitted_at >= moment)
            && self.owner.as_ref().is_none_or(|owner| record.owner == *owner)
            && self.error.as_ref().is_none_or(|code| record.error.as_ref().is_some_and(|error| error.code == *code))
            && self.order_id.as_ref().is_none_or(|id| names().order_id == *id)
            && self.customer_id.as_ref().is_none_or(|id| names().customer_id == *id)
    }
}

/// One order of an operator's list.
#[derive(Debug)]
pub enum Listed {
    /// Its record.
    Record(Box<Record>),
    /// A record that this version cannot read.
    Unreadable(Unreadable),
}

/// The messages in quarantine that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// Those that no operator has discarded, as far as that can be read.
    Kept,
    /// All, the discarded ones among them.
    All,
}

/// One message in quarantine, or what is known of a message that this version cannot read.
pub type Kept = Result<Quarantined, Unreadable>;

/// A record that this version cannot read: a newer version wrote it, or it is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The id under which it is kept.
    pub id: String,
    /// What is wrong with it, without any of its text.
    pub reason: String,
}

/// A place in the list of an owner's orders, newest first: the order after which a page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// When the order was submitted.
    pub submitted_at: Timestamp,
    /// The order's id: orders submitted at the same moment are sorted by id, largest first.
    pub tracking_id: TrackingId,
}

/// A difference between the container and its definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Records may be lost, or kept for ever.
    Wrong(String),
    /// Calls cost more than necessary.
    Costly(String),
}

/// One page of an owner's orders, newest first.
#[derive(Debug)]
pub struct Page {
    /// At most `limit` records. A short page does not mean that it is the last one.
    pub records: Vec<Record>,
    /// Where the next page begins; `None` on the last page.
    pub next: Option<Place>,
}

/// An order that was never claimed and is not overdue: its message waits in the queue, or for its moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// When its message was sent: at the submission, or when the sweeper sent the first one again.
    pub since: Timestamp,
    /// Whether a delivery has put the order off, e.g. because the backend does not answer.
    pub is_put_off: bool,
}

/// Which orders with a `dueAt` are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Orders that have not ended.
    Open,
    /// Orders in processing.
    Processing,
    /// Ended orders, whose callback is pending. They never stand among the others: their receiver may be away for days.
    Callback,
}

/// Where records are kept.
#[derive(Clone)]
pub enum StatusStore {
    /// A file on this machine.
    Sqlite(SqliteStore),
    /// A container in an Azure Cosmos DB account.
    Cosmos(CosmosStore),
}

impl StatusStore {
    /// Leaves every record in the file that is named after the records. Nothing is written later.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(store) => store.close().await,
            Self::Cosmos(_) => {}
        }
    }

    /// The record with this id, unless it has expired. May be an older version where [`Self::may_lag`].
    pub async fn read(&self, tracking_id: TrackingId) -> Result<Option<Versioned>, StoreError> {
        match self {
            Self::Sqlite(store) => ask(Operation::Read, store.read(tracking_id)).await,
            Self::Cosmos(store) => store.read(tracking_id).await,
        }
    }

    /// The latest version of the record. Read it after a refused write: a write based on an older version is refused again.
    pub async fn read_latest(&self, tracking_id: TrackingId) -> Result<Option<Versioned>, StoreError> {
        match self {
            Self::Sqlite(store) => ask(Operation::Read, store.read(tracking_id)).await,
            Self::Cosmos(store) => store.read_latest(tracking_id).await,
        }
    }

    /// Whether a read may return an older version than the latest.
    pub fn may_lag(&self) -> bool {
        match self {
            Self::Sqlite(_) => false,
            Self::Cosmos(store) => store.may_lag(),
        }
    }

    /// The record as it was at most one second ago: concurrent requests for one order share a read. `None` does not prove that there
    /// is no record where [`Self::may_lag`]; [`Self::read_until_visible`] does.
    pub async fn read_recent(&self, tracking_id: TrackingId) -> Result<Option<Arc<Versioned>>, StoreError> {
        match self {
            Self::Sqlite(store) => Ok(ask(Operation::Read, store.read(tracking_id)).await?.map(Arc::new)),
            Self::Cosmos(store) => store.read_recent(tracking_id).await,
        }
    }

    /// The record, or `None` if there certainly is none. Where [`Self::may_lag`], a miss is followed by stronger reads for two seconds.
    pub async fn read_until_visible(
        &self,
        tracking_id: TrackingId,
        bookmark: Option<Bookmark>,
    ) -> Result<Option<Arc<Versioned>>, StoreError> {
        match self {
            Self::Sqlite(store) => Ok(ask(Operation::Read, store.read(tracking_id)).await?.map(Arc::new)),
            Self::Cosmos(store) => store.read_until_visible(tracking_id, bookmark).await,
        }
    }

    /// The latest version of the record, by a single read without repetition: enough before a request is refused.
    pub async fn read_latest_once(&self, tracking_id: TrackingId) -> Result<Option<(Versioned, Option<Bookmark>)>, StoreError> {
        match self {
            Self::Sqlite(store) => Ok(ask(Operation::Read, store.read(tracking_id)).await?.map(|found| (found, None))),
            Self::Cosmos(store) => store.read_latest_once(tracking_id).await,
        }
    }

    /// Writes a new record, unless its id is taken. The write is durable when this returns.
    pub async fn create(&self, record: &Record) -> Result<Created, StoreError> {
        match self {
            Self::Sqlite(store) => ask(Operation::Create, store.create(record)).await,
            Self::Cosmos(store) => store.create(record).await,
        }
    }

    /// Replaces the record that was read at `etag`. The write is durable when this returns.
    pub async fn replace(&self, record: &Record, etag: &Etag) -> Result<Replaced, StoreError> {
        match self {
            Self::Sqlite(store) => ask(Operation::Replace, store.replace(record, etag)).await,
            Self::Cosmos(store) => store.replace(record, etag).await,
        }
    }

    /// At most `limit` orders of these whose `dueAt` has passed, earliest `dueAt` first, after the first `skip` of them.
    pub async fn overdue(&self, limit: u32, skip: u32, which: Due) -> Result<Vec<TrackingId>, StoreError> {
        match self {
            Self::Sqlite(store) => ask(Operation::Query, store.overdue(limit, skip, which)).await,
            Self::Cosmos(store) => store.overdue(limit, skip, which).await,
        }
    }

    /// At most `limit` orders that were never claimed and are not overdue, earliest `dueAt` first. That is oldest first, except for
    /// orders whose message was sent again. Overdue orders are left out: their messages may be lost.
    pub async fn waiting(&self, limit: u32) -> Result<Vec<Waiting>, StoreError> {
        match self {
            Self::Sqlite(store) => store.waiting(limit).await,
            Self::Cosmos(store) => store.waiting(limit).await,
        }
    }

    /// Keeps a message that cannot be processed. A message that comes again replaces its earlier copy. The write is durable when this
    /// returns.
    pub async fn quarantine(&self, quarantined: &Quarantined) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(store) => store.quarantine(quarantined).await,
            Self::Cosmos(store) => store.quarantine(quarantined).await,
        }
    }

    /// Takes at most `limit` orders for an operator, newest first, and the records among them that this version cannot read, which do not
    /// count. A few records are in memory at once. Too expensive for customers' requests.
    pub async fn each(&self, filter: &Filter, limit: u32, take: impl FnMut(Listed)) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(store) => store.each(filter, limit, take).await,
            Self::Cosmos(store) => store.each(filter, limit, take).await,
        }
    }

    /// At most `limit` tracking ids from `first` to `last`, for an operator.
    pub async fn between(&self, first: TrackingId, last: TrackingId, limit: u32) -> Result<Vec<TrackingId>, StoreError> {
        match self {
            Self::Sqlite(store) => store.between(first, last, limit).await,
            Self::Cosmos(store) => store.between(first, last, limit).await,
        }
    }

    /// At most `limit` orders of an owner after the place `behind`, newest first; only those in `status` if it is given.
    pub async fn page(&self, owner: &str, status: Option<Status>, behind: Option<Place>, limit: usize) -> Result<Page, StoreError> {
        match self {
            Self::Sqlite(store) => store.page(owner, status, behind, limit).await,
            Self::Cosmos(store) => store.page(owner, status, behind, limit).await,
        }
    }

    /// Takes at most `limit` messages in quarantine whose time is not over. They are read in portions, as they are taken.
    pub async fn quarantined(&self, selection: Selection, limit: u32, take: impl FnMut(Kept)) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(store) => store.quarantined(selection, limit, take).await,
            Self::Cosmos(store) => store.quarantined(selection, limit, take).await,
        }
    }

    /// Removes a message from quarantine; call it after the message was sent. `false`: the message in quarantine is not the one that
    /// was read, e.g. because it came back meanwhile, and stays.
    pub async fn release(&self, quarantined: &Quarantined) -> Result<bool, StoreError> {
        match self {
            Self::Sqlite(store) => store.release(quarantined).await,
            Self::Cosmos(store) => store.release(quarantined).await,
        }
    }

    /// Replaces a message in quarantine by its discarded form. `false`: as for [`Self::release`].
    pub async fn discard(&self, quarantined: &Quarantined, discarded: &Quarantined) -> Result<bool, StoreError> {
        match self {
            Self::Sqlite(store) => store.discard(quarantined, discarded).await,
            Self::Cosmos(store) => store.discard(quarantined, discarded).await,
        }
    }

    /// Whether the store answers, by one cheap read.
    pub async fn answers(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(store) => store.answers().await,
            Self::Cosmos(store) => store.answers().await,
        }
    }

    /// How the place of the records differs from its definition, by one cheap question. `Err`: the reason why it cannot be told.
    pub async fn differences(&self) -> Result<Vec<Difference>, String> {
        match self {
            Self::Sqlite(_) => Ok(Vec::new()),
            Self::Cosmos(store) => store.differences().await,
        }
    }

    /// Asks for a write that changes nothing. `Err`: the reason why records cannot be written.
    pub async fn may_write(&self) -> Result<(), String> {
        match self {
            Self::Sqlite(store) => store.takes_writes().await.map_err(|error| error.to_string()),
            Self::Cosmos(store) => store.may_write().await,
        }
    }

    /// Whether the store takes writes, as far as that can be tried without a cost.
    pub async fn takes_writes(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(store) => store.takes_writes().await,
            Self::Cosmos(_) => Ok(()),
        }
    }

    /// Whether a write that failed may still show, though reads do not show it now: then a miss does not prove that an order was not
    /// accepted.
    pub fn has_write_in_doubt(&self) -> bool {
        match self {
            Self::Sqlite(store) => store.has_write_in_doubt(),
            // A write that may arrive late is known by its order.
            Self::Cosmos(_) => false,
        }
    }

    /// Whether reads may show a write that failed, though a restart may not find it: then a record does not prove that an order was
    /// accepted.
    pub fn may_show_write_in_doubt(&self) -> bool {
        match self {
            Self::Sqlite(store) => store.may_show_write_in_doubt(),
            Self::Cosmos(_) => false,
        }
    }

    /// Waits until a part of the store in this process has broken down.
    pub async fn broke_down(&self) {
        match self {
            Self::Sqlite(store) => store.broke_down().await,
            Self::Cosmos(_) => std::future::pending().await,
        }
    }

    /// The store's clock, which decides whether a lease has run out.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::Sqlite(_) => sqlite::now(),
            Self::Cosmos(store) => store.now(),
        }
    }

    /// How long progress is held back to be written together with the next renewal of the lease: zero where a write costs nothing,
    /// `renewal` where each write is paid for.
    pub fn progress_pause(&self, renewal: Duration) -> Duration {
        match self {
            Self::Sqlite(_) => Duration::ZERO,
            Self::Cosmos(_) => renewal,
        }
    }

    /// The deployment's secret from which tracking ids are derived.
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
