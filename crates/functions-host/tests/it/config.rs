//! What the host makes of the files of an app, by files that were tried on the real host: `fixtures/config-cases.json`.

use std::collections::BTreeMap;
use std::process::Command;

use functions_host::app;
use serde_json::Value;

use crate::support::{App, Running};

const CASES: &str = include_str!("fixtures/config-cases.json");

/// Cases in which this host differs, each with its reason. `docs/local.md` lists them.
const DIFFERENT: [(&str, &str); 2] = [
    ("A11 (no authLevel)", "no function needs a key, as under `func start`"),
    ("Q02 (no queueName)", "the recording's queue extension takes a trigger without a queue, that of Service Bus does not"),
];

/// Paths that were asked for after each start with a host.json.
const PATHS: [&str; 5] = ["/api/hello", "/hello", "/x/hello", "/a/b/hello", "/API/hello"];

fn encoded(text: &str, encoding: &Value) -> Vec<u8> {
    match encoding.as_str().unwrap() {
        "utf-8-sig" => [&b"\xEF\xBB\xBF"[..], text.as_bytes()].concat(),
        "utf-16" => std::iter::once(0xFEFF).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect(),
        _ => text.as_bytes().to_vec(),
    }
}

fn settings(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let all = [("FUNCTIONS_WORKER_RUNTIME", "custom"), ("HANDLER", "handler")].iter().chain(more);
    all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Says what differs in which case, and checks that exactly the known ones do.
fn check(different: &[(String, String)], cases: &[String]) {
    let all = cases.len();
    let lines: Vec<_> = different.iter().map(|(case, what)| format!("{case}: {what}")).collect();
    println!("{} of {all} cases alike, {} different:\n{}", all - different.len(), different.len(), lines.join("\n"));
    for (case, what) in different {
        assert!(DIFFERENT.iter().any(|(known, _)| known == case), "{case}: {what}");
    }
    let mended: Vec<_> = DIFFERENT
        .iter()
        .filter(|(known, _)| cases.iter().any(|case| case == known) && !different.iter().any(|(case, _)| case == known))
        .collect();
    assert!(mended.is_empty(), "alike although listed as different: {mended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_json_is_read_as_the_real_host_reads_it() {
    let document: Value = serde_json::from_str(CASES).unwrap();
    let cases = document["hostJson"].as_array().unwrap();
    let names: Vec<_> = cases.iter().map(|case| case["name"].as_str().unwrap().to_owned()).collect();
    let mut different = Vec::new();
    for case in cases {
        let app = App::with_handler();
        let whole = app.path().join("handler");
        let text = case["host.json"].as_str().unwrap();
        let text = text.replace("{EXE}", "handler").replace("{WHOLE_EXE}", whole.to_str().unwrap()).replace("{HANDLER}", "x");
        app.write_bytes("host.json", &encoded(&text, &case["encoding"]));
        let bindings = serde_json::json!([
            {"type": "httpTrigger", "direction": "in", "name": "req", "authLevel": "anonymous", "methods": ["get"], "route": "hello"},
            {"type": "http", "direction": "out", "name": "res"},
        ]);
        app.write("Hello/function.json", &serde_json::json!({ "bindings": bindings }).to_string());

        let (state, reached) = match Running::start(&app, settings(&[])).await {
            Err(_) => ("Error", Vec::new()),
            Ok(host) => {
                let mut reached = Vec::new();
                for path in PATHS {
                    if host.ask(&format!("GET {path}")).await.0 == 200 {
                        reached.push(path);
                    }
                }
                ("Running", reached)
            }
        };

        let expected: Vec<_> = case["reached"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let as_expected = expected.len() == reached.len() && expected.iter().all(|path| reached.contains(path));
        if state != case["state"] || !as_expected {
            different.push((
                case["name"].as_str().unwrap().to_owned(),
                format!("{state} {reached:?} instead of {} {expected:?}", case["state"]),
            ));
        }
    }
    check(&different, &names);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_json_is_read_as_the_real_host_reads_it() {
    let document: Value = serde_json::from_str(CASES).unwrap();
    let cases = document["functionJson"].as_array().unwrap();
    let app = App::with_handler();
    for case in cases {
        let file = format!("{}/function.json", case["folder"].as_str().unwrap());
        app.write_bytes(&file, &encoded(case["function.json"].as_str().unwrap(), &case["encoding"]));
    }
    let settings = settings(&[("OFF_A16", "true"), ("ROUTE_A40", "a40")]);
    let summary = app::summary(app.path(), &settings).unwrap();
    let host = Running::start(&app, settings).await.unwrap();

    let names: Vec<_> = cases.iter().map(name_of).collect();
    let mut different = Vec::new();
    for case in cases {
        let folder = case["folder"].as_str().unwrap();
        let name = name_of(case);
        let refused = summary.in_error.iter().any(|(name, _)| name == folder);
        if refused == case["errors"].as_array().unwrap().is_empty() {
            let reason = summary.in_error.iter().find(|(name, _)| name == folder).map(|(_, reason)| reason.as_str());
            different.push((name.clone(), format!("{reason:?} instead of {}", case["errors"])));
        }
        let Some(expected) = case["get"].as_array() else { continue };
        let (status, function) = host.ask(&format!("GET /api/{}", route(case))).await;
        let expected_function = expected[1].as_str().map(|path| path.trim_start_matches('/'));
        if expected[0] != status || function.as_deref() != expected_function {
            different.push((name, format!("{status} {function:?} instead of {expected:?}")));
        }
    }
    check(&different, &names);
}

fn name_of(case: &Value) -> String {
    format!("{} ({})", case["folder"].as_str().unwrap(), case["what"].as_str().unwrap())
}

/// The route of the first binding as a path, or the name of the folder. The recording asked for `a40` where the route names a setting.
fn route(case: &Value) -> String {
    let folder = case["folder"].as_str().unwrap().to_owned();
    let document: Value = serde_json::from_str(case["function.json"].as_str().unwrap()).unwrap_or_default();
    let binding = &document["bindings"][0];
    let route = ["route", "Route"].into_iter().map(|key| &binding[key]).find(|route| !route.is_null());
    match route {
        Some(Value::String(route)) if route == "%ROUTE_A40%" => "a40".to_owned(),
        Some(Value::String(route)) => route.clone(),
        Some(route) => route.to_string(),
        None => folder.to_lowercase(),
    }
}

fn http(route: &str) -> String {
    let trigger = serde_json::json!({"type": "httpTrigger", "direction": "in", "name": "req", "authLevel": "anonymous", "route": route});
    serde_json::json!({"bindings": [trigger, {"type": "http", "direction": "out", "name": "res"}]}).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_functions_that_are_named_get_requests() {
    for (named, more, hello, other) in [
        (r#"["HELLO", "Nobody"]"#, None, (200, Some("Hello")), (404, None)),
        (r#"["Hello"]"#, Some(("AzureFunctionsJobHost__functions__0", "other")), (200, Some("Other")), (200, Some("Other"))),
        ("[]", None, (200, Some("Hello")), (200, Some("Other"))),
        (r#"["Hello"]"#, Some(("AzureWebJobs.Hello.Disabled", "true")), (404, None), (404, None)),
    ] {
        let app = App::with_handler();
        app.write("Hello/function.json", &http("hello"));
        app.write("Other/function.json", &http("{*rest}"));
        let handler = r#"{"description": {"defaultExecutablePath": "handler"}}"#;
        app.write("host.json", &format!(r#"{{"version": "2.0", "functions": {named}, "customHandler": {handler}}}"#));
        let host = Running::start(&app, settings(more.as_slice())).await.unwrap();

        for (path, (status, function)) in [("hello", hello), ("other", other)] {
            let answer = host.ask(&format!("GET /api/{path}")).await;
            assert_eq!(answer, (status, function.map(str::to_owned)), "{named} {more:?} {path}");
        }
    }
}

/// What the program says of an app whose start fails, with these variables.
fn told(app: &App, variables: &[(&str, &str)]) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_functions-host"));
    let output = program.args(["--port", "0", "--app"]).arg(app.path()).envs(variables.iter().copied()).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn what_has_no_effect_is_told_also_when_the_start_fails() {
    let app = App::new("exit 1");
    app.write("Hello/function.json", &http("hello").replace("{\"bindings\"", "{\"disabled\": true, \"bindings\""));
    app.write("local.settings.json", r#"{"IsEncrypted": false, "Values": ["x"]}"#);
    app.write("host.json", r#"{"version": "2.0", "http": {}, "customHandlers": {"description": {"defaultExecutablePath": "handler"}}}"#);

    let told = told(&app, &[]);

    for line in [
        "host.json: \"customHandlers\" is not a key the host reads: did you mean \"customHandler\"?",
        "host.json: \"http\" at the root is of version 1 and has no effect",
        "Hello/function.json: disabled has no effect: set AzureWebJobs.Hello.Disabled to true",
        "Values in local.settings.json is ignored",
        "no customHandler.description.defaultExecutablePath",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
}

#[test]
fn a_time_zone_is_told_since_timers_run_in_utc() {
    let app = App::new("exit 1");
    app.write("Tick/function.json", r#"{"bindings": [{"type": "timerTrigger", "name": "t", "schedule": "0 0 9 * * *"}]}"#);

    for name in ["WEBSITE_TIME_ZONE", "TZ"] {
        let told = told(&app, &[(name, "Europe/Zurich")]);
        assert!(told.contains(&format!("{name} is set, and timers run in UTC")), "{told}");
    }
}
