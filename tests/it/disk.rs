//! A disk that fails, played by a library between the handler and the system: what clients and probes are told meanwhile.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::doctor::report;
use crate::support::{Directory, Handler, eventually, skipped, submit, try_submit};

/// The library in `tests/fixtures/faulty-disk.c`. Nothing without a C compiler, which `REQUIRE_ALL=1` makes a failure.
fn faulty_disk(place: &Path) -> Option<PathBuf> {
    let (source, library) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/faulty-disk.c"), place.join("faulty-disk.so"));
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    if compiled.is_ok_and(|status| status.success()) {
        return Some(library);
    }
    assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "cc not found");
    skipped("no C compiler");
    None
}

/// A handler whose disk fails while one file exists, whose database is moved during a commit while a second one does, and whose clock is
/// a minute ahead while a third one does.
struct Faulty {
    handler: Handler,
    data: Directory,
}

impl Faulty {
    fn start() -> Option<Self> {
        let data = Directory::new();
        let library = faulty_disk(data.path())?;
        let files = ["sync-fails", "moved", "ahead"].map(|name| data.path().join(name).to_str().unwrap().to_owned());
        let [fails, moves, ahead] = files.each_ref().map(String::as_str);
        let library = library.to_str().unwrap();
        let environment = [("LD_PRELOAD", library), ("DISK_SYNC_FAILS", fails), ("DISK_MOVES", moves), ("CLOCK_AHEAD", ahead)];
        Some(Self { handler: Handler::start(data.path(), &environment), data })
    }

    fn set(&self, fault: &str) {
        std::fs::write(self.data.path().join(fault), []).unwrap();
    }

    fn mend(&self, fault: &str) {
        std::fs::remove_file(self.data.path().join(fault)).unwrap();
    }

    fn outcome(&self, order_id: &str) -> String {
        let answer = try_submit(&self.handler, order_id, &[]);
        assert_eq!(answer.status, 503, "{answer:?}");
        answer.body["outcome"].as_str().unwrap().to_owned()
    }
}

#[test]
fn an_order_whose_commit_failed_is_unknown_until_a_later_commit_succeeds() {
    let Some(mut faulty) = Faulty::start() else { return };
    submit(&faulty.handler, "BEFORE");

    faulty.set("sync-fails");
    let first = faulty.outcome("LOST");
    let others: Vec<_> = (0..5).map(|number| faulty.outcome(&format!("OTHER-{number}"))).collect();
    faulty.set("ahead");
    // The probe of the store's breaker.
    faulty.outcome("PROBE");
    let later = faulty.outcome("LOST");
    faulty.handler.program.kill();
    faulty.mend("sync-fails");
    let restarted = Handler::start(faulty.data.path(), &[]);
    let (again, _) = submit(&restarted, "LOST");

    assert_eq!((first.as_str(), later.as_str()), ("unknown", "unknown"), "others: {others:?}");
    assert!(!again.is_empty());
}

#[test]
fn an_order_that_only_a_moved_file_has_is_not_taken_for_accepted() {
    let Some(faulty) = Faulty::start() else { return };
    submit(&faulty.handler, "BEFORE");

    faulty.set("moved");
    let first = faulty.outcome("LOST");
    // Its record can be read from the file that was moved.
    let again = faulty.outcome("LOST");

    assert_eq!((first.as_str(), again.as_str()), ("unknown", "unknown"));
    assert!(!faulty.data.path().join("records.db").exists());
}

#[test]
fn a_miss_is_a_proof_again_after_a_commit_that_succeeds() {
    let Some(faulty) = Faulty::start() else { return };
    let (before, _) = submit(&faulty.handler, "BEFORE");
    // A connection that has read before goes on reading a file without a name.
    assert_eq!(faulty.handler.status(&before).status, 200);

    faulty.set("sync-fails");
    faulty.outcome("LOST");
    faulty.mend("sync-fails");
    eventually("a write succeeds", || (try_submit(&faulty.handler, "AFTER", &[]).status == 202).then_some(()));
    // The files are lost to the next orders, and nothing was written.
    let records = faulty.data.path().join("records.db");
    std::fs::rename(&records, faulty.data.path().join("elsewhere")).unwrap();

    assert_eq!(faulty.outcome("NEW"), "not_accepted");
}

#[test]
fn an_order_whose_commit_failed_is_gone_after_a_later_commit_that_changes_nothing() {
    let Some(mut faulty) = Faulty::start() else { return };
    let (before, _) = submit(&faulty.handler, "BEFORE");

    faulty.set("sync-fails");
    assert_eq!(faulty.outcome("LOST"), "unknown");
    faulty.mend("sync-fails");
    // Has no page of its own to write: the record exists.
    let (again, _) = submit(&faulty.handler, "BEFORE");
    faulty.handler.program.kill();
    let records = rusqlite::Connection::open(faulty.data.path().join("records.db")).unwrap();
    let orders: u32 = records.query_row("SELECT count(*) FROM orders", [], |row| row.get(0)).unwrap();

    assert_eq!(before, again);
    assert_eq!(orders, 1, "the order that a miss had proved away is back");
}

#[test]
fn the_doctor_finds_a_disk_that_takes_no_writes() {
    let Some(faulty) = Faulty::start() else { return };
    let finding =
        || report(&faulty.handler)["findings"].as_array().unwrap().iter().find(|found| found["code"] == "store_not_writable").cloned();
    submit(&faulty.handler, "BEFORE");
    assert_eq!(finding(), None);

    faulty.set("sync-fails");
    let found = eventually("the disk is noticed", finding);

    let mend = found["mend"].as_str().unwrap();
    assert!(mend.contains(faulty.data.path().to_str().unwrap()) && !mend.contains("cosmosdb"), "{mend}");
}

#[test]
fn a_probe_for_readiness_follows_the_writes_without_an_order() {
    let Some(faulty) = Faulty::start() else { return };
    submit(&faulty.handler, "BEFORE");
    assert_eq!(faulty.handler.readyz().status, 200);

    faulty.set("sync-fails");
    let refused = eventually("the disk is noticed", || Some(faulty.handler.readyz()).filter(|response| response.status == 503));
    faulty.mend("sync-fails");
    eventually("the disk is well again", || (faulty.handler.readyz().status == 200).then_some(()));

    assert_eq!(refused.json()["reason"], "the store takes no writes");
    submit(&faulty.handler, "AFTER");
}
