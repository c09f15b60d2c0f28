//! The console of `waybill local`: what its page reads and does, whom it refuses, and what a person sees in Chromium.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::foreign::{App, send, tell};
use crate::page::driven;
use crate::support::{Directory, Host, PATIENCE, Response, eventually, hopeless, order, raw, request};

const API: &str = "/admin/console/api";
const BROWSER: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

fn read(host: &Host, path: &str) -> Value {
    let answer = host.get(&format!("{API}/{path}"));
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

/// An action, as the page of the console asks for it.
fn act(host: &Host, path: &str, body: &Value) -> Response {
    let origin = format!("http://127.0.0.1:{}", host.port);
    let headers = [("Content-Type", "application/json"), ("Origin", origin.as_str()), ("Sec-Fetch-Site", "same-origin")];
    request("POST", &host.url(&format!("{API}/{path}")), &headers, Some(body.to_string().as_bytes()))
}

fn invocations_of(host: &Host, function: &str) -> Vec<Value> {
    let all = read(host, "invocations")["invocations"].take();
    serde_json::from_value::<Vec<Value>>(all).unwrap().into_iter().filter(|one| one["function"] == function).collect()
}

#[test]
fn a_browser_gets_the_console_and_a_program_the_line_of_the_host() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);

    let page = request("GET", &host.url("/"), &[("Accept", BROWSER)], None);
    assert_eq!((page.status, page.headers["content-type"].as_str()), (200, "text/html; charset=utf-8"));
    for (name, value) in [
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("vary", "Accept"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(page.headers[name], value);
    }
    let policy = &page.headers["content-security-policy"];
    assert!(
        policy.starts_with("default-src 'none';") && !policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"),
        "{policy}"
    );
    assert!(!page.body.contains("<script>") && !page.body.contains("http:") && !page.body.contains("https:"), "{}", page.body);

    let line = host.get("/");
    assert_eq!((line.status, line.headers["content-type"].as_str()), (200, "text/plain; charset=utf-8"));
    assert!(line.body.contains("browser"), "{}", line.body);
    for file in ["page.css", "page.js", "panel.js", "icon.svg"] {
        let answer = host.get(&format!("/admin/console/{file}"));
        assert_eq!(answer.status, 200, "{file}");
        for elsewhere in ["https:", "innerHTML", "eval(", "localStorage"] {
            assert!(!answer.body.contains(elsewhere), "{file} has {elsewhere}");
        }
    }
    assert_eq!(host.get("/admin/console/other").status, 404);
    let app = read(&host, "app");
    assert_eq!((&app["name"], &app["state"], &app["panel"]), (&json!("waybill local"), &json!("Running"), &json!(true)));
}

