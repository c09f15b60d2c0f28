//! Stale reads: a replica that lags by a fixed time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hyper::HeaderMap;
use parking_lot::Mutex;

use crate::asked::{Document, header};
use crate::emulator::{Answer, Emulator};

/// The previous versions of documents, kept while the fault lasts.
#[derive(Debug)]
pub(crate) struct Replica {
    lag: Duration,
    /// Recent writes by document, oldest first.
    writes: Mutex<HashMap<Document, Vec<Write>>>,
}

/// A write that the replica has not received yet.
#[derive(Debug)]
struct Write {
    at: Instant,
    partition: String,
    lsn: u64,
    before: Before,
}

/// The answer to a read before a write, in both formats.
#[derive(Debug, Clone)]
pub(crate) struct Before {
    text: Answer,
    binary: Answer,
}

impl Before {
    pub(crate) async fn of(document: &Document, emulator: &Emulator) -> Self {
        Self { text: emulator.read(document, false).await, binary: emulator.read(document, true).await }
    }
}

impl Replica {
    pub(crate) fn new(lag: Duration) -> Self {
        Self { lag, writes: Mutex::default() }
    }

    /// Records a write by its answer.
    pub(crate) fn record(&self, document: Document, before: Before, answer: &Answer) {
        let Some((partition, lsn)) = answer.header("x-ms-session-token").and_then(progress) else { return };
        let write = Write { at: Instant::now(), partition: partition.to_owned(), lsn, before };
        let mut writes = self.writes.lock();
        let writes = writes.entry(document).or_default();
        writes.retain(|write| write.at.elapsed() < self.lag);
        writes.push(write);
    }

    /// The previous version, if the request's consistency and session token allow a stale read.
    pub(crate) fn read(&self, document: &Document, headers: &HeaderMap) -> Option<Answer> {
        let strategy = header(headers, "x-ms-cosmos-read-consistency-strategy").unwrap_or_default();
        if ["LatestCommitted", "GlobalStrong"].iter().any(|fresh| fresh.eq_ignore_ascii_case(strategy)) {
            return None;
        }
        let token = header(headers, "x-ms-session-token").unwrap_or_default();
        let writes = self.writes.lock();
        let unseen = writes.get(document)?.iter().find(|write| write.at.elapsed() < self.lag && !write.is_in(token))?;
        let formats = header(headers, "x-ms-cosmos-supported-serialization-formats").unwrap_or_default().to_ascii_lowercase();
        let before = if formats.contains("cosmosbinary") { &unseen.before.binary } else { &unseen.before.text };
        let mut answer = before.clone();
        drop(writes);
        answer.headers.remove("date");
        if answer.header("etag").is_some_and(|etag| header(headers, "if-none-match") == Some(etag)) {
            answer.status = 304;
            answer.body.clear();
        }
        Some(answer)
    }
}

impl Write {
    /// Whether a session token, which may cover several partitions, includes this write.
    fn is_in(&self, token: &str) -> bool {
        token.split(',').filter_map(progress).any(|(partition, lsn)| partition == self.partition && lsn >= self.lsn)
    }
}

/// The partition and the LSN of `0:5`, `0:-1#5` or `0:1#5#0=5`.
fn progress(token: &str) -> Option<(&str, u64)> {
    let (partition, rest) = token.trim().split_once(':')?;
    let lsn = rest.split('#').nth(1).unwrap_or(rest).parse().ok()?;
    Some((partition, lsn))
}
