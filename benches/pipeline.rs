//! Orders through the whole pipeline: `waybill local`, its queue, the handler and its records, driven from outside.
//!
//! `cargo bench --bench pipeline`; `-- --help` for options. See `benches/README.md`.

#![expect(unreachable_pub, reason = "helpers are public to the modules of this binary")]

#[path = "support/client.rs"]
mod client;
#[path = "support/process.rs"]
mod process;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use functions_host::handler::free_port;
use functions_host::wire::invocation::{self, Identity, Sys};
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use serving::process::Started;
use serving::stop::StopSignals;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::client::{Connection, Failure, Payload, median, milliseconds, order, quantile};
use crate::process::{Directory, Program, resident};

/// Connections that submit orders; once all are submitted these connections also follow orders.
const SUBMITTERS: usize = 64;
/// Connections that only follow orders.
const FOLLOWERS: usize = 32;
/// Orders whose status is read at the same time, oldest first: reading all of them would be the main load.
const WINDOW: usize = 64;
/// Pause before the status of an order is read again.
const ASK_AGAIN: Duration = Duration::from_millis(10);
/// Pause of a follower that has no order to follow.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Orders that warm up a server; they are not counted.
const WARM_UP: usize = 500;
/// Longest time of a single order; a run may take this long plus the time at [`SLOWEST`] orders per second.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Slowest accepted server, in orders per second.
const SLOWEST: u32 = 100;
/// The settings for records in Cosmos DB.
const COSMOS: [&str; 4] = ["CosmosConnection", "CosmosDatabase", "CosmosContainer", "TRACKING_ID_KEY"];
/// Status reads to measure the latency that the host adds: this many through the host, and this many directly.
const READS: usize = 2_000;
/// Status reads before the measurement.
const READS_WARM_UP: usize = 200;
/// Orders after which memory is measured.
const MEMORY_AFTER: [usize; 2] = [10_000, 100_000];
/// Seconds of one wait of a waiter.
const WAIT: u64 = 20;
/// Pause before memory is measured, in which the allocator returns freed memory.
const SETTLE: Duration = Duration::from_secs(2);

/// Orders through the whole pipeline.
#[derive(Debug, Parser)]
struct Arguments {
    /// Orders in a round.
    #[arg(long, default_value_t = 5_000)]
    n: usize,
    /// Number of rounds, each with a new data directory.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Drive a running server with the same API instead.
    #[arg(long, value_name = "http://HOST:PORT")]
    url: Option<String>,
    /// Measure memory after 10,000 and after 100,000 orders instead.
    #[arg(long, conflicts_with = "url")]
    rss: bool,
    /// Measure each round without and with this many connections that wait for one order to change instead.
    #[arg(long, value_name = "N", conflicts_with_all = ["url", "rss"])]
    waiters: Option<usize>,
    /// Keep records in the Cosmos DB that the environment names, e.g. the emulator, and print the charge of an order.
    #[arg(long, conflicts_with_all = ["url", "rss"])]
    cosmos: bool,
    /// Where data directories are made [default: Cargo's target directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Passed by Cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("pipeline: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<(), Failure> {
    // One thread, since the client shares the processors with the server.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = StopSignals::listen();
        tokio::select! {
            ended = report(arguments) => ended,
            () = signals.next() => Err("stopped".into()),
        }
    })
}

async fn report(arguments: &Arguments) -> Result<(), Failure> {
    if let Some(url) = &arguments.url {
        let authority = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
        for _ in 0..arguments.rounds {
            drive(authority, WARM_UP).await?;
            drive(authority, arguments.n).await?.print();
        }
        return Ok(());
    }
    let syncs = Directory::new(arguments.dir.as_deref())?.syncs_per_second()?;
    println!("disk: {syncs:.0} fdatasync/s, one after the other; logging as by default, to /dev/null");
    if arguments.rss {
        return memory(arguments).await;
    }
    if let Some(waiters) = arguments.waiters {
        return beside_waiters(arguments, waiters).await;
    }
    for _ in 0..arguments.rounds {
        let host = Host::start(arguments).await?;
        drive(&host.authority, WARM_UP).await?;
        let before = host.figures().await?;
        let driven = drive(&host.authority, arguments.n).await?;
        driven.print();
        host.figures().await?.print(&before, driven.accepted());
        added_latency(&host).await?;
    }
    Ok(())
}

