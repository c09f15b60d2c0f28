//! What the host sends, byte for byte, and what it must hear.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::{Directory, Handler, PATIENCE, http_envelope, order, repository, request};

/// Every recorded HTTP invocation, and what its client is told by `OrderIngress`.
const HTTP: [(&str, u64, &str); 15] = [
    ("captured/http-get.request.json", 400, "no-body"),
    ("captured/http-post-chunked-client-loses-body.request.json", 400, "no-body"),
    ("captured/http-post-empty.request.json", 400, "no-body"),
    ("captured/http-post-invalid-json.request.json", 400, "not-json"),
    ("captured/http-post-json-array.request.json", 400, "invalid-order"),
    ("captured/http-post-json.request.json", 400, "invalid-order"),
    ("captured/http-post-names-clash.request.json", 400, "invalid-order"),
    ("captured/http-post-no-content-type.request.json", 400, "invalid-order"),
    ("captured/http-post-octet-stream.request.json", 415, "unsupported-media-type"),
    ("captured/http-post-text.request.json", 415, "unsupported-media-type"),
    ("captured/http-post-utf8-bom.request.json", 400, "invalid-order"),
    ("http-trigger-binary-body.request.json", 415, "unsupported-media-type"),
    ("http-trigger-get-no-body.request.json", 400, "no-body"),
    ("http-trigger-order-post.request.json", 400, "invalid-order"),
    ("cosmosdb-input.request.json", 400, "no-body"),
];

/// Every recorded invocation of another trigger: none holds a message of ours.
const OTHERS: [&str; 10] = [
    "captured/queue-empty.request.json",
    "captured/queue-json-array.request.json",
    "captured/queue-json.request.json",
    "captured/queue-number.request.json",
    "captured/queue-text.request.json",
    "servicebus-trigger-batch.request.json",
    "servicebus-trigger-binary.request.json",
    "servicebus-trigger-json.request.json",
    "servicebus-trigger-plain-text.request.json",
    "timer-trigger.request.json",
];

struct Answered {
    status: u16,
    content_type: String,
    body: String,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

fn connect(handler: &Handler) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", handler.port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads one response, of known length, and leaves the connection open.
fn receive(stream: &mut TcpStream) -> Answered {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&head)));
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let header = |name: &str| {
        let found = head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
        found.map(|line| line[name.len() + 1..].trim().to_owned()).unwrap_or_default()
    };
    let mut body = vec![0; header("content-length").parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    Answered {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        content_type: header("content-type"),
        body: String::from_utf8(body).unwrap(),
    }
}

fn head(function: &str, framing: &str) -> String {
    format!(
        "POST /{function} HTTP/1.1\r\nHost: 127.0.0.1:41745\r\nX-Azure-Functions-HostVersion: 4.1037.0.0\r\n\
         X-Azure-Functions-InvocationId: 7691c444-b0d5-4d91-9c2c-dbf8094220d3\r\nUser-Agent: Azure-Functions-Host/4.1037.0.0\r\n\
         {framing}\r\nContent-Type: application/json; charset=utf-8\r\n\r\n"
    )
}

