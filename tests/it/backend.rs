//! An HTTP service as the work: what it is sent, and what becomes of each of its answers.

use std::cell::Cell;
use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fake::{Fake, Reply, reply};
use crate::support::{
    Directory, Handler, Program, events, eventually, free_port, http_envelope, order, queue_envelope, request, stop_between_writes, submit,
};

/// Everything a customer or a log may never see.
const SECRET: &str = "c2VjcmV0";

/// A backend whose answers are scripted.
struct Backend {
    fake: Fake,
    url: String,
}

/// A body that is shorter than it says.
fn torn() -> Reply {
    Reply::Text("HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{\"half\":".into())
}

/// Newline-delimited JSON, as the test sends it.
fn stream() -> (Sender<&'static str>, Reply) {
    let (lines, received) = mpsc::channel();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n";
    (lines, Reply::Stream(head, Arc::new(Mutex::new(received))))
}

fn json_reply(status: u16, body: &Value) -> Reply {
    reply(status, &[("Content-Type", "application/json")], &body.to_string())
}

fn lines(text: &str) -> Reply {
    reply(200, &[("Content-Type", "application/x-ndjson; charset=utf-8")], text)
}

/// Taken, to be asked for without delay.
fn taken() -> Reply {
    reply(202, &[("Location", "operations/1"), ("Retry-After", "0")], "")
}

impl Backend {
    fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let fake = Fake::replying(replies);
        Self { url: format!("{}/jobs/orders?code=1", fake.url), fake }
    }

    fn handler(&self, data: &Path, more: &[(&str, &str)]) -> Handler {
        let mut settings = vec![("FULFILLMENT_URL", self.url.as_str())];
        settings.extend(more);
        Handler::start(data, &settings)
    }
}

/// Sends an order, has it worked on to its end, and shows it.
fn worked(handler: &Handler, order_id: &str) -> Value {
    let (id, message) = submit(handler, order_id);
    let answer = handler.process(&message);
    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    handler.status(&id).body
}

/// A handler and its backend, for many orders, one after the other.
struct Work {
    handler: Handler,
    backend: Backend,
    orders: Cell<u32>,
    _data: Directory,
}

impl Work {
    fn start(settings: &[(&str, &str)]) -> Self {
        let (data, backend) = (Directory::new(), Backend::start([]));
        Self { handler: backend.handler(data.path(), settings), backend, orders: Cell::new(0), _data: data }
    }

    /// What becomes of one order whose backend answers so.
    fn became(&self, replies: impl IntoIterator<Item = Reply>) -> Value {
        self.backend.fake.reply(replies);
        self.orders.set(self.orders.get() + 1);
        worked(&self.handler, &format!("W-{}", self.orders.get()))
    }
}

fn completed_with(status: &Value, result: &Value) {
    assert_eq!((&status["status"], &status["result"], &status["error"]), (&json!("completed"), result, &Value::Null), "{status}");
}

fn failed_with(status: &Value, code: &str, message: &str) {
    assert_eq!((&status["status"], &status["error"]["code"], status.get("result")), (&json!("failed"), &json!(code), None), "{status}");
    assert_eq!(status["error"]["message"], message, "{status}");
}

/// In milliseconds.
fn moment(shown: &Value) -> i64 {
    jiff::Timestamp::as_millisecond(shown.as_str().unwrap().parse().unwrap())
}

fn is_silent_about(handler: &Handler, secret: &str) {
    let lines = handler.program.lines();
    assert!(!lines.is_empty());
    assert_eq!(lines.iter().find(|line| line.contains(secret)), None);
}

/// Has a message processed in the background, until `watch` has seen what it wants.
fn while_processing<T>(handler: &Handler, message: &str, watch: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let working = scope.spawn(|| handler.process(message).status);
        let seen = watch();
        assert_eq!(working.join().unwrap(), 200);
        seen
    })
}

fn shows(handler: &Handler, id: &str, progress: u8, stage: &str) {
    eventually("it shows its progress", || {
        let status = handler.status(id).body;
        (status["progress"] == progress && status["stage"] == stage).then_some(())
    });
}

