//! The end of an order is told to a receiver: at least once, under one id, signed, and never before the end.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::adoption;
use crate::emulator::Emulator;
use crate::fake::{Fake, Heard, Reply, reply};
use crate::support::{
    Directory, Handler, Program, events, eventually, hopeless, repository, skipped, submit, submit_order, submit_with, try_submit,
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_c2VjcmV0LW9mLWEtcm90YXRpb24tMDEyMzQ1Ng==";

fn ok() -> Reply {
    reply(204, &[], "")
}

/// A handler that tells every end to this receiver.
fn telling(data: &Path, receiver: &Fake, settings: &[(&str, &str)]) -> Handler {
    let url = format!("{}/hooks?token=t0p", receiver.url);
    Handler::start(data, &[&[("CALLBACK_URL", url.as_str()), ("CALLBACK_SECRET", SECRET)], settings].concat())
}

/// Sweeps until the receiver has heard this number of requests.
fn sweep_until_heard(handler: &Handler, receiver: &Fake, requests: usize) -> Vec<Heard> {
    eventually("the receiver is told", || {
        handler.sweep();
        Some(receiver.heard()).filter(|heard| heard.len() >= requests)
    })
}

fn database(data: &Path) -> rusqlite::Connection {
    let database = rusqlite::Connection::open(data.join("records.db")).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    database
}

/// Makes the next try of every pending callback due, hours before its time.
fn make_due(data: &Path) {
    let sql = "UPDATE orders SET due_at = 1000, record = json_set(record, '$.dueAt', '1970-01-01T00:00:01.000Z') \
               WHERE due_at IS NOT NULL AND expires_at IS NOT NULL";
    database(data).execute(sql, []).unwrap();
}

fn record(data: &Path, id: &str) -> Value {
    let sql = "SELECT record FROM orders WHERE record ->> 'trackingId' = ?1";
    let text: String = database(data).query_row(sql, [id], |row| row.get(0)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Waits until the callback of this order is in this state.
fn until(data: &Path, id: &str, state: &str, attempts: u64) -> Value {
    until_notice(data, id, |notice| notice["state"] == state && notice["attempts"] == attempts)
}

/// Waits until this number of tries of the order's callback have failed, the last one with this code.
fn until_failed(data: &Path, id: &str, attempts: u64, code: &str) {
    until_notice(data, id, |notice| notice["state"] == "pending" && notice["attempts"] == attempts && notice["code"] == code);
}

fn until_notice(data: &Path, id: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    eventually("the callback has the expected state", || Some(record(data, id)).filter(|record| is_so(&record["callback"]["notice"])))
}

fn operate(data: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> (i32, String) {
    let (status, lines) = Program::waybill(&[arguments, &["--data", data.to_str().unwrap()]].concat(), settings).end();
    (status.code().unwrap(), lines.join("\n"))
}

/// Verifies with the official library; skipped where Node.js or the library is missing, which `REQUIRE_ALL=1` makes a failure.
fn verify(heard: &Heard, secret: &str) {
    let directory = repository().join("tests/independent");
    if Command::new("node").arg("--version").output().is_err() || !directory.join("node_modules/standardwebhooks/package.json").exists() {
        let missing = "node or the library is not installed: npm ci --prefix tests/independent";
        assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "{missing}");
        return skipped(missing);
    }
    let mut command = Command::new("node");
    command.arg(directory.join("verify.js")).env_clear().envs([
        ("SECRET", secret),
        ("BODY", &heard.body),
        ("ID", &heard.headers["webhook-id"]),
        ("TIMESTAMP", &heard.headers["webhook-timestamp"]),
        ("SIGNATURE", &heard.headers["webhook-signature"]),
    ]);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    let (status, lines) = Program::start(&mut command).end();
    assert!(status.success(), "{lines:?}");
    let told: Value = serde_json::from_str(&lines.concat()).unwrap();
    assert_eq!((&told["verified"], &told["forged"]), (&serde_json::from_str(&heard.body).unwrap(), &json!(false)));
}

#[test]
fn each_kind_of_end_is_told_and_the_official_library_verifies_it() {
    let data = Directory::new();
    let receiver = Fake::replying([ok()]);
    let handler = telling(data.path(), &receiver, &[("CALLBACK_SECRET", &format!("{OTHER},{SECRET}"))]);
    let (completed, message) = submit(&handler, "CB-1");
    assert!(receiver.heard().is_empty(), "it has not ended");
    assert_eq!(handler.process(&message).status, 200);
    until(data.path(), &completed, "delivered", 1);
    let (failed, message) = submit_order(&handler, &hopeless("CB-2"));
    assert_eq!(handler.process(&message).status, 200);
    until(data.path(), &failed, "delivered", 1);
    let (cancelled, _) = submit(&handler, "CB-3");
    assert_eq!(handler.cancel(&cancelled).status, 200);
    until(data.path(), &cancelled, "delivered", 1);

    let heard = receiver.heard();

    assert_eq!(heard.len(), 3);
    for (heard, id, kind) in [(&heard[0], &completed, "completed"), (&heard[1], &failed, "failed"), (&heard[2], &cancelled, "cancelled")] {
        assert_eq!((heard.target(), heard.headers["content-type"].as_str()), ("/hooks?token=t0p", "application/json"));
        let body: Value = serde_json::from_str(&heard.body).unwrap();
        let mut status = handler.status(id).body;
        assert_eq!((&body["type"], &body["timestamp"]), (&json!(format!("order.{kind}")), &status["completedAt"]));
        assert_eq!(events(&status).last(), Some(&"notified"));
        // What has changed since is that the end was told.
        status["history"].as_array_mut().unwrap().pop();
        status["updatedAt"] = body["data"]["updatedAt"].clone();
        assert_eq!(body["data"], status);
        verify(heard, SECRET);
        verify(heard, OTHER);
    }
    let ids: std::collections::BTreeSet<_> = heard.iter().map(|heard| &heard.headers["webhook-id"]).collect();
    assert_eq!(ids.len(), 3);
    let lines = handler.program.lines().join("\n");
    assert!(lines.contains("callback delivered"), "{lines}");
    assert!(!lines.contains(&SECRET[6..]) && !lines.contains("t0p"), "{lines}");
}

#[test]
fn a_callback_is_tried_again_under_its_id_and_a_redirect_is_not_followed() {
    let data = Directory::new();
    let elsewhere = Fake::replying([ok()]);
    let receiver = Fake::replying([reply(500, &[], "secret words"), reply(302, &[("Location", &elsewhere.url)], ""), ok()]);
    let handler = telling(data.path(), &receiver, &[]);
    let (id, message) = submit(&handler, "CB-4");
    assert_eq!(handler.process(&message).status, 200);

    until_failed(data.path(), &id, 1, "http_500");
    let (_, card) = operate(data.path(), &["orders", "show", &id], &[]);
    assert!(card.contains("callback  to CALLBACK_URL: pending, 1 try, http_500; next at "), "{card}");
    assert_eq!(operate(data.path(), &["verify"], &[]).0, 0, "a pending callback is no disagreement");
    make_due(data.path());
    sweep_until_heard(&handler, &receiver, 2);
    until_failed(data.path(), &id, 2, "http_302");
    make_due(data.path());
    let heard = sweep_until_heard(&handler, &receiver, 3);
    let told = until(data.path(), &id, "delivered", 3);

    assert!(heard.iter().all(|one| one.headers["webhook-id"] == heard[0].headers["webhook-id"]), "{heard:?}");
    assert!(elsewhere.heard().is_empty());
    assert_eq!((told.get("dueAt"), &told["schemaVersion"]), (None, &json!(3)));
    handler.sweep();
    let (next, message) = submit(&handler, "CB-4-next");
    assert_eq!(handler.process(&message).status, 200);
    until(data.path(), &next, "delivered", 1);
    assert_eq!(receiver.heard().len(), 4, "the callback of the first order is not sent once more");
    assert!(!handler.program.lines().join("\n").contains("secret words"));
}

#[test]
fn a_receiver_that_wants_none_is_left_alone_until_an_operator_asks() {
    let data = Directory::new();
    let receiver = Fake::replying([reply(410, &[], ""), ok()]);
    let handler = telling(data.path(), &receiver, &[]);
    let (open, _) = submit(&handler, "CB-5");
    let (id, message) = submit(&handler, "CB-6");
    assert_eq!(handler.process(&message).status, 200);
    until(data.path(), &id, "givenUp", 1);
    let (_, card) = operate(data.path(), &["orders", "show", &id], &[]);
    assert!(card.contains("given up, 1 try, http_410; waybill callback retry"), "{card}");
    assert_eq!(events(&handler.status(&id).body).last(), Some(&"unnotified"));

    let (code, told) = operate(data.path(), &["callback", "retry", &id], &[]);
    assert!(code == 0 && told.contains("pending again, under the same id"), "{told}");
    let (code, refused) = operate(data.path(), &["callback", "retry", &open, "--json"], &[]);
    assert!(code == 1 && refused.contains("\"not_ended\""), "{refused}");
    make_due(data.path());
    let heard = sweep_until_heard(&handler, &receiver, 2);

    until(data.path(), &id, "delivered", 2);
    assert_eq!(heard[0].headers["webhook-id"], heard[1].headers["webhook-id"]);
}

#[test]
fn an_order_without_a_callback_has_nothing_of_it_and_an_operator_is_told_so() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (id, message) = submit(&handler, "CB-7");
    assert_eq!(handler.process(&message).status, 200);

    let kept = record(data.path(), &id);

    assert_eq!((kept.get("callback"), kept.get("dueAt"), &kept["schemaVersion"]), (None, None, &json!(2)));
    let (code, refused) = operate(data.path(), &["callback", "retry", &id], &[]);
    assert!(code == 1 && refused.contains("neither the order nor CALLBACK_URL names a URL"), "{refused}");
}

/// A process that ends an order, and is gone before it could tell: here one that never tells, and does not know of the setting.
#[test]
fn an_end_that_no_process_told_is_found_by_the_sweeper() {
    let data = Directory::new();
    let receiver = Fake::replying([ok()]);
    let handler = telling(data.path(), &receiver, &[]);
    let (id, _) = submit(&handler, "CB-8");
    assert_eq!(operate(data.path(), &["orders", "cancel", &id], &[]).0, 0);
    assert!(receiver.heard().is_empty());

    let heard = sweep_until_heard(&handler, &receiver, 1);

    assert!(heard[0].body.contains("order.cancelled"));
    until(data.path(), &id, "delivered", 1);
}

#[test]
fn a_handler_that_is_killed_while_it_tells_is_followed_by_one_that_tells_under_the_same_id() {
    let data = Directory::new();
    let receiver = Fake::replying([Reply::Silence, ok()]);
    let mut handler = telling(data.path(), &receiver, &[]);
    let (id, message) = submit(&handler, "CB-9");
    assert_eq!(handler.process(&message).status, 200);
    receiver.until_heard(1);
    handler.program.kill();
    let handler = telling(data.path(), &receiver, &[]);
    handler.sweep();
    make_due(data.path());

    let heard = sweep_until_heard(&handler, &receiver, 2);

    until(data.path(), &id, "delivered", 2);
    assert_eq!(heard[0].headers["webhook-id"], heard[1].headers["webhook-id"]);
}

#[test]
fn the_end_after_a_redrive_has_another_id() {
    let data = Directory::new();
    let receiver = Fake::replying([ok()]);
    let handler = telling(data.path(), &receiver, &[]);
    let (id, message) = submit_order(&handler, &hopeless("CB-10"));
    assert_eq!(handler.process(&message).status, 200);
    until(data.path(), &id, "delivered", 1);
    assert_eq!(operate(data.path(), &["orders", "retry", &id], &[]).0, 0);
    assert_eq!(record(data.path(), &id)["callback"].get("notice"), None, "it has not ended");

    let again = eventually("its message is sent again", || {
        let life = record(data.path(), &id)["life"].as_str().unwrap().to_owned();
        Some(message.replace(serde_json::from_str::<Value>(&message).unwrap()["life"].as_str().unwrap(), &life))
    });
    assert_eq!(handler.process(&again).status, 200);
    receiver.until_heard(2);

    let heard = receiver.heard();
    assert_ne!(heard[0].headers["webhook-id"], heard[1].headers["webhook-id"]);
}

#[test]
fn an_order_may_name_a_receiver_of_its_own_among_the_hosts_that_are_allowed() {
    let data = Directory::new();
    let (everybody, own) = (Fake::replying([ok()]), Fake::replying([ok()]));
    let handler = telling(data.path(), &everybody, &[("CALLBACK_ALLOWED_HOSTS", "hooks.example.com, 127.0.0.1")]);
    let header = ("X-Callback-Url", own.url.as_str());
    let (id, message) = submit_with(&handler, "CB-11", &[header]);
    let (same, _) = submit_with(&handler, "CB-11", &[("X-Callback-Url", "https://hooks.example.com/other")]);
    assert_eq!(id, same, "the first counts");
    assert_eq!(record(data.path(), &id)["callback"]["url"], format!("{}/", own.url));
    assert_eq!(handler.process(&message).status, 200);
    until(data.path(), &id, "delivered", 1);
    assert_eq!((own.heard().len(), everybody.heard().len()), (1, 0));

    let long = format!("https://hooks.example.com/{}", "a".repeat(2_048));
    for url in [
        "http://hooks.example.com/",
        "https://evil.example.com/",
        "https://u:t0p@hooks.example.com/",
        "https://hooks.example.com/#t0p",
        "https://169.254.169.254/latest/meta-data",
        "http://localhost:1/",
        "",
        &long,
    ] {
        let refused = try_submit(&handler, "CB-12", &[("X-Callback-Url", url)]);
        assert_eq!((refused.status, &refused.body["type"]), (400, &json!("urn:problem-type:waybill:invalid-callback-url")), "{url}");
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains("X-Callback-Url") && !detail.contains("t0p"), "{detail}");
    }
    let twice = try_submit(&handler, "CB-12", &[header, header]);
    assert_eq!(twice.status, 400, "{twice:?}");
    let elsewhere = Directory::new();
    let none = Handler::start(elsewhere.path(), &[]);
    assert_eq!(try_submit(&none, "CB-13", &[("X-Callback-Url", "https://hooks.example.com/")]).status, 400);
}

/// More ended orders than one reading of the overdue ones holds, all of them due.
#[test]
fn callbacks_that_wait_hide_no_overdue_order() {
    let data = Directory::new();
    let receiver = Fake::replying([ok()]);
    let teller = telling(data.path(), &receiver, &[]);
    let (id, message) = submit(&teller, "CB-14");
    assert_eq!(teller.process(&message).status, 200);
    until(data.path(), &id, "delivered", 1);
    drop(teller);
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1100)
               INSERT INTO orders (tracking_id, etag, due_at, expires_at, record)
               SELECT randomblob(16), i, 1, expires_at, json_set(record, '$.callback.notice.state', 'pending', '$.dueAt', '1970-01-01T00:00:01.000Z')
               FROM n, (SELECT record, expires_at FROM orders LIMIT 1)";
    database(data.path()).execute(sql, []).unwrap();
    // Nothing is told here, so they all stay.
    let handler = Handler::start(data.path(), &[("OVERDUE_AFTER", "100ms")]);
    let (_, message) = submit(&handler, "CB-15");

    let sent = eventually("the overdue order is sent again", || {
        let swept = handler.invoke("OrderSweeper", &json!({ "Data": {}, "Metadata": {} })).json();
        swept["Outputs"]["orderMessage"][0].as_str().map(str::to_owned)
    });

    assert_eq!(sent, message);
    assert_eq!(receiver.heard().len(), 1);
}

