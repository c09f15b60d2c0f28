//! What an operator sees and does, beside a running host: `waybill orders`, `quarantine`, `verify`.

use std::process::ExitStatus;

use serde_json::{Value, json};

use crate::emulator::Emulator;
use crate::support::{Directory, Handler, Host, PATIENCE, Program, events, eventually, hopeless, order, request, submit, submit_with};

/// Runs a command to its end: status, and its lines.
fn waybill(arguments: &[&str], settings: &[(&str, &str)]) -> (ExitStatus, Vec<String>) {
    Program::waybill(arguments, settings).end()
}

/// On the records of a directory, for machines.
fn on(data: &Directory, arguments: &[&str]) -> (bool, Vec<Value>) {
    let data = data.path().to_str().unwrap();
    let (status, lines) = waybill(&[arguments, &["--json", "--data", data]].concat(), &[]);
    (status.success(), lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

#[test]
fn a_failed_order_is_found_understood_and_put_back_on_its_way_beside_a_running_host() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    let good = host.submit(&order("O-1"));
    // With line feeds between its values.
    let text = serde_json::to_string_pretty(&hopeless("O-2")).unwrap().replace("  ", "\t");
    let sent = request("POST", &host.url("/api/orders"), &[("Content-Type", "application/json")], Some(text.as_bytes()));
    let bad = sent.json()["trackingId"].as_str().unwrap().to_owned();
    host.ended(&good);
    host.ended(&bad);

    let (_, failed) = on(&data, &["orders", "list", "--status", "failed"]);
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!((&failed[0]["trackingId"], &failed[0]["error"]["code"]), (&json!(bad), &json!("total_too_large")));
    let (_, shown) = on(&data, &["orders", "show", &bad]);
    assert_eq!(events(&shown[0]), ["accepted", "claimed", "failed"]);
    let directory = data.path().to_str().unwrap();
    let words = |arguments: &[&str]| waybill(&[arguments, &["--data", directory]].concat(), &[]).1.concat();
    let card = words(&["orders", "show", &bad[..8]]);
    assert!(card.contains("content   {") && card.contains("\"orderId\": \"O-2\""), "{card}");
    assert!(words(&["orders", "list", "--order", "o-2"]).contains("no order matches"));
    assert!(words(&["orders", "list", "--limit", "1"]).contains("these are the newest 1; --limit lists more"));
    assert!(words(&["orders", "show", "abcd-"]).contains("waybill orders list --order finds an order by its number"));
    let (retried, told) = on(&data, &["orders", "retry", &bad]);
    assert!(retried && told[0]["done"] == "sent", "{told:?}");

    let again = eventually("it was tried again", || {
        let status = host.get(&format!("/api/orders/{bad}/status")).json();
        (status["attempt"] == 2 && status["status"] == "failed").then_some(status)
    });
    assert_eq!(events(&again), ["accepted", "claimed", "failed", "redriven", "claimed", "failed"]);
    assert!(words(&["orders", "show", &bad]).contains("tries     1 of 5, 2 with those before it was sent again"));
    let (watched, _) = on(&data, &["orders", "watch", &bad]);
    assert!(!watched, "it did not complete");
    assert!(on(&data, &["orders", "watch", &good]).0);
    eventually("everything agrees", || on(&data, &["verify"]).0.then_some(()));
}

#[test]
fn only_failed_orders_are_put_back_and_many_only_with_yes() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    let id = host.submit(&order("O-3"));
    host.ended(&id);
    let directory = data.path().to_str().unwrap();

    let (completed, lines) = waybill(&["orders", "retry", &id, "--data", directory], &[]);
    let (many, said) = waybill(&["orders", "retry", &id, &id, "--data", directory], &[]);
    let (unknown, told) = waybill(&["orders", "show", "0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10", "--data", directory], &[]);
    let (wrong, _) = waybill(&["orders", "show", "nonsense", "--data", directory], &[]);

    assert!(completed.code() == Some(1) && lines.concat().contains("it is completed"), "{lines:?}");
    assert!(many.code() == Some(2) && said.concat().contains("--yes"), "{said:?}");
    assert!(unknown.code() == Some(1) && told.concat().contains("no order has the tracking id"), "{told:?}");
    assert_eq!(wrong.code(), Some(2));
}

