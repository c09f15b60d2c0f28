//! An app with a handler in another language (`tests/foreign/app`), which is also the handler that does as the tests tell it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::support::{Directory, Host, Program, Response, eventually, repository, request, skipped};

/// A copy of the foreign app, with a data directory and a record of its own.
pub struct App(Directory);

impl App {
    /// Nothing without python3, which `REQUIRE_ALL=1` makes a failure.
    pub fn new() -> Option<Self> {
        if Command::new("python3").arg("--version").output().is_err() {
            assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "python3 not found");
            skipped("python3 not found");
            return None;
        }
        let app = Self(Directory::new());
        app.copy(&repository().join("tests/foreign/app"), "");
        Some(app)
    }

    fn copy(&self, from: &Path, below: &str) {
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            let name = format!("{below}/{}", entry.file_name().into_string().unwrap());
            match std::fs::read_to_string(entry.path()) {
                Ok(text) => drop(self.write(&name, &text)),
                Err(_) => self.copy(&entry.path(), &name),
            }
        }
    }

    pub fn write(&self, path: &str, text: &str) -> PathBuf {
        self.0.write(&format!("app/{}", path.trim_start_matches('/')), text)
    }

    /// Changes a JSON file of the app.
    pub fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut json = serde_json::from_str(&std::fs::read_to_string(self.root().join(path)).unwrap()).unwrap();
        change(&mut json);
        self.write(path, &json.to_string());
    }

    /// Adds a function, or puts another in its place.
    pub fn function(&self, name: &str, bindings: &Value) {
        self.write(&format!("{name}/function.json"), &json!({ "bindings": bindings }).to_string());
    }

    pub fn root(&self) -> PathBuf {
        self.0.path().join("app")
    }

    pub fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// A file that does not exist until [`App::open`] makes it.
    pub fn gate(&self) -> PathBuf {
        self.0.path().join("gate")
    }

    pub fn open(&self) {
        self.0.write("gate", "");
    }

    pub fn start(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Host {
        let mut program = self.begin(arguments, settings);
        let port = Host::wait(&mut program);
        Host { program, port }
    }

    pub fn begin(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Program {
        let record = self.0.path().join("record");
        let mut all = vec![("RECORD", record.to_str().unwrap())];
        all.extend(settings);
        Host::begin(&self.root(), &self.data(), arguments, &all)
    }

    /// What the handler has written down so far, of this event and function.
    pub fn records(&self, event: &str, function: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.0.path().join("record")).unwrap_or_default();
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let entries = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        entries.filter(|entry| entry["event"] == event && entry["function"] == function).collect()
    }

    /// Waits until the handler has written down this number.
    pub fn recorded(&self, event: &str, function: &str, count: usize) -> Vec<Value> {
        eventually(&format!("{count} times {event} of {function}"), || {
            let records = self.records(event, function);
            (records.len() >= count).then_some(records)
        })
    }

    /// Waits until `Sink` has dealt with a message of this text; every text it dealt with before.
    pub fn sunk_until(&self, text: &str) -> Vec<String> {
        let records = eventually(&format!("{text:?} reaches Sink"), || {
            let records = self.records("end", "Sink");
            let position = records.iter().position(|record| record["text"] == text)?;
            Some(records[..position].to_vec())
        });
        records.iter().map(|record| record["text"].as_str().unwrap().to_owned()).collect()
    }
}

/// Tells `Case` what to do.
pub fn tell(host: &Host, orders: &Value) -> Response {
    host.post("/api/case", orders)
}

/// Puts messages with these texts into the queue of `Sink`, in one send.
pub fn send(host: &Host, texts: &[&str]) {
    let response = tell(host, &json!({ "send": texts }));
    assert_eq!(response.status, 200, "{response:?}");
}

/// The process of the handler that answers now.
pub fn handler_process(host: &Host) -> u32 {
    let seen = tell(host, &json!({})).json();
    u32::try_from(seen["process"].as_u64().unwrap()).unwrap()
}

/// How many lines of the host contain this.
pub fn logged(host: &Host, text: &str) -> usize {
    host.program.lines_with(text).len()
}

