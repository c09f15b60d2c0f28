//! Starts the real programs, talks to them, and ends them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

/// Longest wait for anything; generous, for machines that build beside the tests.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A directory of its own, removed at the end.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("waybill-it-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The repository's own app.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A running program, its output collected line by line; killed when dropped.
pub struct Program {
    child: Child,
    output: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Program {
    /// Starts `waybill` with nothing of this process's environment but `environment`.
    pub fn waybill(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waybill"));
        command.args(arguments).env_clear().envs(environment.iter().copied());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        Self::start(&mut command)
    }

    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let pipes: [Box<dyn Read + Send>; 2] = [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for pipe in pipes {
            let output = Arc::clone(&output);
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                    output.0.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
                    output.1.notify_all();
                }
            });
        }
        Self { child, output }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has printed so far, both streams.
    pub fn lines(&self) -> Vec<String> {
        self.output.0.lock().unwrap().clone()
    }

    /// The lines so far that contain `text`.
    pub fn lines_with(&self, text: &str) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.contains(text)).collect()
    }

    /// Waits for a line that contains `text`.
    pub fn line(&mut self, text: &str) -> String {
        self.line_where(text, |line| line.contains(text))
    }

    pub fn line_where(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + PATIENCE;
        let mut lines = self.output.0.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| wanted(line)) {
                return line.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no line with {what:?} in:\n{}", lines.join("\n"));
            lines = self.output.1.wait_timeout(lines, left.min(Duration::from_millis(100))).unwrap().0;
            // Each thread that still reads has the output too.
            let is_read = self.child.try_wait().unwrap().is_some() && Arc::strong_count(&self.output) == 1;
            assert!(!is_read || lines.iter().any(|line| wanted(line)), "it ended without a line with {what:?}:\n{}", lines.join("\n"));
        }
    }

    pub fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end by itself.
    pub fn end(self) -> (ExitStatus, Vec<String>) {
        self.end_within(PATIENCE)
    }

    /// The same for a program with much to do.
    pub fn end_within(mut self, patience: Duration) -> (ExitStatus, Vec<String>) {
        let status = eventually_within(patience, "the program ends", || self.child.try_wait().unwrap());
        // The pipes end once no process holds them any more.
        let lines = eventually("its output is read", || (Arc::strong_count(&self.output) == 1).then(|| self.lines()));
        (status, lines)
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal by name, e.g. `INT`; the process may be gone by now.
pub fn signal(process: u32, name: &str) {
    Command::new("kill").args([&format!("-{name}"), &process.to_string()]).stderr(Stdio::null()).status().unwrap();
}

/// Stops a handler (SIGSTOP) at a moment when it is not in the midst of a write to the records here: that one would hold up all others
/// until it goes on.
#[cfg(unix)]
pub fn stop_between_writes(program: &Program, data: &Path) {
    let database = rusqlite::Connection::open(data.join("records.db")).unwrap();
    database.busy_timeout(Duration::from_millis(100)).unwrap();
    eventually("it is stopped between two writes", || {
        program.signal("STOP");
        eventually("it has stopped", || {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", program.id()));
            // Other systems do not show it.
            state.map_or(true, |state| state.contains(") T ")).then_some(())
        });
        let free = database.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok();
        if !free {
            program.signal("CONT");
        }
        free.then_some(())
    });
}

/// Asks until there is an answer.
pub fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, ask)
}

fn eventually_within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "never: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A program of this workspace beside `waybill`, built if it is not: its features stay out of the product. With `--workspace` its
/// dependencies have the features they have in these tests, so they are already built.
pub fn built(program: &str) -> PathBuf {
    // DIRECTORY/PROFILE/waybill
    let target = PathBuf::from(env!("CARGO_BIN_EXE_waybill"));
    let target = target.ancestors().nth(2).unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(repository()).args(["build", "--quiet", "--locked", "--workspace", "--bin", program, "--target-dir"]).arg(target);
    assert!(command.status().unwrap().success(), "{program} is not built");
    target.join("debug").join(program)
}

/// Says so where everybody sees it: what a test prints is shown only when it fails.
pub fn skipped(why: &str) {
    use std::io::Write;
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
}

