//! The handler that a host leaves behind when it is killed, and that the next host ends.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serving::process::{self, Started};
use tracing::{debug, warn};

/// How long the end of an orphan is waited for.
const ORPHAN_WAIT: Duration = Duration::from_secs(5);

/// Between two looks whether an orphan is gone.
const LOOK_PERIOD: Duration = Duration::from_millis(25);

/// The process of a handler, as written down for the next host.
#[derive(Debug, Serialize, Deserialize)]
struct Orphan {
    process: u32,
    started: u64,
    /// Start times begin anew with each boot.
    #[serde(default)]
    boot: Option<String>,
}

/// Writes down a handler that was started, where the system tells when that was.
pub(super) fn write_down(process: u32, record: &Path) -> std::io::Result<()> {
    match process::started(process) {
        Started::At(started) => {
            let orphan = Orphan { process, started, boot: process::boot() };
            std::fs::write(record, serde_json::to_vec(&orphan)?)
        }
        Started::Gone | Started::Unknown => Ok(()),
    }
}

/// Two handlers must not run side by side: ends the one an earlier host left behind.
pub(super) async fn end(record: &Path) -> Result<(), String> {
    let Ok(text) = std::fs::read(record) else { return Ok(()) };
    let Ok(orphan) = serde_json::from_slice::<Orphan>(&text) else { return Ok(()) };
    let here = orphan.boot.is_none() || orphan.boot == process::boot();
    let lives = || here && process::started(orphan.process) == Started::At(orphan.started);
    if !lives() {
        return Ok(());
    }
    warn!(process.id = orphan.process, "ending a handler that an earlier host left behind");
    kill_group(orphan.process);
    kill_process(orphan.process);
    let end = Instant::now() + ORPHAN_WAIT;
    while lives() {
        if Instant::now() > end {
            return Err(format!("the handler of an earlier host still runs and cannot be ended: end process {} yourself", orphan.process));
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
    Ok(())
}

/// Each handler leads a process group of its own, so this ends nothing else. Nothing may be left of it, which is fine.
#[cfg(unix)]
pub(super) fn kill_group(leader: u32) {
    let leader = i32::try_from(leader).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(Err(error)) = leader.map(|leader| rustix::process::kill_process_group(leader, rustix::process::Signal::KILL)) {
        debug!(%error, "nothing is left of the handler");
    }
}

#[cfg(not(unix))]
pub(super) fn kill_group(_leader: u32) {}

#[cfg(unix)]
fn kill_process(process: u32) {
    let process = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(Err(error)) = process.map(|process| rustix::process::kill_process(process, rustix::process::Signal::KILL)) {
        debug!(%error, "the orphan is gone already");
    }
}

#[cfg(not(unix))]
fn kill_process(_process: u32) {}
