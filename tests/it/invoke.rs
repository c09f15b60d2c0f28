//! `waybill invoke`: one function of a running app, its answer, its outputs and its log lines.

use serde_json::{Value, json};

use crate::fake::{Fake, reply};
use crate::foreign::App;
use crate::support::{Directory, Host, Program, free_port, order, repository, request};

/// The list of functions of an app in Azure.
const IN_AZURE: &str = r#"[
    {"name": "Hello", "config": {"bindings": [{"type": "httpTrigger", "name": "req", "methods": ["get"]}]},
        "invoke_url_template": "https://app.azurewebsites.net/api/hello/{name}", "isDisabled": false},
    {"name": "Work", "config": {"bindings": [{"type": "serviceBusTrigger", "name": "m", "queueName": "q"}]},
        "invoke_url_template": null, "isDisabled": false},
    {"name": "OrderIngress", "config": {"bindings": [{"type": "httpTrigger", "name": "req", "methods": ["post"]}]},
        "invoke_url_template": "https://app.azurewebsites.net/api/orders", "isDisabled": false},
    {"name": "OrderProcessor", "config": {"bindings": [{"type": "serviceBusTrigger", "name": "m", "queueName": "orders"}]},
        "invoke_url_template": null, "isDisabled": false},
    {"name": "Idle", "config": {"bindings": [{"type": "timerTrigger", "name": "t"}]}, "invoke_url_template": null, "isDisabled": true}]"#;

fn invoke(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let all = [&["invoke"], arguments].concat();
    let (status, lines) = Program::waybill(&all, environment).end();
    (status.code(), lines.join("\n"))
}

/// What `--json` tells of an invocation by this host.
fn told(host: &Host, arguments: &[&str]) -> (Option<i32>, Value) {
    let url = host.url("");
    let (code, text) = invoke(&[arguments, &["--json", "--url", &url]].concat(), &[]);
    (code, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

fn logs(told: &Value) -> Vec<&str> {
    told["logs"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect()
}

#[test]
fn the_samples_run_every_function_of_the_app() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[("SweepSchedule", "0 0 0 1 1 *")]);

    let (code, accepted) = told(&host, &["orderingress", "--set", "orderId=I-1"]);
    assert_eq!((code, &accepted["status"], &accepted["succeeded"]), (Some(0), &json!(202), &json!(true)), "{accepted}");
    let id = accepted["body"]["trackingId"].as_str().unwrap();
    let message = accepted["outputs"][0]["messages"][0].as_str().unwrap();
    assert_eq!((&accepted["outputs"][0]["name"], &accepted["outputs"][0]["queue"]), (&json!("orderMessage"), &json!("orders")));
    assert!(message.contains(id) && message.contains("I-1"), "{message}");
    let lines = logs(&accepted);
    assert!(lines.iter().any(|line| line.contains("order accepted") && line.contains(id)), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains(accepted["invocationId"].as_str().unwrap())), "{lines:?}");

    for (function, input) in [
        ("OrderProcessor", &[][..]),
        ("OrderDeadLetter", &[]),
        ("OrderSweeper", &[]),
        ("OrderList", &["--set", "limit=3"]),
        ("OrderStatus", &["--set", &format!("trackingId={id}")]),
        ("Health", &[]),
        ("OpenApi", &[]),
    ] {
        let (code, told) = told(&host, &[&[function], input].concat());
        assert_eq!((code, &told["function"], &told["succeeded"]), (Some(0), &json!(function), &json!(true)), "{told}");
    }
    let (code, unknown) = told(&host, &["OrderCancel", "--set", "trackingId=none"]);
    assert_eq!((code, &unknown["method"], &unknown["succeeded"]), (Some(1), &json!("DELETE"), &json!(false)), "{unknown}");
    assert_eq!(host.ended(id)["status"], "completed");
}

