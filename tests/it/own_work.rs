//! Work in Rust: `examples/own-work`, a handler of its own, under `waybill local`.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::support::{Directory, Host, Program, built, events, eventually, repository, signal};

/// Built by the first test that needs it.
fn executable() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| built("own-work"))
}

fn start(data: &Directory, settings: &[(&str, &str)]) -> Host {
    let handler = ["--handler", executable().to_str().unwrap()];
    Host::with(&repository().join("examples/own-work"), data.path(), &handler, settings)
}

fn report(order_id: &str, title: &str, pages: u32) -> Value {
    json!({ "orderId": order_id, "customerId": "C-1", "title": title, "pages": pages })
}

fn reaches(host: &Host, id: &str, stage: &str) {
    eventually("it reaches its stage", || {
        let status = host.get(&format!("/api/orders/{id}/status")).json();
        (status["stage"] == stage).then_some(())
    });
}

#[test]
fn work_in_rust_shows_progress_and_a_result() {
    let data = Directory::new();
    let host = start(&data, &[]);

    let id = host.submit(&report("R-1", "Trees", 10));

    reaches(&host, &id, "drawing");
    let ended = host.ended(&id);
    assert_eq!((&ended["status"], &ended["result"]), (&json!("completed"), &json!({ "file": "Trees.pdf", "pages": 10 })), "{ended}");
}

#[test]
fn a_failure_of_work_in_rust_is_tried_again_or_final() {
    let data = Directory::new();
    let host = start(&data, &[("RETRY_BASE", "10ms")]);

    let busy = host.ended(&host.submit(&report("R-2", "busy", 1)));
    let unprintable = host.ended(&host.submit(&report("R-3", "unprintable", 1)));

    assert_eq!((&busy["status"], &busy["attempt"]), (&json!("completed"), &json!(2)), "{busy}");
    assert_eq!(busy["history"][2]["code"], "printer_busy", "{busy}");
    let error = json!({ "code": "unprintable", "message": "a report with this title cannot be rendered" });
    assert_eq!((&unprintable["status"], &unprintable["attempt"], &unprintable["error"]), (&json!("failed"), &json!(1), &error));
}

#[test]
fn work_in_rust_learns_that_its_order_is_cancelled() {
    let data = Directory::new();
    let host = start(&data, &[("LEASE", "300ms")]);
    let id = host.submit(&report("R-4", "Trees", 500));
    reaches(&host, &id, "reading");

    let asked = crate::support::request("DELETE", &host.url(&format!("/api/orders/{id}")), &[], None);

    assert_eq!((asked.status, host.ended(&id)["status"].clone()), (202, json!("cancelled")));
}

#[test]
fn a_try_of_work_in_rust_ends_at_its_deadline() {
    let data = Directory::new();
    let host = start(&data, &[("FULFILLMENT_TIMEOUT", "200ms"), ("MAX_ATTEMPTS", "2"), ("RETRY_BASE", "10ms")]);

    let ended = host.ended(&host.submit(&report("R-5", "Trees", 500)));

    assert_eq!((&ended["status"], &ended["attempt"], &ended["error"]["code"]), (&json!("failed"), &json!(2), &json!("work_timeout")));
}

#[test]
fn work_in_rust_survives_that_its_handler_is_killed() {
    let data = Directory::new();
    let host = start(&data, &[]);
    let ids: Vec<_> = (0..5).map(|number| host.submit(&report(&format!("K-{number}"), "Trees", 10))).collect();

    for _ in 0..2 {
        reaches(&host, &ids[0], "reading");
        let record: Value = serde_json::from_slice(&std::fs::read(data.path().join("handler.json")).unwrap()).unwrap();
        let process = u32::try_from(record["process"].as_u64().unwrap()).unwrap();
        signal(process, "KILL");
        eventually("another handler", || {
            let record: Value = serde_json::from_slice(&std::fs::read(data.path().join("handler.json")).ok()?).ok()?;
            (record["process"].as_u64()? != u64::from(process)).then_some(())
        });
    }

    for id in &ids {
        let ended = host.ended(id);
        assert_eq!((&ended["status"], &ended["attempt"]), (&json!("completed"), &json!(1)), "{ended}");
        assert_eq!(events(&ended).iter().filter(|event| **event == "completed").count(), 1, "{ended}");
    }
}

#[test]
fn a_handler_with_work_of_its_own_refuses_the_work_of_another() {
    let mut command = Command::new(executable());
    command.env_clear().envs([("FUNCTIONS_CUSTOMHANDLER_PORT", "1"), ("FULFILLMENT_URL", "http://127.0.0.1:9/"), ("TAX_RATE", "0.1")]);

    let (status, lines) = Program::start(&mut command).end();

    assert_eq!(status.code(), Some(1));
    for why in ["FULFILLMENT_URL is set, and the work is part of this handler", "TAX_RATE is for the built-in work"] {
        assert!(lines.iter().any(|line| line.contains(why)), "{lines:?}");
    }
}

#[test]
fn settings_are_judged_by_the_work_that_the_app_has() {
    let app = repository().join("examples/own-work");
    let judged = |settings: &[(&str, &str)]| {
        let (status, lines) = Program::waybill(&["settings", "--app", app.to_str().unwrap()], settings).end();
        (status.code(), lines)
    };

    let good = judged(&[("ORDER_ID", "/id"), ("FULFILLMENT_TIMEOUT", "1m")]);
    let wrong = judged(&[("FULFILLMENT_AUTHORIZATION", "Bearer x")]);

    assert_eq!(good.0, Some(0), "{:?}", good.1);
    let why = "FULFILLMENT_AUTHORIZATION is for FULFILLMENT_URL, and the work is part of this handler: unset it";
    assert!(wrong.0 == Some(1) && wrong.1.iter().any(|line| line.contains(why)), "{:?}", wrong.1);
    assert!(!wrong.1.iter().any(|line| line.contains("set both")), "{:?}", wrong.1);
}

#[test]
fn the_example_has_the_functions_of_the_app_and_few_lines() {
    let (own, ours) = (repository().join("examples/own-work"), repository());
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
    let folders = std::fs::read_dir(ours).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    for name in folders.filter(|name| ours.join(name).join("function.json").exists()) {
        let file = format!("{name}/function.json");
        assert_eq!(read(own.join(&file)), read(ours.join(&file)), "{file}");
    }
    assert_eq!(read(own.join("host.json")).replace("\"own-work\"", "\"waybill\""), read(ours.join("host.json")));
    assert!(read(own.join("src/main.rs")).lines().count() <= 80);
}
