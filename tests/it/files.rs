//! Database files that are deleted, moved or replaced while a host uses them, and their content after a stop.
#![cfg(unix)]

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use uuid::Uuid;

use crate::support::{Directory, Host, PATIENCE, Program, eventually, hopeless, order, submit_until_accepted};

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

/// A running host, an order that has ended on it, and a backup that was made after that.
struct BackedUp {
    host: Host,
    before: String,
    backup: Directory,
}

impl BackedUp {
    fn in_use(data: &Path) -> Self {
        let host = Host::start(data, &[]);
        let before = host.submit(&order("BEFORE"));
        host.ended(&before);
        let backup = Directory::new();
        std::fs::remove_dir(backup.path()).unwrap();
        let (made, lines) = waybill(&["backup", backup.path().to_str().unwrap(), "--data", data.to_str().unwrap()]);
        assert!(made, "{lines:?}");
        Self { host, before, backup }
    }
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
fn a_copy_that_takes_the_place_of_the_database_finds_the_log_as_it_was() {
    // As programs do that synchronise files.
    let replace = |data: &Path| {
        std::fs::copy(data.join("records.db"), data.join("records.db.tmp")).unwrap();
        rename(data, "records.db.tmp", "records.db");
    };
    refuses_and_loses_nothing("records.db", replace, |_| {});
}

#[test]
fn a_backup_that_overwrites_the_database_is_not_mixed_with_a_log_that_was_deleted() {
    let data = Directory::new();
    let BackedUp { host, before, backup } = BackedUp::in_use(data.path());
    let after = host.submit(&order("AFTER"));
    host.ended(&after);

    std::fs::copy(backup.path().join("records.db"), data.path().join("records.db")).unwrap();
    std::fs::remove_file(data.path().join("records.db-wal")).unwrap();
    std::fs::remove_file(data.path().join("records.db-shm")).unwrap();
    assert_eq!(host.post("/api/orders", &order("LOST")).status, 503);
    host.program.signal("INT");
    assert!(host.program.end().0.success());
    let host = Host::start(data.path(), &[]);

    assert_eq!(host.ended(&before)["status"], "completed");
    assert_eq!(host.get(&format!("/api/orders/{after}/status")).status, 404);
}

#[test]
fn no_command_deletes_the_log_of_a_database_that_was_emptied() {
    let (data, elsewhere) = (Directory::new(), Directory::new());
    let host = Host::start(data.path(), &[]);
    let before = host.submit(&order("BEFORE"));
    host.ended(&before);
    kill(host, data.path());
    let (database, log) = (data.path().join("records.db"), data.path().join("records.db-wal"));
    let (whole, kept) = (std::fs::read(&database).unwrap(), std::fs::read(&log).unwrap());
    std::fs::write(&database, "").unwrap();

    let place = data.path().to_str().unwrap();
    let backup = elsewhere.path().join("backup");
    for command in [&["accept-loss", "--data", place][..], &["backup", backup.to_str().unwrap(), "--data", place]] {
        let (done, lines) = waybill(command);
        assert!(!done && lines.iter().any(|line| line.contains("put the database back")), "{command:?}: {lines:?}");
        assert_eq!(std::fs::read(&log).unwrap(), kept, "{command:?}");
    }
    std::fs::write(&database, whole).unwrap();
    assert_eq!(Host::start(data.path(), &[]).ended(&before)["status"], "completed");
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

const LOST_LOG: &str = "is missing, empty or overwritten, and no stop emptied it";

/// Kills host and handler, and waits until both are gone.
fn kill(mut host: Host, data: &Path) {
    let record: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(data.join("handler.json")).unwrap()).unwrap();
    let handler = record["process"].as_u64().or_else(|| record["pid"].as_u64()).unwrap();
    host.program.kill();
    eventually("the handler is gone", || (!Path::new(&format!("/proc/{handler}")).exists()).then_some(()));
}

fn waybill(arguments: &[&str]) -> (bool, Vec<String>) {
    let (status, lines) = Program::waybill(arguments, &[]).end();
    (status.success(), lines)
}

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
}

