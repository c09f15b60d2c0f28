//! Orders that a gateway sends straight to the queue: the first delivery makes their record, and each ends visibly once.

use serde_json::{Value, json};

use crate::dead_letter::{dead_letter, sent};
use crate::fake::{Fake, reply};
use crate::support::{Directory, Handler, Program, events, order};

pub(crate) const ID: &str = "0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10";
pub(crate) const ADOPTS: (&str, &str) = ("ADOPT_GATEWAY_ORDERS", "anonymous");

/// The message of the gateway around the text of a client.
pub(crate) fn message(data: &str) -> String {
    message_of("null", data)
}

/// The same with an owner, in JSON.
fn message_of(owner: &str, data: &str) -> String {
    let now = jiff::Timestamp::now();
    format!(
        r#"{{"trackingId":"{ID}","data":{data},"metadata":{{"apiName":"a","operationName":"o","subscriptionId":"s","owner":{owner},"receivedAt":"{now:.7}"}}}}"#
    )
}

fn start(data: &Directory, settings: &[(&str, &str)]) -> Handler {
    Handler::start(data.path(), &[settings, &[ADOPTS]].concat())
}

/// The failure of the order as its client sees it.
fn failure(handler: &Handler) -> String {
    let status = handler.status(ID).body;
    assert_eq!((&status["status"], events(&status).last()), (&json!("failed"), Some(&"failed")), "{status}");
    format!("{}: {}", status["error"]["code"].as_str().unwrap(), status["error"]["message"].as_str().unwrap())
}

/// What `waybill orders` says in JSON.
fn operate(data: &Directory, arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
    let path = data.path().to_str().unwrap();
    let (status, lines) = Program::waybill(&[&["orders"], arguments, &["--data", path, "--json"]].concat(), &[]).end();
    (status.code(), lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

#[test]
fn an_order_is_not_found_before_its_message_and_completed_after_it() {
    let data = Directory::new();
    let handler = start(&data, &[]);
    let text = order("G-1").to_string();

    let before = handler.status(ID);
    assert_eq!((before.status, &before.headers["Retry-After"]), (404, &json!("5")), "{before:?}");
    assert!(before.body["detail"].as_str().unwrap().contains("gateway"), "{before:?}");
    assert_eq!(handler.process(&message(&text)).status, 200);

    let status = handler.status(ID).body;
    assert_eq!(
        (&status["status"], &status["orderId"], events(&status)),
        (&json!("completed"), &json!("G-1"), vec!["accepted", "claimed", "completed"])
    );
    let (_, shown) = operate(&data, &["show", ID]);
    assert_eq!((&shown[0]["order"], &shown[0]["metadata"]["subscriptionId"]), (&order("G-1"), &json!("s")));
}

#[test]
fn the_same_message_any_number_of_times_is_one_order_worked_on_once() {
    let data = Directory::new();
    let backend = Fake::replying([reply(200, &[], "{}")]);
    let handler = start(&data, &[("FULFILLMENT_URL", &backend.url)]);
    let text = message(&order("G-2").to_string());

    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(handler.process(&text).status, 200));
        }
    });
    assert_eq!(dead_letter(&handler, &text).status, 200);

    assert_eq!(events(&handler.status(ID).body), ["accepted", "claimed", "completed"]);
    assert_eq!(backend.heard().len(), 1);
}

#[test]
fn a_dead_letter_of_the_gateway_is_adopted_and_sent_again_as_a_message_of_ours() {
    let data = Directory::new();
    let handler = start(&data, &[]);

    let again = sent(&dead_letter(&handler, &message(&order("G-3").to_string())));

    assert_eq!(again.len(), 1);
    assert_eq!(handler.process(again[0].as_str().unwrap()).status, 200);
    assert_eq!(handler.status(ID).body["status"], "completed");
}

#[test]
fn what_is_no_order_ends_visibly_keeps_its_text_and_is_not_sent_again() {
    for (text, code) in [
        (r#"{"orderId":"Zoë","big":12345678901234567890.10}"#, "invalid_order: the order is not valid, at "),
        ("{'orderId':'G-4'}", "not_json: the order is not JSON: "),
        (r#"{"a":"\ud800"}"#, "not_json: "),
    ] {
        let data = Directory::new();
        let handler = start(&data, &[]);

        assert_eq!(handler.process(&message(text)).status, 200);

        let failure = failure(&handler);
        assert!(failure.starts_with(code) && !failure.contains("Zoë"), "{failure}");
        let (_, shown) = operate(&data, &["show", ID]);
        assert_eq!(shown[0]["order"], text);
        let (status, told) = operate(&data, &["retry", ID]);
        assert_eq!((status, &told[0]["problem"]), (Some(1), &json!("not_valid")));
        assert_eq!(handler.process(&message(text)).status, 200);
    }
}

#[test]
fn an_order_that_would_not_fit_into_a_message_of_ours_ends_visibly() {
    let data = Directory::new();
    let handler = start(&data, &[]);
    let mut large = order("G-5");
    large["more"] = "x".repeat(256_000 - large.to_string().len() - 20).into();

    assert_eq!(handler.process(&message(&large.to_string())).status, 200);

    assert!(failure(&handler).starts_with("order_too_large: "));
}

#[test]
fn the_deadline_of_an_order_counts_from_its_202() {
    let data = Directory::new();
    let handler = start(&data, &[]);
    let text = message(&order("G-6").to_string());
    let (head, _) = text.split_once("receivedAt").unwrap();
    let received = |hours: i64| {
        let at = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hours);
        format!(r#"{head}receivedAt":"{at:.7}"}}}}"#)
    };

    assert_eq!(handler.process(&received(8 * 24)).status, 500, "its record may have ended and expired");
    assert_eq!(handler.status(ID).status, 404);
    assert_eq!(handler.process(&received(25)).status, 200);

    assert!(failure(&handler).starts_with("deadline_exceeded: "));
}

#[test]
fn with_tokens_an_order_belongs_to_a_caller_of_the_issuer_and_to_no_other() {
    let issuer = "https://login.example.com/tenant";
    for (owner, status, code) in [
        (r#""https://login.example.com/tenant alice""#, "completed", &Value::Null),
        (r#""https://login.example.com/tenant""#, "failed", &json!("caller_unknown")),
        (r#""https://login.example.com/tenant2 alice""#, "failed", &json!("caller_unknown")),
        (r#""https://other.example.com alice""#, "failed", &json!("caller_unknown")),
        ("null", "failed", &json!("caller_unknown")),
    ] {
        let data = Directory::new();
        let settings = [("AUTH_ISSUER", issuer), ("AUTH_AUDIENCE", "api://orders"), ("ADOPT_GATEWAY_ORDERS", "token")];
        let handler = Handler::start(data.path(), &settings);

        assert_eq!(handler.process(&message_of(owner, &order("G-8").to_string())).status, 200);

        let (_, shown) = operate(&data, &["show", ID]);
        assert_eq!((&shown[0]["status"], &shown[0]["error"]["code"]), (&json!(status), code), "{owner}");
        let expected = if status == "failed" { "gateway" } else { owner.trim_matches('"') };
        assert_eq!(shown[0]["owner"], expected);
    }
}

#[test]
fn without_the_setting_nothing_is_adopted() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);

    assert_eq!(handler.process(&message(&order("G-7").to_string())).status, 500);

    let status = handler.status(ID);
    assert_eq!((status.status, status.headers.get("Retry-After")), (404, None));
}
