//! What a customer sees of an order.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Answer, Directory, Handler, eventually, http_envelope, order, submit, submit_order};

/// Puts a word in place of everything that differs from run to run.
fn redacted(body: &Value) -> Value {
    match body {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| {
                let value = match name.as_str() {
                    "trackingId" => "ID".into(),
                    name if (name == "at" || name.ends_with("At")) && value.is_string() => time(value),
                    _ => redacted(value),
                };
                (name.clone(), value)
            })
            .collect(),
        Value::Array(elements) => elements.iter().map(redacted).collect(),
        other => other.clone(),
    }
}

fn time(value: &Value) -> Value {
    let text = value.as_str().unwrap();
    let shape: String = text.chars().map(|letter| if letter.is_ascii_digit() { '0' } else { letter }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z");
    "TIME".into()
}

#[test]
fn an_accepted_order_is_shown_whole() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (id, _) = submit(&handler, "S-1");

    let mut answer = handler.status(&id);

    assert_eq!(answer.status, 200);
    assert!((250..=500).contains(&answer.headers["retry-after-ms"].as_str().unwrap().parse::<u32>().unwrap()), "{answer:?}");
    answer.headers["retry-after-ms"] = "MS".into();
    let etag = answer.headers["ETag"].clone();
    assert_eq!(
        answer.headers,
        json!({
            "Content-Type": "application/json", "Cache-Control": "private, no-cache", "ETag": etag, "Retry-After": "1", "retry-after-ms": "MS", "Vary": "Accept"
        })
    );
    assert_eq!((&answer.message, &answer.body["trackingId"]), (&None, &json!(id)));
    assert_eq!(
        redacted(&answer.body),
        json!({
            "trackingId": "ID", "orderId": "S-1", "customerId": "C-1001", "status": "accepted", "progress": 0, "stage": null, "attempt": 0,
            "submittedAt": "TIME", "startedAt": null, "updatedAt": "TIME", "completedAt": null,
            "history": [{ "at": "TIME", "event": "accepted", "attempt": 0 }]
        })
    );
}

#[test]
fn a_completed_order_is_shown_whole_and_asks_for_no_further_look() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (id, message) = submit(&handler, "S-2");
    assert_eq!(handler.process(&message).status, 200);

    let answer = handler.status(&id);

    let etag = &answer.headers["ETag"];
    assert_eq!(
        answer.headers,
        json!({ "Content-Type": "application/json", "Cache-Control": "private, no-cache", "ETag": etag, "Vary": "Accept" })
    );
    assert_eq!(
        redacted(&answer.body),
        json!({
            "trackingId": "ID", "orderId": "S-2", "customerId": "C-1001", "status": "completed", "progress": 100, "stage": null, "attempt": 1,
            "submittedAt": "TIME", "startedAt": "TIME", "updatedAt": "TIME", "completedAt": "TIME",
            "result": {
                "currency": "EUR",
                "lines": [
                    { "sku": "SKU-1", "quantity": 2, "unitPrice": "19.9", "amount": "39.80" },
                    { "sku": "SKU-2", "quantity": 1, "unitPrice": "4.5", "amount": "4.50" }
                ],
                "subtotal": "44.30", "taxRate": "0.2", "tax": "8.86", "total": "53.16"
            },
            "history": [
                { "at": "TIME", "event": "accepted", "attempt": 0 },
                { "at": "TIME", "event": "claimed", "attempt": 1 },
                { "at": "TIME", "event": "completed", "attempt": 1 }
            ]
        })
    );
}

#[test]
fn a_failed_order_is_shown_whole_and_asks_for_no_further_look() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let mut large = order("S-3");
    large["items"] = json!([{ "sku": "S", "quantity": 1_000_000, "unitPrice": 1_000_000_000 }]);
    let (id, message) = submit_order(&handler, &large);
    assert_eq!(handler.process(&message).status, 200);

    let answer = handler.status(&id);

    let etag = &answer.headers["ETag"];
    assert_eq!(
        answer.headers,
        json!({ "Content-Type": "application/json", "Cache-Control": "private, no-cache", "ETag": etag, "Vary": "Accept" })
    );
    assert_eq!(
        redacted(&answer.body),
        json!({
            "trackingId": "ID", "orderId": "S-3", "customerId": "C-1001", "status": "failed", "progress": 0, "stage": null, "attempt": 1,
            "submittedAt": "TIME", "startedAt": "TIME", "updatedAt": "TIME", "completedAt": "TIME",
            "error": { "code": "total_too_large", "message": "the total exceeds 1000000000000 EUR; split the order" },
            "history": [
                { "at": "TIME", "event": "accepted", "attempt": 0 },
                { "at": "TIME", "event": "claimed", "attempt": 1 },
                { "at": "TIME", "event": "failed", "attempt": 1, "code": "total_too_large" }
            ]
        })
    );
}