#[test]
fn an_operator_cancels_what_nobody_wants_any_more_whoever_owns_it() {
    let data = Directory::new();
    let settings = [("LEASE", "1s"), ("WORK_DELAY", "20s"), ("WEBSITE_AUTH_ENABLED", "True")];
    let handler = Handler::start(data.path(), &settings);
    // Whom the platform let in.
    let principal = |name| [("X-MS-CLIENT-PRINCIPAL-ID", name), ("X-MS-CLIENT-PRINCIPAL-IDP", "aad")];
    let (waiting, late) = submit_with(&handler, "O-6", &principal("alice"));
    let (working, message) = submit_with(&handler, "O-7", &principal("bob"));

    std::thread::scope(|scope| {
        let work = scope.spawn(|| handler.process(&message).status);
        eventually("it is worked on", || (on(&data, &["orders", "show", &working]).1[0]["status"] == "processing").then_some(()));
        let directory = data.path().to_str().unwrap();
        let (many, said) = waybill(&["orders", "cancel", &waiting, &working, "--data", directory], &[]);
        assert!(many.code() == Some(2) && said.concat().contains("--yes"), "{said:?}");
        let (done, told) = on(&data, &["orders", "cancel", "--yes", &waiting, &working]);
        assert!(done && told[0]["done"] == "cancelled" && told[1]["done"] == "cancel_requested", "{told:?}");
        assert_eq!(work.join().unwrap(), 200);
    });
    assert_eq!(handler.process(&late).status, 200);

    let shown = |id: &str| on(&data, &["orders", "show", id]).1.remove(0);
    assert_eq!(
        (events(&shown(&waiting)), events(&shown(&working))),
        (vec!["accepted", "cancelled"], vec!["accepted", "claimed", "cancelled"])
    );
    let (again, told) = on(&data, &["orders", "cancel", &waiting]);
    assert!(again && told[0]["done"] == "cancelled", "{told:?}");
    assert!(on(&data, &["verify"]).0, "nothing is left behind");
}

#[test]
fn an_order_that_has_ended_is_not_cancelled_by_an_operator_either() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (id, message) = submit(&handler, "O-8");
    assert_eq!(handler.process(&message).status, 200);
    let directory = data.path().to_str().unwrap();

    let (ended, told) = waybill(&["orders", "cancel", &id, "--data", directory], &[]);
    let (unknown, said) = waybill(&["orders", "cancel", "0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10", "--data", directory], &[]);

    assert!(ended.code() == Some(1) && told.concat().contains("it is completed and stays so"), "{told:?}");
    assert!(unknown.code() == Some(1) && said.concat().contains("no order has the tracking id"), "{said:?}");
    let (none, lines) = on(&data, &["orders", "cancel", &id]);
    assert!(
        !none && lines[0]["trackingId"] == json!(id) && lines[0]["problem"] == "order_ended" && lines[0]["status"] == "completed",
        "{lines:?}"
    );
}

