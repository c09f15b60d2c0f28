//! The HTTP side of `waybill local`: routes, requests, answers, administration and timers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::foreign::{App, handler_process, send, tell};
use crate::support::{self, Directory, Host, PATIENCE, Program, eventually, order, request};

/// Sends these lines and this body, and reads until the host closes.
fn raw(host: &Host, head: &str, body: &str) -> String {
    support::raw(host.port, &format!("{}\r\nHost: localhost:7071\r\nConnection: close\r\n\r\n{body}", head.replace('\n', "\r\n")))
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

/// What the handler is given for `GET` of this path and query.
fn seen(host: &Host, target: &str) -> Value {
    let answer = raw(host, &format!("GET {target} HTTP/1.1"), "");
    assert_eq!(status(&answer), 200, "{target}: {answer}");
    serde_json::from_str::<Value>(body(&answer)).unwrap()["envelope"].take()
}

/// A request on a thread of its own.
fn beside(url: String, orders: &Value) -> JoinHandle<u16> {
    let body = orders.to_string();
    std::thread::spawn(move || request("POST", &url, &[("Content-Type", "application/json")], Some(body.as_bytes())).status)
}

#[test]
fn a_route_matches_without_regard_to_case_and_with_its_optional_parameter() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);

    let id = |target: &str| seen(&host, target)["Data"]["req"]["Params"].take();

    assert_eq!(id("/api/case"), json!({ "id": null }));
    assert_eq!(id("/api/case/"), json!({ "id": null }));
    assert_eq!(id("/api/case/7"), json!({ "id": "7" }));
    assert_eq!(id("/api/case/7/"), json!({ "id": "7" }));
    assert_eq!(id("/API/CASE/Seven"), json!({ "id": "Seven" }));
    assert_eq!(id("/api/%63ase/a%20b%2Fc%C3%A9+d"), json!({ "id": "a b%2Fcé+d" }));
}

#[test]
fn a_path_that_no_route_matches_is_an_empty_404() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);

    for target in
        ["/api//case", "//api/case", "/api/case//7", "/api/case/7/8", "/api/cases", "/case", "/api", "/api/", "/api/Case.json", "/other"]
    {
        let answer = raw(&host, &format!("GET {target} HTTP/1.1"), "");

        assert_eq!((status(&answer), body(&answer)), (404, ""), "{target}");
    }
}

#[test]
fn a_method_that_is_not_listed_is_an_empty_404() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);

    for method in ["PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"] {
        let answer = raw(&host, &format!("{method} /api/hello HTTP/1.1"), "");

        assert_eq!((status(&answer), body(&answer)), (404, ""), "{method}");
    }
    assert_eq!(host.get("/api/hello").status, 200);
}

#[test]
fn a_function_without_methods_is_given_every_method() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);

    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "POST"] {
        let answer = raw(&host, &format!("{method} /api/case HTTP/1.1"), "");
        let seen: Value = serde_json::from_str(body(&answer)).unwrap();

        assert_eq!(seen["envelope"]["Data"]["req"]["Method"], method);
    }
}

#[test]
fn head_is_answered_without_a_body() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);

    let answer = raw(&host, "HEAD /api/case HTTP/1.1", "");

    assert_eq!((status(&answer), body(&answer)), (200, ""));
    assert!(answer.to_ascii_lowercase().contains("content-type: application/json; charset=utf-8"), "{answer}");
}

#[test]
fn a_query_is_decoded_and_merged_without_regard_to_case() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);

    let envelope = seen(&host, "/api/case?Z=1&z=2&empty&p=a+b%20c&bad=%zz&code=secret");

    let request = &envelope["Data"]["req"];
    assert_eq!(request["Url"], "http://localhost:7071/api/case?Z=1&z=2&empty&p=a+b%20c&bad=%zz&code=secret");
    assert_eq!(request["Query"]["z"], "1,2", "{request}");
    assert_eq!(request["Query"]["empty"], "");
    assert_eq!(request["Query"]["p"], "a b c");
    assert_eq!(request["Query"]["bad"], "%zz");
    assert_eq!(request["Query"]["code"], "secret");
    assert_eq!(envelope["Metadata"]["z"], r#""2""#, "{envelope}");
    assert_eq!(envelope["Metadata"]["code"], Value::Null);
}

