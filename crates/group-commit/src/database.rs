//! `SQLite` with group commit: many writers share one fsync, and none waits for a timer to join a group.
//!
//! One thread owns the writing connection. It takes all operations that queued up during the last commit, runs them in one
//! transaction, commits, and only then answers. A second thread answers reads, and a third one scans, which take longer.
//!
//! The writing thread also copies the log into the database, and keeps the database marked while the log has content (`mark.rs`):
//! no operation is answered before the mark stands.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tracing::{error, warn};

use crate::files::{Files, Tail, is_empty, is_no_log, log_of, mark_of};
use crate::mark::{Mark, State};

/// Most operations in one commit: the first one waits for the last.
const MAX_BATCH: usize = 256;
/// Time that another process may hold the write lock before an operation fails.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Prepared statements kept by each connection; more than any user of this module has.
const STATEMENTS: usize = 32;
/// Time that a close waits for other processes. A log that is not copied into the database is read at the next start.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Operations that wait for one thread. The others wait for a place: first come, first served.
const WAITING: usize = 1024;
/// Pages in the log after which the log is copied into the database: 4 MiB.
const LOG_PAGES: i64 = 1000;
/// Time without a commit after which the log is copied into the database.
const IDLE: Duration = Duration::from_secs(5);
/// Milliseconds for which a commit proves that the database takes writes.
const RECENT: u64 = 1000;
/// Shortest time until the log is copied again after a copy that failed.
const COPY_AGAIN: Duration = Duration::from_secs(1);
/// Time that a copy waits for other processes.
const COPY_PATIENCE: Duration = Duration::from_millis(100);
/// Longest share of the time that is spent on copies that fail: one part in this many. Every operation waits for them.
const COPY_SHARE: u32 = 5;

/// Failure of an operation.
#[derive(Debug)]
pub enum Error {
    /// The database could not be opened or prepared.
    Open(PathBuf, String),
    /// The log of the database is gone, with everything written after a moment.
    LogLost(PathBuf, String),
    /// Nothing was written.
    NotApplied,
    /// The commit failed; whether it reached the disk is not known.
    Unknown,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open(path, reason) => write!(f, "cannot open the database {}: {reason}", path.display()),
            Self::LogLost(path, since) => write!(
                f,
                "cannot open the database {}: its write-ahead log {} is missing, empty or overwritten, and no stop emptied it; what was written after {since} may be missing: put the log back, or restore a backup",
                path.display(),
                log_of(path).display()
            ),
            Self::NotApplied => f.write_str("the database did not take the operation"),
            Self::Unknown => f.write_str("the database did not confirm the operation"),
        }
    }
}

impl std::error::Error for Error {}

/// A database file, opened by this process. When the last handle is dropped, all three threads end after the queued operations.
#[derive(Clone)]
pub struct Database {
    writer: Queue<Job>,
    reader: Queue<Read>,
    scanner: Queue<Read>,
    counts: Arc<Counts>,
    damaged: Damage,
    health: Arc<Health>,
    opened: Instant,
    broken: watch::Receiver<bool>,
}

/// Jobs of one thread.
struct Queue<J> {
    jobs: mpsc::Sender<Waiting<J>>,
    /// One for each job that may wait; the others wait before they are in the queue.
    places: Arc<Semaphore>,
}

/// A job, and its place, which is free once the thread takes the job.
type Waiting<J> = (J, OwnedSemaphorePermit);

impl<J> Clone for Queue<J> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone(), places: Arc::clone(&self.places) }
    }
}

impl<J> Queue<J> {
    fn new() -> (Self, mpsc::Receiver<Waiting<J>>) {
        let (jobs, pending) = mpsc::channel();
        (Self { jobs, places: Arc::new(Semaphore::new(WAITING)) }, pending)
    }

    /// Asks the thread, once there is a place; the answer comes through the channel. `None`: the thread has ended.
    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> J) -> Option<Result<T, oneshot::error::RecvError>> {
        // The semaphore is never closed.
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        let (sender, receiver) = oneshot::channel();
        self.jobs.send((job(sender), place)).ok()?;
        Some(receiver.await)
    }
}

/// State of the writing connection after its last commits.
#[derive(Debug, Default)]
struct Health {
    /// Whether a commit failed, and none has succeeded since. Its pages are in the log, and a start after a crash may find them whole:
    /// only the pages of a later commit, which replace them, prove that they are gone.
    is_in_doubt: AtomicBool,
    /// Whether a group was committed to a file that had lost its name, and none was committed since: reads show the group, though a start
    /// may not find it.
    is_shown_in_doubt: AtomicBool,
    /// When a commit last succeeded, in milliseconds since the database was opened, plus one; zero after a failure.
    confirmed: AtomicU64,
}

