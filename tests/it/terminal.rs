//! What a person sees at a terminal.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use functions_host::service_bus::broker::{Broker, Outgoing, Rules};
use serde_json::{Value, json};

use crate::store::run;
use crate::support::{
    Directory, Handler, Host, Program, eventually, hopeless, order, repository, request, signal, skipped, submit, submit_order,
};

/// Runs a program on a terminal of its own, with this number of columns, and passes on what it prints.
const TERMINAL: &str = "
import fcntl, os, pty, signal, struct, sys, termios
child, terminal = pty.fork()
if child == 0:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('HHHH', 50, int(sys.argv[1]), 0, 0))
    # The end of the terminal ends the program, also where the tests run under nohup.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.execv(sys.argv[2], sys.argv[2:])
while True:
    try:
        data = os.read(terminal, 65536)
    except OSError:
        break
    if not data:
        break
    os.write(1, data)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
";

/// `waybill` on a terminal. Nothing without python3, which `REQUIRE_ALL=1` makes a failure.
fn on_terminal(columns: u16, arguments: &[&str], settings: &[(&str, &str)]) -> Option<Program> {
    if Command::new("python3").arg("--version").output().is_err() {
        assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "python3 not found");
        skipped("python3 not found");
        return None;
    }
    let mut command = Command::new("python3");
    command.args(["-c", TERMINAL, &columns.to_string(), env!("CARGO_BIN_EXE_waybill")]).args(arguments);
    command.env_clear().envs(settings.iter().copied()).env("PATH", std::env::var_os("PATH").unwrap()).env("TZ", "UTC");
    Some(Program::start(&mut command))
}

/// A host on a terminal.
fn host(data: &Directory, arguments: &[&str], settings: &[(&str, &str)]) -> Option<Host> {
    let (app, data) = (repository().to_str().unwrap(), data.path().to_str().unwrap());
    let all = [&["local", "--port", "0", "--app", app, "--data", data], arguments].concat();
    let mut program = on_terminal(100, &all, settings)?;
    let port = Host::wait(&mut program);
    Some(Host { program, port })
}

#[test]
fn on_a_terminal_an_order_has_one_short_line_for_its_begin_and_one_for_its_end() {
    let data = Directory::new();
    let Some(mut host) = host(&data, &[], &[]) else { return };
    let mut hostile = order("T-3\u{202e}");
    hostile["customerId"] = "\u{202e}".into();

    let good = host.submit(&order("T-1"));
    host.program.line("T-1           ".to_owned().as_str());
    let completed = host.program.line_where("completed", |line| line.contains("T-1") && line.contains("completed"));
    host.submit(&hopeless("T-2"));
    let failed = host.program.line_where("failed", |line| line.contains("T-2") && line.contains("failed"));
    host.submit(&hostile);
    let shown = host.program.line("T-3\\u202e");
    let mut wrong = order("T-4");
    wrong["items"][0]["quantity"] = json!("SECRET");
    assert_eq!(host.post("/api/orders", &wrong).status, 400);
    let refused = host.program.line("invalid-order");

    let short = &good[..8];
    assert!(completed.contains(short) && completed.contains("\u{1b}[32m") && completed.contains("✓ completed  "), "{completed:?}");
    assert!(failed.contains("\u{1b}[31m") && failed.contains("✗ failed  total_too_large: "), "{failed:?}");
    assert!(!shown.contains('\u{202e}'), "{shown:?}");
    assert!(refused.contains("OrderIngress  400 invalid-order  /items/0/quantity"), "{refused:?}");
    let lines = host.program.lines();
    assert!(!lines.iter().any(|line| line.contains("SECRET")), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.contains(short)).count(), 2, "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("answered")), "{lines:?}");
}

#[test]
fn a_retry_and_an_order_that_is_put_off_say_why_and_until_when() {
    let data = Directory::new();
    // Nothing listens there.
    let url = format!("http://127.0.0.1:{}/", crate::support::free_port());
    let settings = [("FULFILLMENT_URL", url.as_str()), ("RETRY_BASE", "20ms"), ("RETRY_CAP", "20ms"), ("MAX_ATTEMPTS", "50")];
    let Some(mut host) = host(&data, &[], &settings) else { return };

    host.submit(&order("T-5"));

    let retry = host.program.line("try 1 failed");
    assert!(retry.contains("T-5") && retry.contains("backend_") && retry.contains("; next try at "), "{retry:?}");
    let put_off = host.program.line("put off until ");
    assert!(put_off.contains("T-5") && put_off.contains(": "), "{put_off:?}");
}