#[test]
fn an_operators_command_on_a_stopped_host_leaves_nothing_in_the_logs() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    let failed = host.submit(&hopeless("FAILED"));
    host.ended(&failed);
    host.program.signal("INT");
    host.program.end();

    let (retried, lines) = waybill(&["orders", "retry", &failed, "--data", data.path().to_str().unwrap()]);

    assert!(retried, "{lines:?}");
    for file in ["records.db-wal", "queue.db-wal"] {
        assert!(std::fs::metadata(data.path().join(file)).map_or(0, |metadata| metadata.len()) == 0, "{file}");
    }
}

#[test]
fn a_start_without_the_log_of_a_killed_host_is_refused_until_the_loss_is_accepted() {
    for file in ["records.db-wal", "queue.db-wal"] {
        let data = Directory::new();
        let host = Host::start(data.path(), &[]);
        let before = host.submit(&order("BEFORE"));
        host.ended(&before);

        kill(host, data.path());
        std::fs::remove_file(data.path().join(file)).unwrap();
        let mut refused = Host::begin(crate::support::repository(), data.path(), &[], &[]);
        let told = refused.line(LOST_LOG);
        let (status, _) = refused.end();
        let (listed, _) = waybill(&["orders", "list", "--data", data.path().to_str().unwrap()]);
        let (accepted, lines) = waybill(&["accept-loss", "--data", data.path().to_str().unwrap()]);
        let host = Host::start(data.path(), &[]);
        let after = host.submit(&order("AFTER"));

        assert!(told.contains(file) && told.contains("waybill accept-loss --data"), "{told}");
        assert!(!status.success() && !listed);
        assert!(accepted && lines.iter().any(|line| line.contains("may be missing")), "{lines:?}");
        assert_eq!(host.ended(&after)["status"], "completed");
    }
}

#[test]
fn a_log_that_another_program_copied_into_the_database_raises_no_alarm() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    let before = host.submit(&order("BEFORE"));
    host.ended(&before);

    kill(host, data.path());
    for file in ["records.db", "queue.db"] {
        let database = Connection::open(data.path().join(file)).unwrap();
        database.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, u32>(0)).unwrap();
        database.close().unwrap();
        assert!(!data.path().join(format!("{file}-wal")).exists());
    }
    let host = Host::start(data.path(), &[]);

    assert_eq!(host.ended(&before)["status"], "completed");
}

#[test]
fn a_kill_right_after_the_start_raises_no_alarm() {
    let data = Directory::new();
    for _ in 0..3 {
        let host = Host::start(data.path(), &[]);
        kill(host, data.path());
    }
}

#[test]
fn a_log_that_is_emptied_while_it_is_in_use_ends_the_promises() {
    let data = Directory::new();
    let mut host = Host::start(data.path(), &[]);
    let before = host.submit(&order("BEFORE"));
    host.ended(&before);

    std::fs::File::options().write(true).open(data.path().join("records.db-wal")).unwrap().set_len(0).unwrap();
    let refused = host.post("/api/orders", &order("LOST"));
    let told = host.program.line("was emptied or overwritten while it is in use");

    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(told.contains("ERROR") && told.contains("records.db-wal"), "{told}");
}

#[test]
fn an_older_log_that_overwrites_the_log_in_use_ends_the_promises() {
    use std::os::unix::fs::FileExt;
    let data = Directory::new();
    let mut host = Host::start(data.path(), &[]);
    host.ended(&host.submit(&order("BEFORE")));
    let log = data.path().join("records.db-wal");
    let older = std::fs::read(&log).unwrap();
    host.ended(&host.submit(&order("BETWEEN")));

    let overwritten = std::fs::File::options().write(true).open(&log).unwrap();
    overwritten.write_all_at(&older, 0).unwrap();
    overwritten.set_len(older.len() as u64).unwrap();
    let refused = host.post("/api/orders", &order("LOST"));
    let told = host.program.line("was emptied or overwritten while it is in use");
    let again = host.post("/api/orders", &order("LOST"));

    assert_eq!([refused.status, again.status], [503, 503], "{refused:?} {again:?}");
    assert!(told.contains("ERROR") && told.contains("records.db-wal"), "{told}");
}

