//! The page of an order: what a browser is answered, and what a person sees in Chromium.

use std::process::Command;

use serde_json::{Value, json};

use crate::fake::{Fake, reply};
use crate::support::{Directory, Handler, Host, Program, Response, http_envelope, order, repository, request, skipped};

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

fn page(url: &str) -> Response {
    request("GET", url, &[("Accept", BROWSER)], None)
}

fn status_url(host: &Host, id: &str) -> String {
    host.url(&format!("/api/orders/{id}/status"))
}

/// An order whose texts would be a script, if they were not escaped.
fn hostile() -> Value {
    let mut order = order("<script>alert(1)</script>");
    order["note"] = json!("</style><img src=x onerror=alert(2)>");
    order
}

#[test]
fn a_browser_gets_a_page_and_every_other_client_the_json() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    let id = host.submit(&hostile());
    host.ended(&id);
    let url = status_url(&host, &id);

    let answer = page(&url);
    assert_eq!((answer.status, answer.headers["content-type"].as_str()), (200, "text/html; charset=utf-8"));
    for (name, value) in
        [("cache-control", "no-store"), ("vary", "Accept"), ("referrer-policy", "no-referrer"), ("x-content-type-options", "nosniff")]
    {
        assert_eq!(answer.headers[name], value);
    }
    let policy = &answer.headers["content-security-policy"];
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
    for rule in ["base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"] {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(answer.body.contains("Order &lt;script&gt;alert(1)&lt;/script&gt;"), "{}", answer.body);
    assert!(!answer.body.contains("<script>alert") && !answer.body.contains("http-equiv"), "{}", answer.body);
    assert!(answer.body.contains("Completed") && answer.body.len() < 15_000, "{}", answer.body.len());

    for accept in
        [None, Some("*/*"), Some("application/json"), Some("application/json, text/html"), Some("text/html;q=0.5, application/json")]
    {
        let headers: Vec<_> = accept.map(|accept| ("Accept", accept)).into_iter().collect();
        let answer = request("GET", &url, &headers, None);
        assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("completed")), "{accept:?}");
        assert_eq!(answer.headers["vary"], "Accept");
        let kept = request("GET", &url, &[("If-None-Match", answer.headers["etag"].as_str())], None);
        assert_eq!((kept.status, kept.headers["vary"].as_str()), (304, "Accept"));
    }
}

#[test]
fn an_open_order_refreshes_itself_without_scripts_and_an_ended_one_does_not() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (id, message) = handler.ingress(Some(&order("P-1").to_string()), &[]).accepted();
    let show = || {
        let url = format!("http://localhost:7071/api/orders/{id}/status");
        let envelope = http_envelope("GET", &url, &json!({ "trackingId": id }), None, &[("Accept", BROWSER)]);
        handler.invoke("OrderStatus", &envelope).json()["Outputs"]["res"]["body"].as_str().unwrap().to_owned()
    };

    let open = show();
    assert!(open.contains("<noscript><meta http-equiv=\"refresh\"") && open.contains("waiting for its turn"), "{open}");
    assert!(open.contains("id=\"cancel\""));
    handler.process(&message);
    let ended = show();
    assert!(!ended.contains("http-equiv") && !ended.contains("id=\"cancel\"") && ended.contains("Completed"), "{ended}");
}

#[test]
fn a_problem_is_a_page_too() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);

    let answer = page(&host.url("/api/orders/0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10/status"));
    assert_eq!((answer.status, answer.headers["content-type"].as_str()), (404, "text/html; charset=utf-8"));
    assert!(answer.body.contains("limited time"), "{}", answer.body);

    let issuer = Fake::replying([reply(500, &[], "")]);
    let settings = [("AUTH_ISSUER", issuer.url.as_str()), ("AUTH_AUDIENCE", "api://orders")];
    let data = Directory::new();
    let handler = Handler::start(data.path(), &settings);
    let url = "http://localhost:7071/api/orders/0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10/status";
    let envelope =
        http_envelope("GET", url, &json!({ "trackingId": "0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10" }), None, &[("Accept", BROWSER)]);
    let answer = handler.invoke("OrderStatus", &envelope).json()["Outputs"]["res"].clone();
    let body = answer["body"].as_str().unwrap();
    assert_eq!(answer["statusCode"], 401, "{answer}");
    assert!(body.starts_with("<!doctype html>") && body.contains("for programs that send a token") && !body.contains("<form"), "{body}");
    assert!(answer["headers"]["WWW-Authenticate"].is_string(), "{answer}");
}

