//! Output of this process for which no request waits: a thread for each stream writes it, however slow its reader is.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tracing::warn;

/// Bytes that may wait for a reader, about 4,000 lines. The lines after that are dropped, and counted.
const MOST_WAITING: usize = 1024 * 1024;
/// Longest wait at the end for a reader; the stand-in gives its handler longer to end.
const LAST_LINES: Duration = Duration::from_secs(2);
/// Time for which lines gather after a write, so that a busy process wakes its writing thread once for many of them. A line that comes
/// alone does not wait.
const GATHER: Duration = Duration::from_millis(2);
/// Bytes that a pipe keeps together, on Linux (pipe(7), `PIPE_BUF`). Host and handler share a pipe.
const TOGETHER: usize = 4096;
/// Name of the threads that write.
const WRITER: &str = "output";

/// Lines that were dropped since the start, of all streams.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Whether stdout is for data alone.
static IS_ASIDE: AtomicBool = AtomicBool::new(false);

pub(crate) static STDOUT: Stream =
    Stream::new("stdout", || if IS_ASIDE.load(Ordering::Relaxed) { Box::new(io::stderr()) } else { Box::new(io::stdout()) });
pub(crate) static STDERR: Stream = Stream::new("stderr", || Box::new(io::stderr()));

/// A stream, and what waits to be written to it.
pub(crate) struct Stream {
    name: &'static str,
    out: fn() -> Box<dyn Write>,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

struct Waiting {
    /// Whether there is a thread that writes. Without one each line is written at once.
    has_writer: bool,
    text: Vec<u8>,
    /// Lines that found no room, and of which nothing is said yet.
    dropped: u64,
    is_writing: bool,
    /// Whether the thread waits for the next line, which must wake it.
    is_idle: bool,
    /// How many wait until everything is written.
    flushes: usize,
}

impl Stream {
    const fn new(name: &'static str, out: fn() -> Box<dyn Write>) -> Self {
        let waiting = Waiting { has_writer: false, text: Vec::new(), dropped: 0, is_writing: false, is_idle: false, flushes: 0 };
        Self { name, out, waiting: Mutex::new(waiting), changed: Condvar::new() }
    }

