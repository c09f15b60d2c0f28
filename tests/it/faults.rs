//! What breaks around the programs: clocks, disks, files, processes and brokers; every accepted order still ends once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use functions_host::service_bus::broker::{Broker, Outgoing, Rules};
use serde_json::{Value, json};

use crate::emulator::Emulator;
use crate::fake::{Fake, Heard, reply};
use crate::store::run;
use crate::support::{
    Directory, Handler, Host, PATIENCE, Program, Response, events, eventually, free_port, order, post_order, queue_envelope, repository,
    request, signal, skipped, stop_between_writes, submit, submit_until_accepted, try_request,
};

/// An order that is held for long is taken over within a test.
const SHORT_LEASE: [(&str, &str); 1] = [("LEASE", "500ms")];

/// `waybill verify` on a directory: whether everything agrees, and what does not.
fn verified(data: &Path) -> (bool, Value) {
    let (status, lines) = Program::waybill(&["verify", "--json", "--data", data.to_str().unwrap()], &[]).end();
    let told = lines.iter().find_map(|line| serde_json::from_str(line).ok());
    (status.success(), told.unwrap_or_else(|| panic!("{lines:?}")))
}

/// A message is settled a moment after its order has ended.
fn agrees(data: &Directory) {
    let mut told = Value::Null;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let (agrees, says) = verified(data.path());
        if agrees {
            return;
        }
        told = says;
    }
    panic!("{told:#}");
}

fn count(status: &Value, event: &str) -> usize {
    events(status).iter().filter(|found| **found == event).count()
}

/// Completed, by one outcome, at the first attempt, and with at most this number of interruptions.
fn completed_once(status: &Value, interruptions: usize) {
    let ends = ["completed", "failed", "cancelled"].map(|event| count(status, event));
    assert_eq!((&status["status"], &status["attempt"], ends), (&json!("completed"), &json!(1), [1, 0, 0]), "{status}");
    assert!(count(status, "interrupted") <= interruptions, "{status}");
}

/// Delivers a message in an invocation of its own, as the host does.
fn deliver(handler: &Handler, message: &str, invocation: &str) -> Response {
    let headers = [("Content-Type", "application/json"), ("X-Azure-Functions-InvocationId", invocation)];
    request("POST", &handler.url("/OrderProcessor"), &headers, Some(queue_envelope(message).to_string().as_bytes()))
}

fn shown(handler: &Handler, id: &str) -> Value {
    let answer = handler.status(id);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

fn tracking_id(accepted: &Response) -> String {
    accepted.json()["trackingId"].as_str().unwrap().to_owned()
}

/// The handler that a host started.
pub fn handler_of(data: &Path) -> u32 {
    eventually("the handler is on record", || {
        let record: Value = serde_json::from_slice(&std::fs::read(data.join("handler.json")).ok()?).ok()?;
        record["process"].as_u64()?.try_into().ok()
    })
}

fn is_gone(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|this| std::os::unix::fs::MetadataExt::uid(&this) == 0)
}

/// The calls of an order, which all have one key.
fn calls_of_one_order(backend: &Fake) -> usize {
    let heard = backend.heard();
    let keys: BTreeSet<_> = heard.iter().map(|heard| &heard.headers["idempotency-key"]).collect();
    assert_eq!(keys.len(), 1, "{heard:?}");
    heard.len()
}

/// Closed until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<AtomicBool>);

impl Gate {
    fn open(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn pass(&self) {
        eventually("the gate opens", || self.0.load(Ordering::Relaxed).then_some(()));
    }
}

mod clocks {
    //! One machine's clock is set to a wrong time while host and handler work.

    use super::*;

    /// In work at once are 32 of them; the others wait in the queue.
    const BEFORE: usize = 48;
    const AFTER: usize = 16;

    /// Debian's libfaketime, the build for programs with threads. Nothing without it, which `REQUIRE_ALL=1` makes a failure.
    fn libfaketime() -> Option<String> {
        let directories = std::fs::read_dir("/usr/lib").into_iter().flatten().map_while(Result::ok).map(|entry| entry.path());
        let found = directories.map(|directory| directory.join("faketime/libfaketimeMT.so.1")).find(|library| library.exists());
        if found.is_none() {
            assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "libfaketime not found: apt-get install faketime");
            skipped("libfaketime not found: apt-get install faketime");
        }
        found.map(|library| library.into_os_string().into_string().unwrap())
    }

    struct Clock {
        directory: Directory,
        path: PathBuf,
    }

    impl Clock {
        fn right() -> Self {
            let directory = Directory::new();
            let path = directory.write("clock", "+0");
            Self { directory, path }
        }

        fn set(&self, offset: &str) {
            std::fs::rename(self.directory.write("new", offset), &self.path).unwrap();
        }
    }

    fn start(data: &Path, clock: &Clock, library: &str) -> Host {
        let settings = [
            ("LD_PRELOAD", library),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_TIMESTAMP_FILE", clock.path.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("WORK_DELAY", "1500ms"),
            // By a clock that was set ahead every order has waited too long.
            ("ADMISSION_MAX_AGE", "0"),
        ];
        let host = Host::start(data, &settings);
        // The programs are killed in the end, and could not remove these themselves.
        for process in [host.program.id(), handler_of(data)] {
            for name in ["faketime_shm_", "sem.faketime_sem_"] {
                let _ = std::fs::remove_file(format!("/dev/shm/{name}{process}"));
            }
        }
        host
    }

    fn submitted(host: &Host, name: &str, orders: usize) -> Vec<String> {
        (0..orders).map(|number| host.submit(&order(&format!("{name}-{number}")))).collect()
    }

