//! Exchanges that were recorded on the real host, replayed against the stand-in: `fixtures/recorded-*.json.gz`.
//!
//! A test counts the exchanges that come out alike, and names every other one with its reason. `docs/local.md` has the same reasons.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value, json};
use sha2::Sha256;

use crate::handler::{Handler, Message};
use crate::routing::functions;
use crate::support::App;

/// Functions of the recorded forwarded requests.
const FORWARDED: [&str; 15] = [
    "BParam",
    "Enc",
    "GDef",
    "GIntOpt",
    "HeadMeth",
    "MAbsent",
    "MGet",
    "Mixed",
    "NPost",
    "NoRoute",
    "ODel",
    "OptMeth",
    "PGet",
    "PatchMeth",
    "VOpt",
];
/// Settings by which a request may have any `Host`.
const ANY_HOST: &str = r#"{"IsEncrypted": false, "Host": {"AllowedHosts": "*"}}"#;
/// Time in which the host answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// The stand-in as a program of its own, with a handler in this process.
struct Host {
    process: Child,
    address: SocketAddr,
    queue: SocketAddr,
    handler: Handler,
    _app: App,
}

impl Host {
    fn start(app: App) -> Self {
        if !app.path().join("local.settings.json").exists() {
            app.write("local.settings.json", ANY_HOST);
        }
        let mut process = Command::new(env!("CARGO_BIN_EXE_functions-host"))
            .args(["--port", "0", "--app"])
            .arg(app.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let rest = log.find_map(|line| Some(line.split_once("Service Bus, at http://")?.1.to_owned())).expect("the log names the queue");
        let file = app.path().join("port");
        let port = loop {
            match std::fs::read_to_string(&file) {
                Ok(text) => break text.trim().parse().unwrap(),
                Err(_) => std::thread::yield_now(),
            }
        };
        let handler = Handler::listen(port);
        let url = log.find_map(|line| Some(line.split_once("http://localhost:")?.1.to_owned())).expect("the host lists its functions");
        let port: u16 = url.split('/').next().unwrap().parse().unwrap();
        // Read to its end, so that the host never waits for a reader.
        std::thread::spawn(move || log.for_each(drop));
        Self { process, address: ([127, 0, 0, 1], port).into(), queue: rest.trim().parse().unwrap(), handler, _app: app }
    }

    /// Sends the bytes on a connection of their own, and reads the answer; `None` if there is none.
    fn send(&self, bytes: &[u8]) -> Option<Message> {
        exchange(self.address, bytes)
    }

    /// The messages in the queue, sorted; the queue is empty afterwards.
    fn messages(&self) -> Vec<String> {
        let mut messages = Vec::new();
        loop {
            let request = format!(
                "DELETE /orders/messages/head?timeout=0 HTTP/1.1\r\nHost: {}\r\nAuthorization: {}\r\nConnection: close\r\n\r\n",
                self.queue,
                signature(self.queue)
            );
            let answer = exchange(self.queue, request.as_bytes()).expect("the queue answers");
            match answer.word(1) {
                "200" => messages.push(String::from_utf8(answer.body).unwrap()),
                "204" => break,
                other => panic!("{other}: {}", String::from_utf8_lossy(&answer.body)),
            }
        }
        messages.sort();
        messages
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn exchange(address: SocketAddr, bytes: &[u8]) -> Option<Message> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The host may answer and close before it has read everything.
    drop(stream.write_all(bytes));
    let head = bytes.starts_with(b"HEAD ");
    let mut reader = BufReader::new(stream);
    loop {
        let answer = Message::read(&mut reader, !head);
        match answer {
            Some(answer) if answer.word(1) == "100" => {}
            answer => return answer,
        }
    }
}

/// A signature for the queue with the key of the app's connection string.
fn signature(queue: SocketAddr) -> String {
    let resource = format!("http%3A%2F%2F{}%2Forders", queue.to_string().replace(':', "%3A"));
    let expiry = 4_000_000_000_u64;
    let mut mac = Hmac::<Sha256>::new_from_slice(b"secret").unwrap();
    mac.update(format!("{resource}\n{expiry}").as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes()).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}&skn=all")
}

fn recorded(bytes: &[u8]) -> Vec<Value> {
    let mut text = String::new();
    GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn base64_of(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

fn answer_with(status: u64, headers: &[(String, String)], body: &[u8], chunked: bool) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 {status} Told\r\n");
    for (name, value) in headers {
        write!(answer, "{name}: {value}\r\n").unwrap();
    }
    let mut answer = answer.into_bytes();
    if chunked {
        answer.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
        if !body.is_empty() {
            write!(answer, "{:x}\r\n", body.len()).unwrap();
            answer.extend_from_slice(body);
            answer.extend_from_slice(b"\r\n");
        }
        answer.extend_from_slice(b"0\r\n\r\n");
    } else {
        write!(answer, "Content-Length: {}\r\n\r\n", body.len()).unwrap();
        answer.extend_from_slice(body);
    }
    answer
}

fn envelope_answer(body: &str) -> Vec<u8> {
    answer_with(200, &[("Content-Type".to_owned(), "application/json".to_owned())], body.as_bytes(), false)
}

/// A kind of exchange that comes out different from the real host, with the exact number of them.
struct Difference {
    reason: &'static str,
    count: usize,
    /// Whether an exchange that differs is of this kind, by what was recorded and what came out here, with header names in lower case.
    explains: fn(&Value, &Value) -> bool,
}

/// Compares each exchange, and returns how many are alike. Every other one must have its reason, and each reason its exact number.
fn alike(pairs: Vec<(Value, Value)>, known: &[Difference]) -> usize {
    let all = pairs.len();
    let mut counts = vec![0; known.len()];
    let mut unexplained = Vec::new();
    let mut alike = 0;
    for (place, (mut expected, mut got)) in pairs.into_iter().enumerate() {
        if expected == got {
            alike += 1;
            continue;
        }
        lower_header_names(&mut expected);
        lower_header_names(&mut got);
        let kind = known.iter().position(|difference| (difference.explains)(&expected, &got));
        let reason = kind.map(|kind| known[kind].reason);
        println!("{}", json!({ "place": place, "reason": reason, "expected": expected, "got": got }));
        match kind {
            Some(kind) => counts[kind] += 1,
            None => unexplained.push(place),
        }
    }
    println!("{alike} of {all} alike");
    assert!(unexplained.is_empty(), "different without a reason: {unexplained:?}");
    for (difference, count) in known.iter().zip(counts) {
        assert_eq!(count, difference.count, "{}", difference.reason);
    }
    alike
}

/// Writes the names of headers in lower case.
fn lower_header_names(exchange: &mut Value) {
    if let Some(client) = exchange.get_mut("client") {
        lower_header_names(client);
    }
    for side in ["headers", "answerHeaders"] {
        match exchange.get_mut(side) {
            Some(Value::Object(headers)) => {
                let lower = std::mem::take(headers).into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
                for (name, value) in lower {
                    assert_eq!(headers.insert(name, value), None, "two headers differ by case alone");
                }
            }
            Some(Value::Array(headers)) => {
                for header in headers.iter_mut() {
                    header[0] = header[0].as_str().unwrap().to_ascii_lowercase().into();
                }
                headers.sort_by_key(ToString::to_string);
            }
            _ => {}
        }
    }
}

/// The values of a header on one side of a forwarded exchange.
fn values<'e>(exchange: &'e Value, side: &str, name: &str) -> Vec<&'e str> {
    let headers = exchange[side].as_array().into_iter().flatten();
    headers.filter(|header| header[0] == name).filter_map(|header| header[1].as_str()).collect()
}