#[test]
fn every_header_of_the_client_is_in_the_envelope_as_a_list() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);

    let answer =
        raw(&host, "GET /api/case HTTP/1.1\nX-Twice: one\nX-Twice: two\nTraceparent: 00-1-2-00\nX-Forwarded-Host: evil\nCookie: a=b", "");
    let seen: Value = serde_json::from_str(body(&answer)).unwrap();

    let request = &seen["envelope"]["Data"]["req"];
    assert_eq!(request["Headers"]["X-Twice"], json!(["one", "two"]), "{request}");
    assert_eq!(request["Headers"]["traceparent"], json!(["00-1-2-00"]));
    assert_eq!(request["Headers"]["Cookie"], json!(["a=b"]));
    assert_eq!(request["Url"], "http://localhost:7071/api/case");
    assert_eq!(seen["envelope"]["Metadata"]["Headers"]["X-Twice"], "one,two", "{seen}");
    assert_eq!(request["Identities"][0]["AuthenticationType"], "WebJobsAuthLevel");
}

#[test]
fn a_body_is_text_and_bytes_are_base64() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);
    let sent = |content_type: &str, body: &[u8]| {
        let response = request("POST", &host.url("/api/case"), &[("Content-Type", content_type)], Some(body));
        response.json()["envelope"]["Data"]["req"]["Body"].take()
    };

    assert_eq!(sent("application/json", b"{\"a\": 1.10}"), "{\"a\": 1.10}");
    assert_eq!(sent("application/json", b"[1, "), "[1, ");
    assert_eq!(sent("text/plain", "é".as_bytes()), "é");
    assert_eq!(sent("application/octet-stream", &[0, 255]), "AP8=");
    assert_eq!(sent("text/plain", b""), Value::Null);
}

#[test]
fn a_chunked_body_of_a_client_is_lost_on_the_way() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);

    let answer = raw(&host, "POST /api/case HTTP/1.1\nContent-Type: application/json\nTransfer-Encoding: chunked", "2\r\n{}\r\n0\r\n\r\n");
    let seen: Value = serde_json::from_str(body(&answer)).unwrap();

    assert_eq!(seen["envelope"]["Data"]["req"]["Headers"]["Content-Type"], json!(["application/json"]));
    assert_eq!(seen["envelope"]["Data"]["req"].get("Body"), None, "{seen}");
}

#[test]
fn an_order_sent_chunked_is_told_to_send_its_length() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    let order = order("A-1").to_string();
    let chunked = format!("{:x}\r\n{order}\r\n0\r\n\r\n", order.len());

    let answer = raw(&host, "POST /api/orders HTTP/1.1\nContent-Type: application/json\nTransfer-Encoding: chunked", &chunked);

    assert_eq!(status(&answer), 400);
    assert!(body(&answer).contains("Content-Length"), "{answer}");
}

#[test]
fn a_body_above_100_mb_is_refused_and_the_host_goes_on() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);
    let handler = handler_process(&host);
    let began = app.records("begin", "Case").len();

    let mut stream = TcpStream::connect(("127.0.0.1", host.port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "POST /api/case HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", 101 << 20).unwrap();
    let megabyte = vec![b'x'; 1 << 20];
    let whole = (0..101).all(|_| stream.write_all(&megabyte).is_ok());
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);

    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 413") || !whole || read.is_err(), "{answer}");
    assert_eq!(app.records("begin", "Case").len(), began);
    assert_eq!(handler_process(&host), handler);
}

#[test]
fn a_client_that_leaves_does_not_cancel_its_invocation() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);
    let orders = json!({ "until": app.gate(), "send": ["all the same"] }).to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", host.port)).unwrap();
    write!(stream, "POST /api/case HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{orders}", orders.len()).unwrap();
    app.recorded("begin", "Case", 1);

    drop(stream);
    app.open();

    assert!(app.sunk_until("all the same").is_empty());
}

#[test]
fn a_disabled_function_is_a_404_and_is_listed_as_such() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[("AzureWebJobs.Hello.Disabled", "true"), ("AzureWebJobs_Sink_Disabled", "1")]);

    send(&host, &["stays"]);

    assert_eq!(host.get("/api/hello").status, 404);
    assert_eq!(host.get("/api/case").status, 200);
    assert_eq!(host.figures()["serviceBus"]["queues"]["cases"]["active"], 1);
    let lines = host.program.lines();
    assert!(lines.iter().any(|line| line == "Function Hello is disabled."), "{lines:?}");
    assert!(lines.iter().any(|line| line == "Function Sink is disabled."), "{lines:?}");
}

