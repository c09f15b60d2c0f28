//! The life of the host and of its handler: starts, restarts, mistakes of set-up and ends.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::foreign::{App, handler_process, logged, send, tell};
use crate::support::{Directory, Host, PATIENCE, Program, eventually, free_port, order, repository, signal, try_request};

/// An app with one HTTP function and this handler.
fn app(directory: &Directory, executable: &str, arguments: &[&str]) {
    let host =
        json!({ "version": "2.0", "customHandler": { "description": { "defaultExecutablePath": executable, "arguments": arguments } } });
    let function = json!({ "bindings": [
        { "type": "httpTrigger", "direction": "in", "name": "req", "route": "hello" },
        { "type": "http", "direction": "out", "name": "res" },
    ] });
    directory.write("app/host.json", &host.to_string());
    directory.write("app/local.settings.json", r#"{ "IsEncrypted": false, "Values": { "FUNCTIONS_WORKER_RUNTIME": "custom" } }"#);
    directory.write("app/Hello/function.json", &function.to_string());
}

/// Writes a shell script into the app; executable when asked for.
fn script(directory: &Directory, name: &str, text: &str, executable: bool) {
    let path = directory.write(&format!("app/{name}"), &format!("#!/bin/sh\n{text}\n"));
    let mode = if executable { "755" } else { "644" };
    assert!(Command::new("chmod").arg(mode).arg(path).status().unwrap().success());
}

/// Starts the host on that app, which is a mistake; the one line that says so.
fn refused(directory: &Directory, settings: &[(&str, &str)]) -> String {
    refusal(Host::begin(&directory.path().join("app"), &directory.path().join("data"), &[], settings))
}

/// Starts the host on that app and this port.
fn on_port(directory: &Directory, port: u16, settings: &[(&str, &str)]) -> Program {
    let (app, data, port) = (directory.path().join("app"), directory.path().join("data"), port.to_string());
    Program::waybill(&["local", "--port", &port, "--app", app.to_str().unwrap(), "--data", data.to_str().unwrap()], settings)
}

fn refusal(program: Program) -> String {
    let (status, lines) = program.end();
    assert_eq!(status.code(), Some(1), "{lines:?}");
    let mut said: Vec<_> = lines.iter().filter(|line| line.starts_with("waybill: ")).cloned().collect();
    assert_eq!(said.len(), 1, "{lines:?}");
    said.remove(0)
}

fn lives(process: u32) -> bool {
    started(process).is_some()
}

/// When a living process started, in the clock ticks of /proc.
fn started(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    (fields.next()? != "Z").then_some(())?;
    fields.nth(18)?.parse().ok()
}

fn ends(process: u32) {
    eventually(&format!("process {process} ends"), || (!lives(process)).then_some(()));
}

fn number(path: &Path) -> u32 {
    eventually(&format!("a number in {}", path.display()), || std::fs::read_to_string(path).ok()?.trim().parse().ok())
}

/// The handler that a host has written down.
fn recorded(data: &Path) -> u32 {
    eventually("a recorded handler", || {
        let record: Value = serde_json::from_slice(&std::fs::read(data.join("handler.json")).ok()?).ok()?;
        u32::try_from(record["process"].as_u64()?).ok()
    })
}

#[test]
fn a_killed_handler_is_started_again_on_the_same_port() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    let port = host.figures()["handlerPort"].clone();
    let first = recorded(data.path());

    signal(first, "KILL");
    let second = eventually("another handler", || Some(recorded(data.path())).filter(|process| *process != first));
    let tracking_id = host.submit(&order("A-1"));

    assert_eq!(host.ended(&tracking_id)["status"], "completed");
    assert_eq!(host.figures()["handlerPort"], port);
    assert!(lives(second) && !lives(first));
}

#[test]
fn a_request_waits_for_a_handler_that_is_starting_again() {
    let Some(app) = App::new() else { return };
    let mut host = app.start(&[], &[]);

    let broken = tell(&host, &json!({ "exit": 1 }));
    host.program.line("the handler ended; it is restarted");
    let next = tell(&host, &json!({}));

    assert_eq!((broken.status, broken.body.as_str()), (500, ""));
    assert_eq!(next.status, 200);
}

