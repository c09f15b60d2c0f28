//! Orders good and bad at the door: what is refused and how, and what the same request twice means.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Barrier;

use serde_json::{Value, json};

use crate::support::{Answer, Directory, Handler, Program, http_envelope, order};

fn start() -> (Directory, Handler) {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    (data, handler)
}

/// A problem's type without its prefix.
fn kind(answer: &Answer) -> &str {
    answer.body["type"].as_str().unwrap_or_else(|| panic!("{answer:?}")).strip_prefix("urn:problem-type:waybill:").unwrap()
}

fn pointers(answer: &Answer) -> Vec<&str> {
    let errors = answer.body["errors"].as_array().unwrap_or_else(|| panic!("{answer:?}"));
    errors.iter().map(|error| error["pointer"].as_str().unwrap()).collect()
}

fn tracking_id(answer: &Answer) -> &str {
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.body["trackingId"].as_str().unwrap()
}

/// An order with one member of its own, as text, so that it may be anything.
fn with(order_id: &str, member: &str) -> String {
    format!(
        r#"{{"orderId":"{order_id}","customerId":"C-1","currency":"EUR","items":[{{"sku":"S","quantity":1,"unitPrice":"1.00"}}],{member}}}"#
    )
}

/// An order with this one item.
fn with_item(order_id: &str, item: &str) -> String {
    format!(r#"{{"orderId":"{order_id}","customerId":"C-1","currency":"EUR","items":[{item}]}}"#)
}

/// Checks one wrong order: exactly these pointers, each with this fragment in its detail.
fn refused(handler: &Handler, body: &str, expected: &[(&str, &str)]) {
    let answer = handler.ingress(Some(body), &[]);
    assert_eq!((answer.status, kind(&answer)), (400, "invalid-order"), "{body}: {answer:?}");
    assert_eq!(pointers(&answer), expected.iter().map(|(pointer, _)| *pointer).collect::<Vec<_>>(), "{body}: {answer:?}");
    for (error, (_, fragment)) in answer.body["errors"].as_array().unwrap().iter().zip(expected) {
        assert!(error["detail"].as_str().unwrap().contains(fragment), "{body}: {error}, not {fragment:?}");
    }
    assert_eq!(answer.message, None);
}

#[test]
fn a_body_that_is_not_json_is_told_so() {
    let (_data, handler) = start();
    let deep = "[".repeat(33) + &"]".repeat(33);
    let deeper = "{\"a\":".repeat(40_000);

    for body in [
        "nope",
        "{",
        "'a'",
        "{\"a\":1,}",
        "{\"a\":1} x",
        "{\"a\":01}",
        "{\"a\":.5}",
        "{\"a\":NaN}",
        "{\"a\":+1}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"line\nbreak\"}",
        "{a:1}",
        "\u{feff}{}",
        "\u{0}",
        deep.as_str(),
        deeper.as_str(),
        r#"{"$serde_json::private::Number":"x"}"#,
        r#"{"$serde_json::private::Number":{"a":1}}"#,
        r#"{"a":{"b":1,"$serde_json::private::Number":"1"}}"#,
    ] {
        let answer = handler.ingress(Some(body), &[]);
        assert_eq!((answer.status, kind(&answer)), (400, "not-json"), "{body:.80}: {answer:?}");
        assert!(answer.body.get("errors").is_none());
    }
}

#[test]
fn a_member_with_a_name_that_a_json_library_reserves_is_kept_as_it_is() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);

    for (number, member) in
        [r#""a":{"$serde_json::private::RawValue":"]"}"#, r#""$serde_json::private::RawValue":5"#].into_iter().enumerate()
    {
        let text = with(&format!("RESERVED-{number}"), member);
        let answer = handler.ingress(Some(&text), &[]);
        assert_eq!(answer.status, 202, "{member}: {answer:?}");
        let (id, message) = (answer.body["trackingId"].as_str().unwrap().to_owned(), answer.message.unwrap());
        assert!(message.contains(&text), "{message}");
        assert_eq!(handler.process(&message).status, 200, "{member}");
        assert_eq!(handler.status(&id).body["status"], "completed", "{member}");

        let number = format!("RESERVED-{number}");
        for (command, expected) in [(&["show", &id][..], &number), (&["show", &id, "--json"], &text), (&["list", "--json"], &text)] {
            let arguments = [&["orders"], command, &["--data", data.path().to_str().unwrap()]].concat();
            let shown = Program::waybill(&arguments, &[]).end();
            assert!(shown.0.success() && shown.1.concat().contains(expected), "{command:?}: {shown:?}");
        }
    }
    assert_eq!(handler.list("").body["orders"].as_array().unwrap().len(), 2);
}

