//! One order as a card: what an operator asks first.

use http::Uri;
use serving::terminal::{duration, printable};

use crate::cli::operate::{self, table};
use crate::domain::failure;
use crate::domain::lifecycle::Budgets;
use crate::domain::record::{NoticeState, Record, Status};
use crate::domain::timestamp::Timestamp;

/// Columns of the names.
const WIDTH: usize = 10;

/// Lines of the card. They hold foreign text. On a terminal with this number of columns the order and the result are cut to their rows, with `…`.
pub(super) fn lines(record: &Record, budgets: &Budgets, columns: Option<usize>) -> Vec<String> {
    let names = record.names();
    let mut lines = Vec::new();
    let mut row = |name: &str, value: &str| {
        if !value.is_empty() {
            lines.push(format!("{name:<WIDTH$}{value}"));
        }
    };
    row("order", &names.order_id);
    row("customer", &names.customer_id);
    row("id", &record.tracking_id.to_string());
    row("owner", &record.owner);
    row("status", &status(record));
    row("tries", &tries(record, budgets));
    if let Some(error) = &record.error {
        row("error", &format!("{}: {}", error.code, error.message));
        row("", failure::meaning(&error.code).unwrap_or_default());
    }
    row("next", &next(record, budgets));
    row("callback", &callback(record));
    let mut json = |name: &str, text: &str| {
        let text = printable(&operate::one_line(text.to_owned())).into_owned();
        row(name, &columns.map_or_else(|| text.clone(), |columns| table::cut(&text, columns.saturating_sub(WIDTH))));
    };
    json("content", record.order.get());
    if let Some(result) = &record.result {
        json("result", result.get());
    }
    lines.push("timeline".into());
    let mut before = record.submitted_at;
    for transition in &record.history {
        let code = transition.code.as_deref().unwrap_or_default();
        let after = duration(before.until(transition.at));
        let line = format!(
            "  {}  {:>14}  {:<12}try {}  {code}",
            transition.at,
            format!("+{after}"),
            transition.event.as_str(),
            transition.attempt
        );
        lines.push(line.trim_end().to_owned());
        before = transition.at;
    }
    lines
}

fn status(record: &Record) -> String {
    let status = record.status.as_str();
    match (record.completed_at, &record.stage) {
        (Some(end), _) => format!("{status}, after {}", duration(record.submitted_at.until(end))),
        (None, Some(stage)) => format!("{status}, {} %, {stage}", record.progress),
        (None, None) => format!("{status}, {} %", record.progress),
    }
}

pub(super) fn tries(record: &Record, budgets: &Budgets) -> String {
    let interruptions = if record.interruptions > 0 { format!(", {} interruptions", record.interruptions) } else { String::new() };
    let all = if record.attempts_before > 0 { format!(", {} with those before it was sent again", record.attempt) } else { String::new() };
    format!("{}{all}{interruptions}", try_of(record, budgets))
}

/// The try of this budget, such as `2 of 5`. Without the most where an order has had more, because the setting was lowered.
fn try_of(record: &Record, budgets: &Budgets) -> String {
    let (number, most) = (record.attempt.saturating_sub(record.attempts_before), budgets.max_attempts);
    if number > most { number.to_string() } else { format!("{number} of {most}") }
}

/// What an order does now that has not ended, and since when.
pub(super) fn doing(record: &Record, budgets: &Budgets) -> (String, Timestamp) {
    let number = try_of(record, budgets);
    match (record.retry_at, &record.lease) {
        (Some(retry_at), _) => (format!("try {number} failed, the next begins at {retry_at}"), record.updated_at),
        (None, Some(_)) => (format!("try {number} runs"), record.claimed_at().unwrap_or(record.updated_at)),
        (None, None) => match record.wake_at {
            Some(wake_at) if wake_at > record.updated_at => (format!("its message arrives at {wake_at}"), record.updated_at),
            _ => ("waits for a worker".into(), record.sent_again_at.unwrap_or(record.submitted_at)),
        },
    }
}

/// The receiver of the callback, and the state of the callback.
pub(super) fn callback(record: &Record) -> String {
    let Some(callback) = &record.callback else { return String::new() };
    let host = callback.url.as_deref().map_or_else(|| "CALLBACK_URL".into(), receiver);
    let Some(notice) = record.notice() else { return format!("to {host}, once it has ended") };
    let tries = if notice.attempts == 1 { "1 try".into() } else { format!("{} tries", notice.attempts) };
    let code = notice.code.as_ref().map_or_else(String::new, |code| format!(", {code}"));
    match (notice.state, record.due_at) {
        (NoticeState::Delivered, _) => format!("to {host}: delivered, {tries}"),
        (NoticeState::GivenUp, _) => format!("to {host}: given up, {tries}{code}; waybill callback retry {}", record.tracking_id),
        (NoticeState::Pending, Some(due_at)) => format!("to {host}: pending, {tries}{code}; next at {due_at}"),
        (NoticeState::Pending, None) => format!("to {host}: pending, and it has no due time: see waybill verify"),
    }
}

/// The receiver at a URL, by its host only since a URL may have a secret in it.
pub(super) fn receiver(url: &str) -> String {
    url.parse::<Uri>().ok().and_then(|url| url.host().map(str::to_owned)).unwrap_or_default()
}

/// What comes next, and what an operator can do.
pub(super) fn next(record: &Record, budgets: &Budgets) -> String {
    let id = record.tracking_id;
    match record.status {
        Status::Failed => format!("repair the cause, then waybill orders retry {id}"),
        Status::Completed | Status::Cancelled => "nothing: it has ended".into(),
        _ if record.cancel_requested => "its worker ends it as cancelled".into(),
        _ => match (record.retry_at, &record.lease, record.due_at) {
            (Some(retry_at), _, _) => format!("its next try begins at {retry_at}"),
            (None, Some(lease), _) => {
                let since = record.claimed_at().map_or_else(String::new, |at| format!("since {at}, "));
                format!("try {} runs, {since}and its worker renews its lease, now until {}", try_of(record, budgets), lease.expires_at)
            }
            (None, None, Some(due_at)) => format!("its message is to arrive; OrderSweeper looks at it at {due_at}"),
            (None, None, None) => "it has no due time: see waybill verify".into(),
        },
    }
}
