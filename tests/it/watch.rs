//! `waybill local --watch`: a handler that is built again and replaced after a change, without losing what it was at.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::foreign::{App, handler_process, logged, send, tell};
use crate::support::{Directory, Host, Program, eventually, free_port, order, repository, try_request};

/// Line of a handler that took the place of another.
const REPLACED: &str = "the new handler answers";
/// A build that starts a process of its own, says which both are, and does not end.
const ENDLESS: &str = "sleep 1000 & echo $$ $! > ../processes; wait";

fn source(app: &App) -> String {
    std::fs::read_to_string(app.root().join("handler.py")).unwrap()
}

/// How often a build has said that it ran; its command is told too, with other words before it.
fn builds(host: &Host) -> usize {
    host.program.lines().iter().filter(|line| *line == "one build done").count()
}

fn until_replaced(host: &Host, times: usize) {
    eventually("the handler is replaced", || (logged(host, REPLACED) == times).then_some(()));
}

fn runs(process: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|state| !state.contains(") Z "))
}

/// The processes of [`ENDLESS`], once it runs.
fn of_build(app: &App) -> Vec<u32> {
    eventually("the build runs", || {
        let text = std::fs::read_to_string(app.root().join("../processes")).ok()?;
        let all: Vec<u32> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
        (text.ends_with('\n') && all.len() == 2).then_some(all)
    })
}

#[test]
fn a_changed_handler_takes_over_while_the_one_before_ends_its_invocation() {
    let Some(app) = App::new() else { return };
    app.change("host.json", |host| host["extensions"]["serviceBus"]["maxConcurrentCalls"] = 8.into());
    let host = app.start(&["--watch"], &[]);
    let before = handler_process(&host);
    send(&host, &[&json!({ "until": app.gate() }).to_string()]);
    app.recorded("begin", "Sink", 1);

    app.write("handler.py", &(source(&app) + "# changed\n"));
    until_replaced(&host, 1);
    let after = handler_process(&host);
    send(&host, &["next"]);
    eventually("the new handler has a message", || app.records("end", "Sink").pop());
    let was_kept = runs(before);
    app.open();
    let sunk = app.recorded("end", "Sink", 2);

    assert!(before != after && was_kept, "{before} {after}");
    assert_eq!((&sunk[0]["process"], &sunk[1]["process"], &sunk[1]["delivery"]), (&json!(after), &json!(before), &json!(1)), "{sunk:?}");
    eventually("the handler before has ended", || (!runs(before)).then_some(()));
    assert!(logged(&host, "handler.py changed: the handler is replaced") == 1, "{:?}", host.program.lines());
}

#[test]
fn a_build_that_fails_is_shown_and_the_handler_before_goes_on() {
    let Some(app) = App::new() else { return };
    let build = r#"python3 -c "import ast; ast.parse(open('handler.py').read())""#;
    let mut host = app.start(&["--watch", "--build", build], &[]);
    let (before, good) = (handler_process(&host), source(&app));

    app.write("handler.py", "def broken(:\n");
    host.program.line("the build failed (exit status: 1)");
    host.program.line("SyntaxError");
    assert_eq!(handler_process(&host), before);
    app.write("handler.py", &(good + "# repaired\n"));
    until_replaced(&host, 1);

    assert_ne!(handler_process(&host), before);
}

#[test]
fn a_handler_that_dies_at_once_does_not_take_over() {
    let Some(app) = App::new() else { return };
    let mut host = app.start(&["--watch"], &[]);
    let (before, good) = (handler_process(&host), source(&app));

    app.write("handler.py", "import sys\nprint('no luck')\nsys.exit(3)\n");
    host.program.line("no luck");
    host.program.line_where("the reason", |line| line.contains("(exit status: 3)") && line.contains("; the handler before goes on"));
    assert_eq!(handler_process(&host), before);
    app.write("handler.py", &(good + "# repaired\n"));
    until_replaced(&host, 1);

    assert_ne!(handler_process(&host), before);
}

#[test]
fn a_call_that_runs_into_function_timeout_ends_the_handler_that_it_runs_on() {
    let Some(app) = App::new() else { return };
    app.change("host.json", |host| host["extensions"]["serviceBus"]["maxConcurrentCalls"] = 8.into());
    let good = source(&app);
    app.write("handler.py", &format!("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{good}"));
    let host = app.start(&["--watch"], &[("AzureFunctionsJobHost__functionTimeout", "00:00:10")]);
    let before = handler_process(&host);
    send(&host, &[&json!({ "sleep": [1000, 0] }).to_string()]);
    app.recorded("begin", "Sink", 1);

    app.write("handler.py", &good);
    until_replaced(&host, 1);
    let after = handler_process(&host);
    let again = app.recorded("begin", "Sink", 2).remove(1);
    let was_kept = runs(before);

    assert!(!was_kept, "{again}");
    assert_eq!((&again["process"], &again["delivery"]), (&json!(after), &json!(2)), "{again}");
    assert_eq!(handler_process(&host), after);
}

