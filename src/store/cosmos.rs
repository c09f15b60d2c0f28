//! Records in a container of Azure Cosmos DB, shared by all instances.
//!
//! One item per order; every write after the first is conditional on the `ETag` that was read. Only `store` knows that this is
//! Cosmos DB, and only this module and its submodules use the SDK.

mod account;
mod ask;
mod connect;
mod item;

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use azure_data_cosmos::models::ItemResponse;
use azure_data_cosmos::options::{
    ItemReadOptions, ItemWriteOptions, OperationOptionsBuilder, Precondition, QueryOptions, ReadConsistencyStrategy, SessionToken,
};
use azure_data_cosmos::{ContainerClient, CosmosError, CosmosStatus, FeedScope, Query};
use futures_util::TryStreamExt;
use moka::future::Cache;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tracing::{error, info, warn};

use crate::config::cosmos::Cosmos;
use crate::domain::bookmark::Bookmark;
use crate::domain::quarantine::Quarantined;
use crate::domain::record::{Record, Status};
use crate::domain::timestamp::Timestamp;
use crate::domain::tracking::{TrackingId, TrackingKey};
use crate::metrics::Operation;
use crate::outbound::backoff::Backoff;
use crate::store::cosmos::account::{Account, Clock, Properties};
use crate::store::cosmos::ask::{Answer, Charges, Failed};
use crate::store::cosmos::item::{Found, Item, weight};
use crate::store::{
    Created, Difference, Due, Etag, Filter, Kept, Listed, PAGE_BYTES, Page, Place, Replaced, Selection, StoreError, Unreadable, Versioned,
    Waiting,
};

/// Longest age of a record that requests share.
const RECENT: Duration = Duration::from_secs(1);
/// Bytes of records kept to be shared.
const RECENT_BYTES: u64 = 32 * 1024 * 1024;
/// How long a missing record is read again where replicas may lag, before it counts as absent.
const VISIBILITY: Duration = Duration::from_secs(2);
/// Pauses between two reads of a missing record.
const LOOK_PAUSE: Backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_millis(500) };
/// Records that are read at once for an operator.
const LIST_CHUNK: usize = 100;
/// The beginning of the ids of messages in quarantine.
const QUARANTINE: &str = "quarantine-";
/// Pauses between two reads of the account, the last one repeated. The first ones are short: each answer narrows the clock's error.
/// Charges are logged once the short pauses are over.
const KEEP_PAUSES: [Duration; 4] =
    [Duration::from_millis(370), Duration::from_millis(370), Duration::from_millis(370), Duration::from_mins(1)];
/// An id that no record has: a tracking id is a UUID of version 8.
const NO_ORDER: TrackingId = TrackingId::from_bytes([0; 16]);

/// Records in Cosmos DB.
#[derive(Clone)]
pub struct CosmosStore(Arc<Inner>);

struct Inner {
    container: ContainerClient,
    account: Account,
    clock: Clock,
    /// The account's properties at the start.
    properties: Properties,
    /// Whether the account's properties have changed since the start.
    account_changed: AtomicBool,
    tracking_key: TrackingKey,
    timeout: Duration,
    config: Cosmos,
    charges: Charges,
    recent: Cache<TrackingId, Recent>,
}

/// A shared record, and when its read began.
#[derive(Clone)]
struct Recent {
    begun: Instant,
    found: Arc<Versioned>,
}

impl Recent {
    fn weight(&self) -> u32 {
        let record = &self.found.record;
        u32::try_from(weight(&record.order, record.result.as_deref())).unwrap_or(u32::MAX)
    }
}

/// A record that was read, and the store's position in its history at that moment.
struct Seen {
    versioned: Versioned,
    bookmark: Option<Bookmark>,
    /// Id of the write that made this version.
    write_id: i64,
}

/// A quarantined message as an item: it has no `dueAt`.
#[derive(Serialize, Deserialize)]
struct QuarantineItem {
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl: Option<u32>,
    quarantined: Quarantined,
}

impl QuarantineItem {
    /// An item that is written now. Cosmos DB counts `ttl` from the last write of an item, so a message that is written again gets what
    /// is left of its time.
    fn of(quarantined: &Quarantined, now: Timestamp) -> Self {
        let age = u32::try_from(quarantined.kept_at.until(now).as_secs()).unwrap_or(u32::MAX);
        let ttl = quarantined.ttl.map(|ttl| ttl.saturating_sub(age).max(1));
        Self { id: quarantine_id(quarantined), ttl, quarantined: quarantined.clone() }
    }
}

