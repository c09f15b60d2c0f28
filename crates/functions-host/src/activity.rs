//! Recent activity of the host: its latest invocations and the runs of its timers, in bounded memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use crate::report::Asked;

/// Invocations that are kept, the latest ones.
const KEPT: usize = 500;
/// Log lines that are kept of one invocation, the first ones.
const LINES: usize = 40;
/// Bytes that are kept of one log line, or of the reason of a failure.
const LINE: usize = 400;

/// What the host did lately.
#[derive(Debug)]
pub(crate) struct Activity {
    state: Mutex<State>,
    /// Number of changes so far. Watchers that miss some see the latest.
    revision: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Number of the next invocation.
    next: u64,
    invocations: VecDeque<Entry>,
    tallies: BTreeMap<String, Tally>,
    timers: BTreeMap<String, TimerRuns>,
}

/// Invocations of one function since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    /// Invocations that ended well.
    pub(crate) completed: u64,
    /// Invocations that failed.
    pub(crate) failed: u64,
    /// Invocations that run now.
    pub(crate) running: u64,
}

/// Runs of one timer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimerRuns {
    /// Moment of the latest run since the start of the host.
    pub(crate) last: Option<Timestamp>,
    /// Moment of the next run.
    pub(crate) next: Timestamp,
}

/// What is known of an invocation when it begins.
#[derive(Debug, Clone)]
pub(crate) struct Begun<'a> {
    /// Id of the invocation.
    pub(crate) id: Uuid,
    /// Name of the function.
    pub(crate) function: &'a str,
    /// Kind of the function's trigger.
    pub(crate) trigger: &'static str,
    /// Deliveries of the message so far.
    pub(crate) deliveries: Option<u32>,
    /// Whether a person started it.
    pub(crate) by_hand: bool,
    /// Report that the client asked for, which is told all the same.
    pub(crate) report: Option<&'a Asked>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    /// Revision of the latest change of this entry.
    changed: u64,
    id: Uuid,
    function: String,
    trigger: &'static str,
    deliveries: Option<u32>,
    by_hand: bool,
    at: Timestamp,
    milliseconds: Option<u64>,
    /// Outcome; `None` while the invocation runs.
    outcome: Option<Outcome>,
    reason: Option<String>,
    sent: Map<String, Value>,
    lines: Vec<String>,
    lines_left_out: u64,
}

/// How an invocation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Well, with this status for an HTTP client if there is one.
    Completed(Option<u16>),
    /// With a failure.
    Failed,
}

impl Activity {
    /// No activity yet.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), revision: watch::channel(0).0 })
    }

    /// Notes the begin of an invocation.
    pub(crate) fn begin<'a>(self: &Arc<Self>, begun: &Begun<'a>) -> Running<'a> {
        let Begun { id, function, trigger, deliveries, by_hand, report } = *begun;
        let number = {
            let mut state = self.state.lock();
            let number = state.next;
            state.next += 1;
            if state.invocations.len() == KEPT {
                state.invocations.pop_front();
            }
            state.invocations.push_back(Entry {
                number,
                changed: self.changed(),
                id,
                function: function.to_owned(),
                trigger,
                deliveries,
                by_hand,
                at: Timestamp::now(),
                milliseconds: None,
                outcome: None,
                reason: None,
                sent: Map::new(),
                lines: Vec::new(),
                lines_left_out: 0,
            });
            state.tallies.entry(function.to_owned()).or_default().running += 1;
            number
        };
        Running { activity: Arc::clone(self), function: function.to_owned(), number, started: Instant::now(), is_over: false, report }
    }

    /// Notes the runs of a timer.
    pub(crate) fn timer(&self, function: &str, runs: TimerRuns) {
        let mut state = self.state.lock();
        state.timers.insert(function.to_owned(), runs);
        self.changed();
    }

    /// Runs of this timer, once its function waits for its first.
    pub(crate) fn timer_of(&self, function: &str) -> Option<TimerRuns> {
        self.state.lock().timers.get(function).copied()
    }

    /// Invocations of this function since the start.
    pub(crate) fn tally_of(&self, function: &str) -> Tally {
        self.state.lock().tallies.get(function).copied().unwrap_or_default()
    }

    /// Invocations that began or changed after this revision, newest first, and the revision that they show.
    pub(crate) fn since(&self, revision: u64) -> Value {
        let state = self.state.lock();
        let invocations: Vec<Value> = state.invocations.iter().rev().filter(|entry| entry.changed > revision).map(shown).collect();
        let oldest = state.invocations.front().map_or(0, |entry| entry.number);
        json!({ "revision": *self.revision.borrow(), "oldest": oldest, "invocations": invocations })
    }

    /// The number of changes so far, to be watched.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Counts a change; call it with the state locked. The revision is that of the change.
    fn changed(&self) -> u64 {
        let mut revision = 0;
        self.revision.send_modify(|number| {
            *number += 1;
            revision = *number;
        });
        revision
    }

    fn change(&self, number: u64, change: impl FnOnce(&mut Entry)) {
        let mut state = self.state.lock();
        let first = state.invocations.front().map_or(0, |entry| entry.number);
        let place = number.checked_sub(first).and_then(|place| usize::try_from(place).ok());
        // Later invocations may have taken the place of this one.
        if let Some(entry) = place.and_then(|place| state.invocations.get_mut(place)) {
            change(entry);
            entry.changed = self.changed();
        }
    }
}

