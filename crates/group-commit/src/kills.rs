//! Kills of a process, and power failures, before every single write to the files of a database: no promise is lost, a log that is
//! deleted afterwards is noticed, and no other state of the files is refused as a lost log.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;

use crate::database::{Database, Error, accept_loss};
use crate::files::{is_empty, log_of};
use crate::mark::Mark;

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS promised (n INTEGER PRIMARY KEY, filler BLOB NOT NULL)";
/// The log is copied several times in one run.
const LOG_PAGES: i64 = 6;
const PROMISES: u32 = 5;

/// A directory of its own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        // In memory: a sync costs nothing there.
        let place = Some(PathBuf::from("/dev/shm")).filter(|path| path.is_dir()).unwrap_or_else(std::env::temp_dir);
        let path = place.join(format!("group-commit-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn database(&self) -> PathBuf {
        self.0.join("t.db")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn open(path: &Path) -> Result<Database, Error> {
    Database::open_with(path, |connection| connection.execute_batch(SCHEMA), LOG_PAGES).map(|(database, ())| database)
}

fn insert(n: u32) -> impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static {
    move |connection| connection.execute("INSERT INTO promised VALUES (?1, zeroblob(5000))", [n]).map(drop)
}

fn kept(path: &Path) -> Result<BTreeSet<u32>, Error> {
    let database = open(path)?;
    wait(async {
        let all = |connection: &Connection| connection.prepare("SELECT n FROM promised")?.query_map([], |row| row.get(0))?.collect();
        let kept = database.read(all).await?;
        database.close().await;
        Ok(kept)
    })
}

/// Not a test of its own: the program that is killed. It promises one number after the other, and notes each. After each promise it
/// writes another number without a promise, so that the log is also copied after a commit without a sync.
#[test]
fn program() {
    let Some(directory) = std::env::var_os("KILLED_IN").map(PathBuf::from) else { return };
    let database = open(&directory.join("t.db")).unwrap();
    wait(async {
        for n in 0..PROMISES {
            database.write(insert(n)).await.unwrap();
            std::fs::write(directory.join(format!("promised-{n}")), []).unwrap();
            database.write_unsynced(insert(PROMISES + n)).await.unwrap();
        }
        database.close().await;
    });
}

/// The library that makes a disk with faults. Nothing without a C compiler, which `REQUIRE_ALL=1` makes a failure.
fn faulty_disk(directory: &Path) -> Option<PathBuf> {
    let (source, library) =
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/faulty-disk.c"), directory.join("faulty-disk.so"));
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    if compiled.is_ok_and(|status| status.success()) {
        return Some(library);
    }
    assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "cc not found");
    None
}

/// Runs the program until it is killed before its `at`th write; `false` if it made fewer. Returns what it promised.
fn run(directory: &Path, library: &Path, at: u32) -> (bool, BTreeSet<u32>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "kills::program"]).env("KILLED_IN", directory).env("LD_PRELOAD", library);
    let ended = command.env("DISK_KILL_AT", at.to_string()).env("DISK_DURABLE", "1").output().unwrap();
    let killed = std::os::unix::process::ExitStatusExt::signal(&ended.status).is_some();
    assert!(killed || ended.status.success(), "{ended:?}");
    (killed, (0..PROMISES).filter(|n| directory.join(format!("promised-{n}")).exists()).collect())
}

/// A copy of what is left, with database and log as they were at their last sync where that is wanted.
fn left(from: &Path, name: &str, durable: [bool; 2]) -> Directory {
    let to = Directory::new(name);
    for (file, durable) in ["t.db", "t.db-wal"].into_iter().zip(durable) {
        let source = from.join(if durable { format!("{file}.durable") } else { file.into() });
        if source.exists() {
            std::fs::copy(source, to.0.join(file)).unwrap();
        }
    }
    to
}

#[test]
fn no_kill_and_no_power_failure_loses_a_promise_or_raises_an_alarm() {
    let place = Directory::new("library");
    let Some(library) = faulty_disk(&place.0) else { return eprintln!("SKIPPED: no C compiler") };
    let (mut refused, mut at) = (0, 0);
    loop {
        at += 1;
        let run_in = Directory::new("run");
        let (killed, promised) = run(&run_in.0, &library, at);
        for durable in [[false, false], [true, true], [true, false], [false, true]] {
            let what = format!("killed before write {at}, durable {durable:?}");
            let is_whole = |path: &Path| {
                let found = kept(path).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(found.is_superset(&promised), "{what}: {found:?} of {promised:?}");
            };

            let state = left(&run_in.0, "left", durable);
            is_whole(&state.database());
            is_whole(&state.database());
            assert!(is_empty(&log_of(&state.database())), "{what}: a log is left");

            let folded = left(&run_in.0, "folded", durable);
            let foreign = Connection::open(folded.database()).unwrap();
            // Killed between the two transactions that mark the database; a foreign program that copies such a log raises the alarm.
            let is_half_marked = Mark::visible(&foreign).unwrap().is_set();
            foreign.close().unwrap();
            if !is_half_marked {
                is_whole(&folded.database());
            }

            let lost = left(&run_in.0, "lost", durable);
            let had_log = std::fs::remove_file(log_of(&lost.database())).is_ok();
            match kept(&lost.database()) {
                Ok(found) => assert!(found.is_superset(&promised), "{what}: a lost log was not noticed: {found:?} of {promised:?}"),
                Err(Error::LogLost(..)) if had_log => {
                    refused += 1;
                    match accept_loss(&lost.database()) {
                        Ok(since) => {
                            assert!(since.is_some(), "{what}");
                            kept(&lost.database()).unwrap();
                        }
                        Err(error) => assert!(error.to_string().contains("damaged"), "{what}: {error}"),
                    }
                }
                // A log that is lost in the midst of its copy leaves a damaged database.
                Err(Error::Open(_, reason)) if had_log && reason.contains("malformed") => refused += 1,
                Err(error) => panic!("{what}: {error}"),
            }
        }
        if !killed {
            break;
        }
    }
    println!("{at} kills, {refused} lost logs noticed");
    assert!(refused > 100, "{refused}");
}
