//! Hostile input through the real host and handler, over raw sockets where no client would send it: each is refused clearly or
//! cut off, memory stays bounded, no log repeats it, and nobody else notices.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::support::{Directory, Host, PATIENCE, Program, eventually, order, repository, request};

/// In the values of every hostile request; no answer and no log repeats it.
const CANARY: &str = "CANARY";
/// What a process may hold at most at any moment, in MiB: a 10 MB body is some copies of itself in the host.
const PEAK: u64 = 192;

/// A host that receives hostile requests, and another caller's order in between.
struct Attacked {
    host: Host,
    data: Directory,
    others: usize,
}

impl Attacked {
    fn start() -> Self {
        let data = Directory::new();
        Self { host: Host::start(data.path(), &[]), data, others: 0 }
    }

    /// Another caller sends an order, and it completes.
    fn another_caller_is_served(&mut self) {
        self.others += 1;
        let id = self.host.submit(&order(&format!("OTHER-{}", self.others)));
        let ended = self.host.ended(&id);
        assert_eq!((&ended["status"], &ended["result"]["total"]), (&json!("completed"), &json!("53.16")), "{ended}");
    }

    fn handler(&self) -> u32 {
        let record = std::fs::read(self.data.path().join("handler.json")).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        record["process"].as_u64().unwrap().try_into().unwrap()
    }

    /// Checks that this number of orders was accepted, and that no log line repeats the request.
    fn accepted(&self, orders: usize) {
        let lines = self.host.program.lines();
        let accepted = lines.iter().filter(|line| line.contains("order accepted")).count();
        assert_eq!(accepted, orders, "{lines:#?}");
        assert!(!lines.iter().any(|line| line.contains(CANARY)), "{lines:#?}");
    }

    /// Neither process holds more than this, in MiB: `VmHWM` at any moment, `VmRSS` now.
    fn holds_at_most(&self, limit: u64, measure: &str) {
        for (name, process) in [("host", self.host.program.id()), ("handler", self.handler())] {
            let memory = memory(process, measure);
            println!("{name}: {measure} {memory:?} MiB");
            assert!(memory.is_none_or(|memory| memory < limit), "{name}: {measure} {memory:?} MiB");
        }
    }
}

/// In MiB; nothing where there is no `/proc`.
fn memory(process: u32, measure: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(measure))?;
    Some(line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

/// Sends these bytes. A server that refuses them early may close before all of them are sent.
fn send(port: u16, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let sent = stream.write_all(bytes);
    assert!(sent.is_ok() || sent.is_err_and(|error| matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)));
    stream
}

/// All that is answered until the other side closes.
fn received(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // A server that closes before all was read resets the connection.
        Err(error) if error.kind() != ErrorKind::ConnectionReset => format!("left waiting: {error}\r\n\r\n"),
        _ => String::from_utf8(answer).unwrap(),
    }
}

/// Status and problem type of the one answer; the status alone when it has no body; or that there was none.
fn verdict(answer: &str) -> String {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        assert_eq!(answer, "");
        return "closed".into();
    };
    if head.starts_with("left waiting") {
        return head.into();
    }
    let status = head.split(' ').nth(1).unwrap();
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    assert_eq!(length, Some(body.len()), "one answer and nothing more: {answer}");
    assert!(!answer.contains(CANARY), "{answer}");
    match serde_json::from_str::<Value>(body) {
        Ok(problem) => {
            format!("{status} {}", problem["type"].as_str().unwrap_or("no problem").trim_start_matches("urn:problem-type:waybill:"))
        }
        Err(_) => status.into(),
    }
}

/// One hostile request, and its verdict.
struct Row {
    bytes: Vec<u8>,
    expected: &'static str,
    /// Nothing follows, although more was announced.
    breaks_off: bool,
}

fn row(bytes: Vec<u8>, expected: &'static str) -> Row {
    Row { bytes, expected, breaks_off: false }
}

