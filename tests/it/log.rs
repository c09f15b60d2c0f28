//! Log lines whose reader is slow, or stuck.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::foreign::{App, tell};
use crate::support::{Directory, Host, PATIENCE, eventually, free_port, order, post_order, repository, signal, try_request};

/// `waybill` whose output is not read before its end.
struct Unread {
    child: Child,
    port: u16,
}

impl Unread {
    fn serve(data: &Path) -> Self {
        let port = free_port();
        let settings =
            [("WAYBILL_DATA", data.to_str().unwrap()), ("LOG_FORMAT", "json"), ("FUNCTIONS_CUSTOMHANDLER_PORT", &port.to_string())];
        Self::start(&["serve"], &settings, port, "/readyz")
    }

    fn start(arguments: &[&str], settings: &[(&str, &str)], port: u16, health: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waybill"));
        command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap()).envs(settings.iter().copied());
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let unread = Self { child, port };
        eventually("it is ready", || (unread.status(health) == Some(200)).then_some(()));
        unread
    }

    fn status(&self, path: &str) -> Option<u16> {
        try_request("GET", &format!("http://127.0.0.1:{}{path}", self.port), &[], None).ok().map(|response| response.status)
    }

    /// Sends this number of requests that a handler refuses, each with a line of the log. All are answered.
    fn refused(&self, number: usize) {
        let mut requests = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        requests.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answers = requests.try_clone().unwrap();
        let foreign = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n".repeat(number - 1);
        let answers = std::thread::scope(|scope| {
            let sent = scope.spawn(move || {
                requests.write_all(format!("{foreign}GET / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n").as_bytes())
            });
            let mut all = String::new();
            answers.read_to_string(&mut all).unwrap();
            sent.join().unwrap().unwrap();
            all
        });
        assert_eq!(answers.matches("HTTP/1.1 421 ").count(), number);
    }

    /// Asks it to end, and reads all lines of its stdout.
    fn end(mut self) -> Vec<String> {
        signal(self.child.id(), "TERM");
        let mut lines = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut lines).unwrap();
        assert!(eventually("it ends", || self.child.try_wait().unwrap()).success());
        lines.lines().map(str::to_owned).collect()
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn number_with(lines: &[String], text: &str) -> usize {
    lines.iter().filter(|line| line.contains(text)).count()
}

#[test]
fn a_log_that_is_not_read_holds_up_no_request_and_is_whole_at_the_end() {
    let data = Directory::new();
    let handler = Unread::serve(data.path());

    // Several times what a pipe holds.
    handler.refused(2_000);
    assert_eq!(handler.status("/readyz"), Some(200));
    let lines = handler.end();

    assert_eq!(number_with(&lines, "a request was refused"), 2_000);
    assert!(lines.last().unwrap().contains("the handler has stopped"), "{:?}", lines.last());
}

#[test]
fn lines_that_find_no_room_are_counted() {
    let data = Directory::new();
    let handler = Unread::serve(data.path());

    handler.refused(12_000);
    let lines = handler.end();

    let told: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let dropped: u64 = told.iter().filter_map(|line| line["output.dropped"].as_u64()).sum();
    let written = number_with(&lines, "a request was refused") as u64;
    assert!(dropped > 0);
    // The two lines about the end may be among those that are dropped.
    assert!((12_000..=12_002).contains(&(dropped + written)), "{dropped} and {written}");
}

#[test]
fn a_reader_that_never_reads_keeps_no_handler_from_its_end() {
    let data = Directory::new();
    let mut handler = Unread::serve(data.path());
    handler.refused(2_000);

    signal(handler.child.id(), "TERM");

    assert!(eventually("it ends", || handler.child.try_wait().unwrap()).success());
}

#[test]
fn a_host_and_a_handler_whose_log_is_not_read_take_orders() {
    let data = Directory::new();
    let (app, directory, port) = (repository().to_str().unwrap(), data.path().to_str().unwrap(), free_port());
    let arguments = ["local", "--app", app, "--data", directory, "--port", &port.to_string()];
    let host = Unread::start(&arguments, &[], port, "/api/health");

    // They share a pipe.
    host.refused(2_000);
    let accepted = post_order(port, "A-1").unwrap();
    eventually("the order ends", || {
        let status = try_request("GET", accepted.json()["statusUrl"].as_str().unwrap(), &[], None).unwrap();
        (status.json()["status"] == "completed").then_some(())
    });
    let lines = host.end();

    assert_eq!(number_with(&lines, "a request was refused"), 2_000);
    assert!(number_with(&lines, "order completed") == 1 && number_with(&lines, "the handler has stopped") == 1);
    assert!(lines.last().unwrap().contains("stopped"), "{:?}", lines.last());
}

#[test]
fn lines_about_one_function_are_shown_alone() {
    let data = Directory::new();
    let mut host = Host::with(repository(), data.path(), &["--log", "orderprocessor"], &[]);

    let id = host.submit(&order("L-1"));
    host.ended(&id);
    host.program.line("OrderProcessor answered");
    let completed = host.program.line("order completed");

    assert!(completed.contains(&id), "{completed}");
    let lines = log_lines(&host);
    assert!(!lines.iter().any(|line| line.contains("OrderIngress") || line.contains("OrderStatus")), "{lines:?}");
}

#[test]
fn lines_about_one_order_are_shown_alone() {
    let data = Directory::new();
    let id = Host::with(repository(), data.path(), &[], &[]).submit(&order("L-1"));
    let mut host = Host::with(repository(), data.path(), &["--log", &id], &[]);

    let other = host.submit(&order("L-2"));
    host.ended(&other);
    let again = host.submit(&order("L-1"));
    host.program.line("OrderIngress answered");

    assert_eq!(again, id);
    let lines = log_lines(&host);
    assert!(!lines.is_empty() && lines.iter().all(|line| line.contains(&id)), "{lines:?}");
}

#[test]
fn lines_about_an_id_of_another_language_are_those_of_invocations_that_had_it() {
    let Some(app) = App::new() else { return };
    let mut host = app.start(&["--log", "A-7"], &[]);
    let answer = |line: &str| {
        let body = serde_json::json!({ "Outputs": {}, "Logs": [line] }).to_string();
        serde_json::json!({ "status": 200, "contentType": "application/json", "body": body })
    };

    tell(&host, &serde_json::json!({ "id": "A-70", "answer": answer("said of another") }));
    tell(&host, &serde_json::json!({ "id": "A-7", "answer": answer("said of it") }));
    host.program.line("said of it");

    assert!(!log_lines(&host).iter().any(|line| line.contains("another")));
}

/// What stands below the start.
fn log_lines(host: &Host) -> Vec<String> {
    let lines = host.program.lines();
    lines.into_iter().skip_while(|line| !line.contains("Press Ctrl-C to stop")).skip(1).collect()
}
