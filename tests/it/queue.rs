//! Queue triggers under `waybill local`: peek-lock, delivery count, dead letters and what survives the host.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::foreign::{App, handler_process, logged, send, tell};
use crate::support::{Host, eventually};

const NO_RENEWAL: (&str, &str) = ("AzureFunctionsJobHost__extensions__serviceBus__maxAutoLockRenewalDuration", "00:00:00.1");

fn concurrent_calls(count: &str) -> (&str, &str) {
    ("AzureFunctionsJobHost__extensions__serviceBus__maxConcurrentCalls", count)
}

fn empty(host: &Host) {
    eventually("every queue is empty", || (host.figures()["serviceBus"]["queues"] == json!({})).then_some(()));
}

fn deliveries(records: &[Value]) -> Vec<u64> {
    records.iter().map(|record| record["delivery"].as_u64().unwrap()).collect()
}

#[test]
fn a_failed_message_is_delivered_again_at_once_with_its_count_rising() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);

    let started = Instant::now();
    send(&host, &[r#"{"fail": 2}"#]);
    let records = app.recorded("end", "Sink", 3);
    let took = started.elapsed();
    empty(&host);

    assert_eq!(deliveries(&records), [1, 2, 3]);
    assert!(took < Duration::from_secs(20), "no lock of 60 s was waited out: {took:?}");
    assert_eq!(app.records("begin", "Sink").len(), 3);
}

#[test]
fn a_message_that_fails_too_often_reaches_the_dead_letter_queue_with_its_reason() {
    let Some(app) = App::new() else { return };
    let host = app.start(&["--max-delivery-count", "3"], &[]);

    send(&host, &[r#"{"fail": 99, "id": 1}"#, "after"]);
    let before = app.sunk_until("after");
    let dead = app.recorded("begin", "Dead", 2);

    assert_eq!(before, vec![r#"{"fail": 99, "id": 1}"#; 3]);
    assert_eq!(dead[0]["text"], r#"{"fail": 99, "id": 1}"#);
    assert_eq!(dead[0]["properties"]["DeadLetterReason"], "MaxDeliveryCountExceeded");
    assert!(dead[0]["properties"]["DeadLetterErrorDescription"].is_string(), "{dead:?}");
    assert!(dead[0]["properties"]["$AzureWebJobsParentId"].is_string(), "{dead:?}");
    assert!(deliveries(&dead)[0] < deliveries(&dead)[1], "a dead letter is not moved again: {dead:?}");
}

#[test]
fn a_lock_that_runs_out_leads_to_a_second_delivery_while_the_first_still_runs() {
    let Some(app) = App::new() else { return };
    let host = app.start(&["--lock-duration", "300ms"], &[NO_RENEWAL, concurrent_calls("4")]);

    send(&host, &[r#"{"sleep": [1.5]}"#]);
    let ended = app.recorded("end", "Sink", 2);
    empty(&host);

    let began = app.records("begin", "Sink");
    assert_eq!(deliveries(&ended), [2, 1]);
    assert!(began[1]["at"].as_f64() < ended[1]["at"].as_f64(), "{began:?} {ended:?}");
    assert_eq!(began.len(), 2);
    assert!(logged(&host, "the lock of a message ran out") == 1, "{:?}", host.program.lines());
}

#[test]
fn a_lock_is_renewed_while_a_long_invocation_runs() {
    let Some(app) = App::new() else { return };
    let host = app.start(&["--lock-duration", "300ms"], &[concurrent_calls("4")]);

    send(&host, &[r#"{"sleep": [1.5]}"#]);
    app.recorded("end", "Sink", 1);
    empty(&host);

    assert_eq!(deliveries(&app.records("begin", "Sink")), [1]);
}

#[test]
fn no_more_messages_run_at_once_than_max_concurrent_calls() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[concurrent_calls("3")]);

    send(&host, &[r#"{"sleep": 0.3}"#; 7]);
    let ended = app.recorded("end", "Sink", 7);
    let began = app.records("begin", "Sink");

    let running = |at: f64| {
        let before = |records: &[Value]| records.iter().filter(|record| record["at"].as_f64().unwrap() <= at).count();
        before(&began) - before(&ended)
    };
    let most = began.iter().map(|record| running(record["at"].as_f64().unwrap())).max();
    assert_eq!(most, Some(3));
}

#[test]
fn messages_are_delivered_in_the_order_they_were_sent() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);
    let texts: Vec<String> = (0..20).map(|number| format!("number {number}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();

    send(&host, &texts[..10]);
    for text in &texts[10..] {
        send(&host, &[text]);
    }
    send(&host, &["last"]);

    assert_eq!(app.sunk_until("last"), texts);
}

#[test]
fn a_failed_message_keeps_its_place_in_the_order() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);

    send(&host, &[r#"{"fail": 1}"#, "second", "third"]);

    assert_eq!(app.sunk_until("third"), [r#"{"fail": 1}"#, r#"{"fail": 1}"#, "second"]);
}

#[test]
fn messages_outlive_a_host_that_is_killed() {
    let Some(app) = App::new() else { return };
    let mut host = app.start(&[], &[]);
    let waiting = json!({ "until": app.gate() }).to_string();
    send(&host, &[&waiting, "second", "third"]);
    app.recorded("begin", "Sink", 1);

    host.program.kill();
    app.open();
    let host = app.start(&[], &[]);

    assert_eq!(app.sunk_until("third"), [&waiting, "second"]);
    assert_eq!(deliveries(&app.records("begin", "Sink")), [1, 2, 1, 1]);
    empty(&host);
}

#[test]
fn a_message_whose_handler_crashes_is_delivered_again() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);
    let first = handler_process(&host);
    let waiting = json!({ "until": app.gate() }).to_string();
    send(&host, &[&waiting]);
    app.recorded("begin", "Sink", 1);

    crate::support::signal(first, "KILL");
    app.open();
    let ended = app.recorded("end", "Sink", 1);
    empty(&host);

    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0]["text"], waiting.as_str());
    assert_ne!(ended[0]["process"], first);
    // A call that met the dying handler may have cost one more delivery.
    assert!(ended[0]["delivery"].as_u64() >= Some(2), "{ended:?}");
}

fn batches(app: &App, data_type: &Value) {
    app.function(
        "Sink",
        &json!([{ "type": "serviceBusTrigger", "direction": "in", "name": "messages", "queueName": "cases", "connection": "ServiceBusConnection",
            "cardinality": "many", "dataType": data_type }]),
    );
}

#[test]
fn a_trigger_of_many_is_given_all_waiting_messages_parsed() {
    let Some(app) = App::new() else { return };
    batches(&app, &Value::Null);
    let host = app.start(&[], &[]);

    send(&host, &[r#"{"id": 1}"#, "2", r#""three""#]);
    let records = app.recorded("end", "Sink", 1);
    empty(&host);

    assert_eq!(records[0]["text"], json!([{ "id": 1 }, 2, "three"]));
    assert_eq!(records.len(), 1);
}

#[test]
fn a_trigger_of_many_fails_and_completes_as_one() {
    let Some(app) = App::new() else { return };
    batches(&app, &json!("string"));
    let host = app.start(&["--max-delivery-count", "2"], &[]);

    tell(&host, &json!({ "send": [r#"{"answer": {"status": 500, "contentType": "text/plain", "body": "no"}}"#, "other"] }));
    let dead = app.recorded("end", "Dead", 1);
    app.recorded("begin", "Dead", 2);

    let batches: BTreeSet<_> = app.records("end", "Sink").iter().map(|record| record["text"].as_array().unwrap().len()).collect();
    assert_eq!(app.records("end", "Sink").len(), 2);
    assert_eq!(batches, BTreeSet::from([2]));
    assert_eq!(dead[0]["properties"]["DeadLetterReason"], "MaxDeliveryCountExceeded");
}

#[test]
fn the_status_page_counts_what_waits_and_what_is_being_worked_on() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);
    let waiting = json!({ "until": app.gate() }).to_string();

    send(&host, &[&waiting, "second", "third"]);
    app.recorded("begin", "Sink", 1);
    let figures = host.figures();
    app.open();
    empty(&host);

    assert_eq!(figures["serviceBus"]["queues"]["cases"], json!({ "active": 2, "locked": 1, "scheduled": 0 }));
}

#[test]
fn the_name_of_a_queue_has_no_case() {
    let Some(app) = App::new() else { return };
    app.function("Dead", &json!([{ "type": "serviceBusTrigger", "direction": "in", "name": "message", "queueName": "Cases/$DeadLetterQueue", "connection": "ServiceBusConnection" }]));
    let host = app.start(&["--max-delivery-count", "1"], &[]);

    send(&host, &[r#"{"fail": 1}"#]);

    app.recorded("begin", "Dead", 1);
}

#[test]
fn a_message_answered_with_nothing_is_held_until_the_function_timeout() {
    let Some(app) = App::new() else { return };
    let arguments = ["--lock-duration", "500ms", "--max-delivery-count", "1"];
    let host = app.start(&arguments, &[("AzureFunctionsJobHost__functionTimeout", "00:00:01")]);
    tell(&host, &json!({ "exit": 200 }));
    eventually("the handler is ready again", || (logged(&host, "the handler is ready") == 2).then_some(()));
    let first = handler_process(&host);

    send(&host, &[r#"{"answer": {"status": 204, "contentType": null, "body": ""}}"#]);
    let dead = app.recorded("begin", "Dead", 1);

    let began = app.records("begin", "Sink");
    let held = dead[0]["at"].as_f64().unwrap() - began[0]["at"].as_f64().unwrap();
    assert_eq!(began.len(), 1);
    assert!(held >= 2.9, "{held}");
    assert_eq!(began[0]["process"], first);
    assert_ne!(dead[0]["process"], first);
}