#[test]
fn any_handler_has_functions_queues_and_invocations() {
    let Some(app) = App::new() else { return };
    let host = app.start(&["--max-delivery-count", "2"], &[("AzureWebJobs.Dead.Disabled", "true")]);
    let waiting = json!({ "until": app.gate() }).to_string();

    send(&host, &[r#"{"fail": 99, "id": "<img src=x onerror=alert(1)>"}"#]);
    eventually("it is dead-lettered", || (read(&host, "queues")["queues"][0]["dead"] == 1).then_some(()));
    send(&host, &[&waiting, "second", "third"]);
    app.recorded("begin", "Sink", 3);

    let functions = read(&host, "functions");
    let sink = functions["functions"].as_array().unwrap().iter().find(|one| one["name"] == "Sink").unwrap();
    assert_eq!((&sink["trigger"]["kind"], &sink["trigger"]["queue"]), (&json!("queue"), &json!("cases")));
    assert_eq!((&sink["failed"], &sink["running"]), (&json!(2), &json!(1)));
    assert_eq!(functions["idle"], json!([{ "name": "Dead", "reason": "disabled" }]));
    let queues = read(&host, "queues");
    assert_eq!((&queues["queues"][0]["name"], &queues["maxDeliveries"]), (&json!("cases"), &json!(2)));
    assert_eq!((&queues["queues"][0]["active"], &queues["queues"][0]["locked"]), (&json!(2), &json!(1)));
    let dead = read(&host, "messages?queue=cases&state=dead");
    assert_eq!(dead["messages"].as_array().unwrap().len(), 1);
    assert!(dead["messages"][0]["text"].as_str().unwrap().contains("<img"), "{dead}");
    assert_eq!(dead["messages"][0]["properties"]["applicationProperties"]["DeadLetterReason"], "MaxDeliveryCountExceeded");
    assert_eq!(read(&host, "messages?queue=cases&state=active&limit=1")["messages"].as_array().unwrap().len(), 1);
    assert_eq!(read(&host, "messages?queue=cases&contains=third")["messages"][0]["text"], "third");
    let invocations = invocations_of(&host, "Sink");
    let told: Vec<_> = invocations.iter().map(|one| (one["outcome"].as_str().unwrap(), one["deliveries"].as_u64().unwrap())).collect();
    assert_eq!(told, [("running", 1), ("failed", 2), ("failed", 1)]);
    assert!(invocations[1]["reason"].as_str().unwrap().contains("500") && invocations[1]["milliseconds"].is_u64(), "{invocations:?}");
    assert_eq!(read(&host, "app")["panel"], false, "no orders, no panel");
    assert_eq!(host.get(&format!("{API}/panel/orders")).status, 503);
    app.open();
}

#[test]
fn what_a_handler_tells_of_an_invocation_is_kept_and_bounded() {
    let Some(app) = App::new() else { return };
    let host = app.start(&[], &[]);
    let logs: Vec<String> = (0..60).map(|number| format!("line {number} {}", "x".repeat(1000))).collect();
    let body = json!({ "Outputs": { "res": { "statusCode": 201 } }, "Logs": logs, "ReturnValue": null }).to_string();
    let answer = json!({ "answer": { "status": 200, "contentType": "application/json", "body": body } });

    assert_eq!(tell(&host, &answer).status, 201);
    let large = "y".repeat(20_000);
    send(&host, &[&json!({ "until": app.gate(), "large": large }).to_string()]);
    app.recorded("begin", "Sink", 1);

    let told = invocations_of(&host, "Case").into_iter().find(|one| one["status"] == 201).unwrap();
    let lines = told["lines"].as_array().unwrap();
    assert!(lines[0].as_str().unwrap().starts_with("line 0 ") && lines.iter().all(|line| line.as_str().unwrap().len() <= 400));
    assert_eq!(lines.len() as u64 + told["linesLeftOut"].as_u64().unwrap(), 60);
    assert!(told["linesLeftOut"].as_u64().unwrap() > 0);
    let message = read(&host, "messages?queue=cases")["messages"][0].take();
    assert_eq!((message["text"].as_str().unwrap().len(), &message["isWhole"]), (4096, &json!(false)));
    assert!(message["size"].as_u64().unwrap() > 20_000);
    app.open();
}

#[test]
fn only_the_page_of_this_machine_reads_and_acts() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    let port = host.port;
    let get = |path: &str, headers: &str| raw(port, &format!("GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"));
    let status = |answer: &str| answer.split(' ').nth(1).unwrap().to_owned();

    let rebound = [
        "evil.example".to_owned(),
        format!("evil.example:{port}"),
        "localhost".to_owned(),
        format!("localhost:{}", port - 1),
        format!("localhost.evil.example:{port}"),
        format!("127.0.0.1.evil.example:{port}"),
        format!("a.localhost:{port}"),
        format!("0.0.0.0:{port}"),
    ];
    for name in &rebound {
        for path in ["app", "events", "panel/orders"] {
            let answer = get(&format!("{API}/{path}"), &format!("Host: {name}\r\n"));
            assert_eq!(status(&answer), "421", "{name}: {answer}");
        }
        let answer = get("/", &format!("Host: {name}\r\nAccept: text/html\r\n"));
        assert!(!answer.contains("<html"), "{name}: {answer}");
    }
    let name = format!("Host: localhost:{port}\r\n");
    for (name, wanted) in [
        (name.clone(), "200"),
        (format!("Host: LOCALHOST:{port}\r\n"), "200"),
        (format!("Host: [::1]:{port}\r\n"), "200"),
        (format!("{name}{name}"), "421"),
    ] {
        assert_eq!(status(&get(&format!("{API}/app"), &name)), wanted, "{name}");
    }
    for foreign in
        ["Origin: http://evil.example\r\n", "Origin: null\r\n", "Sec-Fetch-Site: cross-site\r\n", "Sec-Fetch-Site: same-site\r\n"]
    {
        let answer = get(&format!("{API}/app"), &format!("{name}{foreign}"));
        assert_eq!(status(&answer), "403", "{foreign}: {answer}");
        assert!(!answer.to_ascii_lowercase().contains("access-control"), "{answer}");
    }

    let own = format!("Origin: http://localhost:{port}\r\n");
    let json = "Content-Type: application/json\r\n";
    let acting = |headers: &str| {
        raw(
            port,
            &format!("POST {API}/functions/OrderSweeper/run HTTP/1.1\r\n{name}{headers}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}"),
        )
    };
    for refused in [
        json.to_owned(),
        own.clone(),
        format!("{own}Content-Type: text/plain\r\n"),
        format!("{own}{json}Content-Type: text/plain\r\n"),
        format!("{own}{json}Sec-Fetch-Site: cross-site\r\n"),
        format!("{json}Sec-Fetch-Site: none\r\n"),
        format!("Origin: http://localhost:{}\r\n{json}", port - 1),
        format!("Origin: http://127.0.0.1:{port}\r\n{json}"),
        format!("Origin: https://localhost:{port}\r\n{json}"),
        format!("Origin: null\r\n{json}"),
    ] {
        let answer = acting(&refused);
        assert_eq!(status(&answer), "403", "{refused}: {answer}");
    }
    assert!(invocations_of(&host, "OrderSweeper").iter().all(|one| one["byHand"] == false));
    for allowed in [format!("{own}{json}"), format!("{json}Sec-Fetch-Site: same-origin\r\n")] {
        let answer = acting(&allowed);
        assert_eq!(status(&answer), "200", "{allowed}: {answer}");
    }
}

#[test]
fn a_host_that_others_can_reach_has_no_console() {
    let data = Directory::new();
    let mut program = Host::begin(crate::support::repository(), data.path(), &["--host", "0.0.0.0"], &[]);
    let port = Host::wait(&mut program);
    let host = Host { program, port };

    for path in ["/admin/console", "/admin/console/api/app", "/admin/console/page.js"] {
        assert_eq!(host.get(path).status, 404, "{path}");
    }
    let page = request("GET", &host.url("/"), &[("Accept", BROWSER)], None);
    assert!(!page.body.contains("<html"), "{}", page.body);
}

#[test]
fn events_tell_of_changes_and_end_with_the_host() {
    let data = Directory::new();
    let mut host = Host::start(data.path(), &[]);
    let open = || {
        let mut stream = TcpStream::connect(("127.0.0.1", host.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {API}/events HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", host.port).unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        (line.split(' ').nth(1).unwrap().to_owned(), reader)
    };
    let next = |reader: &mut BufReader<TcpStream>| loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the stream goes on");
        if let Some(number) = line.strip_prefix("data: ") {
            return number.trim().parse::<u64>().unwrap();
        }
    };

    let (status, mut reader) = open();
    assert_eq!(status, "200");
    let before = next(&mut reader);
    let id = host.submit(&order("E-1"));
    host.ended(&id);
    eventually("it tells of the order", || (next(&mut reader) > before).then_some(()));

    // Of more pages than there may be, the last is refused, and has its turn when another has gone.
    let mut others: Vec<_> = (0..15).map(|_| open()).collect();
    assert!(others.iter().all(|(status, _)| status == "200"));
    assert_eq!(open().0, "503");
    others.clear();
    eventually("a place is free", || (open().0 == "200").then_some(()));

    // Readers that have stopped reading hold up neither orders nor the stop.
    let _silent: Vec<_> = (0..8).map(|_| open()).collect();
    host.ended(&host.submit(&order("E-2")));
    host.program.signal("INT");
    host.program.line("stopped");
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    let (status, lines) = host.program.end();
    assert!(status.success() && !lines.iter().any(|line| line.contains("drain deadline")), "{lines:?}");
}

#[test]
fn orders_are_counted_found_shown_retried_and_cancelled_by_the_rules_of_the_commands() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    let empty = read(&host, "panel/orders");
    assert_eq!((&empty["orders"], &empty["lookedAt"]), (&json!([]), &json!(0)));

    let hostile = "<img src=x onerror=alert(1)>";
    let failed = host.submit(&hopeless(hostile));
    host.ended(&failed);
    let good = host.submit(&order("A-1"));
    host.ended(&good);

    let counts = json!({ "completed": 1, "failed": 1 });
    let told = eventually("both are counted", || Some(read(&host, "panel/orders")).filter(|told| told["counts"] == counts));
    assert_eq!(told["isAll"], json!(true));
    assert_eq!((&told["orders"][0]["orderId"], &told["orders"][0]["status"]), (&json!(hostile), &json!("failed")), "failed ones first");
    for (query, id) in [
        ("status=completed", &good),
        ("q=A-1", &good),
        (&format!("q={}", &failed[..8]), &failed),
        ("q=%3Cimg+src%3Dx+onerror%3Dalert(1)%3E", &failed),
    ] {
        let found = read(&host, &format!("panel/orders?{query}"));
        assert_eq!(
            (found["orders"].as_array().unwrap().len(), found["orders"][0]["trackingId"].as_str()),
            (1, Some(id.as_str())),
            "{query}"
        );
    }
    assert_eq!(read(&host, "panel/orders?q=C-1001")["orders"].as_array().unwrap().len(), 2, "of one customer");
    assert_eq!(read(&host, "panel/orders?q=nothing")["orders"], json!([]));
    assert_eq!(host.get(&format!("{API}/panel/orders?status=odd")).status, 400);

    let one = read(&host, &format!("panel/orders/{failed}"));
    assert_eq!((&one["canRetry"], &one["canCancel"]), (&json!(true), &json!(false)));
    assert!(one["history"].as_array().unwrap().len() >= 2 && one["order"].as_str().unwrap().contains("1000000000"), "{one}");
    assert!(one["record"].as_str().unwrap().contains("schemaVersion"), "{one}");
    assert_eq!(host.get(&format!("{API}/panel/orders/0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10")).status, 404);

    let retried = act(&host, "panel/orders/retry", &json!({ "ids": [failed, good, "nonsense"] })).json();
    assert_eq!(retried["results"][0]["done"], "sent", "{retried}");
    assert_eq!((&retried["results"][1]["problem"], &retried["results"][2]["problem"]), (&json!("not_failed"), &json!("order_not_found")));
    eventually("it has failed again", || {
        let one = read(&host, &format!("panel/orders/{failed}"));
        let events: Vec<_> = one["history"].as_array().unwrap().iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect();
        (events.iter().filter(|event| *event == "failed").count() == 2 && events.contains(&"redriven".into())).then_some(())
    });
    let cancelled = act(&host, "panel/orders/cancel", &json!({ "ids": [good] })).json();
    assert_eq!(cancelled["results"][0]["problem"], "order_ended", "{cancelled}");
    for wrong in [json!({}), json!({ "ids": [] }), json!({ "ids": vec!["a"; 101] }), json!({ "ids": [1] }), json!([])] {
        assert_eq!(act(&host, "panel/orders/retry", &wrong).status, 400, "{wrong}");
    }

    host.program.signal("INT");
    let (status, lines) = host.program.end();
    assert!(status.success() && !data.path().join("records.db-wal").exists(), "nothing is left in the log: {lines:?}");
}

#[test]
fn a_list_is_kept_for_every_page_until_a_pause_or_an_action() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    let read_at = |query: &str| read(&host, &format!("panel/orders{query}"))["readAt"].as_str().expect("it says when").to_owned();
    let change = || assert_eq!(act(&host, "panel/orders/retry", &json!({ "ids": ["nonsense"] })).status, 200);

    // On a busy machine the shortest pause can pass meanwhile.
    eventually("all is asked within one pause", || {
        change();
        let begun = Instant::now();
        let first = (read_at(""), read_at("?status=failed"), read_at("?q=A-1"));
        let again = (read_at(""), read_at("?status=failed"), read_at("?q=A-1"));
        change();
        let changed = (read_at(""), read_at("?status=failed"));
        if begun.elapsed() > Duration::from_millis(1500) {
            return None;
        }
        assert_eq!((&first.0, &first.1), (&again.0, &again.1), "kept");
        assert!(first.2 < again.2, "a search is read when it is asked for");
        assert!(again.0 < changed.0 && again.1 < changed.1, "fresh after an action");
        Some(())
    });
    let before = read_at("");
    eventually("it is read again by itself", || (read_at("") > before).then_some(()));
}

