//! `waybill orders`, `quarantine` and `verify`: an operator's commands on the configured store and queue.
//!
//! The commands work while a handler or `waybill local` runs: records change by the same compare-and-set, messages go through the
//! same queue. Data goes to stdout, messages for people to stderr.

mod local_queue;
mod table;
mod card;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use serving::terminal::{columns, printable};
use uuid::Uuid;

use crate::cli::operate::local_queue::{Held, LocalQueue};
use crate::config::{Records, Storage};
use crate::domain::lifecycle::{self, Budgets, Cancel};
use crate::domain::message;
use crate::domain::quarantine::Quarantined;
use crate::domain::record::{Event, Record, Status};
use crate::domain::timestamp::Timestamp;
use crate::domain::tracking::TrackingId;
use crate::outbound::service_bus::{Counts, Queue};
use crate::store::cosmos::CosmosStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{Filter, Replaced, StatusStore, StoreError, Versioned};

/// Longest wait for the store.
const CONNECT: Duration = Duration::from_secs(30);
/// Pause between two reads of a watched order.
const WATCH_PAUSE: Duration = Duration::from_millis(300);
/// Largest limit of a query: Cosmos DB takes no larger one.
pub const MOST: u32 = i32::MAX.unsigned_abs();
/// Quarantined messages that are read.
const QUARANTINED: u32 = 100_000;
/// Longest time from the write of a record to its message, if nothing is broken.
const SENDING: Duration = Duration::from_secs(10);
/// How long an order may be due before it is reported: by then the sweeper, which runs each minute, has run at least twice.
const SWEEPS: Duration = Duration::from_mins(3);

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
        /// At most this many orders.
        limit: u32,
    },
    /// Show one whole record.
    Show(TrackingId),
    /// Follow one order until it ends.
    Watch(TrackingId),
    /// Send failed orders again.
    Retry(Vec<TrackingId>),
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
    Cancel(Vec<TrackingId>),
    /// List the messages in quarantine, or show one.
    Quarantined(Option<Uuid>),
    /// Send a quarantined message again.
    Release(Uuid),
    /// Compare records with the queue and its dead letters: all orders that have not ended, and this many of all orders, newest first.
    Verify(u32),
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