#[test]
fn a_quarantined_message_is_found_shown_and_sent_again() {
    let data = Directory::new();
    let host = Host::with(crate::support::repository(), data.path(), &["--max-delivery-count", "2"], &[]);
    let port = host.figures()["handlerPort"].as_u64().unwrap();
    let dead = json!({ "Data": { "deadLetter": "\"nobody knows this\"" }, "Metadata": {} }).to_string();
    let kept = request("POST", &format!("http://127.0.0.1:{port}/OrderDeadLetter"), &[], Some(dead.as_bytes()));
    assert_eq!(kept.status, 200, "{kept:?}");

    let (_, list) = on(&data, &["quarantine", "list"]);
    let id = list[0]["id"].as_str().unwrap();
    let (_, shown) = on(&data, &["quarantine", "show", id]);
    let data_directory = data.path().to_str().unwrap();
    let (verified, told) = waybill(&["verify", "--json", "--data", data_directory], &[]);
    let (_, words) = waybill(&["verify", "--data", data_directory], &[]);
    let (released, _) = on(&data, &["quarantine", "retry", id]);

    assert_eq!(shown[0]["text"], "nobody knows this");
    let told: Value = told.iter().find_map(|line| serde_json::from_str(line).ok()).unwrap_or_else(|| panic!("{told:?}"));
    assert_eq!(verified.code(), Some(3), "a message in quarantine is no disagreement, and nothing that agrees");
    assert_eq!((&told["disagreements"], &told["quarantined"]), (&json!([]), &json!([id])));
    assert!(words.iter().any(|line| line.starts_with(&format!("in quarantine: message {id}"))), "{words:?}");
    assert!(words.concat().contains("0 disagreements, 1 messages in quarantine"), "{words:?}");
    assert!(released);
    // Nobody can read it this time either.
    eventually("it comes back", || on(&data, &["quarantine", "list"]).1.iter().any(|kept| kept["id"] == id).then_some(()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_long_quarantine_is_listed_in_little_memory() {
    use std::io::{BufRead, BufReader};
    const MESSAGES: u32 = 400;
    let data = Directory::new();
    drop(Handler::start(data.path(), &[]));
    let database = rusqlite::Connection::open(data.path().join("records.db")).unwrap();
    let sql = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?1) INSERT INTO quarantine
               SELECT randomblob(16), json_object('id', printf('0d6f2f1e-7c51-8a0e-9a55-%012d', n), 'reason', 'too old',
                   'keptAt', '2026-11-24T10:15:30Z', 'text', hex(zeroblob(120000))) FROM numbers";
    database.execute(sql, [MESSAGES]).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_waybill"));
    command.args(["quarantine", "list", "--json", "--data"]).arg(data.path()).env_clear().stdout(std::process::Stdio::piped());

    let mut list = command.spawn().unwrap();
    let mut lines = BufReader::new(list.stdout.take().unwrap()).lines();
    let listed = lines.by_ref().take(399).map(Result::unwrap).filter(|line| line.len() > 240_000).count();
    // The last line is longer than what a pipe holds, so the program waits for its reader.
    let status = std::fs::read_to_string(format!("/proc/{}/status", list.id())).unwrap();
    let rest = lines.map(Result::unwrap).collect::<Vec<_>>();

    assert_eq!((listed, rest.len(), list.wait().unwrap().code()), (399, 1, Some(0)));
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB").parse::<u32>().unwrap();
    assert!(peak < 64 * 1024, "{peak} KiB for messages of 94 MiB");
}

#[test]
fn an_order_that_nobody_looks_after_is_told() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("OVERDUE_AFTER", "100ms")]);
    assert_eq!(handler.ingress(Some(&order("O-4").to_string()), &[]).status, 202);
    drop(handler);
    // Four minutes ago, as it were.
    let database = rusqlite::Connection::open(data.path().join("records.db")).unwrap();
    let record: String = database.query_row("SELECT record FROM orders", [], |row| row.get(0)).unwrap();
    let mut record: Value = serde_json::from_str(&record).unwrap();
    record["dueAt"] = "2026-01-01T00:00:00.000Z".into();
    database.execute("UPDATE orders SET record = ?1", [record.to_string()]).unwrap();

    let (agrees, lines) = on(&data, &["verify"]);

    assert!(!agrees);
    let told = &lines[0]["disagreements"][0];
    assert_eq!(
        (&told["code"], &told["status"], &told["dueAt"]),
        (&json!("overdue"), &json!("accepted"), &json!("2026-01-01T00:00:00.000Z"))
    );
    let (_, lines) = waybill(&["verify", "--data", data.path().to_str().unwrap()], &[]);
    assert!(lines.concat().contains("does OrderSweeper run?"), "{lines:?}");
}

#[test]
fn an_order_that_nobody_looks_after_is_told_however_many_are_newer() {
    let data = Directory::new();
    let mut handler = Handler::start(data.path(), &[]);
    let lost = submit(&handler, "O-OLD").0;
    for number in 0..5 {
        let (_, message) = submit(&handler, &format!("O-NEW-{number}"));
        assert_eq!(handler.process(&message).status, 200);
    }
    handler.program.kill();
    let (agrees, lines) = on(&data, &["verify", "--limit", "3"]);
    assert!(agrees && lines[0]["records"] == 4 && lines[0]["all"] == false, "{lines:?}");
    // As if it had been due for a year.
    let database = rusqlite::Connection::open(data.path().join("records.db")).unwrap();
    let overdue =
        "UPDATE orders SET record = json_set(record, '$.dueAt', '2025-11-25T10:00:00.000Z') WHERE record ->> 'status' = 'accepted'";
    assert_eq!(database.execute(overdue, []).unwrap(), 1);

    for (limit, all) in [("3", false), ("6", false), ("7", true)] {
        let (agrees, lines) = on(&data, &["verify", "--limit", limit]);
        assert!(!agrees && lines[0]["all"] == all, "{lines:?}");
        assert_eq!(lines[0]["disagreements"][0]["trackingId"], json!(lost), "{lines:?}");
    }
}

