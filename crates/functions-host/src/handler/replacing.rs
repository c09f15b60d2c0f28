//! A handler that is replaced by newer builds of itself: the old one answers until the new one does, and then ends its invocations.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::handler;
use crate::handler::client::{Phase, Running};
use crate::handler::orphan;
use crate::handler::supervisor::{self, Errors, LEFT, MAX_RESTARTS, Process, Supervisor, describe};
use crate::watch::tell;

/// Time for an idle handler that is replaced to end after SIGTERM, before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// A handler that is being started, and whether it came up.
type Starting = Pin<Box<dyn Future<Output = (Process, Result<(), String>)> + Send>>;

/// A handler that answers.
struct Current {
    process: Process,
    generation: u64,
    /// Ends once no call of this handler runs.
    busy: mpsc::Receiver<()>,
}

/// Runs until the host leaves; returns the reason. A handler is started with each message of `built`. A handler that cannot be
/// started or ends does not stop the host: the next build may be a better one.
pub(crate) async fn run(mut supervisor: Supervisor, mut built: mpsc::Receiver<()>, drain_timeout: Duration) -> String {
    let records = orphan::records(&supervisor.plan.record);
    for record in &records {
        if let Err(problem) = orphan::end(record).await {
            return problem;
        }
        drop(std::fs::remove_file(record));
    }
    let mut starts = 0;
    let mut next: Option<Starting> = None;
    let mut current: Option<Current> = None;
    let mut old = JoinSet::new();
    let mut kills_of_old = BTreeMap::new();
    let mut errors = Errors::default();
    let mut leaving = supervisor.leaving.clone();
    loop {
        tokio::select! {
            _ = leaving.changed() => {
                drop(next);
                if let Some(Current { mut process, .. }) = current {
                    process.ask_to_end();
                    drop(process.child.wait().await);
                    process.end().await;
                }
                return LEFT.into();
            }
            Some(()) = built.recv() => {
                starts += 1;
                errors = Errors::default();
                // A handler that is still being started is of an older build: it ends here.
                next = start(&supervisor, starts);
            }
            (mut process, came_up) = come_up(&mut next) => {
                next = None;
                if let Err(why) = came_up {
                    process.end().await;
                    if current.is_some() {
                        warn!("{why}; the handler before goes on");
                    } else {
                        next = start_again(&supervisor, &mut starts, &mut errors, &why);
                    }
                    continue;
                }
                let (busy_sender, busy) = mpsc::channel(1);
                let generation = starts;
                // Before calls go elsewhere: from then on a kill of the old one waits until that has ended.
                supervisor.draining.send_modify(|draining| draining.extend(current.as_ref().map(|before| before.generation)));
                info!(process.id = process.child.id(), handler.port = process.port, "the handler is ready");
                supervisor.phase.send_replace(Phase::Ready(Running { generation, port: process.port, busy: busy_sender }));
                if let Some(before) = current.replace(Current { process, generation, busy }) {
                    tell("the new handler answers");
                    let (kill, killed) = oneshot::channel();
                    kills_of_old.insert(before.generation, kill);
                    old.spawn(drain(before, drain_timeout, killed));
                }
            }
            exit = ended(&mut current) => {
                let Some(Current { mut process, .. }) = current.take() else { continue };
                supervisor.phase.send_replace(Phase::Starting);
                process.end().await;
                let how = format!("the handler ended ({})", exit.map_or_else(|error| error.to_string(), describe));
                if next.is_some() {
                    warn!("{how}; its next build is being started");
                } else {
                    next = start_again(&supervisor, &mut starts, &mut errors, &how);
                }
            }
            Some(generation) = supervisor.kills.recv() => {
                if let Some(Current { mut process, .. }) = current.take_if(|current| current.generation == generation) {
                    supervisor.phase.send_replace(Phase::Starting);
                    supervisor::end(&mut process.child).await;
                    process.end().await;
                    if next.is_none() {
                        starts += 1;
                        next = start(&supervisor, starts);
                    }
                } else if let Some(kill) = kills_of_old.remove(&generation) {
                    // The handler may have ended just now.
                    let _ = kill.send(());
                }
            }
            Some(Ok(generation)) = old.join_next() => {
                kills_of_old.remove(&generation);
                supervisor.draining.send_if_modified(|draining| draining.remove(&generation));
            }
        }
    }
}

/// Starts a handler on a port of its own.
fn start(supervisor: &Supervisor, number: u64) -> Option<Starting> {
    let port = if number == 1 { Ok(supervisor.plan.port) } else { handler::free_port() };
    let record = if number == 1 { supervisor.plan.record.clone() } else { orphan::numbered(&supervisor.plan.record, number) };
    let spawned = port.and_then(|port| supervisor.spawn(port, record));
    match spawned {
        Ok(mut process) => {
            let (client, plan) = (supervisor.client.clone(), &supervisor.plan);
            let (executable, timeout) = (plan.executable.display().to_string(), plan.initialization_timeout);
            Some(Box::pin(async move {
                let came_up = process.come_up(&client, &executable, timeout).await;
                (process, came_up)
            }))
        }
        Err(error) => {
            warn!("{}; a change of a file starts it again", supervisor.cannot_start(&error));
            None
        }
    }
}

async fn come_up(next: &mut Option<Starting>) -> (Process, Result<(), String>) {
    match next {
        Some(starting) => starting.await,
        None => std::future::pending().await,
    }
}

async fn ended(current: &mut Option<Current>) -> std::io::Result<ExitStatus> {
    match current {
        Some(current) => current.process.child.wait().await,
        None => std::future::pending().await,
    }
}

/// Lets the calls of a replaced handler end, and then the handler. A message whose call is cut off is delivered again. A handler with a
/// call that ran into `functionTimeout` is killed at once. Returns its generation.
async fn drain(current: Current, timeout: Duration, killed: oneshot::Receiver<()>) -> u64 {
    let Current { mut process, generation, mut busy } = current;
    let ending = async {
        if tokio::time::timeout(timeout, busy.recv()).await.is_err() {
            warn!("invocations of the handler before did not end within {timeout:?}; it is asked to end, and their messages come back");
        }
        process.ask_to_end();
        let has_ended = tokio::time::timeout(GRACE, process.child.wait()).await.is_ok();
        if !has_ended {
            warn!("the handler before did not end within {GRACE:?}; it is killed");
        }
        has_ended
    };
    let has_ended = tokio::select! {
        has_ended = ending => has_ended,
        Ok(()) = killed => false,
    };
    if !has_ended {
        supervisor::end(&mut process.child).await;
    }
    process.end().await;
    generation
}

/// Starts a handler again that ended in this way, as often as the host would.
fn start_again(supervisor: &Supervisor, starts: &mut u64, errors: &mut Errors, how: &str) -> Option<Starting> {
    if errors.one_more().is_none() {
        warn!("{how}, more than {MAX_RESTARTS} times within 30 minutes; a change of a file starts it again");
        return None;
    }
    warn!("{how}; it is restarted");
    *starts += 1;
    start(supervisor, *starts)
}