/// Tells when a thread of the database has panicked.
struct Alive(watch::Sender<bool>);

impl Drop for Alive {
    fn drop(&mut self) {
        if thread::panicking() {
            error!("a thread of the database broke down");
            self.0.send_replace(true);
        }
    }
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

/// What the reading thread is asked for.
enum Read {
    Query(Box<dyn FnOnce(&Connection) + Send>),
    /// Ends the thread, and says so.
    Close(oneshot::Sender<()>),
}

impl Database {
    /// Opens or creates the file, private to the user, and runs `prepare` in a transaction: it makes the tables, unless they are there.
    /// Every directory on the way must exist. Refuses a file whose log was lost, or has a log that belongs to another copy of the file.
    pub fn open<T>(path: &Path, prepare: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<(Self, T), Error> {
        Self::open_with(path, prepare, LOG_PAGES)
    }

    /// Like [`Database::open`], with another number of pages in the log after which the log is copied.
    pub(crate) fn open_with<T>(
        path: &Path,
        prepare: impl FnOnce(&Connection) -> rusqlite::Result<T>,
        log_pages: i64,
    ) -> Result<(Self, T), Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Open(path.to_owned(), error.to_string());
        refuse_log_alone(path)?;
        match create_private(path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(&error)),
            Ok(()) | Err(_) => {}
        }
        let Visitor { database, connection } = Visitor::open(path)?;
        // Closed before the file, since it is declared later.
        let mut writer = connection;
        let prepared = writer
            .pragma_update(None, "journal_mode", "WAL")
            // FULL: a commit is on disk before any caller is answered. In WAL mode this costs one fsync a commit.
            .and_then(|()| writer.pragma_update(None, "synchronous", "FULL"))
            .and_then(|()| {
                let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let prepared = prepare(&transaction)?;
                transaction.commit().map(|()| prepared)
            });
        let prepared = prepared.map_err(|error| failed(&error))?;

