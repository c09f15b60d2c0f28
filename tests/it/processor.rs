//! Messages at least once, outcomes exactly once: copies, crashes, pauses and spent budgets.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    Directory, Handler, Response, events, eventually, order, queue_envelope, request, stop_between_writes, submit, submit_order,
    try_request,
};

/// Delivers a message in an invocation of its own, as the host does.
fn deliver(handler: &Handler, message: &str, invocation: &str) -> Response {
    let headers = [("Content-Type", "application/json"), ("X-Azure-Functions-InvocationId", invocation)];
    request("POST", &handler.url("/OrderProcessor"), &headers, Some(queue_envelope(message).to_string().as_bytes()))
}

/// Delivers a message to a handler that will not live to answer.
fn deliver_in_vain(handler: &Handler, message: &str) -> std::thread::JoinHandle<bool> {
    let (url, body) = (handler.url("/OrderProcessor"), queue_envelope(message).to_string());
    std::thread::spawn(move || try_request("POST", &url, &[("X-Azure-Functions-InvocationId", "in-vain")], Some(body.as_bytes())).is_err())
}

fn shown(handler: &Handler, id: &str) -> Value {
    let answer = handler.status(id);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

fn is_processing(handler: &Handler, id: &str) {
    eventually("the order is being processed", || (shown(handler, id)["status"] == "processing").then_some(()));
}

fn delayed<'a>(data: &Path, delay: &'a str, more: &[(&'a str, &'a str)]) -> Handler {
    let mut settings = vec![("WORK_DELAY", delay)];
    settings.extend(more);
    Handler::start(data, &settings)
}

#[test]
fn a_message_delivered_twice_completes_the_order_once() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (id, message) = submit(&handler, "P-1");

    let first = deliver(&handler, &message, "i-1");
    let completed = shown(&handler, &id);
    let second = deliver(&handler, &message, "i-2");

    assert_eq!((first.status, second.status, second.body.as_str()), (200, 200, "{}"));
    assert_eq!(events(&completed), ["accepted", "claimed", "completed"]);
    assert_eq!(shown(&handler, &id), completed);
}

#[test]
fn two_copies_at_once_end_with_one_claim_and_both_are_completed() {
    let data = Directory::new();
    let handler = delayed(data.path(), "100ms", &[]);
    let (id, message) = submit(&handler, "P-2");

    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let (handler, message) = (&handler, &message);
        let threads = ["i-1", "i-2", "i-3"].map(|invocation| scope.spawn(move || deliver(handler, message, invocation).status));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });

    assert_eq!(statuses, [200, 200, 200]);
    let status = shown(&handler, &id);
    assert_eq!(events(&status), ["accepted", "claimed", "completed"]);
    assert_eq!(status["attempt"], 1);
}

#[test]
fn many_copies_of_many_orders_at_once_complete_each_order_once() {
    let data = Directory::new();
    let handlers = [Handler::start(data.path(), &[]), Handler::start(data.path(), &[])];
    let orders: Vec<_> = (0..8).map(|number| submit(&handlers[0], &format!("MANY-{number}"))).collect();

    std::thread::scope(|scope| {
        for copy in 0..4 {
            for (id, message) in &orders {
                let handler = &handlers[copy % 2];
                scope.spawn(move || assert_eq!(deliver(handler, message, &format!("{id}-{copy}")).status, 200));
            }
        }
    });

    for (id, _) in &orders {
        assert_eq!(events(&shown(&handlers[0], id)), ["accepted", "claimed", "completed"]);
    }
}

#[test]
fn a_message_of_another_life_is_completed_and_changes_nothing() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (id, message) = submit(&handler, "P-3");
    let before = shown(&handler, &id);
    let mut other: Value = serde_json::from_str(&message).unwrap();
    other["life"] = "11111111-2222-4333-8444-555555555555".into();

    let answer = deliver(&handler, &other.to_string(), "i-1");

    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    assert_eq!(shown(&handler, &id), before);
}