fn cases() -> Vec<Value> {
    let text = std::fs::read_to_string(repository().join("tests/fixtures/host/response-cases.json")).unwrap();
    let cases = serde_json::from_str::<Value>(&text).unwrap()["cases"].take();
    serde_json::from_value::<Vec<Value>>(cases).unwrap().into_iter().filter(|case| case["client"].is_object()).collect()
}

/// The one case that takes as long as `functionTimeout`.
fn hangs(case: &Value) -> bool {
    case["handlerResponse"]["status"] == 200 && case["handlerResponse"]["body"] == ""
}

#[test]
fn http_queue_in_and_queue_out_run_with_a_handler_in_python() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);

    let answer = host.get("/api/case/7");
    let told = tell(&host, &json!({ "relay": ["one"], "answer": null }));
    let sunk = eventually("the relayed message", || app.records("end", "Sink").pop());

    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/json; charset=utf-8");
    assert_eq!(answer.json()["envelope"]["Data"]["req"]["Params"], json!({ "id": "7" }));
    assert_eq!(told.status, 200);
    assert_eq!(app.records("end", "Relay")[0]["text"], "one");
    assert_eq!(sunk["text"], "relayed one");
    eventually("both queues are empty", || (host.figures()["serviceBus"]["queues"] == json!({})).then_some(()));
}

#[test]
fn every_answer_that_was_observed_has_the_effects_that_were_observed() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[("RUST_LOG", "off")]);
    let mut expected = Vec::new();
    let mut seen = Vec::new();

    for (number, case) in cases().iter().enumerate().filter(|(_, case)| !hangs(case)) {
        let response = tell(&host, &json!({ "answer": case["handlerResponse"] }));
        send(&host, &[&format!("end of {number}")]);

        let wanted = &case["client"];
        let names = wanted["headers"].as_object().into_iter().flat_map(Map::keys);
        let headers = names.map(|name| (name.clone(), response.headers.get(name).map_or(Value::Null, |value| value.as_str().into())));
        let headers: Map<_, _> = headers.collect();
        let content_type = response.headers.get("content-type");
        seen.push(json!([case["name"], response.status, content_type, response.body, headers]));
        let headers = wanted.get("headers").cloned().unwrap_or(json!({}));
        expected.push(json!([case["name"], wanted["status"], wanted["contentType"], wanted["body"], headers]));
    }
    let last = format!("end of {}", cases().iter().rposition(|case| !hangs(case)).unwrap());
    let mut sunk = app.sunk_until(&last);
    sunk.push(last);
    let mut messages = sunk.split_inclusive(|text| text.starts_with("end of "));

    similar(&seen, &expected);
    for case in cases().iter().filter(|case| !hangs(case)) {
        let texts = messages.next().unwrap().split_last().unwrap().1;
        assert_eq!(json!(texts), case["serviceBusMessageBodies"], "{}", case["name"]);
    }
}

fn similar(seen: &[Value], expected: &[Value]) {
    assert_eq!(seen.len(), expected.len());
    assert!(expected.len() > 50, "the cases are gone");
    let different: Vec<_> = seen.iter().zip(expected).filter(|(seen, expected)| seen != expected).collect();
    assert!(different.is_empty(), "seen and expected differ: {different:#?}");
}

#[test]
fn an_empty_answer_ends_with_the_handler_at_the_function_timeout_uncounted() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[("AzureFunctionsJobHost__functionTimeout", "00:00:01")]);
    let hanging: Vec<_> = cases().into_iter().filter(hangs).collect();
    let [case] = &hanging[..] else { panic!("{hanging:?}") };
    tell(&host, &json!({ "exit": 200 }));
    eventually("the handler is ready again", || (logged(&host, "the handler is ready") == 2).then_some(()));
    let first = handler_process(&host);

    let started = Instant::now();
    let response = tell(&host, &json!({ "answer": case["handlerResponse"] }));
    let took = started.elapsed();
    let second = handler_process(&host);
    for code in 1..=2 {
        let ready = logged(&host, "the handler is ready");
        tell(&host, &json!({ "exit": code }));
        eventually("the handler is ready again", || (logged(&host, "the handler is ready") > ready).then_some(()));
    }
    let third = handler_process(&host);

    assert_eq!((u64::from(response.status), response.body.as_str()), (case["client"]["status"].as_u64().unwrap(), ""));
    assert!(!response.headers.contains_key("content-type"), "{response:?}");
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(10), "{took:?}");
    assert_ne!(first, second);
    assert_ne!(second, third);
}