#[test]
fn an_end_in_cosmos_db_is_told_and_its_record_expires_in_time() {
    let emulator = Emulator::start(&[]);
    let receiver = Fake::replying([reply(500, &[], ""), ok()]);
    let url = receiver.url.clone();
    let handler = Handler::begin(&emulator.with(&[("CALLBACK_URL", &url), ("CALLBACK_SECRET", SECRET)])).ready();
    let (id, message) = submit(&handler, "CB-16");
    assert_eq!(handler.process(&message).status, 200);
    receiver.until_heard(1);

    // The second try comes after five seconds, by the sweeper.
    let heard = sweep_until_heard(&handler, &receiver, 2);

    assert_eq!(heard[0].headers["webhook-id"], heard[1].headers["webhook-id"]);
    eventually("it is noted", || (events(&handler.status(&id).body).last() == Some(&"notified")).then_some(()));
}

#[test]
fn a_setting_without_the_secret_stops_the_start_and_the_secret_is_masked() {
    let (status, lines) =
        Program::waybill(&["serve"], &[("FUNCTIONS_CUSTOMHANDLER_PORT", "1"), ("CALLBACK_URL", "https://shop.example.com/")]).end();
    assert!(!status.success() && lines.concat().contains("CALLBACK_SECRET is not set, but CALLBACK_URL is"), "{lines:?}");

    let settings = [("CALLBACK_URL", "https://shop.example.com/"), ("CALLBACK_SECRET", SECRET)];
    let (_, lines) = Program::waybill(&["settings"], &settings).end();
    let shown = lines.join("\n");
    assert!(shown.contains("CALLBACK_SECRET") && !shown.contains(&SECRET[6..]), "{shown}");
}