    fn status_of(host: &Host, id: &str) -> Value {
        host.get(&format!("/api/orders/{id}/status")).json()
    }

    /// Those that are worked on, once there are enough.
    fn in_work(host: &Host, ids: &[String]) -> Vec<String> {
        eventually("many orders are worked on, and none of the last", || {
            let working: Vec<_> = ids.iter().filter(|id| status_of(host, id)["status"] == "processing").cloned().collect();
            (working.len() >= 8).then_some(working)
        })
    }

    /// Checks that the clock is off by this number of minutes, as new records show.
    fn is_off_by(host: &Host, id: &str, minutes: i64) {
        let submitted: jiff::Timestamp = status_of(host, id)["submittedAt"].as_str().unwrap().parse().unwrap();
        let off = submitted.duration_since(jiff::Timestamp::now()).as_secs();
        assert!((off - 60 * minutes).abs() < 60, "{off} s");
    }

    #[test]
    fn a_clock_that_jumps_ten_minutes_ahead_costs_at_most_one_interruption_and_no_attempt() {
        let Some(library) = libfaketime() else { return };
        let (data, clock) = (Directory::new(), Clock::right());
        let host = start(data.path(), &clock, &library);
        let before = submitted(&host, "AHEAD-BEFORE", BEFORE);
        in_work(&host, &before);

        clock.set("+10m");
        let after = submitted(&host, "AHEAD-AFTER", AFTER);

        is_off_by(&host, &after[0], 10);
        for id in before.iter().chain(&after) {
            completed_once(&host.ended(id), 1);
        }
        agrees(&data);
    }

    /// What waits in the queue of this machine is ready by this machine's clock, so it waits until that has caught up
    /// (`ARCHITECTURE.md`, "Limits known"). What is worked on, and what is sent from then on, does not.
    #[test]
    fn a_clock_that_jumps_ten_minutes_back_delays_only_what_waits_in_the_queue_and_loses_nothing() {
        let Some(library) = libfaketime() else { return };
        let (data, clock) = (Directory::new(), Clock::right());
        let host = start(data.path(), &clock, &library);
        let before = submitted(&host, "BACK-BEFORE", BEFORE);
        let working = in_work(&host, &before);

        clock.set("-10m");
        let after = submitted(&host, "BACK-AFTER", AFTER);

        is_off_by(&host, &after[0], -10);
        for id in working.iter().chain(&after) {
            completed_once(&host.ended(id), 1);
        }
        let waiting = before.iter().filter(|id| status_of(&host, id)["status"] == "accepted").count();
        println!("{waiting} of {BEFORE} orders wait for the clock");
        clock.set("+0");
        for id in &before {
            completed_once(&host.ended(id), 1);
        }
        agrees(&data);
    }
}

mod disks {
    //! The disk is full, or its files cannot be written, while the programs run.

    use super::*;

    /// Whatever is tried is tried a few times.
    const REFUSED: usize = 10;
    /// Nothing that was asked for before may give up before the disk is well again.
    const SETTINGS: [(&str, &str); 3] = [("WORK_DELAY", "20ms"), ("LEASE", "2s"), ("SweepSchedule", "* * * * * *")];

