//! The records: whether they can be read and written, are kept as the definition says, and whether the sweeper runs.

use std::time::Duration;

use crate::config::Records;
use crate::domain::timestamp::Timestamp;
use crate::functions::app::App;
use crate::functions::doctor::Place;
use crate::functions::doctor::finding::{
    CLOCK, Finding, QUARANTINE, STORE_AWAY, STORE_CLOSED, STORE_DIFFERS, STORE_INDEX, STORE_NOT_WRITABLE, SWEEPER_STOPPED,
};
use crate::store::{Difference, Due, Kept, Selection, StatusStore};

/// How long an order may be due. By then the sweeper, which usually runs each minute, has run several times.
const SWEEPS: Duration = Duration::from_mins(10);
/// Largest difference of two clocks without a finding.
const LARGEST_DIFFERENCE: Duration = Duration::from_secs(30);

pub(super) async fn examine(app: &App) -> Vec<Finding> {
    let Some(store) = app.store.get() else {
        let reason = app.store_trouble.lock().clone().unwrap_or_else(|| "it is being opened".into());
        return vec![Finding::of(&STORE_CLOSED, format!("the records are not open: {reason}"), MEND)];
    };
    if let Err(error) = store.answers().await {
        return vec![Finding::of(&STORE_AWAY, format!("the records cannot be read: {error}"), MEND)];
    }
    let (differences, may_write, sweeper, quarantine) =
        tokio::join!(store.differences(), store.may_write(), sweeper(store), quarantine(store));
    let mut found = Vec::new();
    match differences {
        Ok(differences) => found.extend(differences.into_iter().map(|difference| match difference {
            Difference::Wrong(what) => Finding::of(&STORE_DIFFERS, what, "docs/cosmos.md shows the command for each part of the container"),
            Difference::Costly(what) => {
                Finding::of(&STORE_INDEX, what, "az cosmosdb sql container update with --idx @FILE, the indexingPolicy of the definition")
            }
        })),
        Err(reason) => found.push(Finding::of(&STORE_AWAY, format!("the container cannot be read: {reason}"), MEND)),
    }
    if let Err(reason) = may_write {
        let mend = match &app.config.storage.records {
            Records::Embedded(data, _) => {
                format!(
                    "df -h {0} shows whether the disk is full, ls -l {0} whether the handler's user may write the files",
                    data.display()
                )
            }
            Records::Cosmos(..) => format!(
                "az cosmosdb sql role assignment create -g {} -a ACCOUNT --role-definition-name \"Cosmos DB Built-in Data Contributor\" \
                 --scope /dbs/DATABASE/colls/CONTAINER --principal-id PRINCIPAL, where PRINCIPAL is the object id of the app's identity",
                Place::of(app).group
            ),
        };
        found.push(Finding::of(&STORE_NOT_WRITABLE, format!("the records cannot be written: {reason}"), mend));
    }
    let difference = store.now().as_milliseconds().abs_diff(Timestamp::from_milliseconds(local_clock()).as_milliseconds());
    if Duration::from_millis(difference) > LARGEST_DIFFERENCE {
        let what = format!("the clock of this instance and the store's clock differ by {} s", difference / 1000);
        found.push(Finding::of(&CLOCK, what, "restart the app, so that it gets another instance"));
    }
    found.extend(sweeper);
    found.extend(quarantine);
    let has_failed = |finding: &Finding| finding.code == STORE_AWAY.code || finding.code == STORE_NOT_WRITABLE.code;
    if !found.iter().any(has_failed) {
        found.push(Finding::fine("store", "the records can be read and written"));
    }
    found
}

/// What to do about a store that does not answer.
const MEND: &str = "look at the handler's log: its errors about the store name the setting, role or resource";

fn local_clock() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// The sweeper is judged by what it leaves: its timer may run on another instance.
async fn sweeper(store: &StatusStore) -> Option<Finding> {
    let most = i64::try_from(SWEEPS.as_millis()).unwrap_or(i64::MAX);
    let id = store.overdue(1, 0, Due::Open).await.ok()?.pop()?;
    let due_at = store.read(id).await.ok()??.record.due_at?;
    let late = store.now().as_milliseconds().saturating_sub(due_at.as_milliseconds());
    (late > most).then(|| {
        Finding::of(
            &SWEEPER_STOPPED,
            format!("the order {id} has been due for {} min, and OrderSweeper has not looked at it", late / 60_000),
            "set SweepSchedule to 0 * * * * *, check AzureWebJobsStorage and the roles of the app on it, and look at the runs of OrderSweeper in the portal",
        )
    })
}

async fn quarantine(store: &StatusStore) -> Option<Finding> {
    let mut first = None;
    let take = |kept: Kept| first = Some(kept.map_or_else(|message| message.id, |message| message.id.to_string()));
    store.quarantined(Selection::Kept, 1, take).await.ok()?;
    let first = first?;
    Some(Finding::of(&QUARANTINE, format!("the message {first} and perhaps others are in quarantine"), "waybill quarantine list"))
}