#[test]
fn a_handler_in_another_language_is_shown_with_its_outputs_its_log_and_its_failure() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);
    let answer = json!({ "Outputs": { "relayed": ["to relay"], "res": { "body": "hi" } }, "Logs": ["said\nthis"] });
    let orders = json!({ "answer": { "status": 200, "contentType": "application/json", "body": answer.to_string() } });
    let file = app.write("input.json", &orders.to_string());

    let (code, text) = invoke(&["Case", "--data", file.to_str().unwrap(), "--set", "id=7", "--url", &host.url("/api")], &[]);
    let (failed, shown) = told(&host, &["Sink", "--sample", "json", "--set", "fail=1"]);
    let (sunk, _) = told(&host, &["Sink", "--sample", "text"]);

    assert_eq!(code, Some(0), "{text}");
    for part in [&format!("Case  POST {}", host.url("/api/case/7")), "200", "\nhi\n", "relayed → relay\n  to relay", "log\n  said\n  this"]
    {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert_eq!((failed, &shown["succeeded"], &shown["reason"]), (Some(1), &json!(false), &json!("the handler answered with status 500")));
    assert_eq!(sunk, Some(0));
    let texts = app.records("begin", "Sink").into_iter().map(|record| record["text"].clone());
    // What is relayed gets there too.
    let by_hand: Vec<Value> = texts.filter(|text| !text.as_str().unwrap().starts_with("relayed")).collect();
    assert_eq!(by_hand, [json!(r#"{"fail":1}"#), json!("no message")]);
    // The handler is told nothing of the report.
    let seen = host.get("/api/hello").json();
    assert!(!seen.to_string().to_lowercase().contains("functions-host-report"), "{seen}");
    let (_, seen) = told(&host, &["Hello"]);
    assert!(!seen["body"].to_string().to_lowercase().contains("functions-host-report"), "{seen}");
}

#[test]
fn an_order_of_ones_own_is_the_sample_at_the_port_of_the_settings() {
    let directory = Directory::new();
    let app = directory.path().join("letters");
    let schema = json!({ "type": "object", "properties": { "to": { "type": "string" } }, "examples": [{ "to": "Zoë" }] });
    let schema = directory.write("letter.json", &schema.to_string());
    let (made, lines) = Program::waybill(&["new", app.to_str().unwrap(), "--schema", schema.to_str().unwrap()], &[]).end();
    assert!(made.success(), "{lines:?}");
    let port = free_port();
    let file = app.join("local.settings.json.example");
    let mut settings: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    settings["Host"] = json!({ "LocalHttpPort": port });
    std::fs::write(&file, settings.to_string()).unwrap();
    let _host = Host::with(&app, &app.join(".waybill"), &["--port", &port.to_string()], &[]);

    let (code, text) = invoke(&["OrderIngress", "--app", app.to_str().unwrap()], &[]);

    assert!(code == Some(0) && text.contains("202") && text.contains("Zoë"), "{code:?}: {text}");
}

#[test]
fn an_app_in_azure_gets_the_key_and_tells_no_more_than_its_answer() {
    let azure = Fake::answering(|_, heard| match (heard.line.split(' ').next().unwrap(), heard.target()) {
        _ if heard.headers.get("x-functions-key").is_none_or(|key| key != "master+secret==") => reply(401, &[], ""),
        (_, "/admin/functions") => reply(200, &[("Content-Type", "application/json")], IN_AZURE),
        (_, "/admin/host/status") => reply(200, &[("Content-Type", "application/json")], r#"{"id": "app", "state": "Running"}"#),
        ("POST", "/admin/functions/Work") => reply(202, &[], ""),
        ("GET", "/api/hello/Z%C3%BC%20rich") => reply(200, &[], "hello"),
        _ => reply(404, &[], ""),
    });
    let directory = Directory::new();
    let key = directory.write("key", "master+secret==\n");
    let url = azure.url.as_str();

    let (work, text) = invoke(&["Work", "--url", url, "--key-file", key.to_str().unwrap()], &[]);
    let (hello, greeting) = invoke(&["hello", "--url", url, "--set", "name=Zü rich"], &[("FUNCTIONS_KEY", "master+secret==")]);
    let (refused, why) = invoke(&["Work", "--url", url, "--key", "other"], &[]);
    let (keyless, which) = invoke(&["Work", "--url", url], &[]);
    let (idle, off) = invoke(&["Idle", "--url", url, "--key-file", key.to_str().unwrap()], &[]);

    let (order, give) = invoke(&["OrderProcessor", "--url", url, "--key-file", key.to_str().unwrap()], &[]);

    assert!(order == Some(1) && give.contains("pass one with --data FILE"), "{order:?}: {give}");
    let posted: Vec<_> = azure.heard().into_iter().filter(|heard| heard.line.starts_with("POST")).map(|heard| heard.line).collect();
    assert!(posted.len() == 1 && posted[0].contains("/admin/functions/Work"), "{posted:?}");
    assert!(work == Some(0) && text.contains("202: the function runs. This host tells nothing of its end"), "{work:?}: {text}");
    assert!(hello == Some(0) && greeting.ends_with("\nhello"), "{hello:?}: {greeting}");
    assert!(refused == Some(1) && why.contains("does not take the key"), "{refused:?}: {why}");
    assert!(keyless == Some(1) && which.contains("--key-file"), "{keyless:?}: {which}");
    assert!(idle == Some(1) && off.contains("AzureWebJobs.Idle.Disabled"), "{idle:?}: {off}");
    let sent: Value = serde_json::from_str(&azure.heard()[1].body).unwrap();
    assert_eq!(sent, json!({ "input": "{}" }));
    assert!(![text, greeting, why, which, off].concat().contains("secret"));
}

#[test]
fn a_host_that_other_machines_reach_gives_no_report() {
    let data = Directory::new();
    let host = Host::with(repository(), data.path(), &["--host", "0.0.0.0"], &[("SweepSchedule", "0 0 0 1 1 *")]);
    let asked = [("X-Functions-Host-Report", "1")];

    let health = request("GET", &host.url("/api/health"), &asked, None);
    let swept = request("POST", &host.url("/admin/functions/OrderSweeper"), &asked, None);
    let (order, give) = invoke(&["OrderProcessor", "--url", &host.url("")], &[]);

    for answer in [health, swept] {
        assert!(!answer.headers.contains_key("x-functions-host-invocation"), "{answer:?}");
    }
    assert!(order == Some(1) && give.contains("pass one with --data FILE"), "{order:?}: {give}");
    assert_eq!(host.figures()["reports"], json!(false));
}

#[test]
fn wrong_use_is_told_with_what_would_be_right() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    let url = host.url("");

    let (misspelt, names) = invoke(&["OrderIngres", "--url", &url], &[]);
    let (routed, needs) = invoke(&["OrderStatus", "--url", &url], &[]);
    let (moved, elsewhere) = invoke(&["OrderStatus", "--url", &url, "--set", "trackingId=.."], &[]);
    let (misset, no_json) = invoke(&["OrderProcessor", "--sample", "text", "--set", "a=1", "--url", &url], &[]);
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let (alone, start) = invoke(&["OrderIngress", "--url", &nobody], &[]);
    let (open, clear) = invoke(&["OrderIngress", "--url", "http://example.com", "--key", "secret"], &[]);

    assert!(misspelt == Some(2) && names.contains("did you mean OrderIngress?") && names.contains("OrderSweeper"), "{misspelt:?}: {names}");
    assert!(routed == Some(2) && needs.contains("--set trackingId=VALUE"), "{routed:?}: {needs}");
    assert!(moved == Some(2) && elsewhere.contains("trackingId cannot be \"..\""), "{moved:?}: {elsewhere}");
    for header in ["a b: c", "a: \u{7}", "a"] {
        let (code, why) = invoke(&["OrderIngress", "--url", &url, "--header", header], &[]);
        assert!(code == Some(2) && why.contains("--header <NAME:VALUE>"), "{code:?}: {why}");
    }
    assert!(misset == Some(2) && no_json.contains("--set needs an input that is JSON"), "{misset:?}: {no_json}");
    assert!(alone == Some(1) && start.contains(&nobody) && start.contains("start `waybill local`"), "{alone:?}: {start}");
    assert!(open == Some(1) && clear.contains("is not encrypted") && !clear.contains("secret"), "{open:?}: {clear}");
}

#[test]
fn reports_among_running_orders_have_their_own_lines_only() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);

    let all = std::thread::scope(|scope| {
        let others = scope.spawn(|| (0..40).map(|number| host.submit(&order(&format!("O-{number}")))).collect::<Vec<_>>());
        let invocations = (0..4).map(|number| {
            let host = &host;
            scope.spawn(move || told(host, &["OrderIngress", "--set", &format!("orderId=R-{number}")]))
        });
        let all: Vec<_> = invocations.collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect();
        for id in others.join().unwrap() {
            host.ended(&id);
        }
        all
    });

    for (code, told) in all {
        assert_eq!(code, Some(0), "{told}");
        let id = told["body"]["trackingId"].as_str().unwrap();
        let lines = logs(&told);
        assert!(lines.iter().any(|line| line.contains("OrderIngress answered")), "{lines:?}");
        assert!(lines.iter().all(|line| line.contains(id)), "{id}: {lines:?}");
    }
    // A report is given once, and one that nobody asked for is not there.
    assert_eq!(host.get(&format!("/admin/invocations/{}", uuid::Uuid::new_v4())).status, 404);
}
