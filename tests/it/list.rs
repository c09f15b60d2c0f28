//! `OrderList`: the caller's own orders, newest first, page by page; the same on both stores.

use serde_json::json;

use crate::emulator::Emulator;
use crate::support::{Directory, Handler, Host, eventually, order, submit};

/// Follows `next` to the end; ids in the order they came, and the sizes of the pages.
fn all(handler: &Handler, query: &str) -> (Vec<String>, Vec<usize>) {
    let (mut ids, mut sizes, mut query) = (Vec::new(), Vec::new(), query.to_owned());
    loop {
        let answer = handler.list(&query);
        assert_eq!(answer.status, 200, "{answer:?}");
        let orders = answer.body["orders"].as_array().unwrap();
        sizes.push(orders.len());
        ids.extend(orders.iter().map(|order| order["trackingId"].as_str().unwrap().to_owned()));
        match answer.body.get("next") {
            Some(next) => query = format!("?{}", next.as_str().unwrap().split_once('?').unwrap().1),
            None => return (ids, sizes),
        }
    }
}

fn every_order_once_and_newest_first(handler: &Handler) {
    const ORDERS: usize = 23;
    assert_eq!(handler.list("").body, json!({ "orders": [] }));
    let mut submitted = Vec::new();
    for number in 0..ORDERS {
        let (id, message) = submit(handler, &format!("L-{number}"));
        if number % 3 == 0 {
            assert_eq!(handler.process(&message).status, 200);
        }
        submitted.push(id);
    }
    // Orders of the same moment are sorted by id, so only moments are compared.
    let moment = |id: &String| handler.status(id).body["submittedAt"].as_str().unwrap().to_owned();

    for limit in [1, 7, 22, 23, 24, 100] {
        let (ids, sizes) = all(handler, &format!("?limit={limit}"));
        assert!(ids.windows(2).all(|pair| moment(&pair[0]) >= moment(&pair[1])), "{ids:?}");
        let (mut found, mut wanted) = (ids.clone(), submitted.clone());
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted, "limit {limit}: {sizes:?}");
        assert!(sizes.iter().all(|size| *size <= limit));
    }
    let (completed, _) = all(handler, "?status=completed&limit=3");
    assert_eq!(completed.len(), ORDERS.div_ceil(3));
    assert_eq!(all(handler, "?status=failed").0, [""; 0]);

    let first = handler.list("?limit=1&status=completed");
    let listed = &first.body["orders"][0];
    let id = listed["trackingId"].as_str().unwrap();
    let number = submitted.iter().position(|submitted| submitted == id).unwrap();
    let name = format!("L-{number}");
    assert_eq!((&listed["orderId"], &listed["customerId"], &listed["status"]), (&json!(name), &json!("C-1001"), &json!("completed")));
    assert_eq!(listed["statusUrl"], format!("http://localhost:7071/api/orders/{id}/status"));
    assert_eq!(first.headers["Cache-Control"], "no-store");

    // What comes in between neither hides nor repeats anything.
    let page = handler.list("?limit=5");
    let (newer, _) = submit(handler, "L-NEWER");
    let next = page.body["next"].as_str().unwrap();
    let rest = all(handler, &format!("?{}", next.split_once('?').unwrap().1)).0;
    assert_eq!((rest.len(), rest.contains(&newer)), (ORDERS - 5, false));
}

#[test]
fn every_order_is_listed_once_and_newest_first_in_the_embedded_store() {
    let data = Directory::new();
    every_order_once_and_newest_first(&Handler::start(data.path(), &[]));
}

#[test]
fn every_order_is_listed_once_and_newest_first_in_cosmos_db() {
    let emulator = Emulator::start(&[]);
    every_order_once_and_newest_first(&Handler::begin(&emulator.with(&[])).ready());
}

#[test]
fn what_cannot_be_asked_for_is_told() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    for i in 0..2 {
        submit(&handler, &format!("L-Q{i}"));
    }
    let next = handler.list("?limit=1").body["next"].as_str().unwrap().to_owned();
    let cursor = next.rsplit_once("cursor=").unwrap().1;
    let (cut, changed) = (&cursor[1..], format!("{}{}", if cursor.starts_with('A') { 'B' } else { 'A' }, &cursor[1..]));
    let limit = "limit must be a whole number from 1 to 100";
    let status = "status must be accepted, processing, completed, failed or cancelled";
    for (query, detail) in [("limit=0", limit), ("limit=101", limit), ("limit=", limit), ("limit=-1", limit), ("status=Failed", status)] {
        let answer = handler.list(&format!("?{query}"));
        assert_eq!((answer.status, &answer.body["type"]), (400, &json!("urn:problem-type:waybill:invalid-query")), "{query}");
        assert_eq!(answer.body["detail"], detail, "{query}");
    }
    for cursor in [cut, &changed, "", "x"] {
        let answer = handler.list(&format!("?cursor={cursor}"));
        assert_eq!((answer.status, &answer.body["type"]), (404, &json!("urn:problem-type:waybill:page-not-found")), "{cursor}");
    }
}