#[test]
fn the_record_of_an_order_tells_the_host_of_its_callback_only() {
    let data = Directory::new();
    let settings = [
        ("CALLBACK_SECRET", "whsec_MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw"),
        ("CALLBACK_ALLOWED_HOSTS", "hooks.example.com"),
        ("WORK_DELAY", "60s"),
    ];
    let host = Host::start(data.path(), &settings);
    let headers = [("Content-Type", "application/json"), ("X-Callback-Url", "https://hooks.example.com/t0ken?sig=s3cret")];
    let answer = request("POST", &host.url("/api/orders"), &headers, Some(order("S-1").to_string().as_bytes()));
    assert_eq!(answer.status, 202, "{answer:?}");

    let told = read(&host, &format!("panel/orders/{}", answer.json()["trackingId"].as_str().unwrap()));

    assert!(told["record"].as_str().unwrap().contains("\"url\": \"hooks.example.com\""), "{told}");
    assert!(!told.to_string().contains("t0ken") && !told.to_string().contains("s3cret"), "{told}");
}

#[test]
fn an_invocation_shows_what_the_handler_printed_about_it() {
    let data = Directory::new();
    for form in ["short", "text"] {
        let host = Host::start(data.path(), &[("LOG_FORMAT", form)]);
        let id = host.submit(&order(form));
        host.ended(&id);

        for (function, text) in [("OrderIngress", "accepted"), ("OrderProcessor", "completed")] {
            eventually("the line is shown", || {
                let invocations = invocations_of(&host, function);
                let lines = invocations[0]["lines"].as_array().unwrap();
                let is_it = |line: &Value| line.as_str().is_some_and(|line| line.contains(text) && line.contains(&id[..8]));
                lines.iter().any(is_it).then_some(())
            });
        }
    }
}