    /// A host whose data lie on a small disk of their own, which it alone sees.
    fn on_a_small_disk(data: &Path) -> Option<Host> {
        let script = r#"mount -t tmpfs -o size=24m tmpfs "$1" && shift && exec "$@""#;
        let allowed = Command::new("unshare").args(["-Urm", "mount", "-t", "tmpfs", "tmpfs", data.to_str().unwrap()]).status();
        if !allowed.is_ok_and(|status| status.success()) {
            skipped("no disk of our own can be mounted here: unshare -Urm is not allowed");
            return None;
        }
        let data = data.to_str().unwrap();
        let mut command = Command::new("unshare");
        command.args(["-Urm", "sh", "-c", script, "sh", data, env!("CARGO_BIN_EXE_waybill"), "local"]);
        command.args(["--app", repository().to_str().unwrap(), "--data", data, "--port", "0", "--lock-duration", "3s"]);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).envs(SETTINGS);
        let mut program = Program::start(&mut command);
        let port = Host::wait(&mut program);
        Some(Host { program, port })
    }

    /// Takes every byte that is left.
    fn fill(ballast: &Path) {
        let mut file = std::fs::File::create(ballast).unwrap();
        for size in [64 * 1024, 4096, 1] {
            let bytes = vec![0; size];
            while file.write_all(&bytes).is_ok() {}
        }
    }

    /// Refusals, each in words: what was not recorded was not promised.
    fn is_refused(port: u16, name: &str) -> BTreeMap<String, usize> {
        let mut outcomes = BTreeMap::new();
        for number in 0..REFUSED {
            let response = post_order(port, &format!("{name}-{number}")).unwrap();
            assert_eq!(response.status, 503, "{response:?}");
            assert!(response.headers.contains_key("retry-after"), "{response:?}");
            let outcome = response.json()["outcome"].as_str().unwrap().to_owned();
            assert!(["not_accepted", "unknown"].contains(&outcome.as_str()), "{response:?}");
            *outcomes.entry(outcome).or_default() += 1;
        }
        outcomes
    }

    #[test]
    fn a_full_disk_refuses_orders_and_loses_none_that_it_accepted() {
        let data = Directory::new();
        let Some(host) = on_a_small_disk(data.path()) else { return };
        let seen = PathBuf::from(format!("/proc/{}/root", host.program.id())).join(data.path().strip_prefix("/").unwrap());
        let mut accepted: Vec<String> = (0..24).map(|number| host.submit(&order(&format!("FULL-BEFORE-{number}")))).collect();

        fill(&seen.join("ballast"));
        // What the files have room for is taken, and truly; in the end there is none.
        eventually("the disk is full for orders, too", || {
            let response = post_order(host.port, &format!("FULL-LAST-{}", accepted.len())).unwrap();
            match response.status {
                202 => accepted.push(tracking_id(&response)),
                500 | 503 => {}
                _ => panic!("{response:?}"),
            }
            (response.status == 503).then_some(())
        });
        let outcomes = is_refused(host.port, "FULL");
        std::fs::remove_file(seen.join("ballast")).unwrap();
        let refused = (0..REFUSED).map(|number| submit_until_accepted(host.port, &format!("FULL-{number}"), &[500, 503]));
        accepted.extend(refused.collect::<Vec<_>>());

        println!("{} accepted, refused: {outcomes:?}", accepted.len());
        for id in &accepted {
            completed_once(&host.ended(id), 1);
        }
        let verify = || {
            let target = host.program.id().to_string();
            let mut command = Command::new("nsenter");
            command.args(["-t", &target, "-U", "-m", "--preserve-credentials", env!("CARGO_BIN_EXE_waybill"), "verify", "--data"]);
            Program::start(command.arg(data.path()).env_clear().env("PATH", std::env::var_os("PATH").unwrap())).end()
        };
        eventually("everything agrees", || verify().0.success().then_some(()));
    }

    /// Files that no process can change, even through a handle that is open; freed at the end.
    struct Immutable(Vec<PathBuf>);

    impl Immutable {
        fn make(paths: Vec<PathBuf>) -> Option<Self> {
            let made = Command::new("chattr").arg("+i").args(&paths).status().is_ok_and(|status| status.success());
            let this = Self(paths);
            // Some file systems take the mark, and heed it only when files are opened.
            let heeds = made && std::fs::OpenOptions::new().append(true).open(&this.0[0]).is_err();
            if !heeds {
                skipped("no file can be made immutable here: chattr +i is not allowed");
            }
            heeds.then_some(this)
        }
    }

    impl Drop for Immutable {
        fn drop(&mut self) {
            let _ = Command::new("chattr").arg("-i").args(&self.0).stderr(std::process::Stdio::null()).status();
        }
    }

    fn files(data: &Path, name: &str) -> Vec<PathBuf> {
        ["", "-wal"].map(|suffix| data.join(format!("{name}{suffix}"))).into()
    }

    #[test]
    fn records_that_cannot_be_written_are_refused_and_written_again_without_a_restart() {
        let data = Directory::new();
        let host = Host::with(repository(), data.path(), &["--lock-duration", "3s"], &SETTINGS);
        let before: Vec<String> = (0..24).map(|number| host.submit(&order(&format!("LOCKED-BEFORE-{number}")))).collect();

        let Some(immutable) = Immutable::make(files(data.path(), "records.db")) else { return };
        let outcomes = is_refused(host.port, "LOCKED");
        drop(immutable);
        let refused =
            (0..REFUSED).map(|number| submit_until_accepted(host.port, &format!("LOCKED-{number}"), &[500, 503])).collect::<Vec<_>>();

        println!("refused: {outcomes:?}");
        for id in before.iter().chain(&refused) {
            completed_once(&host.ended(id), 1);
        }
        agrees(&data);
    }

    #[test]
    fn a_queue_that_cannot_be_written_promises_nothing_and_is_written_again_without_a_restart() {
        let data = Directory::new();
        let host = Host::with(repository(), data.path(), &["--lock-duration", "3s"], &SETTINGS);
        let before = host.submit(&order("MUTE-BEFORE"));
        host.ended(&before);

        let Some(immutable) = Immutable::make(files(data.path(), "queue.db")) else { return };
        let statuses = [(); REFUSED].map(|()| post_order(host.port, "MUTE").unwrap().status);
        drop(immutable);
        let id = submit_until_accepted(host.port, "MUTE", &[500, 503]);

        assert_eq!(statuses, [500; REFUSED], "the host's own answer to a message that did not leave");
        completed_once(&host.ended(&id), 0);
        agrees(&data);
    }

    /// A host without the rights of root: these make modes of files meaningless.
    fn unprivileged(data: &Path) -> Program {
        let mut command = if is_root() {
            const NOBODY: u32 = 65534;
            for entry in std::fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path()).chain([data.to_owned()]) {
                std::os::unix::fs::chown(entry, Some(NOBODY), Some(NOBODY)).unwrap();
            }
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_waybill")]);
            command
        } else {
            Command::new(env!("CARGO_BIN_EXE_waybill"))
        };
        command.args(["local", "--app", repository().to_str().unwrap(), "--data", data.to_str().unwrap(), "--port", "0"]);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).envs(SETTINGS);
        Program::start(&mut command)
    }

    fn with_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }

    /// The system asks for a file's mode when it is opened, and host and handler open each file once: a running host goes on,
    /// and truly so; the next start says what is wrong; the next after the mode is right again works.
    #[test]
    fn a_file_made_read_only_by_its_mode_stops_the_next_start_and_not_a_running_host() {
        let data = Directory::new();
        let mut program = unprivileged(data.path());
        let host = Host { port: Host::wait(&mut program), program };
        let before = host.submit(&order("MODE-BEFORE"));
        let records = data.path().join("records.db");

        with_mode(&records, 0o400);
        let running = host.submit(&order("MODE-RUNNING"));
        host.ended(&running);
        host.program.signal("INT");
        assert!(host.program.end().0.success());
        let mut refused = unprivileged(data.path());
        let told = refused.line("cannot open the database");
        drop(refused);
        with_mode(&records, 0o600);
        let mut program = unprivileged(data.path());
        let host = Host { port: Host::wait(&mut program), program };
        let after = host.submit(&order("MODE-AFTER"));

        assert!(told.contains("records.db") && told.contains("ermission denied"), "{told}");
        for id in [before, running, after] {
            completed_once(&host.ended(&id), 0);
        }
        agrees(&data);
    }
}

