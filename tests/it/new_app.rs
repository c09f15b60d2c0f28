//! `waybill new`: a folder of one's own, through which an order goes to its end.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Directory, Host, Program, eventually, free_port, has, repository, request, skipped, try_request};

fn waybill(arguments: &[&str]) -> (Option<i32>, Vec<String>) {
    let (status, lines) = Program::waybill(arguments, &[]).end();
    (status.code(), lines)
}

/// The app's `work.py`, and the host for it.
fn start(app: &Path) -> (Program, Host) {
    let port = free_port().to_string();
    let work = Program::start(Command::new("python3").arg(app.join("work.py")).env("PORT", &port));
    let url = format!("http://127.0.0.1:{port}/");
    eventually("the work answers", || try_request("GET", &url, &[], None).ok());
    let host = Host::with(app, &app.join(".waybill"), &[], &[("FULFILLMENT_URL", &url)]);
    (work, host)
}

fn sample(app: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(app.join("order.json")).unwrap()).unwrap()
}

#[test]
fn a_new_app_does_the_work_of_its_sample_order_and_is_not_written_over() {
    if !has("python3") {
        return;
    }
    let directory = Directory::new();
    let app = directory.path().join("render-reports");
    let arguments = ["new", app.to_str().unwrap()];
    assert_eq!(waybill(&arguments).0, Some(0));
    let (_work, host) = start(&app);

    let ended = host.ended(&host.submit(&sample(&app)));
    let refused = host.post("/api/orders", &json!({ "orderId": "A", "customerId": "C" }));
    std::fs::write(app.join("work.py"), "mine").unwrap();
    let (again, lines) = waybill(&arguments);

    assert_eq!((&ended["status"], &ended["result"]["order"]), (&json!("completed"), &sample(&app)), "{ended}");
    assert_eq!(refused.status, 400);
    assert_eq!((again, std::fs::read_to_string(app.join("work.py")).unwrap().as_str()), (Some(1), "mine"), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("nothing is written over")), "{lines:?}");
}

#[test]
fn a_new_app_takes_a_schema_and_the_files_beside_it() {
    if !has("python3") {
        return;
    }
    let directory = Directory::new();
    let schema = json!({
        "type": "object", "properties": { "to": { "$ref": "people.json#/$defs/name" } }, "required": ["to"],
        "additionalProperties": false, "examples": [{ "to": "Zoë" }],
    });
    let path = directory.write("letter.json", &schema.to_string());
    directory.write("people.json", r#"{ "$defs": { "name": { "type": "string" } } }"#);
    let app = directory.path().join("letters");
    let made = waybill(&["new", app.to_str().unwrap(), "--work", "http", "--schema", path.to_str().unwrap()]);
    assert_eq!(made.0, Some(0), "{:?}", made.1);
    let (_work, mut host) = start(&app);
    assert!(host.program.line("curl -i").contains(" -H 'Idempotency-Key: FIRST' "), "the order to paste is accepted");

    let body = std::fs::read(app.join("order.json")).unwrap();
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "k-1")];
    let accepted = request("POST", &host.url("/api/orders"), &headers, Some(&body));
    let refused = host.post("/api/orders", &json!({ "to": 5 }));

    assert_eq!(accepted.status, 202, "{accepted:?}");
    assert_eq!(host.ended(accepted.json()["trackingId"].as_str().unwrap())["result"]["order"], json!({ "to": "Zoë" }));
    assert_eq!((refused.status, &refused.json()["errors"][0]["pointer"]), (400, &json!("/to")));
}

#[test]
fn what_a_schema_leaves_open_is_told() {
    let directory = Directory::new();
    let schema = json!({ "properties": { "number": { "pattern": "^R-[0-9]+$" }, "customerId": {} }, "required": ["number", "pages"] });
    let path = directory.write("report.json", &schema.to_string());
    let app = directory.path().join("reports");

    let (code, lines) = waybill(&["new", app.to_str().unwrap(), "--schema", path.to_str().unwrap()]);

    assert_eq!((code, lines.len()), (Some(0), 3), "{lines:?}");
    assert!(lines[1].starts_with("an order has no number, since the schema has no orderId: "), "{lines:?}");
    assert!(lines[2].starts_with("order.json does not match the schema yet: /number is missing; /pages is missing; "), "{lines:?}");
}