/// Whether two forwarded exchanges are the same but for one header.
fn differ_only_in(expected: &Value, got: &Value, side: &str, name: &str) -> bool {
    let [expected, got] = [expected, got].map(|exchange| {
        let mut exchange = exchange.clone();
        exchange[side].as_array_mut().unwrap().retain(|header| header[0] != name);
        exchange
    });
    expected == got
}

/// What an invocation with an HTTP trigger carried, in the form of the recorded requests.
fn invoked(call: &Message, got: &mut Map<String, Value>) {
    got.insert("function".into(), call.word(1).trim_start_matches('/').into());
    let envelope: Value = serde_json::from_slice(&call.body).unwrap();
    let request = envelope["Data"].as_object().unwrap().values().next().unwrap();
    for (name, member) in
        [("url", "Url"), ("method", "Method"), ("params", "Params"), ("query", "Query"), ("body", "Body"), ("headers", "Headers")]
    {
        got.insert(name.into(), request[member].clone());
    }
    let mut metadata = envelope["Metadata"].as_object().unwrap().clone();
    metadata.retain(|name, _| !["sys", "$sys", "Headers", "req", "$request"].contains(&name.as_str()));
    got.insert("metadata".into(), Value::Object(metadata));
}

fn status(answer: Option<&Message>) -> Value {
    answer.and_then(|answer| answer.word(1).parse::<u64>().ok()).into()
}

