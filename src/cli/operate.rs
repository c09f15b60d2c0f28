//! `waybill orders`, `callback`, `quarantine` and `verify`: an operator's commands on the configured store and queue.
//!
//! The commands work while a handler or `waybill local` runs: records change by the same compare-and-set, messages go through the
//! same queue. Data goes to stdout, messages for people to stderr.

pub mod id_prefix;
mod outcome;
mod local_queue;
mod change;
mod verify;
mod quarantine;
mod table;
mod card;
#[cfg(feature = "local")]
pub(super) mod console;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use serving::terminal::{columns, printable};
use uuid::Uuid;

use crate::cli;
use crate::cli::operate::id_prefix::IdPrefix;
use crate::cli::operate::local_queue::LocalQueue;
use crate::cli::operate::outcome::{Refused, describe};
use crate::config::{Records, Storage};
use crate::domain::lifecycle::Budgets;
use crate::domain::record::{Record, Status};
use crate::domain::timestamp::Timestamp;
use crate::domain::tracking::TrackingId;
use crate::outbound::service_bus::Queue;
use crate::store::cosmos::CosmosStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{Filter, Listed, StatusStore, Versioned};

/// Longest wait for the store.
const CONNECT: Duration = Duration::from_secs(30);
/// Pause between two reads of a watched order.
const WATCH_PAUSE: Duration = Duration::from_millis(300);
/// Ids that an ambiguous prefix names.
const NAMED: u32 = 10;
/// Largest limit of a query: Cosmos DB takes no larger one.
pub const MOST: u32 = i32::MAX.unsigned_abs();
/// An operator's command.
#[derive(Debug)]
pub enum Request {
    /// List the orders that match, newest first.
    List {
        /// Only orders in this status.
        status: Option<Status>,
        /// Only orders submitted longer ago than this.
        older_than: Option<Duration>,
        /// Only orders submitted within this time.
        since: Option<Duration>,
        /// Only orders of this owner.
        owner: Option<String>,
        /// Only orders whose error has this code.
        error: Option<String>,
        /// Only orders with this `orderId`.
        order: Option<String>,
        /// Only orders with this `customerId`.
        customer: Option<String>,
        /// At most this many orders.
        limit: u32,
    },
    /// Show one whole record.
    Show(IdPrefix),
    /// Follow one order until it ends.
    Watch(IdPrefix),
    /// Send failed orders again.
    Retry(Vec<IdPrefix>),
    /// Send the failed orders again that match, or only list them.
    RetryFailed {
        /// Only orders whose error has this code.
        error: Option<String>,
        /// Only orders submitted within this time.
        since: Option<Duration>,
        /// Whether to list them only.
        dry_run: bool,
    },
    /// Cancel orders of any owner.
    Cancel(Vec<IdPrefix>),
    /// Have the ends of orders told once more.
    TellAgain(Vec<IdPrefix>),
    /// List the messages in quarantine; `true`: those too that were discarded.
    Quarantined(bool),
    /// Show a quarantined message.
    ShowQuarantined(Uuid),
    /// Send a quarantined message again.
    Release(Uuid),
    /// Note of quarantined messages that nothing is left to do about them, and why.
    Discard(Vec<Uuid>, String),
    /// Compare records with the queue and its dead letters: all orders that have not ended, and this many of all orders, newest first.
    Verify(u32),
}

/// How a command ended that ran to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// As was asked for.
    Well,
    /// With a negative result, e.g. an order failed or a disagreement was found.
    Negative,
    /// Everything that can be compared agrees; a message in quarantine or an unreadable record is left for an operator.
    LeftOver,
}

impl From<bool> for Ended {
    fn from(well: bool) -> Self {
        if well { Self::Well } else { Self::Negative }
    }
}

/// Options of every command.
#[derive(Debug)]
pub struct Options {
    /// The app's folder; the environment takes precedence over its `local.settings.json`.
    pub app: PathBuf,
    /// The directory of an embedded store, instead of the configured store.
    pub data: Option<PathBuf>,
    /// Whether to print JSON.
    pub json: bool,
}