#[test]
fn the_same_route_takes_orders_and_lists_them() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    let id = host.submit(&order("L-HOST"));
    host.ended(&id);

    let answer = host.get("/api/orders?limit=2");

    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["orders"][0]["trackingId"], json!(id));
}

#[test]
fn orders_from_before_there_was_a_list_are_listed_too() {
    let data = Directory::new();
    let mut before = Handler::start(data.path(), &[]);
    let ids = ["L-OLD-1", "L-OLD-2"].map(|id| submit(&before, id).0);
    before.program.kill();
    let database = rusqlite::Connection::open(data.path().join("records.db")).unwrap();
    database.execute_batch("DROP TABLE owned").unwrap();
    drop(database);
    let handler = Handler::start(data.path(), &[]);
    let (new, _) = submit(&handler, "L-NEW");

    let (listed, _) = all(&handler, "?limit=1");

    assert_eq!(listed.len(), 3);
    assert!(ids.iter().chain([&new]).all(|id| listed.contains(id)), "{listed:?}");
}

#[test]
fn an_order_that_was_made_anew_is_listed_once_and_nothing_is_kept_of_the_old() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("RETENTION", "1s")]);
    let (id, message) = submit(&handler, "L-AGAIN");
    assert_eq!(handler.process(&message).status, 200);
    eventually("its record has expired", || (handler.status(&id).status == 404).then_some(()));

    let (again, _) = submit(&handler, "L-AGAIN");

    assert_eq!((&again, all(&handler, "").0), (&id, vec![id.clone()]));
    assert_eq!(kept(&data, "SELECT count(*) FROM owned"), 1);
}

#[test]
fn expired_records_are_deleted_as_long_as_there_are_some() {
    const EXPIRED: u32 = 1_200;
    let data = Directory::new();
    let mut before = Handler::start(data.path(), &[]);
    let (id, _) = submit(&before, "L-KEPT");
    before.program.kill();
    let database = rusqlite::Connection::open(data.path().join("records.db")).unwrap();
    let copy = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
                INSERT INTO orders SELECT randomblob(16), etag, NULL, 1 + i, record FROM orders, n";
    database.execute(copy, [EXPIRED]).unwrap();
    database.execute_batch("DELETE FROM owned").unwrap();
    drop(database);

    // Its start fills in whose all of them were.
    let handler = Handler::start(data.path(), &[]);
    assert_eq!(kept(&data, "SELECT count(*) FROM owned"), EXPIRED + 1);
    let mut sent = 0;
    eventually("all are deleted", || {
        sent += 1;
        submit(&handler, &format!("L-NEW-{sent}"));
        (kept(&data, "SELECT count(*) FROM orders WHERE expires_at < 10000") == 0).then_some(())
    });

    assert_eq!(kept(&data, "SELECT count(*) FROM owned"), sent + 1, "nor whose they were");
    assert_eq!(handler.status(&id).status, 200);
}

/// A count in the records' file.
fn kept(data: &Directory, count: &str) -> u32 {
    let database = rusqlite::Connection::open(data.path().join("records.db")).unwrap();
    database.query_row(count, [], |row| row.get(0)).unwrap()
}

fn a_page_of_large_orders_ends_early_and_the_next_goes_on(handler: &Handler, most: usize) {
    let submitted: Vec<String> = (0..30)
        .map(|number| {
            let mut large = order(&format!("L-LARGE-{number}"));
            large["attachment"] = json!("x".repeat(200_000));
            let answer = handler.ingress(Some(&large.to_string()), &[]);
            assert_eq!(answer.status, 202, "{answer:?}");
            answer.body["trackingId"].as_str().unwrap().to_owned()
        })
        .collect();

    for query in ["?limit=100", "?limit=100&status=accepted"] {
        let (mut ids, sizes) = all(handler, query);

        assert!(sizes.len() > 1 && sizes.iter().all(|size| *size <= most), "{query}: {sizes:?}");
        let mut wanted = submitted.clone();
        ids.sort();
        wanted.sort();
        assert_eq!(ids, wanted, "{query}");
    }
    assert_eq!(all(handler, "?limit=100&status=failed").0, [""; 0]);
}

#[test]
fn a_page_of_large_orders_ends_early_in_the_embedded_store() {
    let data = Directory::new();
    // Even where none of them is wanted.
    let handler = Handler::start(data.path(), &[("RATE_LIMIT", "0")]);
    a_page_of_large_orders_ends_early_and_the_next_goes_on(&handler, 25);
    assert!(all(&handler, "?limit=100&status=failed").1.len() > 1);
}

#[test]
fn a_page_of_large_orders_ends_early_in_cosmos_db() {
    let emulator = Emulator::start(&[]);
    let handler = Handler::begin(&emulator.with(&[("RATE_LIMIT", "0")])).ready();
    // The emulator's pages have no limit of bytes, as the account's have: the first has all, and says that there may be more.
    a_page_of_large_orders_ends_early_and_the_next_goes_on(&handler, 30);
}