mod pauses {
    //! A worker stands still for longer than its lease, and another takes its order over, or nobody does.

    use super::*;

    const LATE: &str = r#"{"by":"the stopped one"}"#;
    const IN_TIME: &str = r#"{"by":"the other"}"#;

    fn handler(data: &Path, backend: &Fake) -> Handler {
        let url = format!("{}/orders", backend.url);
        Handler::start(data, &[&SHORT_LEASE[..], &[("FULFILLMENT_URL", url.as_str())]].concat())
    }

    fn lease_has_run_out(data: &Path) {
        eventually("the lease runs out", || {
            let database = rusqlite::Connection::open(data.join("records.db")).unwrap();
            let record: String = database.query_row("SELECT record FROM orders", [], |row| row.get(0)).unwrap();
            let record: Value = serde_json::from_str(&record).unwrap();
            let expires_at: jiff::Timestamp = record["lease"]["expiresAt"].as_str().unwrap().parse().unwrap();
            (expires_at < jiff::Timestamp::now()).then_some(())
        });
    }

    /// `first` is stopped in the midst of its call, `taken_over` happens, `first` goes on: its answer to the host.
    fn stopped_while(first: &Handler, data: &Path, message: &str, backend: &Fake, taken_over: impl FnOnce()) -> u16 {
        std::thread::scope(|scope| {
            let working = scope.spawn(|| deliver(first, message, "i-first").status);
            backend.until_heard(1);
            stop_between_writes(&first.program, data);
            taken_over();
            first.program.signal("CONT");
            working.join().unwrap()
        })
    }

    #[test]
    fn a_worker_stopped_beyond_its_lease_writes_and_calls_nothing_once_another_has_its_order() {
        let data = Directory::new();
        let silence = Gate::default();
        let held = silence.clone();
        let backend = Fake::answering(move |number, _| {
            if number == 0 {
                held.pass();
            }
            reply(200, &[], IN_TIME)
        });
        let (mut first, second) = (handler(data.path(), &backend), handler(data.path(), &backend));
        let (id, message) = submit(&second, "PAUSE-1");
        let mut ended = Value::Null;

        let late = stopped_while(&first, data.path(), &message, &backend, || {
            assert_eq!(deliver(&second, &message, "i-second").status, 200);
            ended = shown(&second, &id);
        });
        first.program.line("another worker took this order");
        // Its next answers are about nothing.
        assert_eq!(deliver(&first, &message, "i-again").status, 200);
        silence.open();

        assert_eq!(late, 200);
        assert_eq!(events(&ended), ["accepted", "claimed", "interrupted", "completed"]);
        assert_eq!(shown(&second, &id), ended);
        completed_once(&ended, 1);
        assert_eq!(calls_of_one_order(&backend), 2);
        agrees(&data);
    }

    #[test]
    fn a_worker_stopped_while_a_retry_waits_makes_no_call_once_another_has_made_it() {
        let data = Directory::new();
        let backend = Fake::answering(|number, _| match number {
            0 => reply(503, &[("Retry-After", "1")], ""),
            _ => reply(200, &[], IN_TIME),
        });
        let (first, second) = (handler(data.path(), &backend), handler(data.path(), &backend));
        let (id, message) = submit(&second, "PAUSE-2");
        let mut ended = Value::Null;

        let late = std::thread::scope(|scope| {
            let working = scope.spawn(|| deliver(&first, &message, "i-first").status);
            eventually("a retry waits", || shown(&second, &id)["nextAttemptAt"].is_string().then_some(()));
            stop_between_writes(&first.program, data.path());
            assert_eq!(deliver(&second, &message, "i-second").status, 200);
            ended = shown(&second, &id);
            first.program.signal("CONT");
            working.join().unwrap()
        });

        assert_eq!(late, 200);
        assert_eq!(events(&ended), ["accepted", "claimed", "retrying", "claimed", "completed"]);
        assert_eq!(shown(&first, &id), ended);
        assert_eq!(calls_of_one_order(&backend), 2);
        agrees(&data);
    }

    #[test]
    fn an_answer_that_waited_for_a_stopped_worker_changes_nothing_once_another_has_its_order() {
        let data = Directory::new();
        let gate = Gate::default();
        let held = gate.clone();
        let backend = Fake::answering(move |number, _| match number {
            0 => {
                held.pass();
                reply(200, &[], LATE)
            }
            _ => reply(200, &[], IN_TIME),
        });
        let (mut first, second) = (handler(data.path(), &backend), handler(data.path(), &backend));
        let (id, message) = submit(&second, "PAUSE-3");
        let mut ended = Value::Null;

        let late = stopped_while(&first, data.path(), &message, &backend, || {
            gate.open();
            backend.until_answered(1);
            assert_eq!(deliver(&second, &message, "i-second").status, 200);
            ended = shown(&second, &id);
        });

        assert_eq!(late, 200);
        first.program.line("another worker took this order");
        completed_once(&ended, 1);
        assert_eq!(ended["result"], serde_json::from_str::<Value>(IN_TIME).unwrap());
        assert_eq!(shown(&first, &id), ended);
        assert_eq!(calls_of_one_order(&backend), 2);
        agrees(&data);
    }