/// What a script of `tests/browser` prints, one JSON object a step, where the line of each step has its mark. `None`, unless `REQUIRE_ALL=1`
/// makes that a failure: Chromium or its driver is missing.
pub fn driven(script: &str, arguments: &[&str], marks: impl IntoIterator<Item = String>) -> Option<Vec<Value>> {
    let chromium = ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(|name| {
        let paths = std::env::var_os("PATH")?;
        std::env::split_paths(&paths).map(|path| path.join(name)).find(|path| path.exists())
    });
    let directory = repository().join("tests/browser");
    let is_installed = directory.join("node_modules/axe-core/axe.min.js").exists();
    let Some(chromium) = chromium.filter(|_| is_installed) else {
        let missing = "chromium or its driver is not installed: npm ci --prefix tests/browser";
        assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "{missing}");
        skipped(missing);
        return None;
    };
    let mut command = Command::new("node");
    command.arg(directory.join(script)).args(arguments).env("CHROMIUM", chromium);
    let mut program = Program::start(&mut command);
    // Each step has its own time.
    let steps = marks.into_iter().map(|mark| program.line(&mark)).count();
    let (status, lines) = program.end();
    assert!(status.success() && lines.len() == steps, "{}", lines.join("\n"));
    Some(lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect())
}

/// What a person sees of these pages.
fn seen(pages: &Value) -> Option<Vec<Value>> {
    let marks = (0..pages.as_array().unwrap().len()).map(|page| format!("{{\"page\":{page},"));
    driven("page.js", &[&pages.to_string()], marks)
}

#[test]
fn the_page_in_chromium_needs_no_scripts_and_breaks_no_rule() {
    let data = Directory::new();
    let backend = Fake::answering(|_, _| {
        reply(422, &[("Content-Type", "application/json")], "{\"code\":\"bad\",\"message\":\"<b>no</b> such item\"}")
    });
    let host = Host::start(data.path(), &[("FULFILLMENT_URL", backend.url.as_str())]);
    let id = host.submit(&hostile());
    assert_eq!(host.ended(&id)["status"], "failed");
    let failed = status_url(&host, &id);
    let missing = host.url("/api/orders/0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10/status");
    let pages = json!([
        { "url": failed },
        { "url": failed, "width": 320, "dark": true },
        { "url": failed, "scripts": false },
        { "url": missing, "width": 320 },
    ]);

    let Some(seen) = seen(&pages) else { return };

    for page in &seen {
        assert_eq!((&page["findings"], page["origins"].as_array().unwrap().len()), (&json!([]), 1), "{page}");
        // A 404 is a line in the console.
        let complaints: Vec<_> =
            page["complaints"].as_array().unwrap().iter().filter(|line| !line.as_str().unwrap().contains("404")).collect();
        assert!(complaints.is_empty() && page["overflows"] != true, "{page}");
    }
    assert!(seen[0]["text"].as_str().unwrap().contains("Order <script>alert(1)</script>"), "{}", seen[0]["text"]);
    assert!(seen[2]["html"].as_str().unwrap().contains("Why it failed"), "{}", seen[2]["html"]);
}

#[test]
fn the_page_in_chromium_follows_its_order_and_cancels_it() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[("WORK_DELAY", "1s")]);
    let [first, second] = ["B-1", "B-2"].map(|name| status_url(&host, &host.submit(&order(name))));
    let pages = json!([{ "url": first, "until": ">Completed<" }, { "url": second, "scripts": false, "until": ">Completed<" }]);
    let Some(followed) = seen(&pages) else { return };
    assert!(followed.iter().all(|page| page["complaints"] == json!([])), "{followed:?}");

    let data = Directory::new();
    let host = Host::start(data.path(), &[("WORK_DELAY", "20s")]);
    let url = status_url(&host, &host.submit(&order("B-3")));
    let cancelled = seen(&json!([{ "url": url, "click": "#cancel", "until": ">Cancelled<" }])).unwrap();
    assert_eq!(cancelled[0]["complaints"], json!([]));
    let status = request("GET", &url, &[], None).json();
    assert_eq!(status["status"], "cancelled", "{status}");
}
