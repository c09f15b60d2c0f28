//! Orphans: a handler that a killed host leaves behind, and that the next host ends.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serving::process::{self, Started};
use tracing::{debug, warn};

/// Longest wait for the end of an orphan.
const ORPHAN_WAIT: Duration = Duration::from_secs(5);

/// Pause between two looks whether an orphan has ended.
const LOOK_PERIOD: Duration = Duration::from_millis(25);

/// Process of a handler, recorded for the next host.
#[derive(Debug, Serialize, Deserialize)]
struct Orphan {
    process: u32,
    started: u64,
    /// Boot of the machine, since start times begin anew with each boot.
    #[serde(default)]
    boot: Option<String>,
    /// Directory whose host started the handler: a copy of the directory has the record too, and no right to the handler.
    #[serde(default)]
    directory: Option<Directory>,
    /// Value of [`WORKER`] in the handler's environment, and in that of every process that it starts.
    #[serde(default)]
    worker: Option<String>,
}

/// A variable whose value no two handlers share.
const WORKER: &str = "FUNCTIONS_CUSTOMHANDLER_WORKER_ID";

impl Orphan {
    /// Whether the handler runs, or a process that it started: a wrapper script may have died with its host, and its child not.
    fn lives(&self) -> bool {
        if process::started(self.process) == Started::At(self.started) {
            return true;
        }
        // Another process may have the number, and lead a group of its own: only a process with the variable is one of the handler's.
        self.worker.as_ref().is_some_and(|worker| !process::in_group(self.process, WORKER, worker).is_empty())
    }
}

/// A directory that keeps its identity when it is moved, and has another one when it is copied.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Directory {
    /// Device and inode.
    Numbered(u64, u64),
    /// Where the system numbers no directories.
    Named(String),
}

impl Directory {
    fn of(record: &Path) -> Option<Self> {
        let directory = record.parent()?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let metadata = std::fs::metadata(directory).ok()?;
            Some(Self::Numbered(metadata.dev(), metadata.ino()))
        }
        #[cfg(not(unix))]
        Some(Self::Named(directory.canonicalize().ok()?.display().to_string()))
    }
}

/// The record of a handler that replaces another one, beside the record of the first.
pub(super) fn numbered(record: &Path, number: u64) -> PathBuf {
    let mut name = record.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{number}.json"));
    record.with_file_name(name)
}

/// Every record that an earlier host may have left.
pub(super) fn records(record: &Path) -> Vec<PathBuf> {
    let stem = record.file_stem().and_then(OsStr::to_str).unwrap_or_default();
    let is_record = |path: &PathBuf| {
        let number = path.file_stem().and_then(OsStr::to_str).and_then(|name| name.strip_prefix(stem)?.strip_prefix('-'));
        path.extension().is_some_and(|kind| kind == "json") && number.is_some_and(|number| number.parse::<u64>().is_ok())
    };
    let entries = record.parent().and_then(|folder| std::fs::read_dir(folder).ok());
    let others = entries.into_iter().flatten().flatten().map(|entry| entry.path()).filter(is_record);
    std::iter::once(record.to_owned()).chain(others).collect()
}

/// Records a started handler, on systems that tell the start time of a process.
pub(super) fn write_down(process: u32, environment: &BTreeMap<String, String>, record: &Path) -> std::io::Result<()> {
    match process::started(process) {
        Started::At(started) => {
            let worker = environment.get(WORKER).cloned();
            let orphan = Orphan { process, started, boot: process::boot(), directory: Directory::of(record), worker };
            std::fs::write(record, serde_json::to_vec(&orphan)?)
        }
        Started::Gone | Started::Unknown => Ok(()),
    }
}

/// Ends the handler that an earlier host left behind: two handlers must not run side by side.
pub(super) async fn end(record: &Path) -> Result<(), String> {
    let Ok(text) = std::fs::read(record) else { return Ok(()) };
    let Ok(orphan) = serde_json::from_slice::<Orphan>(&text) else { return Ok(()) };
    if orphan.directory.is_some() && orphan.directory != Directory::of(record) {
        warn!(process.id = orphan.process, "handler.json came with a copy of another data directory; its handler is left alone");
        return Ok(());
    }
    let here = orphan.boot.is_none() || orphan.boot == process::boot();
    if !here || !orphan.lives() {
        return Ok(());
    }
    warn!(process.id = orphan.process, "ending a handler that an earlier host left behind");
    kill_group(orphan.process);
    if process::started(orphan.process) == Started::At(orphan.started) {
        kill_process(orphan.process);
    }
    let end = Instant::now() + ORPHAN_WAIT;
    while orphan.lives() {
        if Instant::now() > end {
            return Err(format!("the handler of an earlier host still runs and cannot be ended: end process {} yourself", orphan.process));
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
    Ok(())
}

/// Ends the process group of an orphan. Each handler leads its own group, so no other process ends. The group may have ended already.
#[cfg(unix)]
pub(super) fn kill_group(leader: u32) {
    let leader = i32::try_from(leader).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(Err(error)) = leader.map(|leader| rustix::process::kill_process_group(leader, rustix::process::Signal::KILL)) {
        debug!(%error, "no process of the handler is left");
    }
}

/// SIGTERM for each process of the handler's group.
#[cfg(unix)]
pub(super) fn ask_group(leader: u32) {
    let leader = i32::try_from(leader).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(Err(error)) = leader.map(|leader| rustix::process::kill_process_group(leader, rustix::process::Signal::TERM)) {
        debug!(%error, "nothing is left of the handler");
    }
}

#[cfg(not(unix))]
pub(super) fn kill_group(_leader: u32) {}

#[cfg(unix)]
fn kill_process(process: u32) {
    let process = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(Err(error)) = process.map(|process| rustix::process::kill_process(process, rustix::process::Signal::KILL)) {
        debug!(%error, "the orphan has ended already");
    }
}

#[cfg(not(unix))]
fn kill_process(_process: u32) {}