        let counts = Arc::new(Counts::default());
        let (write_queue, pending_writes) = Queue::<Job>::new();
        let files = Arc::new(Files::in_use(path, database).map_err(|error| failed(&error))?);
        let damaged = Damage::default();
        let (health, opened) = (Arc::new(Health::default()), Instant::now());
        let (alive, broken) = watch::channel(false);
        let readers = [(), ()].map(|()| connect_reader(path).map(|connection| Reader { connection, _files: Arc::clone(&files) }));
        let writer = Writer {
            connection: writer,
            files,
            damaged: damaged.clone(),
            counts: Arc::clone(&counts),
            health: Arc::clone(&health),
            opened,
            level: Durability::Synced,
            mark: None,
            is_overwritten: false,
            tail: None,
            log_pages,
            copied: 0,
            is_copied: true,
            copy_again: Instant::now(),
            busy_until: Instant::now(),
            told: false,
        };
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            let alive = Alive(alive.clone());
            let body = move || {
                let _alive = alive;
                body();
            };
            thread::Builder::new().name(name.into()).spawn(body)
        };
        spawn("sqlite-write", Box::new(move || writer.run(&pending_writes))).map_err(|error| failed(&error))?;
        let [reader, scanner] = readers.map(|reader| {
            let (queue, pending) = Queue::new();
            let reader: Reader = reader.map_err(|error| failed(&error))?;
            spawn("sqlite-read", Box::new(move || reader.run(&pending))).map_err(|error| failed(&error))?;
            Ok(queue)
        });
        Ok((Self { writer: write_queue, reader: reader?, scanner: scanner?, counts, damaged, health, opened, broken }, prepared))
    }

    /// Counts of operations and commits so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Runs one operation in the next group; returns once its commit is on disk.
    /// All statements of an operation are done, or none.
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

    /// Whether a write that failed may still show after a restart, though reads do not show it now.
    pub fn has_write_in_doubt(&self) -> bool {
        self.health.is_in_doubt.load(Ordering::Acquire)
    }

    /// Whether reads may show a write that failed, though a restart may not find it: its file had lost its name.
    pub fn may_show_write_in_doubt(&self) -> bool {
        self.health.is_shown_in_doubt.load(Ordering::Acquire)
    }

    /// Whether the database takes writes: by a write of its own, unless another one succeeded within the last second.
    pub async fn takes_writes(&self) -> Result<(), Error> {
        let confirmed = self.health.confirmed.load(Ordering::Acquire);
        if confirmed > 0 && milliseconds(self.opened) < confirmed + RECENT {
            return Ok(());
        }
        self.write(|connection| Mark::visible(connection)?.write(connection)).await
    }

    /// Waits until a thread of the database has panicked. What was asked of it is not answered any more.
    pub async fn broke_down(&self) {
        let mut broken = self.broken.clone();
        if broken.wait_for(|broken| *broken).await.is_err() {
            // All three threads ended as asked.
            std::future::pending::<()>().await;
        }
    }

    /// Writes what is queued and ends all three threads. Nothing is read or written later. The last process that closes the database leaves
    /// everything in the database file, and no log.
    pub async fn close(&self) {
        // The writer is last, since only the last connection copies the log. A thread may have ended: another handle was closed before.
        let _ = self.reader.ask(Read::Close).await;
        let _ = self.scanner.ask(Read::Close).await;
        let _ = self.writer.ask(Job::Close).await;
    }

    async fn enqueue<T: Send + 'static>(
        &self,
        durability: Durability,
        operation: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let damaged = self.damaged.clone();
        let run = |sender: oneshot::Sender<_>| {
            move |connection: Option<&Connection>| -> Done {
                let result = match connection.map(|connection| together(connection, || operation(connection))) {
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
            }
        };
        let answer = self.writer.ask(|sender| Job::Write(Write { durability, run: Box::new(run(sender)) })).await;
        answer.ok_or(Error::NotApplied)?.map_err(|_| Error::Unknown)?
    }

    /// Reads committed data, by a query that touches few rows: the others wait for it.
    pub async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        self.query(&self.reader, query).await
    }

    /// Reads committed data, by a query that may touch many rows: only other scans wait for it.
    pub async fn scan<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        self.query(&self.scanner, query).await
    }

    async fn query<T: Send + 'static>(
        &self,
        queue: &Queue<Read>,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let damaged = self.damaged.clone();
        let read = |sender: oneshot::Sender<_>| {
            move |connection: &Connection| {
                let result = query(connection).map_err(|error| {
                    damaged.notice(&error);
                    error!(error = %error, "a database query failed");
                    Error::NotApplied
                });
                drop(sender.send(result));
            }
        };
        let answer = queue.ask(|sender| Read::Query(Box::new(read(sender)))).await;
        answer.ok_or(Error::NotApplied)?.map_err(|_| Error::NotApplied)?
    }
}

/// A thread that owns a reading connection.
struct Reader {
    connection: Connection,
    /// Closed after the connection.
    _files: Arc<Files>,
}

impl Reader {
    fn run(self, reads: &mpsc::Receiver<Waiting<Read>>) {
        while let Ok((read, _)) = reads.recv() {
            match read {
                Read::Query(query) => query(&self.connection),
                Read::Close(closed) => {
                    drop(self);
                    // A cancelled caller no longer waits.
                    let _ = closed.send(());
                    return;
                }
            }
        }
    }
}

/// The thread that owns the writing connection.
struct Writer {
    connection: Connection,
    /// Closed after the connection.
    files: Arc<Files>,
    damaged: Damage,
    counts: Arc<Counts>,
    health: Arc<Health>,
    opened: Instant,
    level: Durability,
    /// Mark that the database file had when it last belonged to its log.
    mark: Option<Mark>,
    /// Whether the log was last found to belong to another copy of the database file.
    is_overwritten: bool,
    /// End of the log after the last commit of this thread.
    tail: Option<Tail>,
    /// Pages in the log after which the log is copied into the database.
    log_pages: i64,
    /// Pages in the log that are in the database, too.
    copied: i64,
    /// Whether the log had no other pages after the last group.
    is_copied: bool,
    /// When the log may be copied again after a copy that failed.
    copy_again: Instant,
    /// Until when the current group may wait for other processes, whatever it does meanwhile.
    busy_until: Instant,
    /// Whether an error line says why nothing is written.
    told: bool,
}

