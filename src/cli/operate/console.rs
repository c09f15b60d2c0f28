//! The orders' half of the console of `waybill local`: what `waybill orders` and `waybill quarantine` show and do, as JSON.
//!
//! Every rule is that of the commands. The store is opened beside the handler, as the commands open it, when a page first asks.

mod kept;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use functions_host::console::panel::{self, Answer, Panel, Query, Refused as Problem};
use functions_host::service_bus::broker::Broker;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::cli::app_files::{INGRESS, ORDER, has_own_orders, own_sample};
use crate::cli::operate::console::kept::Kept;
use crate::cli::operate::id_prefix::IdPrefix;
use crate::cli::operate::local_queue::LocalQueue;
use crate::cli::operate::outcome::{Refused, describe};
use crate::cli::operate::quarantine::CAME_BACK;
use crate::cli::operate::{self, NAMED, Operator, card};
use crate::config::{Records, Storage};
use crate::domain::lifecycle::{self, Cancel};
use crate::domain::quarantine::Quarantined;
use crate::domain::record::{Record, Status};
use crate::domain::timestamp::Timestamp;
use crate::store::{Filter, Listed, Selection};

/// Newest orders that are looked at for the numbers of each status.
const LOOKED_AT: u32 = 1000;
/// Orders of one list.
const LISTED: usize = 200;
/// Failed orders that stand before the others of a list.
const FAILED_FIRST: usize = 100;
/// Orders or messages that one action changes.
const CHANGED: usize = 100;
/// Messages in quarantine that are shown.
const QUARANTINED: usize = 100;
/// Characters of a message in quarantine, or of an order and its result, that are shown.
const TEXT: usize = 100_000;
/// Shortest pause between two readings of a list on this machine.
const PAUSE: Duration = Duration::from_secs(2);
/// Shortest pause between two readings of a list in Cosmos DB, where each record that is read costs request units.
const COSMOS_PAUSE: Duration = Duration::from_mins(1);

/// Makes the panel of a host.
pub(in crate::cli) const MAKE: panel::Make = |data, broker, environment| Arc::new(Orders::new(data, broker, environment));

/// Orders and quarantine of the handler that a host runs.
struct Orders {
    data: PathBuf,
    broker: Broker,
    environment: BTreeMap<String, String>,
    /// Whether the records are in Cosmos DB, as far as the settings are good.
    in_cosmos: bool,
    sample: Option<String>,
    /// Opened at the first question: a host without a page opens nothing.
    operator: Mutex<Option<Arc<Operator>>>,
    kept: Kept,
}

impl Panel for Orders {
    fn script(&self) -> &'static str {
        include_str!("console/panel.js")
    }

    fn is_there(&self) -> bool {
        self.in_cosmos || self.data.join("records.db").exists()
    }

    fn sample(&self, function: &str) -> Option<String> {
        self.sample.clone().filter(|_| function == INGRESS)
    }

    fn read<'a>(&'a self, source: &'a str, query: &'a Query) -> Answer<'a> {
        Box::pin(async move {
            let operator = self.operator().await?;
            match source.split_once('/') {
                None if source == "orders" => operator.orders(query, &self.kept, self.pause()).await,
                None if source == "quarantine" => self.kept.get("quarantine", self.pause(), operator.quarantine()).await,
                Some(("orders", id)) => operator.order(id).await,
                _ => Err(Problem::Unknown("there is no such source".into())),
            }
        })
    }

    fn act<'a>(&'a self, action: &'a str, body: Value) -> Answer<'a> {
        Box::pin(async move {
            let operator = self.operator().await?;
            let done = match action {
                "orders/retry" | "orders/cancel" => operator.change_orders(action == "orders/retry", &body).await,
                "quarantine/release" => operator.release_again(&body).await,
                "quarantine/discard" => operator.discard_for(&body).await,
                _ => Err(Problem::Unknown("there is no such action".into())),
            };
            self.kept.forget();
            done
        })
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            // The queue is the host's, which closes it.
            if let Some(operator) = self.operator.lock().await.take() {
                operator.store.close().await;
            }
        })
    }
}

