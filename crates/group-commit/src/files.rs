//! The files of a database that is in use: whether their names still lead to them.
//!
//! `SQLite` opens each file once. A file that loses its name takes writes that no later start finds.

use std::path::{Path, PathBuf};

/// Files that a connection has open. `SQLite` deletes the log and its index only when the last connection closes, and a checkpoint
/// keeps both files: while this process has a connection, only a foreign program replaces a file.
#[derive(Debug)]
pub(crate) struct Files {
    path: PathBuf,
    known: Vec<(PathBuf, Identity)>,
}

impl Files {
    /// Files of a database in WAL mode, right after its first transaction, which creates them.
    pub(crate) fn in_use(path: &Path) -> std::io::Result<Self> {
        let paths = [path.to_owned(), log_of(path), beside(path, "-shm")];
        let known = paths.into_iter().map(|path| Identity::of(&path).map(|identity| (path, identity))).collect::<Result<_, _>>()?;
        Ok(Self { path: path.to_owned(), known })
    }

    /// The database itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The first file whose name leads to another file, or to none. A name that cannot be looked up is not lost.
    pub(crate) fn lost(&self) -> Option<&Path> {
        let is_lost = |path: &Path, known: &Identity| match Identity::of(path) {
            Ok(found) => found != *known,
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        self.known.iter().find(|(path, known)| is_lost(path, known)).map(|(path, _)| path.as_path())
    }
}

/// The write-ahead log of a database.
pub(crate) fn log_of(path: &Path) -> PathBuf {
    beside(path, "-wal")
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
    fn of(path: &Path) -> std::io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self(std::os::unix::fs::MetadataExt::dev(&metadata), std::os::unix::fs::MetadataExt::ino(&metadata)))
    }

    #[cfg(not(unix))]
    fn of(path: &Path) -> std::io::Result<Self> {
        std::fs::metadata(path).map(|_| Self(0, 0))
    }
}