/// Runs a command.
pub fn run(request: Request, options: &Options, environment: &BTreeMap<String, String>) -> Result<Ended, Vec<String>> {
    let mut environment = cli::environment_of(&options.app, environment)?;
    if let Some(data) = &options.data {
        // Messages of these records are in the queue beside them.
        let elsewhere = ["cosmosconnection", "cosmosdatabase", "cosmoscontainer", "servicebusconnection", "service_bus_rest_endpoint"];
        environment.retain(|name, _| !elsewhere.iter().any(|prefix| name.to_ascii_lowercase().starts_with(prefix)));
        // As a whole path, which no name of a folder turns into a URL.
        let data = std::path::absolute(data).map_err(|error| vec![error.to_string()])?;
        environment.insert("WAYBILL_DATA".into(), cli::utf_8(&data)?.to_owned());
    }
    let (storage, budgets) = Storage::read(&environment)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| vec![error.to_string()])?;
    let answered = runtime.block_on(async {
        let operator = Operator::open(&storage, budgets, &environment, options.json).await?;
        let answered = operator.answer(request).await;
        operator.close().await;
        answered
    });
    runtime.shutdown_background();
    answered.map_err(|problem| vec![problem])
}

/// The store and the queues that commands work on.
struct Operator {
    store: StatusStore,
    /// The queue of this machine, where there is one.
    local: Option<LocalQueue>,
    remote: Option<Queue>,
    budgets: Budgets,
    json: bool,
}

impl Operator {
    async fn open(storage: &Storage, budgets: Budgets, environment: &BTreeMap<String, String>, json: bool) -> Result<Self, String> {
        let data = match &storage.records {
            Records::Embedded(data, _) => data.clone(),
            Records::Cosmos(..) => environment.get("WAYBILL_DATA").map_or_else(|| ".waybill".into(), PathBuf::from),
        };
        let store = open_store(storage).await?;
        let name = queue_name(environment);
        let remote = storage.service_bus.as_ref().map(Queue::new).transpose()?;
        // Records in Cosmos DB have their messages in Service Bus: a queue on this machine counts only if there is no client for it.
        let is_here = matches!(storage.records, Records::Embedded(..)) || remote.is_none();
        let local = if is_here { LocalQueue::open(&data, name)? } else { None };
        Ok(Self { store, local, remote, budgets, json })
    }

    /// Leaves nothing in the logs, unless another process has the databases open.
    async fn close(&self) {
        self.store.close().await;
        if let Some(local) = &self.local {
            local.close().await;
        }
    }

    async fn answer(&self, request: Request) -> Result<Ended, String> {
        match request {
            Request::List { status, older_than, since, owner, error, order, customer, limit } => {
                let (submitted_before, submitted_since) = (older_than.map(|age| self.ago(age)), since.map(|age| self.ago(age)));
                self.list(
                    &Filter { status, submitted_before, submitted_since, owner, error, order_id: order, customer_id: customer },
                    limit,
                )
                .await?;
            }
            Request::Show(id) => {
                let record = self.record(&id).await?;
                if self.json {
                    say(&json_text(&record));
                } else {
                    say_all(&card::lines(&record, &self.budgets, columns()));
                }
            }
            Request::Watch(id) => return self.watch(&id).await.map(Ended::from),
            Request::Retry(ids) => return Ok(self.change(&ids, |id| self.retry(id)).await.into()),
            Request::RetryFailed { error, since, dry_run } => {
                let submitted_since = since.map(|age| self.ago(age));
                let filter = Filter { status: Some(Status::Failed), error, submitted_since, ..Filter::default() };
                if dry_run {
                    self.list(&filter, MOST).await?;
                    return Ok(Ended::Well);
                }
                let mut ids = Vec::new();
                self.each(&filter, MOST, |record| ids.push(IdPrefix::from(record.tracking_id))).await?;
                return Ok(self.change(&ids, |id| self.retry(id)).await.into());
            }
            Request::Cancel(ids) => return Ok(self.change(&ids, |id| self.cancel(id)).await.into()),
            Request::TellAgain(ids) => return Ok(self.change(&ids, |id| self.tell_again(id)).await.into()),
            Request::Quarantined(all) => self.list_quarantined(all).await?,
            Request::ShowQuarantined(id) => self.show_quarantined(id).await?,
            Request::Release(id) => self.release(id).await?,
            Request::Discard(ids, reason) => return self.discard(&ids, &reason).await.map(Ended::from),
            Request::Verify(limit) => return self.verify(limit).await,
        }
        Ok(Ended::Well)
    }

