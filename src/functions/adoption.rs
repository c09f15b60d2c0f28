//! Orders that a gateway sent to the queue itself (`ADOPT_GATEWAY_ORDERS`): the record that is missing is made at the first delivery.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;
use uuid::Uuid;

use crate::config::auth;
use crate::config::gateway::GatewayOwner;
use crate::domain::form::{ReadOrder, Unacceptable};
use crate::domain::gateway::{self, GatewayMessage};
use crate::domain::lifecycle::{self, Submission};
use crate::domain::message::{self, Message, Unreadable};
use crate::domain::order::Names;
use crate::domain::record::{Failure, Metadata, Record};
use crate::functions;
use crate::functions::app::App;
use crate::functions::told;
use crate::store::{Created, StatusStore, StoreError};

/// The owner of an order whose caller the gateway did not name: no caller.
const NO_CALLER: &str = "gateway";

/// Reads a message. One that a gateway sent has no record before its first delivery, which makes it here. Asks the store up to twice,
/// each time for `wait`.
pub(super) async fn read(app: &App, store: &StatusStore, wait: Duration, text: &str) -> Result<Result<Message, Unreadable>, StoreError> {
    let read = message::read(text);
    match (&read, &app.config.gateway_owner) {
        (Err(Unreadable::Malformed(_)), Some(owner)) => Ok(adopt(app, store, owner, wait, text).await?.map_or(read, Ok)),
        _ => Ok(read),
    }
}

/// The message of the order that a gateway sent with this text, once the order has a record. `None`: the text is something else, or so
/// old that the record of its order may have expired. The same text twice is one order: id and life are those of the gateway's message.
async fn adopt(app: &App, store: &StatusStore, owner: &GatewayOwner, wait: Duration, text: &str) -> Result<Option<Message>, StoreError> {
    let Some(sent) = gateway::read(text) else { return Ok(None) };
    let tracking_id = sent.tracking_id;
    let message = Message::of(tracking_id, life(&sent));
    // One read: where it misses a record that another instance has just made, `create` finds that record.
    let known = functions::retry_store(wait, || store.read_latest_once(tracking_id)).await.map(|found| found.is_some());
    // A record that cannot be read is there; what follows from that is decided where the order is looked at.
    if known.or_else(|error| if error.is_answer() { Ok(true) } else { Err(error) })? {
        return Ok(Some(message));
    }
    // Made anew, an order that has ended and expired would be worked on, and told, a second time.
    if sent.origin.received_at.after(app.config.budgets.retention) <= store.now() {
        return Ok(None);
    }
    let record = record(app, store, owner, sent);
    match functions::retry_store(wait, || store.create(&record)).await {
        Ok(Created::Created(_)) if record.status.is_terminal() => functions::ended(app, &record),
        Ok(Created::Created(_)) => told::accepted(&record),
        Ok(Created::Exists(..)) => {}
        Err(error) if error.is_answer() => {}
        Err(error) => return Err(error),
    }
    Ok(Some(message))
}

/// The first life of the order's record. An order that is submitted to the handler has a random one, which its message names.
fn life(sent: &GatewayMessage<'_>) -> Uuid {
    Uuid::from_bytes(*sent.tracking_id.as_bytes())
}

/// The record of the order, which has ended already if it is not valid.
fn record(app: &App, store: &StatusStore, owner: &GatewayOwner, sent: GatewayMessage<'_>) -> Record {
    let (now, budgets) = (store.now(), &app.config.budgets);
    let life = life(&sent);
    let owner = match owner {
        GatewayOwner::All(owner) => Some(owner.clone()),
        GatewayOwner::Token(issuer) => sent.origin.owner.filter(|owner| is_of(owner, issuer)),
    };
    let too_large = || Failure::new("order_too_large", format!("an order with its metadata takes at most {} bytes", message::MAX_BYTES));
    let (order, mut refusal) = if sent.data.len() > message::MAX_BYTES {
        // Before parsing: a tree of many small values is far larger than its text. The text would be too large for a record, too.
        (unread(""), Some(too_large()))
    } else {
        match app.config.order_form.read(sent.data) {
            Ok(order) => (order, None),
            Err(reason) => (unread(sent.data), Some(refused(&reason))),
        }
    };
    if owner.is_none() {
        warn!(order.tracking_id = %sent.tracking_id, "the gateway names no caller of AUTH_ISSUER for an order: its policy must check the token");
        refusal = Some(Failure::new("caller_unknown", "the gateway did not say whose order this is"));
    }
    let received_at = sent.origin.received_at.min(now);
    let submission = Submission {
        tracking_id: sent.tracking_id,
        life,
        order: order.text,
        names: order.names,
        fingerprint: functions::hex(&order.fingerprint),
        metadata: Metadata {
            api_name: sent.origin.api_name,
            operation_name: sent.origin.operation_name,
            subscription_id: sent.origin.subscription_id,
            received_at,
            traceparent: None,
            owner: owner.unwrap_or_else(|| NO_CALLER.into()),
        },
        callback_url: None,
    };
    // The client was answered when the gateway took the order, so the deadline counts from there.
    let record = lifecycle::accept(submission, app.queue_wait.usual(), received_at, budgets);
    // A refused order needs no message.
    let refusal = refusal.or_else(|| (message::write(&record).len() > message::MAX_BYTES).then(too_large));
    match refusal {
        Some(failure) => lifecycle::refuse(record, failure, now, budgets),
        None => record,
    }
}

/// Whether the owner is a caller with a token of this issuer.
fn is_of(owner: &str, issuer: &str) -> bool {
    let subject = owner.strip_prefix(issuer).and_then(|rest| rest.strip_prefix(' '));
    subject.is_some_and(auth::is_name)
}

/// What a record keeps of an order that is not valid: its text as a string, since no store need take what is in it.
fn unread(text: &str) -> ReadOrder {
    let text = serde_json::value::to_raw_value(text).expect("a text can be written as JSON");
    ReadOrder { text: Arc::from(text), fingerprint: [0; 32], names: Names::default() }
}

/// The failure of an order that is not valid. It repeats no value of the order.
fn refused(reason: &Unacceptable) -> Failure {
    match reason {
        Unacceptable::NotJson(reason) => Failure::new("not_json", format!("the order is not JSON: {reason}")),
        Unacceptable::Invalid(errors) => {
            let places: Vec<_> = errors.iter().map(|error| if error.pointer.is_empty() { "the whole" } else { &error.pointer }).collect();
            Failure::new("invalid_order", format!("the order is not valid, at {}", places.join(", ")))
        }
    }
}