/// Runs a command. `Ok(false)`: the command ran, and the result is negative, e.g. an order failed or a disagreement was found.
pub fn run(request: Request, options: &Options, environment: &BTreeMap<String, String>) -> Result<bool, Vec<String>> {
    let mut environment = environment.clone();
    #[cfg(feature = "local")]
    for (name, value) in functions_host::app::settings_of(&options.app)? {
        environment.entry(name).or_insert(value);
    }
    environment.entry("FUNCTIONS_APP_ROOT_PATH".into()).or_insert_with(|| options.app.display().to_string());
    if let Some(data) = &options.data {
        // Messages of these records are in the queue beside them.
        let elsewhere = ["cosmosconnection", "cosmosdatabase", "cosmoscontainer", "servicebusconnection", "service_bus_rest_endpoint"];
        environment.retain(|name, _| !elsewhere.iter().any(|prefix| name.to_ascii_lowercase().starts_with(prefix)));
        environment.insert("WAYBILL_DATA".into(), data.display().to_string());
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
        let store = match &storage.records {
            Records::Embedded(..) if !cfg!(feature = "local") => {
                return Err("records in a directory of this machine take a build with the feature `local`; set CosmosConnection".into());
            }
            Records::Embedded(data, key) => {
                if !data.join("records.db").exists() {
                    return Err(format!("there are no records in {}: pass --data, or set CosmosConnection", data.display()));
                }
                StatusStore::Sqlite(SqliteStore::open(data, key.clone()).map_err(|error| error.to_string())?)
            }
            Records::Cosmos(cosmos, key) => {
                let store = tokio::time::timeout(CONNECT, CosmosStore::connect(cosmos, key, drop)).await;
                StatusStore::Cosmos(
                    store.map_err(|_| "Cosmos DB does not answer, or refuses; the reason is in a handler's log".to_owned())?,
                )
            }
        };
        let name = environment.get("OrdersQueue").cloned().unwrap_or_else(|| "orders".into());
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

    async fn answer(&self, request: Request) -> Result<bool, String> {
        match request {
            Request::List { status, older_than, since, owner, error, limit } => {
                let (submitted_before, submitted_since) = (older_than.map(|age| self.ago(age)), since.map(|age| self.ago(age)));
                let filter = Filter { status, submitted_before, submitted_since, owner, error };
                let records = self.store.list(&filter, limit).await.map_err(describe)?;
                self.list(&records);
                Ok(true)
            }
            Request::Show(id) => {
                let record = self.record(id).await?;
                if self.json {
                    say(&json_text(&record));
                } else {
                    say_all(&card::lines(&record));
                }
                Ok(true)
            }
            Request::Watch(id) => self.watch(id).await,
            Request::Retry(ids) => Ok(self.each(ids, |id| self.retry(id)).await),
            Request::RetryFailed { error, since, dry_run } => {
                let submitted_since = since.map(|age| self.ago(age));
                let filter = Filter { status: Some(Status::Failed), error, submitted_since, ..Filter::default() };
                let records = self.store.list(&filter, MOST).await.map_err(describe)?;
                if dry_run {
                    self.list(&records);
                    return Ok(true);
                }
                let ids = records.iter().map(|record| record.tracking_id).collect();
                Ok(self.each(ids, |id| self.retry(id)).await)
            }
            Request::Cancel(ids) => Ok(self.each(ids, |id| self.cancel(id)).await),
            Request::Quarantined(wanted) => {
                let kept = self.store.quarantined(QUARANTINED).await.map_err(describe)?;
                match wanted {
                    None => self.list_quarantined(&kept),
                    Some(id) => {
                        let found =
                            kept.iter().find(|message| message.id == id).ok_or_else(|| format!("nothing in quarantine has the id {id}"))?;
                        if self.json {
                            say(&json_text(found));
                        } else {
                            say_all(&pretty(found).lines().collect::<Vec<_>>());
                        }
                    }
                }
                Ok(true)
            }
            Request::Release(id) => {
                let kept = self.store.quarantined(QUARANTINED).await.map_err(describe)?;
                let found =
                    kept.into_iter().find(|message| message.id == id).ok_or_else(|| format!("nothing in quarantine has the id {id}"))?;
                if !self.send(found.text.clone()).await? {
                    return Err("there is no queue to send it to: pass --data, or set ServiceBusConnection".into());
                }
                let released = self.store.release(&found).await.map_err(describe)?;
                let done = if released {
                    "sent again"
                } else {
                    "sent again; but the message came back to quarantine meanwhile, or another operator has sent it too"
                };
                say(&if self.json { json!({ "id": id, "sent": true, "released": released }).to_string() } else { format!("{id}  {done}") });
                Ok(true)
            }
            Request::Verify(limit) => self.verify(limit).await,
        }
    }

    /// Does `act` to each order in turn and prints each result; returns whether all succeeded.
    async fn each(&self, ids: Vec<TrackingId>, act: impl AsyncFn(TrackingId) -> Result<&'static str, String>) -> bool {
        let mut all = true;
        for id in ids {
            match act(id).await {
                Ok(how) => say(&if self.json { json!({ "trackingId": id, "done": how }).to_string() } else { format!("{id}  {how}") }),
                Err(problem) => {
                    all = false;
                    if self.json {
                        say(&json!({ "trackingId": id, "problem": problem }).to_string());
                    } else {
                        eprintln!("waybill: {id}: {}", printable(&problem));
                    }
                }
            }
        }
        all
    }

    /// The moment this long ago, by the store's clock.
    fn ago(&self, age: Duration) -> Timestamp {
        let now = self.store.now().as_milliseconds();
        Timestamp::from_milliseconds(now.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)))
    }

    async fn record(&self, id: TrackingId) -> Result<Record, String> {
        Ok(self.store.read(id).await.map_err(describe)?.ok_or_else(|| unknown(id))?.record)
    }

    async fn latest(&self, id: TrackingId) -> Result<Versioned, String> {
        self.store.read_latest(id).await.map_err(describe)?.ok_or_else(|| unknown(id))
    }

    fn list(&self, records: &[Record]) {
        if self.json {
            for record in records {
                say(&json_text(record));
            }
            return;
        }
        let rows: Vec<[String; 6]> = records
            .iter()
            .map(|record| {
                [
                    record.tracking_id.to_string(),
                    record.status.as_str().to_owned(),
                    record.attempt.to_string(),
                    to_seconds(record.submitted_at),
                    record.names().order_id,
                    record.error.as_ref().map_or_else(String::new, |failure| failure.code.clone()),
                ]
            })
            .collect();
        let titles = ["tracking id", "status", "try", "submitted", "order", "error"];
        say_all(&table::table(titles, &rows, columns()));
    }

    fn list_quarantined(&self, kept: &[Quarantined]) {
        if self.json {
            for message in kept {
                say(&json_text(message));
            }
            return;
        }
        let rows: Vec<[String; 3]> = kept
            .iter()
            .map(|message| {
                let dead = message.dead_letter_reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
                [message.id.to_string(), to_seconds(message.kept_at), format!("{}{dead}", message.reason)]
            })
            .collect();
        say_all(&table::table(["id", "kept", "reason"], &rows, columns()));
    }

    /// Prints the progress of an order until it ends: a bar on a terminal, else a line for each change.
    async fn watch(&self, id: TrackingId) -> Result<bool, String> {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
        let mut last = String::new();
        loop {
            let record = self.record(id).await?;
            let line = if self.json {
                json!({ "status": record.status, "progress": record.progress, "stage": record.stage, "attempt": record.attempt })
                    .to_string()
            } else {
                let done = usize::from(record.progress) * 20 / 100;
                let stage = record.stage.as_ref().map_or_else(String::new, |stage| format!("  {stage}"));
                let error = record.error.as_ref().map_or_else(String::new, |error| format!("  {}: {}", error.code, error.message));
                format!(
                    "[{}{}] {:>3} %  {}  try {}{stage}{error}",
                    "#".repeat(done),
                    ".".repeat(20 - done),
                    record.progress,
                    record.status.as_str(),
                    record.attempt
                )
            };
            if line != last {
                if terminal && !self.json {
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
                if terminal && !self.json {
                    say("");
                }
                return Ok(record.status == Status::Completed);
            }
            tokio::time::sleep(WATCH_PAUSE).await;
        }
    }

    /// Sends a failed order again. The record is written first: if this process ends before it sends the message, the sweeper sends it.
    async fn retry(&self, id: TrackingId) -> Result<&'static str, String> {
        loop {
            let found = self.latest(id).await?;
            let record = lifecycle::redrive(&found.record, Uuid::new_v4(), self.store.now(), &self.budgets)
                .ok_or_else(|| format!("it is {}, and only failed orders can be sent again", found.record.status.as_str()))?;
            if self.store.replace(&record, &found.etag).await.map_err(describe)? == Replaced::Stale {
                continue;
            }
            let sent = self.send(message::write(&record)).await;
            return Ok(if sent == Ok(true) { "sent again" } else { "accepted again; the sweeper sends its message" });
        }
    }

    /// Cancels an order. Its message stays in the queue, and does nothing once the order has ended.
    async fn cancel(&self, id: TrackingId) -> Result<&'static str, String> {
        loop {
            let found = self.latest(id).await?;
            let record = match lifecycle::cancel(&found.record, self.store.now(), &self.budgets) {
                Cancel::Cancelled | Cancel::Requested => found.record,
                Cancel::Ended => return Err(format!("it is {} and stays so", found.record.status.as_str())),
                Cancel::End(record) | Cancel::Request(record) => {
                    if self.store.replace(&record, &found.etag).await.map_err(describe)? == Replaced::Stale {
                        continue;
                    }
                    record
                }
            };
            return Ok(if record.status.is_terminal() {
                record.status.as_str()
            } else {
                "cancellation requested; the order's worker, or the next to claim the order, sees the request before the next attempt at \
                 the latest"
            });
        }
    }

    /// Sends a message. `Ok(false)`: there is no queue to send it to.
    async fn send(&self, text: String) -> Result<bool, String> {
        if let Some(queue) = &self.local {
            return queue.send(text).await.map(|()| true);
        }
        match &self.remote {
            Some(queue) => queue.send(&text).await.map(|()| true).map_err(|error| error.to_string()),
            None => Ok(false),
        }
    }

    /// The records of all orders that have not ended and of the `limit` newest orders, and whether these are all records.
    async fn records(&self, limit: u32) -> Result<(Vec<Record>, bool), String> {
        let mut records = self.store.list(&Filter::default(), limit).await.map_err(describe)?;
        let all = records.len() < limit as usize;
        if !all {
            records.retain(|record| record.status.is_terminal());
            for status in [Status::Accepted, Status::Processing] {
                let filter = Filter { status: Some(status), ..Filter::default() };
                records.extend(self.store.list(&filter, MOST).await.map_err(describe)?);
            }
            // An order that changes its status between two queries may be found twice, or missed until the next run.
            let mut seen = HashSet::new();
            records.retain(|record| seen.insert(record.tracking_id));
        }
        Ok((records, all))
    }

    async fn verify(&self, limit: u32) -> Result<bool, String> {
        let (records, all) = self.records(limit).await?;
        let kept = self.store.quarantined(QUARANTINED).await.map_err(describe)?;
        let messages = match &self.local {
            Some(queue) => Some(Messages::of(queue.peek().await?)),
            None => None,
        };
        let mut disagreements: Vec<String> =
            records.iter().flat_map(|record| inconsistencies(record, self.store.now(), messages.as_ref())).collect();
        if let Some(messages) = &messages {
            let known: HashSet<TrackingId> = records.iter().map(|record| record.tracking_id).collect();
            for id in messages.ids().filter(|id| !known.contains(id)) {
                // The record may be newer than the queries above, or of an ended order beyond the limit.
                if self.store.read_latest(id).await.map_err(describe)?.is_none() {
                    disagreements.push(format!("the queue has a message for {id}, but no order has this tracking id"));
                }
            }
            if messages.unreadable > 0 {
                disagreements.push(format!("{} messages in the queue cannot be read", messages.unreadable));
            }
            if messages.dead > 0 {
                disagreements.push(format!("{} dead letters wait for OrderDeadLetter", messages.dead));
            }
        }
        disagreements.extend(kept.iter().map(|message| format!("message {} is in quarantine: {}", message.id, message.reason)));
        let queue = match (&messages, &self.remote) {
            (Some(_), _) => "records were compared with the queue of this machine".to_owned(),
            (None, None) => "records only: there is no queue to count messages in".to_owned(),
            // Reading a message by REST counts as a delivery, so messages are only counted.
            (None, Some(remote)) => match remote.counts().await {
                Ok(counts) => {
                    disagreements.extend(miscounted(&records, counts, self.store.now()));
                    let Counts { active, scheduled, dead } = counts;
                    format!("no message was touched; the queue counts {active} active, {scheduled} scheduled, {dead} dead letters")
                }
                Err(reason) => format!("records only: the queue's messages were not counted ({reason})"),
            },
        };
        if self.json {
            say(&json!({ "records": records.len(), "all": all, "disagreements": disagreements, "compared": queue }).to_string());
        } else {
            for line in &disagreements {
                say(line);
            }
            let left = if all { "" } else { " (of the ended orders only the newest: see --limit)" };
            eprintln!("{} records{left}, {} disagreements; {queue}", records.len(), disagreements.len());
        }
        Ok(disagreements.is_empty())
    }
}

