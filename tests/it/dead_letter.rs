//! `OrderDeadLetter`: a dead letter is a lost delivery, never a silence, and never a loop.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use functions_host::service_bus::broker::{Broker, Outgoing, Rules};
use serde_json::{Value, json};

use crate::emulator::Emulator;
use crate::store::run;
use crate::support::{Directory, Handler, Host, Program, Response, events, eventually, order, queue_envelope, submit, try_request};

pub(crate) fn dead_letter(handler: &Handler, text: &str) -> Response {
    let properties = json!({ "DeadLetterReason": "MaxDeliveryCountExceeded", "DeadLetterErrorDescription": "tried ten times" });
    let data = json!({ "deadLetter": Value::from(text).to_string() });
    handler.invoke("OrderDeadLetter", &json!({ "Data": data, "Metadata": { "DeliveryCount": "1", "ApplicationProperties": properties } }))
}

/// What is sent on after a dead letter; `{}` completes it.
pub(crate) fn sent(response: &Response) -> Vec<Value> {
    assert_eq!(response.status, 200, "{response:?}");
    response.json()["Outputs"]["orderMessage"].as_array().cloned().unwrap_or_default()
}

/// What stands in quarantine: reason, the queue's reason, text.
fn quarantined(data: &Directory) -> Vec<Value> {
    let database = rusqlite::Connection::open(data.path().join("records.db")).unwrap();
    let mut statement = database.prepare("SELECT message FROM quarantine").unwrap();
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    rows.map(|row| serde_json::from_str(&row.unwrap()).unwrap()).collect()
}

#[test]
fn the_order_of_a_dead_letter_is_on_its_way_again_at_once() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (id, message) = submit(&handler, "D-1");

    let again = sent(&dead_letter(&handler, &message));

    assert_eq!(again, [message.as_str()]);
    assert_eq!(handler.process(again[0].as_str().unwrap()).status, 200);
    assert_eq!(events(&handler.status(&id).body), ["accepted", "claimed", "completed"]);
}

#[test]
fn a_message_that_dies_again_waits_for_the_sweeper() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (id, message) = submit(&handler, "D-2");
    assert_eq!(sent(&dead_letter(&handler, &message)).len(), 1);

    for _ in 0..3 {
        assert_eq!(sent(&dead_letter(&handler, &message)), [""; 0], "no dead letter causes the next at once");
    }

    assert_eq!(handler.status(&id).body["status"], "accepted");
}

#[test]
fn the_dead_letter_of_an_ended_order_is_forgotten() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (id, message) = submit(&handler, "D-3");
    assert_eq!(handler.process(&message).status, 200);
    let before = handler.status(&id).body;

    assert_eq!(sent(&dead_letter(&handler, &message)), [""; 0]);

    assert_eq!(handler.status(&id).body, before);
}

#[test]
fn the_dead_letter_of_an_order_that_is_worked_on_is_forgotten() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("WORK_DELAY", "200ms")]);
    let (id, message) = submit(&handler, "D-4");

    std::thread::scope(|scope| {
        let work = scope.spawn(|| handler.process(&message).status);
        eventually("it is being processed", || (handler.status(&id).body["status"] == "processing").then_some(()));
        assert_eq!(sent(&dead_letter(&handler, &message)), [""; 0]);
        assert_eq!(work.join().unwrap(), 200);
    });

    assert_eq!(events(&handler.status(&id).body), ["accepted", "claimed", "completed"]);
}

#[test]
fn an_order_whose_budget_is_spent_fails_visibly() {
    let data = Directory::new();
    let settings = [("WORK_DELAY", "10s"), ("LEASE", "200ms"), ("MAX_INTERRUPTIONS", "1")];
    let mut first = Handler::start(data.path(), &settings);
    let (id, message) = submit(&first, "D-5");
    let (url, body) = (first.url("/OrderProcessor"), queue_envelope(&message).to_string());
    let killed = std::thread::spawn(move || try_request("POST", &url, &[], Some(body.as_bytes())).is_err());
    eventually("it is being processed", || (first.status(&id).body["status"] == "processing").then_some(()));
    first.program.kill();
    assert!(killed.join().unwrap());
    let second = Handler::start(data.path(), &settings);

    eventually("the lease runs out, and the order ends", || {
        assert_eq!(sent(&dead_letter(&second, &message)), [""; 0]);
        (second.status(&id).body["status"] == "failed").then_some(())
    });

    let status = second.status(&id).body;
    assert_eq!((events(&status), &status["error"]["code"]), (vec!["accepted", "claimed", "failed"], &json!("interrupted")));
}

