//! `--watch`: builds the handler again when a file of the app changes, and has it replaced.

mod build;
mod files;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serving::log::PEOPLE;
use serving::terminal::printable;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::watch::files::{Files, changed};

/// Pause between two looks at the files.
const LOOK: Duration = Duration::from_millis(200);
/// Part of the time that looks may take: a large folder is looked at less often.
const SHARE: u32 = 20;
/// Changed files that are named.
const NAMED: usize = 3;
/// Runs of a build in a row, each because files changed during the one before.
const MOST_RUNS: usize = 3;
/// Looks after which files that still change are held for ones that always do, such as a log.
const MOST_LOOKS: usize = 50;

/// A folder that is watched.
pub(crate) struct Watch {
    root: PathBuf,
    /// The host's own directories, which are no part of the app.
    own: Vec<PathBuf>,
    /// Command that builds the handler.
    build: Option<String>,
    /// Files that change all the time, and so are no reason for a build.
    restless: BTreeSet<PathBuf>,
}

impl Watch {
    /// A folder that nothing is known of yet.
    pub(crate) fn new(root: &Path, own: Vec<PathBuf>, build: Option<String>) -> Self {
        Self { root: root.to_owned(), own, build, restless: BTreeSet::new() }
    }

    /// Runs until it is dropped, and says when there is a handler to start. Dropping it ends a running build.
    pub(crate) async fn run(mut self, ready: mpsc::Sender<()>) {
        let mut seen = self.look().await;
        seen = self.build(seen, &ready).await;
        loop {
            let now = self.settled(&seen).await;
            let others = self.others(&seen, &now);
            seen = now;
            if !others.is_empty() {
                let build = self.build.as_deref().map(|build| format!("running {}", printable(build)));
                tell(&format!("{} changed: {}", self.named(&others), build.as_deref().unwrap_or("the handler is replaced")));
                seen = self.build(seen, &ready).await;
            }
        }
    }

    /// Files that changed and are a reason for a build. Of those that the host reads, it is said what they need.
    fn others(&self, before: &Files, now: &Files) -> Vec<PathBuf> {
        let (of_host, others): (Vec<_>, Vec<_>) = self.changed(before, now).into_iter().partition(|path| self.is_of_host(path));
        if !of_host.is_empty() {
            warn!("{} changed: it is read at the start only, so start again for it to count", self.named(&of_host));
        }
        others
    }

    /// Builds until no file changes meanwhile: what was seen last. A file that the build itself makes is a reason once; files with a new
    /// name in each run are no reason after [`MOST_RUNS`].
    async fn build(&mut self, mut seen: Files, ready: &mpsc::Sender<()>) -> Files {
        let (mut before, mut runs) = (Vec::new(), 0);
        loop {
            let Some(command) = self.build.clone() else {
                ready.send(()).await.unwrap_or_default();
                return seen;
            };
            let started = Instant::now();
            runs += 1;
            let built = build::run(&command, &self.root).await;
            let now = self.look().await;
            let meanwhile = self.others(&seen, &now);
            seen = now;
            let (twice, once): (Vec<_>, Vec<_>) = meanwhile.into_iter().partition(|path| before.contains(path));
            if !twice.is_empty() {
                warn!(
                    "{} changed during two builds in a row: name it in .gitignore if the build makes it, else save it again",
                    self.named(&twice)
                );
            }
            let is_last = runs == MOST_RUNS;
            if is_last && !once.is_empty() {
                warn!(
                    "{} changed during the last of {MOST_RUNS} builds in a row: name it in .gitignore if the build makes it, else save it again",
                    self.named(&once)
                );
            }
            match built {
                _ if !is_last && !once.is_empty() => tell(&format!("{} changed meanwhile: running it again", self.named(&once))),
                Ok(()) => {
                    tell(&format!("built in {:.1} s", started.elapsed().as_secs_f64()));
                    ready.send(()).await.unwrap_or_default();
                    return seen;
                }
                Err(why) => {
                    warn!("the build failed ({why}); a handler that runs goes on");
                    return seen;
                }
            }
            before = once;
        }
    }

    /// The files, once they differ and no file changes any more: an editor writes several, one after another.
    async fn settled(&mut self, seen: &Files) -> Files {
        let (mut last, mut looks): (Option<Files>, _) = (None, 0);
        loop {
            let started = Instant::now();
            let now = self.look().await;
            let is_changed = !self.changed(seen, &now).is_empty();
            if let Some(last) = last.filter(|_| is_changed) {
                let unsettled = self.changed(&last, &now);
                if unsettled.is_empty() {
                    return now;
                }
                looks += 1;
                if looks > MOST_LOOKS {
                    warn!(
                        "{} changes all the time, and is no reason for a build from now on: name it in .gitignore",
                        self.named(&unsettled)
                    );
                    self.restless.extend(unsettled);
                }
            } else {
                looks = 0;
            }
            last = is_changed.then_some(now);
            tokio::time::sleep(LOOK.max(started.elapsed() * SHARE)).await;
        }
    }

    /// Files that changed and may be a reason for a build.
    fn changed(&self, before: &Files, now: &Files) -> Vec<PathBuf> {
        changed(before, now).into_iter().filter(|path| !self.restless.contains(path)).collect()
    }

    async fn look(&self) -> Files {
        let (root, own) = (self.root.clone(), self.own.clone());
        tokio::task::spawn_blocking(move || files::look(&root, &own)).await.unwrap_or_default()
    }

    /// Whether the host reads a file at its start: `host.json`, `local.settings.json`, or `function.json` of a function.
    fn is_of_host(&self, path: &Path) -> bool {
        let below = path.strip_prefix(&self.root).unwrap_or(path);
        let depth = below.components().count();
        let name = below.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match name {
            "function.json" => depth == 2,
            "host.json" => depth == 1,
            _ => depth == 1 && files::SETTINGS.contains(&name),
        }
    }

    fn named(&self, paths: &[PathBuf]) -> String {
        let name = |path: &PathBuf| printable(&path.strip_prefix(&self.root).unwrap_or(path).display().to_string()).into_owned();
        let names = paths.iter().take(NAMED).map(name).collect::<Vec<_>>().join(", ");
        if paths.len() > NAMED { format!("{names} and {} more", paths.len() - NAMED) } else { names }
    }
}

/// A line of the log, which a person at a terminal gets too.
pub(crate) fn tell(line: &str) {
    info!("{line}");
    info!(target: PEOPLE, "{line}");
}