#[test]
fn recorded_requests_arrive_as_on_the_real_host() {
    let app = App::with_handler();
    functions(&app, |_| true);
    let host = Host::start(app);
    host.handler.set_answer(envelope_answer(r#"{"Outputs":{"res":{}}}"#));
    let pairs: Vec<_> = recorded(include_bytes!("fixtures/recorded-requests.json.gz"))
        .into_iter()
        .map(|mut expected| {
            let raw = base64_of(&expected["raw"]);
            let answer = host.send(&raw);
            let mut got = Map::from_iter([("raw".to_owned(), expected["raw"].clone()), ("status".to_owned(), status(answer.as_ref()))]);
            for call in host.handler.calls() {
                invoked(&call, &mut got);
            }
            let text = Value::from(String::from_utf8_lossy(&raw));
            expected["raw"] = text.clone();
            got.insert("raw".into(), text);
            (expected, Value::Object(got))
        })
        .collect();
    assert_eq!(alike(pairs, &[]), 2000);
}

/// What a client got for an answer of the handler, in the form of the recorded answers.
fn client_got(answer: Option<&Message>) -> Value {
    let headers = answer.map(|answer| answer.headers.clone()).unwrap_or_default();
    let own = headers.into_iter().filter(|(name, _)| name.to_ascii_lowercase().starts_with("x-"));
    json!({
        "status": status(answer),
        "contentType": answer.and_then(|answer| answer.header("content-type")),
        "headers": own.map(|(name, value)| (name, Value::from(value))).collect::<Map<_, _>>(),
        "body": answer.map(|answer| String::from_utf8_lossy(&answer.body).into_owned()),
    })
}

fn answers(cases: Vec<Value>) -> Vec<(Value, Value)> {
    let app = App::with_handler();
    app.write(
        "local.settings.json",
        r#"{"IsEncrypted": false, "Host": {"AllowedHosts": "*"}, "Values": {"Bus": "Endpoint=sb://localhost;SharedAccessKeyName=all;SharedAccessKey=secret"}}"#,
    );
    app.write(
        "Create/function.json",
        r#"{"bindings": [
            {"type": "httpTrigger", "direction": "in", "name": "req", "authLevel": "anonymous"},
            {"type": "http", "direction": "out", "name": "res"},
            {"type": "serviceBus", "direction": "out", "name": "orderMessage", "queueName": "orders", "connection": "Bus"}]}"#,
    );
    let host = Host::start(app);
    cases
        .into_iter()
        .map(|expected| {
            host.handler.set_answer(envelope_answer(expected["handlerBody"].as_str().unwrap()));
            let answer = host.send(b"GET /api/Create HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n");
            let got = json!({
                "handlerBody": expected["handlerBody"],
                "client": client_got(answer.as_ref()),
                "messages": host.messages(),
            });
            (expected, got)
        })
        .collect()
}

#[test]
fn recorded_answers_come_out_as_on_the_real_host() {
    let spelling = Difference {
        reason: "a header name that a handler writes in small letters gets the usual spelling",
        count: 3,
        explains: |expected, got| expected == got,
    };
    assert_eq!(alike(answers(recorded(include_bytes!("fixtures/recorded-answers.json.gz"))), &[spelling]), 297);
}

#[test]
fn answers_that_were_tried_come_out_as_on_the_real_host() {
    let document: Value = serde_json::from_str(include_str!("fixtures/output-cases.json")).unwrap();
    let below_200 = Difference {
        reason: "a status below 200 is a 500",
        count: 2,
        explains: |expected, got| {
            expected["client"]["status"].as_i64().is_some_and(|status| status < 200) && got["client"]["status"] == 500
        },
    };
    assert_eq!(alike(answers(document["cases"].as_array().unwrap().clone()), &[below_200]), 72);
}