fn quarantine_id(quarantined: &Quarantined) -> String {
    format!("{QUARANTINE}{}", quarantined.id)
}

/// How recent a version a read must return.
#[derive(Clone)]
enum Freshness {
    /// What the account's consistency level gives.
    Usual,
    /// At least as recent as this bookmark.
    Bookmarked(Bookmark),
    /// The latest version that a majority of the region's replicas has.
    Latest,
}

impl CosmosStore {
    /// Connects, and tries again until it succeeds; each failure is logged, and `failed` is told its reason.
    pub async fn connect(config: &Cosmos, tracking_key: &TrackingKey, failed: impl Fn(String)) -> Self {
        connect::connect(config, tracking_key, failed).await
    }

    fn new(
        container: ContainerClient,
        account: Account,
        clock: Clock,
        properties: Properties,
        tracking_key: TrackingKey,
        config: Cosmos,
    ) -> Self {
        let recent = Cache::builder().time_to_live(RECENT).weigher(|_, recent: &Recent| recent.weight()).max_capacity(RECENT_BYTES).build();
        let timeout = config.timeout;
        let (account_changed, charges) = (AtomicBool::new(false), Charges::default());
        Self(Arc::new(Inner { container, account, clock, properties, account_changed, tracking_key, timeout, config, charges, recent }))
    }

    /// Reads the account's clock and properties at intervals, and logs the charges. Never returns.
    pub async fn keep(&self) -> ! {
        let [soon @ .., usual] = KEEP_PAUSES;
        let mut pauses = soon.into_iter();
        let mut logged_calls = 0;
        loop {
            tokio::time::sleep(pauses.next().unwrap_or(usual)).await;
            match self.0.account.look(&self.0.clock).await {
                Ok(properties) => self.compare(&properties),
                Err(error) => connect::log_account_error(&self.0.config, &error),
            }
            let calls = self.0.charges.calls();
            if pauses.len() == 0 && calls > logged_calls {
                logged_calls = calls;
                info!(cosmos.charges = %self.0.charges.figures(), "calls to Cosmos DB and their charges since the start");
            }
        }
    }

    /// Notes a change of the account's properties since the start. From then on reads count as lagging.
    fn compare(&self, properties: &Properties) {
        if *properties != self.0.properties && !self.0.account_changed.swap(true, Ordering::Relaxed) {
            let (before, now) = (&self.0.properties, properties);
            error!(
                "the Cosmos DB account has changed from {before:?} to {now:?} since this app started: restart the app, which checks the \
                 account at the start"
            );
        }
    }

    pub(super) fn tracking_key(&self) -> &TrackingKey {
        &self.0.tracking_key
    }

    pub(super) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    pub(super) fn figures(&self) -> Value {
        json!({ "engine": "cosmos", "consistency": format!("{:?}", self.0.properties.level()), "operations": self.0.charges.figures() })
    }

    pub(super) async fn answers(&self) -> Result<(), StoreError> {
        self.point_read(NO_ORDER, &Freshness::Usual).await.map(drop)
    }

    pub(super) async fn differences(&self) -> Result<Vec<Difference>, String> {
        connect::differences(&self.0.config, &self.0.container).await
    }

    /// Deletes a record that does not exist: Cosmos DB checks the right to write before it looks for the record.
    pub(super) async fn may_write(&self) -> Result<(), String> {
        let id = NO_ORDER.to_string();
        let delete = self.ask(Operation::Delete, |options| {
            let options = ItemWriteOptions::default().with_operation_options(options.build());
            answer(self.0.container.delete_item(id.clone(), &id, Some(options)))
        });
        match delete.await {
            Ok(_) => Ok(()),
            Err(failed) if failed.status.is_not_found() => Ok(()),
            Err(failed) => Err(failed.status.to_string()),
        }
    }

    pub(super) async fn read(&self, tracking_id: TrackingId) -> Result<Option<Versioned>, StoreError> {
        Ok(self.look_for(tracking_id, Freshness::Usual, None).await?.map(|seen| seen.versioned))
    }

    pub(super) fn may_lag(&self) -> bool {
        self.0.properties.level().may_lag() || self.0.account_changed.load(Ordering::Relaxed)
    }

