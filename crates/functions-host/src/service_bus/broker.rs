//! A durable queue with the semantics of Service Bus: peek-lock, delivery count, dead letters, scheduled and expiring messages.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use group_commit::database::{Database, Error};
use jiff::Timestamp;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use uuid::Uuid;

/// Suffix of a dead-letter queue's name after the name of its queue (Service Bus, "Path to the dead-letter queue").
pub const DEAD_LETTER_SUFFIX: &str = "/$deadletterqueue";
/// Longest sleep of a receiver while a message will be ready at a known moment: the clock may jump, or stand still while the machine
/// sleeps. Without such a message the receiver sleeps until a message is sent.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// Tables of the queue. `visible_at` is the moment from which a message is ready: the due time of a scheduled message, the end of a
/// lock, or the time of enqueueing.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS messages (
        sequence_number INTEGER PRIMARY KEY AUTOINCREMENT,
        queue TEXT NOT NULL,
        visible_at INTEGER NOT NULL,
        enqueued_at INTEGER NOT NULL,
        expires_at INTEGER,
        delivery_count INTEGER NOT NULL DEFAULT 0,
        lock_token BLOB,
        properties TEXT NOT NULL,
        body BLOB NOT NULL
    );
    CREATE INDEX IF NOT EXISTS messages_ready ON messages (queue, visible_at, sequence_number);
";

/// Options of a broker, for all its queues.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Time that a receiver holds a message before another receiver may get the message.
    pub lock_duration: Duration,
    /// Deliveries before a message is dead-lettered.
    pub max_delivery_count: u32,
}

/// All queues of this machine, in one file. A queue exists from its first use.
#[derive(Clone)]
pub struct Broker {
    database: Database,
    rules: Rules,
    arrivals: Arc<Mutex<HashMap<String, Arc<Notify>>>>,
}

/// A message to be sent.
#[derive(Debug, Clone, Default)]
pub struct Outgoing {
    /// Body of the message.
    pub body: Vec<u8>,
    /// Properties of the message.
    pub properties: Properties,
    /// Moment from which the message may be delivered; at once when absent.
    pub scheduled_at: Option<Timestamp>,
    /// Life of the message; for ever when absent.
    pub time_to_live: Option<Duration>,
}

/// Properties that travel beside a body.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Properties {
    /// Id of the message; the broker makes one when absent.
    pub message_id: String,
    /// MIME type of the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Id for correlation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Subject, also known as label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Address for the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// Address that the message is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The sender's own properties; the broker adds `DeadLetterReason` and `DeadLetterErrorDescription` to dead letters.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub application_properties: Map<String, Value>,
    /// Queue from which the message was dead-lettered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_source: Option<String>,
}

/// A message that was looked at.
#[derive(Debug, Clone)]
pub struct Peeked {
    /// Sequence number, unique in this broker, and growing.
    pub sequence_number: i64,
    /// Queue that holds the message.
    pub queue: String,
    /// Body of the message.
    pub body: Vec<u8>,
}

/// Which messages are looked at.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only messages of this queue.
    pub queue: Option<String>,
    /// Only messages in this state.
    pub state: Option<State>,
    /// Only messages whose body has these bytes somewhere.
    pub contains: Option<String>,
    /// At most this number of messages.
    pub limit: u32,
    /// At most this number of bytes of each body, from its begin.
    pub body: u32,
    /// Bytes after which no further message is read.
    pub bytes: usize,
}

/// State of a message in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Ready to be received.
    Active,
    /// Held by a receiver.
    Locked,
    /// Ready at a later moment.
    Scheduled,
}

/// A message as a person looks at it.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Sequence number, unique in this broker, and growing.
    pub sequence_number: i64,
    /// Queue that holds the message.
    pub queue: String,
    /// State of the message.
    pub state: State,
    /// Moment when the message was sent, or is to be.
    pub enqueued_at: Timestamp,
    /// Moment from which the message is ready: the end of a lock, or the moment for which it is scheduled.
    pub ready_at: Timestamp,
    /// Deliveries so far.
    pub delivery_count: u32,
    /// Properties beside the body.
    pub properties: Properties,
    /// Begin of the body.
    pub body: Vec<u8>,
    /// Bytes of the whole body.
    pub size: i64,
}