/// As under `func start`.
fn with_length(handler: &Handler, function: &str, body: &[u8]) -> Answered {
    let mut stream = connect(handler);
    stream.write_all(head(function, &format!("Content-Length: {}", body.len())).as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    receive(&mut stream)
}

/// As in Azure; `sizes` of the chunks come round again.
fn chunked(handler: &Handler, function: &str, body: &[u8], sizes: &[usize]) -> Answered {
    let mut stream = connect(handler);
    stream.write_all(head(function, "Transfer-Encoding: chunked").as_bytes()).unwrap();
    let mut rest = body;
    for size in sizes.iter().cycle() {
        let (chunk, after) = rest.split_at(rest.len().min(*size));
        stream.write_all(format!("{:X}\r\n", chunk.len()).as_bytes()).unwrap();
        stream.write_all(chunk).unwrap();
        stream.write_all(b"\r\n").unwrap();
        if chunk.is_empty() {
            break;
        }
        rest = after;
    }
    receive(&mut stream)
}

fn fixture(path: &str) -> Vec<u8> {
    let path = repository().join("tests/fixtures/host").join(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The invocation, but for the query of its URL: the recorded ones have parameters that no function here knows.
fn without_query(envelope: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(envelope).unwrap();
    let (before, rest) = text.split_once("\"Url\":").unwrap();
    let (url, after) = rest.split_once(',').unwrap();
    let url = url.split_once('?').map_or(url.to_owned(), |(url, _)| format!("{url}\""));
    format!("{before}\"Url\":{url},{after}").into_bytes()
}

fn envelope(order: &Value) -> String {
    http_envelope("POST", "http://localhost:7071/api/orders", &json!({}), Some(&order.to_string()), &[]).to_string()
}

#[test]
fn every_recorded_invocation_is_covered() {
    let root = repository().join("tests/fixtures/host");
    let mut files = Vec::new();
    for folder in ["", "captured/"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".request.json") {
                files.push(format!("{folder}{name}"));
            }
        }
    }

    for file in files {
        assert!(HTTP.iter().any(|(name, ..)| *name == file) || OTHERS.contains(&file.as_str()), "{file}");
    }
}

#[test]
fn every_recorded_http_invocation_gets_an_answer_its_client_can_read_in_either_framing() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);

    for (file, status, kind) in HTTP {
        let body = without_query(&fixture(file));
        let answers = [with_length(&handler, "OrderIngress", &body), chunked(&handler, "OrderIngress", &body, &[1024, 186])];
        for answered in &answers {
            assert_eq!((answered.status, answered.content_type.as_str()), (200, "application/json"), "{file}");
            let answer = answered.json();
            let res = &answer["Outputs"]["res"];
            let problem: Value = serde_json::from_str(res["body"].as_str().unwrap()).unwrap();
            assert_eq!(res["statusCode"], status, "{file}: {answer}");
            assert_eq!(problem["type"], format!("urn:problem-type:waybill:{kind}"), "{file}: {answer}");
            assert_eq!(answer["Outputs"].get("orderMessage"), None, "{file}");
        }
        assert_eq!(answers[0].body, answers[1].body, "{file}");
    }
}

#[test]
fn an_invocation_of_another_trigger_is_never_taken_for_a_processed_message() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);

    for file in OTHERS {
        let body = fixture(file);
        let answers = [with_length(&handler, "OrderProcessor", &body), chunked(&handler, "OrderProcessor", &body, &[333])];
        for answered in answers {
            assert!((400..600).contains(&answered.status), "{file}: {}", answered.status);
            assert!(!answered.body.is_empty(), "{file}");
        }
    }
}

#[test]
fn an_order_gets_the_same_answer_however_its_invocation_is_framed() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let mut with_words = order("FRAMED-1");
    with_words["note"] = "Grüße, 東京 \u{1F600}".into();
    let envelope = envelope(&with_words).into_bytes();

    let first = with_length(&handler, "OrderIngress", &envelope);

    assert_eq!(first.status, 200);
    assert_eq!(first.json()["Outputs"]["res"]["statusCode"], 202, "{}", first.body);
    for sizes in [&[1][..], &[2, 3, 1], &[7], &[13, 1, 64], &[1024], &[usize::MAX]] {
        let again = chunked(&handler, "OrderIngress", &envelope, sizes);
        assert_eq!((again.status, again.content_type.as_str()), (200, "application/json"), "{sizes:?}");
        assert_eq!(again.body, first.body, "{sizes:?}");
    }
}

#[test]
fn the_recorded_chunked_request_is_understood_as_it_stands() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let recorded = String::from_utf8(fixture("captured/http-post-json.raw-chunked.http")).unwrap();
    let adapted = recorded.replacen("POST /Case ", "POST /OrderIngress ", 1);
    assert_ne!(adapted, recorded);

    let mut stream = connect(&handler);
    stream.write_all(adapted.as_bytes()).unwrap();
    let answered = receive(&mut stream);

    assert_eq!(answered.json()["Outputs"]["res"]["statusCode"], 400);
    assert!(answered.body.contains("invalid-query"), "{}", answered.body);
}

