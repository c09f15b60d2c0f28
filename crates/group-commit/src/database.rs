//! `SQLite` with group commit: many writers share one fsync, and none waits for a timer to join a group.
//!
//! One thread owns the writing connection. It takes all operations that queued up during the last commit, runs them in one
//! transaction, commits, and only then answers. A second thread answers reads.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior};
use tokio::sync::oneshot;
use tracing::{error, warn};

use crate::files::{Files, log_of};

/// Most operations in one commit: the first one waits for the last.
const MAX_BATCH: usize = 256;
/// Time that another process may hold the write lock before an operation fails.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Prepared statements kept by each connection; more than any user of this module has.
const STATEMENTS: usize = 32;
/// Time that a close waits for readers in other processes. A log that is not emptied is read at the next start.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Has a row while a process that marked the file writes to it. The mark is copied into the database itself at once, and what is
/// committed later is at first only in the log: a mark without a log says that the log was lost.
const MARK: &str = "CREATE TABLE IF NOT EXISTS open_since (id INTEGER PRIMARY KEY CHECK (id = 1), since TEXT NOT NULL)";

/// Failure of an operation.
#[derive(Debug)]
pub enum Error {
    /// The database could not be opened or prepared.
    Open(PathBuf, String),
    /// Nothing was written.
    NotApplied,
    /// The commit failed; whether it reached the disk is not known.
    Unknown,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open(path, reason) => write!(f, "cannot open the database {}: {reason}", path.display()),
            Self::NotApplied => f.write_str("the database did not take the operation"),
            Self::Unknown => f.write_str("the database did not confirm the operation"),
        }
    }
}

impl std::error::Error for Error {}

/// A database file, opened by this process. When the last handle is dropped, both threads end after the queued operations.
#[derive(Clone)]
pub struct Database {
    writer: mpsc::Sender<Job>,
    reader: mpsc::Sender<Read>,
    counts: Arc<Counts>,
    damaged: Damage,
}

/// Whether `SQLite` found the file damaged: later writes to the file may be lost.
#[derive(Debug, Clone, Default)]
struct Damage(Arc<AtomicBool>);

impl Damage {
    fn notice(&self, error: &rusqlite::Error) {
        if matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn is_noticed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Runs several statements of one operation: all of them, or none.
pub fn together<T>(connection: &Connection, statements: impl FnOnce() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let run = |sql| connection.prepare_cached(sql)?.execute([]).map(drop);
    run("SAVEPOINT together")?;
    let done = statements();
    // A full disk may have undone the whole transaction; then there is no savepoint, and nothing will be committed.
    if done.is_err() && !connection.is_autocommit() {
        run("ROLLBACK TO together")?;
    }
    if !connection.is_autocommit() {
        run("RELEASE together")?;
    }
    done
}

/// Counts of operations and commits so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Operations that wrote.
    pub operations: AtomicU64,
    /// Commits, synced or not.
    pub commits: AtomicU64,
    /// Commits with an fsync.
    pub synced: AtomicU64,
}

/// What the writing thread is asked for.
enum Job {
    Write(Write),
    /// Ends the thread, and says so.
    Close(oneshot::Sender<()>),
}

/// One operation that waits for its group.
struct Write {
    durability: Durability,
    /// Runs inside a transaction; the closure it returns runs after the commit. `None`: no transaction began, answer with that error.
    run: Box<Run>,
}

type Run = dyn FnOnce(Option<&Connection>) -> Done + Send;

/// Promise that holds when a write returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    /// The write is on disk.
    Synced,
    /// The operating system has the write, which survives the end of this process. A power failure may undo the latest such writes.
    Committed,
}

type Done = Box<dyn FnOnce() + Send>;
type Read = Box<dyn FnOnce(&Connection) + Send>;

impl Database {
    /// Opens or creates the file, private to the user, and brings it to `schema` (idempotent statements).
    /// Every directory on the way must exist.
    pub fn open(path: &Path, schema: &str) -> Result<Self, Error> {
        Self::open_as(path, schema, false)
    }