fn broken_off(bytes: Vec<u8>, expected: &'static str) -> Row {
    Row { bytes, expected, breaks_off: true }
}

/// `POST /api/orders` with these header lines besides those that it needs.
fn post(lines: &[u8], body: &[u8]) -> Vec<u8> {
    let head = b"POST /api/orders HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n";
    let length = format!("Content-Length: {}\r\n\r\n", body.len());
    [head.as_slice(), lines, length.as_bytes(), body].concat()
}

/// An order with this text between the quotes of its number, and this unknown value.
fn order_text(order_id: &[u8], extra: &[u8]) -> Vec<u8> {
    let rest = br#"","customerId":"CANARY","currency":"EUR","items":[{"sku":"CANARY","quantity":1,"unitPrice":"1.00"}],"extra":"#;
    [br#"{"orderId":""#.as_slice(), order_id, rest, extra, b"}"].concat()
}

fn bodies() -> Vec<Row> {
    let id = |order_id: &[u8], expected| row(post(b"", &order_text(order_id, b"0")), expected);
    let extra = |extra: &[u8], expected| row(post(b"", &order_text(b"CANARY", extra)), expected);
    let body = |body: &[u8], expected| row(post(b"", body), expected);
    let ten_megabytes = 10 << 20;
    let deep = |open: &str, close: &str, levels: usize| format!("{}0{}", open.repeat(levels), close.repeat(levels)).into_bytes();
    vec![
        // Nested deeply.
        extra(&deep("[", "]", 32), "400 not-json"),
        extra(&deep("[", "]", 100_000), "400 not-json"),
        extra(&deep("{\"a\":", "}", 40_000), "400 not-json"),
        body(&b"[".repeat(200_000), "400 not-json"),
        body(&b"{\"a\":".repeat(40_000), "400 not-json"),
        body(&b"[".repeat(ten_megabytes), "413 order-too-large"),
        // Long numbers.
        extra(&b"1".repeat(65), "400 invalid-order"),
        extra(&b"1".repeat(200_000), "400 invalid-order"),
        extra(&b"7".repeat(ten_megabytes), "413 order-too-large"),
        extra(&[b"-0.", b"7".repeat(ten_megabytes).as_slice()].concat(), "413 order-too-large"),
        extra(&[b"1e", b"7".repeat(ten_megabytes).as_slice()].concat(), "413 order-too-large"),
        extra(b"1e999999999999999999999", "400 invalid-order"),
        // Not UTF-8: in values, in names, outside of both, cut in the middle, and other encodings.
        id(b"A\xff", "400 invalid-order"),
        id(b"\xc0\xaf\xc0\xae", "400 invalid-order"),
        id(b"\xed\xa0\x80", "400 invalid-order"),
        extra(b"\"\xe2\x82\"", "400 invalid-order"),
        extra(b"{\"\xe2\x82\":0}", "400 invalid-order"),
        extra(b"[[{\"a\":[\"\xf5\"]}]]", "400 invalid-order"),
        extra(b"0\xff", "400 not-json"),
        // UTF-16, by its mark: an object without the members of an order.
        body(b"\xff\xfe{\0}\0", "400 invalid-order"),
        body(b"\x1f\x8b\x08\0\0\0\0\0", "400 not-json"),
        // NUL.
        id(b"A\0B", "400 not-json"),
        id(b"A\\u0000B", "400 invalid-order"),
        extra(b"\0", "400 not-json"),
        body(&b"\0".repeat(1000), "400 not-json"),
        // Half of a surrogate pair.
        id(b"\\ud800", "400 not-json"),
        id(b"\\udc00\\ud800", "400 not-json"),
        extra(b"{\"\\ud83d\":0}", "400 not-json"),
        extra(b"\"\\ud83d\\u0041\"", "400 not-json"),
        // The same name twice.
        extra(b"0,\"orderId\":\"CANARY\"", "400 invalid-order"),
        extra(b"0,\"order\\u0049d\":\"CANARY\"", "400 invalid-order"),
        extra(b"[{\"__proto__\":1,\"__proto__\":2}]", "400 invalid-order"),
        // More than one line.
        id(b"A\\r\\nX-Evil: CANARY", "400 invalid-order"),
        id(b"A\r\nX-Evil: CANARY", "400 not-json"),
        id(b"A\\u000d\\u000aX-Evil: CANARY", "400 invalid-order"),
        id(b"A\\u0085CANARY", "400 invalid-order"),
        body(&String::from_utf8(order_text(b"A", b"0")).unwrap().replace("CANARY", "C\\r\\nANARY").into_bytes(), "400 invalid-order"),
        // Nothing.
        body(b"", "400 no-body"),
        body(b"\r\n \t", "400 no-body"),
    ]
}

fn heads() -> Vec<Row> {
    let whole = order_text(b"CANARY", b"0");
    let header = |line: &[u8], expected| row(post(&[line, b"\r\n"].concat(), &whole), expected);
    let line = |line: &str, expected| row(format!("{line}\r\nHost: localhost\r\nConnection: close\r\n\r\n").into_bytes(), expected);
    let hosts =
        |lines: &str, expected| row(format!("GET /api/orders/x/status HTTP/1.1\r\n{lines}Connection: close\r\n\r\n").into(), expected);
    let typed = |content_type: &str, expected| {
        let post = String::from_utf8(post(b"", &whole)).unwrap();
        row(post.replace("application/json", content_type).into_bytes(), expected)
    };
    let long = |start: &str, length: usize| format!("{start}{}", "a".repeat(length));
    vec![
        // A value that would end its header, or is none.
        header(b"Idempotency-Key: a\rX-Evil: CANARY", "400"),
        header(b"Idempotency-Key: a\r\n X-Evil: CANARY", "400"),
        header(b"Idempotency-Key: a\0CANARY", "400"),
        header(b"Idempotency-Key: a\tCANARY", "400 invalid-idempotency-key"),
        header(b"Idempotency-Key: a CANARY", "400 invalid-idempotency-key"),
        header(b"Idempotency-Key: CANARY\xff", "400 invalid-idempotency-key"),
        header("Idempotency-Key: CANARY\u{2028}".as_bytes(), "400 invalid-idempotency-key"),
        header(b"Idempotency-Key: a\"CANARY", "400 invalid-idempotency-key"),
        header(b"Idempotency-Key:", "400 invalid-idempotency-key"),
        header(b"Idempotency-Key: CANARY\r\nidempotency-KEY: CANARY", "400 invalid-idempotency-key"),
        header(long("Idempotency-Key: ", 256).as_bytes(), "400 invalid-idempotency-key"),
        header(long("Idempotency-Key: ", 100_000).as_bytes(), "400 invalid-idempotency-key"),
        header(b"traceparent: 00-1\0-2-00", "400"),
        header(b"traceparent: 00-1\r-2-00", "400"),
        header(b"X Evil: CANARY", "400"),
        header(b"X-Evil : CANARY", "400"),
        header(b": CANARY", "400"),
        header(b"X-\xc3\xa9: CANARY", "400"),
        typed("text/plain", "415 unsupported-media-type"),
        typed("multipart/form-data; boundary=CANARY", "415 unsupported-media-type"),
        typed("application/json\u{e9}", "415 unsupported-media-type"),
        // Too many, too long.
        header("X-Evil: CANARY\r\n".repeat(200).trim_end().as_bytes(), "431"),
        header(long("X-Evil: ", 1 << 20).as_bytes(), "431"),
        header(long("X-", 100_000).as_bytes(), "400"),
        line(&format!("{} HTTP/1.1", long("GET /api/orders/", 60_000)), "404 order-not-found"),
        line(&format!("GET /api/orders/{}/status HTTP/1.1", "CANARY".repeat(9_000)), "404 order-not-found"),
        line(&format!("GET /api/orders/x/status?seen={} HTTP/1.1", "CANARY".repeat(9_000)), "404 order-not-found"),
        line(&format!("GET /api/{} HTTP/1.1", "a/".repeat(30_000)), "404"),
        line(&format!("{} HTTP/1.1", long("GET /api/orders/", 70_000)), "414"),
        line(&format!("{} HTTP/1.1", long("GET /", 1 << 20)), "431"),
        line(&long("", 1 << 20), "431"),
        // Route parameters and queries.
        line("GET /api/orders/%0d%0aX-Evil:%20CANARY/status HTTP/1.1", "404 order-not-found"),
        line("GET /api/orders/%00/status HTTP/1.1", "400"),
        line("GET /api/orders/%ff%fe/status HTTP/1.1", "404 order-not-found"),
        line("GET /api/orders/..%2f..%2fadmin/status HTTP/1.1", "404 order-not-found"),
        line("GET /api/orders/0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10/status?seen=%0d%0aX-Evil:%20CANARY HTTP/1.1", "404 order-not-found"),
        line("GET /api/orders/0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10/status?seen=CANARY&seen=&seen HTTP/1.1", "400 invalid-query"),
        line("GET /api/../api/orders/x/status HTTP/1.1", "404 order-not-found"),
        line("GET //evil.example/api/orders HTTP/1.1", "404"),
        line("GET /api/orders/\u{e9}/status HTTP/1.1", "400"),
        line("GET /api/orders/x y/status HTTP/1.1", "400"),
        // No host, or more than one, or none that is one.
        hosts("", "400"),
        hosts("Host: localhost\r\nHost: evil.example\r\n", "400"),
        hosts("Host: localhost, evil.example\r\n", "400"),
        hosts("Host: evil.example/x?\r\n", "400"),
        hosts("Host: user@evil.example\r\n", "400"),
        hosts("Host: evil.example\r\n X-Evil: CANARY\r\n", "400"),
        hosts("Host: \u{e9}vil.example\r\n", "400"),
        // Not HTTP/1.
        line("GET /api/orders HTTP/9.9", "400"),
        line("PRI * HTTP/2.0\r\n\r\nSM\r\n", "closed"),
        line("CONNECT evil.example:443 HTTP/1.1", "404"),
        line("TRACE /api/orders HTTP/1.1", "404"),
        line("OPTIONS * HTTP/1.1", "404"),
        line("P\0ST /api/orders HTTP/1.1", "400"),
        row(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), "400"),
        broken_off(b"POST /api/or".to_vec(), "closed"),
    ]
}

