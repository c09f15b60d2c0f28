//! The queue: whether it is there, may be read by the scale controller, and is set up as this app needs it.

use std::time::Duration;

use crate::config::service_bus::Access;
use crate::functions::app::App;
use crate::functions::doctor::Place;
use crate::functions::doctor::finding::{
    DEAD_LETTERS, Finding, NO_TOKEN, QUEUE_AWAY, QUEUE_DELIVERIES, QUEUE_DENIED, QUEUE_DISABLED, QUEUE_EXPIRY, QUEUE_FULL, QUEUE_LOCK,
    QUEUE_MISSING, QUEUE_NOT_CONFIGURED, QUEUE_SESSIONS,
};
use crate::outbound::service_bus::{DescribeError, Description, Queue};

/// Shortest lock without a finding: the host renews a lock of this length in time even after a long pause of its own.
const LEAST_LOCK: Duration = Duration::from_secs(30);
/// Fewest deliveries without a finding.
const LEAST_DELIVERIES: u32 = 5;
/// Percent of the queue's size from which on it counts as nearly full.
const NEARLY_FULL: u64 = 80;

pub(super) async fn examine(app: &App) -> Vec<Finding> {
    let (Some(queue), Some(config)) = (&app.queue, &app.config.storage.service_bus) else {
        let what = "the handler has no Service Bus of its own to schedule retries in";
        return vec![Finding::of(&QUEUE_NOT_CONFIGURED, what, "set ServiceBusConnection__fullyQualifiedNamespace, or a connection string")];
    };
    let identity = match &config.access {
        Access::Identity(identity) => Some(identity),
        Access::Key { .. } | Access::Signature(_) => None,
    };
    let place = Place::of(app);
    let names = Names {
        queue: queue.name(),
        namespace: queue.namespace().split('.').next().unwrap_or_default(),
        group: place.group,
        assignee: place.assignee(identity),
        advice: identity.map_or("copy the connection string again", |identity| identity.advice()),
    };
    findings(queue.describe().await, &names, queue)
}

/// How commands name the queue.
struct Names<'a> {
    queue: &'a str,
    namespace: &'a str,
    group: &'a str,
    assignee: String,
    advice: &'static str,
}

fn findings(description: Result<Description, DescribeError>, names: &Names<'_>, queue: &Queue) -> Vec<Finding> {
    let name = format!("the queue {:?} in {}", names.queue, queue.namespace());
    let Names { namespace, group, assignee, .. } = names;
    let this = format!("-g {group} --namespace-name {namespace} -n {}", names.queue);
    let update = |change: &str| format!("az servicebus queue update {this} {change}");
    let description = match description {
        Ok(description) => description,
        Err(error) => {
            return vec![match error {
                DescribeError::NoToken(reason) => Finding::of(&NO_TOKEN, format!("Service Bus: {reason}"), names.advice),
                DescribeError::Denied(status) => Finding::of(
                    &QUEUE_DENIED,
                    format!("the app may not read the length of {name} ({status})"),
                    format!(
                        "az role assignment create --role \"Azure Service Bus Data Owner\" --assignee {assignee} --scope \"$(az servicebus \
                         namespace show -g {group} -n {namespace} --query id -o tsv)\"; docs/azure.md describes smaller roles"
                    ),
                ),
                DescribeError::Missing => Finding::of(
                    &QUEUE_MISSING,
                    format!("there is no {name}"),
                    format!(
                        "az servicebus queue create {this} --lock-duration PT5M --max-delivery-count 10 --enable-dead-lettering-on-message-expiration true"
                    ),
                ),
                DescribeError::Away(reason) => Finding::of(
                    &QUEUE_AWAY,
                    format!("{name} does not answer: {reason}"),
                    format!(
                        "az servicebus namespace show -g {group} -n {namespace} --query status; look at the namespace's network rules too"
                    ),
                ),
            }];
        }
    };
    let Description { counts, status, lock, max_deliveries, life, dead_letters_expired, sessions, bytes } = description;
    let mut found = Vec::new();
    let mut find = |kind, what: String, mend: String| found.push(Finding::of(kind, what, mend));
    if let Some(status) = status.filter(|status| status != "Active") {
        find(&QUEUE_DISABLED, format!("{name} is {status}"), update("--status Active"));
    }
    if sessions == Some(true) {
        let mend = format!(
            "az servicebus queue delete {this}, then az servicebus queue create {this} --enable-session false: sessions cannot be turned off"
        );
        find(&QUEUE_SESSIONS, format!("{name} needs sessions"), mend);
    }
    if let Some(lock) = lock.filter(|lock| *lock < LEAST_LOCK) {
        find(&QUEUE_LOCK, format!("{name} locks a message for {lock:?} only"), update("--lock-duration PT5M"));
    }
    if let Some(deliveries) = max_deliveries.filter(|deliveries| *deliveries < LEAST_DELIVERIES) {
        find(&QUEUE_DELIVERIES, format!("{name} dead-letters a message after {deliveries} deliveries"), update("--max-delivery-count 10"));
    }
    if let (Some(life), Some(false)) = (life, dead_letters_expired) {
        let what = format!("{name} deletes a message after {} s without a trace", life.as_secs());
        find(&QUEUE_EXPIRY, what, update("--enable-dead-lettering-on-message-expiration true"));
    }
    if let Some((used, most)) = bytes.filter(|(used, most)| used.saturating_mul(100) >= most.saturating_mul(NEARLY_FULL)) {
        find(&QUEUE_FULL, format!("{name} uses {used} of {most} bytes"), update("--max-size 5120"));
    }
    if counts.dead > 0 {
        let mend = "waybill verify; look at the log of OrderDeadLetter, which moves them into quarantine".to_owned();
        find(&DEAD_LETTERS, format!("{name} has {} dead letters", counts.dead), mend);
    }
    let what = format!("{name} can be read: {} waiting, {} scheduled, {} dead-lettered", counts.active, counts.scheduled, counts.dead);
    found.push(Finding::fine("queue", what));
    found
}