#[test]
fn functions_in_error_are_named_and_the_others_run() {
    let Some(app) = App::new() else { return };
    app.function("Blob", &json!([{ "type": "blobTrigger", "direction": "in", "name": "blob", "path": "x" }]));
    app.function("None", &json!([]));
    app.function("Same", &json!([{ "type": "httpTrigger", "direction": "in", "name": "req", "route": "hello/{name?}" }]));
    app.write("Torn/function.json", "{");
    let host = app.start(&[], &[]);

    let lines = host.program.lines();

    for (name, reason) in [
        ("Blob", "blobTrigger is not supported"),
        ("None", "At least one binding must be declared."),
        ("Same", "conflicts with the route defined by function 'Hello'"),
        ("Torn", "invalid JSON"),
    ] {
        let told = lines.iter().any(|line| line.contains(&format!("The '{name}' function is in error: ")) && line.contains(reason));
        assert!(told, "{name}: {lines:?}");
    }
    assert_eq!(host.get("/api/hello").status, 200);
}

#[test]
fn a_forwarded_request_arrives_as_it_is_and_its_answer_comes_as_it_is() {
    let Some(app) = App::new() else { return };
    app.change("host.json", |host| host["customHandler"]["enableForwardingHttpRequest"] = true.into());
    let host = app.start(&[], &[]);
    let headers = [("X-Mine", "1"), ("User-Agent", "curl/8.5.0"), ("Content-Type", "text/plain")];

    let answer = request("POST", &host.url("/api/HELLO/you%2Fme?verbose=true"), &headers, Some(b"hi"));
    let enveloped = host.get("/api/case/1");

    let seen = answer.json();
    let header = |name: &str| {
        let mut pairs = seen["head"].as_array().unwrap().iter().filter(|pair| pair[0].as_str().unwrap().eq_ignore_ascii_case(name));
        let value = pairs.next().map(|pair| pair[1].as_str().unwrap().to_owned());
        assert!(pairs.next().is_none(), "{name} twice in {seen}");
        value
    };
    assert_eq!(answer.status, 418);
    assert_eq!(answer.headers["content-type"], "application/x-teapot");
    assert_eq!(seen["line"], "POST /api/HELLO/you%2Fme?verbose=true HTTP/1.1");
    assert_eq!(seen["body"], "hi");
    assert_eq!(header("X-Mine").as_deref(), Some("1"));
    assert_eq!(header("Content-Type").as_deref(), Some("text/plain"));
    assert_eq!(header("Host"), Some(format!("127.0.0.1:{}", host.port)));
    assert_eq!(header("User-Agent").as_deref(), Some("curl/8.5.0 Azure-Functions-Host/4.1037.0.0"));
    assert_eq!(header("X-Azure-Functions-HostVersion").as_deref(), Some("4.1037.0.0"));
    assert_eq!(header("X-Azure-Functions-InvocationId").unwrap().len(), 36);
    assert_eq!(enveloped.json()["line"], "POST /Case HTTP/1.1");
}

#[test]
fn cors_of_the_local_settings_is_honoured() {
    let Some(app) = App::new() else { return };
    app.change("local.settings.json", |settings| {
        settings["Host"] = json!({ "CORS": "https://shop.example, https://other.example", "CORSCredentials": true });
    });
    let host = app.start(&[], &[]);
    let url = host.url("/api/hello");

    let asked =
        [("Origin", "https://shop.example"), ("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "x-mine")];
    let preflight = request("OPTIONS", &url, &asked, None);
    let allowed = request("GET", &url, &asked[..1], None);
    let stranger = request("GET", &url, &[("Origin", "https://evil.example")], None);

    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.headers["access-control-allow-origin"], "https://shop.example");
    assert_eq!(preflight.headers["access-control-allow-methods"], "POST");
    assert_eq!(preflight.headers["access-control-allow-headers"], "x-mine");
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.headers["access-control-allow-origin"], "https://shop.example");
    assert_eq!(allowed.headers["access-control-allow-credentials"], "true");
    assert_eq!(stranger.status, 200);
    assert!(!stranger.headers.contains_key("access-control-allow-origin"), "{stranger:?}");
}