/// Requests that one reader takes for one and another for two.
fn framings() -> Vec<Row> {
    let hidden = post(b"", &order_text(b"HIDDEN", b"0"));
    let framed = |lines: &str, body: &[u8], expected| {
        let head = format!("POST /api/orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{lines}\r\n\r\n");
        row([head.as_bytes(), body].concat(), expected)
    };
    let last_chunk = [b"0\r\n\r\n", hidden.as_slice()].concat();
    let length = last_chunk.len();
    let chunk = format!("{:x}\r\n{}\r\n0\r\n\r\n", hidden.len(), String::from_utf8(hidden.clone()).unwrap()).into_bytes();
    let chunked = |body: &[u8]| framed("Transfer-Encoding: chunked", &[body, b"\r\n0\r\n\r\n"].concat(), "400");
    let whole = order_text(b"CANARY", b"0");
    let half = post(b"", &whole);
    vec![
        framed(&format!("Content-Length: {length}\r\nTransfer-Encoding: chunked"), &last_chunk, "400 no-body"),
        framed(&format!("Transfer-Encoding: chunked\r\nContent-Length: {length}"), &last_chunk, "400 no-body"),
        framed("Content-Length: 4\r\nTransfer-Encoding: chunked", &chunk, "400 no-body"),
        framed(&format!("Content-Length: {length}\r\nContent-Length: 0"), &last_chunk, "400"),
        framed(&format!("Content-Length: 0\r\nContent-Length: {length}"), &last_chunk, "400"),
        framed(&format!("Content-Length: {length}, 0"), &last_chunk, "400"),
        framed(&format!("Content-Length: +{length}"), &last_chunk, "400"),
        framed("Content-Length: -1", &last_chunk, "400"),
        framed("Content-Length: 0x5", &last_chunk, "400"),
        framed("Content-Length: 5 5", &last_chunk, "400"),
        framed("Content-Length: 18446744073709551617", &last_chunk, "400"),
        framed("Content-Length:", &last_chunk, "400"),
        framed("Content-Length : 5", &last_chunk, "400"),
        framed("Transfer-Encoding: identity", &last_chunk, "400"),
        framed("Transfer-Encoding: chunked, identity", &last_chunk, "400"),
        framed("Transfer-Encoding: xchunked", &last_chunk, "400"),
        framed("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", &last_chunk, "400"),
        framed("Transfer-Encoding: \u{b}chunked", &last_chunk, "400"),
        framed("Transfer-Encoding : chunked", &last_chunk, "400"),
        framed("Transfer-Encoding:\r\n chunked", &last_chunk, "400"),
        row([b"POST /api/orders HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", last_chunk.as_slice()].concat(), "400"),
        chunked(b"-5\r\nhello"),
        chunked(b"zz\r\nhello"),
        chunked(b"fffffffffffffffff\r\nhello"),
        chunked(b"5\r\nhello world"),
        chunked(&[b"5;".as_slice(), b"a".repeat(100_000).as_slice(), b"\r\nhello"].concat()),
        // Half of what was announced.
        broken_off(half[..half.len() - 10].to_vec(), "400"),
        broken_off(half[..half.len() - whole.len()].to_vec(), "400"),
        framed("Content-Length: 104857601", b"", "413"),
    ]
}