    /// Like [`Database::open`], for the process that the file belongs to: the file is marked until [`Database::close`], and an error
    /// in the log says when an earlier mark has lost its write-ahead log.
    pub fn open_marked(path: &Path, schema: &str) -> Result<Self, Error> {
        Self::open_as(path, schema, true)
    }

    fn open_as(path: &Path, schema: &str, marked: bool) -> Result<Self, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Open(path.to_owned(), error.to_string());
        // SQLite deletes a log beside an empty database, and with the log the orders that are not yet in the database.
        if is_empty(path) && !is_empty(&log_of(path)) {
            let log = log_of(path);
            return Err(failed(&format_args!(
                "its write-ahead log {} is here and the database is not; put the database back, or move the log away",
                log.display()
            )));
        }
        create_private(path).map_err(|error| failed(&error))?;
        let mut writer = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(|error| failed(&error))?;
        let prepared = writer
            .pragma_update(None, "journal_mode", "WAL")
            // FULL: a commit is on disk before any caller is answered. In WAL mode this costs one fsync a commit.
            .and_then(|()| writer.pragma_update(None, "synchronous", "FULL"))
            .and_then(|()| writer.pragma_update(None, "wal_autocheckpoint", 1000))
            .and_then(|()| {
                let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
                if marked {
                    mark(&transaction, path)?;
                }
                transaction.execute_batch(schema)?;
                transaction.commit()
            })
            // PASSIVE: the log keeps its length, so that an empty log is never an ordinary one while the mark stands.
            .and_then(|()| if marked { checkpoint(&writer, "PASSIVE") } else { Ok(()) });
        prepared.map_err(|error| failed(&error))?;
        let reader = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|error| failed(&error))?;

        let counts = Arc::new(Counts::default());
        let (write_queue, pending_writes) = mpsc::channel::<Job>();
        let (read_queue, pending_reads) = mpsc::channel::<Read>();
        let shared = Arc::clone(&counts);
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| thread::Builder::new().name(name.into()).spawn(body);
        let files = Files::in_use(path).map_err(|error| failed(&error))?;
        let damaged = Damage::default();
        let writer = Writer { connection: writer, files, damaged: damaged.clone(), counts: shared, level: Durability::Synced, told: false };
        spawn("sqlite-write", Box::new(move || writer.run(&pending_writes))).map_err(|error| failed(&error))?;
        spawn("sqlite-read", Box::new(move || pending_reads.iter().for_each(|read| read(&reader)))).map_err(|error| failed(&error))?;
        Ok(Self { writer: write_queue, reader: read_queue, counts, damaged })
    }

    /// Counts of operations and commits so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Runs one operation in the next group; returns once its commit is on disk.
    /// An operation is a single statement, or runs [`together`], or fails before it changes anything: a group is not undone for
    /// one member.
    pub async fn write<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        self.enqueue(Durability::Synced, operation).await
    }

    /// Like [`Database::write`], for a change that no caller was promised: it survives the end of this process, but not a power failure.
    /// Costs no fsync of its own; the next fsync covers it.
    pub async fn write_unsynced<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        self.enqueue(Durability::Committed, operation).await
    }

    /// Writes what is queued, copies the log into the database, empties the log and takes the mark away. Nothing is written later.
    pub async fn close(&self) {
        let (sender, receiver) = oneshot::channel();
        // An error means that the thread has ended: another handle was closed before.
        if self.writer.send(Job::Close(sender)).is_ok() {
            drop(receiver.await);
        }
    }

    async fn enqueue<T: Send + 'static>(
        &self,
        durability: Durability,
        operation: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let (sender, receiver) = oneshot::channel();
        let damaged = self.damaged.clone();
        let run = Box::new(move |connection: Option<&Connection>| -> Done {
            let result = match connection.map(operation) {
                Some(Ok(value)) => Ok(value),
                Some(Err(error)) => {
                    damaged.notice(&error);
                    error!(error = %error, "a database operation failed");
                    Err(Error::NotApplied)
                }
                None => Err(Error::NotApplied),
            };
            // A cancelled caller no longer waits; its write stands.
            Box::new(move || drop(sender.send(result)))
        });
        self.writer.send(Job::Write(Write { durability, run })).map_err(|_| Error::NotApplied)?;
        receiver.await.map_err(|_| Error::Unknown)?
    }

    /// Reads committed data.
    pub async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let (sender, receiver) = oneshot::channel();
        let damaged = self.damaged.clone();
        let read: Read = Box::new(move |connection| {
            let result = query(connection).map_err(|error| {
                damaged.notice(&error);
                error!(error = %error, "a database query failed");
                Error::NotApplied
            });
            drop(sender.send(result));
        });
        self.reader.send(read).map_err(|_| Error::NotApplied)?;
        receiver.await.map_err(|_| Error::NotApplied)?
    }
}