#[test]
fn an_order_at_work_shows_its_stage_and_when_to_look_again() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("WORK_DELAY", "100ms")]);
    let (id, message) = submit(&handler, "S-4");

    std::thread::scope(|scope| {
        let working = scope.spawn(|| handler.process(&message).status);
        let answer = eventually("a stage is shown", || {
            let answer = handler.status(&id);
            (answer.body["stage"] == "pricing lines").then_some(answer)
        });
        assert_eq!(answer.headers["Retry-After"], "1");
        assert_eq!(
            redacted(&answer.body),
            json!({
                "trackingId": "ID", "orderId": "S-4", "customerId": "C-1001", "status": "processing", "progress": 25, "stage": "pricing lines", "attempt": 1,
                "submittedAt": "TIME", "startedAt": "TIME", "updatedAt": "TIME", "completedAt": null,
                "history": [
                    { "at": "TIME", "event": "accepted", "attempt": 0 },
                    { "at": "TIME", "event": "claimed", "attempt": 1 }
                ]
            })
        );
        assert_eq!(working.join().unwrap(), 200);
    });
}

#[test]
fn an_order_that_does_not_exist_is_not_found() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);

    let answer = handler.status("0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10");

    assert_eq!((answer.status, &answer.message), (404, &None));
    assert_eq!(answer.headers, json!({ "Content-Type": "application/problem+json", "Cache-Control": "no-store", "Vary": "Accept" }));
    assert_eq!(
        answer.body,
        json!({
            "type": "urn:problem-type:waybill:order-not-found",
            "title": "There is no such order",
            "status": 404,
            "detail": "no order has this tracking id; records of ended orders are kept for a limited time"
        })
    );
}

#[test]
fn what_is_no_tracking_id_is_not_found() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (id, _) = submit(&handler, "S-5");
    let (simple, braced, urn) = (id.replace('-', ""), format!("{{{id}}}"), format!("urn:uuid:{id}"));
    let (padded, shorter, wide) = (format!("{id} "), &id[..35], format!("{}é", &id[..34]));

    for asked in [&simple, &braced, &urn, &padded, shorter, &wide, "x", "", "..%2F", "null", &"0".repeat(36), &"a".repeat(10_000)] {
        let answer = handler.status(asked);
        assert_eq!((answer.status, &answer.body["type"]), (404, &json!("urn:problem-type:waybill:order-not-found")), "{asked}");
        assert!(!answer.body["detail"].as_str().unwrap().contains("no order has"), "{asked}: {answer:?}");
    }
    for params in [json!({}), json!({ "trackingId": null })] {
        let answer = Answer::of(&handler.invoke("OrderStatus", &http_envelope("GET", "http://localhost/api/orders", &params, None, &[])));
        assert_eq!(answer.status, 404, "{params}");
    }
    assert_eq!(handler.status(&id.to_uppercase()).status, 200, "the case of an id does not matter");
}

#[test]
fn a_record_is_there_after_a_restart() {
    let data = Directory::new();
    let mut first = Handler::start(data.path(), &[]);
    let (id, message) = submit(&first, "S-6");
    let before = first.status(&id).body;
    first.program.kill();

    let second = Handler::start(data.path(), &[]);

    assert_eq!(second.status(&id).body, before);
    assert_eq!(second.process(&message).status, 200);
    assert_eq!(second.status(&id).body["status"], "completed");
}

#[test]
fn an_ended_order_is_forgotten_after_its_retention_and_its_key_is_free() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("RETENTION", "1s")]);
    let (id, message) = submit(&handler, "S-7");
    let (waiting, _) = submit(&handler, "S-8");
    assert_eq!(handler.process(&message).status, 200);
    assert_eq!(handler.status(&id).status, 200);

    eventually("the record expires", || (handler.status(&id).status == 404).then_some(()));
    let (again, new_message) = submit(&handler, "S-7");

    assert_eq!(handler.status(&waiting).status, 200, "an order that has not ended never expires");
    assert_eq!(again, id);
    assert_ne!(new_message, message, "another life");
    assert_eq!(handler.process(&message).status, 200);
    assert_eq!(handler.status(&id).body["status"], "accepted", "a message of the old life changes nothing");
    assert_eq!(handler.process(&new_message).status, 200);
    assert_eq!(handler.status(&id).body["status"], "completed");
}

/// The answer to a request that waits, and how long it took.
fn waited(handler: &Handler, id: &str, headers: &[(&str, &str)]) -> (Answer, Duration) {
    let started = Instant::now();
    let answer = handler.status_with(id, headers);
    (answer, started.elapsed())
}