#[test]
fn a_handler_that_does_not_come_up_after_a_crash_is_tried_again() {
    let Some(app) = App::new() else { return };
    app.write("handler.py", &format!("import os, sys\nif os.path.exists('../down'): sys.exit('no luck')\n{}", source(&app)));
    let mut host = app.start(&["--watch"], &[]);
    let down = app.root().join("../down");
    std::fs::write(&down, "").unwrap();

    tell(&host, &json!({ "exit": 3 }));
    host.program.line("more than 2 times within 30 minutes; a change of a file starts it again");
    let tries = host.program.lines().iter().filter(|line| *line == "no luck").count();
    std::fs::remove_file(down).unwrap();
    app.write("note.txt", "text");

    assert_eq!(tries, 2, "{:?}", host.program.lines());
    assert_eq!(host.get("/api/hello").status, 200);
}

#[test]
fn a_host_whose_handler_never_came_up_says_so_to_a_scraper_and_to_a_request_that_waits() {
    let Some(app) = App::new() else { return };
    app.write("handler.py", "import sys\nsys.exit('no luck')\n");
    let port = free_port();
    let mut program = app.begin(&["--watch", "--drain-timeout", "1s", "--port", &port.to_string()], &[]);
    program.line("more than 2 times within 30 minutes; a change of a file starts it again");

    let ask = move |path: &str| try_request("GET", &format!("http://127.0.0.1:{port}{path}"), &[], None);
    let begun = Instant::now();
    let metrics = ask("/metrics").unwrap();
    let took = begun.elapsed();
    let waiting = std::thread::spawn(move || ask("/api/hello").is_ok());
    eventually("the request waits", || {
        let status = ask("/admin/host/status").ok()?;
        (status.body.contains("Starting") && !waiting.is_finished()).then_some(())
    });
    program.signal("INT");
    let (_, lines) = program.end();

    let _ = waiting.join();
    assert_eq!((metrics.status, metrics.body.as_str()), (503, "no handler is up\n"));
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(!lines.iter().any(|line| line.contains("code 0")), "{lines:?}");
}

#[test]
fn a_build_that_fails_is_told_beside_the_lines_that_are_wanted() {
    let Some(app) = App::new() else { return };
    let mut program = app.begin(&["--watch", "--build", "false", "--log", "Sink"], &[]);

    program.line("the build failed (exit status: 1)");
}

#[test]
fn a_first_build_that_fails_waits_for_a_change() {
    let Some(app) = App::new() else { return };
    let mut program = app.begin(&["--watch", "--build", "test -e good"], &[]);

    program.line("the build failed (exit status: 1)");
    app.write("good", "");
    let port = Host::wait(&mut program);

    let host = Host { program, port };
    assert_eq!(host.get("/api/hello").status, 200);
}