#[test]
fn a_hostile_request_is_refused_and_harms_no_other() {
    let mut attacked = Attacked::start();
    let handler = attacked.handler();
    let mut wrong = Vec::new();

    for (group, rows) in [("body", bodies()), ("head", heads()), ("framing", framings())] {
        for (number, row) in rows.into_iter().enumerate() {
            let stream = send(attacked.host.port, &row.bytes);
            if row.breaks_off {
                stream.shutdown(Shutdown::Write).unwrap();
            }
            attacked.another_caller_is_served();
            let verdict = verdict(&received(stream));
            if verdict != row.expected {
                let shown = String::from_utf8_lossy(&row.bytes[..row.bytes.len().min(300)]).into_owned();
                wrong.push(format!("{group} {number}: {verdict}, not {}: {shown:?}", row.expected));
            }
        }
    }

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    attacked.accepted(attacked.others);
    assert_eq!(attacked.handler(), handler, "it was never restarted");
    attacked.holds_at_most(PEAK, "VmHWM");
}

/// Names that languages, the host and our own formats mean something by. `DeliveryCount` and its like replace what the host says
/// of a message when they stand at its top.
const TAKEN: &[&str] = &[
    "__proto__",
    "constructor",
    "prototype",
    "toString",
    "$type",
    "$ref",
    "$return",
    "Metadata",
    "metadata",
    "sys",
    "$sys",
    "Data",
    "data",
    "req",
    "res",
    "Url",
    "Method",
    "Headers",
    "Query",
    "Params",
    "Identities",
    "Body",
    "StatusCode",
    "Outputs",
    "ReturnValue",
    "Logs",
    "orderMessage",
    "deadLetter",
    "DeliveryCount",
    "deliveryCount",
    "MessageId",
    "LockToken",
    "SequenceNumber",
    "EnqueuedTimeUtc",
    "ExpiresAtUtc",
    "ApplicationProperties",
    "UserProperties",
    "MessageReceiver",
    "Client",
    "InvocationId",
    "schemaVersion",
    "trackingId",
    "life",
    "status",
    "owner",
    "id",
    "_etag",
    "_ts",
    "ttl",
];