#[test]
fn the_order_is_posted_as_it_was_accepted_and_the_answer_is_the_result() {
    let data = Directory::new();
    let backend = Backend::start([reply(200, &[], r#" {"price": 1.50, "exact": 12345678901234567890.123} "#)]);
    let handler = backend.handler(data.path(), &[("FULFILLMENT_AUTHORIZATION", &format!("Bearer {SECRET}"))]);
    let text = format!(" {} ", order("B-AS-IT-WAS").to_string().replacen(':', " :  ", 1));
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let accepted = handler.ingress(Some(&text), &[("traceparent", traceparent)]);
    let (id, message) = (accepted.body["trackingId"].as_str().unwrap(), accepted.message.unwrap());

    assert_eq!(handler.process(&message).status, 200);

    let [asked] = &backend.fake.heard()[..] else { panic!("one call") };
    assert_eq!((asked.line.as_str(), asked.body.as_str()), ("POST /jobs/orders?code=1 HTTP/1.1", text.trim()));
    let message: Value = serde_json::from_str(&message).unwrap();
    let key = format!("{id}/{}", message["life"].as_str().unwrap());
    let authorization = format!("Bearer {SECRET}");
    for (name, value) in [
        ("content-type", "application/json"),
        ("idempotency-key", &key),
        ("traceparent", traceparent),
        ("x-waybill-attempt", "1"),
        ("prefer", "respond-async"),
        ("accept", "application/json, application/x-ndjson"),
        ("authorization", &authorization),
    ] {
        assert_eq!(asked.headers.get(name).map(String::as_str), Some(value), "{name}: {asked:?}");
    }
    let status = handler.status(id).body;
    completed_with(&status, &serde_json::from_str(r#"{"price":1.50,"exact":12345678901234567890.123}"#).unwrap());
    assert_eq!((&status["attempt"], &status["progress"]), (&json!(1), &json!(100)));
    assert_eq!(events(&status), ["accepted", "claimed", "completed"]);
    is_silent_about(&handler, SECRET);
}

#[test]
fn without_what_is_optional_the_call_has_none_of_it() {
    let data = Directory::new();
    let backend = Backend::start([json_reply(201, &json!([1, "two", null]))]);

    completed_with(&worked(&backend.handler(data.path(), &[]), "B-2"), &json!([1, "two", null]));

    let asked = &backend.fake.heard()[0];
    assert!(["traceparent", "authorization", "cookie"].iter().all(|name| !asked.headers.contains_key(*name)), "{asked:?}");
}

#[test]
fn no_body_is_a_result_too() {
    let work = Work::start(&[]);
    completed_with(&work.became([reply(200, &[], "")]), &Value::Null);
    completed_with(&work.became([reply(204, &[], "")]), &Value::Null);
}

#[test]
fn a_result_up_to_512_kib_is_kept_and_a_larger_one_fails_the_order() {
    let work = Work::start(&[]);
    let text = |length: usize| format!("\"{}\"", "x".repeat(length - 2));

    completed_with(&work.became([reply(200, &[], &text(512 * 1024))]), &"x".repeat(512 * 1024 - 2).into());

    let message = "the backend's result is larger than 512 KiB";
    failed_with(&work.became([reply(200, &[], &text(512 * 1024 + 1))]), "result_too_large", message);
    failed_with(&work.became([lines(&format!("{{\"result\":{}}}\n", text(512 * 1024 + 1)))]), "result_too_large", message);
    failed_with(&work.became([lines(&text(600 * 1024))]), "result_too_large", message);
}

#[test]
fn an_answer_that_is_no_json_fails_the_order() {
    let work = Work::start(&[]);
    for body in ["<html>", "{\"half\":", "{} {}", "\"\\ud8", "[1,]"] {
        failed_with(
            &work.became([reply(200, &[("Content-Type", "application/json")], body)]),
            "invalid_result",
            "the backend's answer is no JSON",
        );
    }
    let message = "a line of the backend's answer is no JSON object";
    failed_with(&work.became([lines("{\"progress\":1}\n[1]\n")]), "invalid_result", message);
}

#[test]
fn work_that_is_done_is_completed_although_nobody_could_read_its_result() {
    let work = Work::start(&[]);
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let long = "9".repeat(100_000);
    let unreadable = [
        "\"\\ud800\"".to_owned(),
        "{\"a\":[\"\\ud83d\\ud83d\\ude00\"]}".into(),
        "{\"\\udc00\":1}".into(),
        nested(33),
        nested(100_000),
        format!("{{\"total\":{long}}}"),
        format!("[0.{long}]"),
        "1e401".into(),
        "-1E-99999999999999999999".into(),
    ];
    for body in &unreadable {
        completed_with(&work.became([reply(200, &[], body)]), &Value::Null);
    }
    completed_with(&work.became([lines(&format!("{{\"result\":{}}}\n", nested(33)))]), &Value::Null);
    completed_with(&work.became([taken(), reply(200, &[], &format!("{{\"status\":\"completed\",\"result\":{long}}}"))]), &Value::Null);
    completed_with(&work.became([taken(), reply(303, &[("Location", "/result")], ""), reply(200, &[], "\"\\ud800\"")]), &Value::Null);

    let told: Vec<_> = work.handler.program.lines().into_iter().filter(|line| line.contains("its result is left out")).collect();
    assert_eq!(told.len(), unreadable.len() + 3, "{told:#?}");
    assert!(told.iter().all(|line| line.contains("WARN") && line.contains("order.tracking_id") && line.len() < 1000), "{told:#?}");
    for (text, seen) in [
        (nested(32), nested(32)),
        (format!("[{}, \"\\ud83d\\ude00\\\\ud800\"]", &long[..64]), format!("[{}, \"\u{1f600}\\\\ud800\"]", &long[..64])),
        ("-1.5e-400".into(), "-1.5e-400".into()),
        (r#"{"$serde_json::private::Numbe":"x"}"#.into(), r#"{"$serde_json::private::Numbe":"x"}"#.into()),
    ] {
        completed_with(&work.became([reply(200, &[], &text)]), &serde_json::from_str(&seen).unwrap());
    }
}

#[test]
fn an_answer_that_breaks_off_after_its_head_is_asked_for_again_under_the_same_key() {
    let work = Work::start(&[("RETRY_BASE", "20ms")]);
    let unended = |head: &str, body: &str| Reply::Text(format!("HTTP/1.1 200 OK\r\n{head}Connection: close\r\n\r\n{body}"));
    for replies in [
        vec![unended("", "")],
        vec![unended("Content-Type: application/json\r\n", " \r\n")],
        vec![unended("Content-Type: application/json\r\n", "{\"half\":")],
        vec![unended("Content-Type: application/x-ndjson\r\n", "{\"progress\":1}\n{\"resu")],
        vec![unended("Content-Length: 10\r\n", "")],
        vec![unended("Transfer-Encoding: chunked\r\n", "")],
        vec![unended("Transfer-Encoding: chunked\r\n", "4\r\nnull\r\n")],
        vec![taken(), unended("", "")],
        vec![taken(), reply(303, &[("Location", "/result")], ""), unended("", "")],
    ] {
        let told = format!("{replies:?}");
        let before = work.backend.fake.heard().len();

        let status = work.became(replies.into_iter().chain([json_reply(200, &json!(1))]));

        completed_with(&status, &json!(1));
        assert_eq!(events(&status), ["accepted", "claimed", "retrying", "claimed", "completed"], "{told}");
        assert_eq!(status["history"][2]["code"], "backend_unavailable", "{told}: {status}");
        let heard = work.backend.fake.heard();
        assert!(heard[before..].iter().all(|asked| asked.headers["idempotency-key"] == heard[before].headers["idempotency-key"]), "{told}");
    }
    completed_with(&work.became([unended("", "{\"whole\":1}")]), &json!({ "whole": 1 }));
    completed_with(&work.became([unended("Transfer-Encoding: chunked\r\n", "0\r\n\r\n")]), &Value::Null);
}

#[test]
fn names_that_a_json_library_reserves_are_names_like_others() {
    let data = Directory::new();
    let backend = Backend::start([]);
    let handler = backend.handler(data.path(), &[]);
    for (number, told) in [
        r#"{"code":"out_of_stock","inner":{"$serde_json::private::RawValue":"]"}}"#,
        r#"{"code":"out_of_stock","inner":{"$serde_json::private::Number":"x"}}"#,
        r#"{"code":"out_of_stock","message":{"$serde_json::private::RawValue":"\"no text\""}}"#,
    ]
    .into_iter()
    .enumerate()
    {
        backend.fake.reply([lines(&format!("{{\"error\":{told}}}\n"))]);
        failed_with(&worked(&handler, &format!("RESERVED-{number}")), "backend_failed", "the backend failed the order: out_of_stock");
    }
    backend.fake.reply([lines("{\"error\":{\"$serde_json::private::RawValue\":\"\\\"no text\\\"\"}}\n")]);
    failed_with(&worked(&handler, "RESERVED-NO-TEXT"), "backend_failed", "the backend failed the order");

    let result = r#"{"a":{"$serde_json::private::RawValue":"]"}}"#;
    backend.fake.reply([reply(200, &[], result)]);
    let (id, message) = submit(&handler, "RESERVED-RESULT");
    assert_eq!(handler.process(&message).status, 200);

    let shown = Program::waybill(&["orders", "show", &id, "--data", data.path().to_str().unwrap()], &[]).end();
    assert!(shown.0.success() && shown.1.concat().contains(result), "{shown:?}");
    let url = format!("http://localhost:7071/api/orders/{id}/status");
    let answer = handler.invoke("OrderStatus", &http_envelope("GET", &url, &json!({ "trackingId": id }), None, &[])).json();
    assert!(answer["Outputs"]["res"]["body"].as_str().unwrap().contains(result), "{answer}");
}

#[test]
fn a_refusal_fails_the_order_with_the_problems_title_and_detail() {
    let long = format!("a\u{7}b{}", "ü".repeat(300));
    let problem = json!({ "title": "Out of\r\n stock", "detail": long, "secret": SECRET }).to_string();
    let data = Directory::new();
    let backend = Backend::start([reply(422, &[("Content-Type", "application/problem+json")], &problem)]);
    let handler = backend.handler(data.path(), &[]);

    let status = worked(&handler, "B-3");

    let message = format!("the backend refused the order (HTTP 422): Out of stock: ab{}", "ü".repeat(198));
    failed_with(&status, "backend_rejected", &message);
    assert!(!status.to_string().contains(SECRET));
    is_silent_about(&handler, SECRET);
}

#[test]
fn of_any_other_refusal_only_the_status_is_told() {
    let work = Work::start(&[]);
    for status in [400, 401, 403, 404, 422] {
        let body = json!({ "title": SECRET, "error": SECRET });
        let message = format!("the backend refused the order (HTTP {status})");
        failed_with(&work.became([json_reply(status, &body)]), "backend_rejected", &message);
    }
}

#[test]
fn a_request_that_is_under_way_already_is_asked_for_again_under_the_same_key() {
    // The tries together give it the time of one.
    let work = Work::start(&[("RETRY_BASE", "20ms"), ("FULFILLMENT_TIMEOUT", "2s")]);
    let started = Instant::now();

    let status = work.became([reply(409, &[], ""), json_reply(200, &json!(1))]);

    completed_with(&status, &json!(1));
    assert_eq!((&status["attempt"], &status["history"][2]["code"]), (&json!(2), &json!("backend_busy")), "{status}");
    assert!(started.elapsed() >= Duration::from_millis(500), "{:?}", started.elapsed());
    let keys: Vec<_> = work.backend.fake.heard().iter().map(|asked| asked.headers["idempotency-key"].clone()).collect();
    assert!(keys.len() == 2 && keys[0] == keys[1], "{keys:?}");
}

#[test]
fn a_retry_by_an_operator_keeps_the_key_of_work_that_may_be_done() {
    let data = Directory::new();
    let backend = Backend::start([]);
    let handler = backend.handler(data.path(), &[("MAX_ATTEMPTS", "1")]);
    let (id, message) = submit(&handler, "B-UNSEEN");
    let at = |place: &'static str| [("Location", place), ("Retry-After", "0")];
    // Tries, each of which the operator puts back on its way: those after which the work may have been done, and the backend's verdicts.
    let unseen = [
        vec![torn()],
        vec![reply(503, &[], "")],
        vec![reply(200, &[], "{\"half")],
        vec![taken(), reply(403, &[], "")],
        vec![taken(), reply(422, &[], "")],
        vec![taken(), reply(303, &at("/jobs/results/1"), ""), reply(404, &[], "")],
        vec![reply(401, &[], "")],
        vec![reply(404, &[], "")],
    ];
    let refused = [vec![reply(400, &[], "")], vec![taken(), json_reply(200, &json!({ "status": "failed" }))]];
    let (unseen_tries, refused_tries) = (unseen.len(), refused.len());
    let mut message = Some(message);
    for answers in unseen.into_iter().chain(refused).chain([vec![json_reply(200, &json!(1))]]) {
        backend.fake.reply(answers);
        assert_eq!(handler.process(&message.take().unwrap()).status, 200);
        let arguments = ["orders", "retry", &id, "--data", data.path().to_str().unwrap()];
        if Program::waybill(&arguments, &[]).end().0.success() {
            // The message is sent to the queue of `waybill local`, which does not run here; the same request again is answered with
            // the message too.
            message = handler.ingress(Some(&order("B-UNSEEN").to_string()), &[]).message;
        }
    }

    let status = handler.status(&id).body;
    assert_eq!(status["status"], "completed", "{status}");
    let posts = backend.fake.heard().into_iter().filter(|asked| asked.line.starts_with("POST"));
    let keys: Vec<String> = posts.map(|asked| asked.headers["idempotency-key"].clone()).collect();
    assert_eq!(keys.len(), unseen_tries + refused_tries + 1, "{keys:?}");
    assert!(keys[..=unseen_tries].iter().all(|key| *key == keys[0]), "{keys:?}");
    let after_verdicts = &keys[unseen_tries..];
    assert!(after_verdicts.windows(2).all(|pair| pair[0] != pair[1]), "{keys:?}");
}

#[test]
fn a_try_that_functiontimeout_would_cut_off_is_left_to_the_next_delivery() {
    let data = Directory::new();
    let backend = Backend::start((0..9).map(|_| reply(503, &[], "")).chain([json_reply(200, &json!(1))]));
    // Five orders that fail in a row are followed by 3.5 s at least without a call; 6 s are left of an invocation.
    let times = [("FUNCTION_TIMEOUT", "22s"), ("FULFILLMENT_TIMEOUT", "3s"), ("RETRY_BASE", "700ms"), ("MAX_ATTEMPTS", "2")];
    let mut handler = backend.handler(data.path(), &times);
    for number in 0..4 {
        assert_eq!(worked(&handler, &format!("B-BEFORE-{number}"))["status"], "failed");
    }
    let (id, message) = submit(&handler, "B-LATE");

    assert_eq!(handler.process(&message).status, 500, "it waited for the breaker");

    handler.program.line("too little is left of functionTimeout");
    assert_eq!(backend.fake.heard().len(), 9);
    assert_eq!(handler.process(&message).status, 200);
    let status = handler.status(&id).body;
    assert_eq!((&status["status"], &status["attempt"]), (&json!("completed"), &json!(2)), "{status}");
}

#[test]
fn a_redirect_of_the_backend_is_not_followed() {
    let work = Work::start(&[]);
    let elsewhere = Backend::start([json_reply(200, &json!({}))]);
    let location = [("Location", elsewhere.url.as_str())];
    for status in [301, 302, 303, 307, 308] {
        let message = format!("the backend leads elsewhere (HTTP {status})");
        failed_with(&work.became([reply(status, &location, "")]), "backend_redirected", &message);
    }
    let message = "the backend leads elsewhere (HTTP 202)";
    failed_with(&work.became([reply(202, &location, "")]), "backend_redirected", message);
    failed_with(&work.became([reply(202, &[("Location", "//u:p@[::1")], "")]), "backend_redirected", message);
    failed_with(&work.became([taken(), reply(303, &location, "")]), "backend_redirected", "the backend leads elsewhere (HTTP 303)");
    failed_with(&work.became([taken(), reply(202, &location, "")]), "backend_redirected", message);
    assert!(elsewhere.fake.heard().is_empty());
}

#[test]
fn a_202_is_asked_for_where_it_says_and_moves_progress() {
    let data = Directory::new();
    let backend = Backend::start([
        reply(202, &[("Location", "operations/1"), ("Retry-After", "0")], r#"{"progress": 5, "stage": "queued"}"#),
        reply(200, &[("Retry-After", "0")], r#"{"status": "Running", "progress": 40.7, "stage": "pick\ning"}"#),
    ]);
    let handler = backend.handler(data.path(), &[("FULFILLMENT_AUTHORIZATION", SECRET)]);
    let (id, message) = submit(&handler, "B-4");

    while_processing(&handler, &message, || {
        shows(&handler, &id, 40, "picking");
        backend.fake.reply([
            reply(202, &[("Location", "/later"), ("Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT")], "no JSON"),
            json_reply(200, &json!({ "status": "Succeeded", "result": { "ok": true } })),
        ]);
    });

    completed_with(&handler.status(&id).body, &json!({ "ok": true }));
    let asked = backend.fake.heard();
    let (post, polls) = asked.split_first().unwrap();
    assert!(polls.len() >= 3, "{asked:?}");
    for (number, poll) in polls.iter().enumerate() {
        let path = if number == polls.len() - 1 { "/later" } else { "/jobs/operations/1" };
        assert_eq!((poll.line.clone(), poll.body.as_str()), (format!("GET {path} HTTP/1.1"), ""));
        for name in ["idempotency-key", "authorization", "x-waybill-attempt", "accept", "prefer"] {
            assert_eq!(poll.headers[name], post.headers[name], "{name}");
        }
        // A pause of nothing is none a backend could bear.
        assert!(poll.at - asked[number].at >= Duration::from_millis(200), "{number}");
    }
}

#[test]
fn a_poll_may_end_with_the_result_itself_or_with_the_operation_or_lead_to_it() {
    let work = Work::start(&[]);
    let result = json!({ "total": "1.00" });
    completed_with(&work.became([taken(), json_reply(200, &result)]), &result);
    completed_with(&work.became([taken(), reply(204, &[], "")]), &Value::Null);
    let operation = json!({ "status": "completed", "total": "1.00" });
    completed_with(&work.became([taken(), json_reply(200, &operation)]), &operation);
    completed_with(&work.became([taken(), json_reply(200, &json!({ "status": "completed", "result": null }))]), &Value::Null);
    completed_with(&work.became([taken(), reply(303, &[("Location", "../result")], ""), json_reply(200, &operation)]), &operation);
}

#[test]
fn a_poll_may_end_with_a_failure() {
    let work = Work::start(&[]);
    for status in ["failed", "Cancelled", "canceled"] {
        let body = json!({ "status": status, "error": { "code": "out_of_stock", "message": "no SKU-1\n left", "inner": SECRET } });
        let message = "the backend failed the order: out_of_stock: no SKU-1 left";
        failed_with(&work.became([taken(), json_reply(200, &body)]), "backend_failed", message);
    }
    let body = json!({ "status": "failed", "error": { "code": 7 } });
    failed_with(&work.became([taken(), json_reply(200, &body)]), "backend_failed", "the backend failed the order");
    failed_with(&work.became([taken(), reply(403, &[], "")]), "backend_rejected", "the backend refused the order (HTTP 403)");
}

#[test]
fn a_backend_that_lost_what_it_took_is_sent_it_again() {
    let work = Work::start(&[("RETRY_BASE", "10ms")]);
    for status in [404, 410] {
        let ended = work.became([taken(), reply(status, &[], ""), json_reply(200, &json!("done"))]);
        completed_with(&ended, &json!("done"));
        assert_eq!(events(&ended), ["accepted", "claimed", "retrying", "claimed", "completed"]);
    }
    let asked = work.backend.fake.heard();
    let keys: Vec<_> = asked.iter().filter(|asked| asked.line.starts_with("POST")).map(|asked| &asked.headers["idempotency-key"]).collect();
    assert!(keys.len() == 4 && keys[0] == keys[1] && keys[2] == keys[3], "{keys:?}");
}

#[test]
fn a_202_that_leads_nowhere_fails_the_order() {
    let work = Work::start(&[]);
    let message = "the backend took the order and did not say where to ask for it";
    failed_with(&work.became([reply(202, &[], "{}")]), "invalid_result", message);
    let gone = [taken(), reply(303, &[("Location", "/result")], ""), reply(202, &[], "")];
    failed_with(&work.became(gone), "invalid_result", "the backend says where its result is, and it is not there");
    failed_with(&work.became([taken(), reply(303, &[], "")]), "backend_redirected", "the backend leads elsewhere (HTTP 303)");
}

#[test]
fn a_streamed_answer_moves_progress_line_by_line_until_its_result() {
    let data = Directory::new();
    let (stream, streamed) = stream();
    let backend = Backend::start([streamed]);
    let handler = backend.handler(data.path(), &[]);
    let (id, message) = submit(&handler, "B-5");

    while_processing(&handler, &message, || {
        stream.send("{\"progress\":10}\n\n").unwrap();
        shows(&handler, &id, 10, "working");
        stream.send("{\"stage\":\"packing\",\"result\":null,\"error\":null}\r\n{\"progr").unwrap();
        shows(&handler, &id, 10, "packing");
        stream.send("ess\":70}\n{\"progress\":30}\n{\"progress\":900,\"stage\":\"shipping\"}\n").unwrap();
        shows(&handler, &id, 100, "shipping");
        stream.send("{\"result\":{\"parcel\":7}}\n{\"result\":8}\n").unwrap();
    });

    completed_with(&handler.status(&id).body, &json!({ "parcel": 7 }));
}

#[test]
fn the_last_line_needs_no_end_and_may_be_a_failure() {
    let work = Work::start(&[]);
    completed_with(&work.became([lines("{\"progress\":1}\n{\"result\":null}")]), &Value::Null);
    let message = "the backend failed the order: out_of_stock";
    failed_with(&work.became([lines("{\"error\":{\"code\":\"out_of_stock\"}}")]), "backend_failed", message);
    failed_with(&work.became([lines("{\"error\":\"out_of_stock\"}\n{\"result\":1}\n")]), "backend_failed", message);
}

#[test]
fn completion_is_expected_after_a_second_and_then_after_what_calls_took() {
    let data = Directory::new();
    let backend = Backend::start([json_reply(200, &json!(1))]);
    let handler = backend.handler(data.path(), &[]);
    let expected = |order_id: &str| {
        let body = handler.ingress(Some(&order(order_id).to_string()), &[]).body;
        moment(&body["estimatedCompletion"]) - moment(&body["submittedAt"])
    };

    assert_eq!(expected("B-19"), 1000);
    worked(&handler, "B-20");
    assert!(expected("B-21") < 1000);
}

#[test]
fn waits_for_a_backend_that_is_away_are_expected_of_no_later_order() {
    let data = Directory::new();
    let backend = Backend::start([reply(503, &[], "")]);
    let handler = backend.handler(data.path(), &[("RETRY_BASE", "200ms"), ("RETRY_CAP", "200ms")]);
    let orders: Vec<_> = (0..12).map(|number| submit(&handler, &format!("B-AWAY-{number}"))).collect();
    std::thread::scope(|scope| {
        let working: Vec<_> = orders.iter().map(|(_, message)| scope.spawn(|| handler.process(message).status)).collect();
        eventually("the breaker is open, and a probe fails", || (backend.fake.heard().len() >= 8).then_some(()));
        backend.fake.reply([json_reply(200, &json!(1))]);
        for thread in working {
            assert_eq!(thread.join().unwrap(), 200);
        }
    });
    let waits: Vec<_> = orders.iter().map(|(id, _)| handler.status(id).body).collect();
    let took = |status: &Value| moment(&status["completedAt"]) - moment(&status["submittedAt"]);
    assert!(waits.iter().filter(|status| took(status) > 1000).count() > 2, "{waits:?}");

    let answer = handler.ingress(Some(&order("B-LATER").to_string()), &[]);

    let expected = moment(&answer.body["estimatedCompletion"]) - moment(&answer.body["submittedAt"]);
    assert!(expected <= 1000, "{expected} ms: {answer:?}");
    assert_eq!(answer.headers["Retry-After"], "1", "{answer:?}");
}

#[test]
fn a_backend_that_fails_twice_is_asked_a_third_time_under_the_same_key() {
    let data = Directory::new();
    let backend = Backend::start([reply(503, &[], SECRET), reply(500, &[], SECRET), json_reply(200, &json!({}))]);
    let handler = backend.handler(data.path(), &[("RETRY_BASE", "20ms")]);

    let status = worked(&handler, "B-6");

    completed_with(&status, &json!({}));
    assert_eq!(status["attempt"], 3);
    assert_eq!(events(&status), ["accepted", "claimed", "retrying", "claimed", "retrying", "claimed", "completed"]);
    assert_eq!(status["history"][2]["code"], "backend_unavailable");
    let asked = backend.fake.heard();
    let attempts: Vec<_> = asked.iter().map(|asked| asked.headers["x-waybill-attempt"].as_str()).collect();
    assert_eq!(attempts, ["1", "2", "3"]);
    assert!(asked.iter().all(|other| other.headers["idempotency-key"] == asked[0].headers["idempotency-key"]));
    is_silent_about(&handler, SECRET);
}

#[test]
fn the_last_try_ends_the_order_with_its_own_code() {
    let data = Directory::new();
    let backend = Backend::start([reply(503, &[], ""), reply(429, &[], "")]);

    let status = worked(&backend.handler(data.path(), &[("RETRY_BASE", "20ms"), ("MAX_ATTEMPTS", "2")]), "B-7");

    failed_with(&status, "backend_busy", "the backend cannot do the order now (HTTP 429)");
    assert_eq!(status["attempt"], 2);
    assert_eq!(events(&status), ["accepted", "claimed", "retrying", "claimed", "failed"]);
    assert_eq!(backend.fake.heard().len(), 2);
}

#[test]
fn whatever_may_pass_is_tried_again() {
    let cases = [
        (reply(408, &[], ""), "backend_unavailable"),
        (reply(425, &[], ""), "backend_unavailable"),
        (reply(429, &[], ""), "backend_busy"),
        (reply(502, &[], ""), "backend_unavailable"),
        (torn(), "backend_unavailable"),
        (Reply::Silence, "backend_timeout"),
        (lines("{\"progress\":1}\n"), "backend_unavailable"),
        (lines("{\"error\":\"locked\",\"retryable\":true}\n"), "backend_failed"),
    ];
    let work = Work::start(&[("RETRY_BASE", "20ms"), ("FULFILLMENT_TIMEOUT", "500ms")]);
    for (reply, code) in cases {
        let status = work.became([reply, json_reply(200, &json!(1))]);

        completed_with(&status, &json!(1));
        assert_eq!(events(&status), ["accepted", "claimed", "retrying", "claimed", "completed"]);
        assert_eq!(status["history"][2]["code"], code, "{status}");
    }
}

#[test]
fn the_deadline_ends_polls_too() {
    let data = Directory::new();
    let backend = Backend::start([taken(), reply(200, &[("Retry-After", "0")], r#"{"status":"running"}"#)]);

    let status = worked(&backend.handler(data.path(), &[("MAX_ATTEMPTS", "1"), ("FULFILLMENT_TIMEOUT", "500ms")]), "B-9");

    failed_with(&status, "backend_timeout", "the backend did not do the order in time");
}

#[test]
fn a_backend_that_is_not_there_is_said_to_be_unreachable() {
    let data = Directory::new();
    let url = format!("http://127.0.0.1:{}/", free_port());
    let mut handler = Handler::start(data.path(), &[("FULFILLMENT_URL", &url), ("MAX_ATTEMPTS", "1")]);

    failed_with(&worked(&handler, "B-10"), "backend_unavailable", "the backend could not be reached");

    let line = handler.program.line("a call to the backend broke off");
    assert!(line.contains("refused") && line.contains("order.tracking_id"), "{line}");
}

#[test]
fn what_the_backend_asks_for_is_waited_for_up_to_an_hour() {
    let data = Directory::new();
    // Each order asks for its own pause.
    let backend = Fake::answering(|_, heard| {
        let order: Value = serde_json::from_str(&heard.body).unwrap();
        reply(503, &[("Retry-After", order["orderId"].as_str().unwrap())], "")
    });
    let times = [("RETRY_BASE", "20ms"), ("FUNCTION_TIMEOUT", "18s"), ("FULFILLMENT_TIMEOUT", "500ms")];
    let handler = Handler::start(data.path(), &[&[("FULFILLMENT_URL", backend.url.as_str())], &times[..]].concat());
    let is_waited_for = |asked: &str, seconds: i64| {
        let (id, message) = submit(&handler, asked);

        assert_eq!(handler.process(&message).status, 500, "no other message would wake it");

        let status = handler.status(&id).body;
        assert_eq!((&status["status"], &status["lastError"]["code"]), (&json!("processing"), &json!("backend_unavailable")), "{status}");
        assert_eq!(moment(&status["nextAttemptAt"]) - moment(&status["updatedAt"]), seconds * 1000, "{asked}: {status}");
    };
    let cases = [
        ("600", 600),
        ("86400", 3600),
        ("99999999999999999999999", 3600),
        ("Fri, 31 Dec 2100 00:00:00 GMT", 3600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
    ];

    std::thread::scope(|scope| {
        for (asked, seconds) in cases {
            let is_waited_for = &is_waited_for;
            scope.spawn(move || is_waited_for(asked, seconds));
        }
    });

    assert_eq!(backend.heard().len(), cases.len());
}

#[test]
fn an_open_breaker_spends_no_try_and_makes_no_call_and_then_there_is_one_probe() {
    let data = Directory::new();
    let backend = Backend::start([reply(503, &[], "")]);
    // The breaker's first pause is five times the base.
    let settings = [("RETRY_BASE", "100ms"), ("RETRY_CAP", "100ms"), ("MAX_ATTEMPTS", "3")];
    let mut handler = backend.handler(data.path(), &settings);
    for number in 0..4 {
        assert_eq!(worked(&handler, &format!("B-12-{number}"))["status"], "failed");
    }
    let orders = ["B-13", "B-14", "B-15"].map(|id| submit(&handler, id));
    let url = handler.url("/OrderProcessor");
    let json = [("Content-Type", "application/json")];
    let process = |message: &str| request("POST", &url, &json, Some(queue_envelope(message).to_string().as_bytes())).status;

    std::thread::scope(|scope| {
        let mut working = vec![scope.spawn(|| process(&orders[0].1))];
        handler.program.line("the backend is down");
        working.extend(orders[1..].iter().map(|(_, message)| scope.spawn(|| process(message))));
        backend.fake.until_answered(14);
        backend.fake.reply([json_reply(200, &json!(1))]);
        for thread in working {
            assert_eq!(thread.join().unwrap(), 200);
        }
    });

    let asked = backend.fake.heard();
    let pause = Duration::from_millis(500);
    assert!(asked[13].at - asked[12].at >= pause && asked[14].at - asked[13].at >= 2 * pause, "{asked:?}");
    let shown = orders.map(|(id, _)| handler.status(&id).body);
    let mut attempts: Vec<_> = shown.iter().map(|status| status["attempt"].as_u64().unwrap()).collect();
    attempts.sort_unstable();
    assert_eq!(attempts, [1, 2, 2], "the failure that opened it and the probe that failed were tries, and waiting was none");
    assert!(shown.iter().all(|status| status["status"] == "completed"), "{shown:?}");
    assert_eq!(asked.len(), 17);
    let lines = handler.program.lines();
    let told = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!((told("the backend is down"), told("asking the backend"), told("the backend is back")), (2, 2, 1), "{lines:?}");
}

/// What the log tells of the breaker.
fn breaker_lines(handler: &Handler) -> Vec<String> {
    handler.program.lines().into_iter().filter(|line| line.contains("the backend is down")).collect()
}

#[test]
fn orders_that_the_backend_cannot_digest_hold_up_no_other() {
    let data = Directory::new();
    let backend = Fake::answering(|_, heard| {
        let is_of = |name: &str| heard.body.contains(name);
        match () {
            () if is_of("FAILS") => json_reply(500, &json!({ "error": "cannot digest it" })),
            () if is_of("MUTE") => reply(502, &[], ""),
            () if is_of("CRASHES") => Reply::Drop,
            () if is_of("HANGS") => Reply::Silence,
            () => json_reply(200, &json!("done")),
        }
    });
    let settings = [("FULFILLMENT_URL", backend.url.as_str()), ("RETRY_BASE", "100ms"), ("FULFILLMENT_TIMEOUT", "500ms")];
    let handler = Handler::start(data.path(), &settings);
    let bad = ["FAILS", "MUTE", "CRASHES", "HANGS"].map(|name| submit(&handler, name));

    std::thread::scope(|scope| {
        let working = bad.each_ref().map(|(_, message)| scope.spawn(|| handler.process(message).status));
        for number in 0..10 {
            completed_with(&worked(&handler, &format!("GOOD-{number}")), &json!("done"));
        }
        for thread in working {
            assert_eq!(thread.join().unwrap(), 200);
        }
    });
    // Without any success in between, too.
    completed_with(&worked(&handler, "GOOD-BETWEEN"), &json!("done"));
    for number in 0..3 {
        assert_eq!(worked(&handler, &format!("FAILS-{number}"))["status"], "failed");
    }
    completed_with(&worked(&handler, "GOOD-LAST"), &json!("done"));

    for (id, _) in bad {
        let status = handler.status(&id).body;
        assert_eq!((&status["status"], &status["attempt"]), (&json!("failed"), &json!(5)), "{status}");
    }
    assert_eq!(breaker_lines(&handler), [""; 0]);
}

#[test]
fn a_backend_that_is_not_there_opens_the_breaker_by_one_order_alone() {
    let data = Directory::new();
    let url = format!("http://127.0.0.1:{}/", free_port());
    let handler = Handler::start(data.path(), &[("FULFILLMENT_URL", url.as_str()), ("RETRY_BASE", "20ms")]);

    failed_with(&worked(&handler, "B-22"), "backend_unavailable", "the backend could not be reached");

    assert_eq!(breaker_lines(&handler).len(), 1);
}

/// Opens the breaker by five orders that fail.
fn open_breaker(handler: &mut Handler) {
    for number in 0..5 {
        assert_eq!(worked(handler, &format!("OPENS-{number}"))["status"], "failed");
    }
    handler.program.line("the backend is down");
}

#[test]
fn the_probe_is_an_order_that_has_not_failed_yet() {
    let data = Directory::new();
    // The first five fail together, and are tried again after a second at the earliest.
    let together = Barrier::new(5);
    let backend = Fake::answering(move |number, heard| {
        if number < 5 {
            together.wait();
        }
        if heard.body.contains("BAD") { reply(500, &[("Retry-After", "1")], "{}") } else { json_reply(200, &json!(1)) }
    });
    let settings = [("FULFILLMENT_URL", backend.url.as_str()), ("RETRY_BASE", "600ms"), ("MAX_ATTEMPTS", "2")];
    let mut handler = Handler::start(data.path(), &settings);
    let bad: Vec<_> = (0..5).map(|number| submit(&handler, &format!("BAD-{number}"))).collect();
    let (id, message) = submit(&handler, "GOOD");

    let probe = std::thread::scope(|scope| {
        let handler_too = &handler;
        let working: Vec<_> = bad.iter().map(|(_, message)| scope.spawn(move || handler_too.process(message).status)).collect();
        eventually("the breaker is open", || (breaker_lines(handler_too).len() == 1).then_some(()));
        assert_eq!(handler_too.process(&message).status, 200);
        let probe = backend.heard()[5].body.clone();
        for thread in working {
            assert_eq!(thread.join().unwrap(), 200);
        }
        probe
    });

    assert!(probe.contains("GOOD"), "{probe}");
    handler.program.line("the backend is back");
    completed_with(&handler.status(&id).body, &json!(1));
    let ended = bad.iter().map(|(id, _)| handler.status(id).body["status"].clone()).collect::<Vec<_>>();
    assert_eq!(ended, vec!["failed"; 5], "none waits for ever");
}

/// A handler whose breaker is open, and whose calls of the backend may take long.
fn with_open_breaker(data: &Path, backend: &Fake) -> Handler {
    let settings = [
        ("FULFILLMENT_URL", backend.url.as_str()),
        ("MAX_ATTEMPTS", "1"),
        ("RETRY_BASE", "100ms"),
        ("FUNCTION_TIMEOUT", "40s"),
        ("FULFILLMENT_TIMEOUT", "15s"),
    ];
    let mut handler = Handler::start(data, &settings);
    open_breaker(&mut handler);
    handler
}

#[test]
fn a_backend_that_has_taken_the_probe_is_back_before_the_work_is_done() {
    let data = Directory::new();
    let backend = Fake::answering(|_, heard| match () {
        () if heard.body.contains("OPENS") => json_reply(500, &json!({})),
        () if heard.body.contains("LONG") || heard.line.starts_with("GET") => taken(),
        () => json_reply(200, &json!(1)),
    });
    let handler = with_open_breaker(data.path(), &backend);
    let (id, message) = submit(&handler, "LONG");

    while_processing(&handler, &message, || {
        eventually("it is polled", || backend.heard().last().filter(|asked| asked.line.starts_with("GET")).map(drop));
        completed_with(&worked(&handler, "B-23"), &json!(1));
        assert_eq!(handler.status(&id).body["status"], "processing");
    });
}

#[test]
fn a_probe_that_is_not_answered_keeps_no_other_from_asking() {
    let data = Directory::new();
    let backend = Fake::answering(|_, heard| match () {
        () if heard.body.contains("OPENS") => json_reply(500, &json!({})),
        () if heard.body.contains("HANGS") => Reply::Silence,
        () => json_reply(200, &json!(1)),
    });
    let handler = with_open_breaker(data.path(), &backend);
    let (id, message) = submit(&handler, "HANGS");

    while_processing(&handler, &message, || {
        backend.until_heard(6);
        completed_with(&worked(&handler, "B-24"), &json!(1));
        assert_eq!(handler.status(&id).body["status"], "processing");
    });
}

#[test]
fn a_backend_that_is_busy_or_refuses_is_there_and_opens_nothing() {
    let data = Directory::new();
    let busy = (0..6).map(|_| reply(429, &[], ""));
    let backend = Backend::start(busy.chain((0..6).map(|_| reply(404, &[], ""))).chain([json_reply(200, &json!(1))]));
    let handler = backend.handler(data.path(), &[("MAX_ATTEMPTS", "1"), ("RETRY_BASE", "1m")]);

    for number in 0..12 {
        assert_eq!(worked(&handler, &format!("B-16-{number}"))["status"], "failed");
    }

    completed_with(&worked(&handler, "B-17"), &json!(1));
}

#[cfg(unix)]
#[test]
fn a_worker_that_lost_its_order_drops_the_call() {
    let data = Directory::new();
    let (stream, streamed) = stream();
    let backend = Backend::start([streamed, json_reply(200, &json!("second"))]);
    let lease = [("LEASE", "500ms")];
    let (mut first, second) = (backend.handler(data.path(), &lease), backend.handler(data.path(), &lease));
    let (id, message) = submit(&second, "B-18");

    std::thread::scope(|scope| {
        let working = scope.spawn(|| first.process(&message).status);
        eventually("it is called", || (backend.fake.heard().len() == 1).then_some(()));
        stop_between_writes(&first.program, data.path());
        assert_eq!(second.process(&message).status, 200);
        first.program.signal("CONT");
        assert_eq!(working.join().unwrap(), 200);
    });

    first.program.line("another worker took this order");
    eventually("the call is dropped", || stream.send("\n").is_err().then_some(()));
    completed_with(&second.status(&id).body, &json!("second"));
}