#[test]
fn a_message_of_an_order_that_was_not_looked_at_is_no_stranger() {
    let data = Directory::new();
    let settings = [("WORK_DELAY", "20s"), ("LEASE", "1s")];
    let mut host = Host::start(data.path(), &settings);
    let id = host.submit(&order("O-9"));
    eventually("it is worked on", || (host.get(&format!("/api/orders/{id}/status")).json()["status"] == "processing").then_some(()));
    host.program.kill();
    // Its worker is gone, and its message is still there.
    eventually("its lease has run out", || (on(&data, &["orders", "cancel", &id]).1[0]["done"] == "cancelled").then_some(()));

    let (agrees, lines) = on(&data, &["verify", "--limit", "0"]);

    assert!(agrees && lines[0]["records"] == 0, "{lines:?}");
}

#[test]
fn the_same_commands_work_on_cosmos_db() {
    let emulator = Emulator::start(&[]);
    let handler = Handler::begin(&emulator.with(&[])).ready();
    let submit = |order: &Value| {
        let answer = handler.ingress(Some(&order.to_string()), &[]);
        assert_eq!(handler.process(&answer.message.unwrap()).status, 200);
        answer.body["trackingId"].as_str().unwrap().to_owned()
    };
    let (good, bad) = (submit(&order("O-5")), submit(&hopeless("O-6")));
    let data = Directory::new();
    let settings = emulator.with(&[("WAYBILL_DATA", data.path().to_str().unwrap())]);
    let run = |arguments: &[&str]| {
        let nowhere = data.path().to_str().unwrap();
        let (status, lines) = waybill(&[arguments, &["--json", "--app", nowhere]].concat(), &settings);
        (status.success(), lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect::<Vec<_>>())
    };

    let (_, all) = run(&["orders", "list"]);
    let (_, failed) = run(&["orders", "list", "--status", "failed", "--owner", "anonymous"]);
    let (_, old) = run(&["orders", "list", "--older-than", "1h"]);
    let (retried, told) = run(&["orders", "retry", &bad]);
    let (agrees, verified) = run(&["verify"]);
    let (_, few) = run(&["verify", "--limit", "0"]);
    let accepted = handler.status(&bad);
    let (cancelled, gone) = run(&["orders", "cancel", &bad]);

    let ids: Vec<&Value> = all.iter().map(|record| &record["trackingId"]).collect();
    assert_eq!(ids, [&json!(bad), &json!(good)], "newest first");
    assert_eq!(failed.len(), 1);
    assert!(old.is_empty(), "{old:?}");
    assert!(retried && told[0]["done"] == "accepted", "the sweeper sends its message: {told:?}");
    assert_eq!(accepted.body["status"], "accepted", "{:?}", handler.program.lines());
    assert!(agrees && verified[0]["records"] == 2 && few[0]["records"] == 1, "{verified:?} {few:?}");
    assert!(cancelled && gone[0]["done"] == "cancelled", "{gone:?}");
    // What was just read is shown for a second.
    eventually("it is shown as cancelled", || (handler.status(&bad).body["status"] == "cancelled").then_some(()));
}

#[test]
fn nowhere_is_told() {
    let data = Directory::new();

    let (status, lines) = waybill(&["orders", "list", "--data", data.path().to_str().unwrap()], &[]);

    assert!(status.code() == Some(1) && lines.concat().contains("there are no records in"), "{lines:?}");
}

/// A namespace that describes its queue so.
fn describes(status: u16, body: &'static str) -> (String, std::sync::mpsc::Receiver<String>) {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let head: Vec<String> =
                BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let _ = sender.send(head.join("\n"));
            let length = body.len();
            let _ = stream
                .write_all(format!("HTTP/1.1 {status} Said\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").as_bytes());
        }
    });
    (url, asked)
}