#[test]
fn json_that_is_no_object_is_told_so() {
    let (_data, handler) = start();

    for (body, what) in
        [("[1,2]", "an array"), ("5", "a number"), ("-0.0", "a number"), ("\"order\"", "a string"), ("null", "null"), ("true", "a boolean")]
    {
        refused(&handler, body, &[("", what)]);
    }
}

#[test]
fn a_name_with_half_a_surrogate_pair_is_refused_with_its_place() {
    let (_data, handler) = start();

    for name in ["a\\ud800b", "\\udc00"] {
        let answer = handler.ingress(Some(&format!("{{\n\"orderId\": \"S-1\",\n\"{name}\": 1}}")), &[]);
        let detail = answer.body["detail"].as_str().unwrap_or_default();
        assert!(answer.body["type"] == "urn:problem-type:waybill:not-json" && detail.contains("line 3 column "), "{answer:?}");
    }
}

#[test]
fn every_mistake_is_named_with_its_pointer() {
    let (_data, handler) = start();
    let text = |field: &str, value: &str| {
        let mut body = order("B-1");
        body[field] = serde_json::from_str(value).unwrap();
        body.to_string()
    };
    let long = |length: usize| format!("\"{}\"", "é".repeat(length));
    let many = json!(vec![json!({ "sku": "S", "quantity": 1, "unitPrice": 1 }); 501]).to_string();

    refused(&handler, "{}", &[("/currency", "missing"), ("/customerId", "missing"), ("/items", "missing"), ("/orderId", "missing")]);
    for field in ["orderId", "customerId"] {
        let pointer = format!("/{field}");
        for (value, fragment) in [
            ("5", "not a number"),
            ("null", "not null"),
            ("[]", "not an array"),
            ("{}", "not an object"),
            ("true", "not a boolean"),
            ("\"\"", "must not be empty"),
            ("\" \\t \"", "must not be empty"),
            ("\"a\\u0000b\"", "control characters"),
            ("\"a\\nb\"", "control characters"),
            ("\"a\\u007fb\"", "control characters"),
            ("\"a\\u0085b\"", "control characters"),
            (&long(129), "at most 128"),
        ] {
            refused(&handler, &text(field, value), &[(pointer.as_str(), fragment)]);
        }
    }
    for value in ["\"eur\"", "\"EURO\"", "\"\"", "\"€€€\"", "978", "null", "\"E R\""] {
        refused(&handler, &text("currency", value), &[("/currency", "three capital letters")]);
    }
    refused(&handler, &text("items", "[]"), &[("/items", "at least one")]);
    refused(&handler, &text("items", "{}"), &[("/items", "not an object")]);
    refused(&handler, &text("items", "null"), &[("/items", "not null")]);
    refused(&handler, &text("items", &many), &[("/items", "at most 500")]);
    refused(&handler, &text("items", "[5,null]"), &[("/items/0", "not a number"), ("/items/1", "not null")]);
    refused(
        &handler,
        &text("items", "[{}]"),
        &[("/items/0/quantity", "missing"), ("/items/0/sku", "missing"), ("/items/0/unitPrice", "missing")],
    );
    refused(&handler, &text("note", "5"), &[("/note", "not a number")]);
    refused(&handler, &text("note", &long(2001)), &[("/note", "at most 2000")]);
    refused(
        &handler,
        &with_item("B-1", &format!(r#"{{"sku":{},"quantity":1,"unitPrice":1}}"#, long(65))),
        &[("/items/0/sku", "at most 64")],
    );
}

#[test]
fn numbers_are_held_to_what_an_order_can_mean() {
    let (_data, handler) = start();
    let hundred = "1".repeat(100);
    let quantities = r#"0 -1 -0 1.5 1000001 1e7 1e-1 1e400 1e-400 1e999999999 1e99999999999999999999 -1e999999999
        0.9999999999999999999999999999 18446744073709551617 "1" null true [1]"#;
    let prices = r#"-1 -0.01 1000000000.01 1e10 1e400 1e-400 1e999999999 0.0000001 1.0000000000000000000000000000000001
        "" "+1" "1,00" "1_0" "0x1" ".5" "5." "01" "NaN" "-1" "1e400" "\u0661" null true {}"#;

    for quantity in quantities.split_ascii_whitespace().chain([hundred.as_str()]) {
        let body = with_item("N-1", &format!(r#"{{"sku":"S","quantity":{quantity},"unitPrice":"1"}}"#));
        let answer = handler.ingress(Some(&body), &[]);
        assert_eq!((answer.status, kind(&answer)), (400, "invalid-order"), "{body}: {answer:?}");
        assert!(pointers(&answer).iter().all(|pointer| *pointer == "/items/0/quantity"), "{answer:?}");
    }
    for price in prices.split_ascii_whitespace().chain([hundred.as_str(), "\" 1\"", "\"1 \""]) {
        let body = with_item("N-1", &format!(r#"{{"sku":"S","quantity":1,"unitPrice":{price}}}"#));
        let answer = handler.ingress(Some(&body), &[]);
        assert_eq!((answer.status, kind(&answer)), (400, "invalid-order"), "{body}: {answer:?}");
        assert!(pointers(&answer).iter().all(|pointer| *pointer == "/items/0/unitPrice"), "{answer:?}");
    }
}

#[test]
fn numbers_may_be_written_in_any_way_that_means_the_same() {
    let (_data, handler) = start();

    for (number, item) in [
        r#"{"sku":"S","quantity":2.0,"unitPrice":1}"#,
        r#"{"sku":"S","quantity":2e0,"unitPrice":1.10}"#,
        r#"{"sku":"S","quantity":20E-1,"unitPrice":"1.10"}"#,
        r#"{"sku":"S","quantity":0.1e+1,"unitPrice":-0}"#,
        r#"{"sku":"S","quantity":1e6,"unitPrice":1e9}"#,
        r#"{"sku":"S","quantity":1000000,"unitPrice":"0.000001"}"#,
        r#"{"sku":"S","quantity":1,"unitPrice":"1.10000000000000000000"}"#,
    ]
    .into_iter()
    .enumerate()
    {
        let answer = handler.ingress(Some(&with_item(&format!("W-{number}"), item)), &[]);
        assert_eq!(answer.status, 202, "{item}: {answer:?}");
    }
}

#[test]
fn absurd_numbers_are_refused_in_unknown_fields_too() {
    let (_data, handler) = start();
    let hundred = "1".repeat(100);

    for number in ["1e401", "-1e-401", "1e999999999", "1e99999999999999999999", "1e2147483647", hundred.as_str()] {
        refused(&handler, &with("X-1", &format!(r#""extra":{{"list":[0,{number}]}}"#)), &[("/extra/list/1", "too large or too long")]);
    }
}

#[test]
fn a_key_that_stands_there_twice_is_refused_wherever_it_is() {
    let (_data, handler) = start();

    for (member, pointer) in [
        (r#""orderId":"other""#, "/orderId"),
        (r#""\u006frderId":"other""#, "/orderId"),
        (r#""extra":{"a":1,"b":2,"a":1}"#, "/extra/a"),
        (r#""extra":[[{"a/b~c":1,"a/b~c":2}]]"#, "/extra/0/0/a~1b~0c"),
        (r#""extra":{"":1,"":2}"#, "/extra/"),
    ] {
        refused(&handler, &with("D-1", member), &[(pointer, "more than once")]);
    }
}

#[test]
fn all_mistakes_are_named_at_once_as_problem_details() {
    let (_data, handler) = start();
    let body = json!({ "orderId": "", "currency": "eur", "items": [{ "sku": 1, "quantity": -1 }], "note": [] });

    let answer = handler.ingress(Some(&body.to_string()), &[]);

    assert_eq!(answer.status, 400);
    assert_eq!(answer.headers, json!({ "Content-Type": "application/problem+json", "Cache-Control": "no-store" }));
    assert_eq!(
        answer.body,
        json!({
            "type": "urn:problem-type:waybill:invalid-order",
            "title": "The order is not valid",
            "status": 400,
            "detail": "7 mistakes to correct; see errors",
            "errors": [
                { "pointer": "/currency", "detail": "must be three capital letters such as \"EUR\"" },
                { "pointer": "/customerId", "detail": "is missing; send a string of 1 to 128 characters" },
                { "pointer": "/items/0/quantity", "detail": "must be a whole number from 1 to 1000000" },
                { "pointer": "/items/0/sku", "detail": "must be a string, not a number" },
                { "pointer": "/items/0/unitPrice", "detail": "is missing; send a decimal such as \"19.90\"" },
                { "pointer": "/note", "detail": "must be a string, not an array" },
                { "pointer": "/orderId", "detail": "must not be empty" }
            ]
        })
    );
}

#[test]
fn no_more_than_a_hundred_mistakes_are_named() {
    let (_data, handler) = start();
    let mut body = order("M-1");
    body["items"] = json!(vec![json!({}); 500]);

    let answer = handler.ingress(Some(&body.to_string()), &[]);

    assert_eq!((answer.status, pointers(&answer).len()), (400, 100));
}

#[test]
fn a_missing_body_is_explained() {
    let (_data, handler) = start();

    let absent = handler.ingress(None, &[("Transfer-Encoding", "chunked")]);
    let blank = handler.ingress(Some(" \r\n\t "), &[]);
    let empty = handler.ingress(Some(""), &[]);

    for answer in [&absent, &blank, &empty] {
        assert_eq!((answer.status, kind(answer)), (400, "no-body"), "{answer:?}");
    }
    assert!(absent.body["detail"].as_str().unwrap().contains("Content-Length"), "{absent:?}");
}

#[test]
fn a_body_the_host_has_encoded_is_refused_by_its_content_type() {
    let (_data, handler) = start();

    for content_type in ["application/octet-stream", "Application/Octet-Stream; x=y", "multipart/form-data; boundary=x"] {
        let mut envelope = http_envelope("POST", "http://localhost:7071/api/orders", &json!({}), Some("AP8B"), &[]);
        envelope["Data"]["req"]["Headers"] = json!({ "content-type": [content_type] });
        let answer = Answer::of(&handler.invoke("OrderIngress", &envelope));
        assert_eq!((answer.status, kind(&answer)), (415, "unsupported-media-type"), "{content_type}: {answer:?}");
        assert!(answer.body["detail"].as_str().unwrap().contains("application/json"));
    }
    let mut envelope = http_envelope("POST", "http://localhost:7071/api/orders", &json!({}), Some(&order("CT-1").to_string()), &[]);
    envelope["Data"]["req"]["Headers"] = json!({});
    assert_eq!(Answer::of(&handler.invoke("OrderIngress", &envelope)).status, 202);
}

#[test]
fn an_order_that_does_not_fit_the_queue_is_refused_and_not_recorded() {
    let (_data, handler) = start();
    let sized = |length: usize| with("L-1", &format!(r#""extra":"{}""#, "x".repeat(length)));

    let too_large = handler.ingress(Some(&sized(256_000)), &[]);
    let fits = handler.ingress(Some(&sized(250_000)), &[]);

    assert_eq!((too_large.status, kind(&too_large)), (413, "order-too-large"));
    assert_eq!((&too_large.headers["Content-Type"], &too_large.message), (&json!("application/problem+json"), &None));
    assert_eq!(fits.status, 202, "the larger one left no record: {fits:?}");
    assert!(fits.message.unwrap().len() <= 256_000);
}

#[test]
fn an_order_that_just_fits_is_known_again_with_what_a_gateway_adds() {
    let (_data, handler) = start();
    let sized = |id: &str, length: usize| with(id, &format!(r#""extra":"{}""#, "x".repeat(length)));
    let message = |answer: &Answer| answer.message.as_ref().map_or(0, String::len);
    let longest = 250_000 + 256_000 - message(&handler.ingress(Some(&sized("L-2", 250_000)), &[]));
    let traceparent = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")];

    let first = handler.ingress(Some(&sized("L-3", longest)), &[]);
    let again = handler.ingress(Some(&sized("L-3", longest)), &traceparent);
    let other = handler.ingress(Some(&sized("L-4", longest)), &traceparent);

    assert_eq!((first.status, message(&first)), (202, 256_000));
    assert_eq!((again.status, &again.headers["Location"]), (202, &first.headers["Location"]), "{again:?}");
    assert_eq!((other.status, kind(&other), other.body.get("outcome")), (413, "order-too-large", None));
    assert_eq!(handler.ingress(Some(&sized("L-4", longest)), &[]).status, 202, "it left no record");
}

/// The most memory this process ever used, in MiB.
#[cfg(target_os = "linux")]
fn peak_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[cfg(target_os = "linux")]
#[test]
fn an_enormous_body_is_refused_without_being_kept() {
    let (_data, handler) = start();

    for megabytes in [10, 30] {
        let answer = handler.ingress(Some(&"x".repeat(megabytes << 20)), &[]);
        assert_eq!((answer.status, kind(&answer)), (413, "order-too-large"));
    }

    let peak = peak_memory(handler.program.id());
    assert!(peak < 64, "{peak} MiB");
}

#[test]
fn a_202_shows_where_to_look_and_carries_the_message() {
    let (_data, handler) = start();
    let body = order("OK-1");

    let answer = handler.ingress(Some(&body.to_string()), &[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]);

    let id = tracking_id(&answer).to_owned();
    let url = format!("http://localhost:7071/api/orders/{id}/status");
    let mut headers = answer.headers.clone();
    assert!((400..=500).contains(&headers["retry-after-ms"].as_str().unwrap().parse::<u32>().unwrap()), "{headers}");
    headers["retry-after-ms"] = "MS".into();
    assert_eq!(
        headers,
        json!({
            "Content-Type": "application/json", "Cache-Control": "no-store", "Location": url,
            "Retry-After": "1", "retry-after-ms": "MS"
        })
    );
    let keys: BTreeSet<&str> = answer.body.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["estimatedCompletion", "message", "status", "statusUrl", "submittedAt", "trackingId"].into());
    assert_eq!((&answer.body["status"], &answer.body["statusUrl"]), (&json!("accepted"), &json!(url)));
    let mut message: Value = serde_json::from_str(answer.message.as_deref().unwrap()).unwrap();
    assert_eq!(message["metadata"]["receivedAt"], answer.body["submittedAt"]);
    message["life"] = "LIFE".into();
    message["metadata"]["receivedAt"] = "TIME".into();
    assert_eq!(
        message,
        json!({
            "schemaVersion": 1, "trackingId": id, "life": "LIFE", "data": body,
            "metadata": {
                "apiName": "orders", "operationName": "submitOrder", "receivedAt": "TIME",
                "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "owner": "anonymous"
            }
        })
    );
}

#[test]
fn an_order_is_kept_to_the_letter() {
    let (_data, handler) = start();
    let body = with(
        "KEEP-1",
        r#""price":1.10,"big":12345678901234567890,"exact":0.1000000000000000055511151231257827,"small":1E-7,"z":null,"text":"é \/ \u00e9","nul":"\u0000","$serde_json::private::RawValue":"{","a":{"b":[ 1 , 2 ]}"#,
    );

    let first = handler.ingress(Some(&format!("\r\n {body}\t\n")), &[]);
    let again = handler.ingress(Some(&body), &[]);

    let data = format!("\"data\":{body},");
    assert!(first.message.as_ref().unwrap().contains(&data), "{:?}", first.message);
    assert_eq!((again.status, &again.message), (202, &first.message));
    assert_eq!(handler.process(first.message.as_ref().unwrap()).status, 200);
    assert_eq!(handler.status(tracking_id(&first)).body["status"], "completed");
}

#[test]
fn the_same_order_twice_is_one_order() {
    let (_data, handler) = start();
    let body = order("TWICE-1").to_string();

    let first = handler.ingress(Some(&body), &[]);
    let second = handler.ingress(Some(&body), &[]);

    assert_eq!((&first.body, &first.headers, &first.message), (&second.body, &second.headers, &second.message));
    assert_eq!(first.status, second.status);
}

#[test]
fn the_same_meaning_in_other_bytes_is_the_same_order() {
    let (_data, handler) = start();
    let texts = [
        r#"{"orderId":"M-1","customerId":"C","currency":"EUR","items":[{"sku":"S","quantity":1,"unitPrice":1.5}],"extra":{"a":1,"b":[100,0,"x"]}}"#,
        r#"{"extra":{"b":[100,0,"x"],"a":1},"items":[{"unitPrice":1.5,"quantity":1,"sku":"S"}],"currency":"EUR","customerId":"C","orderId":"M-1"}"#,
        r#"{"orderId":"M-1","customerId":"C","currency":"EUR","items":[{"sku":"S","quantity":1.0,"unitPrice":1.50}],"extra":{"a":10e-1,"b":[1E2,-0.0,"x"]}}"#,
        "{ \"orderId\" : \"M-1\",\r\n\t\"customerId\":\"C\", \"currency\":\"EUR\",\"items\":[ {\"sku\":\"S\",\"quantity\":1,\"unitPrice\":1.5 } ],\"extra\":{\"a\":1,\"b\":[100,0,\"x\"]}} ",
        r#"{"\u006frderId":"\u004d-1","customerId":"\u0043","currency":"EUR","items":[{"sku":"S","quantity":1,"unitPrice":1.5}],"extra":{"a":1,"b":[100,0,"\u0078"]}}"#,
    ];

    let answers = texts.map(|text| handler.ingress(Some(text), &[]));

    for (answer, text) in answers.iter().zip(texts) {
        assert_eq!(answer.body, answers[0].body, "{text}");
        assert_eq!(answer.message, answers[0].message, "{text}");
    }
}

#[test]
fn another_meaning_under_the_same_order_number_is_a_conflict() {
    let (_data, handler) = start();
    let first = handler.ingress(Some(&with("C-1", r#""extra":1"#)), &[]);
    let id = tracking_id(&first);

    for member in [r#""extra":2"#, r#""extra":"1""#, r#""extra":[1]"#, r#""extra":null"#, r#""extra":1,"more":null"#, r#""note":"x""#] {
        let other = handler.ingress(Some(&with("C-1", member)), &[]);
        assert_eq!((other.status, kind(&other), &other.message), (409, "order-conflict", &None), "{member}");
        assert!(!format!("{other:?}").contains(id), "{other:?}");
    }
    assert_eq!(handler.ingress(Some(&with("C-1", r#""extra":1"#)), &[]).body, first.body);
}

#[test]
fn prices_that_differ_only_as_text_are_another_order() {
    let (_data, handler) = start();
    let priced = |price: &str| with_item("P-1", &format!(r#"{{"sku":"S","quantity":1,"unitPrice":{price}}}"#));

    assert_eq!(handler.ingress(Some(&priced("1.5")), &[]).status, 202);
    assert_eq!(handler.ingress(Some(&priced("1.50")), &[]).status, 202);
    assert_eq!(handler.ingress(Some(&priced("\"1.5\"")), &[]).status, 409);
    assert_eq!(handler.ingress(Some(&priced("1.5000001e0")), &[]).status, 400);
    assert_eq!(handler.ingress(Some(&priced("1.500001")), &[]).status, 409);
}

#[test]
fn sixty_four_clients_at_once_make_one_order() {
    let (_data, handler) = start();
    let body = order("CROWD-1").to_string();
    let barrier = Barrier::new(64);

    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let one = || {
            barrier.wait();
            handler.ingress(Some(&body), &[])
        };
        let threads: Vec<_> = (0..64).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });

    let ids: BTreeSet<&str> = answers.iter().map(tracking_id).collect();
    let messages: BTreeSet<&str> = answers.iter().map(|answer| answer.message.as_deref().unwrap()).collect();
    let bodies: BTreeSet<String> = answers.iter().map(|answer| answer.body.to_string()).collect();
    let accepted = handler.program.lines().iter().filter(|line| line.contains("order accepted")).count();
    assert_eq!((ids.len(), messages.len(), bodies.len(), accepted), (1, 1, 1, 1));
}

#[test]
fn a_crowd_with_different_orders_under_one_number_gets_one_order_and_conflicts() {
    let (_data, handler) = start();
    let barrier = Barrier::new(16);

    let statuses: Vec<u64> = std::thread::scope(|scope| {
        let (barrier, handler) = (&barrier, &handler);
        let one = move |number: usize| {
            let body = with("RACE-1", &format!("\"extra\":{number}"));
            barrier.wait();
            handler.ingress(Some(&body), &[]).status
        };
        let threads: Vec<_> = (0..16).map(|number| scope.spawn(move || one(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });

    assert_eq!(statuses.iter().filter(|status| **status == 202).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 15, "{statuses:?}");
}

#[test]
fn an_idempotency_key_stands_for_its_order() {
    let (_data, handler) = start();
    let body = order("KEY-1").to_string();

    let bare = handler.ingress(Some(&body), &[("Idempotency-Key", "k-1")]);
    let quoted = handler.ingress(Some(&body), &[("idempotency-key", "\"k-1\"")]);
    let padded = handler.ingress(Some(&body), &[("IDEMPOTENCY-KEY", "  k-1 ")]);
    let without = handler.ingress(Some(&body), &[]);
    let other_key = handler.ingress(Some(&body), &[("Idempotency-Key", "K-1")]);

    assert_eq!((&quoted.body, &quoted.message), (&bare.body, &bare.message));
    assert_eq!((&padded.body, &padded.message), (&bare.body, &bare.message));
    let ids: BTreeSet<&str> = [&bare, &without, &other_key].map(tracking_id).into();
    assert_eq!(ids.len(), 3);
}

#[test]
fn a_reused_idempotency_key_is_refused_and_tells_no_id() {
    let (_data, handler) = start();
    let first = handler.ingress(Some(&order("REUSE-1").to_string()), &[("Idempotency-Key", "k")]);

    let other = handler.ingress(Some(&order("REUSE-2").to_string()), &[("Idempotency-Key", "\"k\"")]);

    assert_eq!((other.status, kind(&other), &other.message), (422, "idempotency-key-reused", &None));
    assert!(!format!("{other:?}").contains(tracking_id(&first)), "{other:?}");
}

#[test]
fn an_idempotency_key_that_cannot_be_used_is_refused() {
    let (_data, handler) = start();
    let body = order("BADKEY-1").to_string();
    let (long, longest) = ("k".repeat(256), "k".repeat(255));

    for key in ["", "   ", "\"\"", "käse", "tab\there", "nul\u{0}", "line\nbreak", long.as_str()] {
        let answer = handler.ingress(Some(&body), &[("Idempotency-Key", key)]);
        assert_eq!((answer.status, kind(&answer)), (400, "invalid-idempotency-key"), "{key:?}: {answer:?}");
        assert_eq!(answer.message, None);
    }
    let twice = handler.ingress(Some(&body), &[("Idempotency-Key", "a"), ("Idempotency-Key", "a")]);
    assert_eq!((twice.status, kind(&twice)), (400, "invalid-idempotency-key"));
    assert_eq!(handler.ingress(Some(&body), &[("Idempotency-Key", &longest)]).status, 202);
}

#[test]
fn the_message_goes_out_again_only_while_the_order_is_accepted() {
    let (_data, handler) = start();
    let body = order("AGAIN-1").to_string();
    let first = handler.ingress(Some(&body), &[]);
    let again = handler.ingress(Some(&body), &[]);
    assert_eq!(again.message, first.message);

    assert_eq!(handler.process(first.message.as_ref().unwrap()).status, 200);
    let after = handler.ingress(Some(&body), &[]);

    assert_eq!((after.status, &after.message), (202, &None));
    assert_eq!(after.body["status"], "completed");
    for member in ["trackingId", "statusUrl", "submittedAt"] {
        assert_eq!(after.body[member], first.body[member]);
    }
    assert_eq!(after.headers["Location"], first.headers["Location"]);
    assert_eq!(handler.ingress(Some(&with("AGAIN-1", "\"x\":1").replace("C-1", "C-1001")), &[]).status, 409);
}

#[test]
fn the_status_url_stands_below_the_url_the_client_used() {
    let (_data, handler) = start();
    let submit = |url: &str, number: usize| {
        let body = order(&format!("URL-{number}")).to_string();
        Answer::of(&handler.invoke("OrderIngress", &http_envelope("POST", url, &json!({}), Some(&body), &[])))
    };

    for (number, (url, expected)) in [
        ("https://shop.example.com/api/orders", "https://shop.example.com/api/orders/ID/status"),
        ("https://shop.example.com/api/Orders/", "https://shop.example.com/api/Orders/ID/status"),
        ("http://localhost:7071/api/orders?code=SECRET&clientId=1#y", "http://localhost:7071/api/orders/ID/status"),
        ("http://hé/api/orders", "/api/orders/ID/status"),
        ("http://a b\r\nX: y/api/orders", "/api/orders/ID/status"),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = submit(url, number);
        let expected = expected.replace("ID", tracking_id(&answer));
        assert_eq!((&answer.headers["Location"], &answer.body["statusUrl"]), (&json!(expected), &json!(expected)));
    }
}

#[test]
fn the_status_url_stands_below_the_public_base_url_when_there_is_one() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("PUBLIC_BASE_URL", "https://shop.example.com/shop/api//")]);

    let answer = handler.ingress(Some(&order("BASE-1").to_string()), &[]);

    let expected = format!("https://shop.example.com/shop/api/orders/{}/status", tracking_id(&answer));
    assert_eq!((&answer.headers["Location"], &answer.body["statusUrl"]), (&json!(expected), &json!(expected)));
}

#[test]
fn a_function_key_leaves_in_nothing() {
    let (_data, mut handler) = start();
    let url = "http://localhost:7071/api/orders?code=SECRET-1";
    let headers = [("x-functions-key", "SECRET-2"), ("Authorization", "Bearer SECRET-3"), ("Cookie", "s=SECRET-4")];
    let mut envelope = http_envelope("POST", url, &json!({}), Some(&order("LEAK-1").to_string()), &headers);
    envelope["Data"]["req"]["Query"] = json!({ "code": "SECRET-1" });
    envelope["Metadata"]["Headers"] = json!({ "x-functions-key": "SECRET-2" });

    let accepted = handler.invoke("OrderIngress", &envelope);
    envelope["Data"]["req"]["Body"] = "{}".into();
    let refused = handler.invoke("OrderIngress", &envelope);
    let status = handler.status(tracking_id(&Answer::of(&accepted)));

    handler.program.line("OrderStatus answered");
    let seen = format!("{accepted:?}{refused:?}{status:?}{:?}", handler.program.lines());
    assert!(!seen.contains("SECRET"), "{seen}");
}

#[test]
fn handlers_on_the_same_records_derive_the_same_ids() {
    let (data, other) = (Directory::new(), Directory::new());
    let (first, second) = (Handler::start(data.path(), &[]), Handler::start(data.path(), &[]));
    let elsewhere = Handler::start(other.path(), &[]);
    let body = order("SAME-1").to_string();

    let answers = [&first, &second].map(|handler| handler.ingress(Some(&body), &[]));
    let foreign = elsewhere.ingress(Some(&body), &[]);

    assert_eq!((&answers[0].body, &answers[0].message), (&answers[1].body, &answers[1].message));
    assert_ne!(tracking_id(&foreign), tracking_id(&answers[0]), "the secret is each deployment's own");
}

#[test]
fn a_fixed_secret_makes_ids_equal_across_records() {
    let settings = [("TRACKING_ID_KEY", "0123456789abcdef0123456789abcdef")];
    let ids: BTreeMap<String, usize> = (0..2)
        .map(|number| {
            let data = Directory::new();
            let handler = Handler::start(data.path(), &settings);
            (tracking_id(&handler.ingress(Some(&order("FIXED-1").to_string()), &[])).to_owned(), number)
        })
        .collect();

    assert_eq!(ids.len(), 1);
    let id = ids.keys().next().unwrap();
    assert_eq!((id.len(), &id[14..15]), (36, "8"), "a UUIDv8: {id}");
}
#[cfg(target_os = "linux")]
#[test]
fn a_body_of_many_small_values_takes_no_more_memory_than_its_size_explains() {
    let (_data, handler) = start();
    let body = with("MEM-1", &format!(r#""extra":[{}0]"#, "1,".repeat(1_900_000)));

    let answer = handler.ingress(Some(&body), &[]);

    let peak = peak_memory(handler.program.id());
    assert_eq!((answer.status, kind(&answer)), (413, "order-too-large"));
    assert!(peak < 64, "{peak} MiB");
}

#[cfg(target_os = "linux")]
#[test]
fn a_long_key_above_many_mistakes_does_not_multiply() {
    let (_data, handler) = start();
    let body = with("MEM-2", &format!(r#""{}":[{}0]"#, "k".repeat(100_000), "1e999,".repeat(100)));

    let answer = handler.ingress(Some(&body), &[]);

    let peak = peak_memory(handler.program.id());
    assert!(answer.status >= 400);
    assert!(answer.body.to_string().len() < 1 << 20, "{} bytes", answer.body.to_string().len());
    assert!(peak < 64, "{peak} MiB");
}

#[test]
fn a_long_key_above_many_values_takes_no_time() {
    let (_data, handler) = start();
    let body = with("CPU-1", &format!(r#""{}":[{}0]"#, "k".repeat(1_000_000), "1,".repeat(500_000)));
    let started = std::time::Instant::now();

    let answer = handler.ingress(Some(&body), &[]);

    assert!(answer.status >= 400);
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}

#[test]
fn a_number_is_never_rounded_on_its_way_in() {
    let (_data, handler) = start();

    for item in [
        r#"{"sku":"S","quantity":1,"unitPrice":1.00000000000000000000000000000000001e0}"#,
        r#"{"sku":"S","quantity":1.00000000000000000000000000000000001e0,"unitPrice":1}"#,
    ] {
        let answer = handler.ingress(Some(&with_item("R-1", item)), &[]);
        assert_eq!(answer.status, 400, "{item}: {answer:?}");
    }
}

#[test]
fn the_lowest_exponent_is_refused_like_any_other() {
    let (_data, handler) = start();

    refused(&handler, &with("X-1", r#""extra":1e-2147483648"#), &[("/extra", "too large or too long")]);
}

#[test]
fn an_overdue_order_is_sent_again_when_it_is_asked_for_again() {
    let data = Directory::new();
    let settings = [("WORK_DELAY", "60s"), ("LEASE", "200ms")];
    let mut first = Handler::start(data.path(), &settings);
    let body = order("OVERDUE-1").to_string();
    let message = first.ingress(Some(&body), &[]).message.unwrap();
    std::thread::scope(|scope| {
        let url = first.url("/OrderProcessor");
        scope.spawn(move || {
            crate::support::try_request("POST", &url, &[], Some(crate::support::queue_envelope(&message).to_string().as_bytes()))
        });
        first.program.line("order claimed");
        assert_eq!(first.ingress(Some(&body), &[]).message, None, "a live worker has it");
        first.program.kill();
    });

    let second = Handler::start(data.path(), &[]);
    let again = crate::support::eventually("the order is overdue", || second.ingress(Some(&body), &[]).message);
    assert_eq!(second.process(&again).status, 200);

    let message: Value = serde_json::from_str(&again).unwrap();
    assert_eq!(second.status(message["trackingId"].as_str().unwrap()).body["status"], "completed");
}