impl Writer {
    fn run(mut self, jobs: &mpsc::Receiver<Waiting<Job>>) {
        let mut group = Vec::new();
        let mut done = Vec::new();
        let mut closing = None;
        self.count_pages();
        loop {
            let first = if self.is_copied { jobs.recv().map_err(|_| RecvTimeoutError::Disconnected) } else { jobs.recv_timeout(IDLE) };
            let first = match first {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => {
                    self.copy_log();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            for (job, _) in std::iter::once(first).chain(jobs.try_iter().take(MAX_BATCH - 1)) {
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
        self.busy_until = Instant::now() + BUSY_TIMEOUT;
        if !self.is_sound() || self.begin(group).is_err() {
            self.health.confirmed.store(0, Ordering::Release);
            group.drain(..).for_each(|write| (write.run)(None)());
            self.roll_back();
            return;
        }
        self.counts.operations.fetch_add(group.len() as u64, Ordering::Relaxed);
        done.extend(group.drain(..).map(|write| (write.run)(Some(&self.connection))));
        if !self.damaged.is_noticed() && self.commit() {
            if self.is_sound() {
                done.drain(..).for_each(|done| done());
            } else {
                // A file that lost its name during the group may lose the group: its members hear that the outcome is unknown.
                self.health.is_in_doubt.store(true, Ordering::Release);
                self.health.is_shown_in_doubt.store(true, Ordering::Release);
                self.health.confirmed.store(0, Ordering::Release);
            }
        }
        done.clear();
        self.roll_back();
        self.observe_log();
    }

    /// Undoes a transaction that a failed COMMIT has left open (`SQLite`, "COMMIT").
    fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            drop(self.connection.execute_batch("ROLLBACK"));
        }
    }

    /// Pages in the log, whose end is remembered.
    fn count_pages(&mut self) -> Option<i64> {
        let (pages, _) = checkpoint(&self.connection, "NOOP").ok()?;
        self.tail = self.files.tail(pages);
        Some(pages)
    }

    /// Copies the log when it has grown.
    fn observe_log(&mut self) {
        // The end of a log that was overwritten proves nothing.
        if self.told {
            return;
        }
        let Some(pages) = self.count_pages() else { return };
        self.is_copied = pages == self.copied;
        if pages >= self.log_pages && Instant::now() >= self.copy_again {
            self.copy_log();
        }
    }

    /// Copies the log into the database, which stays marked. Only delays the next copy if this one fails.
    fn copy_log(&mut self) {
        if !self.is_sound() {
            self.is_copied = true;
            return;
        }
        let begun = Instant::now();
        // The next group waits for this copy, and has a wait of its own.
        self.busy_until = begun + COPY_PATIENCE;
        match self.try_copy_log() {
            Ok(true) => {
                self.copied = self.count_pages().unwrap_or(0);
                self.is_copied = true;
            }
            // A reader, or a checkpoint of another process.
            Ok(false) => self.pause_copies(begun),
            Err(error) if is_busy(&error) => self.pause_copies(begun),
            Err(error) => {
                self.pause_copies(begun);
                self.damaged.notice(&error);
                warn!(%error, file = %self.files.path().display(), "the write-ahead log could not be copied into the database; trying again");
            }
        }
    }

    fn pause_copies(&mut self, begun: Instant) {
        self.copy_again = Instant::now() + COPY_AGAIN.max(begun.elapsed() * (COPY_SHARE - 1));
    }

    /// A transaction that writes. It waits for other processes as long as the group still may.
    fn transaction(connection: &mut Connection, busy_until: Instant) -> rusqlite::Result<Transaction<'_>> {
        connection.busy_timeout(busy_until.saturating_duration_since(Instant::now()))?;
        connection.transaction_with_behavior(TransactionBehavior::Immediate)
    }

    /// `true`: everything is in the database, which is marked, and the log says that the mark does not hold.
    fn try_copy_log(&mut self) -> rusqlite::Result<bool> {
        set_level(&self.connection, &mut self.level, Durability::Synced)?;
        // Once all of the log is copied, it begins anew.
        self.tail = None;
        let transaction = Self::transaction(&mut self.connection, self.busy_until)?;
        let visible = Mark::visible(&transaction)?;
        if !visible.is_set() {
            visible.next().write(&transaction)?;
        }
        transaction.commit()?;
        let (pages, copied) = checkpoint(&self.connection, "PASSIVE")?;
        if pages != copied {
            return Ok(false);
        }
        let transaction = Self::transaction(&mut self.connection, self.busy_until)?;
        let visible = Mark::visible(&transaction)?;
        let filed = self.files.mark().map_err(not_readable)?;
        // Another process may be here at the same time. The mark is taken away only once it is in the file.
        if visible.is_set() && filed == visible {
            visible.taken_away().write(&transaction)?;
        }
        transaction.commit()?;
        let is_marked = self.files.mark().map_err(not_readable)? == filed && filed.is_set();
        if is_marked {
            self.mark = Some(filed);
        }
        Ok(is_marked)
    }

    /// The last connection of all processes copies the log, which takes the mark back, and deletes it. Files that lost their names are
    /// left as they are: the log may be all that is left of an order.
    fn close(mut self) {
        if !self.is_sound() {
            return;
        }
        self.busy_until = Instant::now() + CLOSE_TIMEOUT;
        let closed = self.connection.busy_timeout(CLOSE_TIMEOUT).and_then(|()| {
            // A mark that another process did not take away would stay in the file.
            if Mark::visible(&self.connection)?.is_set() && !self.try_copy_log()? {
                return Ok(());
            }
            self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map(drop)
        });
        if let Err(error) = closed {
            warn!(%error, "the write-ahead log could not be copied into the database; the next start reads it");
        }
    }

    /// Whether the next start will find the writes of this moment.
    fn is_sound(&mut self) -> bool {
        let Some(problem) = self.problem() else {
            self.told = false;
            return true;
        };
        if !std::mem::replace(&mut self.told, true) {
            let file = problem.file.display();
            error!(%file, "{}", problem.text);
            if problem.log_is_whole {
                self.rescue();
            }
        }
        false
    }

    fn problem(&mut self) -> Option<Problem> {
        let path = self.files.path();
        if self.damaged.is_noticed() {
            return Some(Problem::new(path, DAMAGED));
        }
        if let Some(lost) = self.files.lost() {
            // A start would read this log beside another file, or this file has other content by now: it stays as it is.
            let is_ours = !self.files.is_replaced() && (self.mark.is_none() || self.files.mark().ok() == self.mark);
            return Some(Problem { log_is_whole: is_ours, ..Problem::new(lost, LOST) });
        }
        self.keep_marked();
        let path = self.files.path();
        if self.is_overwritten {
            return Some(Problem::new(path, OVERWRITTEN));
        }
        // The log takes the mark of the database back, so it cannot be empty. A foreign program that has just copied the log into the
        // database, after which the log begins anew, has taken the mark away.
        let is_lost = self.mark.is_some() && !self.files.log_has(self.tail) && self.files.mark().ok() == self.mark;
        is_lost.then(|| Problem::new(&log_of(path), EMPTIED))
    }

    /// Marks the database, unless it is marked. Until then a lost log would not be noticed.
    fn keep_marked(&mut self) {
        let filed = self.files.mark().ok();
        if self.mark.is_some() && self.mark == filed {
            self.is_overwritten = false;
            return;
        }
        // Marks only grow. A foreign program that copies the log into the database leaves the one before, taken away.
        if let (Some(mark), Some(filed)) = (self.mark, filed)
            && filed.0 < mark.taken_away().0
        {
            self.is_overwritten = true;
            return;
        }
        (self.mark, self.tail) = (None, None);
        if Instant::now() < self.copy_again {
            return;
        }
        let begun = Instant::now();
        let kept = self.find_mark().and_then(|is_marked| if is_marked { Ok(true) } else { self.try_copy_log() });
        match kept {
            Ok(true) => {
                self.count_pages();
                return;
            }
            // A reader, or a checkpoint of another process.
            Ok(false) => {}
            Err(error) => {
                self.damaged.notice(&error);
                error!(%error, "the database cannot be written");
            }
        }
        self.pause_copies(begun);
    }

    /// Whether the database is marked, or must not be.
    fn find_mark(&mut self) -> rusqlite::Result<bool> {
        let transaction = Self::transaction(&mut self.connection, self.busy_until)?;
        let filed = self.files.mark().map_err(not_readable)?;
        let state = State::of(Mark::visible(&transaction)?, filed, false);
        self.mark = (state == State::Marked).then_some(filed);
        self.is_overwritten = state == State::Foreign;
        Ok(self.mark.is_some() || self.is_overwritten)
    }

    /// Copies a log into the database that no later start will find.
    fn rescue(&mut self) {
        let copy = |mark: fn(Mark) -> Mark| {
            self.connection.busy_timeout(BUSY_TIMEOUT)?;
            mark(Mark::visible(&self.connection)?).write(&self.connection)?;
            checkpoint(&self.connection, "FULL").map(|(pages, copied)| pages == copied)
        };
        // Marked while it is copied, and no longer once everything is there.
        match copy(Mark::next).and_then(|is_whole| if is_whole { copy(Mark::taken_away) } else { Ok(false) }) {
            Ok(true) => {}
            Ok(false) => warn!("the write-ahead log could not be copied into the database: another process reads it"),
            Err(error) => warn!(%error, "the write-ahead log could not be copied into the database"),
        }
    }

    fn begin(&mut self, group: &[Write]) -> rusqlite::Result<()> {
        let is_in_doubt = self.health.is_in_doubt.load(Ordering::Relaxed);
        let is_synced = is_in_doubt || group.iter().any(|write| write.durability == Durability::Synced);
        let needed = if is_synced { Durability::Synced } else { Durability::Committed };
        let begun = set_level(&self.connection, &mut self.level, needed)
            .and_then(|()| self.connection.busy_timeout(self.busy_until.saturating_duration_since(Instant::now())))
            .and_then(|()| self.connection.execute_batch("BEGIN IMMEDIATE"))
            // At least one page, which takes the place of those that are in doubt.
            .and_then(|()| if is_in_doubt { Mark::visible(&self.connection)?.write(&self.connection) } else { Ok(()) });
        begun.inspect_err(|error| {
            self.damaged.notice(error);
            error!(error = %error, "the database cannot be written");
        })
    }

    fn commit(&self) -> bool {
        match self.connection.execute_batch("COMMIT") {
            Ok(()) => {
                self.counts.commits.fetch_add(1, Ordering::Relaxed);
                if self.level == Durability::Synced {
                    self.counts.synced.fetch_add(1, Ordering::Relaxed);
                }
                self.health.is_in_doubt.store(false, Ordering::Release);
                self.health.is_shown_in_doubt.store(false, Ordering::Release);
                self.health.confirmed.store(milliseconds(self.opened) + 1, Ordering::Release);
                true
            }
            Err(error) => {
                self.damaged.notice(&error);
                self.health.is_in_doubt.store(true, Ordering::Release);
                self.health.confirmed.store(0, Ordering::Release);
                error!(error = %error, "a database commit failed");
                false
            }
        }
    }
}

/// Why nothing is written any more.
struct Problem {
    file: PathBuf,
    text: &'static str,
    /// Whether the log, as this process has it open, has everything.
    log_is_whole: bool,
}

impl Problem {
    fn new(file: &Path, text: &'static str) -> Self {
        Self { file: file.to_owned(), text, log_is_whole: false }
    }
}

const DAMAGED: &str =
    "the database is damaged, and nothing is written to it any more: stop this process, restore the file from a backup, and start again";
const LOST: &str = "a file of the database was deleted, moved or replaced while it is in use, and nothing is written any more: stop this process, put the right file back, and start again";
const OVERWRITTEN: &str = "the database was overwritten by another copy while it is in use, and nothing is written any more: stop this process, move the database and its log away, restore a backup, and start again";
const EMPTIED: &str = "the write-ahead log was emptied or overwritten while it is in use, and nothing is written any more: what was written lately may be lost; stop this process, and restore the log or a backup";

/// A connection that may write, and the database file beside it.
pub(crate) struct Visitor {
    pub(crate) connection: Connection,
    /// Closed after the connection: to close it releases the locks that this process has on the file (POSIX).
    database: File,
}

impl Visitor {
    /// Opens a database whose log belongs to it.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let mut visitor = Self::connect(path)?;
        visitor.refuse_without_log(path)?;
        Ok(visitor)
    }