#[test]
fn an_unreadable_or_unknown_message_is_kept_whole_and_once() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (_, message) = submit(&handler, "D-6");
    let id = serde_json::from_str::<Value>(&message).unwrap()["trackingId"].as_str().unwrap().to_owned();
    let unknown = message.replace(&id, "0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10");
    let newer = message.replace("\"schemaVersion\":1", "\"schemaVersion\":99");
    let texts = ["not JSON at all \u{0} \u{e9}", "", unknown.as_str(), newer.as_str()];

    for text in texts {
        for _ in 0..2 {
            assert_eq!(sent(&dead_letter(&handler, text)), [""; 0]);
        }
    }

    let kept = quarantined(&data);
    assert_eq!(kept.len(), texts.len(), "{kept:?}");
    for text in texts {
        let kept = kept.iter().find(|kept| kept["text"] == text).unwrap_or_else(|| panic!("{text:?} is lost"));
        assert_eq!(kept["deadLetterReason"], "MaxDeliveryCountExceeded: tried ten times");
        assert!(!kept["reason"].as_str().unwrap().is_empty());
    }
    let lines = handler.program.lines();
    assert!(lines.iter().any(|line| line.contains("kept in quarantine")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("not JSON at all")), "a body is never logged");
}

#[test]
fn what_no_order_knows_is_kept_in_cosmos_db_too() {
    let emulator = Emulator::start(&[]);
    let handler = Handler::begin(&emulator.with(&[])).ready();

    for _ in 0..2 {
        assert_eq!(sent(&dead_letter(&handler, "nobody's")), [""; 0]);
    }

    assert_eq!(emulator.figures()["documents"], 1);
    assert_eq!(handler.invoke("OrderSweeper", &json!({ "Data": {}, "Metadata": {} })).status, 200, "it is no order that is due");
}

#[test]
fn a_store_that_is_away_holds_a_dead_letter_for_no_longer_than_the_host_bears() {
    let emulator = Emulator::start(&[]);
    // 3.25 s are left of an invocation, for up to three waits.
    let handler = Handler::begin(&emulator.with(&[("FUNCTION_TIMEOUT", "5s")])).ready();
    let (_, message) = submit(&handler, "D-AWAY");
    emulator.fault(&json!({ "kind": "hang", "operations": ["read"] }));
    let started = Instant::now();

    assert_eq!(dead_letter(&handler, &message).status, 500);

    assert!(started.elapsed() < Duration::from_millis(2500), "{:?}", started.elapsed());
}

#[test]
fn an_outage_that_spends_every_delivery_fails_no_order() {
    const ORDERS: usize = 40;
    let emulator = Emulator::start(&[]);
    let data = Directory::new();
    // Deliveries fail fast and are few, so that they are spent within seconds.
    let settings =
        [("FUNCTION_TIMEOUT", "9s"), ("WORK_DELAY", "20ms"), ("LEASE", "2s"), ("SweepSchedule", "* * * * * *"), ("OVERDUE_AFTER", "500ms")];
    let host = Host::with(crate::support::repository(), data.path(), &["--max-delivery-count", "2"], &emulator.with(&settings));
    eventually("the store answers", || (host.post("/api/orders", &order("D-7")).status == 202).then_some(()));
    let ids: Vec<String> = (0..ORDERS).map(|number| host.submit(&order(&format!("D-7-{number}")))).collect();

    emulator.fault(&json!({ "kind": "refuse" }));
    eventually("messages are dead-lettered", || host.figures()["serviceBus"]["queues"].to_string().contains("deadletter").then_some(()));
    emulator.calm();

    for id in ids {
        let status = eventually("the order ends", || {
            let response = host.get(&format!("/api/orders/{id}/status"));
            (response.status == 200).then(|| response.json()).filter(|body| matches!(body["status"].as_str(), Some("completed" | "failed")))
        });
        assert_eq!(status["status"], "completed", "{status}");
        assert_eq!(events(&status).iter().filter(|event| **event == "completed").count(), 1, "{status}");
    }
}

