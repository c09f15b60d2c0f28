//! Files of an open database: whether their names still lead to them, and the mark in the database file.
//!
//! `SQLite` opens each file once. A file that loses its name takes writes that no later start finds.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::mark::{self, Mark};

/// First bytes of a log, without the lowest bit of the last byte (`SQLite`, "WAL-mode File Format", section 4.1).
const LOG_MAGIC: [u8; 4] = [0x37, 0x7f, 0x06, 0x82];

/// First bytes of a log: magic, version, page size, checkpoint number, two salts, checksum.
struct Head([u8; 32]);

impl Head {
    fn of(log: &File) -> io::Result<Option<Self>> {
        let mut head = [0; 32];
        match read_at(log, &mut head, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let [first, second, third, fourth, ..] = head;
        Ok((LOG_MAGIC == [first, second, third, fourth & !1]).then_some(Self(head)))
    }

    fn page_size(&self) -> u64 {
        let [_, _, _, _, _, _, _, _, a, b, c, d, ..] = self.0;
        u64::from(u32::from_be_bytes([a, b, c, d]))
    }
}

/// The last frame of a log, by its header: page, size of the database, both salts, checksum over all frames so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    at: u64,
    frame: [u8; 24],
}

/// Files that a connection has open. `SQLite` deletes the log and its index only when the last connection closes, and a checkpoint
/// keeps both files: while this process has a connection, only a foreign program replaces a file.
#[derive(Debug)]
pub(crate) struct Files {
    path: PathBuf,
    known: Vec<(PathBuf, Identity)>,
    /// Closed after every connection of this process: closing any handle of a file releases all locks of the process on that file
    /// (POSIX), and with them the locks of `SQLite`.
    database: File,
    log: File,
}

impl Files {
    /// Files of a database in WAL mode, right after its first transaction, which creates them.
    pub(crate) fn in_use(path: &Path, database: File) -> io::Result<Self> {
        let paths = [path.to_owned(), log_of(path), beside(path, "-shm")];
        let known = paths.into_iter().map(|path| Identity::of(&path).map(|identity| (path, identity))).collect::<Result<_, _>>()?;
        Ok(Self { path: path.to_owned(), known, database, log: File::open(log_of(path))? })
    }

    /// The database itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The first file whose name leads to another file, or to none. A name that cannot be looked up is not lost.
    pub(crate) fn lost(&self) -> Option<&Path> {
        let is_lost = |path: &Path, known: &Identity| match Identity::of(path) {
            Ok(found) => found != *known,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        self.known.iter().find(|(path, known)| is_lost(path, known)).map(|(path, _)| path.as_path())
    }

    /// Whether the name of the database leads to another file. A start would find that one.
    pub(crate) fn is_replaced(&self) -> bool {
        self.known.first().is_some_and(|(path, known)| Identity::of(path).is_ok_and(|found| found != *known))
    }

    /// Mark in the database file itself.
    pub(crate) fn mark(&self) -> io::Result<Mark> {
        mark_of(&self.database)
    }

    /// The last of so many frames of the log. `None`: the log has none, or was begun anew meanwhile.
    pub(crate) fn tail(&self, frames: i64) -> Option<Tail> {
        let before = u64::try_from(frames).ok()?.checked_sub(1)?;
        let head = Head::of(&self.log).ok()??;
        let mut frame = [0; 24];
        let at = 32 + before * (frame.len() as u64 + head.page_size());
        read_at(&self.log, &mut frame, at).ok()?;
        (frame[8..16] == head.0[16..24]).then_some(Tail { at, frame })
    }

    /// Whether the log still has this frame, if one is given. Otherwise a foreign program emptied or overwrote the log, or the log was
    /// begun anew, as `SQLite` does once all of it is in the database.
    pub(crate) fn log_has(&self, tail: Option<Tail>) -> bool {
        let has = || -> io::Result<bool> {
            let has_head = Head::of(&self.log)?.is_some();
            let Some(tail) = tail.filter(|_| has_head) else { return Ok(has_head) };
            let mut frame = [0; 24];
            read_at(&self.log, &mut frame, tail.at)?;
            Ok(frame == tail.frame)
        };
        // A log that cannot be read is not lost; one that is too short is.
        has().unwrap_or_else(|error| error.kind() != io::ErrorKind::UnexpectedEof)
    }
}

/// Mark in a database file, without its log. An empty file has none.
pub(crate) fn mark_of(database: &File) -> io::Result<Mark> {
    let mut mark = [0; 4];
    match read_at(database, &mut mark, mark::OFFSET) {
        Ok(()) => Ok(Mark(u32::from_be_bytes(mark))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Mark(0)),
        Err(error) => Err(error),
    }
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    match std::os::windows::fs::FileExt::seek_read(file, buffer, offset)? {
        read if read == buffer.len() => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The write-ahead log of a database.
pub(crate) fn log_of(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

/// Whether there is no log: no file, or one that does not begin as a log does, such as an empty one.
pub(crate) fn is_no_log(path: &Path) -> bool {
    match File::open(path) {
        Ok(log) => Head::of(&log).is_ok_and(|head| head.is_none()),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Whether a file has no bytes, or is not there.
pub(crate) fn is_empty(path: &Path) -> bool {
    std::fs::metadata(path).map_or(true, |metadata| metadata.len() == 0)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Device and inode, different for any two files. On Windows a file in use cannot be deleted or renamed.
#[derive(Debug, PartialEq, Eq)]
struct Identity(u64, u64);

impl Identity {
    #[cfg(unix)]
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self(std::os::unix::fs::MetadataExt::dev(&metadata), std::os::unix::fs::MetadataExt::ino(&metadata)))
    }

    #[cfg(not(unix))]
    fn of(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(|_| Self(0, 0))
    }
}
