//! Records in an `SQLite` file on this machine: the default store.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use group_commit::database::{BUSY_TIMEOUT, Database, Error, together};
use group_commit::directory;
use rusqlite::{Connection, OptionalExtension, Params, Row as SqlRow, params};
use serde_json::{Value, json};
use tracing::warn;
use uuid::Uuid;

use crate::config::time_budget::SQLITE_BUSY_TIMEOUT;
use crate::domain::quarantine::Quarantined;
use crate::domain::record::{Record, SCHEMA_VERSION, Status};
use crate::domain::timestamp::Timestamp;
use crate::domain::tracking::{TrackingId, TrackingKey};
use crate::store::{
    Created, Due, Etag, Filter, Kept, Listed, PAGE_BYTES, Page, Place, Replaced, Selection, StoreError, Unreadable, Versioned, Waiting,
};

// The time that an invocation keeps for its last writes is counted with this.
const _: () = assert!(BUSY_TIMEOUT.as_millis() == SQLITE_BUSY_TIMEOUT.as_millis());

/// The columns of `owned`, selected from `orders`.
macro_rules! owned {
    () => {
        "CASE WHEN json_valid(record) THEN record ->> 'owner' END,
         CASE WHEN json_valid(record) THEN CAST(round(1000 * unixepoch(record ->> 'submittedAt', 'subsec')) AS INTEGER) END,
         tracking_id FROM orders"
    };
}

/// Whether the time of a message in quarantine was over at ?1: NULL where the message does not tell.
macro_rules! expired {
    () => {
        "CASE WHEN json_valid(message) THEN unixepoch(message ->> 'keptAt', 'subsec') + (message ->> 'ttl') < unixepoch(?1, 'subsec') END"
    };
}

