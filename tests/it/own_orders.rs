//! Orders of the deployment's own form: what the engine needs of them, and where it finds that.

use serde_json::{Value, json};

use crate::support::{Answer, Directory, Handler, Program, order};

/// Does the work of orders of any form; no test here lets it be called.
const BACKEND: (&str, &str) = ("FULFILLMENT_URL", "http://127.0.0.1:9/work");

fn pointers(order_id: &'static str, customer: &'static str) -> [(&'static str, &'static str); 3] {
    [BACKEND, ("ORDER_ID", order_id), ("ORDER_CUSTOMER", customer)]
}

/// Every order that a client sees in the list: its tracking id, number and customer.
fn listed(handler: &Handler) -> Vec<(String, String, String)> {
    let text = |order: &Value, name: &str| order[name].as_str().unwrap().to_owned();
    let page = handler.list("").body;
    let orders = page["orders"].as_array().unwrap().iter();
    orders.map(|order| (text(order, "trackingId"), text(order, "orderId"), text(order, "customerId"))).collect()
}

fn places(answer: &Answer) -> Vec<&str> {
    assert_eq!((answer.status, &answer.body["type"]), (400, &json!("urn:problem-type:waybill:invalid-order")), "{answer:?}");
    answer.body["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect()
}

#[test]
fn a_backend_takes_any_object_with_a_number_and_a_customer() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[BACKEND]);

    let (id, _) = handler.ingress(Some(r#"{"orderId":"R-1","customerId":"C","pages":[1,2]}"#), &[]).accepted();
    let wrong = handler.ingress(Some(r#"{"customerId":"\u0007","pages":[]}"#), &[]);

    assert_eq!(listed(&handler), [(id, "R-1".into(), "C".into())]);
    assert_eq!(places(&wrong), ["/customerId", "/orderId"]);
}

#[test]
fn number_and_customer_are_found_by_pointer() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &pointers("/job/id", "/job/~1from"));
    let submit = |text: &str| handler.ingress(Some(text), &[]);

    let (id, _) = submit(r#"{"job":{"id":17,"/from":"Zoë"},"format":"pdf"}"#).accepted();
    let (same, _) = submit(r#"{"format":"pdf", "job":{"/from":"Zoë", "id":17}}"#).accepted();
    let (other, _) = submit(r#"{"job":{"id":18,"/from":"Zoë"},"format":"pdf"}"#).accepted();
    let conflict = submit(r#"{"job":{"id":17,"/from":"Zoë"},"format":"html"}"#);

    assert_eq!((&same, other == id), (&id, false));
    assert_eq!(conflict.status, 409);
    let detail = "an order with this /job/~1from and /job/id and other contents was accepted before; use another /job/id";
    assert_eq!(conflict.body["detail"], detail);
    assert_eq!(listed(&handler)[1], (id.clone(), "17".into(), "Zoë".into()));
    // An operator needs none of these settings.
    let (_, card) = Program::waybill(&["orders", "show", &id, "--data", data.path().to_str().unwrap()], &[]).end();
    assert!(card.iter().any(|line| line == "order     17") && card.iter().any(|line| line == "customer  Zoë"), "{card:?}");
}

#[test]
fn orders_without_a_number_need_an_idempotency_key() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &pointers("none", "none"));
    let submit = |text: &str, headers: &[(&str, &str)]| handler.ingress(Some(text), headers);

    let without = submit(r#"{"a":1}"#, &[]);
    let (id, _) = submit(r#"{"a":1}"#, &[("Idempotency-Key", "k-1")]).accepted();
    let (same, _) = submit(r#"{"a":1.0}"#, &[("Idempotency-Key", "k-1")]).accepted();
    let (other, _) = submit(r#"{"a":1}"#, &[("Idempotency-Key", "k-2")]).accepted();
    let conflict = submit(r#"{"a":2}"#, &[("Idempotency-Key", "k-1")]);

    assert_eq!((without.status, &without.body["type"]), (400, &json!("urn:problem-type:waybill:invalid-idempotency-key")));
    assert_eq!((&same, other == id, conflict.status), (&id, false, 422));
    assert_eq!(listed(&handler)[1], (id, String::new(), String::new()));
}

#[test]
fn without_a_customer_the_number_tells_the_orders_of_a_caller_apart() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &pointers("/id", "none"));
    let submit = |text: &str| handler.ingress(Some(text), &[]);

    let (id, _) = submit(r#"{"id":"R-1"}"#).accepted();

    assert_eq!(submit(r#"{"id":"R-1"}"#).accepted().0, id);
    assert_eq!(
        submit(r#"{"id":"R-1","a":1}"#).body["detail"],
        "an order with this /id and other contents was accepted before; use another /id"
    );
}

#[test]
fn the_limits_of_a_text_hold_for_an_order_of_any_form() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &pointers("/id", "none"));
    let refused = |text: &str| handler.ingress(Some(text), &[]);
    let within = |inner: &str| format!(r#"{{"id":"a","x":{inner}}}"#);

    assert_eq!(places(&refused(&within(r#"{"y":1,"y":1}"#))), ["/x/y"]);
    assert_eq!(places(&refused(&within("1e401"))), ["/x"]);
    assert_eq!(places(&refused(&within(&"1".repeat(65)))), ["/x"]);
    assert_eq!(places(&refused(&within("\"\u{fffd}\""))), ["/x"]);
    assert_eq!(places(&refused(r#"{"id":"a\u0000b"}"#)), ["/id"]);
    assert_eq!(places(&refused(&format!(r#"{{"id":"{}"}}"#, "a".repeat(129)))), ["/id"]);
    assert_eq!(places(&refused("[]")), [""]);
    assert_eq!(refused(&within(&format!("{}{}", "[".repeat(32), "]".repeat(32)))).body["title"], "The body is not JSON");
    assert_eq!(refused(&within(&format!("{:?}", "x".repeat(256_000)))).status, 413);
}

#[test]
fn an_order_is_found_again_by_its_values_wherever_they_stand_after_a_restart() {
    let data = Directory::new();
    let built_in = order("A-1").to_string();
    let both = r#"{"orderId":"A-2","customerId":"C","id":"A-3","from":"C"}"#;
    let handler = Handler::start(data.path(), &[]);
    let (first, _) = handler.ingress(Some(&built_in), &[]).accepted();
    drop(handler);
    let handler = Handler::start(data.path(), &[BACKEND]);
    let (second, _) = handler.ingress(Some(both), &[]).accepted();

    assert_eq!(handler.ingress(Some(&built_in), &[]).accepted().0, first, "the values count, not the form");
    drop(handler);
    let handler = Handler::start(data.path(), &pointers("/id", "/from"));
    let (third, _) = handler.ingress(Some(both), &[]).accepted();
    let mistaken = handler.ingress(Some(r#"{"id":"A-1","from":"C-1001"}"#), &[]);

    assert_ne!(second, third, "the same text has another number now");
    assert_eq!(mistaken.status, 409, "another order with a number that was given before: {mistaken:?}");
    let names = |id: &str, order_id: &str, customer: &str| (id.to_owned(), order_id.to_owned(), customer.to_owned());
    let expected = [names(&third, "A-3", "C"), names(&second, "A-2", "C"), names(&first, "A-1", "C-1001")];
    assert_eq!(listed(&handler), expected, "each under the names that it was accepted with");
}

#[test]
fn a_pointer_that_is_none_stops_the_start() {
    for (settings, why) in [
        (&[BACKEND, ("ORDER_ID", "orderId")][..], "ORDER_ID is \"orderId\": set a JSON pointer such as /job/id, or none"),
        (&[BACKEND, ("ORDER_CUSTOMER", "/a~2")], "ORDER_CUSTOMER is \"/a~2\": set a JSON pointer"),
        (&[("ORDER_ID", "/id")], "ORDER_ID is for orders of your own, and FULFILLMENT_URL, which does their work, is not set"),
    ] {
        let (status, lines) = Program::waybill(&["serve"], &[&[("FUNCTIONS_CUSTOMHANDLER_PORT", "1")], settings].concat()).end();

        assert_eq!(status.code(), Some(1));
        assert!(lines.iter().any(|line| line.contains(why)), "{why}: {lines:?}");
    }
}