/// An invocation that runs. One that is dropped without an end has failed: the host stops.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    activity: Arc<Activity>,
    function: String,
    number: u64,
    started: Instant,
    is_over: bool,
    report: Option<&'a Asked>,
}

impl Running<'_> {
    /// Notes a log line that the handler told.
    pub(crate) fn line(&self, line: &str) {
        if let Some(report) = self.report {
            report.logged(line);
        }
        self.activity.change(self.number, |entry| {
            if entry.lines.len() < LINES {
                entry.lines.push(cut(line));
            } else {
                entry.lines_left_out += 1;
            }
        });
    }

    /// Notes that messages of an output were sent; `bodies` are theirs, which only a report has.
    pub(crate) fn sent(&self, output: &str, queue: &str, messages: usize, bodies: Option<&[String]>) {
        if let (Some(report), Some(bodies)) = (self.report, bodies) {
            report.sent(output, queue, bodies);
        }
        self.activity.change(self.number, |entry| {
            let before = entry.sent.get(queue).and_then(Value::as_u64).unwrap_or_default();
            entry.sent.insert(queue.to_owned(), (before + messages as u64).into());
        });
    }

    /// Notes why the invocation fails.
    pub(crate) fn fails(&self, reason: &str) {
        if let Some(report) = self.report {
            report.ended(Some(reason.to_owned()));
        }
        self.activity.change(self.number, |entry| entry.reason = Some(cut(reason)));
    }

    /// Notes the end.
    pub(crate) fn end(mut self, outcome: Outcome) {
        self.over(outcome);
    }

    fn over(&mut self, outcome: Outcome) {
        self.is_over = true;
        if let (Some(report), Outcome::Completed(_)) = (self.report, outcome) {
            report.ended(None);
        }
        let milliseconds = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Some(tally) = self.activity.state.lock().tallies.get_mut(&self.function) {
            tally.running -= 1;
            match outcome {
                Outcome::Completed(_) => tally.completed += 1,
                Outcome::Failed => tally.failed += 1,
            }
        }
        self.activity.change(self.number, |entry| {
            entry.outcome = Some(outcome);
            entry.milliseconds = Some(milliseconds);
        });
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.over(Outcome::Failed);
        }
    }
}

fn shown(entry: &Entry) -> Value {
    let (outcome, status) = match entry.outcome {
        None => ("running", None),
        Some(Outcome::Completed(status)) => ("completed", status),
        Some(Outcome::Failed) => ("failed", None),
    };
    json!({
        "number": entry.number,
        "id": entry.id,
        "function": entry.function,
        "trigger": entry.trigger,
        "deliveries": entry.deliveries,
        "byHand": entry.by_hand,
        "at": entry.at.to_string(),
        "milliseconds": entry.milliseconds,
        "outcome": outcome,
        "status": status,
        "reason": entry.reason,
        "sent": entry.sent,
        "lines": entry.lines,
        "linesLeftOut": entry.lines_left_out,
    })
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(LINE)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(activity: &Arc<Activity>) -> Running<'static> {
        activity.begin(&Begun { id: Uuid::new_v4(), function: "Work", trigger: "queue", deliveries: Some(1), by_hand: false, report: None })
    }

    #[test]
    fn memory_is_bounded_and_the_latest_stay() {
        let activity = Activity::new();
        let first = begin(&activity);
        for _ in 0..KEPT {
            let running = begin(&activity);
            for _ in 0..=LINES {
                running.line(&"é".repeat(LINE));
            }
            running.end(Outcome::Completed(None));
        }
        first.line("its entry is gone");
        first.end(Outcome::Failed);

        let shown = activity.since(0);

        let invocations = shown["invocations"].as_array().unwrap();
        assert_eq!((invocations.len(), &invocations[0]["number"]), (KEPT, &json!(KEPT)));
        assert_eq!((invocations[0]["lines"].as_array().unwrap().len(), &invocations[0]["linesLeftOut"]), (LINES, &json!(1)));
        assert!(invocations[0]["lines"][0].as_str().unwrap().len() <= LINE);
        let Tally { completed, failed, running } = activity.tally_of("Work");
        assert_eq!((completed, failed, running), (KEPT as u64, 1, 0));
    }

    #[test]
    fn only_what_has_changed_is_told_again() {
        let activity = Activity::new();
        let (one, other) = (begin(&activity), begin(&activity));
        let revision = activity.since(0)["revision"].as_u64().unwrap();
        one.end(Outcome::Completed(Some(202)));

        let changed = activity.since(revision);

        assert_eq!(changed["invocations"].as_array().unwrap().len(), 1);
        assert_eq!((&changed["invocations"][0]["outcome"], &changed["invocations"][0]["status"]), (&json!("completed"), &json!(202)));
        drop(other);
        assert_eq!(activity.since(0)["invocations"][0]["outcome"], "failed", "an invocation without an end");
    }
}