impl Orders {
    fn new(data: &Path, broker: &Broker, environment: &BTreeMap<String, String>) -> Self {
        let app = environment.get("FUNCTIONS_APP_ROOT_PATH").map(PathBuf::from).unwrap_or_default();
        let own = own_sample(&app).ok().flatten().map(|(_, order)| order);
        Self {
            data: data.to_owned(),
            broker: broker.clone(),
            environment: environment.clone(),
            in_cosmos: matches!(Storage::read(environment), Ok((Storage { records: Records::Cosmos(..), .. }, _))),
            sample: own.or_else(|| (!has_own_orders(environment)).then(|| ORDER.to_owned())),
            operator: Mutex::default(),
            kept: Kept::default(),
        }
    }

    fn pause(&self) -> Duration {
        if self.in_cosmos { COSMOS_PAUSE } else { PAUSE }
    }

    async fn operator(&self) -> Result<Arc<Operator>, Problem> {
        let mut opened = self.operator.lock().await;
        if let Some(operator) = &*opened {
            return Ok(Arc::clone(operator));
        }
        let (storage, budgets) = Storage::read(&self.environment).map_err(|problems| Problem::Unavailable(problems.join("; ")))?;
        let is_here = matches!(storage.records, Records::Embedded(..));
        if is_here && !self.is_there() {
            return Err(Problem::Unavailable("the handler has made no records yet".into()));
        }
        let store = operate::open_store(&storage).await.map_err(Problem::Unavailable)?;
        let local = Some(LocalQueue::of(self.broker.clone(), operate::queue_name(&self.environment)));
        let operator = Arc::new(Operator { store, local, remote: None, budgets, json: true });
        *opened = Some(Arc::clone(&operator));
        Ok(operator)
    }
}

/// What is known of many orders.
#[derive(Default)]
struct Overview {
    counts: BTreeMap<&'static str, u64>,
    oldest_open: Option<Timestamp>,
    unreadable: u64,
    looked_at: u32,
    rows: Vec<Value>,
    failed: Vec<Value>,
}

impl Overview {
    fn at(&mut self, listed: Listed) {
        let Listed::Record(record) = listed else {
            self.unreadable += 1;
            return;
        };
        self.looked_at += 1;
        *self.counts.entry(record.status.as_str()).or_default() += 1;
        self.open(&record);
        let (rows, most) = if record.status == Status::Failed { (&mut self.failed, FAILED_FIRST) } else { (&mut self.rows, LISTED) };
        if rows.len() < most {
            rows.push(row(&record));
        }
    }

    fn open(&mut self, record: &Record) {
        if !record.status.is_terminal() {
            self.oldest_open = Some(self.oldest_open.map_or(record.submitted_at, |oldest| oldest.min(record.submitted_at)));
        }
    }
}

impl Operator {
    /// The numbers of orders, and a list of them: failed ones first, then the newest; or those that are asked for. Only a search is
    /// read at each question: the page asks for it when a person does.
    async fn orders(&self, query: &Query, kept: &Kept, pause: Duration) -> Result<Value, Problem> {
        let asked = |name: &str| query.get(name).map(|text| text.trim()).filter(|text| !text.is_empty());
        let status = asked("status").map(str::parse).transpose();
        let status: Option<Status> = status.map_err(|()| Problem::Wrong("status is no status of an order".into()))?;
        let mut told = kept.get("orders", pause, self.overview()).await?;
        let mut listed = match (asked("q"), status) {
            (None, None) => return Ok(told),
            (Some(text), status) => self.listed(self.search(text, status)).await?,
            (None, Some(status)) => {
                let filter = Filter { status: Some(status), ..Filter::default() };
                kept.get(status.as_str(), pause, self.listed(self.found(&filter))).await?
            }
        };
        for name in ["orders", "readAt"] {
            told[name] = listed[name].take();
        }
        Ok(told)
    }

    async fn listed(&self, orders: impl Future<Output = Result<Vec<Value>, Problem>>) -> Result<Value, Problem> {
        let read_at = self.store.now();
        Ok(json!({ "orders": orders.await?, "readAt": read_at }))
    }

