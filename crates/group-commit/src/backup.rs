//! A copy of a database that other processes use.

use std::fs::OpenOptions;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::database::{Error, Visitor, create_private};
use crate::mark::Mark;

/// Copies the database at `path` into the new file `target`, private to the user: everything that was committed before, and nothing
/// by halves. Others may write meanwhile. The copy is on disk when this returns; its directory is not synced.
pub fn copy(path: &Path, target: &Path) -> Result<(), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Open(path.to_owned(), format!("cannot copy it to {}: {error}", target.display()));
    let original = Visitor::open(path)?;
    create_private(target).map_err(|error| failed(&error))?;
    // As bytes: the path need not be UTF-8.
    let bytes = target.as_os_str().as_encoded_bytes();
    original.connection.execute("VACUUM INTO CAST(?1 AS TEXT)", [bytes]).map_err(|error| failed(&error))?;
    unmark(target).map_err(|error| failed(&error))?;
    OpenOptions::new().write(true).open(target).and_then(|copy| copy.sync_all()).map_err(|error| failed(&error))
}

/// A copy has no log, and must not look as if one was lost.
fn unmark(target: &Path) -> rusqlite::Result<()> {
    let copy = Connection::open_with_flags(target, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    Mark(0).write(&copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Database;

    #[test]
    fn a_copy_made_while_the_database_is_being_marked_can_be_opened() {
        let directory = std::env::temp_dir().join(format!("group-commit-{}-copied", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (original, copied) = (directory.join("t.db"), directory.join("copy.db"));
        let (database, ()) = Database::open(&original, |connection| connection.execute_batch("CREATE TABLE t (n)")).unwrap();
        let marking = Connection::open(&original).unwrap();
        // As between the two transactions of the writing thread.
        Mark(0).next().write(&marking).unwrap();

        copy(&original, &copied).unwrap();

        Database::open(&copied, |_| Ok(())).map(drop).unwrap();
        drop((marking, database));
        std::fs::remove_dir_all(directory).unwrap();
    }
}