#[test]
fn with_a_queue_elsewhere_messages_are_counted_and_none_is_touched() {
    const CONNECTION: &str = "Endpoint=sb://shop.servicebus.windows.net/;SharedAccessKeyName=root;SharedAccessKey=c2VjcmV0";
    let counted = "<entry><content><QueueDescription><CountDetails xmlns:d2p1=\"urn:x\"><d2p1:ActiveMessageCount>3</d2p1:ActiveMessageCount>\
                   <d2p1:DeadLetterMessageCount>2</d2p1:DeadLetterMessageCount><d2p1:ScheduledMessageCount>1</d2p1:ScheduledMessageCount>\
                   </CountDetails></QueueDescription></content></entry>";
    let emulator = Emulator::start(&[]);
    let run = |url: &str, arguments: &[&str]| {
        let settings =
            emulator.with(&[("ServiceBusConnection", CONNECTION), ("SERVICE_BUS_REST_ENDPOINT", url), ("OrdersQueue", "orders")]);
        waybill(&[&["verify"], arguments].concat(), &settings)
    };
    let verify = |url: &str| {
        let (status, lines) = run(url, &["--json"]);
        let told: Value = lines.iter().find_map(|line| serde_json::from_str(line).ok()).unwrap_or_else(|| panic!("{lines:?}"));
        (status.code(), told)
    };
    let words = |url: &str| run(url, &[]).1.into_iter().find(|line| line.contains(" records")).unwrap_or_default();

    let (url, asked) = describes(200, counted);
    let (code, told) = verify(&url);
    assert_eq!((code, &told["disagreements"]), (Some(1), &json!([{ "code": "dead_letters", "messages": 2 }])), "{told}");
    assert_eq!((&told["compared"], &told["queue"]), (&json!("counts"), &json!({ "active": 3, "scheduled": 1, "deadLetters": 2 })));
    let head = asked.recv().unwrap();
    assert!(head.starts_with("GET /orders?api-version=2021-05 HTTP/1.1") && head.contains("SharedAccessSignature"), "{head}");
    assert!(asked.try_recv().is_err(), "one question");
    let compared = words(&url);
    assert!(compared.ends_with("no message was touched; the queue counts 3 active, 1 scheduled, 2 dead letters"), "{compared}");

    let (url, _asked) = describes(401, "");
    let (code, told) = verify(&url);
    assert_eq!((code, &told["disagreements"]), (Some(0), &json!([])), "{told}");
    assert_eq!((&told["compared"], &told["queue"]), (&json!("not_counted"), &Value::Null));
    let compared = words(&url);
    assert!(compared.contains("; records only: the queue's messages were not counted (Service Bus answers 401"), "{compared}");
}

#[test]
fn records_of_a_directory_have_no_messages_in_a_namespace_of_the_environment() {
    const CONNECTION: &str = "Endpoint=sb://shop.servicebus.windows.net/;SharedAccessKeyName=root;SharedAccessKey=c2VjcmV0";
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (id, message) = handler.ingress(Some(&hopeless("O-10").to_string()), &[]).accepted();
    assert_eq!(handler.process(&message).status, 200);
    let (url, asked) = describes(201, "");
    let settings = [("ServiceBusConnection", CONNECTION), ("SERVICE_BUS_REST_ENDPOINT", url.as_str()), ("OrdersQueue", "orders")];

    let (retried, lines) = waybill(&["orders", "retry", &id, "--data", data.path().to_str().unwrap()], &settings);

    assert!(retried.success() && lines.concat().contains("the sweeper sends its message"), "{lines:?}");
    assert!(asked.try_recv().is_err(), "nothing was sent there");
}

#[test]
fn failed_orders_are_found_by_code_and_age_and_retried_together() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let failed = |id: &str| {
        let (id, message) = handler.ingress(Some(&hopeless(id).to_string()), &[]).accepted();
        assert_eq!(handler.process(&message).status, 200);
        id
    };
    let (old, new, other) = (failed("O-11"), failed("O-12"), failed("O-13"));
    let database = rusqlite::Connection::open(data.path().join("records.db")).unwrap();
    let set = |id: &str, path: &str, value: &str| {
        let sql = "UPDATE orders SET record = json_set(record, ?2, ?3) WHERE record ->> 'trackingId' = ?1";
        assert_eq!(database.execute(sql, [id, path, value]).unwrap(), 1);
    };
    set(&old, "$.submittedAt", "2025-11-25T10:00:00.000Z");
    set(&other, "$.error.code", "backend_failed");
    let chosen = ["--status", "failed", "--error", "total_too_large", "--since", "2h"];
    let ids = |lines: &[Value]| lines.iter().map(|line| line["trackingId"].as_str().unwrap().to_owned()).collect::<Vec<_>>();

    let (_, listed) = on(&data, &[&["orders", "list"], &chosen[..]].concat());
    let (dry, would) = on(&data, &[&["orders", "retry", "--dry-run"], &chosen[..]].concat());
    let all = [&["orders", "retry", "--data", data.path().to_str().unwrap()], &chosen[..]].concat();
    let (unconfirmed, said) = waybill(&all, &[]);
    let (retried, told) = on(&data, &[&["orders", "retry", "--yes"], &chosen[..]].concat());

    assert_eq!(ids(&listed), [new.as_str()]);
    assert!(dry && ids(&would) == [new.as_str()] && would[0]["status"] == "failed", "{would:?}");
    assert!(unconfirmed.code() == Some(2) && said.concat().contains("--dry-run"), "{said:?}");
    assert!(retried && ids(&told) == [new.as_str()] && told[0]["done"].is_string(), "{told:?}");
    assert_eq!(on(&data, &["orders", "list", "--status", "failed"]).1.len(), 2, "the others are left");
}