async fn memory(arguments: &Arguments) -> Result<(), Failure> {
    let host = Host::start(arguments).await?;
    let mut seen = Vec::new();
    let mut done = 0;
    println!("{:>10}{:>12}{:>13}", "orders", "host MiB", "handler MiB");
    for orders in MEMORY_AFTER {
        let driven = drive(&host.authority, orders - done).await?;
        if driven.completed() != orders - done {
            driven.print();
            return Err("not every order was completed".into());
        }
        done = orders;
        tokio::time::sleep(SETTLE).await;
        let (of_host, of_handler) = (resident(host.program.id()), resident(host.handler));
        println!("{orders:>10}{of_host:>12.1}{of_handler:>13.1}");
        seen.push((of_host, of_handler));
    }
    let growth = |first: f64, last: f64| (last / first - 1.0) * 100.0;
    let [first, last] = seen[..] else { return Ok(()) };
    println!("{:>10}{:>11.1}%{:>12.1}%   (target: <= 10 %)", "growth", growth(first.0, last.0), growth(first.1, last.1));
    Ok(())
}

/// Rounds without and with waiters, in the order A B, B A, each with a new data directory.
async fn beside_waiters(arguments: &Arguments, count: usize) -> Result<(), Failure> {
    let mut ratios = Vec::new();
    for round in 0..arguments.rounds {
        let mut rates = [f64::NAN; 2];
        for waiting in if round % 2 == 0 { [false, true] } else { [true, false] } {
            let host = Host::start(arguments).await?;
            let mut waiters = if waiting { wait_for_one(&host, count).await? } else { JoinSet::new() };
            drive(&host.authority, WARM_UP).await?;
            let driven = drive(&host.authority, arguments.n).await?;
            println!("{} connections wait:", waiters.len());
            driven.print();
            if let Some(ended) = waiters.try_join_next() {
                ended??;
            }
            if driven.completed() != arguments.n {
                return Err("not every order was completed".into());
            }
            rates[usize::from(waiting)] = driven.completed_rate();
        }
        ratios.push(rates[1] / rates[0]);
        println!("completed/s with waiters, to without: {:.2}x", rates[1] / rates[0]);
    }
    println!("median {:.2}x (target: >= 0.9x)", median(ratios));
    Ok(())
}

/// Connections that wait, until they are dropped, for an order whose message was never sent. A connection whose wait is answered early
/// ends with an error.
async fn wait_for_one(host: &Host, count: usize) -> Result<JoinSet<Result<(), Failure>>, Failure> {
    let mut handler = Connection::open(&host.handler_authority().await?).await?;
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    let body = order(&Uuid::new_v4().to_string());
    let envelope = envelope(&host.authority, "OrderIngress", "/api/orders", headers, Some(&body), &Vec::new());
    let (_, answer) = handler.post("/OrderIngress", Payload::chunked(envelope)).await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    let accepted: Value = serde_json::from_str(answer["Outputs"]["res"]["body"].as_str().ok_or("an order was not accepted")?)?;
    let path = format!("/api/orders/{}/status", accepted["trackingId"].as_str().ok_or("an order was not accepted")?);
    let mut waiters = JoinSet::new();
    for _ in 0..count {
        let (mut connection, path) = (Connection::open(&host.authority).await?, path.clone());
        waiters.spawn(async move {
            loop {
                let started = Instant::now();
                let (status, _) = connection.get_waiting(&path, WAIT).await?;
                if status != StatusCode::OK || started.elapsed() < Duration::from_secs(WAIT) {
                    return Err(format!("a waiter was answered {status} after {:?}", started.elapsed()).into());
                }
            }
        });
    }
    Ok(waiters)
}