    pub(super) async fn read_latest(&self, tracking_id: TrackingId) -> Result<Option<Versioned>, StoreError> {
        let Some(seen) = self.look_for(tracking_id, Freshness::Latest, None).await? else { return Ok(None) };
        self.share(&seen.versioned).await;
        Ok(Some(seen.versioned))
    }

    /// Shares a version that a client may learn of: no later answer may hold an older one.
    async fn share(&self, versioned: &Versioned) {
        let recent = Recent { begun: Instant::now(), found: Arc::new(versioned.clone()) };
        self.0.recent.insert(versioned.record.tracking_id, recent).await;
    }

    pub(super) async fn read_latest_once(&self, tracking_id: TrackingId) -> Result<Option<(Versioned, Option<Bookmark>)>, StoreError> {
        let Some(seen) = self.point_read(tracking_id, &Freshness::Latest).await? else { return Ok(None) };
        self.share(&seen.versioned).await;
        Ok(Some((seen.versioned, seen.bookmark)))
    }

    /// Requests for one order within [`RECENT`] share one read.
    pub(super) async fn read_recent(&self, tracking_id: TrackingId) -> Result<Option<Arc<Versioned>>, StoreError> {
        enum Miss {
            Absent(Instant),
            Failed(StoreError),
        }
        let asked = Instant::now();
        loop {
            let look = async {
                let begun = Instant::now();
                match self.point_read(tracking_id, &Freshness::Usual).await {
                    Ok(Some(seen)) => Ok(Recent { begun, found: Arc::new(seen.versioned) }),
                    Ok(None) => Err(Miss::Absent(begun)),
                    Err(error) => Err(Miss::Failed(error)),
                }
            };
            match self.0.recent.try_get_with(tracking_id, Box::pin(look)).await {
                // A read that took long returns an old version.
                Ok(recent) if recent.begun + RECENT < asked => self.0.recent.invalidate(&tracking_id).await,
                Ok(recent) => return Ok(Some(recent.found)),
                Err(miss) => match &*miss {
                    Miss::Failed(error) => return Err(error.clone()),
                    // The shared read began before this request: the record may have been written since.
                    Miss::Absent(begun) if *begun < asked => {}
                    Miss::Absent(_) => return Ok(None),
                },
            }
        }
    }

    pub(super) async fn read_until_visible(
        &self,
        tracking_id: TrackingId,
        bookmark: Option<Bookmark>,
    ) -> Result<Option<Arc<Versioned>>, StoreError> {
        let first = bookmark.clone().map_or(Freshness::Latest, Freshness::Bookmarked);
        let seen = self.look_for(tracking_id, first, bookmark).await?;
        Ok(seen.map(|seen| Arc::new(seen.versioned)))
    }

    pub(super) async fn create(&self, record: &Record) -> Result<Created, StoreError> {
        let item = Item::of(record);
        let id = item.id.to_string();
        // Twice: the record that holds the id may expire before it is read.
        for _ in 0..2 {
            let create = self.ask(Operation::Create, |options| {
                let options = ItemWriteOptions::default().with_operation_options(options.build());
                answer(self.0.container.create_item(id.clone(), &id, &item, Some(options)))
            });
            match create.await {
                Ok(response) => return Ok(Created::Created(self.bookmark(&response))),
                Err(failed) if failed.status.is_conflict() => {}
                Err(failed) => return Err(write_error(&failed)),
            }
            // A record with this id exists. When it cannot be read now, the outcome is unknown rather than "not applied".
            let look = tokio::time::timeout(self.0.timeout, self.look_for(record.tracking_id, Freshness::Usual, None));
            let seen = look.await.map_err(|_| StoreError::Unknown)?.map_err(|error| match error {
                StoreError::NotApplied => StoreError::Unknown,
                error => error,
            })?;
            if let Some(seen) = seen {
                // A random life that is the same means that an earlier request of this create wrote the record. The life of an adopted
                // order is its id: there only the same write tells.
                let is_adopted = record.life.as_bytes() == record.tracking_id.as_bytes();
                let own = if is_adopted { seen.write_id == item.write_id } else { seen.versioned.record.life == record.life };
                self.share(&seen.versioned).await;
                return Ok(if own { Created::Created(seen.bookmark) } else { Created::Exists(seen.versioned, seen.bookmark) });
            }
        }
        Err(StoreError::Unknown)
    }