#[test]
fn invocations_name_the_start_that_counts_them() {
    let data = Directory::new();
    let start = || {
        let host = Host::start(data.path(), &[]);
        let told = read(&host, "invocations?since=500");
        assert_eq!(told["startedAt"], read(&host, "app")["startedAt"]);
        host.program.signal("INT");
        host.program.end();
        told["startedAt"].as_str().unwrap().to_owned()
    };

    assert!(start() < start(), "another start, other numbers");
}

#[test]
fn messages_in_quarantine_are_sent_again_or_discarded() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    for text in ["junk <b>1</b>", "junk 2"] {
        assert_eq!(act(&host, "functions/OrderDeadLetter/run", &json!({ "input": text })).status, 200);
    }
    let kept = eventually("both are in quarantine", || {
        let kept = read(&host, "panel/quarantine")["messages"].take();
        (kept.as_array().unwrap().len() == 2).then_some(kept)
    });
    let id = |text: &str| kept.as_array().unwrap().iter().find(|message| message["text"] == text).unwrap()["id"].clone();

    let without = act(&host, "panel/quarantine/discard", &json!({ "id": id("junk 2") }));
    assert_eq!(without.status, 400, "a reason is asked for: {without:?}");
    let discarded = act(&host, "panel/quarantine/discard", &json!({ "id": id("junk 2"), "reason": "a test" }));
    assert_eq!(discarded.json()["discarded"], true, "{discarded:?}");
    let released = act(&host, "panel/quarantine/release", &json!({ "id": id("junk <b>1</b>") })).json();
    assert_eq!(released["released"], true, "{released}");
    eventually("it is delivered once more", || {
        invocations_of(&host, "OrderProcessor").iter().any(|one| one["deliveries"] == 1).then_some(())
    });
}