/// Submits orders, and follows each accepted one to its end while others are still being submitted.
async fn drive(authority: &str, count: usize) -> Result<Driven, Failure> {
    let orders = Arc::new(Mutex::new(Orders::new(count)));
    let run = Uuid::new_v4().simple().to_string();
    let mut connections = Vec::new();
    for _ in 0..SUBMITTERS + FOLLOWERS {
        connections.push(Connection::open(authority).await?);
    }
    let started = (Instant::now(), jiff::Timestamp::now());
    let deadline = started.0 + TIMEOUT + TIMEOUT * u32::try_from(count)? / (60 * SLOWEST);
    let mut tasks = JoinSet::new();
    for (number, mut connection) in connections.into_iter().enumerate() {
        let (orders, run) = (Arc::clone(&orders), run.clone());
        tasks.spawn(async move {
            if number < SUBMITTERS {
                submit(&mut connection, &orders, &run, deadline).await?;
            }
            follow(&mut connection, &orders, deadline).await
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    let orders = std::mem::take(&mut *orders.lock());
    Ok(Driven { started, orders })
}

async fn submit(connection: &mut Connection, orders: &Mutex<Orders>, run: &str, deadline: Instant) -> Result<(), Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Accepted {
        tracking_id: String,
    }
    while Instant::now() < deadline {
        let Some(number) = orders.lock().next_number() else { return Ok(()) };
        let body = Payload::sized(order(&format!("{run}-{number}")));
        let sent = Instant::now();
        let (status, answer) = connection.post("/api/orders", body).await?;
        let took = sent.elapsed();
        let accepted = if status == StatusCode::ACCEPTED { Some(serde_json::from_slice::<Accepted>(&answer)?.tracking_id) } else { None };
        orders.lock().submitted(status, accepted, took);
    }
    Ok(())
}

async fn follow(connection: &mut Connection, orders: &Mutex<Orders>, deadline: Instant) -> Result<(), Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shown<'a> {
        status: &'a str,
        #[serde(borrow, default)]
        completed_at: Option<&'a str>,
        #[serde(borrow, default)]
        history: Vec<Step<'a>>,
    }
    #[derive(Deserialize)]
    struct Step<'a> {
        event: &'a str,
    }
    while Instant::now() < deadline {
        let next = orders.lock().next_to_ask(Instant::now());
        let tracking_id = match next {
            Next::Ask(tracking_id) => tracking_id,
            Next::Wait(until) => {
                tokio::time::sleep_until(until.into()).await;
                continue;
            }
            Next::Nothing => return Ok(()),
        };
        let (status, answer) = connection.get(&format!("/api/orders/{tracking_id}/status")).await?;
        if status != StatusCode::OK {
            orders.lock().ended(&format!("HTTP {}", status.as_u16()), None);
            continue;
        }
        let shown: Shown<'_> = serde_json::from_slice(&answer)?;
        if matches!(shown.status, "completed" | "failed" | "cancelled") {
            let events: Vec<&str> = shown.history.iter().map(|step| step.event).collect();
            // A server without a history is not checked.
            let once = events.is_empty() || events == ["accepted", "claimed", shown.status];
            let how = if once { shown.status.to_owned() } else { format!("{}, by {events:?}", shown.status) };
            orders.lock().ended(&how, shown.completed_at);
        } else {
            orders.lock().not_yet(tracking_id);
        }
    }
    Ok(())
}

/// The orders of one run, and their outcomes.
#[derive(Default)]
struct Orders {
    unsent: usize,
    sent: usize,
    unanswered: usize,
    /// Accepted orders whose status has not been read.
    accepted: VecDeque<String>,
    /// Orders that had not ended, and when to read their status again.
    waiting: VecDeque<(Instant, String)>,
    latencies: Vec<Duration>,
    refused: BTreeMap<u16, usize>,
    ends: BTreeMap<String, usize>,
    last_accepted: Option<Instant>,
    last_ended: Option<Instant>,
    /// The latest `completedAt`, by the server's clock.
    last_completed_at: Option<jiff::Timestamp>,
}