    /// Opens a database, whatever its log is.
    fn connect(path: &Path) -> Result<Self, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Open(path.to_owned(), error.to_string());
        refuse_log_alone(path)?;
        let database = open_for_writes(path).map_err(|error| failed(&error))?;
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(|error| failed(&error))?;
        Ok(Self { connection, database })
    }

    /// Refuses a database whose log is not the one that belongs to it. Before anything is written: a log of another copy would be mixed
    /// into this one.
    fn refuse_without_log(&mut self, path: &Path) -> Result<(), Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Open(path.to_owned(), error.to_string());
        let Self { connection, database } = self;
        let state = |transaction: &Connection| -> rusqlite::Result<_> {
            let (visible, in_file) = (Mark::visible(transaction)?, mark_of(database).map_err(not_readable)?);
            Ok((State::of(visible, in_file, is_no_log(&log_of(path))), visible.since(transaction)?))
        };
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate);
        match transaction.and_then(|transaction| state(&transaction)).map_err(|error| failed(&error))? {
            (State::Marked | State::Unmarked, _) => Ok(()),
            (State::Lost, since) => Err(Error::LogLost(path.to_owned(), since)),
            (State::Foreign, _) => Err(failed(&format_args!(
                "its write-ahead log {} belongs to another copy of the database; if a backup was restored here, move the log away, otherwise put the database back",
                log_of(path).display()
            ))),
        }
    }
}