#[test]
fn a_timer_tells_its_runs_and_runs_by_hand() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[("SweepSchedule", "0 0 3 1 1 *")]);
    let timer = |host: &Host| {
        let functions = read(host, "functions");
        functions["functions"].as_array().unwrap().iter().find(|one| one["name"] == "OrderSweeper").unwrap().clone()
    };
    let before = timer(&host);
    assert_eq!((&before["trigger"]["last"], before["trigger"]["next"].as_array().unwrap().len()), (&Value::Null, 3));
    assert!(before["trigger"]["next"][0].as_str().unwrap().contains("-01-01T03:00:00Z"), "{before}");

    let run = act(&host, "functions/OrderSweeper/run", &json!({})).json();
    let ended = eventually("it has run", || invocations_of(&host, "OrderSweeper").into_iter().find(|one| one["outcome"] != "running"));
    assert_eq!((&ended["id"], &ended["outcome"], &ended["byHand"]), (&run["invocation"], &json!("completed"), &json!(true)));
    assert_eq!(timer(&host)["completed"], 1);
    assert_eq!(act(&host, "functions/OrderIngress/run", &json!({})).status, 400, "its URL is called");
    assert_eq!(act(&host, "functions/Nothing/run", &json!({})).status, 404);
}

/// What a person sees and does in Chromium: `tests/browser/console.js` walks through, and prints what each step showed.
fn walked(url: &str, walk: &str, steps: &[&str]) -> Option<Vec<Value>> {
    driven("console.js", &[url, walk], steps.iter().map(|step| format!("\"step\":\"{step}\"")))
}

