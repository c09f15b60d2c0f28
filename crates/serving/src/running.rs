//! What is being worked on right now, counted so that its end can be waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The pieces of work that run right now. Each request changes the count twice, so it is an atomic and no channel.
#[derive(Debug, Clone, Default)]
pub struct Running(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    running: AtomicUsize,
    ended: Notify,
}

/// One piece of work; ends when dropped.
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
            // Listen before looking, or an end in between goes unheard.
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