    #[test]
    fn an_answer_that_waited_for_a_stopped_worker_counts_while_no_other_has_its_order() {
        let data = Directory::new();
        let gate = Gate::default();
        let held = gate.clone();
        let backend = Fake::answering(move |_, _| {
            held.pass();
            reply(200, &[], LATE)
        });
        let first = handler(data.path(), &backend);
        let (id, message) = submit(&first, "PAUSE-4");

        let late = stopped_while(&first, data.path(), &message, &backend, || {
            gate.open();
            lease_has_run_out(data.path());
        });
        let again = deliver(&first, &message, "i-again").status;

        let ended = shown(&first, &id);
        assert_eq!((late, again), (200, 200));
        assert_eq!(events(&ended), ["accepted", "claimed", "completed"]);
        completed_once(&ended, 0);
        assert_eq!(calls_of_one_order(&backend), 1);
        agrees(&data);
    }

    #[test]
    fn an_answer_after_a_store_that_refused_every_renewal_ends_the_order_once() {
        let data = Directory::new();
        let gate = Gate::default();
        let held = gate.clone();
        let backend = Fake::answering(move |number, _| match number {
            0 => {
                held.pass();
                reply(200, &[], LATE)
            }
            _ => reply(200, &[], IN_TIME),
        });
        let (first, second) = (handler(data.path(), &backend), handler(data.path(), &backend));
        let (id, message) = submit(&second, "PAUSE-5");

        let statuses = std::thread::scope(|scope| {
            let working = scope.spawn(|| deliver(&first, &message, "i-first").status);
            backend.until_heard(1);
            let database = rusqlite::Connection::open(data.path().join("records.db")).unwrap();
            database.busy_timeout(PATIENCE).unwrap();
            database.execute_batch("BEGIN IMMEDIATE").unwrap();
            let told = |line: &String| line.contains("progress could not be recorded");
            eventually("a renewal is refused", || first.program.lines().iter().any(told).then_some(()));
            lease_has_run_out(data.path());
            let other = scope.spawn(|| deliver(&second, &message, "i-second").status);
            gate.open();
            backend.until_answered(1);
            drop(database);
            [working.join().unwrap(), other.join().unwrap()]
        });

        let ended = shown(&second, &id);
        assert_eq!(statuses, [200, 200]);
        completed_once(&ended, 1);
        // The worker that wrote first after the pause has the order, and its answer counts.
        let (calls, by) = if count(&ended, "interrupted") == 1 { (2, IN_TIME) } else { (1, LATE) };
        assert_eq!(ended["result"], serde_json::from_str::<Value>(by).unwrap(), "{ended}");
        assert_eq!(calls_of_one_order(&backend), calls);
        agrees(&data);
    }
}

mod logs {
    //! What a power failure or a crash may leave behind the last commit of a write-ahead log.

    use super::*;

    const CLIENTS: usize = 4;
    const ORDERS: usize = 80;
    /// By the file format of `SQLite`, "The Write-Ahead Log": lengths of the log's header and of a frame's.
    const HEADER: usize = 32;
    const FRAME_HEADER: usize = 24;

    /// A log up to its last commit.
    struct Log {
        bytes: Vec<u8>,
        page: usize,
        little_endian: bool,
        sum: (u32, u32),
    }

    impl Log {
        fn read(path: &Path) -> Self {
            let bytes = std::fs::read(path).unwrap();
            let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
            let page = word(8) as usize;
            let mut log = Self { page, little_endian: word(0) & 1 == 0, sum: (0, 0), bytes: bytes.clone() };
            let mut sum = log.sum_of((0, 0), &bytes[..24]);
            assert_eq!(sum, (word(24), word(28)), "the log's own header");
            let (mut end, mut at) = (HEADER, HEADER);
            log.sum = sum;
            while at + FRAME_HEADER + page <= bytes.len() {
                sum = log.sum_of(log.sum_of(sum, &bytes[at..at + 8]), &bytes[at + FRAME_HEADER..at + FRAME_HEADER + page]);
                // Frames of an earlier round have other salts, and other sums.
                if bytes[at + 8..at + 16] != bytes[16..24] || sum != (word(at + 16), word(at + 20)) {
                    break;
                }
                let commits = word(at + 4) > 0;
                at += FRAME_HEADER + page;
                if commits {
                    (end, log.sum) = (at, sum);
                }
            }
            assert!(end > HEADER, "nothing was committed to {}", path.display());
            log.bytes.truncate(end);
            log
        }

        fn sum_of(&self, sum: (u32, u32), bytes: &[u8]) -> (u32, u32) {
            let word = |bytes: &[u8]| {
                let bytes = bytes.try_into().unwrap();
                if self.little_endian { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
            };
            bytes.chunks(8).fold(sum, |(first, second), pair| {
                let first = first.wrapping_add(word(&pair[..4])).wrapping_add(second);
                (first, second.wrapping_add(word(&pair[4..])).wrapping_add(first))
            })
        }

        /// A frame that is right in everything but its page, and belongs to no commit.
        fn uncommitted(&self) -> Vec<u8> {
            let page = vec![0xAB; self.page];
            let mut head = [1_u32.to_be_bytes(), 0_u32.to_be_bytes()].concat();
            let sum = self.sum_of(self.sum_of(self.sum, &head), &page);
            head.extend(&self.bytes[16..24]);
            head.extend([sum.0.to_be_bytes(), sum.1.to_be_bytes()].concat());
            [head, page].concat()
        }
    }

