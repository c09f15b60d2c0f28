//! `waybill verify`: compares the records with the queue and its dead letters.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use crate::cli::operate::local_queue::LocalQueue;
use crate::cli::operate::outcome::describe;
use crate::cli::operate::{self, Ended, MOST, Operator};
use crate::domain::message;
use crate::domain::record::{Event, NoticeState, Record, Status};
use crate::domain::timestamp::Timestamp;
use crate::domain::tracking::TrackingId;
use crate::outbound::service_bus::Counts;
use crate::store::{Filter, Listed, Selection, StoreError};

/// Longest time from the write of a record to its message, if nothing is broken.
const SENDING: Duration = Duration::from_secs(10);
/// How long an order may be due before it is reported: by then the sweeper, which runs each minute, has run at least twice.
const SWEEPS: Duration = Duration::from_mins(3);

/// Two things that cannot both be right, or one that nothing looks after.
#[derive(Debug, PartialEq, Serialize)]
#[serde(tag = "code", rename_all = "snake_case", rename_all_fields = "camelCase")]
enum Disagreement {
    EndedMoreThanOnce {
        tracking_id: TrackingId,
        ends: usize,
    },
    EndedAndHeld {
        tracking_id: TrackingId,
        status: Status,
    },
    NoDueTime {
        tracking_id: TrackingId,
        status: Status,
    },
    Overdue {
        tracking_id: TrackingId,
        status: Status,
        due_at: Timestamp,
    },
    /// A message of an order that has no record.
    NoOrder {
        tracking_id: TrackingId,
    },
    UnreadableMessages {
        messages: usize,
    },
    DeadLetters {
        messages: u64,
    },
    MessagesMissing {
        accepted: u64,
        messages: u64,
    },
}

impl Display for Disagreement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndedMoreThanOnce { tracking_id, ends } => write!(f, "order {tracking_id} ended {ends} times in one life"),
            Self::EndedAndHeld { tracking_id, status } => {
                write!(f, "order {tracking_id} is {}, but its record still has a lease or a due time, or never expires", status.as_str())
            }
            Self::NoDueTime { tracking_id, status } => {
                write!(f, "order {tracking_id} is {}, but its record has no due time, so OrderSweeper does not find it", status.as_str())
            }
            Self::Overdue { tracking_id, status, due_at } => {
                write!(f, "order {tracking_id} is {} and overdue since {due_at}: does OrderSweeper run?", status.as_str())
            }
            Self::NoOrder { tracking_id } => write!(f, "the queue has a message for {tracking_id}, but no order has this tracking id"),
            Self::UnreadableMessages { messages } => write!(f, "{messages} messages in the queue cannot be read"),
            Self::DeadLetters { messages } => write!(f, "{messages} dead letters wait for OrderDeadLetter"),
            Self::MessagesMissing { accepted, messages } => {
                write!(f, "{accepted} orders are accepted, but the queue has only {messages} messages: OrderSweeper sends the missing ones")
            }
        }
    }
}

/// What was seen of the records. One record is in memory at a time.
struct Looked {
    now: Timestamp,
    /// The messages in the queue of this machine, where there is one.
    messages: Option<Messages>,
    seen: HashSet<TrackingId>,
    /// Accepted orders whose message had time to be sent.
    accepted: u64,
    /// Records that this version cannot read, each with the reason.
    unreadable: BTreeMap<String, String>,
    disagreements: Vec<Disagreement>,
}

impl Looked {
    fn at(&mut self, listed: Listed) {
        match listed {
            // An order that changes its status between two queries is found twice.
            Listed::Record(record) if self.seen.insert(record.tracking_id) => {
                self.disagreements.extend(inconsistencies(&record, self.now, self.messages.as_ref()));
                self.accepted += u64::from(is_to_have_a_message(&record, self.now));
            }
            Listed::Record(_) => {}
            Listed::Unreadable(record) => {
                self.unreadable.insert(record.id, record.reason);
            }
        }
    }
}

