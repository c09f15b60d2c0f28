//! The backends of `examples/`, as a person starts them.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Directory, Host, Program, eventually, free_port, has, repository, request, try_request};

#[test]
fn the_examples_without_the_functions_around_them_say_what_they_need() {
    let elsewhere = Directory::new();
    let copy = elsewhere.write("examples/start", &std::fs::read_to_string(repository().join("examples/start")).unwrap());

    let (status, lines) = Program::start(Command::new("sh").arg(copy).arg("python")).end();

    assert_eq!(status.code(), Some(2), "{lines:?}");
    assert!(lines.concat().contains("needs the whole clone") && lines.concat().contains("waybill new DIR"), "{lines:?}");
}

/// What `examples/start` has started; stopped at the end.
struct Example {
    host: Host,
    backend: u16,
    _data: Directory,
}

impl Example {
    /// Nothing without the language.
    fn start(language: &str, way: &str, pause: &str) -> Option<Self> {
        if !has(if language == "python" { "python3" } else { language }) {
            return None;
        }
        let (data, backend) = (Directory::new(), free_port());
        let mut command = Command::new(repository().join("examples/start"));
        let ours = Path::new(env!("CARGO_BIN_EXE_waybill")).parent().unwrap().to_str().unwrap();
        let path = format!("{ours}:{}", std::env::var("PATH").unwrap_or_default());
        let settings =
            [("PATH", path.as_str()), ("PORT", &backend.to_string()), ("PAUSE", pause)].map(|(name, value)| (name, value.to_owned()));
        command.args([language, way, "--port", "0", "--data", data.path().to_str().unwrap()]).env_clear().envs(settings);
        let mut program = Program::start(&mut command);
        let port = Host::wait(&mut program);
        eventually("the backend answers", || try_request("GET", &format!("http://127.0.0.1:{backend}/jobs/x"), &[], None).ok());
        Some(Self { host: Host { program, port }, backend, _data: data })
    }

    fn submit(&self) -> String {
        let order = std::fs::read_to_string(repository().join("examples/report.json")).unwrap();
        self.host.submit(&serde_json::from_str(&order).unwrap())
    }

    /// What the backend answers to a call under this key.
    fn render(&self, key: &str) -> Value {
        let url = format!("http://127.0.0.1:{}/now", self.backend);
        request("POST", &url, &[("Idempotency-Key", key)], Some(br#"{"title":"x","pages":1}"#)).json()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // Killed, it would leave the two others running.
        self.host.program.signal("TERM");
        eventually("it stops what it has started", || self.host.program.has_ended().then_some(()));
    }
}

fn is_rendered(language: &str, way: &str) {
    let Some(example) = Example::start(language, way, "0.05") else { return };

    let ended = example.host.ended(&example.submit());

    assert_eq!((&ended["status"], &ended["attempt"]), (&json!("completed"), &json!(1)), "{ended}");
    assert_eq!((&ended["result"]["file"], &ended["result"]["pages"]), (&json!("Trees of 2026.pdf"), &json!(12)), "{ended}");
}

fn shows_its_stages_and_renders_once_for_a_key(language: &str) {
    let Some(example) = Example::start(language, "progress", "1") else { return };

    let id = example.submit();

    eventually("it shows a stage", || {
        let status = example.host.get(&format!("/api/orders/{id}/status")).json();
        (status["stage"] == "drawing" && status["progress"] == 33).then_some(())
    });
    let (first, again, other) = (example.render("a"), example.render("a"), example.render("b"));
    assert_eq!(first, again);
    assert_ne!(first["rendered"], other["rendered"]);
    let refused = example.host.post("/api/orders", &json!({ "orderId": "R-2", "customerId": "C", "title": "", "pages": "many" }));
    assert_eq!((refused.status, refused.json()["errors"].as_array().unwrap().len()), (400, 2));
}

#[test]
fn python_answers_at_once() {
    is_rendered("python", "now");
}

#[test]
fn python_answers_later() {
    is_rendered("python", "later");
}

#[test]
fn python_shows_its_stages_and_renders_once_for_a_key() {
    shows_its_stages_and_renders_once_for_a_key("python");
}

#[test]
fn node_answers_at_once() {
    is_rendered("node", "now");
}

#[test]
fn node_answers_later() {
    is_rendered("node", "later");
}

#[test]
fn node_shows_its_stages_and_renders_once_for_a_key() {
    shows_its_stages_and_renders_once_for_a_key("node");
}

#[test]
fn the_service_that_the_readme_shows_does_the_work() {
    if !has("python3") {
        return;
    }
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, rest) = readme.split_once("```python\n").unwrap();
    let (service, _) = rest.split_once("```").unwrap();
    assert!(service.lines().count() <= 15 && readme[..readme.len() - rest.len()].lines().count() < 15);
    let (data, port) = (Directory::new(), free_port());
    let script = data.write("work.py", &service.replace("9000", &port.to_string()));
    let _work = Program::start(Command::new("python3").arg(script));
    eventually("the service answers", || try_request("GET", &format!("http://127.0.0.1:{port}/"), &[], None).ok());
    let host = Host::start(data.path(), &[("FULFILLMENT_URL", &format!("http://127.0.0.1:{port}"))]);

    let ended = host.ended(&host.submit(&json!({ "orderId": "R-1", "customerId": "C-1", "title": "Trees" })));

    assert_eq!(ended["result"], json!({ "file": "Trees.pdf" }), "{ended}");
}

#[test]
fn a_backend_is_sixty_lines_at_most() {
    for name in ["backend.py", "backend.mjs"] {
        let lines = std::fs::read_to_string(repository().join("examples").join(name)).unwrap().lines().count();

        assert!(lines <= 60, "{name} has {lines} lines");
    }
}