enum Next {
    Ask(String),
    Wait(Instant),
    Nothing,
}

impl Orders {
    fn new(count: usize) -> Self {
        Self { unsent: count, latencies: Vec::with_capacity(count), ..Self::default() }
    }

    fn next_number(&mut self) -> Option<usize> {
        self.unsent = self.unsent.checked_sub(1)?;
        self.unanswered += 1;
        self.sent += 1;
        Some(self.sent)
    }

    fn submitted(&mut self, status: StatusCode, accepted: Option<String>, took: Duration) {
        self.unanswered -= 1;
        match accepted {
            Some(tracking_id) => {
                self.latencies.push(took);
                self.accepted.push_back(tracking_id);
                self.last_accepted = Some(Instant::now());
            }
            None => *self.refused.entry(status.as_u16()).or_default() += 1,
        }
    }

    fn next_to_ask(&mut self, now: Instant) -> Next {
        if let Some((_, tracking_id)) = self.waiting.pop_front_if(|(due, _)| *due <= now) {
            return Next::Ask(tracking_id);
        }
        if self.waiting.len() < WINDOW
            && let Some(tracking_id) = self.accepted.pop_front()
        {
            return Next::Ask(tracking_id);
        }
        match self.waiting.front() {
            Some((due, _)) => Next::Wait((*due).min(now + LOOK_AGAIN)),
            None if self.unsent + self.unanswered > 0 => Next::Wait(now + LOOK_AGAIN),
            None => Next::Nothing,
        }
    }

    fn not_yet(&mut self, tracking_id: String) {
        self.waiting.push_back((Instant::now() + ASK_AGAIN, tracking_id));
    }

    fn ended(&mut self, how: &str, completed_at: Option<&str>) {
        *self.ends.entry(how.to_owned()).or_default() += 1;
        self.last_ended = Some(Instant::now());
        self.last_completed_at = self.last_completed_at.max(completed_at.and_then(|text| text.parse().ok()));
    }
}

/// The result of a run.
struct Driven {
    started: (Instant, jiff::Timestamp),
    orders: Orders,
}

impl Driven {
    fn accepted(&self) -> usize {
        self.orders.latencies.len()
    }

    fn completed(&self) -> usize {
        self.orders.ends.get("completed").copied().unwrap_or_default()
    }

    fn rate(&self, count: usize, until: Option<Instant>) -> f64 {
        until.map_or(f64::NAN, |until| ratio(count, 1) / until.duration_since(self.started.0).as_secs_f64())
    }

    fn completed_rate(&self) -> f64 {
        self.rate(self.completed(), self.orders.last_ended)
    }