#[test]
fn a_log_that_another_program_begins_anew_raises_no_alarm() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);

    for number in 0..10 {
        let open = || {
            let database = Connection::open(data.path().join("records.db")).unwrap();
            database.busy_timeout(PATIENCE).unwrap();
            database
        };
        // The connection that copied the log counts on; the next one draws the numbers of the new log.
        let (copier, writer) = (open(), open());
        copier.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        writer.execute_batch("CREATE TABLE IF NOT EXISTS other (n); INSERT INTO other VALUES (1)").unwrap();
        host.ended(&host.submit(&order(&format!("ANEW-{number}"))));
    }

    assert!(host.program.lines_with("nothing is written any more").is_empty(), "{:?}", host.program.lines());
}

#[test]
fn a_log_that_begins_with_garbage_stops_the_start() {
    use std::os::unix::fs::FileExt;
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    host.ended(&host.submit(&order("BEFORE")));
    kill(host, data.path());

    std::fs::File::options().write(true).open(data.path().join("records.db-wal")).unwrap().write_all_at(&[0xff; 4096], 0).unwrap();
    let mut refused = Host::begin(crate::support::repository(), data.path(), &[], &[]);

    refused.line(LOST_LOG);
}

#[test]
fn a_backup_that_overwrites_the_database_while_it_is_in_use_ends_the_promises() {
    let data = Directory::new();
    let BackedUp { mut host, backup, .. } = BackedUp::in_use(data.path());

    std::fs::copy(backup.path().join("records.db"), data.path().join("records.db")).unwrap();
    let refused = host.post("/api/orders", &order("LOST"));
    let told = host.program.line("was overwritten by another copy while it is in use");

    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(told.contains("ERROR") && told.contains("records.db"), "{told}");
}

#[test]
fn a_backup_beside_the_log_of_another_run_is_not_mixed_with_it() {
    let data = Directory::new();
    let BackedUp { host, before, backup } = BackedUp::in_use(data.path());
    let after = host.submit(&order("AFTER"));
    host.ended(&after);
    kill(host, data.path());

    std::fs::copy(backup.path().join("records.db"), data.path().join("records.db")).unwrap();
    let mut refused = Host::begin(crate::support::repository(), data.path(), &[], &[]);
    let told = refused.line("belongs to another copy of the database");
    drop(refused);
    std::fs::remove_file(data.path().join("records.db-wal")).unwrap();
    let host = Host::start(data.path(), &[]);

    assert!(told.contains("records.db-wal") && told.contains("move the log away"), "{told}");
    assert_eq!(host.ended(&before)["status"], "completed");
    assert_eq!(host.get(&format!("/api/orders/{after}/status")).status, 404);
}