/// What an operator knows of an order: the customer's own number for it, the customer, or the begin of its id from a line of the log.
/// Runs a command: how it ended, and its lines.
type Run<'r> = dyn Fn(&[&str]) -> (ExitStatus, Vec<String>) + 'r;

fn orders_are_found(handler: &Handler, run: &Run<'_>) {
    let submit = |order_id: &str, customer: &str| {
        let mut order = hopeless(order_id);
        order["customerId"] = customer.into();
        let (id, message) =
            handler.ingress(Some(&order.to_string()), &[("Idempotency-Key", &format!("{order_id}-{}", customer.len()))]).accepted();
        assert_eq!(handler.process(&message).status, 200);
        id
    };
    let (one, two, three) = (submit("FIND-1", "anna é"), submit("FIND-1", "bert"), submit("FIND-2", "bert"));
    let json = |arguments: &[&str]| {
        let (status, lines) = run(&[arguments, &["--json"]].concat());
        (status.code(), lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect::<Vec<_>>())
    };
    let ids = |arguments: &[&str]| -> Vec<String> {
        let found = json(&[&["orders", "list"], arguments].concat()).1;
        found.iter().map(|record| record["trackingId"].as_str().unwrap().to_owned()).collect()
    };

    // The clock of an account is estimated, so two of the same moment may stand in either order.
    let both = |found: Vec<String>, wanted: [&String; 2]| found.len() == 2 && wanted.iter().all(|id| found.contains(*id));
    assert!(both(ids(&["--order", "FIND-1"]), [&one, &two]));
    assert_eq!(ids(&["--order", "FIND-1", "--limit", "1"]).len(), 1);
    assert!(both(ids(&["--customer", "bert"]), [&two, &three]));
    assert_eq!(
        ids(&["--order", "FIND-1", "--customer", "anna é", "--error", "total_too_large", "--since", "1h"]),
        std::slice::from_ref(&one)
    );
    assert!(ids(&["--order", "FIND"]).is_empty());

    // Three random ids do not share nine digits.
    let begin = &one[..10];
    let (_, shown) = json(&["orders", "show", begin]);
    assert_eq!(shown[0]["trackingId"], json!(one));
    let (retried, told) = json(&["orders", "retry", &begin.to_uppercase()]);
    assert_eq!((retried, &told[0]["trackingId"]), (Some(0), &json!(one)), "{told:?}");
    let (none, told) = json(&["orders", "cancel", "00000000"]);
    assert_eq!((none, &told[0]["problem"], &told[0]["trackingId"]), (Some(1), &json!("order_not_found"), &json!("00000000")));
    let (short, said) = run(&["orders", "show", "abc"]);
    assert!(short.code() == Some(2) && said.concat().contains("4 digits or more"), "{said:?}");
}

#[test]
fn orders_are_found_by_what_an_operator_knows_in_the_embedded_store() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let place = data.path().to_str().unwrap();
    orders_are_found(&handler, &|arguments| waybill(&[arguments, &["--data", place]].concat(), &[]));

    // Two ids with a common begin.
    let database = rusqlite::Connection::open(data.path().join("records.db")).unwrap();
    let twins = ["0123456789ab8000800000000000000a", "0123456789ab8000800000000000000b"];
    for (row, twin) in twins.iter().enumerate() {
        let sql = format!(
            "UPDATE orders SET tracking_id = x'{twin}' WHERE rowid = (SELECT rowid FROM orders ORDER BY rowid LIMIT 1 OFFSET {row})"
        );
        assert_eq!(database.execute(&sql, []).unwrap(), 1);
    }
    let (ambiguous, said) = waybill(&["orders", "show", "01234567", "--data", place], &[]);
    assert_eq!(ambiguous.code(), Some(1));
    for twin in ["01234567-89ab-8000-8000-00000000000a", "01234567-89ab-8000-8000-00000000000b"] {
        assert!(said.concat().contains(twin), "{said:?}");
    }
    let (_, told) = on(&data, &["orders", "retry", "01234567"]);
    assert_eq!((&told[0]["problem"], told[0]["trackingIds"].as_array().map(Vec::len)), (&json!("ambiguous_id"), Some(2)), "{told:?}");
}

