//! `waybill orders retry`, `cancel` and `callback retry`: change one order, by the rules that functions change it by.

use serde_json::json;
use serving::terminal::printable;
use uuid::Uuid;

use crate::cli::operate::id_prefix::IdPrefix;
use crate::cli::operate::outcome::{Done, Refused};
use crate::cli::operate::{self, Operator};
use crate::domain::callback::{self, CannotSend};
use crate::domain::lifecycle::{self, Cancel};
use crate::domain::message;
use crate::domain::record::Status;
use crate::domain::tracking::TrackingId;
use crate::store::Replaced;

impl Operator {
    /// Does `act` to each order in turn and prints each result; returns whether all succeeded.
    pub(super) async fn change(&self, ids: &[IdPrefix], act: impl AsyncFn(TrackingId) -> Result<Done, Refused>) -> bool {
        let mut all = true;
        for id in ids {
            let (id, result) = match self.resolve(id).await {
                Ok(found) => (found.to_string(), act(found).await),
                Err(refused) => (id.to_string(), Err(refused)),
            };
            match result {
                Ok(done) if self.json => operate::say(&json!({ "trackingId": id, "done": done.code() }).to_string()),
                Ok(done) => operate::say(&format!("{id}  {done}")),
                Err(refused) => {
                    all = false;
                    if self.json {
                        operate::say(&refused.json(&id).to_string());
                    } else {
                        eprintln!("waybill: {id}: {}", printable(&refused.to_string()));
                    }
                }
            }
        }
        all
    }

    /// Sends a failed order again. The record is written first: if this process ends before it sends the message, the sweeper sends it.
    pub(super) async fn retry(&self, id: TrackingId) -> Result<Done, Refused> {
        loop {
            let found = self.latest(id).await?;
            let record =
                lifecycle::redrive(&found.record, Uuid::new_v4(), self.store.now(), &self.budgets).ok_or(match found.record.status {
                    Status::Failed => Refused::NotValid,
                    status => Refused::NotFailed(status),
                })?;
            if self.store.replace(&record, &found.etag).await? == Replaced::Stale {
                continue;
            }
            let sent = self.send(message::write(&record).into_bytes()).await;
            return Ok(if sent == Ok(true) { Done::Sent } else { Done::Accepted });
        }
    }

    /// Cancels an order. Its message stays in the queue, and does nothing once the order has ended.
    pub(super) async fn cancel(&self, id: TrackingId) -> Result<Done, Refused> {
        loop {
            let found = self.latest(id).await?;
            let record = match lifecycle::cancel(&found.record, self.store.now(), &self.budgets) {
                Cancel::Cancelled | Cancel::Requested => found.record,
                Cancel::Ended => return Err(Refused::Ended(found.record.status)),
                Cancel::End(record) | Cancel::Request(record) => {
                    if self.store.replace(&record, &found.etag).await? == Replaced::Stale {
                        continue;
                    }
                    record
                }
            };
            return Ok(if record.status.is_terminal() { Done::Cancelled } else { Done::CancelRequested });
        }
    }

    /// Has the end of an order told once more. The handler sends it: the sweeper finds the record.
    pub(super) async fn tell_again(&self, id: TrackingId) -> Result<Done, Refused> {
        loop {
            let found = self.latest(id).await?;
            let status = found.record.status;
            let record = callback::send_again(&found.record, self.budgets.tells_ends, self.store.now()).map_err(|why| match why {
                CannotSend::NotEnded => Refused::NotEnded(status),
                CannotSend::NoTarget => Refused::NoTarget,
            })?;
            if self.store.replace(&record, &found.etag).await? != Replaced::Stale {
                return Ok(Done::ToBeTold);
            }
        }
    }
}
