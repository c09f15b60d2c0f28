//! The mark in a database file that says "this file has a log with content".
//!
//! The mark is `user_version` of the database, which page 1 holds. A transaction that sets the mark is copied into the file, and
//! the next transaction takes the mark away again, in the log alone. So the file has the mark, and the log takes the mark back: a log
//! that is copied into the file brings the unmarked page along, and a log that is lost leaves the mark.
//!
//! | Visible through the log | In the file | Meaning |
//! |---|---|---|
//! | `2n` | `2n + 1` | The log belongs to the file. |
//! | `2n` | `2n` | The file has everything, or nothing was promised since. |
//! | `2n + 1`, log has bytes | any | A process was killed between the two transactions. The log has the first one. |
//! | `2n + 1`, no log | `2n + 1` | The log was lost. |
//! | `2n` | any other | The log belongs to another copy of the file. |
//!
//! `2n` is a time: seconds since 1970, so that no two marks of a file are equal, and an error can say since when orders may be missing.

use std::time::SystemTime;

use rusqlite::Connection;

/// Offset of `user_version` in the file (`SQLite`, "Database File Format", section 1.3).
pub(crate) const OFFSET: u64 = 60;

/// A value of `user_version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(pub(crate) u32);

/// Relation of a database file to its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The file is marked, and the log beside the file belongs to it.
    Marked,
    /// The file is not marked, or its marking was not completed.
    Unmarked,
    /// The file is marked, and its log is gone.
    Lost,
    /// The log belongs to another copy of the file.
    Foreign,
}

impl Mark {
    /// Mark that connections see, with what the log has.
    pub(crate) fn visible(connection: &Connection) -> rusqlite::Result<Self> {
        connection.prepare_cached("PRAGMA user_version")?.query_row([], |row| row.get(0)).map(|value: i32| Self(value.cast_unsigned()))
    }

    /// Writes the mark. Writes a page even where the mark is the same.
    pub(crate) fn write(self, connection: &Connection) -> rusqlite::Result<()> {
        connection.execute_batch(&format!("PRAGMA user_version = {}", self.0.cast_signed()))
    }

    pub(crate) fn is_set(self) -> bool {
        self.0 & 1 == 1
    }

    /// A new mark that is set: later than the last one.
    pub(crate) fn next(self) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = u32::try_from(now).unwrap_or(0) & !1;
        let after = self.taken_away().0.checked_add(2).unwrap_or(2);
        Self(now.max(after) | 1)
    }

    pub(crate) fn taken_away(self) -> Self {
        Self(self.0 & !1)
    }

    /// Moment when the mark was set, as RFC 3339 writes it.
    pub(crate) fn since(self, connection: &Connection) -> rusqlite::Result<String> {
        connection.query_row("SELECT strftime('%Y-%m-%dT%H:%M:%SZ', ?1, 'unixepoch')", [self.taken_away().0], |row| row.get(0))
    }
}

impl State {
    /// Relation of a file with the mark `filed` to a log through which `visible` is seen.
    pub(crate) fn of(visible: Mark, filed: Mark, log_is_empty: bool) -> Self {
        match visible.is_set() {
            true if log_is_empty => Self::Lost,
            true => Self::Unmarked,
            false if filed == Mark(visible.0 | 1) => Self::Marked,
            false if filed == visible => Self::Unmarked,
            false => Self::Foreign,
        }
    }
}