    async fn overview(&self) -> Result<Value, Problem> {
        let read_at = self.store.now();
        let mut seen = Overview::default();
        self.store.each(&Filter::default(), LOOKED_AT, |listed| seen.at(listed)).await.map_err(|error| unavailable(&error))?;
        let is_all = seen.looked_at < LOOKED_AT;
        if !is_all {
            for status in [Status::Accepted, Status::Processing] {
                let filter = Filter { status: Some(status), ..Filter::default() };
                let open = |listed| {
                    if let Listed::Record(record) = listed {
                        seen.open(&record);
                    }
                };
                self.store.each(&filter, LOOKED_AT, open).await.map_err(|error| unavailable(&error))?;
            }
        }
        let mut rows = seen.failed;
        rows.extend(seen.rows);
        rows.truncate(LISTED);
        Ok(json!({
            "counts": seen.counts, "isAll": is_all, "lookedAt": seen.looked_at, "unreadable": seen.unreadable,
            "oldestOpen": seen.oldest_open, "orders": rows, "most": LISTED, "readAt": read_at,
        }))
    }

    /// Orders with this number or customer, or whose tracking id begins so.
    async fn search(&self, text: &str, status: Option<Status>) -> Result<Vec<Value>, Problem> {
        let mut rows = self.found(&Filter { status, order_id: Some(text.to_owned()), ..Filter::default() }).await?;
        rows.extend(self.found(&Filter { status, customer_id: Some(text.to_owned()), ..Filter::default() }).await?);
        if let Ok(prefix) = text.parse::<IdPrefix>() {
            let ids = self.store.between(prefix.first, prefix.last, NAMED).await.map_err(|error| unavailable(&error))?;
            for id in ids {
                // One that this version cannot read is counted above.
                let found = self.store.read(id).await.ok().flatten();
                rows.extend(
                    found.filter(|found| status.is_none_or(|status| found.record.status == status)).map(|found| row(&found.record)),
                );
            }
        }
        let mut ids = HashSet::new();
        rows.retain(|row| ids.insert(row["trackingId"].to_string()));
        Ok(rows)
    }

    async fn found(&self, filter: &Filter) -> Result<Vec<Value>, Problem> {
        let mut rows = Vec::new();
        let most = u32::try_from(LISTED).unwrap_or(u32::MAX);
        let take = |listed| {
            if let Listed::Record(record) = listed {
                rows.push(row(&record));
            }
        };
        self.store.each(filter, most, take).await.map_err(|error| unavailable(&error))?;
        Ok(rows)
    }

    /// One order, with everything that `waybill orders show` tells.
    async fn order(&self, id: &str) -> Result<Value, Problem> {
        let prefix: IdPrefix = id.parse().map_err(Problem::Wrong)?;
        let id = self.resolve(&prefix).await.map_err(|refused| problem(&refused))?;
        let record = self.latest(id).await.map_err(|refused| problem(&refused))?.record;
        let now = self.store.now();
        let can_retry = lifecycle::redrive(&record, Uuid::nil(), now, &self.budgets).is_some();
        let can_cancel = matches!(lifecycle::cancel(&record, now, &self.budgets), Cancel::End(_) | Cancel::Request(_));
        let mut shown = row(&record);
        let mut whole = record.clone();
        if let Some(callback) = &mut whole.callback {
            callback.url = callback.url.as_deref().map(card::receiver);
        }
        let more = json!({
            "owner": record.owner,
            "tries": card::tries(&record, &self.budgets),
            "next": card::next(&record, &self.budgets),
            "callback": card::callback(&record),
            "message": record.error.as_ref().map(|error| &error.message),
            "completedAt": record.completed_at,
            "deadline": record.deadline,
            "dueAt": record.due_at,
            "history": record.history,
            "order": cut(record.order.get()),
            "result": record.result.as_ref().map(|result| cut(result.get())),
            "record": cut(&operate::pretty(&whole)),
            "canRetry": can_retry,
            "canCancel": can_cancel,
        });
        if let (Value::Object(shown), Value::Object(more)) = (&mut shown, more) {
            shown.extend(more);
        }
        Ok(shown)
    }