/// The thread that owns the writing connection.
struct Writer {
    connection: Connection,
    files: Files,
    damaged: Damage,
    counts: Arc<Counts>,
    level: Durability,
    /// Whether an error line says why nothing is written.
    told: bool,
}

impl Writer {
    fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        let mut group = Vec::new();
        let mut done = Vec::new();
        let mut closing = None;
        while let Ok(first) = jobs.recv() {
            for job in std::iter::once(first).chain(jobs.try_iter().take(MAX_BATCH - 1)) {
                match job {
                    Job::Write(write) => group.push(write),
                    Job::Close(closed) => closing = Some(closed),
                }
            }
            self.write(&mut group, &mut done);
            if let Some(closed) = closing {
                self.close();
                // A cancelled caller no longer waits.
                let _ = closed.send(());
                return;
            }
        }
    }

    fn write(&mut self, group: &mut Vec<Write>, done: &mut Vec<Done>) {
        if group.is_empty() {
            return;
        }
        if !self.is_sound() || self.begin(group).is_err() {
            group.drain(..).for_each(|write| (write.run)(None)());
            return;
        }
        self.counts.operations.fetch_add(group.len() as u64, Ordering::Relaxed);
        done.extend(group.drain(..).map(|write| (write.run)(Some(&self.connection))));
        // A file that lost its name during the group may lose the group: its members hear that the outcome is unknown.
        if !self.damaged.is_noticed() && self.commit() && self.is_sound() {
            done.drain(..).for_each(|done| done());
        }
        done.clear();
        // A failed COMMIT may leave the transaction open (SQLite, "COMMIT"); undo it before the next group.
        if !self.connection.is_autocommit() {
            drop(self.connection.execute_batch("ROLLBACK"));
        }
    }

    /// Files that lost their names are left as they are: the log may be all that is left of an order.
    fn close(&mut self) {
        if !self.is_sound() {
            return;
        }
        let closed = self
            .connection
            .busy_timeout(CLOSE_TIMEOUT)
            .and_then(|()| set_level(&self.connection, &mut self.level, Durability::Synced))
            .and_then(|()| self.connection.execute_batch(MARK))
            .and_then(|()| self.connection.execute_batch("DELETE FROM open_since"))
            .and_then(|()| checkpoint(&self.connection, "TRUNCATE"));
        if let Err(error) = closed {
            warn!(%error, "the write-ahead log could not be emptied; the next start reads it");
        }
    }

    /// Whether the next start will find the writes of this moment.
    fn is_sound(&mut self) -> bool {
        let told = std::mem::replace(&mut self.told, true);
        if self.damaged.is_noticed() {
            if !told {
                error!(
                    file = %self.files.path().display(),
                    "the database is damaged, and nothing is written to it any more: stop this process, restore the file from a backup, and start again"
                );
            }
            return false;
        }
        if let Some(lost) = self.files.lost() {
            if !told {
                error!(
                    file = %lost.display(),
                    "a file of the database was deleted, moved or replaced while it is in use, and nothing is written any more: stop this process, put the right file back, and start again"
                );
                // The contents of a deleted log end with this process: copy them into the database.
                // With its contents copied nothing is missing, and the next start need not say so. A visitor's database may have no mark.
                if lost == log_of(self.files.path()) {
                    drop(self.connection.execute_batch("DELETE FROM open_since"));
                }
                if let Err(error) = checkpoint(&self.connection, "PASSIVE") {
                    warn!(%error, "the write-ahead log could not be copied into the database");
                }
            }
            return false;
        }
        self.told = false;
        true
    }

    fn begin(&mut self, group: &[Write]) -> rusqlite::Result<()> {
        let is_synced = group.iter().any(|write| write.durability == Durability::Synced);
        let needed = if is_synced { Durability::Synced } else { Durability::Committed };
        set_level(&self.connection, &mut self.level, needed).and_then(|()| self.connection.execute_batch("BEGIN IMMEDIATE")).inspect_err(
            |error| {
                self.damaged.notice(error);
                error!(error = %error, "the database cannot be written");
            },
        )
    }

    fn commit(&self) -> bool {
        match self.connection.execute_batch("COMMIT") {
            Ok(()) => {
                self.counts.commits.fetch_add(1, Ordering::Relaxed);
                if self.level == Durability::Synced {
                    self.counts.synced.fetch_add(1, Ordering::Relaxed);
                }
                true
            }
            Err(error) => {
                self.damaged.notice(&error);
                error!(error = %error, "a database commit failed");
                false
            }
        }
    }
}