    /// Host and handler are killed under load; what lies behind the last commit of each log is replaced.
    fn loses_nothing_with(name: &str, tail: impl Fn(&Log) -> Vec<u8>) {
        let data = Directory::new();
        let mut host = Host::start(data.path(), &[("WORK_DELAY", "5ms")]);
        let handler = handler_of(data.path());
        let accepted: Mutex<HashMap<String, String>> = Mutex::default();
        let next = AtomicUsize::new(0);
        let port = host.port;

        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    loop {
                        let order_id = format!("{name}-{}", next.fetch_add(1, Ordering::Relaxed));
                        let Ok(response) = post_order(port, &order_id) else { return };
                        if response.status == 202 {
                            accepted.lock().unwrap().insert(order_id, tracking_id(&response));
                        }
                    }
                });
            }
            eventually("many orders are accepted", || (accepted.lock().unwrap().len() >= ORDERS).then_some(()));
            host.program.kill();
            signal(handler, "KILL");
        });
        eventually("both are gone", || is_gone(handler).then_some(()));
        for file in ["records.db-wal", "queue.db-wal"] {
            let path = data.path().join(file);
            let log = Log::read(&path);
            std::fs::write(&path, [&log.bytes[..], &tail(&log)].concat()).unwrap();
        }
        let host = Host::start(data.path(), &[]);

        let accepted = accepted.into_inner().unwrap();
        for (order_id, id) in &accepted {
            completed_once(&host.ended(id), 1);
            assert_eq!(host.submit(&order(order_id)), *id, "the key of the tracking ids is the same");
        }
        println!("{} orders were accepted", accepted.len());
        agrees(&data);
    }

    #[test]
    fn a_log_cut_off_behind_its_last_commit_loses_no_accepted_order() {
        loses_nothing_with("CUT", |log| log.uncommitted()[..FRAME_HEADER + log.page / 2].to_vec());
    }

    #[test]
    fn garbage_behind_the_last_commit_of_a_log_loses_no_accepted_order() {
        loses_nothing_with("GARBAGE", |log| {
            let mut tail = log.uncommitted();
            // A sum that does not fit, and what is no frame at all.
            tail[FRAME_HEADER + 7] ^= 0xFF;
            tail.extend((0..40_000_u32).map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[0]));
            tail
        });
    }

    #[test]
    fn a_whole_frame_that_was_never_committed_loses_no_accepted_order() {
        loses_nothing_with("UNCOMMITTED", Log::uncommitted);
    }
}

mod messages {
    //! What a broker may do: unreadable messages among good ones, and every message three times.

    use super::*;

    #[test]
    fn a_thousand_unreadable_messages_stop_no_good_one_and_end_in_quarantine_once_and_whole() {
        const GOOD: usize = 200;
        const EACH: usize = 5;
        const DELIVERIES: usize = 3;
        let data = Directory::new();
        let handler = Handler::start(data.path(), &[]);
        let (ids, good): (Vec<_>, Vec<_>) = (0..GOOD).map(|number| submit(&handler, &format!("POISON-{number}"))).unzip();
        drop(handler);
        let bad: Vec<String> = (0..GOOD * EACH).map(unreadable).collect();
        let between = bad.chunks(EACH).zip(&good).flat_map(|(bad, good)| bad.iter().chain([good]));
        let messages = between.map(|text| Outgoing { body: text.clone().into_bytes(), ..Outgoing::default() }).collect();
        run(async {
            let rules = Rules { lock_duration: PATIENCE, max_delivery_count: 10 };
            Broker::open(data.path(), rules).unwrap().send("orders", messages).await.unwrap();
        });

        let started = Instant::now();
        let host = Host::with(repository(), data.path(), &["--max-delivery-count", &DELIVERIES.to_string()], &[]);
        for id in &ids {
            completed_once(&host.ended(id), 0);
        }
        let good_in = started.elapsed();
        eventually("the queue is empty", || (host.figures()["serviceBus"]["queues"] == json!({})).then_some(()));
        println!("the good ones took {good_in:?}, all {:?}", started.elapsed());

        let (status, lines) = Program::waybill(&["quarantine", "list", "--json", "--data", data.path().to_str().unwrap()], &[]).end();
        assert!(status.success(), "{lines:?}");
        let kept: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut texts: Vec<&str> = kept.iter().map(|kept| kept["text"].as_str().unwrap()).collect();
        let mut wanted: Vec<&str> = bad.iter().map(String::as_str).collect();
        texts.sort_unstable();
        wanted.sort_unstable();
        assert!(texts == wanted, "{} kept, {} sent, or not whole", texts.len(), wanted.len());
        let lines = host.program.lines();
        let told = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
        // The handler and the host say it, each in a line of its own.
        assert_eq!(told("kept in quarantine"), bad.len());
        assert_eq!(told("OrderProcessor failed: not an order message"), DELIVERIES * bad.len());
        assert_eq!(told("order completed"), GOOD);
        // Messages in quarantine are the one thing that is left.
        let (agrees, says) = verified(data.path());
        assert!(!agrees && says["disagreements"] == json!([]), "{says}");
        assert_eq!((says["quarantined"].as_array().map(Vec::len), &says["records"]), (Some(bad.len()), &json!(GOOD)));
    }

    fn unreadable(number: usize) -> String {
        match number % 5 {
            0 => format!("no JSON {number} \u{0}\r\n\u{fffd}é"),
            1 => format!("{{\"schemaVersion\":1,\"trackingId\":{number}}}"),
            2 => format!("[\"{number}\"]"),
            3 => format!("{{\"schemaVersion\":1,\"half\":{number}"),
            _ => format!("\"{number} {}\"", "x".repeat(number * 16)),
        }
    }

    /// A namespace that takes every message, and when it is to be delivered.
    fn namespace() -> Fake {
        Fake::answering(|_, _| reply(201, &[], ""))
    }

