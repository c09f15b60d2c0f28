//! Recent activity of the host: its latest invocations with the lines about them, and the runs of its timers, in bounded memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use crate::report::{Asked, LAST_LINE, Reports};
use crate::words;

/// Invocations that are kept, the latest ones.
const KEPT: usize = 500;
/// Latest lines of the handler that are kept for invocations whose answer says which order a line is about.
const HEARD: usize = 512;
/// Bytes of an invocation, or of its answer, that are searched for ids.
const SEARCHED: usize = 64 * 1024;
/// Log lines that are kept of one invocation, the first ones.
const LINES: usize = 40;
/// Bytes that are kept of one log line, or of the reason of a failure.
const LINE: usize = 400;

/// What the host did lately.
#[derive(Debug)]
pub(crate) struct Activity {
    /// Reports that clients asked for.
    pub(crate) reports: Reports,
    state: Mutex<State>,
    /// Number of changes so far. Watchers that miss some see the latest.
    revision: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Number of the next invocation.
    next: u64,
    invocations: VecDeque<Entry>,
    /// Number of the latest line.
    latest_line: u64,
    /// Latest lines of the handler.
    heard: VecDeque<Line>,
    tallies: BTreeMap<String, Tally>,
    timers: BTreeMap<String, TimerRuns>,
}

/// A line of the handler.
#[derive(Debug)]
struct Line {
    number: u64,
    at: Instant,
    text: String,
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
    started: Instant,
    duration: Option<Duration>,
    /// Outcome; `None` while the invocation runs.
    outcome: Option<Outcome>,
    reason: Option<String>,
    sent: Map<String, Value>,
    /// Its id, and those in its request and its answer: a line with one of them is about it.
    ids: BTreeSet<Uuid>,
    /// Lines about it, by their number.
    lines: BTreeMap<u64, String>,
    latest_line: u64,
    lines_left_out: u64,
}

impl Entry {
    /// Whether a line of this moment may be about it.
    fn is_open(&self, at: Instant) -> bool {
        self.started <= at && self.duration.is_none_or(|duration| at <= self.started + duration + LAST_LINE)
    }

    /// Takes a line of the handler, if it is about this invocation.
    fn hear(&mut self, line: &Line) -> bool {
        let is_new = self.is_open(line.at) && !self.lines.contains_key(&line.number) && words::has_any(&line.text, &self.ids);
        if is_new {
            self.line(line.number, &line.text);
        }
        is_new
    }

    fn line(&mut self, number: u64, text: &str) {
        if self.lines.len() < LINES {
            self.lines.insert(number, cut(text));
        } else if self.latest_line < number {
            self.lines_left_out += 1;
        }
        self.latest_line = self.latest_line.max(number);
    }
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
        Arc::new(Self { reports: Reports::default(), state: Mutex::default(), revision: watch::channel(0).0 })
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
                started: Instant::now(),
                duration: None,
                outcome: None,
                reason: None,
                sent: Map::new(),
                ids: BTreeSet::from([id]),
                lines: BTreeMap::new(),
                latest_line: 0,
                lines_left_out: 0,
            });
            state.tallies.entry(function.to_owned()).or_default().running += 1;
            number
        };
        Running { activity: Arc::clone(self), function: function.to_owned(), number, is_over: false, report }
    }

    /// Takes a line that the handler printed: it belongs to every invocation that runs and has an id in common with it.
    pub(crate) fn heard(&self, line: &[u8]) {
        self.reports.line(line);
        let text = String::from_utf8_lossy(line);
        let text = words::without_colours(text.trim_end());
        let mut state = self.state.lock();
        let State { latest_line, heard, invocations, .. } = &mut *state;
        *latest_line += 1;
        let line = Line { number: *latest_line, at: Instant::now(), text: text.into_owned() };
        for entry in invocations {
            if entry.hear(&line) {
                entry.changed = self.changed();
            }
        }
        if heard.len() == HEARD {
            heard.pop_front();
        }
        heard.push_back(line);
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
        if let Some(entry) = entry(&mut self.state.lock().invocations, number) {
            change(entry);
            entry.changed = self.changed();
        }
    }
}

/// The entry of this number, unless later ones have taken its place.
fn entry(invocations: &mut VecDeque<Entry>, number: u64) -> Option<&mut Entry> {
    let place = number.checked_sub(invocations.front()?.number)?;
    invocations.get_mut(usize::try_from(place).ok()?)
}