    pub(super) async fn replace(&self, record: &Record, etag: &Etag) -> Result<Replaced, StoreError> {
        let item = Item::of(record);
        let (id, write_id) = (item.id.to_string(), item.write_id);
        let replace = self.ask(Operation::Replace, |options| {
            let options = ItemWriteOptions::default()
                .with_operation_options(options.build())
                .with_precondition(Precondition::if_match(etag.0.clone()));
            answer(self.0.container.replace_item(id.clone(), &id, &item, Some(options)))
        });
        let replaced = replace.await;
        self.0.recent.invalidate(&record.tracking_id).await;
        match replaced {
            Ok(response) => match etag_of(&response) {
                Some(etag) => Ok(Replaced::Replaced(etag)),
                None => Err(StoreError::Unknown),
            },
            Err(failed) if failed.status.is_not_found() => Ok(Replaced::Stale),
            Err(failed) if failed.status.is_precondition_failed() && !failed.may_be_applied => Ok(Replaced::Stale),
            // An earlier request of this replace may have changed the record.
            Err(failed) if failed.status.is_precondition_failed() => {
                match self.look_for(record.tracking_id, Freshness::Latest, None).await.map_err(|_| StoreError::Unknown)? {
                    Some(seen) if seen.write_id == write_id => Ok(Replaced::Replaced(seen.versioned.etag)),
                    _ => Ok(Replaced::Stale),
                }
            }
            Err(failed) => Err(write_error(&failed)),
        }
    }

    pub(super) async fn quarantine(&self, quarantined: &Quarantined) -> Result<(), StoreError> {
        let item = QuarantineItem::of(quarantined, self.now());
        let keep = self.ask(Operation::Create, |options| {
            let options = ItemWriteOptions::default().with_operation_options(options.build());
            answer(self.0.container.upsert_item(item.id.clone(), &item.id, &item, Some(options)))
        });
        keep.await.map(drop).map_err(|failed| write_error(&failed))
    }

    pub(super) async fn overdue(&self, limit: u32, skip: u32, which: Due) -> Result<Vec<TrackingId>, StoreError> {
        let now = self.now().as_milliseconds();
        // An item has a ttl exactly when its order has ended.
        let also = match which {
            Due::Open => "AND NOT IS_DEFINED(c.ttl)",
            Due::Processing => "AND c.record.status = @status",
            Due::Callback => "AND IS_DEFINED(c.ttl)",
        };
        let query = Query::from(format!(
            "SELECT VALUE c.id FROM c WHERE c.dueAt <= @now {also} AND c.record.version <= @version ORDER BY c.dueAt OFFSET @skip LIMIT @limit"
        ))
        .with_parameter("@now", now)
        .and_then(|query| query.with_parameter("@skip", skip))
        .and_then(|query| query.with_parameter("@version", item::VERSION))
        .and_then(|query| query.with_parameter("@limit", limit))
        .and_then(|query| query.with_parameter("@status", Status::Processing.as_str()))
        .map_err(|error| StoreError::Unreadable(error.status().to_string()))?;
        self.query(query).await
    }

    pub(super) async fn waiting(&self, limit: u32) -> Result<Vec<Waiting>, StoreError> {
        #[derive(Deserialize)]
        struct Moments {
            #[serde(rename = "submittedAt")]
            submitted: i64,
            #[serde(rename = "sentAgainAt")]
            sent_again: Option<i64>,
            #[serde(rename = "wakeAt")]
            wake: Option<i64>,
        }
        let text = "SELECT c.record.submittedAt, c.record.sentAgainAt, c.record.wakeAt FROM c \
                    WHERE c.dueAt > @now AND c.record.status = @status AND c.record.fence = 0 \
                    AND c.record.version <= @version ORDER BY c.dueAt OFFSET 0 LIMIT @limit";
        let query = Query::from(text)
            .with_parameter("@now", self.now().as_milliseconds())
            .and_then(|query| query.with_parameter("@status", Status::Accepted.as_str()))
            .and_then(|query| query.with_parameter("@version", item::VERSION))
            .and_then(|query| query.with_parameter("@limit", limit))
            .map_err(|error| StoreError::Unreadable(error.status().to_string()))?;
        let waiting = |moments: Moments| Waiting {
            since: Timestamp::from_milliseconds(moments.sent_again.unwrap_or(moments.submitted)),
            is_put_off: moments.wake.is_some(),
        };
        Ok(self.query(query).await?.into_iter().map(waiting).collect())
    }