/// Linux tells at once; elsewhere the lease is waited out.
#[cfg(target_os = "linux")]
#[test]
fn the_order_of_a_worker_that_was_killed_does_not_wait_for_its_lease() {
    let data = Directory::new();
    let settings = [("WORK_DELAY", "20s")];
    let mut first = Handler::start(data.path(), &settings);
    let (id, message) = submit(&first, "D-GONE");
    let (url, body) = (first.url("/OrderProcessor"), queue_envelope(&message).to_string());
    let killed = std::thread::spawn(move || try_request("POST", &url, &[], Some(body.as_bytes())).is_err());
    eventually("it is worked on", || (first.status(&id).body["status"] == "processing").then_some(()));
    assert_eq!(sent(&dead_letter(&first, &message)), [""; 0], "its worker lives");
    first.program.kill();
    assert!(killed.join().unwrap());
    let second = Handler::start(data.path(), &settings);

    assert_eq!(sent(&dead_letter(&second, &message)), [message.as_str()]);
}

/// A binding with `dataType: binary` passes base64 on.
fn dead_bytes(handler: &Handler, body: &[u8]) -> Response {
    handler.invoke("OrderDeadLetter", &json!({ "Data": { "deadLetter": STANDARD.encode(body) }, "Metadata": {} }))
}

#[test]
fn a_message_that_is_not_utf_8_is_kept_and_sent_again_byte_for_byte() {
    let data = Directory::new();
    let junk = [0xff, 0xfe, 0x00, b'j', b'u', b'n', b'k', 0x80];
    let text = "text in UTF-8 \u{e9}".as_bytes();
    let bodies = [&junk[..], text].map(|body| Outgoing { body: body.to_vec(), ..Outgoing::default() });
    run(async {
        let rules = Rules { lock_duration: Duration::from_secs(60), max_delivery_count: 2 };
        Broker::open(data.path(), rules).unwrap().send("orders", bodies.into()).await.unwrap();
    });
    let host = Host::with(crate::support::repository(), data.path(), &["--max-delivery-count", "2"], &[]);
    let place = data.path().to_str().unwrap();
    let command = |arguments: &[&str]| {
        let (status, lines) = Program::waybill(&[arguments, &["--json", "--data", place]].concat(), &[]).end();
        (status.code(), lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect::<Vec<_>>())
    };

    let kept = eventually("both are in quarantine", || Some(command(&["quarantine", "list"]).1).filter(|kept| kept.len() == 2));

    let kept_junk = kept.iter().find(|message| message["base64"].is_string()).unwrap_or_else(|| panic!("{kept:?}"));
    assert_eq!(STANDARD.decode(kept_junk["base64"].as_str().unwrap()).unwrap(), junk);
    assert!(kept.iter().any(|message| message["text"] == "text in UTF-8 \u{e9}" && message.get("base64").is_none()), "{kept:?}");
    let id = kept_junk["id"].as_str().unwrap();
    drop(host);
    assert_eq!(command(&["quarantine", "retry", id]).0, Some(0));
    let queue = rusqlite::Connection::open(data.path().join("queue.db")).unwrap();
    let sent: Vec<u8> = queue.query_row("SELECT body FROM messages", [], |row| row.get(0)).unwrap();
    assert_eq!(sent, junk);
}

/// Runs an operator's command: its exit code, its objects, and what it tells a person.
type Run<'r> = dyn Fn(&[&str]) -> (Option<i32>, Vec<Value>, String) + 'r;