#[test]
fn an_adopted_order_that_is_refused_is_told_at_once() {
    let data = Directory::new();
    let receiver = Fake::replying([ok()]);
    let handler = telling(data.path(), &receiver, &[adoption::ADOPTS]);

    assert_eq!(handler.process(&adoption::message("{'orderId':'CB-18'}")).status, 200);

    until(data.path(), adoption::ID, "delivered", 1);
    assert!(receiver.heard()[0].body.contains("order.failed"));
}

#[test]
fn a_host_that_is_taken_off_the_list_gets_no_callback() {
    let data = Directory::new();
    let (all, own) = (Fake::replying([ok()]), Fake::replying([ok()]));
    let handler = telling(data.path(), &all, &[("CALLBACK_ALLOWED_HOSTS", "127.0.0.1")]);
    let accepted = try_submit(&handler, "CB-19", &[("X-Callback-Url", &own.url)]);
    let (id, message) = accepted.accepted();
    drop(handler);
    let handler = telling(data.path(), &all, &[("CALLBACK_ALLOWED_HOSTS", "hooks.example.com")]);

    assert_eq!(handler.process(&message).status, 200);

    until_failed(data.path(), &id, 1, "target_not_allowed");
    assert!(own.heard().is_empty() && all.heard().is_empty());
}

