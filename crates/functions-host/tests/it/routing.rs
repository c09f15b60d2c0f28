//! Which function a request reaches, by requests that were tried on the real host: `fixtures/routing-cases.json`.
//! The handler is this process: the program that the host starts only tells the port.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

use functions_host::host::{self, Options};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::support::App;

const CASES: &str = include_str!("fixtures/routing-cases.json");

/// Fewest cases with the function and the status of the real host; only ever raised.
const ALIKE: usize = 150;

fn app(functions: &serde_json::Map<String, Value>) -> App {
    let app = App::new("echo $FUNCTIONS_CUSTOMHANDLER_PORT > port.part\nmv port.part port\nexec sleep 600");
    for (name, bindings) in functions {
        app.write(&format!("{name}/function.json"), &serde_json::json!({ "bindings": bindings }).to_string());
    }
    app
}

/// Answers every invocation with 200 and tells the name of each function.
fn handle(stream: TcpStream, called: &mpsc::Sender<String>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut start = String::new();
        reader.read_line(&mut start).ok().filter(|length| *length > 0)?;
        let mut chunked = false;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            chunked |= line.to_ascii_lowercase().starts_with("transfer-encoding: chunked");
            if line.trim().is_empty() {
                break;
            }
        }
        while chunked {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = u64::from_str_radix(size.trim(), 16).ok()?;
            std::io::copy(&mut reader.by_ref().take(size + 2), &mut std::io::sink()).ok()?;
            chunked = size > 0;
        }
        let name = start.split(' ').nth(1)?.trim_start_matches('/').to_owned();
        if !name.is_empty() {
            called.send(name).ok()?;
        }
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 28\r\n\r\n{\"Outputs\":{\"res\":{}}}      ";
        reader.get_mut().write_all(answer.as_bytes()).ok()?;
    }
}

fn ask(host: SocketAddr, request: &str) -> Option<u64> {
    let mut stream = TcpStream::connect(host).ok()?;
    write!(stream, "{request} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_reach_the_function_of_the_real_host() {
    let document: Value = serde_json::from_str(CASES).unwrap();
    let app = app(document["functions"].as_object().unwrap());
    let arguments = app.arguments();
    let (up, is_up) = oneshot::channel();
    let host = tokio::spawn(async move { host::run(Options::new(arguments), &BTreeMap::new(), up, std::future::pending()).await });
    let (called, calls) = mpsc::channel();
    let port = app.path().join("port");
    thread::spawn(move || {
        let port = loop {
            match fs::read_to_string(&port) {
                Ok(text) => break text.trim().parse::<u16>().unwrap(),
                Err(_) => thread::yield_now(),
            }
        };
        for stream in TcpListener::bind(("127.0.0.1", port)).unwrap().incoming().flatten() {
            let called = called.clone();
            thread::spawn(move || handle(stream, &called));
        }
    });
    let Ok(up) = is_up.await else { panic!("{:?}", host.await) };

    let cases = document["cases"].as_array().unwrap().clone();
    let different = tokio::task::spawn_blocking(move || {
        let mut alike = 0;
        let mut different = Vec::new();
        for case in &cases {
            let function = case["function"].as_str();
            let status = ask(up.address, case["request"].as_str().unwrap());
            let reached = calls.try_iter().last();
            if status == case["status"].as_u64() && reached.as_deref() == function {
                alike += 1;
            } else {
                different.push(format!("{}: {status:?} {reached:?} instead of {} {function:?}", case["request"], case["status"]));
            }
        }
        println!("{alike} cases alike, {} different:\n{}", different.len(), different.join("\n"));
        assert!(alike >= ALIKE, "{alike} cases alike");
        different
    });
    let different = different.await.unwrap();
    host.abort();
    for request in ["GET /api/shop/special", "GET /api/shop/5", "GET /api/same"] {
        assert!(!different.iter().any(|case| case.starts_with(&format!("\"{request}\""))), "{request}: {different:?}");
    }
}

/// Templates that were tried on the real host, each beside a good function, and whether that host ran.
const TEMPLATES: [(&str, bool); 10] = [
    ("brace/{x", false),
    ("bad/{x:nosuch}", false),
    ("dup/{x}/{x}", false),
    ("/lead/{x}", false),
    ("q?x=1", false),
    ("c/{*a}/b", false),
    ("i/{x:range(5)}", false),
    ("v{version?}", false),
    ("~/tilde", true),
    ("re/{x:regex(^[)}", true),
];

#[tokio::test]
async fn a_template_that_stops_the_real_host_stops_the_start_with_its_place() {
    for (template, runs) in TEMPLATES {
        let app = App::new("exit 1");
        let function = |route: &str| serde_json::json!({"bindings": [{"type": "httpTrigger", "name": "req", "route": route}]}).to_string();
        app.write("Good/function.json", &function("good"));
        app.write("Tried/function.json", &function(template));
        let (up, _) = oneshot::channel();

        let problems = host::run(Options::new(app.arguments()), &BTreeMap::new(), up, std::future::pending()).await.unwrap_err();

        let named =
            problems.iter().any(|problem| problem.starts_with(&format!("Tried/function.json: bindings[0].route {template:?}, character")));
        assert_eq!(named, !runs, "{template}: {problems:?}");
    }
}