/// A message held under a lock.
#[derive(Debug, Clone)]
pub struct Received {
    /// Sequence number, unique in this broker, and growing.
    pub sequence_number: i64,
    /// Token that names the lock.
    pub lock_token: Uuid,
    /// Deliveries so far; 1 at the first.
    pub delivery_count: u32,
    /// Moment when the message was sent.
    pub enqueued_at: Timestamp,
    /// Moment when the message expires, if ever.
    pub expires_at: Option<Timestamp>,
    /// Body of the message.
    pub body: Vec<u8>,
    /// Properties of the message.
    pub properties: Properties,
}

/// Result of a settlement or renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Done as requested.
    Done,
    /// The lock had run out: another receiver may have the message.
    LockLost,
}

impl Broker {
    /// Opens `DIRECTORY/queue.db`. Blocks.
    pub fn open(directory: &Path, rules: Rules) -> Result<Self, Error> {
        let (database, ()) = Database::open(&directory.join("queue.db"), |connection| connection.execute_batch(SCHEMA))?;
        Ok(Self { database, rules, arrivals: Arc::default() })
    }

    /// Leaves every message in the file of the queue. Nothing is written later.
    pub async fn close(&self) {
        self.database.close().await;
    }

    /// The rules for every queue.
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// Waits until a thread of the database has panicked.
    pub async fn broke_down(&self) {
        self.database.broke_down().await;
    }

    /// Duration of a lock.
    pub fn lock_duration(&self) -> Duration {
        self.rules.lock_duration
    }