impl Operator {
    /// Looks at every order that has not ended and at `limit` of all, newest first.
    pub(super) async fn verify(&self, limit: u32) -> Result<Ended, String> {
        let messages = match &self.local {
            Some(queue) => Some(Messages::of(queue).await?),
            None => None,
        };
        let mut looked = Looked {
            now: self.store.now(),
            messages,
            seen: HashSet::new(),
            accepted: 0,
            unreadable: BTreeMap::new(),
            disagreements: Vec::new(),
        };
        self.store.each(&Filter::default(), limit, |listed| looked.at(listed)).await.map_err(|error| describe(&error))?;
        let all = looked.seen.len() < limit as usize;
        if !all {
            for status in [Status::Accepted, Status::Processing] {
                let filter = Filter { status: Some(status), ..Filter::default() };
                self.store.each(&filter, MOST, |listed| looked.at(listed)).await.map_err(|error| describe(&error))?;
            }
        }
        if let Some(messages) = &looked.messages {
            for tracking_id in messages.ids().filter(|id| !looked.seen.contains(id)) {
                // The record may be newer than the queries above, or of an ended order beyond the limit, or not readable.
                match self.store.read_latest(tracking_id).await {
                    Ok(Some(_)) | Err(StoreError::Unreadable(_) | StoreError::Newer(_)) => {}
                    Ok(None) => looked.disagreements.push(Disagreement::NoOrder { tracking_id }),
                    Err(error) => return Err(describe(&error)),
                }
            }
            if messages.unreadable > 0 {
                looked.disagreements.push(Disagreement::UnreadableMessages { messages: messages.unreadable });
            }
            if messages.dead > 0 {
                looked.disagreements.push(Disagreement::DeadLetters { messages: messages.dead });
            }
        }
        let counts = match (&looked.messages, &self.remote) {
            // Reading a message by REST counts as a delivery, so messages are only counted.
            (None, Some(remote)) => Some(remote.counts().await),
            _ => None,
        };
        if let Some(Ok(counts)) = &counts {
            looked.disagreements.extend(miscounted(looked.accepted, *counts));
        }
        let mut kept = Vec::new();
        self.each_quarantined(Selection::Kept, |message| kept.push((message.id, message.reason))).await?;
        let (records, Looked { messages, unreadable, disagreements, .. }) = (looked.seen.len(), looked);
        let (code, compared) = match (&messages, &counts) {
            (Some(_), _) => ("local_queue", "records were compared with the queue of this machine".to_owned()),
            (None, Some(Ok(Counts { active, scheduled, dead }))) => {
                ("counts", format!("no message was touched; the queue counts {active} active, {scheduled} scheduled, {dead} dead letters"))
            }
            (None, Some(Err(reason))) => ("not_counted", format!("records only: the queue's messages were not counted ({reason})")),
            (None, None) => ("no_queue", "records only: there is no queue to count messages in".to_owned()),
        };
        if self.json {
            let counted = counts
                .and_then(Result::ok)
                .map(|Counts { active, scheduled, dead }| json!({ "active": active, "scheduled": scheduled, "deadLetters": dead }));
            let quarantined: Vec<_> = kept.iter().map(|(id, _)| *id).collect();
            let unreadable: Vec<_> = unreadable.keys().collect();
            operate::say(
                &json!({
                    "records": records, "all": all, "disagreements": disagreements, "quarantined": quarantined,
                    "unreadable": unreadable, "compared": code, "queue": counted
                })
                .to_string(),
            );
        } else {
            for disagreement in &disagreements {
                operate::say(&disagreement.to_string());
            }
            for (id, reason) in &unreadable {
                operate::say(&format!("not compared: {}", operate::left_out(id, reason)));
            }
            for (id, reason) in &kept {
                operate::say(&format!("in quarantine: message {id}: {reason}"));
            }
            let left = if all { "" } else { " (of the ended orders only the newest: see --limit)" };
            let count = |number: usize, what: &str| if number > 0 { format!(", {number} {what}") } else { String::new() };
            eprintln!(
                "{records} records{left}, {} disagreements{}{}; {compared}",
                disagreements.len(),
                count(unreadable.len(), "records that cannot be read"),
                count(kept.len(), "messages in quarantine"),
            );
        }
        Ok(if !disagreements.is_empty() {
            Ended::Negative
        } else if kept.is_empty() && unreadable.is_empty() {
            Ended::Well
        } else {
            Ended::LeftOver
        })
    }
}