#[test]
fn the_recorded_chunked_request_with_an_order_in_it_is_accepted() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let recorded = String::from_utf8(fixture("captured/http-post-json.raw-chunked.http")).unwrap();
    let (head, _) = recorded.split_once("\r\n\r\n").unwrap();
    let mut envelope: Value = serde_json::from_slice(&fixture("captured/http-post-json.request.json")).unwrap();
    let url = envelope["Data"]["req"]["Url"].as_str().unwrap().split_once('?').unwrap().0.to_owned();
    envelope["Data"]["req"]["Url"] = url.into();
    envelope["Data"]["req"]["Body"] = order("RECORDED-1").to_string().into();
    let envelope = envelope.to_string();
    let (first, second) = envelope.split_at(0x400);

    let mut stream = connect(&handler);
    let head = head.replacen("POST /Case ", "POST /OrderIngress ", 1);
    let (a, b) = (first.len(), second.len());
    stream.write_all(format!("{head}\r\n\r\n{a:X}\r\n{first}\r\n{b:X}\r\n{second}\r\n0\r\n\r\n").as_bytes()).unwrap();
    let answered = receive(&mut stream);

    let outputs = &answered.json()["Outputs"];
    assert_eq!(outputs["res"]["statusCode"], 202, "{}", answered.body);
    let location = outputs["res"]["headers"]["Location"].as_str().unwrap();
    assert!(location.starts_with("http://localhost:7071/api/case/7/"), "{location}");
}

#[test]
fn the_message_is_one_element_of_json_text_and_the_body_is_text() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);

    let answered = with_length(&handler, "OrderIngress", envelope(&order("SHAPE-1")).as_bytes());

    let answer = answered.json();
    assert_eq!(answer.as_object().unwrap().keys().collect::<Vec<_>>(), ["Outputs"]);
    let messages = answer["Outputs"]["orderMessage"].as_array().unwrap();
    assert_eq!(messages.len(), 1);
    let message: Value = serde_json::from_str(messages[0].as_str().unwrap()).unwrap();
    assert_eq!(message["schemaVersion"], 1);
    assert_eq!(message["data"], order("SHAPE-1"));
    assert!(answer["Outputs"]["res"]["body"].is_string());
    for (name, value) in answer["Outputs"]["res"]["headers"].as_object().unwrap() {
        assert!(value.as_str().unwrap().bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{name}: {value}");
    }
}

#[test]
fn no_property_of_the_message_has_a_name_the_host_uses_itself() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let shadowed: Value = serde_json::from_slice(&fixture("servicebus-trigger-json.request.json")).unwrap();
    let mut names: Vec<String> = shadowed["Metadata"].as_object().unwrap().keys().map(|name| name.to_ascii_lowercase()).collect();
    names.retain(|name| !["orderid", "customerid", "quantity", "createdat"].contains(&name.as_str()));
    for absent in ["to", "subject", "label", "correlationid", "sessionid", "replyto", "partitionkey", "deadlettersource"] {
        names.push(absent.to_owned());
    }

    let message = handler.ingress(Some(&order("NAMES-1").to_string()), &[]).message.unwrap();

    let message: Value = serde_json::from_str(&message).unwrap();
    for name in message.as_object().unwrap().keys() {
        assert!(!names.contains(&name.to_ascii_lowercase()), "{name}");
    }
}

#[test]
fn a_processed_message_is_answered_with_an_empty_object() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let message = handler.ingress(Some(&order("DONE-1").to_string()), &[]).message.unwrap();

    let answer = handler.process(&message);

    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    assert_eq!(answer.headers["content-type"], "application/json");
}

#[test]
fn metadata_that_a_message_body_shadows_changes_nothing() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let accepted = handler.ingress(Some(&order("SHADOW-1").to_string()), &[]);
    let message = Value::from(accepted.message.unwrap()).to_string();
    let metadata = json!({ "DeliveryCount": "\"99\"", "MessageId": { "a": [1] }, "sys": "\"1\"", "metadata": { "owner": "x" } });
    let odd = [metadata, json!({}), json!({ "DeliveryCount": { "deep": [null, 1.5] } }), json!({ "DeliveryCount": null })];

    for metadata in odd {
        let envelope = json!({ "Metadata": metadata, "Data": { "orderMessage": message } });
        let answer = handler.invoke("OrderProcessor", &envelope);
        assert_eq!((answer.status, answer.body.as_str()), (200, "{}"), "{envelope}");
    }
    let status = handler.status(accepted.body["trackingId"].as_str().unwrap());
    assert_eq!(status.body["status"], "completed");
}

