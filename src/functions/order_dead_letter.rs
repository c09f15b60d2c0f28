//! `OrderDeadLetter`: sends the order of a dead letter again, or ends the order visibly; a dead letter that belongs to no order is
//! kept in quarantine.

use std::sync::Arc;
use std::time::Duration;

use serving::failpoint;
use tracing::{error, info, warn};

use crate::domain::lifecycle::{self, DeadLetter};
use crate::domain::message;
use crate::domain::quarantine::Quarantined;
use crate::envelope::{self, Answer, QueueMessage};
use crate::functions::adoption;
use crate::functions::app::App;
use crate::functions::holder;
use crate::functions::invocation::Invocation;
use crate::functions::reply::{Conclusion, Refusal};
use crate::functions::told;
use crate::functions::{self};
use crate::metrics::{self, METRICS};
use crate::store::{Replaced, StatusStore, StoreError};

/// Takes a dead letter, reads its order, records the decision, and only then sends a message or completes the dead letter.
pub async fn run(app: Arc<App>, invocation: Invocation) -> Conclusion {
    let read = |body| envelope::queue_message(body).map_err(|error| Refusal::unreadable(&error));
    let dead = match invocation.body.whole().and_then(|body| read(body)) {
        Ok(dead) => dead,
        Err(refusal) => return Conclusion::new(Err(refusal)),
    };
    let away = |error: StoreError| Refusal::abandon(error.to_string());
    let read = async {
        let store = tokio::time::timeout(wait(&app), app.store.wait()).await.map_err(|_| away(StoreError::NotApplied))?;
        Ok::<_, Refusal>((store, adoption::read(&app, store, wait(&app), &dead.text).await.map_err(away)?))
    };
    let (store, message) = match read.await {
        Ok(read) => read,
        Err(refusal) => return Conclusion { delivery_count: dead.delivery_count, ..Conclusion::new(Err(refusal)) },
    };
    let tracking_id = message.as_ref().ok().map(|message| message.tracking_id);
    let answer = match message {
        Ok(message) => follow(&app, store, &dead, &message).await.map_err(away),
        Err(unreadable) => keep(&app, store, &dead, unreadable.to_string()).await.map_err(away),
    };
    Conclusion { delivery_count: dead.delivery_count, ..Conclusion::new(answer) }.about(tracking_id)
}

/// Longest wait for the store. An invocation waits up to five times, two of them for an adoption, and must end within its time limit.
fn wait(app: &App) -> Duration {
    app.config.time_budget.store_wait.min(app.config.time_budget.working_time / 5)
}

/// Applies the decision about the order. An error abandons the dead letter, which is delivered again without limit: a dead-letter
/// queue has no dead-letter queue.
async fn follow(app: &App, store: &StatusStore, dead: &QueueMessage, message: &message::Message) -> Result<Answer, StoreError> {
    let wait = wait(app);
    loop {
        let found = match functions::retry_store(wait, || store.read_latest(message.tracking_id)).await {
            Ok(Some(found)) => found,
            Ok(None) => return keep(app, store, dead, "no order has its tracking id".into()).await,
            // After a rollback. The sweeper of the newer version sends a message again.
            Err(error @ StoreError::Newer(_)) => {
                warn!(order.tracking_id = %message.tracking_id, %error, "a dead letter is completed: its order waits for the newer version of this program");
                METRICS.dead_letters.count(metrics::DeadLetter::Nothing);
                return Ok(Answer::done());
            }
            Err(StoreError::Unreadable(reason)) => return keep(app, store, dead, format!("its order cannot be read: {reason}")).await,
            Err(error) => return Err(error),
        };
        let holder = found.record.lease.as_ref().map(|lease| &lease.holder);
        let holder_gone = holder.is_some_and(|holder| holder::is_gone(holder, &app.holder));
        let (wait_usual, now, budgets) = (app.queue_wait.usual(), store.now(), &app.config.budgets);
        let record = match lifecycle::dead_letter(&found.record, message.life, holder_gone, wait_usual, now, budgets) {
            DeadLetter::Nothing => {
                METRICS.dead_letters.count(metrics::DeadLetter::Nothing);
                return Ok(Answer::done());
            }
            DeadLetter::Emit(record) | DeadLetter::GiveUp(record) => record,
        };
        if functions::retry_store(wait, || store.replace(&record, &found.etag)).await? == Replaced::Stale {
            continue;
        }
        failpoint!("mid-dead-letter-after-record");
        let reason = dead.dead_letter_reason.as_deref().unwrap_or("no reason given");
        told::interruption(&found.record, &record);
        if record.status.is_terminal() {
            METRICS.dead_letters.count(metrics::DeadLetter::Ended);
            functions::ended(app, &record);
            return Ok(Answer::done());
        }
        info!(order.tracking_id = %record.tracking_id, message.dead_letter_reason = reason, "a message of this order was dead-lettered; it is sent again");
        METRICS.dead_letters.count(metrics::DeadLetter::SentAgain);
        told::sent_again(&record, "a message of it was dead-lettered");
        return Ok(Answer::emit(vec![message::write(&record)]));
    }
}

async fn keep(app: &App, store: &StatusStore, dead: &QueueMessage, reason: String) -> Result<Answer, StoreError> {
    let wait = wait(app);
    let body = dead.bytes.as_deref().unwrap_or(dead.text.as_bytes());
    let (dead_letter_reason, retention) = (dead.dead_letter_reason.as_deref(), app.config.quarantine_retention);
    let quarantined = Quarantined::new(store.tracking_key(), body, reason, dead_letter_reason, store.now(), retention);
    functions::retry_store(wait, || store.quarantine(&quarantined)).await?;
    METRICS.dead_letters.count(metrics::DeadLetter::Quarantined);
    error!(quarantine.id = %quarantined.id, quarantine.reason = quarantined.reason, "a dead letter is kept in quarantine: it cannot be processed");
    Ok(Answer::done())
}