#[test]
fn a_handler_that_exits_with_code_200_is_started_again_uncounted() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);
    let mut processes = vec![handler_process(&host)];

    for count in 1..=4 {
        let response = tell(&host, &json!({ "exit": 200 }));
        assert_eq!((response.status, response.body.as_str()), (500, ""));
        eventually("the handler is ready again", || (logged(&host, "the handler is ready") > count).then_some(()));
        processes.push(handler_process(&host));
    }

    processes.dedup();
    assert_eq!(processes.len(), 5);
    assert_eq!(logged(&host, "the handler ended; it is restarted"), 0);
}

#[test]
fn a_handler_that_exits_with_code_0_is_not_started_again_and_calls_fail_at_once() {
    let Some(app) = App::new() else { return };
    let mut host = app.start(&[], &[]);

    let first = tell(&host, &json!({ "exit": 0 }));
    host.program.line("exited with code 0");
    let started = Instant::now();
    let second = tell(&host, &json!({}));

    assert_eq!((first.status, first.body.as_str()), (500, ""));
    assert_eq!((second.status, second.body.as_str()), (500, ""));
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(host.get("/admin/host/ping").status, 200);
    assert_eq!(logged(&host, "the handler is ready"), 1);
}

#[test]
fn the_third_crash_within_half_an_hour_stops_the_host() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);

    for count in 1..=3 {
        eventually("the handler is ready", || (logged(&host, "the handler is ready") == count).then_some(()));
        signal(recorded(data.path()), "KILL");
        eventually("its end is noticed", || {
            (!data.path().join("handler.json").exists() || logged(&host, "the handler is ready") > count).then_some(())
        });
    }

    let line = refusal(host.program);
    assert!(line.contains("3 times within 30 minutes") && line.contains("SIGKILL"), "{line}");
}

#[test]
fn a_request_that_waits_for_a_handler_when_the_host_gives_up_is_told_no_other_reason() {
    let directory = Directory::new();
    let (waybill, came_up) = (env!("CARGO_BIN_EXE_waybill"), directory.path().join("came-up"));
    let text = format!("if [ -e {0} ]; then exec sleep 1000; fi; touch {0}; exec {waybill} serve", came_up.display());
    script(&directory, "handler", &text, true);
    let (handler, data) = (directory.path().join("app/handler"), directory.path().join("data"));
    let host = Host::with(repository(), &data, &["--handler", handler.to_str().unwrap()], &[]);
    let port = host.port;
    let mut last = 0;
    let mut kill = || {
        last = eventually("another handler", || Some(recorded(&data)).filter(|process| *process != last));
        signal(last, "KILL");
    };

    kill();
    eventually("no handler is up", || (host.figures()["state"] == "Starting").then_some(()));
    let ask = move || try_request("GET", &format!("http://127.0.0.1:{port}/api/health"), &[], None).is_ok();
    // One of them reports its failure before the process ends.
    let waiting: Vec<_> = (0..32).map(|_| std::thread::spawn(ask)).collect();
    kill();
    kill();
    let (_, lines) = host.program.end();

    for request in waiting {
        let _ = request.join();
    }
    assert!(!lines.iter().any(|line| line.contains("code 0")), "{lines:?}");
}

#[test]
fn a_handler_that_ends_at_once_stops_the_host_with_one_line() {
    let directory = Directory::new();
    script(&directory, "handler", "echo no database here; exit 3", true);
    app(&directory, "handler", &[]);

    let program = Host::begin(&directory.path().join("app"), &directory.path().join("data"), &[], &[]);
    let (status, lines) = program.end();

    let said: Vec<_> = lines.iter().filter(|line| line.starts_with("waybill: ")).collect();
    assert_eq!(status.code(), Some(1));
    assert_eq!(said.len(), 1, "{lines:?}");
    assert!(said[0].contains("ended (exit status: 3) before it listened"), "{lines:?}");
    assert!(lines.iter().any(|line| line == "no database here"), "{lines:?}");
}

#[test]
fn a_handler_that_never_listens_stops_the_host_and_is_ended() {
    let directory = Directory::new();
    script(&directory, "handler", "echo $$ > pid; exec sleep 100", true);
    app(&directory, "handler", &[]);
    let port = free_port();
    let timeout = ("AzureFunctionsJobHost__customHandler__initializationTimeout", "00:00:01");

    let line = refusal(on_port(&directory, port, &[timeout]));

    assert!(line.contains("did not listen on 127.0.0.1:") && line.contains("FUNCTIONS_CUSTOMHANDLER_PORT"), "{line}");
    ends(number(&directory.path().join("app/pid")));
    drop(TcpListener::bind(("127.0.0.1", port)).unwrap());
}