fn unknown(id: TrackingId) -> String {
    format!("no order has the tracking id {id}; records of ended orders are kept for a limited time")
}

/// The messages in this machine's queue.
struct Messages {
    /// Messages of each order, without dead letters.
    alive: HashMap<TrackingId, usize>,
    unreadable: usize,
    dead: usize,
}

impl Messages {
    fn of(held: Held) -> Self {
        let mut messages = Self { alive: HashMap::new(), unreadable: 0, dead: held.dead };
        for body in held.messages {
            match std::str::from_utf8(&body).ok().and_then(|text| message::read(text).ok()) {
                Some(message) => *messages.alive.entry(message.tracking_id).or_default() += 1,
                None => messages.unreadable += 1,
            }
        }
        messages
    }

    fn ids(&self) -> impl Iterator<Item = TrackingId> {
        self.alive.keys().copied()
    }
}

/// Everything about a record that is inconsistent or overdue.
fn inconsistencies(record: &Record, now: Timestamp, messages: Option<&Messages>) -> Vec<String> {
    let id = record.tracking_id;
    let mut lines = Vec::new();
    let mut ends = 0;
    for transition in &record.history {
        match transition.event {
            Event::Redriven => ends = 0,
            event if event.is_end() => ends += 1,
            _ => {}
        }
    }
    if ends > 1 {
        lines.push(format!("order {id} ended {ends} times in one life"));
    }
    if record.status.is_terminal() {
        if record.lease.is_some() || record.due_at.is_some() || record.ttl.is_none() {
            lines.push(format!(
                "order {id} is {}, but its record still has a lease or a due time, or never expires",
                record.status.as_str()
            ));
        }
        return lines;
    }
    let Some(due_at) = record.due_at else {
        lines.push(format!("order {id} is {}, but its record has no due time, so OrderSweeper does not find it", record.status.as_str()));
        return lines;
    };
    let overdue = due_at.until(now);
    let alone = messages.is_none_or(|messages| !messages.alive.contains_key(&id));
    if overdue > SWEEPS && alone {
        lines.push(format!("order {id} is {} and overdue since {due_at}: does OrderSweeper run?", record.status.as_str()));
    }
    lines
}

