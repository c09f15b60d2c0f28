//! `waybill quarantine`: messages that no function could act on.

use serde_json::json;
use serving::terminal::{columns, printable};
use uuid::Uuid;

use crate::cli::operate::outcome::describe;
use crate::cli::operate::{self, Operator, table};
use crate::domain::quarantine::{Discarded, Quarantined};
use crate::store::{Quarantine, Selection, Unreadable};

/// Quarantined messages that are read.
const QUARANTINED: u32 = 100_000;

impl Operator {
    /// The messages in quarantine. Those that this version cannot read are named.
    pub(super) async fn quarantined(&self, selection: Selection) -> Result<Vec<Quarantined>, String> {
        let Quarantine { messages, unreadable } = self.store.quarantined(selection, QUARANTINED).await.map_err(|error| describe(&error))?;
        for message in unreadable {
            let Unreadable { id, reason } = message;
            eprintln!("waybill: {}", printable(&format!("message {id} is left out, because it cannot be read: {reason}")));
        }
        Ok(messages)
    }

    async fn kept_one(&self, id: Uuid) -> Result<Quarantined, String> {
        let kept = self.quarantined(Selection::All).await?;
        kept.into_iter().find(|message| message.id == id).ok_or_else(|| unknown(id))
    }

    pub(super) async fn list_quarantined(&self, all: bool) -> Result<(), String> {
        let kept = self.quarantined(if all { Selection::All } else { Selection::Kept }).await?;
        if self.json {
            for message in &kept {
                operate::say(&operate::json_text(message));
            }
            return Ok(());
        }
        let rows: Vec<[String; 3]> = kept
            .iter()
            .map(|message| {
                let discarded = message.discarded.as_ref().map_or_else(String::new, |why| format!("discarded ({}): ", why.reason));
                let dead = message.dead_letter_reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
                [message.id.to_string(), operate::to_seconds(message.kept_at), format!("{discarded}{}{dead}", message.reason)]
            })
            .collect();
        operate::say_all(&table::table(["id", "kept", "reason"], &rows, columns()));
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
        let kept = self.quarantined(Selection::All).await?;
        let mut all = true;
        for id in ids {
            let found = kept.iter().find(|message| message.id == *id);
            let is_discarded = match found {
                Some(message) => {
                    let why = Discarded { at: self.store.now(), reason: reason.to_owned() };
                    let discarded = Quarantined { discarded: Some(why), ..message.clone() };
                    self.store.discard(message, &discarded).await.map_err(|error| describe(&error))?
                }
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

    /// Sends a message again, as it came, and removes it from quarantine.
    pub(super) async fn release(&self, id: Uuid) -> Result<(), String> {
        let found = self.kept_one(id).await?;
        if !self.send(found.body()).await? {
            return Err("there is no queue to send it to: pass --data, or set ServiceBusConnection".into());
        }
        let released = self.store.release(&found).await.map_err(|error| describe(&error))?;
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

const CAME_BACK: &str = "sent again; but the message came back to quarantine meanwhile, or another operator has sent it too";
