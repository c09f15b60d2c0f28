//! `waybill quarantine`: messages that no function could act on.

use serde_json::json;
use serving::terminal::{columns, printable};
use uuid::Uuid;

use crate::cli::operate::outcome::describe;
use crate::cli::operate::{self, Operator, table};
use crate::domain::quarantine::{Discarded, Quarantined};
use crate::store::{Selection, Unreadable};

/// Quarantined messages that are read.
const QUARANTINED: u32 = 100_000;

impl Operator {
    /// Takes the messages in quarantine, none of which is held. Those that this version cannot read are named.
    pub(super) async fn each_quarantined(&self, selection: Selection, mut take: impl FnMut(Quarantined)) -> Result<(), String> {
        let mut unreadable = Vec::new();
        let taken = self.store.quarantined(selection, QUARANTINED, |kept| match kept {
            Ok(message) => take(message),
            Err(message) => unreadable.push(message),
        });
        let taken = taken.await.map_err(|error| describe(&error));
        for Unreadable { id, reason } in unreadable {
            eprintln!("waybill: {}", printable(&format!("message {id} is left out, because it cannot be read: {reason}")));
        }
        taken
    }

    /// The messages with these ids, as far as they are in quarantine.
    async fn kept(&self, ids: &[Uuid]) -> Result<Vec<Quarantined>, String> {
        let mut kept = Vec::new();
        self.each_quarantined(Selection::All, |message| kept.extend(Some(message).filter(|message| ids.contains(&message.id)))).await?;
        Ok(kept)
    }

    pub(super) async fn kept_one(&self, id: Uuid) -> Result<Quarantined, String> {
        self.kept(&[id]).await?.pop().ok_or_else(|| unknown(id))
    }

    pub(super) async fn list_quarantined(&self, all: bool) -> Result<(), String> {
        let mut rows: Vec<[String; 3]> = Vec::new();
        let listed = self.each_quarantined(if all { Selection::All } else { Selection::Kept }, |message| {
            if self.json {
                return operate::say(&operate::json_text(&message));
            }
            let discarded = message.discarded.map_or_else(String::new, |why| format!("discarded ({}): ", why.reason));
            let dead = message.dead_letter_reason.map_or_else(String::new, |reason| format!(" ({reason})"));
            rows.push([message.id.to_string(), operate::to_seconds(message.kept_at), format!("{discarded}{}{dead}", message.reason)]);
        });
        listed.await?;
        if !self.json {
            operate::say_all(&table::table(["id", "kept", "reason"], &rows, columns()));
        }
        Ok(())
    }

    pub(super) async fn show_quarantined(&self, id: Uuid) -> Result<(), String> {
        let found = self.kept_one(id).await?;
        if self.json {
            operate::say(&operate::json_text(&found));
        } else {
            operate::say_all(&operate::pretty(&found).lines().collect::<Vec<_>>());
        }
        Ok(())
    }

    /// Notes that nothing is left to do about messages; returns whether all were there.
    pub(super) async fn discard(&self, ids: &[Uuid], reason: &str) -> Result<bool, String> {
        let kept = self.kept(ids).await?;
        let mut all = true;
        for id in ids {
            let found = kept.iter().find(|message| message.id == *id);
            let is_discarded = match found {
                Some(message) => self.discard_one(message, reason).await?,
                None => false,
            };
            all &= is_discarded;
            match (is_discarded, found.is_some()) {
                (true, _) if self.json => operate::say(&json!({ "id": id, "done": "discarded" }).to_string()),
                (true, _) => operate::say(&format!("{id}  discarded")),
                (false, there) if self.json => {
                    let problem = if there { "message_changed" } else { "message_not_found" };
                    operate::say(&json!({ "id": id, "problem": problem }).to_string());
                }
                (false, true) => eprintln!("waybill: {id}: the message came back to quarantine meanwhile; look at it again"),
                (false, false) => eprintln!("waybill: {}", unknown(*id)),
            }
        }
        Ok(all)
    }

    /// Notes that nothing is left to do about a message. `false`: it came back to quarantine meanwhile.
    pub(super) async fn discard_one(&self, message: &Quarantined, reason: &str) -> Result<bool, String> {
        let why = Discarded { at: self.store.now(), reason: reason.to_owned() };
        let discarded = Quarantined { discarded: Some(why), ..message.clone() };
        self.store.discard(message, &discarded).await.map_err(|error| describe(&error))
    }

    /// Sends a message again, as it came, and removes it from quarantine. `false`: it came back meanwhile, or was sent twice.
    pub(super) async fn release_one(&self, message: &Quarantined) -> Result<bool, String> {
        if !self.send(message.body()).await? {
            return Err("there is no queue to send it to: pass --data, or set ServiceBusConnection".into());
        }
        self.store.release(message).await.map_err(|error| describe(&error))
    }

    /// Sends a message again and tells the result.
    pub(super) async fn release(&self, id: Uuid) -> Result<(), String> {
        let released = self.release_one(&self.kept_one(id).await?).await?;
        if self.json {
            operate::say(&json!({ "id": id, "sent": true, "released": released }).to_string());
        } else {
            operate::say(&format!("{id}  {}", if released { "sent again" } else { CAME_BACK }));
        }
        Ok(())
    }
}

fn unknown(id: Uuid) -> String {
    format!("nothing in quarantine has the id {id}")
}

pub(super) const CAME_BACK: &str = "sent again; but the message came back to quarantine meanwhile, or another operator has sent it too";