/// Marks the database as in use, and tells of a mark whose log is gone. Runs in a transaction before its first write: no other
/// process may write meanwhile, so what the log has now was there before.
fn mark(connection: &Connection, path: &Path) -> rusqlite::Result<()> {
    let log_is_empty = is_empty(&log_of(path));
    connection.execute_batch(MARK)?;
    let since: Option<String> = connection.query_row("SELECT since FROM open_since", [], |row| row.get(0)).optional()?;
    if let Some(since) = since.filter(|_| log_is_empty) {
        error!(
            file = %log_of(path).display(),
            "the write-ahead log of the database is missing or empty, and the last stop did not empty it: what was recorded after {since} may be missing; stop this process and put the log back, or restore a backup; nothing is missing if a program such as sqlite3 opened and closed the database since"
        );
    }
    connection.execute("INSERT OR REPLACE INTO open_since (id, since) VALUES (1, strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))", []).map(drop)
}

/// Copies the log into the database.
fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<()> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
}

/// Whether a file has no bytes, or is not there.
fn is_empty(path: &Path) -> bool {
    std::fs::metadata(path).map_or(true, |metadata| metadata.len() == 0)
}

/// Sync level: FULL syncs the log at each commit, NORMAL only at a checkpoint (`SQLite`, "PRAGMA synchronous", in WAL mode).
fn set_level(connection: &Connection, level: &mut Durability, needed: Durability) -> rusqlite::Result<()> {
    if *level != needed {
        connection.execute_batch(match needed {
            Durability::Synced => "PRAGMA synchronous = FULL",
            Durability::Committed => "PRAGMA synchronous = NORMAL",
        })?;
        *level = needed;
    }
    Ok(())
}

fn connect(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // A log is emptied by a close alone, together with the mark.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Creates the file so that only its user may read it; `SQLite` gives its side files the mode of the main file.
fn create_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_together_are_done_all_or_none() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (n INTEGER NOT NULL); BEGIN").unwrap();
        let insert = |n: Option<i64>| connection.execute("INSERT INTO t (n) VALUES (?1)", [n]);

        assert!(together(&connection, || insert(Some(1)).and_then(|_| insert(None))).is_err());
        together(&connection, || insert(Some(2)).and_then(|_| insert(Some(3)))).unwrap();
        connection.execute_batch("COMMIT").unwrap();

        let sum: i64 = connection.query_row("SELECT sum(n) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(sum, 5, "the group goes on without the one that failed");
    }
}