    /// Takes whole lines, without a wait for their reader.
    pub(crate) fn take(&self, lines: &[u8]) {
        let mut waiting = self.waiting.lock();
        if !waiting.has_writer {
            // A reader that is gone must not end this process.
            return drop((self.out)().write_all(lines));
        }
        let is_full = !waiting.text.is_empty() && waiting.text.len() + lines.len() > MOST_WAITING;
        // A writing thread says itself what was dropped; that line must not be dropped.
        if is_full && thread::current().name() != Some(WRITER) {
            waiting.dropped += 1;
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.text.extend_from_slice(lines);
        let is_idle = waiting.is_idle;
        drop(waiting);
        if is_idle {
            self.changed.notify_all();
        }
    }

    fn start(&'static self) {
        let writer = thread::Builder::new().name(WRITER.into()).spawn(|| self.write_all());
        self.waiting.lock().has_writer = writer.is_ok();
    }

    fn write_all(&self) {
        let (mut out, mut text) = ((self.out)(), Vec::new());
        loop {
            let mut waiting = self.waiting.lock();
            waiting.is_writing = false;
            self.changed.notify_all();
            self.changed.wait_while_for(&mut waiting, |waiting| waiting.flushes == 0, GATHER);
            waiting.is_idle = true;
            self.changed.wait_while(&mut waiting, |waiting| waiting.text.is_empty());
            waiting.is_idle = false;
            std::mem::swap(&mut waiting.text, &mut text);
            waiting.is_writing = true;
            let dropped = std::mem::take(&mut waiting.dropped);
            drop(waiting);
            for lines in pieces(&text) {
                drop(out.write_all(lines));
            }
            drop(out.flush());
            text.clear();
            if dropped > 0 {
                warn!(output.dropped = dropped, output.stream = self.name, "log lines were dropped: their reader was too slow");
            }
        }
    }

    fn flush(&self, end: Instant) {
        let is_busy = |waiting: &mut Waiting| waiting.is_writing || !waiting.text.is_empty();
        let mut waiting = self.waiting.lock();
        waiting.flushes += 1;
        self.changed.notify_all();
        self.changed.wait_while_until(&mut waiting, is_busy, end);
        waiting.flushes -= 1;
    }
}

/// Whole lines that a pipe keeps together, as many as fit; a longer line alone.
fn pieces(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_end = |byte: &u8| *byte == b'\n';
    std::iter::from_fn(move || {
        let whole = if text.len() <= TOGETHER { Some(text.len()) } else { text[..TOGETHER].iter().rposition(is_end).map(|end| end + 1) };
        let length = whole.unwrap_or_else(|| text.iter().position(is_end).map_or(text.len(), |end| end + 1));
        let (piece, rest) = text.split_at(length);
        text = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Output that is written. Dropping it, at the end of a command or by a panic, waits for the last lines.
#[must_use]
#[derive(Debug)]
pub struct Output(());

impl Drop for Output {
    fn drop(&mut self) {
        flush();
    }
}

/// Has every line go to stderr: stdout is for the data of a command. Call it before the log is started.
pub fn aside() {
    IS_ASIDE.store(true, Ordering::Relaxed);
}

/// Starts the threads. A panic is told by them too: the thread that panicked would else wait for the reader of stderr.
pub(crate) fn start() -> Output {
    STDOUT.start();
    STDERR.start();
    std::panic::set_hook(Box::new(|panic| {
        let (thread, trace) = (thread::current(), std::backtrace::Backtrace::capture());
        let trace = if trace.status() == std::backtrace::BacktraceStatus::Captured { format!("{trace}") } else { String::new() };
        STDERR.take(format!("thread '{}' {panic}\n{trace}", thread.name().unwrap_or("<unnamed>")).as_bytes());
    }));
    Output(())
}

/// Lines that were dropped since the start, since their reader was too slow.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Writes a line to stdout, after the log lines before it.
pub fn say(line: &str) {
    STDOUT.take(format!("{line}\n").as_bytes());
}

/// Writes a line to stderr, after the log lines before it.
pub fn complain(line: &str) {
    STDERR.take(format!("{line}\n").as_bytes());
}

/// Tells whether a line is written.
type Filter = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

static FILTER: OnceLock<Filter> = OnceLock::new();

/// Writes from now on only those lines of logs that this filter wants, until the end of the process, and this process's own warnings
/// and errors. Only the first filter counts.
pub fn only(filter: impl Fn(&[u8]) -> bool + Send + Sync + 'static) {
    drop(FILTER.set(Box::new(filter)));
}

/// Whether a line of a log is written.
pub(crate) fn is_wanted(line: &[u8]) -> bool {
    FILTER.get().is_none_or(|filter| filter(line))
}

/// Writes a log line of another program to stdout as it is, line feed included.
pub fn pass(line: &[u8]) {
    if is_wanted(line) {
        STDOUT.take(line);
    }
}

/// Writes a log line of another program to stderr as it is, line feed included.
pub fn pass_error(line: &[u8]) {
    if is_wanted(line) {
        STDERR.take(line);
    }
}

/// Waits until everything is written, as long as that may take at the end of a process.
pub fn flush() {
    let end = Instant::now() + LAST_LINES;
    // What was dropped from stderr is said on stdout.
    STDERR.flush(end);
    STDOUT.flush(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_together_as_far_as_a_pipe_keeps_them() {
        let (short, long) = ([b'a'; 1500], [b'b'; 2 * TOGETHER]);
        let lines = [&short[..], &short, &short, &long, &short].map(|line| [line, b"\n"].concat());
        let text = lines.concat();

        let pieces: Vec<_> = pieces(&text).collect();

        assert_eq!(pieces.concat(), text);
        let lengths: Vec<_> = pieces.iter().map(|piece| piece.len()).collect();
        assert_eq!(lengths, [3002, 1501, 2 * TOGETHER + 1, 1501]);
        assert_eq!(super::pieces(b"").count(), 0);
    }
}
