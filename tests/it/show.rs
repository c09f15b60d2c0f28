//! One order as its owner sees it: under its own URL as under `/status`, and what a request for it may ask.

use serde_json::{Value, json};

use crate::support::{Answer, Directory, Handler, Host, http_envelope, order, request, submit};

fn get(handler: &Handler, function: &str, path: &str, id: &str, headers: &[(&str, &str)]) -> Answer {
    let url = format!("http://localhost:7071/api/orders{path}");
    let method = if function == "OrderCancel" { "DELETE" } else { "GET" };
    Answer::of(&handler.invoke(function, &http_envelope(method, &url, &json!({ "trackingId": id }), None, headers)))
}

#[test]
fn an_order_is_the_same_under_its_own_url_and_under_its_status() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    let id = host.submit(&order("SHOW-1"));
    let ended = host.ended(&id);

    let shown = host.get(&format!("/api/orders/{id}"));
    let status = host.get(&format!("/api/orders/{id}/status"));
    let missing = host.get("/api/orders/0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10");

    assert_eq!((shown.status, shown.json()), (200, ended));
    assert_eq!((&shown.body, &shown.headers["etag"]), (&status.body, &status.headers["etag"]));
    assert_eq!((missing.status, &missing.json()["type"]), (404, &json!("urn:problem-type:waybill:order-not-found")));
}

#[test]
fn a_status_names_the_order_and_its_customer() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (id, _) = submit(&handler, "SHOW-2");

    let status = handler.status(&id);

    assert_eq!((&status.body["orderId"], &status.body["customerId"]), (&json!("SHOW-2"), &json!("C-1001")), "{status:?}");
}

#[test]
fn a_list_gives_the_cursor_of_its_next_page_alone_too() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    submit(&handler, "SHOW-3");
    submit(&handler, "SHOW-4");

    let first = handler.list("?limit=1");
    let cursor = first.body["nextCursor"].as_str().unwrap_or_else(|| panic!("{first:?}"));
    let second = handler.list(&format!("?limit=1&cursor={cursor}"));

    assert!(first.body["next"].as_str().unwrap().ends_with(&format!("&cursor={cursor}")), "{first:?}");
    assert_eq!(second.body["orders"][0]["orderId"], "SHOW-3");
    assert_eq!((second.body.get("next"), second.body.get("nextCursor")), (None, None));
}

#[test]
fn an_unknown_query_parameter_is_refused_by_its_name() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (id, _) = submit(&handler, "SHOW-5");
    let refused = |answer: &Answer, name: &str| {
        assert_eq!((answer.status, &answer.body["type"]), (400, &json!("urn:problem-type:waybill:invalid-query")), "{answer:?}");
        assert!(answer.body["detail"].as_str().unwrap().contains(name), "{answer:?}");
    };

    for (query, name) in [
        ("?state=failed", "state"),
        ("?Status=failed", "Status"),
        ("?limit=1&st%61tus=failed", "st%61tus"),
        ("?status", "status"),
        ("?limit=1&limit=2", "limit"),
        ("?limit=1&&=3", "without a name"),
    ] {
        refused(&handler.list(query), name);
    }
    for (function, path) in [("OrderStatus", "/status"), ("OrderShow", ""), ("OrderCancel", "")] {
        refused(&get(&handler, function, &format!("/{id}{path}?wait=5"), &id, &[]), "wait");
    }
    let url = "http://localhost:7071/api/orders?idempotencyKey=1";
    let posted = http_envelope("POST", url, &json!({}), Some(&order("SHOW-6").to_string()), &[]);
    refused(&Answer::of(&handler.invoke("OrderIngress", &posted)), "idempotencyKey");

    // The host and gateways leave these in the URL.
    assert_eq!(handler.list("?code=KEY&clientId=x&subscription-key=y&limit=1&").status, 200);
    assert_eq!(get(&handler, "OrderStatus", &format!("/{id}/status?seen=&code=KEY"), &id, &[]).status, 200);
    assert_eq!(handler.list("").body["orders"].as_array().unwrap().len(), 1);
}

/// A page's script reads only the headers that the answer exposes (Fetch standard, "CORS-safelisted response-header name").
#[test]
fn a_web_page_may_read_the_headers_that_the_contract_promises() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let (id, _) = submit(&handler, "SHOW-7");
    let page = [("Origin", "https://shop.example")];
    let exposed = |answer: &Answer| answer.headers["Access-Control-Expose-Headers"].as_str().map(str::to_owned);
    let mut order = order("SHOW-8");

    let accepted = handler.ingress(Some(&order.to_string()), &page);
    let status = get(&handler, "OrderStatus", &format!("/{id}/status"), &id, &page);
    let known = [page[0], ("If-None-Match", status.headers["ETag"].as_str().unwrap())];
    let unchanged = get(&handler, "OrderStatus", &format!("/{id}/status"), &id, &known);
    order["items"] = Value::Null;
    let answers = [
        handler.ingress(Some(&order.to_string()), &page),
        get(&handler, "OrderList", "", "", &page),
        get(&handler, "OrderShow", &format!("/{id}"), &id, &page),
        get(&handler, "OrderCancel", &format!("/{id}"), &id, &page),
    ];

    assert_eq!((accepted.status, status.status, unchanged.status, answers[0].status), (202, 200, 304, 400));
    for answer in [&accepted, &status, &unchanged].into_iter().chain(&answers) {
        let exposed = exposed(answer).unwrap_or_else(|| panic!("{answer:?}"));
        for name in
            ["Location", "Retry-After", "retry-after-ms", "ETag", "Preference-Applied", "RateLimit", "RateLimit-Policy", "WWW-Authenticate"]
        {
            assert!(exposed.split(", ").any(|exposed| exposed == name), "{name}: {answer:?}");
        }
    }
    assert_eq!(exposed(&handler.status(&id)), None, "no page asks");
}

/// The host calls a response without a type text/plain, and a cache that hears so of a 304 changes what it keeps.
#[test]
fn a_304_is_of_the_type_of_what_the_client_has() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    let id = host.submit(&order("SHOW-9"));
    host.ended(&id);
    let url = host.url(&format!("/api/orders/{id}/status"));
    let etag = host.get(&format!("/api/orders/{id}/status")).headers["etag"].clone();

    let unchanged = request("GET", &url, &[("If-None-Match", &etag)], None);

    assert_eq!((unchanged.status, unchanged.body.as_str()), (304, ""), "{unchanged:?}");
    assert_eq!(unchanged.headers["content-type"], "application/json; charset=utf-8");
}