/// The tables. Rows are appended (rowid) and found by a small index, so that a group of new orders touches few pages. `owned` is
/// written once per order: an index on fields of the record would be written with each version. A database made before `owned`
/// existed is filled in. An order has `expires_at` exactly when it has ended; ended orders with a pending callback are in an index of
/// their own, and of earlier databases the index of both is removed.
const SCHEMA: &str = concat!(
    "
    CREATE TABLE IF NOT EXISTS orders (
        tracking_id BLOB NOT NULL UNIQUE,
        etag INTEGER NOT NULL,
        due_at INTEGER,
        expires_at INTEGER,
        record TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS orders_expires_at ON orders (expires_at) WHERE expires_at IS NOT NULL;
    CREATE INDEX IF NOT EXISTS orders_open_due_at ON orders (due_at) WHERE due_at IS NOT NULL AND expires_at IS NULL;
    CREATE INDEX IF NOT EXISTS orders_callback_due_at ON orders (due_at) WHERE due_at IS NOT NULL AND expires_at IS NOT NULL;
    DROP INDEX IF EXISTS orders_due_at;
    CREATE TABLE IF NOT EXISTS owned (
        owner TEXT NOT NULL,
        submitted_at INTEGER NOT NULL,
        tracking_id BLOB NOT NULL,
        PRIMARY KEY (owner, submitted_at, tracking_id)
    ) WITHOUT ROWID;
    INSERT INTO owned (owner, submitted_at, tracking_id) SELECT ",
    owned!(),
    " WHERE json_valid(record) AND NOT EXISTS (SELECT 1 FROM owned);
    CREATE TABLE IF NOT EXISTS quarantine (id BLOB NOT NULL PRIMARY KEY, message TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL);
"
);
/// Milliseconds between two deletions of expired records. An expired record that is not yet deleted is invisible.
const PURGE_PERIOD: i64 = 600_000;
/// Milliseconds until the next deletion if the last one left expired records.
const NEXT_PURGE: i64 = 250;
/// Expired records deleted at once: a client's order waits for the deletion.
const PURGE_LIMIT: u32 = 100;
/// Records read at once for an operator.
const LIST_CHUNK: usize = 16;
/// Orders scanned for one page: all other scans wait for it.
const PAGE_SCAN: u32 = 1000;

/// Records in `SQLite`.
#[derive(Clone)]
pub struct SqliteStore {
    database: Database,
    tracking_key: TrackingKey,
    purge_due: Arc<AtomicI64>,
}

/// This machine's clock.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_milliseconds(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

impl SqliteStore {
    /// Opens `DIRECTORY/records.db`, and creates it if it does not exist. Blocks: call it off the runtime.
    /// `tracking_key` overrides the secret kept beside the records, which is drawn at random at the first start.
    pub fn open(directory: &Path, tracking_key: Option<TrackingKey>) -> Result<Self, Error> {
        let path = directory.join("records.db");
        let failed = |reason: String| Error::Open(path.clone(), reason);
        directory::create(directory).map_err(|error| failed(error.to_string()))?;
        let mut fresh = [0; 32];
        getrandom::fill(&mut fresh).map_err(|error| failed(error.to_string()))?;
        let (database, kept) = Database::open(&path, |connection| {
            connection.execute_batch(SCHEMA)?;
            tracking_key.is_none().then(|| kept_secret(connection, fresh)).transpose()
        })?;
        let kept = || kept.and_then(TrackingKey::new).ok_or_else(|| failed("the secret kept beside the records is damaged".into()));
        let tracking_key = tracking_key.map_or_else(kept, Ok)?;
        Ok(Self { database, tracking_key, purge_due: Arc::new(AtomicI64::new(0)) })
    }

    pub(super) async fn close(&self) {
        self.database.close().await;
    }

    pub(super) fn has_write_in_doubt(&self) -> bool {
        self.database.has_write_in_doubt()
    }

    pub(super) fn may_show_write_in_doubt(&self) -> bool {
        self.database.may_show_write_in_doubt()
    }

    pub(super) async fn takes_writes(&self) -> Result<(), StoreError> {
        Ok(self.database.takes_writes().await?)
    }

    pub(super) async fn broke_down(&self) {
        self.database.broke_down().await;
    }

    pub(super) fn tracking_key(&self) -> &TrackingKey {
        &self.tracking_key
    }

    pub(super) fn figures(&self) -> Value {
        let counts = self.database.counts();
        json!({ "engine": "sqlite", "writes": counts.operations.load(Ordering::Relaxed), "commits": counts.commits.load(Ordering::Relaxed), "synced": counts.synced.load(Ordering::Relaxed) })
    }

    pub(super) async fn read(&self, tracking_id: TrackingId) -> Result<Option<Versioned>, StoreError> {
        let now = now().as_milliseconds();
        let row = self
            .database
            .read(move |connection| {
                connection
                    .prepare_cached("SELECT etag, record FROM orders WHERE tracking_id = ?1 AND (expires_at IS NULL OR expires_at > ?2)")?
                    .query_row(params![tracking_id.as_bytes(), now], |row| Ok((row.get(0)?, text(row, 1)?)))
                    .optional()
            })
            .await?;
        row.map(|(etag, text): (i64, Vec<u8>)| versioned(etag, &text)).transpose()
    }

    pub(super) async fn overdue(&self, limit: u32, skip: u32, which: Due) -> Result<Vec<TrackingId>, StoreError> {
        /// The question about the rows of one index.
        macro_rules! overdue {
            ($rows:literal) => {
                concat!(
                    "SELECT tracking_id FROM orders WHERE due_at <= ?1 AND ",
                    $rows,
                    " AND CASE WHEN json_valid(record) THEN
                     (?2 IS NULL OR record ->> 'status' = ?2) AND record ->> 'schemaVersion' <= ?4 ELSE FALSE END
                     ORDER BY due_at LIMIT ?3 OFFSET ?5"
                )
            };
        }
        let now = now().as_milliseconds();
        let status = (which == Due::Processing).then_some(Status::Processing);
        let question = if which == Due::Callback { overdue!("expires_at > ?1") } else { overdue!("expires_at IS NULL") };
        let overdue = self.database.scan(move |connection| {
            connection
                .prepare_cached(question)?
                .query_map(params![now, status.map(Status::as_str), limit, SCHEMA_VERSION, skip], |row| {
                    row.get(0).map(TrackingId::from_bytes)
                })?
                .collect()
        });
        Ok(overdue.await?)
    }

    pub(super) async fn waiting(&self, limit: u32) -> Result<Vec<Waiting>, StoreError> {
        let now = now().as_milliseconds();
        let rows = self.database.scan(move |connection| {
            connection
                .prepare_cached(
                    "SELECT coalesce(record -> 'sentAgainAt', record -> 'submittedAt'), record ->> 'wakeAt' IS NOT NULL FROM orders
                     WHERE due_at > ?3 AND expires_at IS NULL AND CASE WHEN json_valid(record) THEN record ->> 'status' = 'accepted'
                     AND record ->> 'fence' = 0 AND record ->> 'schemaVersion' <= ?2 ELSE FALSE END ORDER BY due_at LIMIT ?1",
                )?
                .query_map(params![limit, SCHEMA_VERSION, now], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<Vec<(String, bool)>>>()
        });
        let read = |(text, is_put_off): (String, bool)| {
            let since = serde_json::from_str(&text).map_err(|_| StoreError::Unreadable("since when an order waits".into()))?;
            Ok(Waiting { since, is_put_off })
        };
        rows.await?.into_iter().map(read).collect()
    }

    pub(super) async fn quarantine(&self, quarantined: &Quarantined) -> Result<(), StoreError> {
        let (id, text) = (quarantined.id, serde_json::to_string(quarantined).map_err(|error| StoreError::Unreadable(error.to_string()))?);
        let now = now().to_string();
        let kept = self.database.write(move |connection| {
            // The oldest rows are first, and each new one may delete more than one. Rows that never expire are passed over.
            let expired = concat!(
                "DELETE FROM quarantine WHERE rowid IN (SELECT rowid FROM quarantine
                 WHERE CASE WHEN json_valid(message) THEN message ->> 'ttl' IS NOT NULL END ORDER BY rowid LIMIT ?2) AND ",
                expired!()
            );
            connection.prepare_cached(expired)?.execute(params![now, PURGE_LIMIT])?;
            connection
                .prepare_cached("INSERT OR REPLACE INTO quarantine (id, message) VALUES (?1, ?2)")?
                .execute(params![id.as_bytes(), text])
        });
        Ok(kept.await.map(drop)?)
    }

    pub(super) async fn each(&self, filter: &Filter, limit: u32, mut take: impl FnMut(Listed)) -> Result<(), StoreError> {
        let (now, wanted) = (now().as_milliseconds(), filter.clone());
        // Ids first, which need 16 bytes each. A damaged record matches every filter.
        let ids = self.database.scan(move |connection| {
            connection
                .prepare_cached(
                    "SELECT tracking_id FROM orders WHERE (expires_at IS NULL OR expires_at > ?1) AND CASE WHEN json_valid(record) THEN
                     (?2 IS NULL OR record ->> 'status' = ?2) AND (?3 IS NULL OR record ->> 'owner' = ?3)
                     AND (?4 IS NULL OR record ->> 'submittedAt' < ?4) AND (?5 IS NULL OR record ->> 'submittedAt' >= ?5)
                     AND (?6 IS NULL OR record ->> '$.error.code' = ?6)
                     AND (?7 IS NULL OR coalesce(record ->> '$.names.orderId', record ->> '$.order.orderId') = ?7)
                     AND (?8 IS NULL OR coalesce(record ->> '$.names.customerId', record ->> '$.order.customerId') = ?8) ELSE TRUE END
                     ORDER BY CASE WHEN json_valid(record) THEN record ->> 'submittedAt' END DESC NULLS FIRST, tracking_id DESC",
                )?
                .query_map(
                    params![
                        now,
                        wanted.status.map(Status::as_str),
                        wanted.owner,
                        wanted.submitted_before.map(|moment| moment.to_string()),
                        wanted.submitted_since.map(|moment| moment.to_string()),
                        wanted.error,
                        wanted.order_id,
                        wanted.customer_id
                    ],
                    |row| row.get(0),
                )?
                .collect::<rusqlite::Result<Vec<[u8; 16]>>>()
        });
        let mut left = limit;
        for ids in ids.await?.chunks(LIST_CHUNK) {
            let ids = ids.to_vec();
            let rows = self.database.read(move |connection| {
                let mut statement = connection.prepare_cached("SELECT etag, record FROM orders WHERE tracking_id = ?1")?;
                let mut read = |id| statement.query_row([id], |row| Ok((id, row.get::<_, i64>(0)?, text(row, 1)?))).optional();
                ids.into_iter().filter_map(|id| read(id).transpose()).collect::<rusqlite::Result<Vec<_>>>()
            });
            for (id, etag, text) in rows.await? {
                if left == 0 {
                    return Ok(());
                }
                match versioned(etag, &text) {
                    Ok(found) if filter.matches(&found.record) => {
                        left -= 1;
                        take(Listed::Record(Box::new(found.record)));
                    }
                    // It has changed since its id was read.
                    Ok(_) => {}
                    Err(error) => {
                        take(Listed::Unreadable(Unreadable { id: TrackingId::from_bytes(id).to_string(), reason: error.reason() }));
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) async fn between(&self, first: TrackingId, last: TrackingId, limit: u32) -> Result<Vec<TrackingId>, StoreError> {
        let now = now().as_milliseconds();
        let ids = self.database.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT tracking_id FROM orders WHERE tracking_id BETWEEN ?1 AND ?2 AND (expires_at IS NULL OR expires_at > ?3)
                     ORDER BY tracking_id LIMIT ?4",
                )?
                .query_map(params![first.as_bytes(), last.as_bytes(), now, limit], |row| row.get(0).map(TrackingId::from_bytes))?
                .collect()
        });
        Ok(ids.await?)
    }

    pub(super) async fn page(&self, owner: &str, status: Option<Status>, behind: Option<Place>, limit: usize) -> Result<Page, StoreError> {
        let (now, owner) = (now().as_milliseconds(), owner.to_owned());
        let behind = behind
            .unwrap_or(Place { submitted_at: Timestamp::from_milliseconds(i64::MAX), tracking_id: TrackingId::from_bytes([0xff; 16]) });
        let rows = self.database.scan(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT owned.submitted_at, owned.tracking_id, orders.etag, orders.record FROM owned
                 LEFT JOIN orders ON orders.tracking_id = owned.tracking_id AND (expires_at IS NULL OR expires_at > ?4)
                 WHERE owner = ?1 AND (submitted_at, owned.tracking_id) < (?2, ?3)
                 ORDER BY submitted_at DESC, owned.tracking_id DESC LIMIT ?5",
            )?;
            let mut rows =
                statement.query(params![owner, behind.submitted_at.as_milliseconds(), behind.tracking_id.as_bytes(), now, PAGE_SCAN])?;
            let (mut found, mut scanned, mut bytes, mut last) = (Vec::new(), 0, 0, None);
            while let Some(row) = rows.next()? {
                if found.len() == limit || bytes > PAGE_BYTES {
                    return Ok((found, last));
                }
                scanned += 1;
                let place =
                    Place { submitted_at: Timestamp::from_milliseconds(row.get(0)?), tracking_id: TrackingId::from_bytes(row.get(1)?) };
                last = Some(place);
                if let (Some(etag), Some(text)) = (row.get::<_, Option<i64>>(2)?, row.get_ref(3)?.as_bytes_or_null().ok().flatten()) {
                    bytes += text.len();
                    found.extend(wanted(etag, text, place, status));
                }
            }
            Ok((found, last.filter(|_| scanned == PAGE_SCAN)))
        });
        let (found, next) = rows.await?;
        let records = found.into_iter().map(|versioned: Versioned| versioned.record).collect();
        Ok(Page { records, next })
    }

    pub(super) async fn quarantined(&self, selection: Selection, limit: u32, mut take: impl FnMut(Kept)) -> Result<(), StoreError> {
        let (now, all) = (now().to_string(), selection == Selection::All);
        // Ids first, which need 8 bytes each.
        let rows = self.database.scan(move |connection| {
            // A damaged message is found by every question.
            let wanted = concat!(
                "SELECT rowid FROM quarantine WHERE (",
                expired!(),
                ") IS NOT TRUE AND (?2 OR CASE WHEN json_valid(message) THEN message ->> 'discarded' IS NULL ELSE TRUE END)
                 ORDER BY rowid LIMIT ?3"
            );
            let mut statement = connection.prepare_cached(wanted)?;
            statement.query_map(params![now, all, limit], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()
        });
        for rows in rows.await?.chunks(LIST_CHUNK) {
            let rows = rows.to_vec();
            let messages = self.database.read(move |connection| {
                let mut statement = connection.prepare_cached("SELECT id, message FROM quarantine WHERE rowid = ?1")?;
                // `None`: it was released meanwhile, or came back, and has another row.
                let mut read = |row| statement.query_row([row], |row| Ok((row.get(0)?, text(row, 1)?))).optional();
                rows.into_iter().filter_map(|row| read(row).transpose()).collect::<rusqlite::Result<Vec<([u8; 16], Vec<u8>)>>>()
            });
            for (id, text) in messages.await? {
                take(serde_json::from_slice(&text).map_err(|error| {
                    let reason = StoreError::from(error).reason();
                    Unreadable { id: Uuid::from_bytes(id).to_string(), reason }
                }));
            }
        }
        Ok(())
    }

    pub(super) async fn discard(&self, quarantined: &Quarantined, discarded: &Quarantined) -> Result<bool, StoreError> {
        let (id, kept_at) = (quarantined.id, quarantined.kept_at.to_string());
        let text = serde_json::to_string(discarded).map_err(|error| StoreError::Unreadable(error.to_string()))?;
        let replaced =
            self.database.write(move |connection| {
                connection
                    .prepare_cached("UPDATE quarantine SET message = ?3 WHERE id = ?1 AND message ->> 'keptAt' = ?2")?
                    .execute(params![id.as_bytes(), kept_at, text])
            });
        Ok(replaced.await? > 0)
    }

    pub(super) async fn release(&self, quarantined: &Quarantined) -> Result<bool, StoreError> {
        let (id, kept_at) = (quarantined.id, quarantined.kept_at.to_string());
        let released = self.database.write(move |connection| {
            connection
                .prepare_cached("DELETE FROM quarantine WHERE id = ?1 AND message ->> 'keptAt' = ?2")?
                .execute(params![id.as_bytes(), kept_at])
        });
        Ok(released.await? > 0)
    }

    pub(super) async fn answers(&self) -> Result<(), StoreError> {
        Ok(self.database.read(|connection| connection.prepare_cached("SELECT 1 FROM orders LIMIT 1")?.exists([]).map(drop)).await?)
    }

    pub(super) async fn create(&self, record: &Record) -> Result<Created, StoreError> {
        let row = Row::of(record)?;
        let now = now().as_milliseconds();
        let purge = self.purge_due.load(Ordering::Relaxed) <= now && self.purge_due.swap(now + PURGE_PERIOD, Ordering::Relaxed) <= now;
        let purge_due = purge.then(|| Arc::clone(&self.purge_due));
        let found: Option<(i64, Vec<u8>)> = self
            .database
            .write(move |connection| {
                if let Some(purge_due) = &purge_due {
                    let expired = "expires_at <= ?1 ORDER BY expires_at LIMIT ?2";
                    match together(connection, || delete(connection, expired, params![now, PURGE_LIMIT])) {
                        Ok(deleted) if deleted == PURGE_LIMIT as usize => purge_due.store(now + NEXT_PURGE, Ordering::Relaxed),
                        Ok(_) => {}
                        Err(error) => warn!(%error, "expired records could not be deleted"),
                    }
                }
                let created = together(connection, || {
                    let expired = "tracking_id = ?1 AND expires_at <= ?2";
                    Ok(row.insert(connection)?
                        || (delete(connection, expired, params![row.tracking_id.as_bytes(), now])? == 1 && row.insert(connection)?))
                })?;
                if created {
                    return Ok(None);
                }
                connection
                    .prepare_cached("SELECT etag, record FROM orders WHERE tracking_id = ?1")?
                    .query_row([row.tracking_id.as_bytes()], |row| Ok(Some((row.get(0)?, text(row, 1)?))))
            })
            .await?;
        match found {
            None => Ok(Created::Created(None)),
            Some((etag, text)) => Ok(Created::Exists(versioned(etag, &text)?, None)),
        }
    }

    pub(super) async fn replace(&self, record: &Record, etag: &Etag) -> Result<Replaced, StoreError> {
        let row = Row::of(record)?;
        let new = Etag(row.etag.to_string());
        let Ok(old) = etag.0.parse::<i64>() else { return Ok(Replaced::Stale) };
        let now = now().as_milliseconds();
        let replaced = self
            .database
            .write(move |connection| {
                connection
                    .prepare_cached(
                        "UPDATE orders SET etag = ?2, due_at = ?3, expires_at = ?4, record = ?5
                         WHERE tracking_id = ?1 AND etag = ?6 AND (expires_at IS NULL OR expires_at > ?7)",
                    )?
                    .execute(params![row.tracking_id.as_bytes(), row.etag, row.due_at, row.expires_at, row.record, old, now])
            })
            .await?;
        Ok(if replaced == 1 { Replaced::Replaced(new) } else { Replaced::Stale })
    }
}

/// Deletes the `chosen` records and their rows in `owned`; returns how many. One row at a time: for several values of a three-column
/// key `SQLite` uses only the first column, the owner, and all orders may have one owner.
fn delete(connection: &Connection, chosen: &str, parameters: impl Params) -> rusqlite::Result<usize> {
    let rows = connection
        .prepare_cached(&format!("SELECT rowid, {} WHERE {chosen}", owned!()))?
        .query_map(parameters, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
        .collect::<rusqlite::Result<Vec<(i64, Option<String>, Option<i64>, [u8; 16])>>>()?;
    for (row, owner, submitted_at, tracking_id) in &rows {
        // Of a damaged record the row in `owned` is not known. It stays, and shows nothing without the record.
        connection.prepare_cached("DELETE FROM owned WHERE owner = ?1 AND submitted_at = ?2 AND tracking_id = ?3")?.execute(params![
            owner,
            submitted_at,
            tracking_id
        ])?;
        connection.prepare_cached("DELETE FROM orders WHERE rowid = ?1")?.execute([row])?;
    }
    Ok(rows.len())
}

struct Row {
    tracking_id: TrackingId,
    owner: String,
    submitted_at: i64,
    /// Random, so that a record that is created again after it expired never has the version of the old one.
    etag: i64,
    due_at: Option<i64>,
    expires_at: Option<i64>,
    record: String,
}

impl Row {
    fn of(record: &Record) -> Result<Self, StoreError> {
        let expires_at = record.ttl.map(|ttl| record.updated_at.as_milliseconds().saturating_add(i64::from(ttl) * 1000));
        Ok(Self {
            tracking_id: record.tracking_id,
            owner: record.owner.clone(),
            submitted_at: record.submitted_at.as_milliseconds(),
            etag: (Uuid::new_v4().as_u128() >> 65) as i64,
            due_at: record.due_at.map(Timestamp::as_milliseconds),
            expires_at,
            record: serde_json::to_string(record).map_err(|error| StoreError::Unreadable(error.to_string()))?,
        })
    }

    /// Inserts the row; `false` if a row with this id exists.
    fn insert(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let inserted = connection
            .prepare_cached(
                "INSERT INTO orders (tracking_id, etag, due_at, expires_at, record) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (tracking_id) DO NOTHING",
            )?
            .execute(params![self.tracking_id.as_bytes(), self.etag, self.due_at, self.expires_at, self.record])?;
        if inserted == 1 {
            connection
                .prepare_cached("INSERT OR IGNORE INTO owned (owner, submitted_at, tracking_id) VALUES (?1, ?2, ?3)")?
                .execute(params![self.owner, self.submitted_at, self.tracking_id.as_bytes()])?;
        }
        Ok(inserted == 1)
    }
}

/// The order at a place in `owned`, if it is in `status` and was not created again since that place was written.
fn wanted(etag: i64, text: &[u8], place: Place, status: Option<Status>) -> Option<Versioned> {
    // Skipped: it must not hide the owner's other orders.
    let found = versioned(etag, text)
        .inspect_err(|error| warn!(order.tracking_id = %place.tracking_id, %error, "an order is left out of its owner's list"))
        .ok()?;
    let is_wanted = found.record.submitted_at == place.submitted_at && status.is_none_or(|status| found.record.status == status);
    is_wanted.then_some(found)
}

/// The bytes of a text, which may be damaged.
fn text(row: &SqlRow<'_>, column: usize) -> rusqlite::Result<Vec<u8>> {
    Ok(row.get_ref(column)?.as_bytes().unwrap_or_default().to_vec())
}

fn versioned(etag: i64, text: &[u8]) -> Result<Versioned, StoreError> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        schema_version: u32,
    }
    // First the version: a newer record may have any form.
    if let Ok(Version { schema_version }) = serde_json::from_slice(text)
        && schema_version > SCHEMA_VERSION
    {
        return Err(StoreError::Newer(format!("its schema version {schema_version} is newer than {SCHEMA_VERSION}")));
    }
    let mut record: Record = serde_json::from_slice(text)?;
    // An older form is read as the current one, and written as the current one.
    record.schema_version = record.version();
    Ok(Versioned { record, etag: Etag(etag.to_string()) })
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match error {
            Error::Unknown => Self::Unknown,
            Error::NotApplied | Error::Open(..) | Error::LogLost(..) => Self::NotApplied,
        }
    }
}

/// The secret kept beside the records, which is `fresh` if there was none. Two handlers that start at the same time get the same secret.
fn kept_secret(connection: &Connection, fresh: [u8; 32]) -> rusqlite::Result<Vec<u8>> {
    connection.execute("INSERT OR IGNORE INTO secrets (name, value) VALUES ('tracking_id_key', ?1)", [fresh])?;
    connection.query_row("SELECT value FROM secrets WHERE name = 'tracking_id_key'", [], |row| row.get(0))
}
