//! Count of running pieces of work, so that a caller can wait for their end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Count of running pieces of work. An atomic instead of a channel, since each request changes the count twice.
#[derive(Debug, Clone, Default)]
pub struct Running(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    running: AtomicUsize,
    ended: Notify,
}

/// One running piece of work; ends when dropped.
#[derive(Debug)]
pub struct RunningWork(Arc<Count>);

impl Running {
    /// Counts one more piece of work.
    pub fn enter(&self) -> RunningWork {
        self.0.running.fetch_add(1, Ordering::AcqRel);
        RunningWork(Arc::clone(&self.0))
    }

    /// Waits until nothing runs.
    pub async fn ended(&self) {
        loop {
            let mut ended = std::pin::pin!(self.0.ended.notified());
            // Listen before the check; otherwise an end between check and wait is missed.
            ended.as_mut().enable();
            if self.0.running.load(Ordering::Acquire) == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for RunningWork {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.ended.notify_waiters();
        }
    }
}
