//! Files of a database that are deleted, moved or replaced while they are in use, and what a stop leaves in them.
#![cfg(unix)]

use std::path::Path;

use crate::support::{Directory, Host, order};

/// A host whose file of records is taken away by `lose` and put back by `mend` between two runs.
fn refuses_and_loses_nothing(file: &str, lose: impl Fn(&Path), mend: impl Fn(&Path)) {
    let data = Directory::new();
    let mut host = Host::start(data.path(), &[]);
    let before = host.submit(&order("BEFORE"));
    host.ended(&before);

    lose(data.path());
    let refused = ["LOST-1", "LOST-2"].map(|id| host.post("/api/orders", &order(id)));
    let told = host.program.line("was deleted, moved or replaced");
    let seen = host.get(&format!("/api/orders/{before}/status")).json();
    host.program.signal("INT");
    let (status, lines) = host.program.end();
    mend(data.path());
    let host = Host::start(data.path(), &[]);
    assert!(!host.program.lines().iter().any(|line| line.contains(LOST_LOG)), "{:?}", host.program.lines());
    let after = host.submit(&order("LOST-1"));

    for response in refused {
        assert_eq!(response.status, 503, "{response:?}");
        assert_eq!(response.json()["outcome"], "not_accepted", "{response:?}");
    }
    assert!(told.contains("ERROR") && told.contains(file), "{told}");
    assert_eq!(lines.iter().filter(|line| line.contains("was deleted, moved or replaced")).count(), 1, "{lines:?}");
    assert!(status.success(), "{lines:?}");
    assert_eq!(seen["status"], "completed", "what was recorded is still shown: {seen}");
    assert_eq!(host.ended(&before)["status"], "completed");
    assert_eq!(host.ended(&after)["status"], "completed");
}

fn rename(data: &Path, from: &str, to: &str) {
    std::fs::rename(data.join(from), data.join(to)).unwrap();
}

#[test]
fn a_log_that_is_deleted_while_it_is_in_use_loses_no_order() {
    refuses_and_loses_nothing("records.db-wal", |data| std::fs::remove_file(data.join("records.db-wal")).unwrap(), |_| {});
}

#[test]
fn a_database_that_is_moved_while_it_is_in_use_loses_no_order() {
    refuses_and_loses_nothing("records.db", |data| rename(data, "records.db", "elsewhere"), |data| rename(data, "elsewhere", "records.db"));
}

#[test]
fn a_backup_that_replaces_the_database_while_it_is_in_use_loses_no_order() {
    let replace = |data: &Path| {
        std::fs::hard_link(data.join("records.db"), data.join("original")).unwrap();
        std::fs::copy(data.join("records.db"), data.join("records.db.tmp")).unwrap();
        rename(data, "records.db.tmp", "records.db");
    };
    refuses_and_loses_nothing("records.db", replace, |data| rename(data, "original", "records.db"));
}

#[test]
fn a_queue_whose_log_is_deleted_while_it_is_in_use_takes_no_message_and_loses_none() {
    let data = Directory::new();
    let mut host = Host::start(data.path(), &[]);
    let before = host.submit(&order("BEFORE"));
    host.ended(&before);

    std::fs::remove_file(data.path().join("queue.db-wal")).unwrap();
    let refused = host.post("/api/orders", &order("LOST"));
    let told = host.program.line("was deleted, moved or replaced");
    host.program.signal("INT");
    assert!(host.program.end().0.success());
    let host = Host::start(data.path(), &[]);
    let after = host.submit(&order("LOST"));

    assert_eq!(refused.status, 500, "the host's own answer to a message that did not leave: {refused:?}");
    assert!(told.contains("ERROR") && told.contains("queue.db-wal"), "{told}");
    assert_eq!(host.ended(&after)["status"], "completed");
}

#[test]
fn a_log_without_its_database_stops_the_start_and_is_not_deleted() {
    let data = Directory::new();
    let mut host = Host::start(data.path(), &[]);
    let before = host.submit(&order("BEFORE"));
    host.ended(&before);
    host.program.kill();

    rename(data.path(), "records.db", "elsewhere");
    let mut refused = Host::begin(crate::support::repository(), data.path(), &[], &[]);
    let told = refused.line("cannot open the database");
    drop(refused);
    rename(data.path(), "elsewhere", "records.db");
    let host = Host::start(data.path(), &[]);

    assert!(told.contains("records.db-wal") && told.contains("put the database back"), "{told}");
    assert_eq!(host.ended(&before)["status"], "completed");
}

const LOST_LOG: &str = "the write-ahead log of the database is missing or empty";

#[test]
fn a_clean_stop_leaves_nothing_in_the_logs() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    let before = host.submit(&order("BEFORE"));
    host.ended(&before);

    host.program.signal("INT");
    let (status, lines) = host.program.end();
    for file in ["records.db-wal", "queue.db-wal"] {
        let length = std::fs::metadata(data.path().join(file)).map_or(0, |metadata| metadata.len());
        assert_eq!(length, 0, "{file}: {lines:?}");
        let _ = std::fs::remove_file(data.path().join(file));
    }
    let host = Host::start(data.path(), &[]);

    assert!(status.success(), "{lines:?}");
    assert_eq!(host.ended(&before)["status"], "completed");
    assert!(!host.program.lines().iter().any(|line| line.contains(LOST_LOG)), "{:?}", host.program.lines());
}

#[test]
fn a_start_says_that_the_log_of_a_killed_host_is_missing() {
    for file in ["records.db-wal", "queue.db-wal"] {
        let data = Directory::new();
        let mut host = Host::start(data.path(), &[]);
        let before = host.submit(&order("BEFORE"));
        host.ended(&before);

        host.program.kill();
        std::fs::remove_file(data.path().join(file)).unwrap();
        let mut host = Host::start(data.path(), &[]);
        let told = host.program.line(LOST_LOG);

        assert!(told.contains("ERROR") && told.contains(file), "{told}");
    }
}

#[test]
fn a_kill_right_after_the_start_raises_no_alarm() {
    let data = Directory::new();
    for _ in 0..3 {
        let mut host = Host::start(data.path(), &[]);
        assert!(!host.program.lines().iter().any(|line| line.contains(LOST_LOG)), "{:?}", host.program.lines());
        host.program.kill();
    }
}