#[test]
fn verbose_lines_have_every_field() {
    let data = Directory::new();
    let Some(mut host) = host(&data, &["-v"], &[]) else { return };

    host.submit(&hopeless("T-6"));

    let failed = host.program.line("order failed");
    for part in ["WARN", "order.tracking_id", "error.code", "total_too_large", "error.message"] {
        assert!(failed.contains(part), "{part}: {failed:?}");
    }
}

/// Sets a title, clears the screen twice, turns the direction of writing, shows nothing, and begins a line.
const HOSTILE: &str = "\u{1b}]0;x\u{7}\u{1b}[2J\u{9b}2J\u{202e}\u{2066}evil\u{200b}\r\nnext";

/// A failed order and a quarantined message whose every text is hostile: their ids.
fn hostile_records(data: &Directory) -> (String, String) {
    let mut handler = Handler::start(data.path(), &[]);
    let (order, message) = submit_order(&handler, &hopeless("H-1"));
    assert_eq!(handler.process(&message).status, 200);
    let properties = json!({ "DeadLetterReason": HOSTILE, "DeadLetterErrorDescription": HOSTILE });
    let dead = json!({ "Data": { "deadLetter": Value::from(HOSTILE).to_string() }, "Metadata": { "ApplicationProperties": properties } });
    assert_eq!(handler.invoke("OrderDeadLetter", &dead).status, 200);
    handler.program.kill();
    let database = rusqlite::Connection::open(data.path().join("records.db")).unwrap();
    let fields = "'$.error.message', ?1, '$.error.code', ?1, '$.stage', ?1, '$.owner', ?1, '$.order.orderId', ?1, '$.order.customerId', ?1";
    database.execute(&format!("UPDATE orders SET record = json_set(record, {fields})"), [HOSTILE]).unwrap();
    let kept: String = database.query_row("SELECT message ->> 'id' FROM quarantine", [], |row| row.get(0)).unwrap();
    (order, kept)
}

#[test]
fn no_command_lets_foreign_text_steer_the_terminal() {
    let data = Directory::new();
    let (id, kept) = hostile_records(&data);
    let steers = |letter: char| letter.is_control() || matches!(letter, '\u{200b}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');

    let mut wrong = Vec::new();
    for command in [
        &["orders", "list"][..],
        &["orders", "show", &id],
        &["orders", "watch", &id],
        &["quarantine", "list"],
        &["quarantine", "show", &kept],
        &["verify"],
        &["orders", "cancel", &id],
        &["orders", "retry", &id],
        &["quarantine", "retry", &kept],
        &["orders", "show", HOSTILE],
        &[HOSTILE],
    ] {
        for json in [&[][..], &["--json"]] {
            let all = [command, json, &["--data", data.path().to_str().unwrap()]].concat();
            let (_, lines) = Program::waybill(&all, &[]).end();
            wrong.extend(lines.iter().filter(|line| line.contains(steers)).map(|line| format!("{all:?}: {line:?}")));
            assert!(!lines.is_empty(), "{all:?}");
        }
    }

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn tables_fit_the_terminal_and_a_cut_is_marked() {
    let data = Directory::new();
    let (id, _) = hostile_records(&data);
    let directory = data.path().to_str().unwrap();
    let on = |command: &[&str]| {
        let all = [command, &["--data", directory]].concat();
        Some(on_terminal(80, &all, &[])?.end().1.iter().map(|line| line.trim_end_matches('\r').to_owned()).collect::<Vec<_>>())
    };

    for command in [&["orders", "list"][..], &["quarantine", "list"]] {
        let Some(lines) = on(command) else { return };
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:?}");
        assert!(lines[1].contains('…') && lines[1].contains("  "), "{lines:?}");
    }
    let watched = on(&["orders", "watch", &id]).unwrap().concat();
    assert!(watched.trim_end().trim_start_matches("\r\u{1b}[K").chars().count() < 80 && watched.contains('…'), "{watched:?}");
}