    async fn change_orders(&self, is_retry: bool, body: &Value) -> Result<Value, Problem> {
        let ids = ids(body)?;
        let mut results = Vec::new();
        for text in ids {
            let done = async {
                let prefix = text.parse().map_err(|_| Refused::Unknown(text.to_owned()))?;
                let id = self.resolve(&prefix).await?;
                if is_retry { self.retry(id).await } else { self.cancel(id).await }
            };
            results.push(match done.await {
                Ok(done) => json!({ "trackingId": text, "done": done.code(), "text": done.to_string() }),
                Err(refused) => {
                    let mut told = refused.json(text);
                    told["text"] = refused.to_string().into();
                    told
                }
            });
        }
        Ok(json!({ "results": results }))
    }

    async fn quarantine(&self) -> Result<Value, Problem> {
        let mut messages: Vec<Value> = Vec::new();
        let mut unreadable = 0;
        let most = u32::try_from(QUARANTINED).unwrap_or(u32::MAX);
        let take = |kept| match kept {
            Ok(message) => messages.push(quarantined(&message)),
            Err(_) => unreadable += 1,
        };
        self.store.quarantined(Selection::Kept, most, take).await.map_err(|error| unavailable(&error))?;
        Ok(json!({ "messages": messages, "unreadable": unreadable, "most": QUARANTINED }))
    }

    async fn release_again(&self, body: &Value) -> Result<Value, Problem> {
        let message = self.kept_one(quarantined_id(body)?).await.map_err(Problem::Unknown)?;
        let released = self.release_one(&message).await.map_err(Problem::Unavailable)?;
        Ok(json!({ "id": message.id, "released": released, "text": if released { "sent again" } else { CAME_BACK } }))
    }

    async fn discard_for(&self, body: &Value) -> Result<Value, Problem> {
        let reason = body["reason"].as_str().map(str::trim).filter(|reason| !reason.is_empty());
        let reason = reason.ok_or_else(|| Problem::Wrong("say the reason".into()))?;
        let message = self.kept_one(quarantined_id(body)?).await.map_err(Problem::Unknown)?;
        let discarded = self.discard_one(&message, reason).await.map_err(Problem::Unavailable)?;
        let text = if discarded { "discarded" } else { "the message came back to quarantine meanwhile; look at it again" };
        Ok(json!({ "id": message.id, "discarded": discarded, "text": text }))
    }
}

/// An order in a list.
fn row(record: &Record) -> Value {
    let names = record.names();
    json!({
        "trackingId": record.tracking_id,
        "orderId": names.order_id,
        "customerId": names.customer_id,
        "status": record.status,
        "attempt": record.attempt,
        "progress": record.progress,
        "stage": record.stage,
        "submittedAt": record.submitted_at,
        "updatedAt": record.updated_at,
        "retryAt": record.retry_at,
        "cancelRequested": record.cancel_requested,
        "error": record.error.as_ref().map(|error| &error.code),
    })
}

fn quarantined(message: &Quarantined) -> Value {
    json!({
        "id": message.id, "reason": message.reason, "deadLetterReason": message.dead_letter_reason, "keptAt": message.kept_at,
        "text": cut(&message.text), "isText": message.base64.is_none(),
    })
}

fn ids(body: &Value) -> Result<Vec<&str>, Problem> {
    let ids: Option<Vec<&str>> = body["ids"].as_array().and_then(|ids| ids.iter().map(Value::as_str).collect());
    ids.filter(|ids| (1..=CHANGED).contains(&ids.len()))
        .ok_or_else(|| Problem::Wrong(format!("send {{\"ids\": [\"…\"]}} with at most {CHANGED} tracking ids")))
}

fn quarantined_id(body: &Value) -> Result<Uuid, Problem> {
    let id = body["id"].as_str().and_then(|id| id.parse().ok());
    id.ok_or_else(|| Problem::Wrong("send {\"id\": \"…\"} with the id of a message in quarantine".into()))
}

/// The start of a text.
fn cut(text: &str) -> String {
    let begin = &text[..text.floor_char_boundary(TEXT)];
    if begin.len() < text.len() { format!("{begin}…") } else { begin.to_owned() }
}

fn unavailable(error: &crate::store::StoreError) -> Problem {
    Problem::Unavailable(describe(error))
}

fn problem(refused: &Refused) -> Problem {
    let text = refused.to_string();
    match refused {
        Refused::Unknown(_) => Problem::Unknown(text),
        Refused::Store(_) => Problem::Unavailable(text),
        _ => Problem::Wrong(text),
    }
}
