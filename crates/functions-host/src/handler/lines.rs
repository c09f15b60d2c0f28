//! Lines that the handler prints. As in Azure they go through the host, which passes them on as they are.

use std::sync::Arc;
use std::time::Duration;

use serving::output;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::task::JoinSet;

use crate::activity::Activity;

/// Longest line that is kept together, in bytes.
const LONGEST: usize = 64 * 1024;
/// Longest wait for the last lines of a handler that has ended: a process that it left behind may hold its streams.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Both streams of a handler. Reading ends with this value.
pub(super) struct Lines(JoinSet<()>);

impl Lines {
    /// Begins to read.
    pub(super) fn of(child: &mut Child, activity: &Arc<Activity>) -> Self {
        let mut readers = JoinSet::new();
        if let Some(stdout) = child.stdout.take() {
            readers.spawn(pass(stdout, Arc::clone(activity), output::pass));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.spawn(pass(stderr, Arc::clone(activity), output::pass_error));
        }
        Self(readers)
    }

    /// Waits for the last lines of a handler that has ended.
    pub(super) async fn end(&mut self) {
        let all = async { while self.0.join_next().await.is_some() {} };
        drop(tokio::time::timeout(LAST_LINES, all).await);
    }
}

/// Passes on whole lines, until the stream ends.
async fn pass(mut stream: impl AsyncRead + Unpin, activity: Arc<Activity>, pass_on: fn(&[u8])) {
    let mut text = Vec::with_capacity(LONGEST);
    loop {
        let is_over = !matches!(stream.read_buf(&mut text).await, Ok(read) if read > 0);
        let whole = match text.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => last + 1,
            None if text.len() > LONGEST => text.len(),
            None => 0,
        };
        for line in text[..whole].split_inclusive(|byte| *byte == b'\n') {
            activity.heard(line);
            pass_on(line);
        }
        text.drain(..whole);
        if is_over {
            if !text.is_empty() {
                text.push(b'\n');
                activity.heard(&text);
                pass_on(&text);
            }
            return;
        }
    }
}