    fn scheduled(heard: &Heard) -> (jiff::Timestamp, String) {
        assert!(heard.line.starts_with("POST /orders/messages"), "{heard:?}");
        let properties: Value = serde_json::from_str(&heard.headers["brokerproperties"]).unwrap();
        let at = jiff::fmt::rfc2822::parse(properties["ScheduledEnqueueTimeUtc"].as_str().unwrap()).unwrap();
        (at.timestamp(), heard.body.clone())
    }

    #[test]
    fn a_retry_that_cannot_be_scheduled_keeps_its_message_until_it_can() {
        let data = Directory::new();
        let refusing = Arc::new(AtomicBool::new(true));
        let refuses = Arc::clone(&refusing);
        let broker = Fake::answering(move |_, _| reply(if refuses.load(Ordering::Relaxed) { 401 } else { 201 }, &[], ""));
        let backend = Fake::answering(|_, _| reply(503, &[("Retry-After", "600")], ""));
        let url = format!("{}/orders", backend.url);
        // Two seconds are left of an invocation, for the work and for waiting.
        let times = [("FUNCTION_TIMEOUT", "23s"), ("FULFILLMENT_TIMEOUT", "500ms"), ("FULFILLMENT_URL", url.as_str())];
        let handler = Handler::start(data.path(), &[&queue(&broker)[..], &times].concat());
        let (id, message) = submit(&handler, "UNSCHEDULED");

        for delivery in 1..=2 {
            assert_eq!(deliver(&handler, &message, &format!("i-{delivery}")).status, 500, "its message comes back");
            assert_eq!(broker.heard().len(), delivery, "scheduling is tried each time");
        }
        refusing.store(false, Ordering::Relaxed);
        assert_eq!(deliver(&handler, &message, "i-3").status, 200);
        assert_eq!(deliver(&handler, &message, "i-4").status, 200, "a copy is on its way");

        assert_eq!(broker.heard().len(), 3);
        assert_eq!(calls_of_one_order(&backend), 1);
        let due = shown(&handler, &id)["nextAttemptAt"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        assert!((scheduled(&broker.heard()[2]).0.duration_since(due).as_secs()).abs() <= 1, "{due}");
    }

    #[test]
    fn a_wake_up_whose_record_was_not_confirmed_is_scheduled_all_the_same_and_once() {
        let emulator = Emulator::start(&[]);
        let broker = namespace();
        let worker = Handler::begin(&emulator.with(&[("WORK_DELAY", "60s")])).ready();
        let other = Handler::begin(&emulator.with(&[&queue(&broker)[..], &[("FUNCTION_TIMEOUT", "12s")]].concat())).ready();
        let (id, message) = submit(&worker, "UNCONFIRMED");
        std::thread::scope(|scope| {
            let body = queue_envelope(&message).to_string();
            let url = worker.url("/OrderProcessor");
            scope.spawn(move || try_request("POST", &url, &[("Content-Type", "application/json")], Some(body.as_bytes())));
            eventually("it is worked on", || (shown(&worker, &id)["status"] == "processing").then_some(()));
            emulator.fault(&json!({ "kind": "dropAfterWrite", "operations": ["replace"] }));

            let met = scope.spawn(|| deliver(&other, &message, "i-2").status);
            eventually("its write is not confirmed", || {
                other.program.lines().iter().any(|line| line.contains("deciding again")).then_some(())
            });
            emulator.calm();

            assert_eq!(met.join().unwrap(), 200);
            worker.program.signal("KILL");
        });
        assert_eq!(broker.heard().len(), 1);
        assert!(scheduled(&broker.heard()[0]).1.contains(&id));
    }

    #[test]
    fn a_claim_that_is_answered_after_the_backend_went_away_is_taken_back_and_counts_no_interruption() {
        const OTHERS: usize = 5;
        let data = Directory::new();
        let broker = namespace();
        let open = Arc::new(AtomicBool::new(false));
        let is_open = Arc::clone(&open);
        let backend = Fake::answering(move |number, _| {
            if number >= OTHERS {
                return reply(200, &[], "{}");
            }
            eventually("it may fail", || is_open.load(Ordering::Relaxed).then_some(()));
            reply(503, &[], "")
        });
        let url = format!("{}/orders", backend.url);
        let more = [("FULFILLMENT_URL", url.as_str()), ("RETRY_BASE", "200ms"), ("RETRY_CAP", "200ms"), ("LEASE", "1s")];
        let handler = Handler::start(data.path(), &[&queue(&broker)[..], &more].concat());
        let others: Vec<_> = (0..OTHERS).map(|number| submit(&handler, &format!("FAILS-{number}"))).collect();
        let (id, message) = submit(&handler, "LATE-CLAIM");
        let database = rusqlite::Connection::open(data.path().join("records.db")).unwrap();
        database.busy_timeout(Duration::from_secs(10)).unwrap();

        std::thread::scope(|scope| {
            let (handler, message) = (&handler, &message);
            for (_, message) in &others {
                scope.spawn(move || handler.process(message));
            }
            backend.until_heard(OTHERS);
            // No write is answered for more than half of a lease.
            database.execute_batch("BEGIN IMMEDIATE").unwrap();
            let locked = Instant::now();
            let late = scope.spawn(move || deliver(handler, message, "i-late").status);
            eventually("it waits for its claim", || (locked.elapsed() > Duration::from_millis(400)).then_some(()));
            open.store(true, Ordering::Relaxed);
            eventually("the breaker is open", || handler.program.lines().iter().any(|line| line.contains("is down")).then_some(()));
            eventually("the answer is late", || (locked.elapsed() > Duration::from_millis(800)).then_some(()));
            database.execute_batch("COMMIT").unwrap();
            assert_eq!(late.join().unwrap(), 200);
        });
        let copy = broker.heard().into_iter().map(|heard| scheduled(&heard)).find(|(_, text)| text.contains(&id)).unwrap();
        eventually("its copy is due", || (jiff::Timestamp::now() >= copy.0).then_some(()));
        assert_eq!(deliver(&handler, &copy.1, "i-copy").status, 200);

        let ended = shown(&handler, &id);
        assert_eq!(events(&ended), ["accepted", "claimed", "claimed", "completed"], "{ended}");
        assert_eq!(ended["attempt"], 1);
    }

    const CONNECTION: &str =
        "Endpoint=sb://localhost;SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=local;UseDevelopmentEmulator=true;";

    /// This broker, for a handler.
    fn queue(broker: &Fake) -> [(&str, &str); 3] {
        [("ServiceBusConnection", CONNECTION), ("OrdersQueue", "orders"), ("SERVICE_BUS_REST_ENDPOINT", &broker.url)]
    }

    const ATTEMPTS: usize = 5;
    const COPIES: usize = 3;

    /// The test is the broker: every message, scheduled ones included, is delivered three times, to two handlers.
    fn thrice(order_id: &str, copies_at_once: bool) {
        let data = Directory::new();
        let broker = namespace();
        let backend = Fake::answering(|number, _| {
            // As long as it takes the other copies to meet the one that works.
            std::thread::park_timeout(Duration::from_millis(150));
            if number < ATTEMPTS - 1 { reply(503, &[], "") } else { reply(200, &[], "{}") }
        });
        let url = format!("{}/orders", backend.url);
        let more = [("FULFILLMENT_URL", url.as_str()), ("RETRY_BASE", "20ms"), ("LEASE", "2s")];
        let settings = [&queue(&broker)[..], &more].concat();
        let handlers = [Handler::start(data.path(), &settings), Handler::start(data.path(), &settings)];
        let deliveries = AtomicUsize::new(0);
        let deliver_to = |number: usize, text: &str| {
            let invocation = format!("i-{}", deliveries.fetch_add(1, Ordering::Relaxed));
            assert_eq!(deliver(&handlers[number % 2], text, &invocation).status, 200, "no copy comes back");
        };
        let deliver_thrice = |text: &str| {
            if copies_at_once {
                std::thread::scope(|scope| (0..COPIES).for_each(|number| drop(scope.spawn(move || deliver_to(number, text)))));
            } else {
                (0..COPIES).for_each(|number| deliver_to(number, text));
            }
        };
        let (id, message) = submit(&handlers[0], order_id);

        deliver_thrice(&message);
        let mut scheduled_copies = 0;
        while let Some(heard) = broker.heard().get(scheduled_copies) {
            let (due, text) = scheduled(heard);
            eventually("it is due", || (jiff::Timestamp::now() >= due).then_some(()));
            deliver_thrice(&text);
            scheduled_copies += 1;
        }

        let (ended, deliveries) = (shown(&handlers[0], &id), deliveries.into_inner());
        println!("{order_id}: {deliveries} deliveries, {scheduled_copies} scheduled copies, {:?}", events(&ended));
        assert_eq!((&ended["status"], &ended["attempt"]), (&json!("completed"), &json!(ATTEMPTS)), "{ended}");
        assert_eq!((count(&ended, "completed"), count(&ended, "interrupted")), (1, 0), "{ended}");
        assert_eq!(calls_of_one_order(&backend), ATTEMPTS);
        // The first message; then a copy for each retry, and at most two for the end of a lease.
        assert_eq!(deliveries, COPIES * (1 + scheduled_copies));
        assert!(deliveries <= COPIES * (ATTEMPTS + 2), "{deliveries}");
        agrees(&data);
    }

    #[test]
    fn a_broker_that_delivers_everything_three_times_at_once_causes_no_more_tries_and_few_copies() {
        thrice("THRICE-AT-ONCE", true);
    }

    #[test]
    fn a_broker_that_delivers_everything_three_times_in_turn_causes_no_more_tries_and_few_copies() {
        thrice("THRICE-IN-TURN", false);
    }
}

mod stops {
    //! A person stops the host in the midst of work.

