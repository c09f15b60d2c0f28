//! Records that a newer version wrote, after a rollback, and damaged ones: this version leaves them alone, and they hold up nothing
//! else.

use std::path::Path;
use std::time::{Duration, Instant};

use azure_core::credentials::Secret;
use azure_data_cosmos::{AccountReference, CosmosClient, CosmosRuntime, RoutingStrategy};
use serde_json::{Value, json};

use crate::emulator::Emulator;
use crate::store::run;
use crate::support::{Directory, Handler, Program, eventually, http_envelope, queue_envelope, submit, try_submit};

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

#[test]
fn many_records_that_cannot_be_read_do_not_fill_the_log_at_every_sweep() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("OVERDUE_AFTER", "100ms")]);
    for number in 0..30 {
        submit(&handler, &format!("N-9-{number}"));
    }
    change(data.path(), "json_set(record, '$.status', 'suspended')");

    let mut sweeps = 0;
    eventually("all are overdue", || {
        handler.sweep();
        sweeps += 1;
        let summaries = handler.program.lines_with("waybill verify names them all");
        summaries.iter().any(|line| line.contains("sweeper.unreadable=30")).then_some(())
    });
    handler.program.signal("TERM");
    let (_, lines) = handler.program.end();

    let named = lines.iter().filter(|line| line.contains("could not be swept")).count();
    assert!((1..=10 * sweeps).contains(&named), "{named} of {sweeps} runs");
}

/// Two orders whose records cannot be read any more, and one that can.
struct Spoilt {
    newer: String,
    damaged: String,
    good: String,
}

impl Spoilt {
    fn submit(handler: &Handler) -> Self {
        let [newer, damaged, good] = ["N-6", "N-7", "N-8"].map(|order_id| submit(handler, order_id).0);
        Self { newer, damaged, good }
    }

    /// The operator's commands name both, and say what they know of the third.
    fn is_named(&self, settings: &[(&str, &str)], place: &[&str]) {
        let run = |arguments: &[&str]| Program::waybill(&[arguments, place].concat(), settings).end();
        let names_both = |lines: &[String]| [&self.newer, &self.damaged].iter().all(|id| lines.iter().any(|line| line.contains(*id)));

        let (listed, lines) = run(&["orders", "list"]);
        assert!(listed.success() && lines.iter().any(|line| line.contains("N-8")) && names_both(&lines), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("99 is newer than")), "{lines:?}");
        assert!(!lines.concat().contains("C-1001"), "no text of a record is shown: {lines:?}");
        let (listed, lines) = run(&["orders", "list", "--json"]);
        let records: Vec<Value> = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert!(listed.success() && records.len() == 1 && records[0]["trackingId"] == json!(self.good), "{lines:?}");
        let (verified, lines) = run(&["verify"]);
        assert!(verified.code() == Some(3) && names_both(&lines), "{lines:?}");
        let (verified, lines) = run(&["verify", "--json"]);
        let told: Value = lines.iter().find_map(|line| serde_json::from_str(line).ok()).unwrap_or_else(|| panic!("{lines:?}"));
        let mut unreadable = told["unreadable"].as_array().unwrap_or_else(|| panic!("{told}")).clone();
        unreadable.sort_by_key(ToString::to_string);
        let mut wanted = [json!(self.newer), json!(self.damaged)];
        wanted.sort_by_key(ToString::to_string);
        assert_eq!((verified.code(), &unreadable[..], &told["records"]), (Some(3), &wanted[..], &json!(1)), "{told}");
        let (shown, lines) = run(&["orders", "show", &self.newer]);
        assert!(shown.code() == Some(1) && lines.concat().contains("99 is newer than"), "{lines:?}");
        let (retried, lines) = run(&["orders", "retry", &self.damaged, "--json"]);
        let told: Value = serde_json::from_str(&lines.concat()).unwrap_or_else(|_| panic!("{lines:?}"));
        assert_eq!((retried.code(), &told["problem"]), (Some(1), &json!("unreadable")));
    }
}

