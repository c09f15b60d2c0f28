//! `--record`: keeps each exchange with the handler as a file, off the path of requests.

use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::HeaderMap;
use jiff::Timestamp;
use parking_lot::{Condvar, Mutex};
use tracing::warn;
use uuid::Uuid;

use crate::recording::folder::Folder;
use crate::recording::{Answer, FORMAT, Recording, Request, body_of, mask};

/// Bytes of exchanges that may wait for the disk. An exchange that finds no room is left out.
const MOST_WAITING: usize = 64 * 1024 * 1024;
/// Bytes that an exchange takes besides its bodies, about.
const OVERHEAD: usize = 2048;
/// Longest wait at the end for the disk.
const LAST_FILES: Duration = Duration::from_secs(5);

/// Takes exchanges, and has a thread write them.
pub(crate) struct Recorder {
    app: String,
    /// Microseconds since 1970 of the latest event: each event has a moment of its own.
    latest: AtomicI64,
    drafts: Sender<Draft>,
    waiting: Arc<Waiting>,
}

#[derive(Default)]
struct Waiting {
    bytes: Mutex<usize>,
    changed: Condvar,
    left_out: AtomicU64,
}

/// An exchange as it was.
struct Draft {
    app: String,
    about: About,
    sent: Sent,
    ended: i64,
    outcome: Result<(u16, HeaderMap, Bytes), String>,
    bytes: usize,
}

/// Which invocation an exchange is.
#[derive(Debug, Clone)]
pub(crate) struct About {
    /// Name of the function.
    pub(crate) function: String,
    /// Kind of its trigger.
    pub(crate) trigger: &'static str,
    /// Id of the invocation.
    pub(crate) invocation: Uuid,
    /// Whether it is passed on as it is.
    pub(crate) forwarded: bool,
}

struct Sent {
    began: i64,
    method: String,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Recorder {
    /// Begins to record into a folder. The error says why that cannot be.
    pub(crate) fn start(path: &Path, app: &str) -> Result<Arc<Self>, String> {
        let folder = Folder::open(path)?;
        let latest = folder.latest.map_or(0, Timestamp::as_microsecond);
        let (drafts, written) = mpsc::channel();
        let waiting = Arc::new(Waiting::default());
        let recorder = Self { app: app.to_owned(), latest: AtomicI64::new(latest), drafts, waiting: Arc::clone(&waiting) };
        let thread = thread::Builder::new().name("recorder".into()).spawn(move || write(&folder, &written, &waiting));
        thread.map_err(|error| format!("cannot record into {}: {error}", path.display()))?;
        Ok(Arc::new(recorder))
    }

    /// The moment of an event, later than that of every event before.
    fn event(&self) -> i64 {
        let now = Timestamp::now().as_microsecond();
        let next = |latest: i64| now.max(latest + 1);
        next(self.latest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |latest| Some(next(latest))).unwrap_or_default())
    }

    fn keep(&self, draft: Draft) {
        let mut bytes = self.waiting.bytes.lock();
        if *bytes > 0 && *bytes + draft.bytes > MOST_WAITING {
            drop(bytes);
            return self.waiting.leave_out("the disk is too slow");
        }
        *bytes += draft.bytes;
        drop(bytes);
        // Only a thread that broke down takes no more.
        if self.drafts.send(draft).is_err() {
            self.waiting.leave_out("the thread that writes them is gone");
        }
    }

    /// Waits until all is written, as long as that may take at the end of the host.
    pub(crate) fn finish(&self) {
        let end = Instant::now() + LAST_FILES;
        let mut bytes = self.waiting.bytes.lock();
        self.waiting.changed.wait_while_until(&mut bytes, |bytes| *bytes > 0, end);
        let is_unwritten = *bytes > 0;
        drop(bytes);
        let left_out = self.waiting.left_out.load(Ordering::Relaxed);
        if left_out > 0 || is_unwritten {
            let last = if is_unwritten { ", and so were the last ones" } else { "" };
            warn!(recordings.left_out = left_out, "recordings were left out{last}");
        }
    }
}