fn discarded_messages_are_passed_over(handler: &Handler, run: &Run<'_>) {
    assert_eq!(sent(&dead_bytes(handler, b"junk \xff")), [""; 0]);
    assert_eq!(sent(&dead_bytes(handler, b"other")), [""; 0]);
    let ids = |arguments: &[&str]| -> Vec<String> {
        let listed = run(&[&["quarantine", "list"], arguments].concat()).1;
        listed.iter().map(|message| message["id"].as_str().unwrap().to_owned()).collect()
    };
    let all = ids(&[]);
    assert_eq!((all.len(), run(&["verify"]).0), (2, Some(3)));

    let (code, _, said) = run(&["quarantine", "discard", &all[0]]);
    assert!(code == Some(2) && said.contains("--reason"), "{said}");
    let (code, _, said) = run(&["quarantine", "discard", &all[0], &all[1], "--reason", "a test"]);
    assert!(code == Some(2) && said.contains("--yes"), "{said}");
    let (code, told, said) = run(&["quarantine", "discard", &all[0], "--reason", "a test of the gateway"]);
    assert!(code == Some(0) && told[0]["done"] == "discarded" && told[0]["id"] == json!(all[0]), "{said}");

    assert_eq!(ids(&[]), [all[1].clone()]);
    assert_eq!(ids(&["--all"]).len(), 2);
    let (_, shown, _) = run(&["quarantine", "show", &all[0]]);
    assert_eq!(shown[0]["discarded"]["reason"], "a test of the gateway");
    let (code, told, _) = run(&["verify"]);
    assert_eq!((code, &told[0]["quarantined"]), (Some(3), &json!([all[1]])));
    assert_eq!(run(&["quarantine", "discard", &all[1], "--reason", "a test"]).0, Some(0));
    assert_eq!(run(&["verify"]).0, Some(0), "nothing is left");
    let (code, told, _) = run(&["quarantine", "discard", "0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10", "--reason", "x"]);
    assert_eq!((code, &told[0]["problem"]), (Some(1), &json!("message_not_found")));

    // The same message again is a new question.
    assert_eq!(sent(&dead_bytes(handler, b"other")), [""; 0]);
    assert_eq!(ids(&[]).len(), 1);
}

#[test]
fn a_discarded_message_is_no_alarm_any_more_in_the_embedded_store() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let place = data.path().to_str().unwrap();
    discarded_messages_are_passed_over(&handler, &|arguments| {
        told(&Program::waybill(&[arguments, &["--json", "--data", place]].concat(), &[]).end())
    });
}

#[test]
fn a_discarded_message_is_no_alarm_any_more_in_cosmos_db() {
    let emulator = Emulator::start(&[]);
    let handler = Handler::begin(&emulator.with(&[])).ready();
    let nowhere = Directory::new();
    let settings = emulator.with(&[("WAYBILL_DATA", nowhere.path().to_str().unwrap())]);
    let place = nowhere.path().to_str().unwrap();
    discarded_messages_are_passed_over(&handler, &|arguments| {
        told(&Program::waybill(&[arguments, &["--json", "--app", place]].concat(), &settings).end())
    });
}

fn told((status, lines): &(ExitStatus, Vec<String>)) -> (Option<i32>, Vec<Value>, String) {
    (status.code(), lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect(), lines.join("\n"))
}

#[test]
fn a_message_leaves_quarantine_when_its_time_is_over() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("QUARANTINE_RETENTION", "1s")]);
    let place = data.path().to_str().unwrap();
    let listed = || told(&Program::waybill(&["quarantine", "list", "--json", "--data", place], &[]).end()).1.len();
    assert_eq!(sent(&dead_bytes(&handler, b"old")), [""; 0]);
    assert_eq!(quarantined(&data).len(), 1);

    eventually("it is not shown any more", || (listed() == 0).then_some(()));

    eventually("the next one deletes it", || {
        assert_eq!(sent(&dead_bytes(&handler, b"new")), [""; 0]);
        quarantined(&data).iter().all(|kept| kept["text"] == "new").then_some(())
    });
}

#[test]
fn messages_that_never_expire_do_not_keep_the_others_in_quarantine() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("QUARANTINE_RETENTION", "1s")]);
    let database = rusqlite::Connection::open(data.path().join("records.db")).unwrap();
    let forever = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT 200)
                   INSERT INTO quarantine SELECT randomblob(16), CASE WHEN n % 2 THEN '{}' ELSE 'damaged' END FROM numbers";
    assert_eq!(database.execute(forever, []).unwrap(), 200);
    assert_eq!(sent(&dead_bytes(&handler, b"old")), [""; 0]);

    eventually("the next one deletes it", || {
        assert_eq!(sent(&dead_bytes(&handler, b"new")), [""; 0]);
        let old = "SELECT count(*) FROM quarantine WHERE instr(message, '\"text\":\"old\"')";
        (database.query_row(old, [], |row| row.get(0)) == Ok(0)).then_some(())
    });

    let kept: u32 = database.query_row("SELECT count(*) FROM quarantine", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 201, "the damaged and the endless ones stay, and the new one");
}
