//! Timer triggers: fires each function at the moments of its schedule, one run at a time.

pub mod schedule;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::activity::TimerRuns;
use crate::app::function::Trigger;
use crate::dispatch::{Callable, Dispatcher, Invocation};
use crate::wire::invocation::{self, ScheduleStatus};

/// Longest sleep, so that a changed clock is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// Fires until asked to stop. The schedule status is lost at the end of the host, since there is no storage account here.
pub(crate) async fn run(dispatcher: Arc<Dispatcher>, function: Arc<Callable>, mut stop: watch::Receiver<bool>) {
    let Trigger::Timer { name, schedule, run_on_startup, use_monitor } = &function.trigger else { return };
    let mut last = None;
    let mut now_due = *run_on_startup;
    loop {
        let from = Timestamp::now();
        let Some(next) = schedule.next(from) else { return };
        dispatcher.activity.timer(&function.name, TimerRuns { last, next });
        if !now_due {
            while Timestamp::now() < next {
                let left = Duration::try_from(next.duration_since(Timestamp::now())).unwrap_or_default();
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = tokio::time::sleep(left.min(LONGEST_SLEEP)) => {}
                }
            }
        }
        now_due = false;
        let status = last.filter(|_| *use_monitor).map(|last| ScheduleStatus { last, next, last_updated: last });
        let invocation = Invocation::new();
        let envelope = invocation::timer(name, status.as_ref(), false, &invocation.sys(&function.name));
        last = Some(Timestamp::now());
        // A failure is in the log; a timer has no client to answer.
        drop(dispatcher.invoke(&function, &invocation, envelope).await);
    }
}