/// The tracking ids of all messages in a copied queue, and of all copied records.
fn copied_ids(backup: &Path) -> (BTreeSet<Uuid>, BTreeSet<Uuid>) {
    let column = |file: &str, query: &str| -> Vec<Vec<u8>> {
        let database = Connection::open_with_flags(backup.join(file), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let mut statement = database.prepare(query).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    let tracking_id = |body: Vec<u8>| {
        let message: serde_json::Value = serde_json::from_slice(&body).unwrap();
        message["trackingId"].as_str().unwrap().parse().unwrap()
    };
    let messages = column("queue.db", "SELECT body FROM messages").into_iter().map(tracking_id).collect();
    let records = column("records.db", "SELECT tracking_id FROM orders").into_iter().map(|id| Uuid::from_slice(&id).unwrap()).collect();
    (messages, records)
}

#[test]
fn every_order_in_a_backup_made_under_load_ends_after_it_is_restored() {
    use std::os::unix::fs::PermissionsExt;
    const SETTINGS: [(&str, &str); 3] = [("SweepSchedule", "* * * * * *"), ("OVERDUE_AFTER", "1s"), ("WORK_DELAY", "50ms")];
    let (data, elsewhere) = (Directory::new(), Directory::new());
    let host = Host::start(data.path(), &SETTINGS);
    let backup = elsewhere.path().join("backup");
    let arguments = ["backup", backup.to_str().unwrap(), "--data", data.path().to_str().unwrap()];

    let (stop, port) = (std::sync::atomic::AtomicBool::new(false), host.port);
    let (submitted, made) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let stop = &stop;
                scope.spawn(move || {
                    let numbers = (0..).take_while(|_| !stop.load(std::sync::atomic::Ordering::Relaxed));
                    numbers.map(|number| submit_until_accepted(port, &format!("LOAD-{client}-{number}"), &[])).collect::<Vec<_>>()
                })
            })
            .collect();
        let first = host.submit(&order("FIRST"));
        host.ended(&first);
        let made = waybill(&arguments);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (clients.into_iter().flat_map(|client| client.join().unwrap()).chain([first]).collect::<Vec<_>>(), made)
    });
    let again = waybill(&arguments);
    kill(host, data.path());
    let modes = [(".", 0o700), ("records.db", 0o600), ("queue.db", 0o600)];
    for (file, mode) in modes {
        assert_eq!(std::fs::metadata(backup.join(file)).unwrap().permissions().mode() & 0o777, mode, "{file}");
    }
    let (messages, records) = copied_ids(&backup);
    let host = Host::start(&backup, &SETTINGS);
    let restored: Vec<_> = submitted.iter().filter(|id| host.get(&format!("/api/orders/{id}/status")).status == 200).collect();

    assert!(made.0 && made.1.iter().any(|line| line.contains("records.db")), "{made:?}");
    assert!(!again.0 && again.1.iter().any(|line| line.contains("is there already")), "{again:?}");
    println!("{} of {} orders were there when the backup was made", restored.len(), submitted.len());
    assert!(!restored.is_empty());
    assert!(!messages.is_empty() && messages.is_subset(&records), "messages without a record: {:?}", messages.difference(&records));
    for id in restored {
        assert_eq!(host.ended(id)["status"], "completed");
    }
}

/// A host with two orders in the database file itself, and nothing in the log or in memory, whose file is then overwritten from this
/// offset on.
fn is_refused_after_garbage(from: u64, told: &[&str]) {
    use std::os::unix::fs::FileExt;
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    let before = host.submit(&order("BEFORE"));
    host.ended(&before);
    host.program.signal("INT");
    assert!(host.program.end().0.success());
    let mut host = Host::start(data.path(), &[]);
    host.program.line("the embedded store is open");

    let path = data.path().join("records.db");
    let length = std::fs::metadata(&path).unwrap().len();
    let garbage = vec![0xff; usize::try_from(length - from).unwrap()];
    std::fs::File::options().write(true).open(&path).unwrap().write_all_at(&garbage, from).unwrap();
    let refused = ["LOST-1", "LOST-2", "LOST-3"].map(|id| host.post("/api/orders", &order(id)));
    let is_told = |line: &str| told.iter().any(|told| line.contains(told));
    let line = host.program.line_where("a line about the file", is_told);
    host.program.signal("INT");
    let (_, lines) = host.program.end();

    assert!(refused.iter().all(|response| response.status == 503), "{refused:?}");
    assert!(line.contains("ERROR") && line.contains("records.db"), "{line}");
    assert_eq!(lines.iter().filter(|line| is_told(line)).count(), 1, "{lines:?}");
}

#[test]
fn nothing_is_taken_by_a_database_whose_pages_are_garbage() {
    is_refused_after_garbage(4096, &["the database is damaged"]);
}

#[test]
fn nothing_is_taken_by_a_file_that_is_no_database_any_more() {
    // A query may find it before the next write does.
    is_refused_after_garbage(0, &["was overwritten by another copy", "the database is damaged"]);
}