#[test]
fn commands_pass_over_records_that_cannot_be_read_in_the_embedded_store() {
    let data = Directory::new();
    let mut handler = Handler::start(data.path(), &[("OVERDUE_AFTER", "100ms")]);
    let spoilt = Spoilt::submit(&handler);
    handler.program.kill();
    let database = rusqlite::Connection::open(data.path().join("records.db")).unwrap();
    let change = |sql: &str, id: &str| {
        let sql = format!("UPDATE orders SET record = {sql} WHERE record ->> 'trackingId' = ?1");
        assert_eq!(database.execute(&sql, [id]).unwrap(), 1);
    };
    change("json_set(record, '$.schemaVersion', 99)", &spoilt.newer);
    // The second half of it is gone, and it is no UTF-8.
    change("CAST(substr(CAST(record AS BLOB), 1, 200) || x'ff' AS TEXT)", &spoilt.damaged);

    spoilt.is_named(&[], &["--data", data.path().to_str().unwrap()]);

    // The functions are not held up either.
    let handler = Handler::start(data.path(), &[("OVERDUE_AFTER", "100ms"), ("ADMISSION_MAX_AGE", "10m")]);
    let sent = eventually("the overdue order that can be read is sent again", || {
        let swept = handler.invoke("OrderSweeper", &json!({ "Data": {}, "Metadata": {} })).json();
        swept["Outputs"]["orderMessage"][0].as_str().map(str::to_owned)
    });
    assert!(sent.contains(&spoilt.good), "{sent}");
    let list = handler.list("");
    assert_eq!((list.status, list.body["orders"].as_array().map(Vec::len)), (200, Some(1)), "{list:?}");
    assert_eq!(try_submit(&handler, "N-9", &[]).status, 202);
    assert_eq!(handler.status(&spoilt.damaged).status, 503);
}

#[test]
fn commands_pass_over_records_that_cannot_be_read_in_cosmos_db() {
    let emulator = Emulator::start(&[]);
    let handler = Handler::begin(&emulator.with(&[])).ready();
    let spoilt = Spoilt::submit(&handler);
    change_item(&emulator, &spoilt.newer, |item| item["record"]["version"] = 99.into());
    change_item(&emulator, &spoilt.damaged, |item| item["record"]["order"] = "{ \"customerId\": \"C-1001".into());
    let nowhere = Directory::new();
    let settings = emulator.with(&[("WAYBILL_DATA", nowhere.path().to_str().unwrap())]);

    spoilt.is_named(&settings, &["--app", nowhere.path().to_str().unwrap()]);

    let list = handler.list("");
    assert_eq!((list.status, list.body["orders"].as_array().map(Vec::len)), (200, Some(1)), "{list:?}");
    assert_eq!(list.body["orders"][0]["trackingId"], json!(spoilt.good));
}

/// Changes an item, as another program would.
fn change_item(emulator: &Emulator, id: &str, change: impl FnOnce(&mut Value)) {
    run(async {
        let connection = emulator.setting("CosmosConnection");
        let key = connection.split_once("AccountKey=").unwrap().1.trim_end_matches(';').to_owned();
        let account = AccountReference::with_authentication_key(emulator.endpoint().parse().unwrap(), Secret::from(key));
        let runtime = CosmosRuntime::builder().build().await.unwrap();
        let client = CosmosClient::builder().with_runtime(runtime).build(account, RoutingStrategy::PreferredRegions(Vec::new()));
        let database = client.await.unwrap().database_client(emulator.setting("CosmosDatabase").to_owned());
        let orders = database.container_client(emulator.setting("CosmosContainer").to_owned(), None).await.unwrap();
        let mut item: Value = orders.read_item(id.to_owned(), id, None).await.unwrap().into_model().unwrap();
        change(&mut item);
        orders.replace_item(id.to_owned(), id, &item, None).await.unwrap();
    });
}