#[test]
fn custom_headers_are_added_unless_the_answer_has_them() {
    let Some(app) = App::new() else { return };
    app.change("host.json", |host| {
        host["extensions"]["http"] = json!({ "customHeaders": { "X-Content-Type-Options": "nosniff", "Content-Type": "text/never" } });
    });
    let host = app.start(&[], &[]);

    let found = host.get("/api/hello");
    let missing = host.get("/api/none");

    assert_eq!(found.headers["x-content-type-options"], "nosniff");
    assert_eq!(found.headers["content-type"], "application/json; charset=utf-8");
    assert_eq!(missing.headers["x-content-type-options"], "nosniff");
}

#[test]
fn the_route_prefix_can_be_removed() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[("AzureFunctionsJobHost__extensions__http__routePrefix", "")]);

    assert_eq!(host.get("/hello/you").status, 200);
    assert_eq!(host.get("/api/hello/you").status, 404);
    assert_eq!(host.get("/admin/host/ping").status, 200);
}

#[test]
fn requests_above_the_limit_are_answered_429() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[("AzureFunctionsJobHost__extensions__http__maxOutstandingRequests", "1")]);

    let first = beside(host.url("/api/case"), &json!({ "until": app.gate() }));
    app.recorded("begin", "Case", 1);
    let second = host.get("/api/hello");
    app.open();

    assert_eq!((second.status, second.body.as_str()), (429, ""));
    assert_eq!(first.join().unwrap(), 200);
    eventually("there is room again", || (host.get("/api/hello").status == 200).then_some(()));
}

#[test]
fn sixty_requests_run_side_by_side() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);

    let orders = json!({ "until": app.gate() });
    let requests: Vec<_> = (0..60).map(|_| beside(host.url("/api/case"), &orders)).collect();
    app.recorded("begin", "Case", 60);
    app.open();

    assert!(requests.into_iter().all(|request| request.join().unwrap() == 200));
}

#[test]
fn the_host_has_a_welcome_page_a_ping_and_a_status() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);

    let welcome = host.get("/");
    let figures = host.figures();

    assert_eq!((welcome.status, welcome.headers["content-type"].as_str()), (200, "text/plain; charset=utf-8"));
    assert_eq!(host.get("/admin/host/ping").status, 200);
    assert_eq!(host.post("/admin/host/ping", &Value::Null).status, 200);
    assert_eq!(figures["state"], "Running");
    assert_eq!(figures["version"], "4.1037.0.0");
    assert_eq!(figures["serviceBus"]["queues"], json!({}));
    assert_eq!(host.get("/admin/other").status, 404);
}