    pub(super) async fn each(&self, filter: &Filter, limit: u32, mut take: impl FnMut(Listed)) -> Result<(), StoreError> {
        let (mut left, mut behind) = (limit, None);
        while left > 0 {
            let (found, next) = self.found_behind(filter, behind, LIST_CHUNK).await?;
            for found in found {
                match found.record {
                    Ok(record) if left > 0 && filter.matches(&record) => {
                        left -= 1;
                        take(Listed::Record(Box::new(record)));
                    }
                    // Names are in the text of the order, which Cosmos DB does not search.
                    Ok(_) => {}
                    Err(reason) => take(Listed::Unreadable(Unreadable { id: found.id, reason })),
                }
            }
            behind = next;
            if behind.is_none() {
                break;
            }
        }
        Ok(())
    }

    pub(super) async fn between(&self, first: TrackingId, last: TrackingId, limit: u32) -> Result<Vec<TrackingId>, StoreError> {
        let text = "SELECT VALUE c.id FROM c WHERE IS_DEFINED(c.record) AND c.id >= @first AND c.id <= @last ORDER BY c.id \
                    OFFSET 0 LIMIT @limit";
        let query = Query::from(text)
            .with_parameter("@first", first.to_string())
            .and_then(|query| query.with_parameter("@last", last.to_string()))
            .and_then(|query| query.with_parameter("@limit", limit))
            .map_err(|error| StoreError::Unreadable(error.status().to_string()))?;
        self.query(query).await
    }

    /// At most `limit` records, newest first. Ends early, with `true`, once the records have more than [`PAGE_BYTES`] bytes.
    async fn listed(&self, filter: &Filter, limit: u32) -> Result<(Vec<Found>, bool), StoreError> {
        let mut conditions = vec!["IS_DEFINED(c.record)".to_owned()];
        let mut query = Query::from("").with_parameter("@limit", limit);
        for (name, comparison, parameter, value) in wanted(filter) {
            conditions.push(format!("c.record.{name} {comparison} @{parameter}"));
            query = query.and_then(|query| query.with_parameter(format!("@{parameter}"), value));
        }
        let text = format!("SELECT * FROM c WHERE {} ORDER BY c.record.submittedAt DESC OFFSET 0 LIMIT @limit", conditions.join(" AND "));
        let query = query.map_err(|error| StoreError::Unreadable(error.status().to_string()))?.with_text(text);
        // As text: one item that cannot be read would hide the others of its page.
        let bytes = |items: &[Box<RawValue>]| items.iter().map(|item| item.get().len()).sum::<usize>();
        let (items, cut) = self.query_until(query, |items| bytes(items) > PAGE_BYTES).await?;
        Ok((items.iter().map(|item| Found::of(item)).collect(), cut))
    }

    pub(super) async fn page(&self, owner: &str, status: Option<Status>, behind: Option<Place>, limit: usize) -> Result<Page, StoreError> {
        let filter = Filter { owner: Some(owner.to_owned()), status, ..Filter::default() };
        let (found, next) = self.found_behind(&filter, behind, limit).await?;
        let readable = |found: Found| {
            // Skipped: it must not hide the owner's other orders.
            let left_out = |reason: &String| warn!(order.tracking_id = found.id, reason, "an order is left out of its owner's list");
            found.record.inspect_err(left_out).ok()
        };
        Ok(Page { records: found.into_iter().filter_map(readable).collect(), next })
    }