#[test]
fn bodies_that_were_tried_arrive_as_on_the_real_host() {
    let app = App::with_handler();
    functions(&app, |name| name == "MAbsent");
    let host = Host::start(app);
    host.handler.set_answer(envelope_answer(r#"{"Outputs":{"res":{}}}"#));
    let document: Value = serde_json::from_str(include_str!("fixtures/body-cases.json")).unwrap();
    let cases = document["cases"].as_array().unwrap().iter().cloned();
    let pairs = cases.map(|expected| {
        let body = base64_of(&expected["bodyBase64"]);
        let content_type = expected["contentType"].as_str().map(|text| format!("Content-Type: {text}\r\n")).unwrap_or_default();
        let head = format!(
            "POST /api/absent HTTP/1.1\r\nHost: shop.example\r\n{content_type}Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        host.send(&[head.as_bytes(), &body].concat());
        let mut seen = Map::new();
        for call in host.handler.calls() {
            invoked(&call, &mut seen);
        }
        let mut got = expected.clone();
        got["dataReqBody"] = seen.remove("body").unwrap_or_default();
        got["metadata"] = seen.remove("metadata").unwrap_or_default();
        (expected, got)
    });
    assert_eq!(alike(pairs.collect(), &[]), 31);
}

#[test]
fn the_files_of_an_app_may_be_more_than_json() {
    let app = App::with_handler();
    let utf_16 = |text: &str| [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    let host = "{version: '2.0', /* c */ customHandler: {description: {defaultExecutablePath: 'handler',},},}";
    std::fs::write(app.path().join("host.json"), utf_16(host)).unwrap();
    let settings = "{'IsEncrypted': false, Host: {AllowedHosts: 'shop.example',},}";
    let settings: Vec<u8> =
        ['\u{feff}'].into_iter().chain(settings.chars()).flat_map(|character| u32::from(character).to_be_bytes()).collect();
    std::fs::write(app.path().join("local.settings.json"), settings).unwrap();
    app.write(
        "Hello/function.json",
        "{'bindings': [{type: 'httpTrigger', direction: 'in', name: 'req', authLevel: 'anonymous', methods: ['get',]},]}",
    );
    let host = Host::start(app);

    host.send(b"GET /api/Hello HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n");

    assert_eq!(host.handler.calls().last().map(|call| call.word(1).to_owned()).as_deref(), Some("/Hello"));
}

#[test]
fn host_lines_get_the_status_of_the_real_host() {
    let app = App::with_handler();
    functions(&app, |name| name == "MAbsent");
    let host = Host::start(app);
    host.handler.set_answer(envelope_answer(r#"{"Outputs":{"res":{}}}"#));
    let document: Value = serde_json::from_str(include_str!("fixtures/host-header-and-names.json")).unwrap();
    let pairs = document["hostHeader"].as_array().unwrap().iter().map(|expected| {
        let header = expected["header"].as_str().unwrap();
        let answer = host.send(format!("GET /api/absent HTTP/1.1\r\n{header}\r\nConnection: close\r\n\r\n").as_bytes());
        (expected.clone(), json!({ "header": header, "status": status(answer.as_ref()) }))
    });
    assert_eq!(alike(pairs.collect(), &[]), 20);
}

#[test]
fn header_names_are_spelt_as_on_the_real_host() {
    let app = App::with_handler();
    functions(&app, |name| name == "MAbsent");
    let host = Host::start(app);
    host.handler.set_answer(envelope_answer(r#"{"Outputs":{"res":{}}}"#));
    let document: Value = serde_json::from_str(include_str!("fixtures/host-header-and-names.json")).unwrap();
    let expected = document["headerNames"].as_array().unwrap();
    let mut request = "GET /api/absent HTTP/1.1\r\n".to_owned();
    for name in expected {
        let name = name.as_str().unwrap();
        let sent = if name.starts_with("X-M") || name.starts_with("X-E") { name.to_owned() } else { name.to_ascii_lowercase() };
        let value = if sent == "connection" { "close" } else { "a" };
        write!(request, "{sent}: {value}\r\n").unwrap();
    }
    host.send(format!("{request}x-two: b\r\n\r\n").as_bytes()).expect("an answer");
    let mut seen = Map::new();
    host.handler.calls().iter().for_each(|call| invoked(call, &mut seen));
    let mut names: Vec<_> = seen["headers"].as_object().unwrap().keys().cloned().collect();
    names.sort();
    assert_eq!(json!(names), json!(expected));
    assert_eq!(seen["headers"]["x-two"], json!(["a", "b"]));
}

#[test]
fn every_request_of_a_connection_has_its_own_names() {
    let app = App::with_handler();
    functions(&app, |name| name == "MAbsent");
    let host = Host::start(app);
    host.handler.set_answer(envelope_answer(r#"{"Outputs":{"res":{}}}"#));
    let request = |name: &str, body: &str, last: &str| {
        format!("POST /api/absent HTTP/1.1\r\nHost: a\r\n{last}{name}: v\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let body = "GET / HTTP/1.1\r\nX-body: v\r\n\r\n";
    let sent = [request("x-one", body, ""), request("X-TWO", "", ""), request("x-Three", body, "Connection: close\r\n")].concat();

    let mut stream = TcpStream::connect(host.address).unwrap();
    for piece in sent.as_bytes().chunks(40) {
        stream.write_all(piece).unwrap();
    }
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();

    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{answers}");
    let calls = host.handler.calls().into_iter();
    let called = calls.filter(|call| call.word(1) == "/MAbsent").map(|call| {
        let mut got = Map::new();
        invoked(&call, &mut got);
        let is_own = |name: &&String| name.to_ascii_lowercase().starts_with("x-");
        (got["headers"].as_object().unwrap().keys().find(is_own).unwrap().clone(), got["body"].clone())
    });
    let expected = [("x-one", body.into()), ("X-TWO", Value::Null), ("x-Three", body.into())];
    assert_eq!(called.collect::<Vec<_>>(), expected.map(|(name, body)| (name.to_owned(), body)));
}

#[test]
fn only_names_of_this_machine_and_allowed_names_reach_a_host() {
    let app = App::with_handler();
    app.write("local.settings.json", r#"{"IsEncrypted": false, "Host": {"AllowedHosts": "shop.example, other"}}"#);
    functions(&app, |name| name == "MAbsent");
    let host = Host::start(app);
    host.handler.set_answer(envelope_answer(r#"{"Outputs":{"res":{}}}"#));
    for (name, expected) in [
        ("localhost:1", 200),
        ("app.localhost", 200),
        ("127.0.0.1", 200),
        ("[::1]", 200),
        ("10.0.0.1:80", 200),
        ("SHOP.example:1", 200),
        ("other", 200),
        ("evil.example", 421),
    ] {
        let answer = host.send(format!("GET /api/absent HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n").as_bytes());
        assert_eq!(status(answer.as_ref()), expected, "{name}");
    }
}

/// A host with a timer, `Tick`, that does not run by itself.
fn with_a_timer() -> Host {
    let app = App::with_handler();
    functions(&app, |name| name == "MAbsent");
    app.write(
        "Tick/function.json",
        r#"{"bindings": [{"type": "timerTrigger", "direction": "in", "name": "t", "schedule": "0 0 0 1 1 *"}]}"#,
    );
    Host::start(app)
}

#[test]
fn a_web_page_runs_no_function_by_hand() {
    let host = with_a_timer();
    for (lines, expected) in [
        ("", 202),
        ("Content-Type: text/plain\r\n", 202),
        ("Sec-Fetch-Site: same-origin\r\n", 202),
        ("Origin: http://evil.example\r\nContent-Type: text/plain\r\n", 415),
        ("Origin: null\r\n", 415),
        ("Sec-Fetch-Site: cross-site\r\n", 415),
        ("Origin: http://a\r\nContent-Type: application/json; charset=utf-8\r\n", 202),
    ] {
        let request =
            format!("POST /admin/functions/Tick HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n{lines}\r\n{{}}");
        assert_eq!(status(host.send(request.as_bytes()).as_ref()), expected, "{lines}");
    }
}

#[test]
fn large_bodies_have_a_bound_together() {
    let app = App::with_handler();
    functions(&app, |name| name == "MAbsent");
    let host = Host::start(app);
    host.handler.set_answer(envelope_answer(r#"{"Outputs":{"res":{}}}"#));
    let head = |size: u32| format!("POST /api/absent HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n");
    // Holds its share while it waits for its body. An answer to the probe tells that the share is taken.
    let mut holder = TcpStream::connect(host.address).unwrap();
    holder.set_read_timeout(Some(PATIENCE)).unwrap();
    let expecting = head(100 * 1024 * 1024).replace("Connection: close", "Expect: 100-continue");
    holder.write_all(expecting.as_bytes()).unwrap();
    let mut line = String::new();
    let mut reader = BufReader::new(holder.try_clone().unwrap());
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 100"), "{line}");

    let large = [head(40 * 1024 * 1024).as_bytes(), b"x"].concat();
    let small = [head(1).as_bytes(), b"x"].concat();
    assert_eq!(status(host.send(&large).as_ref()), 503);
    assert_eq!(status(host.send(&small).as_ref()), 200);
    assert_eq!(status(host.send(head(101 * 1024 * 1024).as_bytes()).as_ref()), 413);

    drop((holder, reader));
    let again = [head(1024 * 1024).as_bytes(), &vec![b'x'; 1024 * 1024]].concat();
    assert_eq!(status(host.send(&again).as_ref()), 200);
}

#[test]
fn a_large_body_counts_until_its_invocation_ends() {
    const WELCOME: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let post = |size: usize, lines: &str| {
        format!("POST /api/absent HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n{lines}\r\n").into_bytes()
    };
    let (some, rest) = (29 * 1024 * 1024, 100 * 1024 * 1024);
    for forwards in [false, true] {
        let app = App::with_handler();
        let handler = json!({"description": {"defaultExecutablePath": "handler"}, "enableForwardingHttpRequest": forwards});
        // An answer other than 429 tells that the client of the request before it has left.
        let http = json!({"maxOutstandingRequests": 1});
        app.write("host.json", &json!({"version": "2.0", "extensions": {"http": http}, "customHandler": handler}).to_string());
        functions(&app, |name| name == "MAbsent");
        let host = Host::start(app);
        host.handler.set_answer(envelope_answer(r#"{"Outputs":{"res":{}}}"#));
        let start_of_answer_to_rest = || {
            let mut stream = TcpStream::connect(host.address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&post(rest, "Expect: 100-continue\r\n")).unwrap();
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            line.split(' ').nth(1).unwrap().to_owned()
        };
        assert_eq!(status(host.send(WELCOME).as_ref()), 200);

        let held = host.handler.hold();
        let mut client = TcpStream::connect(host.address).unwrap();
        client.write_all(&[post(some, ""), vec![b'x'; some]].concat()).unwrap();
        host.handler.call();
        assert_eq!(status(host.send(WELCOME).as_ref()), 429);
        drop(client);
        while status(host.send(WELCOME).as_ref()) == 429 {}
        assert_eq!(start_of_answer_to_rest(), "503", "forwards: {forwards}");

        drop(held);
        while start_of_answer_to_rest() != "100" {}
    }
}

#[test]
fn a_function_run_by_hand_takes_a_small_input() {
    let host = with_a_timer();
    for (size, expected) in [(256 * 1024, 202), (256 * 1024 + 1, 413)] {
        let input = format!("{{\"input\": \"{}\"}}", "x".repeat(size - r#"{"input": ""}"#.len()));
        for (framing, body) in [
            (format!("Content-Length: {size}"), input.clone()),
            ("Transfer-Encoding: chunked".to_owned(), format!("{size:x}\r\n{input}\r\n0\r\n\r\n")),
        ] {
            let request = format!("POST /admin/functions/Tick HTTP/1.1\r\nHost: localhost\r\n{framing}\r\nConnection: close\r\n\r\n{body}");
            assert_eq!(status(host.send(request.as_bytes()).as_ref()), expected, "{size}, {framing}");
        }
    }
}

#[test]
fn a_copy_of_a_data_directory_leaves_the_handler_of_the_original_alone() {
    let (original, copy) = (App::with_handler(), App::with_handler());
    for app in [&original, &copy] {
        app.write("Hello/function.json", r#"{"bindings": [{"type": "httpTrigger", "direction": "in", "name": "req"}]}"#);
    }
    let (from, to) = (original.path().join(".functions-host"), copy.path().join(".functions-host"));
    let host = Host::start(original);
    let record: Value = serde_json::from_slice(&std::fs::read(from.join("handler.json")).unwrap()).unwrap();
    std::fs::create_dir(&to).unwrap();
    std::fs::copy(from.join("handler.json"), to.join("handler.json")).unwrap();

    let other = Host::start(copy);

    let lives = |record: &Value| std::path::Path::new(&format!("/proc/{}/cwd", record["process"])).exists();
    assert!(lives(&record), "the handler of the original was ended");
    assert_eq!(status(other.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_ref()), 200);
    drop(host);
}

#[test]
fn recorded_forwarded_requests_pass_as_on_the_real_host() {
    let app = App::with_handler();
    app.write(
        "host.json",
        r#"{"version": "2.0", "customHandler": {"description": {"defaultExecutablePath": "handler"}, "enableForwardingHttpRequest": true}}"#,
    );
    functions(&app, |name| FORWARDED.contains(&name));
    let host = Host::start(app);
    let pairs: Vec<_> = recorded(include_bytes!("fixtures/recorded-forwarded.json.gz"))
        .into_iter()
        .map(|mut expected| {
            let told = &expected["handler"];
            let headers: Vec<(String, String)> = serde_json::from_value(told["headers"].clone()).unwrap_or_default();
            host.handler.set_answer(match told.as_object() {
                None => answer_with(200, &[("Content-Type".to_owned(), "text/plain".to_owned())], b"ok", false),
                Some(_) => answer_with(
                    told["status"].as_u64().unwrap(),
                    &headers,
                    told["body"].as_str().unwrap().as_bytes(),
                    told["chunked"].as_bool().unwrap(),
                ),
            });
            let raw = base64_of(&expected["raw"]);
            let answer = host.send(&raw);
            let mut got = Map::new();
            let text = Value::from(String::from_utf8_lossy(&raw[..raw.len().min(2000)]));
            got.insert("handler".into(), expected["handler"].clone());
            got.insert("raw".into(), text.clone());
            got.insert("status".into(), status(answer.as_ref()));
            if let Some(answer) = &answer {
                let kept = answer.headers.iter().filter(|(name, _)| {
                    !["content-length", "transfer-encoding", "connection", "date", "server"].contains(&name.to_ascii_lowercase().as_str())
                });
                let mut headers: Vec<_> = kept.map(|(name, value)| json!([name, value])).collect();
                headers.sort_by_key(ToString::to_string);
                got.insert("answerHeaders".into(), headers.into());
                got.insert("bodyLength".into(), answer.body.len().into());
            }
            expected["raw"] = text;
            expected.as_object_mut().unwrap().remove("bodyStart");
            let calls = host.handler.calls();
            if let Some(call) = calls.last() {
                got.insert("calls".into(), calls.len().into());
                got.insert("method".into(), call.word(0).into());
                got.insert("target".into(), call.word(1).into());
                let own = |name: &str| {
                    ["user-agent", "x-azure-functions-hostversion", "x-azure-functions-invocationid", "connection", "traceparent"]
                        .contains(&name.to_ascii_lowercase().as_str())
                };
                let mut headers: Vec<_> =
                    call.headers.iter().filter(|(name, _)| !own(name)).map(|(name, value)| json!([name, value])).collect();
                headers.sort_by_key(ToString::to_string);
                got.insert("headers".into(), headers.into());
                got.insert("body".into(), STANDARD.encode(&call.body).into());
            }
            for side in ["answerHeaders", "headers"] {
                if let Some(headers) = expected.get_mut(side).and_then(Value::as_array_mut) {
                    headers.sort_by_key(ToString::to_string);
                }
            }
            (expected, Value::Object(got))
        })
        .collect();
    let known = [
        Difference {
            reason: "a WWW-Authenticate with two challenges stays one header",
            count: 1,
            explains: |expected, got| {
                let [split, joined] = [expected, got].map(|exchange| values(exchange, "answerHeaders", "www-authenticate"));
                differ_only_in(expected, got, "answerHeaders", "www-authenticate") && split.len() > 1 && joined == [split.join(", ")]
            },
        },
        Difference {
            reason: "the Content-Language of a request with a body is passed on",
            count: 1,
            explains: |expected, got| {
                differ_only_in(expected, got, "headers", "content-language") && values(expected, "headers", "content-language").is_empty()
            },
        },
    ];
    assert_eq!(alike(pairs, &known), 498);
}