/// Refuses a log whose database is empty or away. `SQLite` deletes such a log, and with it the orders that are not yet in the database.
fn refuse_log_alone(path: &Path) -> Result<(), Error> {
    if !is_empty(path) || is_empty(&log_of(path)) {
        return Ok(());
    }
    let log = log_of(path);
    let problem =
        format!("its write-ahead log {} is here and the database is not; put the database back, or move the log away", log.display());
    Err(Error::Open(path.to_owned(), problem))
}

/// Goes on without the log of a database that [`Database::open`] refuses. Returns since when writes may be missing; `None`: no log was
/// lost.
pub fn accept_loss(path: &Path) -> Result<Option<String>, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Open(path.to_owned(), error.to_string());
    let mut visitor = Visitor::connect(path)?;
    let since = match visitor.refuse_without_log(path) {
        Ok(()) => return Ok(None),
        Err(Error::LogLost(_, since)) => since,
        Err(error) => return Err(error),
    };
    let connection = &visitor.connection;
    let check = |sql| connection.query_row(sql, [], |row| row.get::<_, String>(0));
    // The log may have been lost while it was copied.
    let found = check("PRAGMA integrity_check(1)").map_err(|error| failed(&error))?;
    if found != "ok" {
        return Err(failed(&format_args!("it is damaged, so its lost log is needed, or a backup: {found}")));
    }
    Mark::visible(connection).and_then(|mark| mark.taken_away().write(connection)).map_err(|error| failed(&error))?;
    // From here on the loss is accepted, whatever fails.
    let kept_open = |reason: &dyn std::fmt::Display| {
        failed(&format_args!(
            "the loss of what was written after {since} is accepted, but the new log is not yet in the database: {reason}; the next start copies it"
        ))
    };
    match checkpoint(connection, "TRUNCATE") {
        Ok((pages, copied)) if pages == copied => Ok(Some(since)),
        Ok(_) => Err(kept_open(&"another process uses the database")),
        Err(error) => Err(kept_open(&error)),
    }
}