#[test]
fn a_function_can_be_run_by_hand() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);
    let run = |name: &str, body: &str| {
        let response =
            request("POST", &host.url(&format!("/admin/functions/{name}")), &[("Content-Type", "application/json")], Some(body.as_bytes()));
        (response.status, response.body)
    };

    assert_eq!(run("sink", r#"{"input": "by hand"}"#), (202, String::new()));
    assert_eq!(run("Sink", "not JSON").0, 400);
    assert_eq!(run("Nobody", r#"{"input": ""}"#), (404, String::new()));

    assert!(app.sunk_until("by hand").is_empty());
    assert_eq!(app.records("begin", "Sink").len(), 1);
}

#[test]
fn a_timer_fires_by_its_schedule_and_at_the_start_when_asked() {
    let Some(app) = App::new() else { return };
    app.function("Tick", &json!([{ "type": "timerTrigger", "direction": "in", "name": "timer", "schedule": "* * * * * *" }]));
    app.function(
        "Once",
        &json!([{ "type": "timerTrigger", "direction": "in", "name": "timer", "schedule": "0 0 0 1 1 *", "runOnStartup": true }]),
    );
    app.function("Never", &json!([{ "type": "timerTrigger", "direction": "in", "name": "timer", "schedule": "0 0 0 1 1 *" }]));
    let host = app.start(&[], &[]);

    let ticks = app.recorded("end", "Tick", 4);
    let once = app.recorded("end", "Once", 1);

    // The mean of three: a handler that has just started is late with its first tick, and the second follows sooner.
    let apart = (ticks[3]["at"].as_f64().unwrap() - ticks[0]["at"].as_f64().unwrap()) / 3.0;
    assert!((0.5..10.0).contains(&apart), "{ticks:?}");
    assert_eq!(ticks[0]["text"]["Schedule"]["AdjustForDST"], true);
    assert_eq!(once[0]["text"]["IsPastDue"], false);
    assert_eq!(once.len(), 1);
    assert!(app.records("begin", "Never").is_empty());
    assert_eq!(host.get("/api/hello").status, 200);
}

#[test]
fn a_client_that_stays_connected_is_answered_again_and_again() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);
    let mut stream = TcpStream::connect(("127.0.0.1", host.port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();

    for _ in 0..3 {
        write!(stream, "GET /admin/host/ping HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        let mut rest = Vec::new();
        while !rest.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            rest.push(byte[0]);
        }
    }
}

#[test]
fn a_call_that_the_handler_refuses_is_told_to_the_log_and_not_to_the_client() {
    let Some(app) = App::new() else { return };
    let mut host = app.start(&[], &[]);

    let response = tell(&host, &json!({ "answer": { "status": 418, "contentType": "text/plain", "body": "secret" } }));

    assert_eq!((response.status, response.body.as_str()), (500, ""));
    let line = host.program.line("Case failed");
    assert!(line.contains("418"), "{line}");
}

#[test]
fn the_demo_shows_a_completed_order() {
    let (status, lines) = Program::waybill(&["demo"], &[]).end();

    assert_eq!(status.code(), Some(0), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("202 Accepted")), "{lines:?}");
    assert!(lines.iter().any(|line| line.trim().starts_with("\"status\": \"completed\"")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("The order is completed.")), "{lines:?}");
}

#[test]
fn an_address_of_no_machine_here_is_refused() {
    let data = Directory::new();

    let (status, lines) = Host::begin(crate::support::repository(), data.path(), &["--host", "192.0.2.1"], &[]).end();

    assert_eq!(status.code(), Some(1), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("192.0.2.1 is no address of this machine")), "{lines:?}");
}

#[test]
fn a_client_that_leaves_makes_room_for_another() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[("AzureFunctionsJobHost__extensions__http__maxOutstandingRequests", "1")]);
    let orders = json!({ "until": app.gate(), "send": ["done"] }).to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", host.port)).unwrap();
    write!(stream, "POST /api/case HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{orders}", orders.len()).unwrap();
    app.recorded("begin", "Case", 1);

    drop(stream);
    app.open();
    app.sunk_until("done");

    eventually("there is room again", || (host.get("/api/hello").status == 200).then_some(()));
}

#[test]
fn a_client_that_leaves_does_not_cancel_a_forwarded_request() {
    let Some(app) = App::new() else { return };
    app.change("host.json", |host| host["customHandler"]["enableForwardingHttpRequest"] = true.into());
    let host = app.start(&[], &[]);
    let mut stream = TcpStream::connect(("127.0.0.1", host.port)).unwrap();
    write!(stream, "POST /api/hello/wait HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi").unwrap();
    app.recorded("begin", "forwarded", 1);

    drop(stream);

    assert_eq!(app.recorded("end", "forwarded", 1)[0]["connected"], true);
}

#[test]
fn a_host_header_that_is_no_host_reaches_no_function() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);

    for (name, status) in [("evil.example/x?y", 400), ("localhost@evil.example", 400), ("\"><script>", 400), ("", 421)] {
        let response = request("POST", &host.url("/api/orders"), &[("Host", name), ("Content-Type", "application/json")], Some(b"{}"));
        assert_eq!(response.status, status, "{name:?}: {response:?}");
        assert!(!response.body.contains("urn:problem-type"), "{name:?}: {response:?}");
    }
}

#[test]
fn a_function_behind_another_is_named_at_the_start() {
    let app = Directory::new();
    app.write("host.json", r#"{"version": "2.0", "customHandler": {"description": {"defaultExecutablePath": "handler.sh"}}}"#);
    for (name, route) in [("ACatch", "{*rest}"), ("BLiteral", "orders"), ("AAFirst", "first")] {
        let binding = json!({ "type": "httpTrigger", "direction": "in", "name": "req", "authLevel": "anonymous", "route": route });
        app.write(&format!("{name}/function.json"), &json!({ "bindings": [binding] }).to_string());
    }

    let mut host = Program::waybill(&["local", "--app", app.path().to_str().unwrap(), "--port", "0"], &[]);

    host.line("BLiteral is never reached: ACatch comes first");
    assert!(!host.lines().iter().any(|line| line.contains("AAFirst is never reached")));
}