#[test]
fn a_file_that_is_saved_during_a_build_is_built_too() {
    let Some(app) = App::new() else { return };
    // Each build waits until something is written into the pipe.
    let pipe = app.root().join("../pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut program = app.begin(&["--watch", "--build", "cat ../pipe >/dev/null; echo one build done >&2"], &[]);
    std::fs::write(&pipe, "first").unwrap();
    let port = Host::wait(&mut program);
    let host = Host { program, port };
    let before = handler_process(&host);

    app.write("handler.py", &(source(&app) + "# one\n"));
    eventually("the build runs", || (logged(&host, "handler.py changed: running") == 1).then_some(()));
    app.write("handler.py", &(source(&app) + "# two\n"));
    std::fs::write(&pipe, "second").unwrap();
    eventually("it runs again", || (logged(&host, "handler.py changed meanwhile") == 1).then_some(()));
    std::fs::write(&pipe, "third").unwrap();
    until_replaced(&host, 1);

    assert_ne!(handler_process(&host), before);
    assert_eq!(builds(&host), 3, "{:?}", host.program.lines());
}

#[test]
fn a_build_that_changes_its_own_folder_runs_twice_at_most() {
    let Some(app) = App::new() else { return };
    let host = app.start(&["--watch", "--build", "date +%s%N > product; echo one build done >&2"], &[]);
    eventually("it is named", || (logged(&host, "product changed during two builds in a row: name it in .gitignore") == 1).then_some(()));
    let at_start = builds(&host);

    app.write("handler.py", &(source(&app) + "# changed\n"));
    until_replaced(&host, 1);

    assert_eq!((at_start, builds(&host)), (2, 4), "{:?}", host.program.lines());
}

#[test]
fn a_build_whose_products_have_new_names_runs_three_times_at_most() {
    let Some(app) = App::new() else { return };
    let host = app.start(&["--watch", "--build", "touch product-$(date +%s%N); echo one build done >&2"], &[]);

    assert_eq!(logged(&host, "changed during the last of 3 builds in a row: name it in .gitignore"), 1, "{:?}", host.program.lines());
    assert_eq!(builds(&host), 3, "{:?}", host.program.lines());
}

#[test]
fn what_git_ignores_is_no_change_and_files_of_the_host_need_a_start() {
    let Some(app) = App::new() else { return };
    app.write(".gitignore", "*.log\n");
    let mut host = app.start(&["--watch"], &[]);

    app.write("some.log", "line");
    app.write("Hello/function.json", &(std::fs::read_to_string(app.root().join("Hello/function.json")).unwrap() + "\n"));
    let told = host.program.line("start again for it to count");
    app.write("other.log", "line");
    app.write("note.txt", "text");
    until_replaced(&host, 1);

    assert!(told.contains("Hello/function.json changed"), "{told}");
    assert_eq!(logged(&host, "note.txt changed: the handler is replaced"), 1);
    assert_eq!(logged(&host, ".log changed"), 0, "{:?}", host.program.lines());
}

#[test]
fn a_killed_host_leaves_no_process_of_a_build_and_no_handler() {
    let Some(app) = App::new() else { return };
    let mut host = app.start(&["--watch", "--build", &format!("if [ -e ../built ]; then {ENDLESS}; fi; touch ../built")], &[]);
    let handler = handler_process(&host);
    app.write("note.txt", "text");
    let processes = of_build(&app);
    assert!(processes.iter().all(|process| runs(*process)) && runs(handler));

    host.program.kill();

    for process in processes.into_iter().chain([handler]) {
        eventually("the process has ended", || (!runs(process)).then_some(()));
    }
}

#[test]
fn ctrl_c_during_a_build_ends_the_build_and_the_host() {
    let Some(app) = App::new() else { return };
    let program = app.begin(&["--watch", "--build", ENDLESS], &[]);
    let processes = of_build(&app);

    program.signal("INT");
    let (status, lines) = program.end();

    assert!(status.success(), "{lines:?}");
    for process in processes {
        eventually("the process has ended", || (!runs(process)).then_some(()));
    }
}

#[test]
fn orders_come_to_one_end_while_the_handler_is_replaced_again_and_again() {
    let directory = Directory::new();
    for entry in std::fs::read_dir(repository()).unwrap().map(|entry| entry.unwrap().path()) {
        if let Ok(text) = std::fs::read_to_string(entry.join("function.json")) {
            directory.write(&format!("app/{}/function.json", entry.file_name().unwrap().to_str().unwrap()), &text);
        }
    }
    for name in ["host.json", "local.settings.json.example"] {
        directory.write(&format!("app/{name}"), &std::fs::read_to_string(repository().join(name)).unwrap());
    }
    let app = directory.path().join("app");
    let host = Host::with(&app, &directory.path().join("data"), &["--watch"], &[("WORK_DELAY", "50ms")]);

    let mut ids = Vec::new();
    for round in 1..=3 {
        ids.extend((0..10).map(|number| host.submit(&order(&format!("W-{round}-{number}")))));
        directory.write("app/note.txt", &"x".repeat(round));
        until_replaced(&host, round);
    }

    for id in ids {
        let ended = host.ended(&id);
        assert_eq!((&ended["status"], &ended["attempt"]), (&json!("completed"), &json!(1)), "{ended}");
    }
    assert_eq!(host.figures()["serviceBus"]["orders"]["deadLettered"].as_u64().unwrap_or(0), 0, "{}", host.figures());
}

#[test]
fn a_build_needs_a_watched_folder() {
    let (status, lines) = Program::waybill(&["local", "--build", "true"], &[]).end();

    assert_eq!(status.code(), Some(2));
    assert!(lines.iter().any(|line| line.contains("--watch")), "{lines:?}");
}