#[test]
fn names_that_others_mean_something_by_are_data_in_an_order() {
    let attacked = Attacked::start();
    let values = [json!("CANARY"), json!(999_999), json!(null), json!([]), json!({ "MethodName": "CANARY", "__proto__": { "a": 1 } })];

    for (number, value) in values.iter().enumerate() {
        let mut sent = order(&format!("TAKEN-{number}"));
        for name in TAKEN {
            sent[*name] = value.clone();
            sent["items"][0][*name] = value.clone();
        }
        let id = attacked.host.submit(&sent);
        let ended = attacked.host.ended(&id);

        assert_eq!((&ended["status"], &ended["result"]["total"]), (&json!("completed"), &json!("53.16")), "{value}: {ended}");
        assert_eq!((&ended["trackingId"], &ended["attempt"]), (&json!(id), &json!(1)), "{ended}");
        assert_eq!(attacked.host.submit(&sent), id, "the same order again");
        sent["__proto__"] = "another".into();
        assert_eq!(attacked.host.post("/api/orders", &sent).status, 409, "{value}: it is part of the order");
    }
    attacked.accepted(values.len());
}

/// The names of the headers of an answer, in order.
fn names(head: &str) -> Vec<String> {
    let mut names: Vec<_> = head.lines().skip(1).map(|line| line.split(':').next().unwrap().to_ascii_lowercase()).collect();
    names.sort();
    names
}