#[test]
fn a_watched_order_that_hangs_says_what_it_waits_for_and_counts_the_seconds_on_a_terminal() {
    let data = Directory::new();
    // Its worker sees the wish to cancel after a third of the lease.
    let host = Host::start(data.path(), &[("WORK_DELAY", "60s"), ("LEASE", "15s"), ("MAX_ATTEMPTS", "3")]);
    let id = host.submit(&order("WATCH-1"));
    let begun = eventually("it is claimed", || host.get(&format!("/api/orders/{id}")).json()["startedAt"].as_str().map(str::to_owned));
    let arguments = ["orders", "watch", &id, "--data", data.path().to_str().unwrap()];
    let settings = [("MAX_ATTEMPTS", "3")];
    let Some(on_terminal) = on_terminal(120, &arguments, &settings) else { return };
    let mut piped = Program::waybill(&arguments, &settings);
    piped.line(&format!("processing  try 1 of 3 runs, since {begun}"));

    assert_eq!(request("DELETE", &format!("http://127.0.0.1:{}/api/orders/{id}", host.port), &[], None).status, 202);
    let (row, piped) = (on_terminal.end().1.concat(), piped.end().1);

    let seconds: BTreeSet<&str> =
        row.split("\r\u{1b}[K").filter_map(|row| row.trim().split_once(" s [").map(|(seconds, _)| seconds)).collect();
    assert!(seconds.len() > 1, "{row:?}");
    assert_eq!(piped.len(), 2, "the changes alone: {piped:?}");
    assert!(piped[1].contains("cancelled  try 1 of 3"), "{piped:?}");
}

#[test]
fn an_order_is_shown_as_a_card() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (id, message) = submit_order(&handler, &hopeless("CARD-1"));
    assert_eq!(handler.process(&message).status, 200);

    let (_, lines) = Program::waybill(&["orders", "show", &id, "--data", data.path().to_str().unwrap()], &[]).end();

    let value = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    assert_eq!(
        (value("order "), value("customer "), value("id "), value("tries ")),
        ("CARD-1".into(), "C-1001".into(), id.clone(), "1 of 5".into())
    );
    assert!(value("status ").starts_with("failed, after "), "{lines:?}");
    assert!(value("error ").starts_with("total_too_large: "), "{lines:?}");
    assert!(lines.iter().any(|line| line.trim_start().starts_with("The built-in work prices orders up to")), "{lines:?}");
    assert!(value("next ").ends_with(&format!("waybill orders retry {id}")), "{lines:?}");
    let events: Vec<_> = lines.iter().skip_while(|line| *line != "timeline").skip(1).collect();
    assert!(events.len() == 3 && events[2].contains("failed") && events[2].contains(" s  "), "{lines:?}");
}

#[test]
fn an_order_whose_message_is_sent_again_has_a_line_that_says_why() {
    let data = Directory::new();
    let mut handler = Handler::start(data.path(), &[("OVERDUE_AFTER", "100ms")]);
    // No message of the first reaches the queue, and the only message of the second is dead.
    submit(&handler, "T-LOST");
    let (_, dead) = submit(&handler, "T-DEAD");
    handler.program.kill();
    run(async {
        let rules = Rules { lock_duration: Duration::from_secs(60), max_delivery_count: 10 };
        let message = Outgoing { body: dead.into_bytes(), ..Outgoing::default() };
        Broker::open(data.path(), rules).unwrap().send("orders/$deadletterqueue", vec![message]).await.unwrap();
    });

    let Some(mut host) = host(&data, &[], &[("SweepSchedule", "* * * * * *"), ("OVERDUE_AFTER", "100ms")]) else { return };

    let lost = host.program.line_where("T-LOST is sent again", |line| line.contains("T-LOST") && line.contains("sent again"));
    assert!(lost.contains("↻ overdue: its message is sent again"), "{lost:?}");
    let dead = host.program.line_where("T-DEAD is sent again", |line| line.contains("T-DEAD") && line.contains("sent again"));
    assert!(dead.contains("↻ "), "{dead:?}");
}