    /// At most `limit` orders after the place `behind`, newest first, and where the next ones begin.
    async fn found_behind(&self, filter: &Filter, behind: Option<Place>, limit: usize) -> Result<(Vec<Found>, Option<Place>), StoreError> {
        let mut all = match behind {
            Some(place) => {
                let mut ties = self.submitted_at(filter, place.submitted_at).await?;
                ties.retain(|found| found.place.is_some_and(|other| other.tracking_id < place.tracking_id));
                ties
            }
            None => Vec::new(),
        };
        let mut cut = false;
        // One order more than `limit` shows whether there is a next page.
        if let Some(left) = (limit + 1).checked_sub(all.len()).filter(|left| *left > 0) {
            let before = behind.map(|place| place.submitted_at).into_iter().chain(filter.submitted_before).min();
            let mut older;
            let filter = Filter { submitted_before: before, ..filter.clone() };
            (older, cut) = self.listed(&filter, u32::try_from(left).unwrap_or(u32::MAX)).await?;
            // The query sorts by moment only, so it may omit any of the orders submitted at the last moment: read them all.
            let last = older.iter().rev().find_map(|found| found.place).filter(|_| cut || older.len() == left);
            if let Some(last) = last.map(|place| place.submitted_at) {
                older.retain(|found| found.place.is_none_or(|place| place.submitted_at > last));
                older.extend(self.submitted_at(&filter, last).await?);
            }
            all.extend(older);
        }
        all.sort_by_key(|found| std::cmp::Reverse(found.place.map(|place| (place.submitted_at, place.tracking_id))));
        let more = cut || all.len() > limit;
        all.truncate(limit);
        let last = all.iter().rev().find_map(|found| found.place);
        Ok((all, last.filter(|_| more)))
    }

    /// The orders that match and were submitted at one moment.
    async fn submitted_at(&self, filter: &Filter, moment: Timestamp) -> Result<Vec<Found>, StoreError> {
        let filter = Filter { submitted_before: None, submitted_since: None, ..filter.clone() };
        let mut text = "SELECT * FROM c WHERE c.record.submittedAt = @moment".to_owned();
        let mut query = Query::from("").with_parameter("@moment", moment.as_milliseconds());
        for (name, comparison, parameter, value) in wanted(&filter) {
            // Writing to a string cannot fail.
            let _ = write!(text, " AND c.record.{name} {comparison} @{parameter}");
            query = query.and_then(|query| query.with_parameter(format!("@{parameter}"), value));
        }
        let query = query.map_err(|error| StoreError::Unreadable(error.status().to_string()))?.with_text(text);
        Ok(self.query::<Box<RawValue>>(query).await?.iter().map(|item| Found::of(item)).collect())
    }

    pub(super) async fn quarantined(&self, selection: Selection, limit: u32, mut take: impl FnMut(Kept)) -> Result<(), StoreError> {
        let also = match selection {
            Selection::Kept => "AND NOT IS_DEFINED(c.quarantined.discarded)",
            Selection::All => "",
        };
        let (mut left, mut behind) = (limit as usize, QUARANTINE.to_owned());
        while left > 0 {
            let portion = left.min(LIST_CHUNK);
            let text = format!(
                "SELECT * FROM c WHERE STARTSWITH(c.id, '{QUARANTINE}') AND c.id > @behind {also} ORDER BY c.id OFFSET 0 LIMIT @limit"
            );
            let query = Query::from(text)
                .with_parameter("@behind", behind)
                .and_then(|query| query.with_parameter("@limit", portion))
                .map_err(|error| StoreError::Unreadable(error.status().to_string()))?;
            let items = self.query::<Box<RawValue>>(query).await?;
            let Some(last) = items.last() else { break };
            behind = item::id_of(last);
            left = if items.len() < portion { 0 } else { left - portion };
            for item in items {
                let read = serde_json::from_str::<QuarantineItem>(item.get());
                let unreadable = |error| Unreadable { id: item::id_of(&item), reason: StoreError::from(error).reason() };
                take(read.map(|item| item.quarantined).map_err(unreadable));
            }
        }
        Ok(())
    }

    /// The version of this message in quarantine, if it is still the one that was read.
    async fn kept_version(&self, quarantined: &Quarantined) -> Result<Option<Etag>, StoreError> {
        let id = quarantine_id(quarantined);
        let read = self.ask(Operation::Read, |options| {
            let options = self.as_fresh_as(&Freshness::Latest, options);
            answer(self.0.container.read_item(id.clone(), &id, Some(options)))
        });
        let response = match read.await {
            Ok(response) => response,
            Err(failed) if failed.status.is_not_found() => return Ok(None),
            Err(failed) => return Err(read_error(failed.status)),
        };
        let etag = etag_of(&response).ok_or_else(|| StoreError::Unreadable("the answer has no ETag".into()))?;
        let item: QuarantineItem = response.into_model().map_err(|_| StoreError::Unreadable("a quarantined message".into()))?;
        Ok(Some(etag).filter(|_| item.quarantined == *quarantined))
    }

