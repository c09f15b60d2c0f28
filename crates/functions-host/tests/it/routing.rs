//! Which function a request reaches, by requests that were tried on the real host: `fixtures/routing-cases.json`.

use std::collections::BTreeMap;

use functions_host::host::{self, Options};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::support::{App, Running};

const CASES: &str = include_str!("fixtures/routing-cases.json");

/// Writes the functions of the cases whose names satisfy the test.
pub(crate) fn functions(app: &App, only: impl Fn(&str) -> bool) {
    let document: Value = serde_json::from_str(CASES).unwrap();
    for (name, bindings) in document["functions"].as_object().unwrap() {
        if only(name) {
            app.write(&format!("{name}/function.json"), &serde_json::json!({ "bindings": bindings }).to_string());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_reach_the_function_of_the_real_host() {
    let app = App::with_handler();
    functions(&app, |_| true);
    let host = Running::start(&app, BTreeMap::new()).await.unwrap();

    let document: Value = serde_json::from_str(CASES).unwrap();
    let cases = document["cases"].as_array().unwrap();
    let mut different = Vec::new();
    for case in cases {
        let function = case["function"].as_str();
        let (status, reached) = host.ask(case["request"].as_str().unwrap()).await;
        if case["status"] != status || reached.as_deref() != function {
            different.push(format!("{}: {status} {reached:?} instead of {} {function:?}", case["request"], case["status"]));
        }
    }
    assert_eq!(cases.len(), 156);
    assert!(different.is_empty(), "{} different:\n{}", different.len(), different.join("\n"));
}

/// Templates that were tried on the real host, each beside a good function, and whether that host ran.
const TEMPLATES: [(&str, bool); 10] = [
    ("brace/{x", false),
    ("bad/{x:nosuch}", false),
    ("dup/{x}/{x}", false),
    ("/lead/{x}", false),
    ("q?x=1", false),
    ("c/{*a}/b", false),
    ("i/{x:range(5)}", false),
    ("v{version?}", false),
    ("~/tilde", true),
    ("re/{x:regex(^[)}", true),
];

#[tokio::test]
async fn a_template_that_stops_the_real_host_stops_the_start_with_its_place() {
    for (template, runs) in TEMPLATES {
        let app = App::new("exit 1");
        let function = |route: &str| serde_json::json!({"bindings": [{"type": "httpTrigger", "name": "req", "route": route}]}).to_string();
        app.write("Good/function.json", &function("good"));
        app.write("Tried/function.json", &function(template));
        let (up, _) = oneshot::channel();

        let problems = host::run(Options::new(app.arguments()), &BTreeMap::new(), up, std::future::pending()).await.unwrap_err();

        let named =
            problems.iter().any(|problem| problem.starts_with(&format!("Tried/function.json: bindings[0].route {template:?}, character")));
        assert_eq!(named, !runs, "{template}: {problems:?}");
    }
}