#[test]
fn a_message_without_a_record_is_never_completed() {
    let (data, elsewhere) = (Directory::new(), Directory::new());
    let mut handler = Handler::start(data.path(), &[]);
    let (_, message) = submit(&Handler::start(elsewhere.path(), &[]), "P-4");

    let answer = deliver(&handler, &message, "i-unknown");

    assert_eq!(answer.status, 500);
    let line = handler.program.line("no order has this tracking id");
    assert!(line.contains("i-unknown"), "{line}");
}

#[test]
fn an_unreadable_message_is_never_completed_and_its_content_is_never_logged() {
    let data = Directory::new();
    let mut handler = Handler::start(data.path(), &[]);
    let (_, good) = submit(&handler, "P-5");
    let without = |member: &str| {
        let mut message: Value = serde_json::from_str(&good).unwrap();
        message.as_object_mut().unwrap().remove(member);
        message.to_string()
    };
    let with = |member: &str, value: Value| {
        let mut message: Value = serde_json::from_str(&good).unwrap();
        message[member] = value;
        message.to_string()
    };
    let texts = [
        String::new(),
        "CONTENT".into(),
        "{\"CONTENT\":1}".into(),
        "[\"CONTENT\"]".into(),
        "5".into(),
        without("schemaVersion"),
        without("trackingId"),
        without("life"),
        with("trackingId", "CONTENT".into()),
        with("life", json!(["CONTENT"])),
        with("schemaVersion", "CONTENT".into()),
        with("schemaVersion", json!(-1)),
        good[..good.len() - 1].to_owned(),
        format!("{good}CONTENT"),
    ];

    for (number, text) in texts.iter().enumerate() {
        let invocation = format!("unreadable-{number}.");
        let answer = deliver(&handler, text, &invocation);
        assert!(answer.status >= 400, "{text}: {answer:?}");
        assert!(!answer.body.contains("CONTENT"), "{answer:?}");
        let line = handler.program.line(&invocation);
        assert!(line.contains("OrderProcessor failed: not an order message"), "{line}");
    }
    assert!(!handler.program.lines().iter().any(|line| line.contains("CONTENT")), "{:?}", handler.program.lines());
}

#[test]
fn a_message_of_a_newer_program_is_kept_for_it() {
    let data = Directory::new();
    let mut handler = Handler::start(data.path(), &[]);
    let (id, message) = submit(&handler, "P-6");
    let before = shown(&handler, &id);
    let mut same_shape: Value = serde_json::from_str(&message).unwrap();
    same_shape["schemaVersion"] = 2.into();

    for newer in [same_shape, json!({ "schemaVersion": 7, "orders": [] })] {
        assert_eq!(deliver(&handler, &newer.to_string(), "i-1").status, 500);
    }

    handler.program.line("schema version 2 is newer than 1");
    handler.program.line("schema version 7 is newer than 1");
    assert_eq!(shown(&handler, &id), before);
}

#[test]
fn an_order_of_a_killed_handler_is_taken_over_at_once() {
    let data = Directory::new();
    let mut first = delayed(data.path(), "60s", &[]);
    let (id, message) = submit(&first, "P-7");
    let cut_off = deliver_in_vain(&first, &message);
    is_processing(&first, &id);

    first.program.kill();
    let mut second = delayed(data.path(), "1ms", &[]);
    let started = Instant::now();
    let answer = deliver(&second, &message, "i-2");

    assert_eq!(answer.status, 200);
    assert!(started.elapsed() < Duration::from_secs(10), "the lease of 30 s was waited out: {:?}", started.elapsed());
    assert!(cut_off.join().unwrap());
    let status = shown(&second, &id);
    assert_eq!(events(&status), ["accepted", "claimed", "interrupted", "completed"]);
    assert_eq!((&status["attempt"], &status["progress"]), (&json!(1), &json!(100)));
    let line = second.program.line("order completed");
    assert!(line.contains("order.interruptions=1") && line.contains("order.attempt=1"), "{line}");
}

#[test]
fn a_live_handlers_order_is_never_taken_however_long_it_works() {
    let data = Directory::new();
    let lease = [("LEASE", "2s")];
    let (first, second) = (delayed(data.path(), "1200ms", &lease), delayed(data.path(), "1ms", &lease));
    let (id, message) = submit(&first, "P-8");

    let (a, b) = std::thread::scope(|scope| {
        let working = scope.spawn(|| deliver(&first, &message, "i-1").status);
        is_processing(&second, &id);
        let waiting = deliver(&second, &message, "i-2").status;
        (working.join().unwrap(), waiting)
    });

    assert_eq!((a, b), (200, 200));
    assert_eq!(events(&shown(&first, &id)), ["accepted", "claimed", "completed"]);
}

