//! Records in a container of Azure Cosmos DB: what instances that come and go share.
//!
//! One item an order; every write but the first is conditional on the `ETag` that was read. Nothing outside `store` knows that
//! this is Cosmos DB, and nothing but this directory knows its SDK.

mod account;
mod ask;
mod connect;
mod item;

use std::sync::Arc;
use std::time::{Duration, Instant};

use azure_data_cosmos::models::ItemResponse;
use azure_data_cosmos::options::{ItemReadOptions, ItemWriteOptions, Precondition, QueryOptions, ReadConsistencyStrategy, SessionToken};
use azure_data_cosmos::{ContainerClient, CosmosError, CosmosStatus, FeedScope, Query};
use futures_util::TryStreamExt;
use moka::future::Cache;
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::bookmark::Bookmark;
use crate::config::cosmos::Cosmos;
use crate::idempotency::{TrackingId, TrackingKey};
use crate::lifecycle::Record;
use crate::store::cosmos::account::{Account, Clock, Level};
use crate::store::cosmos::ask::{Answer, Charges, Failed, Operation};
use crate::store::cosmos::item::Item;
use crate::store::{Created, Etag, Replaced, StoreError, Versioned};
use crate::timestamp::Timestamp;

/// How old an answer may be that many share.
const RECENT: Duration = Duration::from_secs(1);
/// Bytes of orders and results kept for that.
const RECENT_BYTES: u64 = 32 * 1024 * 1024;
/// How long a record that does not show is looked for, where replicas may lag, before it counts as absent.
const VISIBILITY: Duration = Duration::from_secs(2);
/// First and longest pause between two looks.
const LOOK_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// The account's clock and the charges are looked at this often; the clock also shortly after the start, to know it better.
const KEEP: [Duration; 4] = [Duration::from_millis(370), Duration::from_millis(370), Duration::from_millis(370), Duration::from_mins(1)];
/// No record has this id: what is derived always has version 8.
const NOBODY: TrackingId = TrackingId::from_bytes([0; 16]);

/// Records in Cosmos DB.
#[derive(Clone)]
pub struct CosmosStore(Arc<Inner>);

struct Inner {
    container: ContainerClient,
    account: Account,
    clock: Clock,
    level: Level,
    tracking_key: TrackingKey,
    timeout: Duration,
    charges: Charges,
    recent: Cache<TrackingId, Arc<Versioned>>,
}

/// A record that stands, and where in history it was seen.
struct Seen {
    versioned: Versioned,
    bookmark: Option<Bookmark>,
}

/// How fresh a read must be.
#[derive(Clone)]
enum Freshness {
    /// As the account gives it.
    Usual,
    /// At least as new as this moment.
    Bookmarked(Bookmark),
    /// What most replicas of the region have.
    Latest,
}

impl CosmosStore {
    /// Connects, however long it takes; says in the log what it waits for.
    pub async fn connect(config: &Cosmos, tracking_key: &TrackingKey) -> Self {
        connect::connect(config, tracking_key).await
    }

    fn new(container: ContainerClient, account: Account, clock: Clock, level: Level, tracking_key: TrackingKey, timeout: Duration) -> Self {
        let recent =
            Cache::builder().time_to_live(RECENT).weigher(|_, found: &Arc<Versioned>| weight(found)).max_capacity(RECENT_BYTES).build();
        Self(Arc::new(Inner { container, account, clock, level, tracking_key, timeout, charges: Charges::default(), recent }))
    }

    /// Keeps the account's clock, and tells what was spent. Never returns.
    pub async fn keep(&self) -> ! {
        let [soon @ .., usual] = KEEP;
        let mut pauses = soon.into_iter();
        let mut told = 0;
        loop {
            tokio::time::sleep(pauses.next().unwrap_or(usual)).await;
            if let Err(silent) = self.0.account.look(&self.0.clock).await {
                warn!("the account does not tell the time ({silent}); going on by the monotonic clock");
            }
            let calls = self.0.charges.calls();
            if pauses.len() == 0 && calls > told {
                told = calls;
                info!(cosmos.charges = %self.0.charges.figures(), "what Cosmos DB was asked since the start");
            }
        }
    }

    pub(super) fn tracking_key(&self) -> &TrackingKey {
        &self.0.tracking_key
    }