#[test]
fn one_connection_carries_many_invocations() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let mut stream = connect(&handler);

    for number in 0..5 {
        let envelope = envelope(&order(&format!("KEPT-{number}")));
        stream.write_all(head("OrderIngress", &format!("Content-Length: {}", envelope.len())).as_bytes()).unwrap();
        stream.write_all(envelope.as_bytes()).unwrap();
        let answered = receive(&mut stream);
        assert_eq!(answered.json()["Outputs"]["res"]["statusCode"], 202);
    }
}

#[test]
fn what_is_no_envelope_is_refused_and_harms_no_other() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let bodies: [&[u8]; 9] = [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"{\"Data\":",
        b"\xff\xfe\x00",
        br#"{"Data":{"req":{"Url":5}}}"#,
        br#"{"Data":{"req":null}}"#,
        br#"{"Data":{"orderMessage":"\"\\ud800\""}}"#,
    ];

    for function in ["OrderIngress", "OrderProcessor", "OrderStatus"] {
        for body in bodies {
            let answered = with_length(&handler, function, body);
            assert_eq!(answered.status, 400, "{function} {:?}", String::from_utf8_lossy(body));
        }
    }
    assert_eq!(handler.ingress(Some(&order("AFTER-1").to_string()), &[]).status, 202);
}

#[test]
fn an_invocation_that_breaks_off_leaves_no_record() {
    let data = Directory::new();
    let mut handler = Handler::start(data.path(), &[]);
    let envelope = envelope(&order("BROKEN-1"));

    let mut stream = connect(&handler);
    stream.write_all(head("OrderIngress", "Transfer-Encoding: chunked").as_bytes()).unwrap();
    stream.write_all(format!("{:X}\r\n{envelope}\r\n", envelope.len()).as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    drop(stream);
    let accepted = handler.ingress(Some(&json!({ "other": 1 }).to_string()), &[]);

    assert_eq!(accepted.status, 400);
    handler.program.line("OrderIngress answered");
    assert!(!handler.program.lines().iter().any(|line| line.contains("order accepted")), "{:?}", handler.program.lines());
}

#[test]
fn the_hosts_probe_is_answered_and_writes_no_line() {
    let data = Directory::new();
    let mut handler = Handler::start(data.path(), &[]);
    let before = handler.program.lines().len();

    for _ in 0..3 {
        assert_eq!(request("GET", &handler.url("/"), &[], None).status, 200);
    }
    request("GET", &handler.url("/nowhere"), &[], None);

    handler.program.line("a request to an unknown function");
    assert_eq!(handler.program.lines().len(), before + 1, "{:?}", handler.program.lines());
}

#[test]
fn health_and_readiness_are_told() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);

    let alive = request("GET", &handler.url("/healthz"), &[], None);
    let ready = request("GET", &handler.url("/readyz"), &[], None);

    assert_eq!((alive.status, alive.json()), (200, json!({ "status": "alive" })));
    assert_eq!((ready.status, &ready.json()["status"]), (200, &json!("ready")));
    assert_eq!(ready.json()["store"]["engine"], "sqlite");
    assert_eq!((&alive.headers["content-type"], &ready.headers["content-type"]), (&"application/json".into(), &"application/json".into()));
}

#[test]
fn only_functions_are_called_and_only_with_post() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);

    for (method, path, status) in [
        ("POST", "/Nothing", 404),
        ("POST", "/orderingress", 404),
        ("POST", "/OrderIngress/x", 404),
        ("GET", "/OrderIngress", 405),
        ("DELETE", "/OrderStatus", 405),
        ("GET", "/api/orders", 404),
    ] {
        let answer = request(method, &handler.url(path), &[], None);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert!(answer.json()["title"].is_string());
    }
}