    fn print(&self) {
        let orders = &self.orders;
        let latencies = orders.latencies.iter().copied().map(milliseconds);
        println!(
            "accepted/s {:>6.0}   completed/s {:>6.0}   POST p50 {:>6.2} ms  p99 {:>6.2} ms",
            self.rate(self.accepted(), orders.last_accepted),
            self.completed_rate(),
            quantile(latencies.clone(), 0.5),
            quantile(latencies, 0.99)
        );
        // The difference between the two rates is due to polling.
        let by_server = orders.last_completed_at.map(|last| last.duration_since(self.started.1).as_secs_f64());
        println!(
            "  {} accepted, refused {:?}, ends {:?}, without an end {}; completed/s by the records' own completedAt {:.0}",
            self.accepted(),
            orders.refused,
            orders.ends,
            self.accepted() - orders.ends.values().sum::<usize>(),
            by_server.map_or(f64::NAN, |seconds| ratio(self.completed(), 1) / seconds)
        );
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of things that were measured")]
fn ratio(count: usize, to: u64) -> f64 {
    count as f64 / to as f64
}

/// `waybill local` on the repository's app, with a data directory of its own.
struct Host {
    authority: String,
    handler: u32,
    handler_started: Started,
    // Dropped before its directory.
    program: Program,
    directory: Directory,
}

impl Host {
    async fn start(arguments: &Arguments) -> Result<Self, Failure> {
        let directory = Directory::new(arguments.dir.as_deref())?;
        let port = free_port()?;
        let (data, port_text) = (directory.path().to_string_lossy().into_owned(), port.to_string());
        let options = ["local", "--app", env!("CARGO_MANIFEST_DIR"), "--data", &data, "--port", &port_text];
        let mut settings = Vec::new();
        for name in COSMOS.into_iter().filter(|_| arguments.cosmos) {
            let value = std::env::var(name)
                .map_err(|_| format!("{name} is not set: export what `cargo run --release -p cosmos-emulator` prints"))?;
            settings.push((name, value));
        }
        if let Some(waiters) = arguments.waiters {
            // Half of the connections may wait, and one caller gets half of these places.
            settings.push(("MAX_CONNECTIONS", (8 * waiters).max(2_000).to_string()));
        }
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let program = Program::start(Path::new(env!("CARGO_BIN_EXE_waybill")), &options, &settings)?;
        let mut host = Self { authority: format!("127.0.0.1:{port}"), handler: 0, handler_started: Started::Unknown, program, directory };
        host.program.accepts(port).await?;
        tokio::time::timeout(TIMEOUT, host.ready()).await??;
        if arguments.cosmos {
            tokio::time::timeout(TIMEOUT, host.store_ready()).await??;
        }
        Ok(host)
    }

    /// Waits for the handler, and reads its process id from the host's `handler.json`.
    async fn ready(&mut self) -> Result<(), Failure> {
        let mut connection = Connection::open(&self.authority).await?;
        loop {
            let (_, status) = connection.get("/admin/host/status").await?;
            if serde_json::from_slice::<Value>(&status)?["state"] == "Running" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let record: Value = serde_json::from_slice(&std::fs::read(self.directory.path().join("handler.json"))?)?;
        self.handler =
            record["process"].as_u64().and_then(|process| u32::try_from(process).ok()).ok_or("handler.json has no process id")?;
        self.handler_started = serving::process::started(self.handler);
        Ok(())
    }

    /// Waits until the handler's store is open.
    async fn store_ready(&self) -> Result<(), Failure> {
        let mut handler = Connection::open(&self.handler_authority().await?).await?;
        while handler.get("/readyz").await?.0 != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn handler_authority(&self) -> Result<String, Failure> {
        let (_, status) = Connection::open(&self.authority).await?.get("/admin/host/status").await?;
        Ok(format!("127.0.0.1:{}", serde_json::from_slice::<Value>(&status)?["handlerPort"]))
    }

    async fn figures(&self) -> Result<Figures, Failure> {
        let (_, host) = Connection::open(&self.authority).await?.get("/admin/host/status").await?;
        let (_, handler) = Connection::open(&self.handler_authority().await?).await?.get("/readyz").await?;
        let (host, handler): (Value, Value) = (serde_json::from_slice(&host)?, serde_json::from_slice(&handler)?);
        Ok(Figures { queue: host["serviceBus"].clone(), records: handler["store"].clone() })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // On Linux the handler ends with its host; elsewhere it is ended here, if the id still belongs to the same process.
        let handler = self.handler.to_string();
        if matches!(self.handler_started, Started::At(_)) && serving::process::started(self.handler) == self.handler_started {
            drop(Command::new("kill").args(["-KILL", &handler]).stderr(Stdio::null()).status());
        }
    }
}

/// The figures of the queue and the store.
struct Figures {
    queue: Value,
    records: Value,
}

impl Figures {
    fn print(&self, before: &Self, orders: usize) {
        print_grouping("queue", &self.queue, &before.queue, orders);
        match self.records["operations"].as_object() {
            Some(operations) => print_charges(operations, &before.records["operations"], orders),
            None => print_grouping("records", &self.records, &before.records, orders),
        }
    }
}

fn print_grouping(name: &str, now: &Value, before: &Value, orders: usize) {
    let more = |what: &str| now[what].as_u64().unwrap_or_default() - before[what].as_u64().unwrap_or_default();
    let (writes, commits, synced) = (more("writes"), more("commits"), more("synced"));
    println!("  {name:<8} {writes} writes in {commits} commits, {synced} of them synced: {:.1} orders per fsync", ratio(orders, synced));
}

/// Prints the request units that the answers reported. The status reads that follow orders are included.
fn print_charges(now: &serde_json::Map<String, Value>, before: &Value, orders: usize) {
    println!("  {:<10}{:>10}{:>12}{:>10}{:>14}{:>14}", "operation", "calls", "requests", "failed", "RU an order", "RU a call");
    for (operation, figures) in now {
        let more = |what: &str| figures[what].as_f64().unwrap_or_default() - before[operation][what].as_f64().unwrap_or_default();
        let (calls, charge) = (more("calls"), more("requestCharge"));
        if calls == 0.0 {
            continue;
        }
        println!(
            "  {operation:<10}{calls:>10}{:>12}{:>10}{:>14.2}{:>14.2}",
            more("requests"),
            more("failed"),
            charge * ratio(1, orders as u64),
            charge / calls
        );
    }
}

/// Reads the status of one ended order alternately through the host and from the handler, so that a busy machine slows both equally.
async fn added_latency(host: &Host) -> Result<(), Failure> {
    let mut through_host = Connection::open(&host.authority).await?;
    let mut direct = Connection::open(&host.handler_authority().await?).await?;
    let body = Payload::sized(order(&Uuid::new_v4().to_string()));
    let (_, accepted) = through_host.post("/api/orders", body).await?;
    let accepted: Value = serde_json::from_slice(&accepted)?;
    let tracking_id = accepted["trackingId"].as_str().ok_or("an order was not accepted")?;
    let path = format!("/api/orders/{tracking_id}/status");
    let end = Instant::now() + TIMEOUT;
    while serde_json::from_slice::<Value>(&through_host.get(&path).await?.1)?["status"] != "completed" {
        if Instant::now() > end {
            return Err("an order was not completed".into());
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }

    let params = vec![("trackingId".to_owned(), Some(tracking_id.to_owned()))];
    let envelope = envelope(&host.authority, "OrderStatus", &path, HeaderMap::new(), None, &params);
    let mut latencies = (Vec::new(), Vec::new());
    for number in 0..READS_WARM_UP + READS {
        let started = Instant::now();
        let (from_host, _) = through_host.get(&path).await?;
        let middle = Instant::now();
        let (from_handler, _) = direct.post("/OrderStatus", Payload::chunked(envelope.clone())).await?;
        let ended = Instant::now();
        if (from_host, from_handler) != (StatusCode::OK, StatusCode::OK) {
            return Err(format!("a status was not read: {from_host} from the host, {from_handler} from the handler").into());
        }
        if number >= READS_WARM_UP {
            latencies.0.push(milliseconds(middle - started));
            latencies.1.push(milliseconds(ended - middle));
        }
    }
    let (through_host, direct) = (median(latencies.0), median(latencies.1));
    println!(
        "  status p50 through the host {through_host:.3} ms, from the handler {direct:.3} ms: the host adds {:.3} ms (target: <= 0.3 ms)",
        through_host - direct
    );
    Ok(())
}

/// The host's envelope of a client's request to a function.
fn envelope(
    authority: &str,
    function: &str,
    path: &str,
    mut headers: HeaderMap,
    body: Option<&str>,
    params: &Vec<(String, Option<String>)>,
) -> Bytes {
    if let Ok(host) = HeaderValue::from_str(authority) {
        headers.insert("host", host);
    }
    let request = invocation::Request {
        binding: "req",
        url: &format!("http://{authority}{path}"),
        method: if body.is_some() { "POST" } else { "GET" },
        query: None,
        headers: &headers,
        names: &[],
        params,
        body: body.map(str::as_bytes),
        identity: Identity::LocalAdmin,
    };
    invocation::http(&request, &Sys { method_name: function, utc_now: jiff::Timestamp::now(), rand_guid: Uuid::new_v4() }).into()
}