#[test]
fn a_handler_that_does_not_exist_is_named() {
    let directory = Directory::new();
    app(&directory, "no-such-handler", &[]);

    let line = refused(&directory, &[]);

    assert!(line.contains("no-such-handler does not exist") && line.contains("defaultExecutablePath"), "{line}");
}

#[test]
fn a_handler_that_may_not_be_executed_is_named() {
    let directory = Directory::new();
    script(&directory, "handler", "exit 0", false);
    app(&directory, "handler", &[]);

    let line = refused(&directory, &[]);

    assert!(line.contains("app/handler may not be executed: chmod +x it"), "{line}");
}

#[test]
fn a_handler_that_does_not_understand_its_arguments_stops_the_host() {
    let directory = Directory::new();
    app(&directory, env!("CARGO_BIN_EXE_waybill"), &["serve", "--no-such-flag"]);

    let program = Host::begin(&directory.path().join("app"), &directory.path().join("data"), &[], &[]);
    let (status, lines) = program.end();

    assert_eq!(status.code(), Some(1), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("unexpected argument '--no-such-flag'")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("waybill: ") && line.contains("ended (exit status: 2)")), "{lines:?}");
}

#[test]
fn wrong_arguments_exit_with_code_2() {
    for arguments in
        [&["local", "--port", "x"][..], &["local", "--lock-duration", "0s"], &["local", "--max-delivery-count", "0"], &["lokal"]]
    {
        let (status, lines) = Program::waybill(arguments, &[]).end();

        assert_eq!(status.code(), Some(2), "{arguments:?}: {lines:?}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn the_handler_dies_with_a_host_that_is_killed() {
    let data = Directory::new();
    let mut host = Host::start(data.path(), &[]);
    let handler = recorded(data.path());

    host.program.kill();

    ends(handler);
}

#[test]
#[cfg(target_os = "linux")]
fn a_handler_that_an_earlier_host_left_behind_is_ended_first() {
    let data = Directory::new();
    let mut orphan = Command::new("sleep").arg("100").stdout(Stdio::null()).spawn().unwrap();
    data.write("handler.json", &json!({ "process": orphan.id(), "started": started(orphan.id()) }).to_string());

    let host = Host::start(data.path(), &[]);
    let ended = orphan.try_wait().unwrap();

    let _ = orphan.kill();
    assert_eq!(ended.map(|status| std::os::unix::process::ExitStatusExt::signal(&status)), Some(Some(9)));
    assert_eq!(logged(&host, "ending a handler that an earlier host left behind"), 1);
}

#[test]
#[cfg(target_os = "linux")]
fn a_handler_that_outlives_its_wrapper_script_and_its_host_is_ended_by_the_next_host() {
    let directory = Directory::new();
    let waybill = env!("CARGO_BIN_EXE_waybill");
    script(&directory, "wrapper", &format!("{waybill} serve & echo $! > \"$WAYBILL_DATA/../pid\"; wait"), true);
    let (wrapper, data) = (directory.path().join("app/wrapper"), directory.path().join("data"));
    let arguments = ["--handler", wrapper.to_str().unwrap()];
    let mut host = Host::with(repository(), &data, &arguments, &[]);
    let handler = number(&directory.path().join("pid"));
    host.program.kill();
    ends(recorded(&data));
    assert!(lives(handler));

    let host = Host::with(repository(), &data, &arguments, &[]);

    assert!(!lives(handler), "{:?}", host.program.lines());
    assert_eq!(logged(&host, "ending a handler that an earlier host left behind"), 1);
    // This one's outlives it too.
    let another = || Some(number(&directory.path().join("pid"))).filter(|process| *process != handler);
    let left = eventually("its own handler starts", another);
    drop(host);
    signal(left, "KILL");
}

#[test]
#[cfg(target_os = "linux")]
fn a_process_group_that_only_has_the_number_of_an_earlier_handler_is_left_alone() {
    use std::os::unix::process::CommandExt;
    let data = Directory::new();
    // The leader ends, and what it started stays in its group.
    let mut leader = Command::new("sh");
    leader.args(["-c", "sleep 100 & echo $!"]).env("FUNCTIONS_CUSTOMHANDLER_WORKER_ID", "another").process_group(0);
    let mut leader = leader.stdout(Stdio::piped()).spawn().unwrap();
    let mut stranger = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(leader.stdout.take().unwrap()), &mut stranger).unwrap();
    let stranger: u32 = stranger.trim().parse().unwrap();
    let led = started(leader.id()).unwrap_or_default();
    leader.wait().unwrap();
    data.write("handler.json", &json!({ "process": leader.id(), "started": led, "worker": "of the handler" }).to_string());

    let _host = Host::start(data.path(), &[]);
    let is_left_alone = lives(stranger);

    signal(stranger, "KILL");
    assert!(is_left_alone);
}

#[test]
#[cfg(target_os = "linux")]
fn a_process_that_only_has_the_number_of_an_earlier_handler_is_left_alone() {
    let data = Directory::new();
    let mut stranger = Command::new("sleep").arg("100").stdout(Stdio::null()).spawn().unwrap();
    data.write("handler.json", &json!({ "process": stranger.id(), "started": started(stranger.id()).unwrap() - 1 }).to_string());

    let _host = Host::start(data.path(), &[]);
    let ended = stranger.try_wait().unwrap();

    let _ = stranger.kill();
    let _ = stranger.wait();
    assert_eq!(ended, None);
}

#[test]
fn a_busy_port_is_named_and_no_handler_is_left() {
    let directory = Directory::new();
    script(&directory, "handler", "echo $$ > pid; exec sleep 100", true);
    app(&directory, "handler", &[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();

    let line = refusal(on_port(&directory, port, &[]));

    assert!(line.contains(&format!("port {port} is in use")) && line.contains("--port"), "{line}");
    assert!(!directory.path().join("app/pid").exists());
}

#[test]
fn a_data_directory_belongs_to_one_host() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);

    let line = refusal(Host::begin(repository(), data.path(), &[], &[]));

    assert!(line.contains("another `waybill local` uses the data directory") && line.contains("--data"), "{line}");
    assert_eq!(host.get("/admin/host/ping").status, 200);
}

#[test]
fn a_folder_without_host_json_is_refused() {
    let directory = Directory::new();
    directory.write("app/README", "");

    let line = refused(&directory, &[]);

    assert!(line.contains("no host.json in") && line.contains("--app"), "{line}");
}

#[test]
fn an_invalid_host_json_is_refused_with_the_place() {
    let directory = Directory::new();
    app(&directory, "handler", &[]);
    directory.write("app/host.json", "{\n  \"version\": \"2.0\",,\n}");

    let line = refused(&directory, &[]);

    assert!(line.contains("host.json: invalid JSON at line 2"), "{line}");
}

#[test]
fn the_stand_in_is_refused_inside_azure() {
    let directory = Directory::new();
    app(&directory, "handler", &[]);

    let line = refused(&directory, &[("WEBSITE_INSTANCE_ID", "4f3c")]);

    assert!(line.contains("WEBSITE_INSTANCE_ID") && line.contains("Azure"), "{line}");
    assert!(!directory.path().join("data").exists());
}

#[test]
fn ctrl_c_lets_a_running_invocation_end_and_leaves_nothing_behind() {
    let Some(app) = App::new() else { return };
    let mut host = app.start(&["--drain-timeout", "1h"], &[]);
    let handler = handler_process(&host);
    let began = app.records("begin", "Case").len();

    let (url, gate) = (host.url("/api/case"), app.gate());
    let running = std::thread::spawn(move || {
        let body = json!({ "until": gate, "sleep": 0.3 }).to_string();
        try_request("POST", &url, &[("Content-Type", "application/json")], Some(body.as_bytes()))
    });
    app.recorded("begin", "Case", began + 1);
    host.program.signal("INT");
    host.program.line("stopping");
    eventually("new connections are refused", || TcpStream::connect(("127.0.0.1", host.port)).is_err().then_some(()));
    let refused_meanwhile = !running.is_finished();
    app.open();

    let answer = running.join().unwrap().unwrap();
    let (status, lines) = host.program.end();
    assert!(refused_meanwhile);
    assert_eq!(answer.status, 200);
    assert_eq!(status.code(), Some(0), "{lines:?}");
    assert!(!lives(handler));
}

#[test]
fn ctrl_c_lets_a_message_be_dealt_with() {
    let Some(app) = App::new() else { return };
    let mut host = app.start(&[], &[]);
    let waiting = json!({ "until": app.gate() }).to_string();
    send(&host, &[&waiting, "waits for the next host"]);
    app.recorded("begin", "Sink", 1);

    host.program.signal("INT");
    host.program.line("stopping");
    app.open();
    let (status, lines) = host.program.end();
    let next = app.start(&[], &[]);
    app.sunk_until("waits for the next host");

    let texts: Vec<_> = app.records("begin", "Sink").iter().map(|record| record["text"].clone()).collect();
    assert_eq!(status.code(), Some(0), "{lines:?}");
    assert_eq!(texts, [waiting.as_str(), "waits for the next host"]);
    drop(next);
}

#[test]
fn an_invocation_that_outlives_the_drain_timeout_ends_with_the_host() {
    let Some(app) = App::new() else { return };
    let mut host = app.start(&["--drain-timeout", "300ms"], &[]);
    let handler = handler_process(&host);
    send(&host, &[&json!({ "until": app.gate() }).to_string()]);
    app.recorded("begin", "Sink", 1);

    host.program.signal("TERM");
    host.program.line("stopping");
    let (status, lines) = host.program.end();

    assert_eq!(status.code(), Some(0), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("still running when the drain deadline passed")), "{lines:?}");
    ends(handler);
}