    /// Sends messages in order; they are on disk when this returns.
    pub async fn send(&self, queue: &str, messages: Vec<Outgoing>) -> Result<(), Error> {
        if messages.is_empty() {
            return Ok(());
        }
        let name = entity(queue);
        self.database
            .write(move |connection| {
                let now = now();
                let mut insert = connection.prepare_cached(
                    "INSERT INTO messages (queue, visible_at, enqueued_at, expires_at, properties, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?;
                for mut message in messages {
                    if message.properties.message_id.is_empty() {
                        message.properties.message_id = Uuid::new_v4().simple().to_string();
                    }
                    let enqueued_at = message.scheduled_at.map_or(now, |at| at.as_millisecond().max(now));
                    let expires_at = message.time_to_live.map(|life| after(moment(enqueued_at), life).as_millisecond());
                    insert.execute(params![name, enqueued_at, enqueued_at, expires_at, json_text(&message.properties), message.body])?;
                }
                Ok(())
            })
            .await?;
        self.arrivals(queue).notify_waiters();
        Ok(())
    }

    /// Locks up to `max` messages, oldest first; waits until one is ready. A power failure may undo the lock, and a later settlement:
    /// the message is then delivered again, as any message may be.
    pub async fn receive(&self, queue: &str, max: usize) -> Result<Vec<Received>, Error> {
        loop {
            let received = self.receive_within(queue, max, Duration::MAX).await?;
            if !received.is_empty() {
                return Ok(received);
            }
        }
    }

    /// Like [`Broker::receive`], but returns nothing after `patience`. A future that is dropped while it waits locks no message.
    pub async fn receive_within(&self, queue: &str, max: usize, patience: Duration) -> Result<Vec<Received>, Error> {
        let started = Instant::now();
        let arrivals = self.arrivals(queue);
        loop {
            // Listen before the check, so that no send after the check is missed.
            let arrival = arrivals.notified();
            let name = entity(queue);
            let rules = self.rules;
            let Look { locked, next, dead_lettered } =
                self.database.write_unsynced(move |connection| lock_ready(connection, &name, max, &rules)).await?;
            if dead_lettered {
                self.arrivals(&format!("{queue}{DEAD_LETTER_SUFFIX}")).notify_waiters();
            }
            let left = patience.saturating_sub(started.elapsed());
            if !locked.is_empty() || left.is_zero() {
                return Ok(locked);
            }
            let ready_in = |at| until(Timestamp::now(), moment(at));
            let sleep = next.map_or(LONGEST_SLEEP, ready_in).min(LONGEST_SLEEP);
            drop(tokio::time::timeout(sleep.min(left), arrival).await);
        }
    }

    /// The message of this queue that is held under this lock, with [`Received::lock_token`] set.
    pub async fn held(&self, queue: &str, lock_token: Uuid) -> Result<Option<Received>, Error> {
        let name = entity(queue);
        self.database
            .read(move |connection| {
                let found = connection
                    .prepare_cached(
                        "SELECT sequence_number, delivery_count, enqueued_at, expires_at, properties, body FROM messages
                         WHERE queue = ?1 AND lock_token = ?2 AND visible_at > ?3",
                    )?
                    .query_row(params![name, lock_token.as_bytes(), now()], received)
                    .optional()?;
                Ok(found.map(|message| Received { lock_token, ..message }))
            })
            .await
    }

    /// Removes a message that has been processed.
    pub async fn complete(&self, message: &Received) -> Result<Settled, Error> {
        let (sequence_number, lock_token) = (message.sequence_number, message.lock_token);
        let changed = self
            .database
            .write_unsynced(move |connection| {
                connection
                    .prepare_cached("DELETE FROM messages WHERE sequence_number = ?1 AND lock_token = ?2 AND visible_at > ?3")?
                    .execute(params![sequence_number, lock_token.as_bytes(), now()])
            })
            .await?;
        Ok(settled(changed))
    }

    /// Makes a message ready again at once, or dead-letters it after its last delivery.
    pub async fn abandon(&self, queue: &str, message: &Received) -> Result<Settled, Error> {
        let (sequence_number, lock_token) = (message.sequence_number, message.lock_token);
        let spent = message.delivery_count >= self.rules.max_delivery_count && !entity(queue).ends_with(DEAD_LETTER_SUFFIX);
        let (name, properties) = (entity(queue), message.properties.clone());
        let max = self.rules.max_delivery_count;
        let changed = self
            .database
            .write_unsynced(move |connection| {
                let held: Option<i64> = connection
                    .prepare_cached("SELECT 1 FROM messages WHERE sequence_number = ?1 AND lock_token = ?2 AND visible_at > ?3")?
                    .query_row(params![sequence_number, lock_token.as_bytes(), now()], |row| row.get(0))
                    .optional()?;
                if held.is_none() {
                    return Ok(0);
                }
                if spent {
                    return dead_letter(connection, &name, sequence_number, properties, max);
                }
                // The message keeps its age, and so its place in the queue.
                connection
                    .prepare_cached("UPDATE messages SET lock_token = NULL, visible_at = enqueued_at WHERE sequence_number = ?1")?
                    .execute([sequence_number])
            })
            .await?;
        self.arrivals(queue).notify_waiters();
        if spent {
            self.arrivals(&format!("{queue}{DEAD_LETTER_SUFFIX}")).notify_waiters();
        }
        Ok(settled(changed))
    }

    /// Holds the message for another lock duration.
    pub async fn renew(&self, message: &Received) -> Result<Settled, Error> {
        let (sequence_number, lock_token) = (message.sequence_number, message.lock_token);
        let lock_duration = self.rules.lock_duration;
        let changed = self
            .database
            .write_unsynced(move |connection| {
                let now = now();
                let until = after(moment(now), lock_duration).as_millisecond();
                connection
                    .prepare_cached(
                        "UPDATE messages SET visible_at = ?4 WHERE sequence_number = ?1 AND lock_token = ?2 AND visible_at > ?3",
                    )?
                    .execute(params![sequence_number, lock_token.as_bytes(), now, until])
            })
            .await?;
        Ok(settled(changed))
    }

    /// Makes every locked message ready at the start of a host: no receiver of an earlier host is left.
    pub async fn release_locks(&self) -> Result<usize, Error> {
        self.database
            .write(|connection| {
                connection.execute("UPDATE messages SET lock_token = NULL, visible_at = enqueued_at WHERE lock_token IS NOT NULL", [])
            })
            .await
    }

    /// At most `limit` messages of all queues after this sequence number; locks no message and counts no delivery.
    pub async fn peek(&self, after: i64, limit: u32) -> Result<Vec<Peeked>, Error> {
        self.database
            .scan(move |connection| {
                let mut some = connection.prepare_cached(
                    "SELECT sequence_number, queue, body FROM messages WHERE sequence_number > ?1 ORDER BY sequence_number LIMIT ?2",
                )?;
                let peeked = |row: &rusqlite::Row<'_>| Ok(Peeked { sequence_number: row.get(0)?, queue: row.get(1)?, body: row.get(2)? });
                some.query_map(params![after, limit], peeked)?.collect()
            })
            .await
    }

    /// Messages as a person looks at them, in the order of their sequence numbers; locks no message and counts no delivery.
    pub async fn look(&self, wanted: Wanted) -> Result<Vec<Shown>, Error> {
        self.database
            .scan(move |connection| {
                let now = now();
                let mut some = connection.prepare_cached(
                    "SELECT sequence_number, queue, lock_token IS NOT NULL, enqueued_at, visible_at, delivery_count, properties,
                            substr(body, 1, ?6), length(body)
                     FROM messages WHERE (?1 IS NULL OR queue = ?1) AND (?2 IS NULL OR instr(body, ?2) > 0)
                     AND (?3 IS NULL OR ?3 = CASE WHEN lock_token IS NOT NULL THEN 1 WHEN visible_at > ?5 THEN 2 ELSE 0 END)
                     ORDER BY sequence_number LIMIT ?4",
                )?;
                let state = wanted.state.map(|state| match state {
                    State::Active => 0,
                    State::Locked => 1,
                    State::Scheduled => 2,
                });
                let queue = wanted.queue.as_deref().map(entity);
                let mut rows =
                    some.query(params![queue, wanted.contains.map(String::into_bytes), state, wanted.limit, now, wanted.body])?;
                let (mut shown, mut bytes) = (Vec::new(), 0);
                while let Some(row) = rows.next()?.filter(|_| bytes < wanted.bytes) {
                    let (locked, ready_at): (bool, i64) = (row.get(2)?, row.get(4)?);
                    let state = match (locked, ready_at > now) {
                        (true, _) => State::Locked,
                        (false, true) => State::Scheduled,
                        (false, false) => State::Active,
                    };
                    let properties: String = row.get(6)?;
                    let body: Vec<u8> = row.get(7)?;
                    bytes += properties.len() + body.len();
                    shown.push(Shown {
                        sequence_number: row.get(0)?,
                        queue: row.get(1)?,
                        state,
                        enqueued_at: moment(row.get(3)?),
                        ready_at: moment(ready_at),
                        delivery_count: row.get(5)?,
                        properties: serde_json::from_str(&properties).unwrap_or_default(),
                        body,
                        size: row.get(8)?,
                    });
                }
                Ok(shown)
            })
            .await
    }

    /// Number of messages in each queue, and counts of the database.
    pub async fn figures(&self) -> Result<Value, Error> {
        let queues = self
            .database
            .scan(|connection| {
                let now = now();
                let mut counts = connection.prepare_cached(
                    "SELECT queue, COUNT(*), COUNT(lock_token), SUM(lock_token IS NULL AND visible_at > ?1) FROM messages GROUP BY queue",
                )?;
                let rows = counts.query_map([now], |row| {
                    let (total, locked, scheduled): (i64, i64, i64) = (row.get(1)?, row.get(2)?, row.get(3)?);
                    Ok((
                        row.get::<_, String>(0)?,
                        json!({ "active": total - locked - scheduled, "locked": locked, "scheduled": scheduled }),
                    ))
                })?;
                rows.collect::<rusqlite::Result<Map<String, Value>>>()
            })
            .await?;
        let counts = self.database.counts();
        Ok(json!({
            "queues": queues,
            "writes": counts.operations.load(Ordering::Relaxed),
            "commits": counts.commits.load(Ordering::Relaxed),
            "synced": counts.synced.load(Ordering::Relaxed),
        }))
    }

    fn arrivals(&self, queue: &str) -> Arc<Notify> {
        let mut arrivals = self.arrivals.lock();
        Arc::clone(arrivals.entry(entity(queue)).or_default())
    }
}

/// Name of a queue in lower case: Service Bus ignores case, so `orders/$DeadLetterQueue` is `orders/$deadletterqueue`.
fn entity(queue: &str) -> String {
    queue.to_ascii_lowercase()
}

/// Result of a look at a queue.
struct Look {
    /// Messages that were ready and are locked now.
    locked: Vec<Received>,
    /// Moment when the next message will be ready, if none was.
    next: Option<i64>,
    /// Whether messages went to the dead-letter queue.
    dead_lettered: bool,
}

/// Locks ready messages; returns the moment of the next one if none is ready.
fn lock_ready(connection: &Connection, queue: &str, max: usize, rules: &Rules) -> rusqlite::Result<Look> {
    let now = now();
    let until = after(moment(now), rules.lock_duration).as_millisecond();
    let ready: Vec<Received> = connection
        .prepare_cached(
            "SELECT sequence_number, delivery_count, enqueued_at, expires_at, properties, body FROM messages
             WHERE queue = ?1 AND visible_at <= ?2 ORDER BY visible_at, sequence_number LIMIT ?3",
        )?
        .query_map(params![queue, now, i64::try_from(max).unwrap_or(i64::MAX)], received)?
        .collect::<rusqlite::Result<_>>()?;
    let found = !ready.is_empty();
    let mut locked = Vec::with_capacity(ready.len());
    let mut dead_lettered = false;
    for mut message in ready {
        let sequence_number = message.sequence_number;
        if message.expires_at.is_some_and(|at| at.as_millisecond() <= now) {
            connection.prepare_cached("DELETE FROM messages WHERE sequence_number = ?1")?.execute([sequence_number])?;
        } else if message.delivery_count >= rules.max_delivery_count && !queue.ends_with(DEAD_LETTER_SUFFIX) {
            // The last lock ran out: a receiver that crashed counts like one that abandoned the message.
            dead_letter(connection, queue, sequence_number, message.properties, rules.max_delivery_count)?;
            dead_lettered = true;
        } else {
            message.delivery_count += 1;
            message.lock_token = Uuid::new_v4();
            connection
                .prepare_cached("UPDATE messages SET lock_token = ?2, visible_at = ?3, delivery_count = ?4 WHERE sequence_number = ?1")?
                .execute(params![sequence_number, message.lock_token.as_bytes(), until, message.delivery_count])?;
            locked.push(message);
        }
    }
    let next = if !locked.is_empty() {
        None
    } else if found {
        // All ready messages were dead-lettered or had expired; more may be behind them.
        Some(now)
    } else {
        connection.prepare_cached("SELECT MIN(visible_at) FROM messages WHERE queue = ?1")?.query_row([queue], |row| row.get(0))?
    };
    Ok(Look { locked, next, dead_lettered })
}

fn received(row: &Row<'_>) -> rusqlite::Result<Received> {
    let properties: String = row.get(4)?;
    Ok(Received {
        sequence_number: row.get(0)?,
        lock_token: Uuid::nil(),
        delivery_count: row.get(1)?,
        enqueued_at: moment(row.get(2)?),
        expires_at: row.get::<_, Option<i64>>(3)?.map(moment),
        properties: serde_json::from_str(&properties).unwrap_or_default(),
        body: row.get(5)?,
    })
}

fn dead_letter(
    connection: &Connection,
    queue: &str,
    sequence_number: i64,
    mut properties: Properties,
    max: u32,
) -> rusqlite::Result<usize> {
    properties.dead_letter_source = Some(queue.to_owned());
    let described = &mut properties.application_properties;
    described.insert("DeadLetterReason".into(), "MaxDeliveryCountExceeded".into());
    described.insert("DeadLetterErrorDescription".into(), format!("Message could not be consumed after {max} delivery attempts.").into());
    connection
        .prepare_cached(
            "UPDATE messages SET queue = ?2, lock_token = NULL, visible_at = ?3, expires_at = NULL, properties = ?4
             WHERE sequence_number = ?1",
        )?
        .execute(params![sequence_number, format!("{queue}{DEAD_LETTER_SUFFIX}"), now(), json_text(&properties)])
}

fn json_text(properties: &Properties) -> String {
    serde_json::to_string(properties).expect("properties have only string keys")
}

fn settled(changed: usize) -> Settled {
    if changed == 1 { Settled::Done } else { Settled::LockLost }
}

/// This machine's clock, in milliseconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

/// Moment in the database's form: milliseconds since the Unix epoch.
pub(crate) fn moment(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::MAX)
}

/// The moment `duration` later, at most the latest representable moment.
pub(crate) fn after(at: Timestamp, duration: Duration) -> Timestamp {
    at.saturating_add(duration).unwrap_or(Timestamp::MAX)
}

/// Time from `at` until `later`; zero when `later` has passed.
pub(crate) fn until(at: Timestamp, later: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(at)).unwrap_or_default()
}