    pub(super) async fn discard(&self, quarantined: &Quarantined, discarded: &Quarantined) -> Result<bool, StoreError> {
        let Some(etag) = self.kept_version(quarantined).await? else { return Ok(false) };
        let item = QuarantineItem::of(discarded, self.now());
        let replace = self.ask(Operation::Replace, |options| {
            let options = ItemWriteOptions::default()
                .with_operation_options(options.build())
                .with_precondition(Precondition::if_match(etag.0.clone()));
            answer(self.0.container.replace_item(item.id.clone(), &item.id, &item, Some(options)))
        });
        match replace.await {
            Ok(_) => Ok(true),
            // Replaced by an earlier request of this call, or changed by another operator.
            Err(failed) if failed.status.is_precondition_failed() => Ok(self.kept_version(discarded).await?.is_some()),
            Err(failed) if failed.status.is_not_found() => Ok(false),
            Err(failed) => Err(write_error(&failed)),
        }
    }

    pub(super) async fn release(&self, quarantined: &Quarantined) -> Result<bool, StoreError> {
        let id = quarantine_id(quarantined);
        let Some(etag) = self.kept_version(quarantined).await? else { return Ok(false) };
        let release = self.ask(Operation::Delete, |options| {
            let options = ItemWriteOptions::default()
                .with_operation_options(options.build())
                .with_precondition(Precondition::if_match(etag.0.clone()));
            answer(self.0.container.delete_item(id.clone(), &id, Some(options)))
        });
        match release.await {
            Ok(_) => Ok(true),
            // Deleted by an earlier request of this call, or by another operator.
            Err(failed) if failed.status.is_not_found() => Ok(true),
            Err(failed) if failed.status.is_precondition_failed() => Ok(false),
            Err(failed) => Err(write_error(&failed)),
        }
    }