#[test]
fn a_second_ctrl_c_leaves_at_once() {
    let Some(app) = App::new() else { return };
    let mut host = app.start(&["--drain-timeout", "1h"], &[]);
    let handler = handler_process(&host);
    let mut client = TcpStream::connect(("127.0.0.1", host.port)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let body = json!({ "until": app.gate() }).to_string();
    let began = app.records("begin", "Case").len();
    write!(client, "POST /api/case HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    app.recorded("begin", "Case", began + 1);

    host.program.signal("INT");
    host.program.line("stopping");
    host.program.signal("INT");
    let (status, lines) = host.program.end();

    assert_eq!(status.code(), Some(130), "{lines:?}");
    assert!(matches!(client.read(&mut [0; 1]), Ok(0) | Err(_)));
    ends(handler);
}

#[test]
fn the_host_is_the_handler_itself_when_waybill_is_not_built_in_the_app() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    let handler = recorded(data.path());

    let line = host.program.lines().into_iter().find(|line| line.contains("is not built in")).unwrap();

    let program = std::fs::canonicalize(env!("CARGO_BIN_EXE_waybill")).unwrap();
    assert!(line.contains(&format!("using {} itself as the handler", program.display())), "{line}");
    assert_eq!(std::fs::read_link(format!("/proc/{handler}/exe")).unwrap(), program);
}

#[test]
fn a_handler_given_on_the_command_line_replaces_that_of_host_json() {
    let directory = Directory::new();
    app(&directory, "no-such-handler", &["serve"]);
    let handler = env!("CARGO_BIN_EXE_waybill");

    let host = Host::with(&directory.path().join("app"), &directory.path().join("data"), &["--handler", handler], &[]);

    assert_eq!(host.get("/admin/host/ping").status, 200);
    assert_eq!(logged(&host, "is not built in"), 0);
}

#[test]
fn ctrl_c_ends_a_host_whose_handler_is_still_starting() {
    let directory = Directory::new();
    script(&directory, "handler", "echo $$ > pid; exec sleep 100", true);
    app(&directory, "handler", &[]);
    let program = Host::begin(&directory.path().join("app"), &directory.path().join("data"), &[], &[]);
    let handler = number(&directory.path().join("app/pid"));

    let started = Instant::now();
    program.signal("INT");
    let (status, lines) = program.end();

    assert!(started.elapsed() < Duration::from_secs(5), "{lines:?}");
    assert_eq!(status.code(), Some(0), "{lines:?}");
    ends(handler);
}

#[test]
fn a_timer_run_that_outlives_the_drain_timeout_ends_with_the_host() {
    let Some(app) = App::new() else { return };
    app.function(
        "Stuck",
        &json!([{ "type": "timerTrigger", "direction": "in", "name": "timer", "schedule": "0 0 0 1 1 *", "runOnStartup": true }]),
    );
    let mut host = app.start(&["--drain-timeout", "300ms"], &[]);
    app.recorded("begin", "Stuck", 1);

    host.program.signal("INT");
    host.program.line("stopping");
    let started = Instant::now();
    let (status, lines) = host.program.end();

    assert_eq!(status.code(), Some(0), "{lines:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "{lines:?}");
}

#[test]
fn a_connection_that_never_sent_anything_does_not_delay_the_end() {
    let data = Directory::new();
    let mut host = Host::start(data.path(), &[]);
    let silent = TcpStream::connect(("127.0.0.1", host.port)).unwrap();
    assert_eq!(host.get("/admin/host/ping").status, 200);

    let started = Instant::now();
    host.program.signal("INT");
    host.program.line("stopping");
    let (status, lines) = host.program.end();

    assert_eq!(status.code(), Some(0), "{lines:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("drain deadline")), "{lines:?}");
    drop(silent);
}

#[test]
fn an_idle_connection_does_not_delay_the_end() {
    let data = Directory::new();
    let mut host = Host::start(data.path(), &[]);
    let mut idle = TcpStream::connect(("127.0.0.1", host.port)).unwrap();
    write!(idle, "GET /admin/host/ping HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    idle.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(idle.read(&mut [0; 1000]).unwrap() > 0);

    let started = Instant::now();
    host.program.signal("INT");
    host.program.line("stopping");
    let (status, lines) = host.program.end();

    assert_eq!(status.code(), Some(0), "{lines:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "{lines:?}");
    drop(idle);
}

#[test]
fn the_port_of_the_local_settings_counts_unless_one_is_given() {
    let Some(app) = App::new() else { return };
    let port = free_port();
    app.change("local.settings.json", |settings| settings["Host"] = json!({ "LocalHttpPort": port }));
    let (root, data) = (app.root(), app.data());

    let mut program = Program::waybill(&["local", "--app", root.to_str().unwrap(), "--data", data.to_str().unwrap()], &[]);

    assert_eq!(Host::wait(&mut program), port);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
}

#[test]
fn a_function_timeout_of_the_first_handler_starts_another() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[("AzureFunctionsJobHost__functionTimeout", "00:00:01")]);
    let first = handler_process(&host);

    let response = tell(&host, &json!({ "sleep": 60 }));

    assert_eq!((response.status, response.body.as_str()), (500, ""));
    assert_ne!(handler_process(&host), first);
}

#[test]
fn a_working_directory_that_does_not_exist_is_named() {
    let directory = Directory::new();
    script(&directory, "handler", "exit 0", true);
    app(&directory, "handler", &[]);

    let line = refused(&directory, &[("AzureFunctionsJobHost__customHandler__description__workingDirectory", "nowhere")]);

    assert!(line.contains("nowhere"), "{line}");
}

#[test]
fn a_handler_whose_interpreter_is_missing_is_not_said_to_be_missing() {
    let directory = Directory::new();
    app(&directory, "handler", &[]);
    let path = directory.write("app/handler", "#!/no/such/interpreter\n");
    assert!(Command::new("chmod").arg("755").arg(path).status().unwrap().success());

    let line = refused(&directory, &[]);

    assert!(!line.contains("app/handler does not exist"), "{line}");
}

#[test]
fn a_handler_that_is_gone_is_not_said_to_be_starting() {
    let Some(app) = App::new() else { return };
    let mut host = app.start(&[], &[]);

    tell(&host, &json!({ "exit": 0 }));
    host.program.line("exited with code 0");

    assert_ne!(host.figures()["state"], "Starting");
}

#[test]
fn a_probe_that_is_lost_is_followed_by_another() {
    if App::new().is_none() {
        return;
    }
    let directory = Directory::new();
    app(&directory, "deaf.sh", &[]);
    // The first connection is never answered.
    let handler = "import os, socket, threading\n\
                   listener = socket.create_server(('127.0.0.1', int(os.environ['FUNCTIONS_CUSTOMHANDLER_PORT'])))\n\
                   first = listener.accept()\n\
                   while True:\n    \
                       other, _ = listener.accept()\n    \
                       other.recv(65536)\n    \
                       other.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n')\n    \
                       other.close()\n";
    directory.write("app/deaf.py", handler);
    script(&directory, "deaf.sh", "exec python3 deaf.py", true);

    let started = Instant::now();
    let mut host = on_port(&directory, 0, &[]);
    host.line("the handler is ready");

    assert!(started.elapsed() < Duration::from_secs(15), "long before the start would be given up: {:?}", started.elapsed());
}