    use super::*;

    const ORDERS: usize = 120;
    const CLIENTS: usize = 4;

    #[test]
    fn a_host_stopped_by_ctrl_c_in_the_midst_of_work_and_started_again_loses_nothing() {
        let data = Directory::new();
        let port = free_port();
        let (text, settings) = (port.to_string(), [("WORK_DELAY", "20ms")]);
        let start = || Host::with(repository(), data.path(), &["--port", &text], &settings);
        let host = start();
        let next = AtomicUsize::new(0);
        let accepted: Mutex<Vec<String>> = Mutex::default();

        let (status, host) = std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= ORDERS {
                            return;
                        }
                        let id = submit_until_accepted(port, &format!("STOP-{number}"), &[500, 503]);
                        accepted.lock().unwrap().push(id);
                    }
                });
            }
            eventually("some are accepted", || (accepted.lock().unwrap().len() >= ORDERS / 3).then_some(()));
            // A terminal tells both.
            let handler = handler_of(data.path());
            host.program.signal("INT");
            signal(handler, "INT");
            let (status, _) = host.program.end();
            assert!(is_gone(handler), "its handler goes with it");
            (status, start())
        });

        assert!(status.success(), "{status}");
        let accepted = accepted.into_inner().unwrap();
        assert_eq!(accepted.len(), ORDERS);
        for id in &accepted {
            completed_once(&host.ended(id), 1);
        }
        agrees(&data);
    }
}