#[test]
fn a_delivery_that_must_not_wait_longer_gives_the_message_back() {
    let data = Directory::new();
    let (first, second) = (delayed(data.path(), "60s", &[]), delayed(data.path(), "1ms", &[("FUNCTION_TIMEOUT", "17s")]));
    let (id, message) = submit(&first, "P-9");
    let _cut_off = deliver_in_vain(&first, &message);
    is_processing(&first, &id);
    let before = shown(&second, &id);

    let answer = deliver(&second, &message, "i-2");

    assert_eq!(answer.status, 500);
    assert_eq!(events(&shown(&second, &id)), events(&before));
}

#[cfg(unix)]
#[test]
fn a_stopped_handler_loses_its_order_and_changes_nothing_when_it_wakes() {
    let data = Directory::new();
    let lease = [("LEASE", "500ms")];
    let mut first = delayed(data.path(), "10s", &lease);
    let second = delayed(data.path(), "1ms", &lease);
    let (id, message) = submit(&second, "P-10");

    let (late, taken, ended) = std::thread::scope(|scope| {
        let working = scope.spawn(|| deliver(&first, &message, "i-1").status);
        is_processing(&second, &id);
        stop_between_writes(&first.program, data.path());
        let taken = deliver(&second, &message, "i-2").status;
        let ended = shown(&second, &id);
        first.program.signal("CONT");
        (working.join().unwrap(), taken, ended)
    });

    assert_eq!((late, taken), (200, 200));
    first.program.line("another worker took this order");
    assert_eq!(events(&ended), ["accepted", "claimed", "interrupted", "completed"]);
    assert_eq!(shown(&second, &id), ended);
    assert_eq!(shown(&first, &id), ended);
}

#[test]
fn an_order_interrupted_too_often_fails_and_its_message_is_completed() {
    let data = Directory::new();
    let mut first = delayed(data.path(), "60s", &[]);
    let (id, message) = submit(&first, "P-11");
    let _one = deliver_in_vain(&first, &message);
    is_processing(&first, &id);
    first.program.kill();
    let mut second = delayed(data.path(), "60s", &[("MAX_INTERRUPTIONS", "2")]);
    let _two = deliver_in_vain(&second, &message);
    eventually("it is taken over", || events(&shown(&second, &id)).contains(&"interrupted").then_some(()));
    second.program.kill();
    let third = delayed(data.path(), "1ms", &[("MAX_INTERRUPTIONS", "2")]);

    let answer = deliver(&third, &message, "i-3");

    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    let status = shown(&third, &id);
    assert_eq!((&status["status"], &status["error"]["code"], &status["attempt"]), (&json!("failed"), &json!("interrupted"), &json!(1)));
    assert_eq!(events(&status), ["accepted", "claimed", "interrupted", "failed"]);
    assert!(status.get("result").is_none());
}

#[test]
fn an_order_that_may_not_be_interrupted_fails_at_the_first_interruption() {
    let data = Directory::new();
    let mut first = delayed(data.path(), "60s", &[]);
    let (id, message) = submit(&first, "P-12");
    let _one = deliver_in_vain(&first, &message);
    is_processing(&first, &id);
    first.program.kill();
    let second = delayed(data.path(), "1ms", &[("MAX_INTERRUPTIONS", "1")]);

    assert_eq!(deliver(&second, &message, "i-2").status, 200);

    let status = shown(&second, &id);
    assert_eq!((&status["status"], &status["error"]["code"]), (&json!("failed"), &json!("interrupted")));
    assert_eq!(events(&status), ["accepted", "claimed", "failed"]);
}