#[test]
fn a_repeat_that_names_a_receiver_allowed_no_more_is_the_order_that_was_accepted() {
    let data = Directory::new();
    let (all, own) = (Fake::replying([ok()]), Fake::replying([ok()]));
    let header = [("X-Callback-Url", own.url.as_str())];
    let handler = telling(data.path(), &all, &[("CALLBACK_ALLOWED_HOSTS", "127.0.0.1")]);
    let (id, _) = submit_with(&handler, "CB-20", &header);
    drop(handler);
    let handler = telling(data.path(), &all, &[("CALLBACK_ALLOWED_HOSTS", "hooks.example.com")]);

    let again = try_submit(&handler, "CB-20", &header);
    let other = try_submit(&handler, "CB-21", &header);

    assert_eq!((again.status, &again.body["trackingId"]), (202, &json!(id)), "{again:?}");
    assert_eq!((other.status, &other.body["type"]), (400, &json!("urn:problem-type:waybill:invalid-callback-url")), "{other:?}");
}

#[test]
fn a_slow_receiver_leaves_places_to_the_others() {
    let data = Directory::new();
    let (slow, quick) = (Fake::replying([]), Fake::replying([ok()]));
    let handler = telling(data.path(), &slow, &[("CALLBACK_ALLOWED_HOSTS", "127.0.0.1, localhost")]);
    let waiting: Vec<_> = (0..20)
        .map(|number| {
            let (id, message) = submit_with(&handler, &format!("CB-S{number}"), &[("X-Callback-Url", &slow.url)]);
            assert_eq!(handler.process(&message).status, 200);
            id
        })
        .collect();
    let url = quick.url.replace("127.0.0.1", "localhost");
    let (id, message) = submit_with(&handler, "CB-Q", &[("X-Callback-Url", &url)]);
    assert_eq!(handler.process(&message).status, 200);

    until(data.path(), &id, "delivered", 1);

    let told = quick.heard()[0].at;
    assert_eq!(slow.heard().iter().filter(|heard| heard.at < told).count(), 16);
    let put_off = |id: &String| record(data.path(), id)["callback"]["notice"]["code"] == "receiver_busy";
    let id = eventually("one is put off", || waiting.iter().find(|id| put_off(id)));
    assert_eq!(record(data.path(), id)["callback"]["notice"]["attempts"], 0);
}