#[test]
fn the_start_shows_where_orders_go_and_one_to_paste() {
    let data = Directory::new();
    let mut host = Host::start(data.path(), &[("FULFILLMENT_URL", "http://127.0.0.1:9/work?key=SECRET")]);
    let lines = host.program.lines();
    let value = |name: &str| {
        let line = lines.iter().find_map(|line| line.strip_prefix(&format!("│ {name}")));
        line.unwrap_or_else(|| panic!("no {name}: {lines:?}")).trim().to_owned()
    };

    assert!(lines.iter().any(|line| line.starts_with("┌ waybill ")), "{lines:?}");
    assert_eq!((value("orders"), value("data")), (format!("http://localhost:{}/api/orders", host.port), data.path().display().to_string()));
    assert_eq!((value("store").as_str(), value("backend").as_str()), ("embedded, in the data directory", "http://127.0.0.1:9/work"));
    assert!(!lines.concat().contains("SECRET"), "{lines:?}");
    let curl = host.program.line("curl -i http://localhost:");
    let (_, body) = curl.split_once(" -d '").unwrap();
    let answer =
        request("POST", &host.url("/api/orders"), &[("Content-Type", "application/json")], Some(body.trim_end_matches('\'').as_bytes()));
    assert_eq!(answer.status, 202, "{answer:?}");
}

#[test]
fn a_log_for_machines_has_stdout_for_itself() {
    let data = Directory::new();
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" 2>/dev/null", "sh", env!("CARGO_BIN_EXE_waybill"), "local", "--port", "0", "--app"]);
    command.arg(repository()).arg("--data").arg(data.path()).env("LOG_FORMAT", "json");
    let mut program = Program::start(&mut command);
    let port = Host::wait(&mut program);
    let host = Host { program, port };
    host.ended(&host.submit(&order("T-JSON")));
    host.program.signal("INT");

    let (status, lines) = host.program.end();

    assert!(status.success(), "{lines:?}");
    let other: Vec<_> = lines.iter().filter(|line| serde_json::from_str::<Value>(line).is_err()).collect();
    assert!(other.is_empty(), "{other:#?}");
    assert!(lines.iter().any(|line| line.contains("order completed")), "{lines:?}");
}

#[test]
fn a_demo_whose_log_is_for_machines_has_stdout_for_it() {
    let demo = Command::new(env!("CARGO_BIN_EXE_waybill")).arg("demo").env("LOG_FORMAT", "json").env("RUST_LOG", "info").output().unwrap();
    let (stdout, stderr) = (String::from_utf8(demo.stdout).unwrap(), String::from_utf8(demo.stderr).unwrap());

    assert!(demo.status.success(), "{stderr}");
    let other: Vec<_> = stdout.lines().filter(|line| serde_json::from_str::<Value>(line).is_err()).collect();
    assert!(other.is_empty(), "{other:#?}");
    assert!(stdout.contains("order completed"), "{stdout}");
    assert!(stderr.contains("Its progress:") && stderr.contains("The order is completed."), "{stderr}");
}

#[test]
fn a_demo_that_a_person_stops_ends_quietly() {
    let mut demo = Program::waybill(&["demo"], &[]);
    demo.line("Its progress:");

    signal(demo.id(), "INT");

    let (status, lines) = demo.end();
    assert_eq!(status.code(), Some(130), "{lines:?}");
    let told = lines.join("\n").to_lowercase();
    assert!(!told.contains("waybill: ") && !told.contains("error"), "{told}");
}

#[test]
fn a_version_says_where_it_comes_from_and_a_shell_completes_every_command() {
    let (status, lines) = Program::waybill(&["--version"], &[]).end();
    assert!(status.success() && lines.len() == 1, "{lines:?}");
    assert_eq!(lines[0], format!("waybill {} (built for development)", env!("CARGO_PKG_VERSION")));

    for shell in ["bash", "zsh", "fish"] {
        let (status, lines) = Program::waybill(&["completions", shell], &[]).end();
        assert!(
            status.success() && ["quarantine", "accept-loss", "doctor"].iter().all(|name| lines.iter().any(|line| line.contains(name)))
        );
    }
}