impl Waiting {
    /// Counts a recording that is not made; the first is told.
    fn leave_out(&self, why: &str) {
        if self.left_out.fetch_add(1, Ordering::Relaxed) == 0 {
            warn!("a recording is left out: {why}; further ones are counted and told at the end");
        }
    }
}

fn write(folder: &Folder, drafts: &Receiver<Draft>, waiting: &Waiting) {
    while let Ok(draft) = drafts.recv() {
        let bytes = draft.bytes;
        if let Err(error) = folder.write(&recording(draft)) {
            waiting.leave_out(&format!("it cannot be written ({error})"));
        }
        *waiting.bytes.lock() -= bytes;
        waiting.changed.notify_all();
    }
}

fn recording(draft: Draft) -> Recording {
    let Draft { app, about, sent, ended, outcome, .. } = draft;
    let About { function, trigger, invocation, forwarded } = about;
    let moment = |microseconds| Timestamp::from_microsecond(microseconds).unwrap_or_default();
    let (body, body_base64) = body_of(&sent.body);
    let body = if forwarded { body } else { body.map(mask::envelope) };
    let request =
        Request { method: sent.method, path: mask::url(&sent.path).into_owned(), headers: headers(&sent.headers), body, body_base64 };
    let (answer, failure) = match outcome {
        Ok((status, own, bytes)) => {
            let (body, body_base64) = body_of(&bytes);
            let body = if forwarded { body } else { body.map(mask::answer) };
            (Some(Answer { status, headers: headers(&own), body, body_base64 }), None)
        }
        Err(failure) => (None, Some(failure)),
    };
    let (began, ended) = (moment(sent.began), moment(ended));
    Recording { format: FORMAT, app, function, trigger: trigger.to_owned(), invocation, forwarded, began, ended, request, answer, failure }
}

fn headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let kept = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        (name.as_str().to_owned(), mask::header(name.as_str(), &value).into_owned())
    };
    headers.iter().map(kept).collect()
}

/// What is known of a call of the handler while it runs. An exchange that ends without a word is not recorded: the host stops, and a
/// message comes back at its next start.
#[derive(Default)]
pub(crate) struct Exchange {
    /// Number of the handler's start that takes the call.
    pub(crate) generation: OnceLock<u64>,
    recorder: Option<(Arc<Recorder>, About)>,
    sent: Mutex<Option<Sent>>,
}

impl Exchange {
    /// An exchange that is recorded, if anything is.
    pub(crate) fn new(recorder: Option<&Arc<Recorder>>, about: impl FnOnce() -> About) -> Self {
        Self { recorder: recorder.map(|recorder| (Arc::clone(recorder), about())), ..Self::default() }
    }

    /// Notes the request, just before it is sent.
    pub(crate) fn sends(&self, method: &str, path: &str, headers: &HeaderMap, body: Option<&Bytes>) {
        let Some((recorder, _)) = &self.recorder else { return };
        let (method, path, headers) = (method.to_owned(), path.to_owned(), headers.clone());
        *self.sent.lock() = Some(Sent { began: recorder.event(), method, path, headers, body: body.cloned().unwrap_or_default() });
    }

    /// Notes the whole answer.
    pub(crate) fn answered(&self, status: u16, headers: &HeaderMap, body: &Bytes) {
        self.ended(|| Ok((status, headers.clone(), body.clone())));
    }

    /// Notes why there is no answer. Only the first end counts.
    pub(crate) fn failed(&self, why: &str) {
        self.ended(|| Err(why.to_owned()));
    }

    fn ended(&self, outcome: impl FnOnce() -> Result<(u16, HeaderMap, Bytes), String>) {
        let Some((recorder, about)) = &self.recorder else { return };
        let Some(sent) = self.sent.lock().take() else { return };
        let outcome = outcome();
        let bytes = OVERHEAD + sent.body.len() + outcome.as_ref().map_or(0, |(_, _, body)| body.len());
        recorder.keep(Draft { app: recorder.app.clone(), about: about.clone(), sent, ended: recorder.event(), outcome, bytes });
    }
}