/// Disagreements that the message counts show.
fn miscounted(records: &[Record], counts: Counts, now: Timestamp) -> Vec<String> {
    let mut lines = Vec::new();
    // A message is sent a moment after its record is written.
    let settled = |record: &&Record| record.status == Status::Accepted && record.updated_at.until(now) > SENDING;
    let accepted = records.iter().filter(settled).count() as u64;
    if accepted > counts.active + counts.scheduled {
        let messages = counts.active + counts.scheduled;
        lines.push(format!(
            "{accepted} orders are accepted, but the queue has only {messages} messages: OrderSweeper sends the missing ones"
        ));
    }
    if counts.dead > 0 {
        lines.push(format!("{} dead letters wait for OrderDeadLetter", counts.dead));
    }
    lines
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err calls")]
fn describe(error: StoreError) -> String {
    match error {
        StoreError::NotApplied | StoreError::Unknown => "the store does not answer".into(),
        StoreError::Unreadable(_) | StoreError::Newer(_) => error.to_string(),
    }
}

fn json_text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("records have only string keys")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_messages_than_accepted_orders_are_reported_after_the_time_to_send_them() {
        let record: Record = serde_json::from_value(json!({
            "schemaVersion": 2, "trackingId": "0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10", "owner": "anonymous", "life": Uuid::nil(), "order": {},
            "fingerprint": "", "status": "accepted", "progress": 0, "fence": 0, "attempt": 0, "interruptions": 0, "history": [],
            "metadata": { "apiName": "", "operationName": "", "receivedAt": "2026-11-24T10:00:00Z", "owner": "anonymous" },
            "deadline": "2026-11-25T10:00:00Z", "submittedAt": "2026-11-24T10:00:00Z", "updatedAt": "2026-11-24T10:00:00Z"
        }))
        .unwrap();
        let reported = |active, scheduled, dead, later: Duration| {
            let counts = Counts { active, scheduled, dead };
            miscounted(&[record.clone(), record.clone()], counts, record.updated_at.after(later)).len()
        };

        assert_eq!(reported(1, 0, 0, SENDING * 2), 1);
        assert_eq!(reported(1, 0, 0, SENDING), 0, "they may still be sent");
        assert_eq!(reported(1, 1, 0, SENDING * 2), 0);
        assert_eq!(reported(0, 0, 3, SENDING * 2), 2);
    }
}
