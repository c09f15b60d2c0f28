//! What a person sees at a terminal.

use std::process::Command;

use serde_json::json;

use crate::support::{Directory, Host, Program, hopeless, order, repository, skipped};

/// Runs a program on a terminal of its own, with this number of columns, and passes on what it prints.
const TERMINAL: &str = "
import fcntl, os, pty, struct, sys, termios
child, terminal = pty.fork()
if child == 0:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('HHHH', 50, int(sys.argv[1]), 0, 0))
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