#[test]
fn the_files_of_a_schema_keep_their_names() {
    let directory = Directory::new();
    let schema = json!({
        "type": "object", "properties": { "to": { "$ref": "people.json#/$defs/name" }, "name": { "type": "string" } },
    });
    let path = directory.write("my letter.json", &schema.to_string());
    directory.write("people.json", r#"{ "$defs": { "name": { "$ref": "my%20letter.json#/properties/name" } } }"#);
    let app = directory.path().join("letters");
    let made = waybill(&["new", app.to_str().unwrap(), "--schema", path.to_str().unwrap()]);
    assert_eq!(made.0, Some(0), "{:?}", made.1);

    let read = |name: &str| std::fs::read_to_string(app.join(name)).unwrap();
    assert_eq!(read("my letter.json"), schema.to_string());
    assert!(read("README.md").contains("--include 'my letter.json'"), "{}", read("README.md"));
    assert!(read(".github/workflows/ci.yml").contains("json.tool 'my letter.json' >"));
    let settings: Value = serde_json::from_str(&read("local.settings.json.example")).unwrap();
    assert_eq!(settings["Values"]["ORDER_SCHEMA"], "my letter.json");
    let (code, lines) = waybill(&["settings", "--app", app.to_str().unwrap()]);
    assert_eq!(code, Some(0), "the schema is whole in its new place: {lines:?}");
}

#[test]
fn a_file_of_a_schema_is_not_written_over_by_one_of_the_app() {
    let directory = Directory::new();
    for (index, (root, beside)) in
        [("letter.json", "order.json"), ("letter.json", "host.json"), ("order.json", "people.json")].into_iter().enumerate()
    {
        let path = directory.write(&format!("{index}/{root}"), &json!({ "properties": { "to": { "$ref": beside } } }).to_string());
        directory.write(&format!("{index}/{beside}"), r#"{ "type": "string" }"#);
        let app = directory.path().join(format!("app-{index}"));

        let (code, lines) = waybill(&["new", app.to_str().unwrap(), "--schema", path.to_str().unwrap()]);

        assert_eq!(code, Some(1), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("is also a file of the app: give the schema's another name")), "{lines:?}");
        assert!(!app.exists());
    }
}

#[test]
fn a_new_app_in_rust_has_no_workflow_that_could_not_pass() {
    let directory = Directory::new();
    let app = directory.path().join("render-reports");
    assert_eq!(waybill(&["new", app.to_str().unwrap(), "--work", "rust", "--sources", repository().to_str().unwrap()]).0, Some(0));

    let read = |name: &str| std::fs::read_to_string(app.join(name)).unwrap();
    assert!(!app.join(".github").exists());
    assert!(read("README.md").contains("Before the folder leaves this machine"));
    let dependencies = "[profile.dev.package.\"*\"]\ndebug = false\n";
    assert!(
        read("Cargo.toml").contains(dependencies)
            && std::fs::read_to_string(repository().join("Cargo.toml")).unwrap().contains(dependencies)
    );
}

#[test]
fn a_new_app_in_rust_does_the_work_of_its_sample_order() {
    if std::env::var("REQUIRE_ALL").as_deref() != Ok("1") {
        return skipped("it compiles Waybill once more: REQUIRE_ALL=1 runs it");
    }
    let directory = Directory::new();
    let app = directory.path().join("render-reports");
    assert_eq!(waybill(&["new", app.to_str().unwrap(), "--work", "rust"]).0, Some(0));
    let target = repository().join("target/new-app");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo).current_dir(&app).args(["build", "--quiet", "--target-dir"]).arg(&target).status().unwrap();
    assert!(built.success());
    let handler = target.join("debug/render-reports");
    let host = Host::with(&app, &app.join(".waybill"), &["--handler", handler.to_str().unwrap()], &[]);

    let ended = host.ended(&host.submit(&sample(&app)));

    assert_eq!((&ended["status"], &ended["result"]["order"]), (&json!("completed"), &sample(&app)), "{ended}");
}

#[test]
fn an_app_that_could_not_be_made_is_refused_before_a_file_is_written() {
    let directory = Directory::new();
    let wrong = directory.write("wrong.json", r#"{ "type": "text" }"#);
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    for (arguments, why) in [
        (vec!["new".into(), at("Reports")], "the name of an app has small letters"),
        (vec!["new".into(), at("a"), "--schema".into(), wrong.to_str().unwrap().into()], "wrong.json cannot be used: at /type"),
        (vec!["new".into(), at("b"), "--work".into(), "rust".into(), "--sources".into(), at("none")], "has no sources of Waybill"),
    ] {
        let (code, lines) = waybill(&arguments.iter().map(String::as_str).collect::<Vec<_>>());

        assert_eq!(code, Some(1), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains(why)), "{why}: {lines:?}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}