/// An invocation that runs. One that is dropped without an end has failed: the host stops.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    activity: Arc<Activity>,
    function: String,
    number: u64,
    is_over: bool,
    report: Option<&'a Asked>,
}

impl Running<'_> {
    /// Takes the bytes of the invocation, or of its answer, for the ids in them.
    pub(crate) fn saw(&self, text: &[u8]) {
        if let Some(report) = self.report {
            report.saw(text);
        }
        let ids = words::ids(&String::from_utf8_lossy(&text[..text.len().min(SEARCHED)]));
        let mut state = self.activity.state.lock();
        let State { heard, invocations, .. } = &mut *state;
        if let Some(entry) = entry(invocations, self.number) {
            entry.ids.extend(ids);
            // Lines that came before the answer told what they are about.
            let before = heard.iter().rev().take_while(|line| line.at >= entry.started).count();
            let own = heard.iter().skip(heard.len() - before).filter(|line| entry.hear(line)).count();
            if own > 0 {
                entry.changed = self.activity.changed();
            }
        }
    }

    /// Notes a log line that the handler told.
    pub(crate) fn line(&self, line: &str) {
        if let Some(report) = self.report {
            report.logged(line);
        }
        let mut state = self.activity.state.lock();
        state.latest_line += 1;
        let number = state.latest_line;
        if let Some(entry) = entry(&mut state.invocations, self.number) {
            entry.line(number, line);
            entry.changed = self.activity.changed();
        }
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
        if let Some(tally) = self.activity.state.lock().tallies.get_mut(&self.function) {
            tally.running -= 1;
            match outcome {
                Outcome::Completed(_) => tally.completed += 1,
                Outcome::Failed => tally.failed += 1,
            }
        }
        self.activity.change(self.number, |entry| {
            entry.outcome = Some(outcome);
            entry.duration = Some(entry.started.elapsed());
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
        "ids": entry.ids,
        "function": entry.function,
        "trigger": entry.trigger,
        "deliveries": entry.deliveries,
        "byHand": entry.by_hand,
        "at": entry.at.to_string(),
        "milliseconds": entry.duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        "outcome": outcome,
        "status": status,
        "reason": entry.reason,
        "sent": entry.sent,
        "lines": entry.lines.values().collect::<Vec<_>>(),
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
    fn lines_of_the_handler_go_to_the_invocations_that_they_are_about() {
        let activity = Activity::new();
        let lines = |place: usize| activity.since(0)["invocations"][place]["lines"].clone();
        let (order, other) = (Uuid::new_v4(), Uuid::new_v4());
        let earlier = format!("before anything {order}");
        activity.heard(earlier.as_bytes());
        let ingress = begin(&activity);
        let id = activity.since(0)["invocations"][0]["id"].as_str().unwrap().to_owned();
        ingress.saw(b"an order without an id");
        // The order's id is known from the answer alone, and the lines come first.
        let (accepted, answered) =
            (format!("\x1b[32morder accepted\x1b[0m {}\n", &order.to_string()[..8]), format!("answered {id} {order}\n"));
        activity.heard(accepted.as_bytes());
        activity.heard(answered.as_bytes());
        activity.heard(format!("order claimed {other}\n").as_bytes());
        assert_eq!(lines(0), json!([answered.trim_end()]));
        ingress.line("told in the answer");
        ingress.saw(format!(r#"{{"trackingId":"{order}"}}"#).as_bytes());
        ingress.saw(format!(r#"{{"trackingId":"{order}"}}"#).as_bytes());
        let all = json!([format!("order accepted {}", &order.to_string()[..8]), answered.trim_end(), "told in the answer"]);
        assert_eq!(lines(0), all);
        ingress.end(Outcome::Completed(Some(202)));

        let processor = begin(&activity);
        processor.saw(order.to_string().as_bytes());
        let revision = activity.since(0)["revision"].as_u64().unwrap();
        let completed = format!("order completed {order}");
        activity.heard(completed.as_bytes());
        assert_eq!(lines(0), json!([completed]));
        assert_eq!(activity.since(revision)["invocations"].as_array().unwrap().len(), 2, "the first has ended only just now");
        drop(processor);
        activity.state.lock().invocations.iter_mut().for_each(|entry| entry.started -= LAST_LINE * 2);
        activity.heard(b"late");
        activity.heard(completed.as_bytes());
        assert_eq!(lines(0), json!([completed]));
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