    async fn query<T: DeserializeOwned + Send + 'static>(&self, query: Query) -> Result<Vec<T>, StoreError> {
        Ok(self.query_until(query, |_| false).await?.0)
    }

    /// Reads pages of a query until the rows are `enough`, or to the end. `true`: stopped because they were enough.
    async fn query_until<T: DeserializeOwned + Send + 'static>(
        &self,
        query: Query,
        enough: impl Fn(&[T]) -> bool,
    ) -> Result<(Vec<T>, bool), StoreError> {
        let enough = &enough;
        let rows = self.ask(Operation::Query, |options| {
            let options = QueryOptions::default().with_operation_options(options.build());
            let pages = self.0.container.query_items::<T>(query.clone(), FeedScope::full_container(), Some(options));
            async {
                let mut pages = pages.await?.into_pages();
                let mut answer = Answer::of((Vec::new(), false));
                while let Some(page) = pages.try_next().await? {
                    answer = answer.counting(&page.diagnostics());
                    answer.value.0.extend(page.into_items());
                    if enough(&answer.value.0) {
                        answer.value.1 = true;
                        break;
                    }
                }
                Ok(answer)
            }
        });
        rows.await.map_err(|failed| read_error(failed.status))
    }

    /// The record, or `None` if there certainly is none. Where replicas may lag, a miss is followed by stronger reads for
    /// [`VISIBILITY`].
    async fn look_for(
        &self,
        tracking_id: TrackingId,
        mut freshness: Freshness,
        bookmark: Option<Bookmark>,
    ) -> Result<Option<Seen>, StoreError> {
        let end = Instant::now() + VISIBILITY;
        let mut stronger_reads = 0;
        loop {
            let found = self.point_read(tracking_id, &freshness).await?;
            if found.is_some() || !self.may_lag() {
                return Ok(found);
            }
            // No pause before the first stronger read.
            if !matches!(freshness, Freshness::Usual) {
                let pause = LOOK_PAUSE.pause(stronger_reads);
                if Instant::now() + pause > end {
                    return Ok(None);
                }
                tokio::time::sleep(pause).await;
                stronger_reads += 1;
            }
            // After a failover no replica may ever reach the bookmark, so every second read goes without it.
            let was_bookmarked = matches!(freshness, Freshness::Bookmarked(_));
            freshness = match &bookmark {
                Some(bookmark) if !was_bookmarked => Freshness::Bookmarked(bookmark.clone()),
                _ => Freshness::Latest,
            };
        }
    }

    async fn point_read(&self, tracking_id: TrackingId, freshness: &Freshness) -> Result<Option<Seen>, StoreError> {
        let id = tracking_id.to_string();
        let read = self.ask(Operation::Read, |options| {
            let options = self.as_fresh_as(freshness, options);
            answer(self.0.container.read_item(id.clone(), &id, Some(options)))
        });
        let response = match read.await {
            Ok(response) => response,
            // "Read session not available": no replica that was asked has reached the bookmark.
            Err(failed) if failed.status.is_not_found() || failed.status.is_read_session_not_available() => return Ok(None),
            Err(failed) => return Err(read_error(failed.status)),
        };
        let (etag, bookmark) = (etag_of(&response), self.bookmark(&response));
        let etag = etag.ok_or_else(|| StoreError::Unreadable("the answer has no ETag".into()))?;
        // The body is shared, not copied.
        let body = response.into_body();
        let item: Item = body.clone().into_single().map_err(|_| item::unreadable(body.into_single().ok()))?;
        let write_id = item.write_id;
        Ok(Some(Seen { versioned: Versioned { record: item.into_record()?, etag }, bookmark, write_id }))
    }

    fn as_fresh_as(&self, freshness: &Freshness, options: OperationOptionsBuilder) -> ItemReadOptions {
        let options = match freshness {
            Freshness::Latest if self.may_lag() => options.with_read_consistency_strategy(ReadConsistencyStrategy::LatestCommitted),
            Freshness::Usual | Freshness::Bookmarked(_) | Freshness::Latest => options,
        };
        let options = ItemReadOptions::default().with_operation_options(options.build());
        match freshness {
            Freshness::Bookmarked(Bookmark(token)) => options.with_session_token(SessionToken::new(token.clone())),
            Freshness::Usual | Freshness::Latest => options,
        }
    }

    async fn ask<T, F>(&self, operation: Operation, call: impl FnMut(OperationOptionsBuilder) -> F) -> Result<T, Failed>
    where
        F: Future<Output = Result<Answer<T>, CosmosError>>,
    {
        let answer = ask::ask(&self.0.charges, operation, self.0.timeout, call).await;
        if answer.as_ref().is_err_and(|failed| failed.status.is_unauthorized()) {
            self.0.account.forget_token();
        }
        answer
    }

    /// The bookmark with which another instance sees what this answer shows; `None` where every instance sees it anyway.
    fn bookmark(&self, response: &ItemResponse) -> Option<Bookmark> {
        let token = response.headers().session_token().filter(|_| self.may_lag())?;
        Some(Bookmark(token.as_str().to_owned()))
    }
}

/// The conditions of a filter that Cosmos DB checks: member of the record, comparison, parameter, value.
fn wanted(filter: &Filter) -> impl Iterator<Item = (&'static str, &'static str, &'static str, Value)> {
    let moment = |moment: Option<Timestamp>| moment.map(|moment| json!(moment.as_milliseconds()));
    let wanted = [
        ("status", "=", "status", filter.status.map(|status| json!(status.as_str()))),
        ("owner", "=", "owner", filter.owner.as_ref().map(|owner| json!(owner))),
        ("error.code", "=", "error", filter.error.as_ref().map(|code| json!(code))),
        ("submittedAt", "<", "before", moment(filter.submitted_before)),
        ("submittedAt", ">=", "since", moment(filter.submitted_since)),
    ];
    wanted.into_iter().filter_map(|(name, comparison, parameter, value)| Some((name, comparison, parameter, value?)))
}

async fn answer(response: impl Future<Output = Result<ItemResponse, CosmosError>>) -> Result<Answer<ItemResponse>, CosmosError> {
    response.await.map(Answer::from)
}

fn etag_of(response: &ItemResponse) -> Option<Etag> {
    response.headers().etag().map(|etag| Etag(etag.to_string()))
}

fn write_error(failed: &Failed) -> StoreError {
    warn!(cosmos.status = %failed.status, applied = if failed.may_be_applied { "perhaps" } else { "no" }, "Cosmos DB did not confirm a write");
    if failed.may_be_applied { StoreError::Unknown } else { StoreError::NotApplied }
}

fn read_error(status: CosmosStatus) -> StoreError {
    warn!(cosmos.status = %status, "Cosmos DB did not answer a read");
    StoreError::NotApplied
}