/// Copies the log into the database; returns the pages in the log, and how many of them are copied. Each is -1 while another process
/// copies.
fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<(i64, i64)> {
    connection
        .prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?
        .query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?)))
        .map(|(busy, pages, copied)| if busy == 0 || mode == "NOOP" { (pages, copied) } else { (pages, -2) })
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

fn not_readable(error: std::io::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
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

/// A connection that has read: the first read opens the files by name, and would fail once they have lost it.
fn connect_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.query_row("SELECT COUNT(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

fn connect(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    // As a whole path: a relative one that begins with `file:` would be a URI.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // The log is copied by the writing thread alone, which keeps the database marked.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Else a statement is prepared again for each value that is compared with a range of an index (`sqlite3Reprepare`, STAT4).
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Opens the database file beside `SQLite`. Fails where the file cannot be written: `SQLite` would open such a file, and leave a log
/// that cannot be written either.
fn open_for_writes(path: &Path) -> std::io::Result<File> {
    File::options().read(true).write(true).open(path)
}

/// Creates a new file that only its user may read; `SQLite` gives its side files the mode of the main file. A file that exists is not
/// opened: to close it would release the locks that this process has on it (POSIX).
pub(crate) fn create_private(path: &Path) -> std::io::Result<()> {
    let mut options = File::options();
    options.append(true).create_new(true);
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

    #[test]
    fn a_thread_that_panics_is_told_and_answers_nothing() {
        let directory = std::env::temp_dir().join(format!("group-commit-{}-panic", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (database, ()) = Database::open(&directory.join("t.db"), |connection| connection.execute_batch("CREATE TABLE t (n)")).unwrap();

        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            let panicked = database.write(|_| -> rusqlite::Result<()> { panic!("a bug") }).await;
            assert!(matches!(panicked, Err(Error::Unknown)), "{panicked:?}");
            database.broke_down().await;
            let later = database.write(|connection| connection.execute("INSERT INTO t VALUES (1)", [])).await;
            assert!(matches!(later, Err(Error::NotApplied)), "{later:?}");
        });
        std::fs::remove_dir_all(directory).unwrap();
    }

    /// A database with a table, in a directory that the test removes.
    fn database(name: &str) -> (PathBuf, Database) {
        let directory = std::env::temp_dir().join(format!("group-commit-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let schema = "CREATE TABLE t (n INTEGER NOT NULL)";
        let (database, ()) = Database::open(&directory.join("t.db"), |connection| connection.execute_batch(schema)).unwrap();
        (directory, database)
    }

    fn wait<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn an_operation_of_several_statements_is_done_whole_or_not_at_all() {
        let (directory, database) = database("whole");
        let insert = |connection: &Connection, n: Option<i64>| connection.execute("INSERT INTO t VALUES (?1)", [n]);

        let sum: i64 = wait(async {
            let half = database.write(move |connection| insert(connection, Some(1)).and_then(|_| insert(connection, None))).await;
            assert!(matches!(half, Err(Error::NotApplied)), "{half:?}");
            database.write(move |connection| insert(connection, Some(2)).and_then(|_| insert(connection, Some(3)))).await.unwrap();
            database.read(|connection| connection.query_row("SELECT sum(n) FROM t", [], |row| row.get(0))).await.unwrap()
        });

        assert_eq!(sum, 5);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn an_operation_waits_once_for_another_process() {
        let (directory, database) = database("busy");
        let other = Connection::open(directory.join("t.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();

        let begun = Instant::now();
        let refused = wait(database.write(|connection| connection.execute("INSERT INTO t VALUES (1)", [])));
        let waited = begun.elapsed();
        other.execute_batch("ROLLBACK").unwrap();

        assert!(matches!(refused, Err(Error::NotApplied)), "{refused:?}");
        assert!((BUSY_TIMEOUT..BUSY_TIMEOUT * 3 / 2).contains(&waited), "{waited:?}");
        wait(database.write(|connection| connection.execute("INSERT INTO t VALUES (1)", []))).unwrap();
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_read_does_not_wait_for_a_scan() {
        let (directory, database) = database("scan");

        wait(async {
            let (end, ended) = mpsc::channel::<()>();
            let scan = database.scan(move |_| Ok(ended.recv()));
            let read = async {
                let read = database.read(|connection| connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)));
                let read = tokio::time::timeout(Duration::from_secs(30), read).await;
                drop(end);
                read
            };
            let (_, read) = tokio::join!(scan, read);
            assert_eq!(read.expect("the read waits for the scan").unwrap(), 0);
        });
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_loss_that_is_accepted_beside_a_reader_is_told_as_accepted() {
        let (directory, database) = database("accepted");
        wait(database.write(|connection| connection.execute("INSERT INTO t VALUES (1)", []))).unwrap();
        let copy = directory.join("copy.db");
        std::fs::copy(directory.join("t.db"), &copy).unwrap();
        assert!(matches!(Visitor::open(&copy), Err(Error::LogLost(..))));

        let reader = Connection::open(&copy).unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
        let told = accept_loss(&copy).unwrap_err().to_string();
        drop(reader);

        assert!(told.contains("is accepted") && told.contains("another process"), "{told}");
        assert_eq!(accept_loss(&copy).unwrap(), None);
        Database::open(&copy, |_| Ok(())).map(drop).unwrap();
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_loses_its_name_within_a_group_makes_the_group_unknown() {
        for file in ["t.db", "t.db-wal", "t.db-shm"] {
            let directory = std::env::temp_dir().join(format!("group-commit-{}-within-{file}", std::process::id()));
            std::fs::create_dir_all(&directory).unwrap();
            let (database, ()) =
                Database::open(&directory.join("t.db"), |connection| connection.execute_batch("CREATE TABLE t (n)")).unwrap();
            let insert = |connection: &Connection| connection.execute("INSERT INTO t VALUES (1)", []);

            let lost = directory.join(file);
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
                database.write(insert).await.unwrap();
                let within = database.write(move |connection| {
                    std::fs::rename(&lost, lost.with_extension("away")).unwrap();
                    insert(connection)
                });
                assert!(matches!(within.await, Err(Error::Unknown)), "{file}");
                assert!(database.has_write_in_doubt() && database.may_show_write_in_doubt(), "{file}");
                assert!(matches!(database.write(insert).await, Err(Error::NotApplied)), "{file}");
                database.close().await;
            });
            std::fs::remove_dir_all(directory).unwrap();
        }
    }
}