/// The messages in this machine's queue.
struct Messages {
    /// Messages of each order, without dead letters.
    alive: HashMap<TrackingId, usize>,
    unreadable: usize,
    dead: u64,
}

impl Messages {
    async fn of(queue: &LocalQueue) -> Result<Self, String> {
        let mut messages = Self { alive: HashMap::new(), unreadable: 0, dead: 0 };
        let dead = queue.peek(|body| match std::str::from_utf8(body).ok().and_then(|text| message::read(text).ok()) {
            Some(message) => *messages.alive.entry(message.tracking_id).or_default() += 1,
            None => messages.unreadable += 1,
        });
        messages.dead = dead.await?;
        Ok(messages)
    }

    fn ids(&self) -> impl Iterator<Item = TrackingId> {
        self.alive.keys().copied()
    }
}

/// Everything about a record that is inconsistent or overdue.
fn inconsistencies(record: &Record, now: Timestamp, messages: Option<&Messages>) -> Vec<Disagreement> {
    let (tracking_id, status) = (record.tracking_id, record.status);
    let mut found = Vec::new();
    let mut ends = 0;
    for transition in &record.history {
        match transition.event {
            Event::Redriven => ends = 0,
            event if event.is_end() => ends += 1,
            _ => {}
        }
    }
    if ends > 1 {
        found.push(Disagreement::EndedMoreThanOnce { tracking_id, ends });
    }
    if status.is_terminal() {
        let is_told = record.notice().is_some_and(|notice| notice.state == NoticeState::Pending);
        if record.lease.is_some() || record.due_at.is_some() != is_told || record.ttl.is_none() {
            found.push(Disagreement::EndedAndHeld { tracking_id, status });
        }
        return found;
    }
    let Some(due_at) = record.due_at else {
        found.push(Disagreement::NoDueTime { tracking_id, status });
        return found;
    };
    let alone = messages.is_none_or(|messages| !messages.alive.contains_key(&tracking_id));
    if due_at.until(now) > SWEEPS && alone {
        found.push(Disagreement::Overdue { tracking_id, status, due_at });
    }
    found
}

/// Whether the order waits for its first claim, and its message is sent by now if nothing is broken.
fn is_to_have_a_message(record: &Record, now: Timestamp) -> bool {
    record.status == Status::Accepted && record.updated_at.until(now) > SENDING
}

/// Disagreements between this number of accepted orders and the message counts.
fn miscounted(accepted: u64, counts: Counts) -> Vec<Disagreement> {
    let mut found = Vec::new();
    let messages = counts.active + counts.scheduled;
    if accepted > messages {
        found.push(Disagreement::MessagesMissing { accepted, messages });
    }
    if counts.dead > 0 {
        found.push(Disagreement::DeadLetters { messages: counts.dead });
    }
    found
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

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
            let now = record.updated_at.after(later);
            let accepted = [&record, &record].into_iter().filter(|record| is_to_have_a_message(record, now)).count() as u64;
            miscounted(accepted, Counts { active, scheduled, dead }).len()
        };

        assert_eq!(reported(1, 0, 0, SENDING * 2), 1);
        assert_eq!(reported(1, 0, 0, SENDING), 0, "they may still be sent");
        assert_eq!(reported(1, 1, 0, SENDING * 2), 0);
        assert_eq!(reported(0, 0, 3, SENDING * 2), 2);
    }
}
