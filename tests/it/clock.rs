//! Machines whose clocks are wrong, played by libfaketime; the account's clock is right.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::emulator::Emulator;
use crate::issuer::{self, AUDIENCE, Issuer, Mood};
use crate::support::{Directory, Handler, Program, events, eventually, repository, skipped, try_submit};

/// How far a moment that the account's clock gave may be from the true one: it is told in whole seconds.
const TOLERANCE: Duration = Duration::from_secs(3);

/// Debian's libfaketime, the build for programs with threads. Nothing without it, which `REQUIRE_ALL=1` makes a failure.
pub fn libfaketime() -> Option<String> {
    let directories = std::fs::read_dir("/usr/lib").into_iter().flatten().map_while(Result::ok).map(|entry| entry.path());
    let found = directories.map(|directory| directory.join("faketime/libfaketimeMT.so.1")).find(|library: &PathBuf| library.exists());
    if found.is_none() {
        assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "libfaketime not found: apt-get install faketime");
        skipped("libfaketime not found: apt-get install faketime");
    }
    found.map(|library| library.into_os_string().into_string().unwrap())
}

/// A handler whose wall clock is off by this, e.g. `+10m`; its monotonic clock runs as it should. Not ready yet.
fn off_by(offset: &str, library: &str, emulator: &Emulator, more: &[(&str, &str)]) -> Handler {
    let handler = faked(&[("FAKETIME", offset)], library, emulator, more);
    is_off_by(offset, &handler);
    handler
}