    pub(super) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    pub(super) fn figures(&self) -> Value {
        json!({ "engine": "cosmos", "consistency": format!("{:?}", self.0.level), "operations": self.0.charges.figures() })
    }

    pub(super) async fn answers(&self) -> Result<(), StoreError> {
        self.point_read(NOBODY, &Freshness::Usual).await.map(drop)
    }

    pub(super) async fn read(&self, tracking_id: TrackingId) -> Result<Option<Versioned>, StoreError> {
        Ok(self.look_for(tracking_id, Freshness::Usual, None).await?.map(|seen| seen.versioned))
    }

    pub(super) async fn read_latest(&self, tracking_id: TrackingId) -> Result<Option<Versioned>, StoreError> {
        Ok(self.look_for(tracking_id, Freshness::Latest, None).await?.map(|seen| seen.versioned))
    }

    /// Many who ask at the same time, or within a second, share one read.
    pub(super) async fn read_recent(
        &self,
        tracking_id: TrackingId,
        bookmark: Option<Bookmark>,
    ) -> Result<Option<Arc<Versioned>>, StoreError> {
        enum Miss {
            Absent,
            Failed(StoreError),
        }
        let read = async {
            match self.point_read(tracking_id, &Freshness::Usual).await {
                Ok(Some(seen)) => Ok(Arc::new(seen.versioned)),
                Ok(None) => Err(Miss::Absent),
                Err(error) => Err(Miss::Failed(error)),
            }
        };
        match self.0.recent.try_get_with(tracking_id, Box::pin(read)).await {
            Ok(found) => Ok(Some(found)),
            Err(miss) => match &*miss {
                Miss::Failed(error) => Err(error.clone()),
                // The shared read may have begun before the record was there.
                Miss::Absent => {
                    let first = bookmark.clone().map_or(Freshness::Latest, Freshness::Bookmarked);
                    Ok(self.look_for(tracking_id, first, bookmark).await?.map(|seen| Arc::new(seen.versioned)))
                }
            },
        }
    }

    pub(super) async fn create(&self, record: &Record) -> Result<Created, StoreError> {
        let item = Item::of(record);
        let id = item.id.to_string();
        // A record that is in the way may expire while it is read.
        for _ in 0..2 {
            let create = self.ask(Operation::Create, |options| {
                let options = ItemWriteOptions::default().with_operation_options(options.build());
                answer(self.0.container.create_item(id.clone(), &id, &item, Some(options)))
            });
            match create.await {
                Ok(response) => return Ok(Created::Created(self.bookmark(&response))),
                Err(failed) if failed.status.is_conflict() => {}
                Err(failed) => return Err(unwritten(&failed)),
            }
            if let Some(seen) = self.look_for(record.tracking_id, Freshness::Usual, None).await? {
                // The life is random: this is our own write, whose answer was lost.
                let own = seen.versioned.record.life == record.life;
                return Ok(if own { Created::Created(seen.bookmark) } else { Created::Exists(seen.versioned, seen.bookmark) });
            }
        }
        Err(StoreError::NotApplied)
    }