    /// Takes the orders that match. Records that this version cannot read are left out and named.
    async fn each(&self, filter: &Filter, limit: u32, mut take: impl FnMut(Record)) -> Result<(), String> {
        let mut unreadable = Vec::new();
        let taken = self.store.each(filter, limit, |listed| match listed {
            Listed::Record(record) => take(*record),
            Listed::Unreadable(record) => unreadable.push(record),
        });
        let taken = taken.await.map_err(|error| describe(&error));
        for record in unreadable {
            eprintln!("waybill: {}", printable(&left_out(&record.id, &record.reason)));
        }
        taken
    }

    /// The moment this long ago, by the store's clock.
    fn ago(&self, age: Duration) -> Timestamp {
        let now = self.store.now().as_milliseconds();
        Timestamp::from_milliseconds(now.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)))
    }

    async fn record(&self, id: &IdPrefix) -> Result<Record, String> {
        let id = self.resolve(id).await.map_err(|refused| refused.to_string())?;
        let found = self.store.read(id).await.map_err(|error| describe(&error))?;
        Ok(found.ok_or_else(|| Refused::Unknown(id.to_string()).to_string())?.record)
    }

    async fn latest(&self, id: TrackingId) -> Result<Versioned, Refused> {
        self.store.read_latest(id).await?.ok_or_else(|| Refused::Unknown(id.to_string()))
    }

    /// The one id that begins so.
    async fn resolve(&self, prefix: &IdPrefix) -> Result<TrackingId, Refused> {
        if let Some(id) = prefix.whole() {
            return Ok(id);
        }
        let ids = self.store.between(prefix.first, prefix.last, NAMED).await?;
        match ids[..] {
            [] => Err(Refused::Unknown(prefix.to_string())),
            [id] => Ok(id),
            _ => Err(Refused::Ambiguous(prefix.clone(), ids)),
        }
    }

    async fn list(&self, filter: &Filter, limit: u32) -> Result<(), String> {
        let mut rows: Vec<[String; 6]> = Vec::new();
        let mut count = 0_u32;
        let listed = self.each(filter, limit, |record| {
            count += 1;
            if self.json {
                return say(&json_text(&record));
            }
            rows.push([
                record.tracking_id.to_string(),
                record.status.as_str().to_owned(),
                record.attempt.to_string(),
                to_seconds(record.submitted_at),
                record.names().order_id,
                record.error.map_or_else(String::new, |failure| failure.code),
            ]);
        });
        listed.await?;
        if !self.json {
            let titles = ["tracking id", "status", "try", "submitted", "order", "error"];
            say_all(&table::table(titles, &rows, columns()));
        }
        if count == 0 {
            eprintln!("waybill: no order matches; numbers, customers and codes are compared whole, capitals too");
        } else if count == limit {
            eprintln!("waybill: these are the newest {count}; --limit lists more");
        }
        Ok(())
    }

    /// Prints the progress of an order until it ends: a bar on a terminal, else a line for each change.
    async fn watch(&self, id: &IdPrefix) -> Result<bool, String> {
        let moves = std::io::IsTerminal::is_terminal(&std::io::stdout()) && !self.json;
        let mut last = String::new();
        loop {
            let record = self.record(id).await?;
            let mut line = if self.json {
                json!({ "status": record.status, "progress": record.progress, "stage": record.stage, "attempt": record.attempt })
                    .to_string()
            } else {
                watched(&record, &self.budgets)
            };
            if moves && !record.status.is_terminal() {
                // What is printed differs with each second: a person sees that the command still looks.
                let since = card::doing(&record, &self.budgets).1;
                let seconds = self.store.now().as_milliseconds().saturating_sub(since.as_milliseconds()).max(0) / 1000;
                line = format!("{seconds:>4} s {line}");
            }
            if line != last {
                if moves {
                    // One row, so that the next line can take its place; the last column stays free, where some terminals wrap.
                    let row = table::cut(&printable(&line), columns().unwrap_or(usize::MAX).saturating_sub(1));
                    print!("\r\x1b[K{row}");
                    drop(std::io::stdout().flush());
                } else {
                    say(&line);
                }
                last = line;
            }
            if record.status.is_terminal() {
                if moves {
                    say("");
                }
                return Ok(record.status == Status::Completed);
            }
            tokio::time::sleep(WATCH_PAUSE).await;
        }
    }

    /// Sends a message. `Ok(false)`: there is no queue to send it to.
    async fn send(&self, body: Vec<u8>) -> Result<bool, String> {
        if let Some(queue) = &self.local {
            return queue.send(body).await.map(|()| true);
        }
        match &self.remote {
            Some(queue) => queue.send_bytes(body).await.map(|()| true).map_err(|error| error.to_string()),
            None => Ok(false),
        }
    }
}