fn is_clean(steps: &[Value]) {
    for step in steps {
        assert_eq!((&step["findings"], &step["complaints"], &step["overflows"]), (&json!([]), &json!([]), &json!(false)), "{step}");
        assert_eq!(step["origins"].as_array().unwrap().len(), 1, "{step}");
    }
}

#[test]
fn a_person_sees_orders_live_and_helps_them_in_chromium() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[("SweepSchedule", "0 0 3 1 1 *"), ("WORK_DELAY", "1s")]);

    let steps = ["empty", "submitted", "completed", "hostile", "retried", "quarantine", "timer", "invocations", "dark", "narrow"];
    let Some(steps) = walked(&host.url("/"), "orders", &steps) else { return };

    is_clean(&steps);
}

#[test]
fn a_page_without_a_place_says_that_it_does_not_follow_in_chromium() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    let _others: Vec<_> = (0..16)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", host.port)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            write!(stream, "GET {API}/events HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", host.port).unwrap();
            let mut begin = [0; 12];
            stream.read_exact(&mut begin).unwrap();
            assert_eq!(&begin, b"HTTP/1.1 200");
            stream
        })
        .collect();

    let Some(steps) = walked(&host.url("/"), "crowded", &["crowded"]) else { return };

    assert_eq!((&steps[0]["findings"], &steps[0]["overflows"]), (&json!([]), &json!(false)), "{steps:?}");
}

#[test]
fn a_person_cancels_an_order_in_chromium() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[("WORK_DELAY", "20s")]);
    let id = host.submit(&order("C-1"));

    let Some(steps) = walked(&format!("{}#orders/{id}", host.url("/")), "cancel", &["cancelled"]) else { return };

    is_clean(&steps);
    assert_eq!(host.ended(&id)["status"], "cancelled");
}

#[test]
fn a_person_sees_the_queues_of_any_handler_in_chromium() {
    let Some(app) = App::new() else { return };
    let host = app.start(&["--max-delivery-count", "1"], &[("AzureWebJobs.Dead.Disabled", "true")]);
    send(&host, &[r#"{"fail": 9, "id": "<script>alert(1)</script>"}"#]);
    eventually("it is dead-lettered", || (read(&host, "queues")["queues"][0]["dead"] == 1).then_some(()));

    let Some(steps) = walked(&host.url("/"), "queues", &["functions", "queues", "messages"]) else { return };

    is_clean(&steps);
}

#[test]
fn the_console_shows_five_hundred_orders_while_the_handler_works() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[("RATE_LIMIT", "0")]);
    let ids: Vec<String> = (0..500)
        .map(|number| host.submit(&if number % 100 == 7 { hopeless(&format!("N-{number}")) } else { order(&format!("N-{number}")) }))
        .collect();

    let told = eventually("all have ended", || {
        let told = read(&host, "panel/orders");
        (told["counts"] == json!({ "completed": 495, "failed": 5 })).then_some(told)
    });

    assert_eq!((told["orders"].as_array().unwrap().len(), &told["orders"][4]["status"]), (200, &json!("failed")));
    assert_eq!(read(&host, "panel/orders?q=N-3")["orders"][0]["trackingId"], ids[3]);
    assert!(read(&host, "invocations")["invocations"].as_array().unwrap().len() <= 500);
    let Some(steps) = walked(&host.url("/"), "many", &["found"]) else { return };
    is_clean(&steps);
}