#[test]
fn an_order_past_its_deadline_fails_unworked() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("ORDER_DEADLINE", "1ms")]);
    let (id, message) = submit(&handler, "P-13");
    eventually("a millisecond passes", || {
        let now = handler.ingress(Some(&order("P-13-CLOCK").to_string()), &[]).body["submittedAt"].clone();
        (now.as_str() > shown(&handler, &id)["submittedAt"].as_str()).then_some(())
    });

    let answer = deliver(&handler, &message, "i-1");

    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    let status = shown(&handler, &id);
    assert_eq!((&status["status"], &status["error"]["code"]), (&json!("failed"), &json!("deadline_exceeded")));
    assert_eq!((&status["attempt"], &status["startedAt"]), (&json!(0), &Value::Null));
    assert_eq!(events(&status), ["accepted", "failed"]);
}

#[test]
fn a_total_beyond_the_limit_fails_for_good() {
    let data = Directory::new();
    for delay in ["0", "1ms"] {
        let handler = delayed(data.path(), delay, &[]);
        let mut large = order(&format!("P-14-{delay}"));
        large["items"] = json!([{ "sku": "S", "quantity": 1_000_000, "unitPrice": 1_000_000 }]);
        let (id, message) = submit_order(&handler, &large);

        assert_eq!(deliver(&handler, &message, "i-1").status, 200);

        let status = shown(&handler, &id);
        assert_eq!((&status["status"], &status["error"]["code"]), (&json!("failed"), &json!("total_too_large")));
        assert_eq!((&status["attempt"], status.get("result")), (&json!(1), None));
        assert!(status["completedAt"].is_string());
        assert_eq!(deliver(&handler, &message, "i-2").status, 200);
        assert_eq!(shown(&handler, &id), status);
    }
}

#[test]
fn the_largest_total_that_is_allowed_is_exact() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("TAX_RATE", "0")]);
    let mut large = order("P-15");
    large["items"] = json!([
        { "sku": "A", "quantity": 999_999, "unitPrice": 1_000_000 },
        { "sku": "B", "quantity": 1, "unitPrice": "999999.99" },
        { "sku": "C", "quantity": 2, "unitPrice": "0.005" }
    ]);
    let (id, message) = submit_order(&handler, &large);

    assert_eq!(deliver(&handler, &message, "i-1").status, 200);

    assert_eq!(shown(&handler, &id)["result"]["total"], "1000000000000.00");
}

#[test]
fn progress_never_goes_backwards() {
    let data = Directory::new();
    let handler = delayed(data.path(), "500ms", &[]);
    let (id, message) = submit(&handler, "P-16");

    let seen: Vec<Value> = std::thread::scope(|scope| {
        let working = scope.spawn(|| deliver(&handler, &message, "i-1").status);
        let mut seen = Vec::new();
        eventually("the order ends", || {
            seen.push(shown(&handler, &id));
            (seen.last().unwrap()["status"] == "completed").then_some(())
        });
        assert_eq!(working.join().unwrap(), 200);
        seen
    });

    let rank = |status: &Value| ["accepted", "processing", "completed"].iter().position(|name| status == name).unwrap();
    for pair in seen.windows(2) {
        assert!(pair[0]["progress"].as_u64() <= pair[1]["progress"].as_u64(), "{pair:?}");
        assert!(rank(&pair[0]["status"]) <= rank(&pair[1]["status"]), "{pair:?}");
        assert!(pair[0]["updatedAt"].as_str() <= pair[1]["updatedAt"].as_str(), "{pair:?}");
    }
    assert!(seen.iter().any(|status| status["progress"] == 25 && status["stage"] == "pricing lines"), "{seen:?}");
    assert_eq!(seen.last().unwrap()["progress"], 100);
}

#[test]
fn a_host_that_hangs_up_does_not_stop_the_work() {
    let data = Directory::new();
    let handler = delayed(data.path(), "50ms", &[]);
    let (id, message) = submit(&handler, "P-17");
    let body = queue_envelope(&message).to_string();

    let mut stream = std::net::TcpStream::connect(("127.0.0.1", handler.port)).unwrap();
    let head = format!("POST /OrderProcessor HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    std::io::Write::write_all(&mut stream, format!("{head}{body}").as_bytes()).unwrap();
    is_processing(&handler, &id);
    drop(stream);

    let ended = eventually("the order ends", || {
        let status = shown(&handler, &id);
        (status["status"] == "completed").then_some(status)
    });
    assert_eq!(events(&ended), ["accepted", "claimed", "completed"]);
}
