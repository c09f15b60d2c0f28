//! Time to live, which the emulator stores but does not enforce.
//!
//! Expired documents are deleted before the next request is served, so no client sees one.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};

use crate::asked::Document;
use crate::emulator::Emulator;
use crate::stored::Stored;

/// The documents that will expire.
#[derive(Debug)]
pub(crate) struct Expiry {
    /// The second at which the next document expires, read without the lock.
    next: AtomicU64,
    waiting: Mutex<BinaryHeap<Reverse<Waiting>>>,
    /// Held while expired documents are deleted: concurrent requests wait until they are gone.
    sweeping: tokio::sync::Mutex<()>,
    /// Known defaults by container, cleared when any container changes. A container without a default is read each time, since it may
    /// not exist yet.
    default_ttls: RwLock<HashMap<String, i64>>,
}

#[derive(Debug)]
struct Waiting {
    expires_at: u64,
    document: Document,
    /// The version that expires. A changed document has another etag, and another entry.
    etag: String,
}

impl Expiry {
    pub(crate) fn new() -> Self {
        Self {
            next: AtomicU64::new(u64::MAX),
            waiting: Mutex::default(),
            sweeping: tokio::sync::Mutex::default(),
            default_ttls: RwLock::default(),
        }
    }

    /// Deletes expired documents.
    pub(crate) async fn sweep(&self, emulator: &Emulator) {
        let now = now();
        if now < self.next.load(Ordering::Acquire) {
            return;
        }
        let _sweeping = self.sweeping.lock().await;
        while let Some(due) = self.due(now) {
            // Repeated only after a 429: a missing or changed document needs no delete.
            while let Some(pause) = emulator.delete(&due.document, &due.etag).await.retry_after_ms() {
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
    }

    /// Notes when a written document expires.
    pub(crate) fn learn(&self, document: &Document, stored: &Stored, default_ttl: i64) {
        let Some(expires_at) = stored.expires_at(default_ttl) else { return };
        let mut waiting = self.waiting.lock();
        waiting.push(Reverse(Waiting { expires_at, document: document.clone(), etag: stored.etag.clone() }));
        // Only ever lowered here: a concurrent sweep raises the time itself.
        self.next.fetch_min(expires_at, Ordering::AcqRel);
    }

    /// The container's default; `None` if time to live is off.
    pub(crate) async fn default_ttl(&self, emulator: &Emulator, container: &str) -> Option<i64> {
        if let Some(known) = self.default_ttls.read().get(container) {
            return Some(*known);
        }
        let default_ttl = emulator.default_ttl(container).await?;
        self.default_ttls.write().insert(container.to_owned(), default_ttl);
        Some(default_ttl)
    }

    /// Forgets the defaults, after a container was created, changed or deleted.
    pub(crate) fn forget_defaults(&self) {
        self.default_ttls.write().clear();
    }

    fn due(&self, now: u64) -> Option<Waiting> {
        let mut waiting = self.waiting.lock();
        let next = waiting.peek().map_or(u64::MAX, |Reverse(next)| next.expires_at);
        if next > now {
            self.next.store(next, Ordering::Release);
            return None;
        }
        waiting.pop().map(|Reverse(due)| due)
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.expires_at.cmp(&other.expires_at)
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.expires_at == other.expires_at
    }
}

impl Eq for Waiting {}

/// Seconds since the Unix epoch, like `_ts`.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