/// A watched order in one line, which stays the same until something happens to the order.
fn watched(record: &Record, budgets: &Budgets) -> String {
    let done = usize::from(record.progress) * 20 / 100;
    let (bar, rest) = ("#".repeat(done), ".".repeat(20 - done));
    let doing = if record.status.is_terminal() {
        format!("try {}", card::tries(record, budgets))
    } else {
        let (doing, since) = card::doing(record, budgets);
        format!("{doing}, since {since}")
    };
    let stage = record.stage.as_ref().map_or_else(String::new, |stage| format!("  {stage}"));
    let error = record.error.as_ref().map_or_else(String::new, |error| format!("  {}: {}", error.code, error.message));
    format!("[{bar}{rest}] {:>3} %  {}  {doing}{stage}{error}", record.progress, record.status.as_str())
}

/// Opens the store. One of this machine is there already: a handler makes it.
async fn open_store(storage: &Storage) -> Result<StatusStore, String> {
    match &storage.records {
        Records::Embedded(..) if !cfg!(feature = "local") => {
            Err("records in a directory of this machine take a build with the feature `local`; set CosmosConnection".into())
        }
        Records::Embedded(data, _) if !data.join("records.db").exists() => {
            Err(format!("there are no records in {}: pass --data, or set WAYBILL_DATA or CosmosConnection", data.display()))
        }
        Records::Embedded(data, key) => {
            let (data, key) = (data.clone(), key.clone());
            let opened = tokio::task::spawn_blocking(move || SqliteStore::open(&data, key)).await.map_err(|error| error.to_string())?;
            opened.map(StatusStore::Sqlite).map_err(|error| error.to_string())
        }
        Records::Cosmos(cosmos, key) => {
            let store = tokio::time::timeout(CONNECT, CosmosStore::connect(cosmos, key, drop)).await;
            let store = store.map_err(|_| "Cosmos DB does not answer, or refuses; the reason is in a handler's log".to_owned())?;
            Ok(StatusStore::Cosmos(store))
        }
    }
}

/// Name of the queue of orders.
fn queue_name(environment: &BTreeMap<String, String>) -> String {
    environment.get("OrdersQueue").cloned().unwrap_or_else(|| "orders".into())
}

/// A record that a command passes over.
fn left_out(id: &str, reason: &str) -> String {
    format!("order {id} is left out, because its record cannot be read: {reason}")
}

/// A value in one line.
fn json_text(value: &impl Serialize) -> String {
    one_line(serde_json::to_string(value).expect("records have only string keys"))
}

/// JSON in one line: as it was sent it may have line feeds and tabs, which stand only between its values.
fn one_line(json: String) -> String {
    const BREAKS: [char; 3] = ['\n', '\r', '\t'];
    // A search for one character is quick, and most orders have none of them.
    if BREAKS.iter().any(|letter| json.contains(*letter)) { json.replace(BREAKS, " ") } else { json }
}

/// Order and result stand in it as they were sent: a `serde_json::Value` would give some names of members a meaning.
fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("records have only string keys")
}

/// Prints a line to stdout, without its control characters. A closed pipe is not an error.
fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{}", printable(line)));
}

fn say_all<T: AsRef<str>>(lines: &[T]) {
    for line in lines {
        say(line.as_ref());
    }
}

/// A moment, to the second.
fn to_seconds(moment: Timestamp) -> String {
    moment.to_string().chars().take("2026-11-24T10:15:30".len()).map(|letter| if letter == 'T' { ' ' } else { letter }).collect()
}