#[test]
fn nothing_a_client_sends_adds_a_header_or_moves_a_link() {
    let attacked = Attacked::start();
    let whole = order_text(b"LINK", b"0");
    let host = format!("localhost:{}", attacked.host.port);
    let submit = |target: &str, lines: &str| {
        let head = format!("POST {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n{lines}");
        let head = format!("{head}Content-Length: {}\r\n\r\n", whole.len());
        received(send(attacked.host.port, &[head.as_bytes(), &whole].concat()))
    };
    let long = "a".repeat(50_000);
    let key: String = (b'!'..=b'~').filter(|byte| *byte != b'"').map(char::from).collect();

    for (target, lines) in [
        ("/api/orders", ""),
        ("/api/orders", "X-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: javascript\r\nX-Forwarded-Prefix: //evil.example\r\n"),
        ("/api/orders", "X-Original-Host: evil.example\r\nForwarded: host=evil.example;proto=http\r\nX-Rewrite-Url: //evil.example\r\n"),
        ("/api/orders", "X-Forwarded-For: evil.example\r\nX-Real-IP: evil.example\r\nDISGUISED-HOST: evil.example\r\n"),
        ("/api/orders", &format!("Idempotency-Key: {key}\r\n")),
        ("/api/orders", "traceparent: evil.example\r\ntracestate: evil.example\r\n"),
        ("/api/orders", "traceparent: \u{e9}vil.example\r\n"),
        ("/api/orders?code=%0d%0aX-Evil:evil.example&clientId=evil.example", ""),
        (&format!("/api/orders?code={long}"), &format!("X-Long: {long}\r\n")),
        ("http://evil.example/api/orders", ""),
    ] {
        let answer = submit(target, lines);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
        let link = format!("http://{host}/api/orders/{}/status", body["trackingId"].as_str().unwrap_or_else(|| panic!("{answer}")));

        assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
        assert_eq!(body["statusUrl"], link, "{target}");
        assert!(head.to_ascii_lowercase().contains(&format!("\r\nlocation: {link}\r\n")), "{head}");
        let ours = ["cache-control", "connection", "content-length", "content-type", "date", "location"];
        let expected = [&ours[..], &["retry-after", "retry-after-ms"]].concat();
        assert_eq!(names(head), expected, "{target} {lines}");
        assert!(!answer.contains("evil"), "{answer}");
    }
    attacked.accepted(2);
}