#[test]
fn a_known_version_is_answered_304_until_it_changes() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (id, message) = submit(&handler, "S-ETAG");
    let etag = handler.status(&id).headers["ETag"].as_str().unwrap().to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() == 24, "a strong entity tag: {etag}");

    let weak = format!("W/{etag}");
    let among = format!("\"other\", {etag}");
    for known in [etag.as_str(), &weak, &among, "*"] {
        let answer = handler.status_with(&id, &[("If-None-Match", known)]);
        assert_eq!((answer.status, &answer.body), (304, &Value::Null), "{known}");
        let pause = &answer.headers["retry-after-ms"];
        let expected = json!({
            "Content-Type": "application/json", "Cache-Control": "private, no-cache", "ETag": etag, "Retry-After": "1", "retry-after-ms": pause, "Vary": "Accept"
        });
        assert_eq!(answer.headers, expected);
    }
    for known in ["\"other\"", "", "W/\"\""] {
        assert_eq!(handler.status_with(&id, &[("if-none-match", known)]).status, 200, "{known}");
    }
    assert_eq!(handler.process(&message).status, 200);

    let answer = handler.status_with(&id, &[("If-None-Match", &etag)]);
    assert_eq!((answer.status, &answer.body["status"]), (200, &json!("completed")));
    assert_ne!(answer.headers["ETag"], json!(etag));
}

#[test]
fn a_status_that_is_to_wait_is_answered_when_the_order_changes() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (id, message) = submit(&handler, "S-WAIT");
    let etag = handler.status(&id).headers["ETag"].as_str().unwrap().to_owned();

    for known in [&[][..], &[("If-None-Match", etag.as_str())]] {
        let (answer, took) = waited(&handler, &id, &[&[("Prefer", "wait=1")], known].concat());
        assert_eq!(answer.status, if known.is_empty() { 200 } else { 304 });
        assert_eq!((&answer.headers["Preference-Applied"], took >= Duration::from_secs(1)), (&json!("wait=1"), true));
    }
    let (answer, took) = waited(&handler, &id, &[("Prefer", "wait=30"), ("If-None-Match", "*")]);
    assert_eq!((answer.status, answer.headers.get("Preference-Applied")), (304, None), "every version is known");
    assert!(took < Duration::from_secs(10), "{took:?}");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| waited(&handler, &id, &[("Prefer", "respond-async, wait=30")]));
        let knows = scope.spawn(|| waited(&handler, &id, &[("Prefer", "wait=30"), ("If-None-Match", &etag)]));
        let eager = handler.status_with(&id, &[("Prefer", "wait=30"), ("If-None-Match", "\"old\"")]);
        assert_eq!(
            (eager.status, eager.headers.get("Preference-Applied")),
            (200, None),
            "a client that knows an old version does not wait"
        );
        handler.until_waiting(2);
        assert_eq!(handler.process(&message).status, 200);
        for (answer, took) in [waits.join().unwrap(), knows.join().unwrap()] {
            assert_eq!((answer.status, &answer.body["status"]), (200, &json!("completed")));
            assert_eq!(answer.headers["Preference-Applied"], "wait=30");
            assert!(took < Duration::from_secs(10), "{took:?}");
        }
    });
    let (answer, took) = waited(&handler, &id, &[("Prefer", "wait=30")]);
    assert_eq!((answer.status, answer.headers.get("Preference-Applied")), (200, None), "what has ended does not change");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_request_without_a_wait_slot_is_answered_at_once_and_a_stop_answers_all() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("MAX_CONNECTIONS", "3")]);
    let (id, _) = submit(&handler, "S-PLACES");

    std::thread::scope(|scope| {
        let waits = scope.spawn(|| handler.status_with(&id, &[("Prefer", "wait=30")]));
        handler.until_waiting(1);
        let answer = handler.status_with(&id, &[("Prefer", "wait=30")]);
        assert_eq!((answer.status, answer.headers.get("Preference-Applied")), (200, None), "there is no place left");
        let started = Instant::now();
        handler.program.signal("TERM");
        let answer = waits.join().unwrap();
        assert_eq!((answer.status, &answer.body["status"]), (200, &json!("accepted")));
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    });
}

#[test]
fn one_caller_gets_half_of_the_places_to_wait() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("MAX_CONNECTIONS", "5"), ("RATE_LIMIT_SUBSCRIPTION_HEADER", "X-Sub")]);
    let (id, _) = submit(&handler, "S-HALF");
    let waits = |caller: &str, seconds: &str| {
        let answer = handler.status_with(&id, &[("X-Sub", caller), ("Prefer", seconds)]);
        answer.headers.get("Preference-Applied").is_some()
    };

    std::thread::scope(|scope| {
        let first = scope.spawn(|| waits("one", "wait=5"));
        handler.until_waiting(1);
        assert!(!waits("one", "wait=5"), "the caller has its place");
        assert!(waits("two", "wait=1"), "another caller has its own");
        assert!(first.join().unwrap());
    });
}

#[test]
fn a_body_where_none_belongs_is_too_large_and_no_failure() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let large = "a".repeat(5_000_000);
    let url = "http://localhost:7071/api/orders";

    for (function, method) in [("OrderStatus", "GET"), ("OrderList", "GET"), ("OrderCancel", "DELETE")] {
        let answer = Answer::of(&handler.invoke(function, &http_envelope(method, url, &json!({}), Some(&large), &[])));
        assert_eq!((answer.status, &answer.body["type"]), (413, &json!("urn:problem-type:waybill:body-too-large")), "{function}");
    }
}
