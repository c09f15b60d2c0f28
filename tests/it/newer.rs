//! Records that a newer version wrote, after a rollback: this version leaves them alone, and they hold up nothing else.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Directory, Handler, eventually, http_envelope, queue_envelope, submit, try_submit};

/// More than one reading of the overdue orders holds.
const MANY: u32 = 501;

/// Makes records of these orders, or of all, ones that a newer version wrote.
fn make_newer(data: &Path) {
    change(data, "json_set(record, '$.schemaVersion', 99)");
}

/// Makes every record what this SQL expression says.
fn change(data: &Path, expression: &str) {
    let database = rusqlite::Connection::open(data.join("records.db")).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    database.execute(&format!("UPDATE orders SET record = {expression}"), []).unwrap();
}

/// Adds copies of the one record as a newer version would have written them, all of them overdue.
fn add_newer(data: &Path) {
    let database = rusqlite::Connection::open(data.join("records.db")).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
               INSERT INTO orders (tracking_id, etag, due_at, expires_at, record)
               SELECT randomblob(16), i, 1, NULL, json_set(record, '$.schemaVersion', 99, '$.submittedAt', '2020-01-01T00:00:00Z')
               FROM n, (SELECT record FROM orders LIMIT 1)";
    database.execute(sql, [MANY]).unwrap();
}

#[test]
fn records_of_a_newer_version_stop_neither_the_sweeper_nor_new_orders() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("OVERDUE_AFTER", "100ms"), ("ADMISSION_MAX_AGE", "10m")]);
    let (_, message) = submit(&handler, "N-1");
    add_newer(data.path());

    let sent = eventually("the overdue order of this version is sent again", || {
        let swept = handler.invoke("OrderSweeper", &json!({ "Data": {}, "Metadata": {} }));
        assert_eq!(swept.status, 200, "{swept:?}");
        swept.json()["Outputs"]["orderMessage"][0].as_str().map(str::to_owned)
    });

    assert_eq!(sent, message);
    // A reading of the backlog that begins now sees those records.
    let restarted = Handler::start(data.path(), &[("ADMISSION_MAX_AGE", "10m")]);
    assert_eq!(try_submit(&restarted, "N-2", &[]).status, 202);
    eventually("the backlog is read", || restarted.readyz().json()["admission"]["backlogSeconds"].as_u64());
    assert_eq!(try_submit(&restarted, "N-3", &[]).status, 202);
}

#[test]
fn an_owner_lists_the_orders_that_this_version_can_read() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    submit(&handler, "N-4");
    make_newer(data.path());
    let (other, _) = submit(&handler, "N-5");

    let list = handler.invoke("OrderList", &http_envelope("GET", "http://localhost/api/orders", &json!({}), None, &[]));

    let answer = list.json()["Outputs"]["res"].clone();
    assert_eq!(answer["statusCode"].to_string().trim_matches('"'), "200", "{answer}");
    let body = answer["body"].as_str().unwrap().to_owned();
    assert!(body.contains(&other) && !body.contains("N-4"), "{body}");
}

#[test]
fn messages_of_a_newer_versions_orders_hold_up_nothing_and_the_orders_go_on_after_the_rollback() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("OVERDUE_AFTER", "100ms")]);
    let orders: Vec<_> = (0..20).map(|number| submit(&handler, &format!("N-6-{number}"))).collect();
    // A form that this version does not know.
    make_newer(data.path());
    change(data.path(), "json_set(record, '$.status', 'suspended')");

    let started = Instant::now();
    for (_, message) in &orders {
        assert_eq!(handler.process(message).status, 200, "it is completed");
        assert_eq!(handler.invoke("OrderDeadLetter", &queue_envelope(message)).status, 200);
    }
    let took = started.elapsed();

    assert!(took < Duration::from_secs(10), "{took:?}");
    let told = |id: &str| handler.program.lines().iter().filter(|line| line.contains(id) && line.contains("completed unread")).count();
    assert!(orders.iter().all(|(id, _)| told(id) == 1), "{:?}", handler.program.lines());
    change(data.path(), "json_set(record, '$.schemaVersion', 2, '$.status', 'accepted')");
    let mut sent = Vec::new();
    eventually("the newer version sends the messages again", || {
        let swept = handler.invoke("OrderSweeper", &json!({ "Data": {}, "Metadata": {} })).json();
        sent.extend(swept["Outputs"]["orderMessage"].as_array().cloned().unwrap_or_default());
        (sent.len() >= orders.len()).then_some(())
    });
    for message in &sent {
        assert_eq!(handler.process(message.as_str().unwrap()).status, 200);
    }
    assert!(orders.iter().all(|(id, _)| handler.status(id).body["status"] == "completed"));
}
