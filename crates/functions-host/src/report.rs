//! Reports: outputs, log lines and end of an invocation, for the client that asked for a report with its request.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use crate::words;

/// Request header that asks for a report. The handler does not see it.
pub const ASK: &str = "x-functions-host-report";
/// Response header with the id of the invocation, under which its report is.
pub const ID: &str = "x-functions-host-invocation";
/// Reports that are kept at the same time; the oldest make room.
const MOST: usize = 64;
/// Bytes of the handler's lines that are kept for one report; the oldest lines make room.
const MOST_BYTES: usize = 512 * 1024;
/// Longest time after the end of an invocation in which a line is taken for it: the line and the answer go different ways.
pub(crate) const LAST_LINE: Duration = Duration::from_millis(300);

/// Reports that were asked for and not yet fetched. Only the client that asked knows the id of one.
#[derive(Debug, Default)]
pub(crate) struct Reports(Mutex<VecDeque<(Uuid, Arc<Report>)>>);

/// Report of one invocation.
#[derive(Debug)]
pub(crate) struct Report {
    function: String,
    told: Mutex<Told>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Told {
    started: Instant,
    /// Ids that occur in the invocation or in its answer, and the id of the invocation: a line with one of them is about it.
    ids: BTreeSet<Uuid>,
    /// Lines that the handler wrote meanwhile, about any invocation.
    lines: VecDeque<String>,
    bytes: usize,
    has_own_line: bool,
    logs: Vec<String>,
    outputs: Vec<Value>,
    end: Option<End>,
}

/// End of an invocation: the reason of a failure.
#[derive(Debug)]
struct End {
    failure: Option<String>,
    duration: Duration,
}

impl Reports {
    /// Begins the report of an invocation.
    pub(crate) fn ask(&self, id: Uuid, function: &str) -> Asked {
        let told = Told {
            started: Instant::now(),
            ids: BTreeSet::from([id]),
            lines: VecDeque::new(),
            bytes: 0,
            has_own_line: false,
            logs: Vec::new(),
            outputs: Vec::new(),
            end: None,
        };
        let report = Arc::new(Report { function: function.to_owned(), told: Mutex::new(told), changed: watch::channel(()).0 });
        let mut kept = self.0.lock();
        if kept.len() == MOST {
            kept.pop_front();
        }
        kept.push_back((id, Arc::clone(&report)));
        Asked(report)
    }

    /// Takes a line of the handler.
    pub(crate) fn line(&self, line: &[u8]) {
        let kept = self.0.lock();
        if kept.is_empty() {
            return;
        }
        let line = String::from_utf8_lossy(line);
        let line = words::without_colours(line.trim_end());
        for (id, report) in kept.iter() {
            report.line(*id, &line);
        }
    }

    /// The report, once the invocation has ended. It is given once.
    pub(crate) async fn take(&self, id: Uuid) -> Option<Value> {
        let report = self.0.lock().iter().find(|(kept, _)| *kept == id).map(|(_, report)| Arc::clone(report))?;
        report.until(|told| told.end.is_some()).await;
        let has_own_line = report.until(|told| told.has_own_line);
        // A handler that names no invocation in its lines has no such line.
        drop(tokio::time::timeout(LAST_LINE, has_own_line).await);
        self.0.lock().retain(|(kept, _)| *kept != id);
        Some(report.shown(id))
    }
}

impl Report {
    fn line(&self, id: Uuid, line: &str) {
        let mut told = self.told.lock();
        // A report that no client fetches takes no more.
        if told.end.as_ref().is_some_and(|end| told.started.elapsed() > end.duration + LAST_LINE) {
            return;
        }
        told.bytes += line.len();
        told.lines.push_back(line.to_owned());
        while told.bytes > MOST_BYTES {
            told.bytes -= told.lines.pop_front().map_or(told.bytes, |oldest| oldest.len());
        }
        told.has_own_line |= words::has_id(line, |word| word == id);
        drop(told);
        self.changed.send_replace(());
    }

    async fn until(&self, is_so: impl Fn(&Told) -> bool) {
        let mut changed = self.changed.subscribe();
        while !is_so(&self.told.lock()) {
            // The sender is in this report.
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    fn shown(&self, id: Uuid) -> Value {
        let told = self.told.lock();
        let is_about = |line: &&String| words::has_any(line, &told.ids);
        let logs: Vec<&String> = told.logs.iter().chain(told.lines.iter().filter(is_about)).collect();
        let (failure, duration) = told.end.as_ref().map_or((None, Duration::ZERO), |end| (end.failure.as_deref(), end.duration));
        let mut shown = json!({
            "id": id,
            "function": self.function,
            "succeeded": failure.is_none(),
            "durationMs": u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            "outputs": told.outputs,
            "logs": logs,
        });
        if let Some(failure) = failure {
            shown["reason"] = failure.into();
        }
        shown
    }
}

/// The right to write a report; an invocation that ends without a word has broken down.
#[derive(Debug)]
pub(crate) struct Asked(Arc<Report>);

impl Asked {
    /// Takes the invocation, or the answer to it, as its bytes.
    pub(crate) fn saw(&self, text: &[u8]) {
        let ids = words::ids(&String::from_utf8_lossy(text));
        self.0.told.lock().ids.extend(ids);
    }

    /// Takes a line that the answer has for the host's log.
    pub(crate) fn logged(&self, line: &str) {
        self.0.told.lock().logs.push(line.to_owned());
    }

    /// Takes the messages of an output that were sent.
    pub(crate) fn sent(&self, name: &str, queue: &str, messages: &[String]) {
        self.0.told.lock().outputs.push(json!({ "name": name, "queue": queue, "messages": messages }));
    }

    /// Takes the end of the invocation. Only the first counts.
    pub(crate) fn ended(&self, failure: Option<String>) {
        let mut told = self.0.told.lock();
        let duration = told.started.elapsed();
        told.end.get_or_insert(End { failure, duration });
        drop(told);
        self.0.changed.send_replace(());
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.ended(Some("the host broke off the invocation".into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_report_keeps_is_bounded_and_ends_with_its_invocation() {
        let reports = Reports::default();
        let id = Uuid::new_v4();
        let asked = reports.ask(id, "Work");
        let bytes = |report: &Report| report.told.lock().lines.iter().map(String::len).sum::<usize>();
        let line = "x".repeat(64 * 1024);
        for _ in 0..20 {
            reports.line(line.as_bytes());
        }
        reports.line(b"the latest line");
        assert!(bytes(&asked.0) <= MOST_BYTES);
        assert_eq!(asked.0.told.lock().lines.back().map(String::as_str), Some("the latest line"));

        asked.ended(None);
        asked.0.told.lock().started -= LAST_LINE * 2;
        let before = bytes(&asked.0);
        reports.line(b"a line of another invocation");

        assert_eq!(bytes(&asked.0), before);
    }
}