#[test]
fn the_handler_sees_the_environment_of_a_custom_handler_and_the_app_settings() {
    let Some(app) = App::new() else { return };
    app.change("host.json", |host| {
        host["customHandler"]["description"]["arguments"] =
            json!(["handler.py", "--port=%FUNCTIONS_CUSTOMHANDLER_PORT%", "%COLOR%", "<%UNKNOWN_NAME%>", "two words"]);
    });
    let host = app.start(&[], &[("SIZE", "large"), ("INHERITED", "yes")]);
    let port = host.figures()["handlerPort"].to_string();
    let root = app.root().display().to_string();

    let seen = tell(&host, &json!({ "show": "process" })).json();

    let variable = |name: &str| seen["environment"][name].as_str().unwrap_or_else(|| panic!("no {name} in {seen}"));
    assert_eq!(variable("FUNCTIONS_CUSTOMHANDLER_PORT"), port);
    assert_eq!(variable("FUNCTIONS_HTTPWORKER_PORT"), port);
    assert_eq!(variable("FUNCTIONS_CUSTOMHANDLER_WORKER_ID"), variable("FUNCTIONS_HTTPWORKER_ID"));
    assert_eq!(variable("FUNCTIONS_CUSTOMHANDLER_WORKER_ID").len(), 36);
    assert_eq!(variable("FUNCTIONS_APP_ROOT_PATH"), root);
    assert_eq!(variable("AzureWebJobsScriptRoot"), root);
    assert_eq!(variable("AZURE_FUNCTIONS_ENVIRONMENT"), "Development");
    assert!(!variable("FUNCTIONS_CORETOOLS_ENVIRONMENT").is_empty());
    assert_eq!(variable("WEBSITE_HOSTNAME"), format!("localhost:{}", host.port));
    assert_eq!(variable("FUNCTIONS_WORKER_RUNTIME"), "custom");
    assert_eq!(variable("COLOR"), "blue");
    assert_eq!(variable("SIZE"), "large");
    assert_eq!(variable("INHERITED"), "yes");
    assert!(host.program.lines().iter().any(|line| line.contains("Skipping 'SIZE' from local settings")), "{:?}", host.program.lines());
    assert_eq!(seen["directory"], root);
    assert_eq!(seen["arguments"], json!([format!("--port={port}"), "blue", "<>", "two", "words"]));
}

#[test]
fn an_invocation_is_chunked_unless_content_length_is_asked_for() {
    let Some(app) = App::new() else { return };
    let fixture = |name: &str| std::fs::read_to_string(repository().join("tests/fixtures/host/captured").join(name)).unwrap();

    for (arguments, captured) in [(&[][..], "head-as-deployed.txt"), (&["--content-length"], "head-under-func-start.txt")] {
        let host = app.start(arguments, &[]);
        let url = host.url("/api/case/1");
        let headers = [("X-Mine", "1"), ("Authorization", "Bearer x"), ("User-Agent", "curl/8.5.0"), ("Cookie", "a=b")];

        let seen = request("POST", &url, &headers, Some(b"{}")).json();

        let captured = fixture(captured);
        let mut lines = captured.trim().lines();
        let line = lines.next().unwrap();
        let fixed = |(name, value): (&str, &str)| {
            let name = name.to_ascii_lowercase();
            let varies = matches!(name.as_str(), "host" | "x-azure-functions-invocationid" | "content-length");
            (name, if varies { "varies".to_owned() } else { value.trim().to_owned() })
        };
        let mut wanted: Vec<_> = lines.map(|line| fixed(line.split_once(':').unwrap())).collect();
        let head = seen["head"].as_array().unwrap().iter();
        let mut head: Vec<_> = head.map(|pair| fixed((pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))).collect();
        wanted.sort();
        head.sort();
        assert_eq!(seen["line"], line);
        assert_eq!(head, wanted);
        // The client of these tests sends names in small letters.
        assert_eq!(seen["envelope"]["Data"]["req"]["Headers"]["x-mine"], json!(["1"]), "{seen}");
    }
}