    pub(super) async fn replace(&self, record: &Record, etag: &Etag) -> Result<Replaced, StoreError> {
        let item = Item::of(record);
        let id = item.id.to_string();
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
            // An earlier try of ours may be what changed it.
            Err(failed) if failed.status.is_precondition_failed() => match self.read_latest(record.tracking_id).await? {
                Some(found) if Item::of(&found.record) == item => Ok(Replaced::Replaced(found.etag)),
                _ => Ok(Replaced::Stale),
            },
            Err(failed) => Err(unwritten(&failed)),
        }
    }

    pub(super) async fn overdue(&self, limit: u32) -> Result<Vec<TrackingId>, StoreError> {
        let now = self.now().as_milliseconds();
        let query = Query::from("SELECT VALUE c.id FROM c WHERE c.dueAt <= @now ORDER BY c.dueAt OFFSET 0 LIMIT @limit")
            .with_parameter("@now", now)
            .and_then(|query| query.with_parameter("@limit", limit))
            .map_err(|error| StoreError::Unreadable(error.status().to_string()))?;
        let ids = self.ask(Operation::Query, |options| {
            let options = QueryOptions::default().with_operation_options(options.build());
            let pages = self.0.container.query_items::<TrackingId>(query.clone(), FeedScope::full_container(), Some(options));
            async {
                let mut pages = pages.await?.into_pages();
                let mut answer = Answer::of(Vec::new());
                while let Some(page) = pages.try_next().await? {
                    answer = answer.counting(&page.diagnostics());
                    answer.value.extend(page.into_items());
                }
                Ok(answer)
            }
        });
        ids.await.map_err(|failed| unread(failed.status))
    }

    /// The record, or the certainty that there is none: where replicas may lag, a miss is followed by better looks.
    async fn look_for(
        &self,
        tracking_id: TrackingId,
        mut freshness: Freshness,
        bookmark: Option<Bookmark>,
    ) -> Result<Option<Seen>, StoreError> {
        let end = Instant::now() + VISIBILITY;
        let mut pause = LOOK_PAUSE.0;
        loop {
            let found = self.point_read(tracking_id, &freshness).await?;
            if found.is_some() || !self.0.level.may_lag() {
                return Ok(found);
            }
            // The first better look needs no pause.
            if !matches!(freshness, Freshness::Usual) {
                if Instant::now() + pause > end {
                    return Ok(None);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LOOK_PAUSE.1);
            }
            // A bookmark that nobody reaches any more, after a failover, is no reason to look for it only.
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
            let options = match freshness {
                Freshness::Latest if self.0.level.may_lag() => {
                    options.with_read_consistency_strategy(ReadConsistencyStrategy::LatestCommitted)
                }
                Freshness::Usual | Freshness::Bookmarked(_) | Freshness::Latest => options,
            };
            let mut options = ItemReadOptions::default().with_operation_options(options.build());
            if let Freshness::Bookmarked(Bookmark(token)) = freshness {
                options = options.with_session_token(SessionToken::new(token.clone()));
            }
            answer(self.0.container.read_item(id.clone(), &id, Some(options)))
        });
        let response = match read.await {
            Ok(response) => response,
            // The second: no replica that was asked has come as far as the bookmark.
            Err(failed) if failed.status.is_not_found() || failed.status.is_read_session_not_available() => return Ok(None),
            Err(failed) => return Err(unread(failed.status)),
        };
        let (etag, bookmark) = (etag_of(&response), self.bookmark(&response));
        let etag = etag.ok_or_else(|| StoreError::Unreadable("it came without an ETag".into()))?;
        // Not the parser's own text, which may quote the order.
        let item: Item = response.into_model().map_err(|_| StoreError::Unreadable("it is no order that this program knows".into()))?;
        Ok(Some(Seen { versioned: Versioned { record: item.into_record()?, etag }, bookmark }))
    }

    async fn ask<T, F>(
        &self,
        operation: Operation,
        call: impl FnMut(azure_data_cosmos::options::OperationOptionsBuilder) -> F,
    ) -> Result<T, Failed>
    where
        F: Future<Output = Result<Answer<T>, CosmosError>>,
    {
        ask::ask(&self.0.charges, operation, self.0.timeout, call).await
    }

    /// Where a reader must be to see what this answer tells of; nothing where every reader is.
    fn bookmark(&self, response: &ItemResponse) -> Option<Bookmark> {
        let token = response.headers().session_token().filter(|_| self.0.level.may_lag())?;
        Some(Bookmark(token.as_str().to_owned()))
    }
}

async fn answer(response: impl Future<Output = Result<ItemResponse, CosmosError>>) -> Result<Answer<ItemResponse>, CosmosError> {
    response.await.map(Answer::from)
}

fn etag_of(response: &ItemResponse) -> Option<Etag> {
    response.headers().etag().map(|etag| Etag(etag.to_string()))
}

fn unwritten(failed: &Failed) -> StoreError {
    warn!(cosmos.status = %failed.status, applied = if failed.may_be_applied { "perhaps" } else { "no" }, "Cosmos DB did not confirm a write");
    if failed.may_be_applied { StoreError::Unknown } else { StoreError::NotApplied }
}

fn unread(status: CosmosStatus) -> StoreError {
    warn!(cosmos.status = %status, "Cosmos DB did not answer a read");
    StoreError::NotApplied
}

fn weight(found: &Versioned) -> u32 {
    let result = found.record.result.as_ref().map_or(0, |result| result.get().len());
    u32::try_from(2048 + found.record.order.get().len() + result).unwrap_or(u32::MAX)
}