/// `waybill local` on a free port, with an app and a data directory of its own.
pub struct Host {
    pub program: Program,
    pub port: u16,
}

impl Host {
    /// Starts it on the repository's app, with these settings in its environment.
    pub fn start(data: &Path, settings: &[(&str, &str)]) -> Self {
        Self::with(repository(), data, &[], settings)
    }

    pub fn with(app: &Path, data: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> Self {
        let mut program = Self::begin(app, data, arguments, settings);
        let port = Self::wait(&mut program);
        Self { program, port }
    }

    /// Starts it without waiting until it is up.
    pub fn begin(app: &Path, data: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> Program {
        let mut all = vec!["local", "--app", app.to_str().unwrap(), "--data", data.to_str().unwrap()];
        all.extend(arguments);
        if !arguments.contains(&"--port") {
            all.extend(["--port", "0"]);
        }
        Program::waybill(&all, settings)
    }

    /// The port, once its handler answers.
    pub fn wait(program: &mut Program) -> u16 {
        program.line("Press Ctrl-C to stop");
        let status = program.lines().into_iter().find_map(|line| {
            let (_, rest) = line.split_once("http://localhost:")?;
            rest.split('/').next()?.trim().parse().ok()
        });
        status.unwrap_or_else(|| panic!("no URL in {:?}", program.lines()))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        request("POST", &self.url(path), &[("Content-Type", "application/json")], Some(body.to_string().as_bytes()))
    }

    pub fn get(&self, path: &str) -> Response {
        request("GET", &self.url(path), &[], None)
    }

    /// Sends an order; its tracking id.
    pub fn submit(&self, order: &Value) -> String {
        let response = self.post("/api/orders", order);
        assert_eq!(response.status, 202, "{response:?}");
        response.json()["trackingId"].as_str().unwrap().to_owned()
    }

    /// Waits for an order's end; its status body.
    pub fn ended(&self, tracking_id: &str) -> Value {
        eventually("the order ends", || {
            let response = self.get(&format!("/api/orders/{tracking_id}/status"));
            assert_eq!(response.status, 200, "{response:?}");
            let body = response.json();
            matches!(body["status"].as_str(), Some("completed" | "failed" | "cancelled")).then_some(body)
        })
    }

    /// What `/admin/host/status` says.
    pub fn figures(&self) -> Value {
        self.get("/admin/host/status").json()
    }
}

/// `waybill serve` alone on a free port: the test plays the host.
pub struct Handler {
    pub program: Program,
    pub port: u16,
}

impl Handler {
    pub fn start(data: &Path, settings: &[(&str, &str)]) -> Self {
        let mut settings = settings.to_vec();
        settings.push(("WAYBILL_DATA", data.to_str().unwrap()));
        let mut handler = Self::begin(&settings);
        handler.program.line("store is open");
        handler
    }

    /// Starts it and waits until it listens, which is before its store answers.
    pub fn begin(settings: &[(&str, &str)]) -> Self {
        let port = free_port();
        let text = port.to_string();
        // All tests are one caller; those that are about that set a limit.
        let mut environment = vec![("FUNCTIONS_CUSTOMHANDLER_PORT", text.as_str()), ("RATE_LIMIT", "0")];
        environment.extend(settings);
        let mut program = Program::waybill(&["serve"], &environment);
        program.line("the handler listens");
        Self { program, port }
    }

    /// Waits until its store answers.
    pub fn ready(self) -> Self {
        eventually("the store answers", || (self.readyz().status == 200).then_some(()));
        self
    }

    pub fn readyz(&self) -> Response {
        request("GET", &self.url("/readyz"), &[], None)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Waits until this number of requests wait for an order to change.
    pub fn until_waiting(&self, number: u64) {
        eventually("they wait", || (self.readyz().json()["waiting"]["forChange"] == number).then_some(()));
    }

    /// Invokes a function with this envelope, in an invocation of its own.
    pub fn invoke(&self, function: &str, envelope: &Value) -> Response {
        // The host gives each invocation an id of its own; a claim that carries the id of an invocation belongs to it.
        let invocation = Uuid::new_v4().to_string();
        let headers = [("Content-Type", "application/json; charset=utf-8"), ("X-Azure-Functions-InvocationId", &invocation)];
        request("POST", &self.url(&format!("/{function}")), &headers, Some(envelope.to_string().as_bytes()))
    }

    /// Invokes `OrderIngress` with this client body; what the client would see.
    pub fn ingress(&self, body: Option<&str>, headers: &[(&str, &str)]) -> Answer {
        let answer = self.invoke("OrderIngress", &http_envelope("POST", "http://localhost:7071/api/orders", &json!({}), body, headers));
        assert_eq!(answer.status, 200, "{answer:?}");
        Answer::of(&answer)
    }

    pub fn status(&self, tracking_id: &str) -> Answer {
        self.status_with(tracking_id, &[])
    }

    pub fn status_with(&self, tracking_id: &str, headers: &[(&str, &str)]) -> Answer {
        let url = format!("http://localhost:7071/api/orders/{tracking_id}/status");
        Answer::of(&self.invoke("OrderStatus", &http_envelope("GET", &url, &json!({ "trackingId": tracking_id }), None, headers)))
    }

    pub fn cancel(&self, tracking_id: &str) -> Answer {
        let url = format!("http://localhost:7071/api/orders/{tracking_id}");
        Answer::of(&self.invoke("OrderCancel", &http_envelope("DELETE", &url, &json!({ "trackingId": tracking_id }), None, &[])))
    }

    pub fn list(&self, query: &str) -> Answer {
        let url = format!("http://localhost:7071/api/orders{query}");
        Answer::of(&self.invoke("OrderList", &http_envelope("GET", &url, &json!({}), None, &[])))
    }

    /// Runs `OrderSweeper` as its timer does.
    pub fn sweep(&self) -> Response {
        let timer = json!({ "Data": { "timer": { "Schedule": { "AdjustForDST": true }, "ScheduleStatus": null, "IsPastDue": false } }, "Metadata": {} });
        let swept = self.invoke("OrderSweeper", &timer);
        assert_eq!(swept.status, 200, "{swept:?}");
        swept
    }

    /// Invokes `OrderProcessor` with a message text; the status that decides between complete and abandon.
    pub fn process(&self, message: &str) -> Response {
        self.invoke("OrderProcessor", &queue_envelope(message))
    }
}

/// Everything that the program on this port answers to the bytes of a request, which asks for the end of the connection.
pub fn raw(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

pub fn http_envelope(method: &str, url: &str, params: &Value, body: Option<&str>, headers: &[(&str, &str)]) -> Value {
    let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::from([("Content-Type", vec!["application/json"])]);
    for (name, value) in headers {
        all.entry(name).or_default().push(value);
    }
    let mut req = json!({ "Url": url, "Method": method, "Query": {}, "Headers": all, "Params": params, "Identities": [] });
    if let Some(body) = body {
        req["Body"] = body.into();
    }
    json!({ "Data": { "req": req }, "Metadata": { "sys": { "MethodName": "X" } } })
}

pub fn queue_envelope(message: &str) -> Value {
    json!({ "Data": { "orderMessage": Value::from(message).to_string() }, "Metadata": { "DeliveryCount": "1" } })
}

/// What a handler told the host to answer its client, and to send.
#[derive(Debug)]
pub struct Answer {
    pub status: u64,
    pub headers: Value,
    pub body: Value,
    pub message: Option<String>,
}

impl Answer {
    /// The tracking id and the message of an order that is accepted.
    pub fn accepted(self) -> (String, String) {
        assert_eq!(self.status, 202, "{self:?}");
        (self.body["trackingId"].as_str().unwrap().to_owned(), self.message.unwrap())
    }

    pub fn of(response: &Response) -> Self {
        let outputs = &response.json()["Outputs"];
        let res = &outputs["res"];
        Self {
            status: res["statusCode"].as_u64().unwrap_or_else(|| panic!("{response:?}")),
            headers: res["headers"].clone(),
            body: match res["body"].as_str().unwrap() {
                "" => Value::Null,
                text => serde_json::from_str(text).unwrap(),
            },
            message: outputs["orderMessage"].as_array().map(|messages| {
                assert_eq!(messages.len(), 1, "a one-element array: {messages:?}");
                messages[0].as_str().expect("the JSON text").to_owned()
            }),
        }
    }
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// One request; connection errors panic.
pub fn request(method: &str, url: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Response {
    try_request(method, url, headers, body).unwrap_or_else(|error| panic!("{method} {url}: {error}"))
}

/// One request on a connection of its own.
pub fn try_request(method: &str, url: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Result<Response, ureq::Error> {
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).max_idle_connections(0);
    let agent: ureq::Agent = config.build().into();
    let mut request = ureq::http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = match body {
        Some(body) => agent.run(request.body(body)?)?,
        None => agent.run(request.body(())?)?,
    };
    let headers = response.headers().iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    Ok(Response { status: response.status().as_u16(), headers: headers.collect(), body: response.body_mut().read_to_string()? })
}

pub fn free_port() -> u16 {
    // Below those that systems give to connections and to listeners that name none (Linux: from 32768), any of which might take it
    // before it is used; each is given once.
    const FIRST: u32 = 12_000;
    const NUMBER: u32 = 10_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(701);
    let mut ports = (0..NUMBER).map(|_| FIRST + begin.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % NUMBER);
    let free = ports.find_map(|port| std::net::TcpListener::bind(("127.0.0.1", u16::try_from(port).ok()?)).ok());
    free.expect("a free port").local_addr().unwrap().port()
}

/// A valid order with this id.
pub fn order(order_id: &str) -> Value {
    json!({
        "orderId": order_id, "customerId": "C-1001", "currency": "EUR",
        "items": [{ "sku": "SKU-1", "quantity": 2, "unitPrice": "19.90" }, { "sku": "SKU-2", "quantity": 1, "unitPrice": "4.50" }]
    })
}

/// An order that fails for good: its total is too large.
pub fn hopeless(id: &str) -> Value {
    let mut order = order(id);
    order["items"] = json!([{ "sku": "A", "quantity": 1_000_000, "unitPrice": "1000000000" }]);
    order
}

/// Submits an order, which is accepted: its tracking id, and its message.
pub fn submit(handler: &Handler, order_id: &str) -> (String, String) {
    try_submit(handler, order_id, &[]).accepted()
}

/// Submits an order with more headers, which is accepted: its tracking id, and its message.
pub fn submit_with(handler: &Handler, order_id: &str, headers: &[(&str, &str)]) -> (String, String) {
    try_submit(handler, order_id, headers).accepted()
}

/// Submits an order unlike the others, which is accepted: its tracking id, and its message.
pub fn submit_order(handler: &Handler, order: &Value) -> (String, String) {
    handler.ingress(Some(&order.to_string()), &[]).accepted()
}

/// Submits an order: the answer, whatever it is.
pub fn try_submit(handler: &Handler, order_id: &str, headers: &[(&str, &str)]) -> Answer {
    handler.ingress(Some(&order(order_id).to_string()), headers)
}

/// Posts an order to the host on this port: the response, if one comes.
pub fn post_order(port: u16, order_id: &str) -> Result<Response, ureq::Error> {
    let url = format!("http://127.0.0.1:{port}/api/orders");
    try_request("POST", &url, &[("Content-Type", "application/json")], Some(order(order_id).to_string().as_bytes()))
}

/// Posts the same order again and again, as long as no response comes or its status is one of these: the tracking id.
pub fn submit_until_accepted(port: u16, order_id: &str, tried_again: &[u16]) -> String {
    eventually("the order is accepted", || {
        let response = post_order(port, order_id).ok()?;
        match response.status {
            202 => Some(response.json()["trackingId"].as_str().unwrap().to_owned()),
            status if tried_again.contains(&status) => None,
            _ => panic!("{response:?}"),
        }
    })
}

/// What happened to an order, by its status.
pub fn events(status: &Value) -> Vec<&str> {
    status["history"].as_array().unwrap().iter().map(|transition| transition["event"].as_str().unwrap()).collect()
}

/// Whether this program is here. `REQUIRE_ALL=1` makes it a failure that it is not.
pub fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "{program} not found");
        skipped(&format!("{program} not found"));
    }
    found
}