#[test]
fn orders_are_found_by_what_an_operator_knows_in_cosmos_db() {
    let emulator = Emulator::start(&[]);
    let handler = Handler::begin(&emulator.with(&[])).ready();
    let nowhere = Directory::new();
    let settings = emulator.with(&[("WAYBILL_DATA", nowhere.path().to_str().unwrap())]);
    orders_are_found(&handler, &|arguments| waybill(&[arguments, &["--app", nowhere.path().to_str().unwrap()]].concat(), &settings));
}

/// 100 MB of records, and as much in messages, within 96 MiB.
#[cfg(target_os = "linux")]
#[test]
fn many_large_orders_are_listed_and_verified_in_little_memory() {
    let data = Directory::new();
    let mut host = Host::start(data.path(), &[("WORK_DELAY", "60s")]);
    let mut large = order("LARGE");
    large["x"] = "x".repeat(230_000).into();
    host.submit(&large);
    host.program.kill();
    let records = rusqlite::Connection::open(data.path().join("records.db")).unwrap();
    let copies = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
                  INSERT INTO orders (tracking_id, etag, due_at, expires_at, record)
                  SELECT unhex(printf('%032d', i)), i, due_at, NULL,
                  json_set(record, '$.trackingId', printf('00000000-0000-8000-8000-%012d', i)) FROM n, (SELECT * FROM orders LIMIT 1)";
    records.execute(copies, []).unwrap();
    let queue = rusqlite::Connection::open(data.path().join("queue.db")).unwrap();
    let columns: String = queue
        .query_row("SELECT group_concat(name) FROM pragma_table_info('messages') WHERE name <> 'sequence_number'", [], |row| row.get(0))
        .unwrap();
    let copies = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
         INSERT INTO messages ({columns}) SELECT {columns} FROM n, (SELECT * FROM messages LIMIT 1)"
    );
    queue.execute(&copies, []).unwrap();
    let limited = |command: &str| {
        let script = format!("ulimit -d 98304; exec \"$1\" {command} --data \"$2\"");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_waybill"), data.path().to_str().unwrap()]);
        // A build without optimisation reads 100 MB.
        Program::start(&mut command).end_within(PATIENCE * 4)
    };

    let (listed, lines) = limited("orders list --limit 1000");
    assert!(listed.success() && lines.len() == 402, "{} lines: {:?}", lines.len(), lines.last());
    let (listed, lines) = limited("orders list --limit 1000 --json");
    assert!(listed.success() && lines.len() == 401, "{} lines", lines.len());
    let (verified, lines) = limited("verify");
    assert!(
        verified.code().is_some_and(|code| code < 2) && lines.last().is_some_and(|line| line.starts_with("401 records")),
        "{:?}",
        lines.last()
    );
}

/// A value that cannot be used is told as soon as it is read.
#[test]
fn no_setting_of_another_place_is_read_with_a_directory() {
    let data = Directory::new();
    drop(Handler::start(data.path(), &[]));
    let list = |settings: &[(&str, &str)], place: &[&str]| {
        let (status, lines) = waybill(&[&["orders", "list"], place].concat(), settings);
        (status.success(), lines)
    };
    let directory = ["--data", data.path().to_str().unwrap()];

    for name in [
        "ServiceBusConnection",
        "ServiceBusConnection__fullyQualifiedNamespace",
        "SERVICE_BUS_REST_ENDPOINT",
        "CosmosConnection",
        "CosmosConnection__accountEndpoint",
    ] {
        let useless = [("OrdersQueue", "orders"), (name, "nonsense")];
        assert!(!list(&useless, &["--app", data.path().to_str().unwrap()]).0, "{name} is read elsewhere");
        let (listed, lines) = list(&useless, &directory);
        assert!(listed, "{name}: {lines:?}");
    }
}