fn faked(how: &[(&str, &str)], library: &str, emulator: &Emulator, more: &[(&str, &str)]) -> Handler {
    let preload = [("LD_PRELOAD", library), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    let handler = Handler::begin(&emulator.with(&[&preload, how, more].concat()));
    // Its process is killed in the end, and could not remove these itself.
    for name in ["faketime_shm_", "sem.faketime_sem_"] {
        let _ = std::fs::remove_file(format!("/dev/shm/{name}{}", handler.program.id()));
    }
    handler
}

/// Checks that the newest log line has the wrong time of its machine; otherwise the test would show nothing.
fn is_off_by(offset: &str, handler: &Handler) {
    let minutes: i64 = offset.trim_end_matches('m').parse().unwrap();
    eventually("its log has its machine's time", || {
        let line = handler.program.lines().pop()?;
        let off = moment(line.split(' ').next()?).duration_since(jiff::Timestamp::now());
        ((off.as_secs() - 60 * minutes).abs() < 60).then_some(())
    });
}

fn moment(text: &str) -> jiff::Timestamp {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn shown(handler: &Handler, id: &str) -> Value {
    let answer = handler.status(id);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

/// Every moment of a body lies in the true time since `start`.
fn is_true_time(body: &Value, start: jiff::Timestamp) {
    let names = ["submittedAt", "startedAt", "updatedAt", "completedAt"].iter().filter_map(|name| body[name].as_str());
    let history = body["history"].as_array().into_iter().flatten().map(|transition| transition["at"].as_str().unwrap());
    let moments: Vec<_> = names.chain(history).map(moment).collect();
    assert!(!moments.is_empty(), "{body}");
    let true_time = start - TOLERANCE..=jiff::Timestamp::now() + TOLERANCE;
    assert!(moments.iter().all(|moment| true_time.contains(moment)), "{true_time:?}: {body:#}");
}

/// An order is submitted to and claimed by `holder`; in the midst of the work `other` gets the same message.
fn is_not_stolen(order_id: &str, holder: &Handler, other: &Handler, start: jiff::Timestamp) {
    let answer = try_submit(holder, order_id, &[]);
    assert_eq!(answer.status, 202, "{answer:?}");
    is_true_time(&answer.body, start);
    let (id, message) = (answer.body["trackingId"].as_str().unwrap(), answer.message.unwrap());

    let (statuses, midst) = std::thread::scope(|scope| {
        let first = scope.spawn(|| holder.process(&message).status);
        let midst = eventually("the order is claimed", || Some(shown(other, id)).filter(|status| status["status"] != "accepted"));
        let second = other.process(&message).status;
        ([first.join().unwrap(), second], midst)
    });

    assert_eq!((statuses, &midst["status"]), ([200, 200], &"processing".into()));
    for handler in [holder, other] {
        let status = eventually("the end is shown", || Some(shown(handler, id)).filter(|status| status["status"] == "completed"));
        assert_eq!((events(&status), &status["attempt"]), (vec!["accepted", "claimed", "completed"], &1.into()));
        is_true_time(&status, start);
    }
}

fn neither_steals(offset: &str) {
    let Some(library) = libfaketime() else { return };
    let start = jiff::Timestamp::now();
    let emulator = Emulator::start(&[]);
    let slow = [("WORK_DELAY", "300ms")];
    let right = Handler::begin(&emulator.with(&slow)).ready();
    let wrong = off_by(offset, &library, &emulator, &slow).ready();

    is_not_stolen("CLOCK-1", &right, &wrong, start);
    is_not_stolen("CLOCK-2", &wrong, &right, start);
}

#[test]
fn neither_of_two_handlers_steals_an_order_when_one_clock_is_ten_minutes_ahead() {
    neither_steals("+10m");
}

#[test]
fn neither_of_two_handlers_steals_an_order_when_one_clock_is_ten_minutes_behind() {
    neither_steals("-10m");
}

/// The right clock of a handler is set to a wrong time while it works on an order, which another one has too.
fn is_not_stolen_by_a_jump(offset: &str) {
    let Some(library) = libfaketime() else { return };
    let start = jiff::Timestamp::now();
    let directory = Directory::new();
    let clock = directory.write("clock", "+0");
    let emulator = Emulator::start(&[]);
    let slow = [("WORK_DELAY", "300ms")];
    let how = [("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()), ("FAKETIME_NO_CACHE", "1")];
    let other = Handler::begin(&emulator.with(&slow)).ready();
    let holder = faked(&how, &library, &emulator, &slow).ready();
    is_off_by("+0m", &holder);
    let answer = try_submit(&holder, "CLOCK-4", &[]);
    let (id, message) = (answer.body["trackingId"].as_str().unwrap(), answer.message.unwrap());

    let statuses = std::thread::scope(|scope| {
        let first = scope.spawn(|| holder.process(&message).status);
        eventually("the order is claimed", || (shown(&other, id)["status"] == "processing").then_some(()));
        std::fs::rename(directory.write("new", offset), &clock).unwrap();
        let second = other.process(&message).status;
        [first.join().unwrap(), second]
    });
    let next = try_submit(&holder, "CLOCK-5", &[]);

    assert_eq!(statuses, [200, 200]);
    is_off_by(offset, &holder);
    let status = eventually("the end is shown", || Some(shown(&other, id)).filter(|status| status["status"] == "completed"));
    assert_eq!((events(&status), &status["attempt"]), (vec!["accepted", "claimed", "completed"], &1.into()));
    is_true_time(&status, start);
    assert_eq!(next.status, 202);
    is_true_time(&next.body, start);
}

#[test]
fn an_order_is_not_stolen_when_its_holders_clock_jumps_ten_minutes_ahead() {
    is_not_stolen_by_a_jump("+10m");
}

#[test]
fn an_order_is_not_stolen_when_its_holders_clock_jumps_ten_minutes_back() {
    is_not_stolen_by_a_jump("-10m");
}

fn is_told(offset: &str) {
    let Some(library) = libfaketime() else { return };
    let emulator = Emulator::start(&[]);
    let mut handler = off_by(offset, &library, &emulator, &[]);

    let told = handler.program.line("this machine's clock may be wrong by more than 15 minutes");
    let answer = try_submit(&handler, "CLOCK-3", &[]);

    assert!(told.contains("ERROR") && told.contains("403"), "{told}");
    assert_eq!(handler.readyz().status, 503);
    assert_eq!((answer.status, &answer.body["outcome"]), (503, &"unknown".into()), "{answer:?}");
    assert!(answer.headers["Retry-After"].is_string(), "{answer:?}");
    assert_eq!(answer.message, None);
    assert_eq!(emulator.figures()["documents"], 0);
}

#[test]
fn a_clock_that_is_twenty_minutes_ahead_is_told_where_a_key_is_used() {
    is_told("+20m");
}

#[test]
fn a_clock_that_is_twenty_minutes_behind_is_told_where_a_key_is_used() {
    is_told("-20m");
}

#[test]
fn keys_of_an_issuer_that_is_away_are_used_for_a_day() {
    let Some(library) = libfaketime() else { return };
    let (data, directory, issuer) = (Directory::new(), Directory::new(), Issuer::start());
    let clock = directory.write("clock", "+0");
    let mut handler = Handler::start(
        data.path(),
        &[
            ("LD_PRELOAD", &library),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("AUTH_ISSUER", &issuer.url),
            ("AUTH_AUDIENCE", AUDIENCE),
        ],
    );
    handler.program.line("the issuer's keys are read");
    let mut claims = issuer.claims("alice", "");
    claims["exp"] = (issuer::now() + 7 * 24 * 3600).into();
    let token = format!("Bearer {}", issuer.rsa.token(&Issuer::header().to_string(), &claims.to_string()));
    let submit = |order_id: &str| try_submit(&handler, order_id, &[("Authorization", &token)]);
    issuer.feels(Mood::Away);

    std::fs::rename(directory.write("new", "+23h"), &clock).unwrap();
    let before = submit("CLOCK-6");
    std::fs::rename(directory.write("new", "+25h"), &clock).unwrap();
    let after = submit("CLOCK-6");

    assert_eq!(before.status, 202, "{before:?}");
    assert_eq!((after.status, &after.body["outcome"], after.message.as_ref()), (503, &"unknown".into(), None), "{after:?}");
    assert_eq!(after.body["type"], "urn:problem-type:waybill:auth-unavailable", "{after:?}");
    issuer.feels(Mood::Answers);
    eventually("the keys are read again", || (submit("CLOCK-6").status == 202).then_some(()));
    let told = handler.program.line("could not be read for a day");
    assert!(told.contains("ERROR"), "{told}");
}

#[test]
fn an_end_that_the_store_takes_late_is_dated_when_the_store_took_it() {
    let emulator = Emulator::start(&[]);
    let handler = Handler::begin(&emulator.with(&[("WORK_DELAY", "300ms")])).ready();
    let answer = try_submit(&handler, "CLOCK-7", &[]);
    let (id, message) = (answer.body["trackingId"].as_str().unwrap(), answer.message.unwrap());

    let lifted = std::thread::scope(|scope| {
        let work = scope.spawn(|| handler.process(&message).status);
        eventually("the order is claimed", || (shown(&handler, id)["status"] == "processing").then_some(()));
        emulator.fault(&serde_json::json!({ "kind": "unavailable", "operations": ["replace"] }));
        let told = || handler.program.lines().iter().any(|line| line.contains("the end of a try could not be recorded"));
        let failing = eventually("the end is refused", || told().then(std::time::Instant::now));
        eventually("the store was away for longer than a moment is off", || (failing.elapsed() > 2 * TOLERANCE).then_some(()));
        let lifted = jiff::Timestamp::now();
        emulator.calm();
        assert_eq!(work.join().unwrap(), 200);
        lifted
    });

    let completed = eventually("the end is shown", || Some(shown(&handler, id)).filter(|status| status["status"] == "completed"));
    assert!(moment(completed["completedAt"].as_str().unwrap()) > lifted - TOLERANCE, "{lifted}: {completed:#}");
}

#[test]
fn a_clock_in_the_year_9999_is_told_and_nothing_starts() {
    let Some(library) = libfaketime() else { return };
    let data = Directory::new();
    let (app, place) = (repository().to_str().unwrap(), data.path().to_str().unwrap());
    let how = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME", "@9999-12-31 20:00:00"),
        ("FUNCTIONS_CUSTOMHANDLER_PORT", "8080"),
        ("WAYBILL_DATA", place),
    ];

    for (arguments, form) in [
        (&["serve"] as &[&str], "text"),
        (&["serve"], "short"),
        (&["local", "--port", "0", "--app", app, "--data", place], "text"),
        (&["local", "--port", "0", "--app", app, "--data", place], "short"),
    ] {
        let (status, lines) = Program::waybill(arguments, &[&how as &[_], &[("LOG_FORMAT", form)]].concat()).end();

        assert_eq!(status.code(), Some(1), "{arguments:?} {form}: {lines:?}");
        let told = lines.iter().filter(|line| line.contains("this machine's clock") && line.contains("9999-12-3")).count();
        assert!(told == 1 && !lines.iter().any(|line| line.contains("panicked")), "{arguments:?} {form}: {lines:?}");
    }
}