/// A `traceparent` is the only text of a client's header that is passed on.
#[test]
fn a_traceparent_adds_no_header_to_what_a_backend_is_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let data = Directory::new();
    let host = Host::start(data.path(), &[("FULFILLMENT_URL", &url), ("FULFILLMENT_AUTHORIZATION", "Bearer CANARY")]);

    for (number, trace) in ["00-1-2-00", "a\tb", "Authorization: evil", "\u{e9}vil", &"e".repeat(65)].into_iter().enumerate() {
        let order = order(&format!("TRACE-{number}"));
        let headers = [("Content-Type", "application/json"), ("traceparent", trace)];
        let accepted = request("POST", &host.url("/api/orders"), &headers, Some(order.to_string().as_bytes()));
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}").unwrap();

        let passed_on = trace.is_ascii() && trace.len() <= 64;
        let mut expected = vec!["accept", "authorization", "content-length", "content-type", "host", "idempotency-key", "prefer"];
        expected.extend(passed_on.then_some("traceparent"));
        expected.extend(["user-agent", "x-waybill-attempt"]);
        assert_eq!(names(head.trim_end()), expected, "{head}");
        assert!(
            !passed_on || head.to_ascii_lowercase().contains(&format!("\r\ntraceparent: {}\r\n", trace.to_ascii_lowercase())),
            "{head}"
        );
        let id = accepted.json()["trackingId"].as_str().unwrap().to_owned();
        assert_eq!(host.ended(&id)["status"], "completed");
    }
}

/// The number of files that this process has open; `None` where there is no `/proc`.
fn open_files(process: u32) -> Option<usize> {
    std::fs::read_dir(format!("/proc/{process}/fd")).ok().map(Iterator::count)
}

/// A thousand connections that send a byte now and then to this port.
#[test]
fn a_thousand_slow_connections_delay_no_other() {
    const SLOW: usize = 1000;
    // What macOS allows a process before it asks for more; the 1,024 of Linux would just suffice for these.
    const USUAL: &str = "ulimit -Sn 256 && exec \"$@\"";
    let data = Directory::new();
    let mut command = Command::new("sh");
    command.args(["-c", USUAL, "sh", env!("CARGO_BIN_EXE_waybill"), "local", "--port", "0"]);
    command.args(["--app", repository().to_str().unwrap(), "--data", data.path().to_str().unwrap()]);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    let mut program = Program::start(&mut command);
    let port = Host::wait(&mut program);
    let mut attacked = Attacked { host: Host { program, port }, data, others: 0 };
    let handler = u16::try_from(attacked.host.figures()["handlerPort"].as_u64().unwrap()).unwrap();
    let processes = [attacked.host.program.id(), attacked.handler()];
    // This process holds the other ends.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();

    let front_head = "POST /api/orders HTTP/1.1\r\nHost: localhost\r\nX-Slow: ";
    let front_body = "POST /api/orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{";
    let handler_head = "POST /OrderIngress HTTP/1.1\r\nHost: localhost\r\nX-Slow: ";
    let handler_body = "POST /OrderIngress HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n";
    for (port, process, begin, more) in [
        (port, processes[0], front_head, "a"),
        (port, processes[0], front_body, " "),
        (handler, processes[1], handler_head, "a"),
        (handler, processes[1], handler_body, "1\r\n \r\n"),
    ] {
        let mut slow: Vec<_> = (0..SLOW).map(|_| send(port, begin.as_bytes())).collect();
        eventually("all of them are connected", || open_files(process).is_none_or(|now| now >= SLOW).then_some(()));
        for _ in 0..3 {
            for stream in &mut slow {
                stream.write_all(more.as_bytes()).unwrap();
            }
            attacked.another_caller_is_served();
        }
        attacked.holds_at_most(96, "VmRSS");
        drop(slow);
        eventually("all of them are gone", || open_files(process).is_none_or(|now| now < SLOW / 10).then_some(()));
    }

    attacked.accepted(attacked.others);
    assert_eq!([attacked.host.program.id(), attacked.handler()], processes, "no process was restarted");
}
