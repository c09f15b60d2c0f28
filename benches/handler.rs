//! The handler compared with a bare hyper server that does the same parsing, validating, storing and serialising; and with itself, when a
//! schema checks its orders, or when a collector gets its telemetry.
//!
//! `cargo bench --bench handler`; `-- --help` for options. See `benches/README.md`.

#![expect(unreachable_pub, dead_code, reason = "helpers are public to the modules of this binary, and not all are used by each")]

#[path = "support/client.rs"]
mod client;
#[path = "support/process.rs"]
mod process;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use functions_host::handler::free_port;
use functions_host::trigger::http::route::Params;
use functions_host::wire::invocation::{self, Identity, Sys};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use serving::stop::StopSignals;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use uuid::Uuid;
use waybill::config::{self, Config, LogConfig, Records};
use waybill::functions::app::App;
use waybill::functions::invocation::{Invocation, InvocationBody};
use waybill::functions::{order_ingress, order_processor, order_status};
use waybill::store::StatusStore;
use waybill::store::sqlite::SqliteStore;

use crate::client::{Connection, Failure, Payload, median, milliseconds, order, quantile};
use crate::process::{Directory, Program, resident};

/// The same allocator on both sides.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Load before each measurement, so that connections, caches and files are warm.
const WARM_UP: Duration = Duration::from_millis(300);
/// Number of timed starts.
const STARTS: usize = 10;
/// Pause between two attempts to connect: short against milliseconds, long enough to leave the program a processor.
const CONNECT_PAUSE: Duration = Duration::from_micros(100);
/// Time after which a start has failed.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// A schema of forty properties, as a path below the folder in which benchmarks are run.
const SCHEMA: &str = "benches/support/shipment.schema.json";
/// An order that it lets pass.
const SHIPMENT: &str = include_str!("support/shipment.json");
/// Placeholder for the order id in a prepared invocation; all ids have its length.
const PLACEHOLDER: &str = "ORDER-ID-000000000000";

/// The handler compared with a bare hyper server that does the same work.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch on the command line")]
struct Arguments {
    /// Number of pairs of rounds.
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Seconds of load for each function in each round.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Number of keep-alive connections.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Send invocations with a Content-Length, as `func start` does, instead of chunked, as Azure does.
    #[arg(long)]
    content_length: bool,
    /// Let the bare server also write the handler's log line for each invocation.
    #[arg(long)]
    same_log: bool,
    /// Compare orders that a schema of forty properties checks with the same orders under no schema, in `OrderIngress` alone.
    #[arg(long)]
    schema: bool,
    /// Compare the handler that sends traces, log records and metrics to a collector, one trace in ten, with one that sends nothing.
    #[arg(long, conflicts_with = "schema")]
    telemetry: bool,
    /// Where data directories are made [default: Cargo's target directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Run as the bare server.
    #[arg(long, hide = true)]
    bare: bool,
    /// Passed by Cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = if arguments.bare { bare(arguments.same_log) } else { measure(&arguments) };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("handler: {failure}");
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
    let syncs = Directory::new(arguments.dir.as_deref())?.syncs_per_second()?;
    println!("disk: {syncs:.0} fdatasync/s, one after the other; stdout of both servers: /dev/null, logging as by default");
    println!(
        "{} connections, invocations {}, {} pairs of rounds of {} s, a new data directory for each round\n",
        arguments.connections,
        if arguments.content_length { "with a Content-Length" } else { "chunked" },
        arguments.rounds,
        arguments.seconds
    );

    println!(
        "{:<6}{:<13}{:<9}{:>9}{:>10}{:>10}{:>12}{:>8}",
        "round", "function", "server", "req/s", "p50 ms", "p99 ms", "cpu us/req", "errors"
    );
    if arguments.schema {
        return with_schema(arguments).await;
    }
    if arguments.telemetry {
        return with_telemetry(arguments).await;
    }
    let pairs = by_turns(arguments, [Side::Waybill, Side::Bare], async |side, round| play(arguments, side, round).await).await?;
    println!("\nwaybill to bare, median of pairs (targets: req/s >= 0.90, p99 <= 1.20)");
    summary("OrderIngress", &pairs.iter().map(|[waybill, bare]| (&waybill.ingress, &bare.ingress)));
    summary("OrderStatus", &pairs.iter().map(|[waybill, bare]| (&waybill.status, &bare.status)));

    println!("\nstart to accepting: from the spawn to an answered GET /, median of {STARTS} (target: <= 10 ms)");
    let directory = Directory::new(arguments.dir.as_deref())?;
    let mut fresh = Vec::new();
    for number in 0..STARTS {
        fresh.push(start_time(&directory.path().join(number.to_string()))?);
    }
    let existing = directory.path().join("0");
    let again = (0..STARTS).map(|_| start_time(&existing)).collect::<Result<Vec<_>, _>>()?;
    for (name, times) in [("a new data directory", fresh), ("an existing one", again)] {
        println!("  {name:<22}{:>7.1} ms   slowest {:>6.1} ms", median(times.iter().copied()), quantile(times, 1.0));
    }

    let running = Running::start(Side::Waybill, arguments).await?;
    let after_start = resident(running.program.id());
    running.finished_order().await?;
    println!("\nresident memory (target: <= 12 MiB)");
    println!("  after start           {after_start:>7.1} MiB");
    println!("  after one order       {:>7.1} MiB", resident(running.program.id()));
    Ok(())
}

/// Pairs of rounds of two sides, A B, B A, A B: neither side is always first.
async fn by_turns<T>(
    arguments: &Arguments,
    [first, second]: [Side; 2],
    play: impl AsyncFn(Side, usize) -> Result<T, Failure>,
) -> Result<Vec<[T; 2]>, Failure> {
    let mut pairs = Vec::new();
    for round in 0..arguments.rounds {
        pairs.push(if round % 2 == 0 {
            let figures = play(first, round).await?;
            [figures, play(second, round).await?]
        } else {
            let figures = play(second, round).await?;
            [play(first, round).await?, figures]
        });
    }
    Ok(pairs)
}

/// Orders under a schema, and the same orders under none.
async fn with_schema(arguments: &Arguments) -> Result<(), Failure> {
    let play = async |side, round| ingress(&Running::start(side, arguments).await?, SHIPMENT, arguments, (side, round)).await;
    let pairs = by_turns(arguments, [Side::Schema, Side::NoSchema], play).await?;
    println!("\nschema to none, median of pairs (target: req/s >= 0.85)");
    summary("OrderIngress", &pairs.iter().map(|[schema, none]| (schema, none)));
    Ok(())
}

/// The handler with a collector, and without.
async fn with_telemetry(arguments: &Arguments) -> Result<(), Failure> {
    let pairs = by_turns(arguments, [Side::Telemetry, Side::Waybill], async |side, round| play(arguments, side, round).await).await?;
    println!("\ntelemetry to none, median of pairs (target: req/s >= 0.95)");
    summary("OrderIngress", &pairs.iter().map(|[telemetry, none]| (&telemetry.ingress, &none.ingress)));
    summary("OrderStatus", &pairs.iter().map(|[telemetry, none]| (&telemetry.status, &none.status)));
    Ok(())
}

/// A collector that takes what it is sent, and reads none of it.
struct Collector {
    address: SocketAddr,
    exports: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Collector {
    async fn start() -> Result<Self, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, exports) = (listener.local_addr()?, Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&exports);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                let service = service_fn(move |request: Request<Incoming>| {
                    count.fetch_add(1, Ordering::Relaxed);
                    async move { request.into_body().collect().await.map(|_| Response::new(Full::<Bytes>::default())) }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(Self { address, exports, accepting })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Waybill,
    Bare,
    /// The handler, with orders of its own under a schema.
    Schema,
    /// The same without the schema.
    NoSchema,
    /// The handler, with a collector.
    Telemetry,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Waybill => "waybill",
            Self::Bare => "bare",
            Self::Schema => "schema",
            Self::NoSchema => "none",
            Self::Telemetry => "telemetry",
        }
    }

    fn settings(self) -> &'static [(&'static str, &'static str)] {
        // Nothing is processed here, so the work is never called.
        const WORK: (&str, &str) = ("FULFILLMENT_URL", "http://127.0.0.1:9/work");
        match self {
            Self::Waybill | Self::Bare => &[],
            Self::Schema => &[WORK, ("ORDER_SCHEMA", SCHEMA)],
            Self::NoSchema => &[WORK],
            Self::Telemetry => &[("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.1")],
        }
    }
}

/// One server's figures in one round.
struct Round {
    ingress: Figures,
    status: Figures,
}

/// One function's figures in one round.
struct Figures {
    requests_per_second: f64,
    p50: f64,
    p99: f64,
    /// The server's processor time per request, in microseconds.
    processor: f64,
}

fn summary<'a>(function: &str, pairs: &(impl Iterator<Item = (&'a Figures, &'a Figures)> + Clone)) {
    let ratio = |figure: fn(&Figures) -> f64| median(pairs.clone().map(|(waybill, bare)| figure(waybill) / figure(bare)));
    println!(
        "  {function:<13} req/s {:.2}x   p50 {:.2}x   p99 {:.2}x   processor time {:.2}x",
        ratio(|figures| figures.requests_per_second),
        ratio(|figures| figures.p50),
        ratio(|figures| figures.p99),
        ratio(|figures| figures.processor),
    );
}

async fn play(arguments: &Arguments, side: Side, round: usize) -> Result<Round, Failure> {
    let running = Running::start(side, arguments).await?;
    let tracking_id = running.finished_order().await?;
    let duration = Duration::from_secs_f64(arguments.seconds);
    let ingress = ingress(&running, &order(PLACEHOLDER), arguments, (side, round)).await?;

    let envelope = Bytes::from(status_envelope(&tracking_id));
    let status = Load { running: &running, arguments, path: "/OrderStatus", expected: "\"statusCode\":200" };
    let status = status.run(Arc::new(move || envelope.clone()), duration, (side, round)).await?;
    if running.collector.as_ref().is_some_and(|collector| collector.exports.load(Ordering::Relaxed) == 0) {
        return Err("the collector got nothing".into());
    }
    Ok(Round { ingress, status })
}

/// Each order a new one.
async fn ingress(running: &Running, order: &str, arguments: &Arguments, of: (Side, usize)) -> Result<Figures, Failure> {
    let order = Template::new(ingress_envelope(order));
    let next = AtomicU64::new(1);
    let ingress = Load { running, arguments, path: "/OrderIngress", expected: "\"statusCode\":202" };
    let duration = Duration::from_secs_f64(arguments.seconds);
    ingress.run(Arc::new(move || order.fill(next.fetch_add(1, Ordering::Relaxed))), duration, of).await
}

/// A server with a data directory of its own.
struct Running {
    // Dropped before its directory.
    program: Program,
    port: u16,
    _directory: Directory,
    collector: Option<Collector>,
}

impl Running {
    async fn start(side: Side, arguments: &Arguments) -> Result<Self, Failure> {
        let directory = Directory::new(arguments.dir.as_deref())?;
        let port = free_port()?;
        let (program, mut options) = match side {
            Side::Waybill | Side::Schema | Side::NoSchema | Side::Telemetry => {
                (PathBuf::from(env!("CARGO_BIN_EXE_waybill")), vec!["serve"])
            }
            Side::Bare => (std::env::current_exe()?, vec!["--bare"]),
        };
        if side == Side::Bare && arguments.same_log {
            options.push("--same-log");
        }
        let collector = if side == Side::Telemetry { Some(Collector::start().await?) } else { None };
        let endpoint = collector.as_ref().map(|collector| format!("http://{}", collector.address));
        let mut settings = side.settings().to_vec();
        settings.extend(endpoint.as_deref().map(|endpoint| ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)));
        let mut program = start(&program, &options, port, directory.path(), &settings)?;
        program.accepts(port).await?;
        let running = Self { program, port, _directory: directory, collector };
        let mut connection = running.connect().await?;
        let ready = async {
            while connection.get("/readyz").await?.0 != StatusCode::OK {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok::<_, Failure>(())
        };
        tokio::time::timeout(START_TIMEOUT, ready).await??;
        Ok(running)
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        Connection::open(&format!("127.0.0.1:{}", self.port)).await
    }

    /// Submits and processes an order; returns its tracking id.
    async fn finished_order(&self) -> Result<String, Failure> {
        let mut connection = self.connect().await?;
        let (_, answer) = connection.post("/OrderIngress", Payload::chunked(ingress_envelope(&order("FINISHED")))).await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        let message = answer["Outputs"]["orderMessage"][0].as_str().ok_or("the answer to an order has no message")?;
        // The host encodes the text twice.
        let text = Value::from(message).to_string();
        let envelope = json!({ "Data": { "orderMessage": text }, "Metadata": { "DeliveryCount": "1" } });
        let (status, _) = connection.post("/OrderProcessor", Payload::chunked(envelope.to_string())).await?;
        let body: Value = serde_json::from_str(answer["Outputs"]["res"]["body"].as_str().unwrap_or_default())?;
        match body["trackingId"].as_str() {
            Some(tracking_id) if status == StatusCode::OK => Ok(tracking_id.to_owned()),
            _ => Err(format!("an order was not finished: {status}, {body}").into()),
        }
    }
}

fn start(program: &Path, options: &[&str], port: u16, data: &Path, settings: &[(&str, &str)]) -> std::io::Result<Program> {
    let (port, data) = (port.to_string(), data.to_string_lossy());
    let ours = [("FUNCTIONS_CUSTOMHANDLER_PORT", &*port), ("WAYBILL_DATA", &*data), ("RATE_LIMIT", "0")];
    let environment = [&ours, settings].concat();
    Program::start(program, options, &environment)
}

struct Load<'a> {
    running: &'a Running,
    arguments: &'a Arguments,
    path: &'static str,
    /// Text in every correct answer.
    expected: &'static str,
}

impl Load<'_> {
    async fn run(
        &self,
        make: Arc<impl Fn() -> Bytes + Send + Sync + 'static>,
        duration: Duration,
        (side, round): (Side, usize),
    ) -> Result<Figures, Failure> {
        self.drive(&make, WARM_UP).await?;
        let process = self.running.program.id();
        let before = processor_time(process);
        let (took, latencies, errors) = self.drive(&make, duration).await?;
        let processor = processor_time(process).saturating_sub(before);
        #[expect(clippy::cast_precision_loss, reason = "far fewer requests than that")]
        let count = latencies.len() as f64;
        let latencies = latencies.into_iter().map(milliseconds);
        let figures = Figures {
            requests_per_second: count / took.as_secs_f64(),
            p50: quantile(latencies.clone(), 0.5),
            p99: quantile(latencies, 0.99),
            processor: processor.as_secs_f64() * 1e6 / count,
        };
        println!(
            "{:<6}{:<13}{:<9}{:>9.0}{:>10.2}{:>10.2}{:>12.1}{errors:>8}",
            round + 1,
            self.path.trim_start_matches('/'),
            side.name(),
            figures.requests_per_second,
            figures.p50,
            figures.p99,
            figures.processor
        );
        Ok(figures)
    }

    async fn drive(
        &self,
        make: &Arc<impl Fn() -> Bytes + Send + Sync + 'static>,
        duration: Duration,
    ) -> Result<(Duration, Vec<Duration>, usize), Failure> {
        let mut connections = Vec::new();
        for _ in 0..self.arguments.connections {
            connections.push(self.running.connect().await?);
        }
        let frame = if self.arguments.content_length { Payload::sized } else { Payload::chunked };
        let mut tasks = JoinSet::new();
        let started = Instant::now();
        for mut connection in connections {
            let (make, path, expected) = (Arc::clone(make), self.path, self.expected.as_bytes());
            tasks.spawn(async move {
                let (mut latencies, mut errors) = (Vec::new(), 0);
                while started.elapsed() < duration {
                    let body = frame(make());
                    let sent = Instant::now();
                    let (status, answer) = connection.post(path, body).await?;
                    if status == StatusCode::OK && answer.windows(expected.len()).any(|part| part == expected) {
                        latencies.push(sent.elapsed());
                    } else {
                        errors += 1;
                    }
                }
                Ok::<_, Failure>((latencies, errors))
            });
        }
        let (mut latencies, mut errors) = (Vec::new(), 0);
        while let Some(task) = tasks.join_next().await {
            let (more, failed) = task??;
            latencies.extend(more);
            errors += failed;
        }
        Ok((started.elapsed(), latencies, errors))
    }
}

/// An invocation with a placeholder for the order id.
struct Template {
    bytes: Vec<u8>,
    places: Vec<usize>,
}

impl Template {
    fn new(bytes: Vec<u8>) -> Self {
        let placeholder = PLACEHOLDER.as_bytes();
        let places =
            bytes.windows(placeholder.len()).enumerate().filter(|(_, part)| *part == placeholder).map(|(place, _)| place).collect();
        Self { bytes, places }
    }

    fn fill(&self, number: u64) -> Bytes {
        let mut bytes = self.bytes.clone();
        let id = format!("ORDER-ID-{number:012}");
        for &place in &self.places {
            bytes[place..place + id.len()].copy_from_slice(id.as_bytes());
        }
        bytes.into()
    }
}

fn ingress_envelope(order: &str) -> Vec<u8> {
    envelope("OrderIngress", "POST", "http://localhost:7071/api/orders", &Params::new(), Some(order))
}

fn status_envelope(tracking_id: &str) -> Vec<u8> {
    let url = format!("http://localhost:7071/api/orders/{tracking_id}/status");
    envelope("OrderStatus", "GET", &url, &vec![("trackingId".to_owned(), Some(tracking_id.to_owned()))], None)
}

/// The host's envelope of a client's request.
fn envelope(function: &str, method: &str, url: &str, params: &Params, body: Option<&str>) -> Vec<u8> {
    let mut headers = HeaderMap::new();
    headers.insert("accept", HeaderValue::from_static("*/*"));
    headers.insert("host", HeaderValue::from_static("localhost:7071"));
    headers.insert("user-agent", HeaderValue::from_static("curl/8.14.1"));
    if let Some(body) = body {
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        headers.insert("content-length", HeaderValue::from(body.len()));
    }
    let identity = Identity::LocalAdmin;
    let request = invocation::Request {
        binding: "req",
        url,
        method,
        query: None,
        headers: &headers,
        names: &[],
        params,
        body: body.map(str::as_bytes),
        identity,
    };
    invocation::http(&request, &Sys { method_name: function, utc_now: jiff::Timestamp::now(), rand_guid: Uuid::new_v4() })
}

/// Milliseconds from the spawn of the handler to its first answer.
fn start_time(data: &Path) -> Result<f64, Failure> {
    let port = free_port()?;
    let started = Instant::now();
    let _program = start(Path::new(env!("CARGO_BIN_EXE_waybill")), &["serve"], port, data, &[])?;
    loop {
        if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            stream.set_read_timeout(Some(START_TIMEOUT))?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
            let mut answer = [0; 256];
            let length = stream.read(&mut answer)?;
            let took = started.elapsed();
            if !answer[..length].starts_with(b"HTTP/1.1 200 ") {
                return Err("the handler does not answer its probe".into());
            }
            // The store is still being opened; a handler that is ended before that would slow the next start.
            std::thread::sleep(Duration::from_millis(100));
            return Ok(milliseconds(took));
        }
        if started.elapsed() > START_TIMEOUT {
            return Err("the handler does not start".into());
        }
        std::thread::sleep(CONNECT_PAUSE);
    }
}

/// The processor time that a process has used, in steps of 10 ms.
fn processor_time(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything; user and system time are fields 14 and 15 (proc_pid_stat(5)).
    let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// A plain hyper accept loop over the functions: no warp, no graceful shutdown, no limits, no panic guard.
fn bare(same_log: bool) -> Result<(), Failure> {
    let environment = config::environment().map_err(|problems| problems.join("; "))?;
    let config = Config::read(&environment).map_err(|problems| problems.join("; "))?;
    let log = LogConfig::read(&environment);
    let _output = serving::log::start(&log.levels, serving::log::Form::Text, None);
    let Records::Embedded(data, key) = &config.storage.records else { return Err("this measures the embedded store".into()) };
    let store = SqliteStore::open(data, key.clone())?;
    let port = config.port;
    let app = App::new(config, None)?;
    drop(app.store.set(StatusStore::Sqlite(store)));
    let app = Arc::new(app);
    // As many threads as `waybill serve`.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let app = Arc::clone(&app);
            let service = service_fn(move |request| answer(Arc::clone(&app), request, same_log));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    })
}

async fn answer(app: Arc<App>, request: Request<Incoming>, same_log: bool) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let id = parts.headers.get("x-azure-functions-invocationid").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    let invocation =
        Invocation { id: id.clone(), traceparent: None, started, body: InvocationBody::Whole(body.collect().await?.to_bytes()) };
    let function = parts.uri.path().trim_start_matches('/');
    let conclusion = match function {
        "OrderIngress" => order_ingress::run(app, invocation).await,
        "OrderProcessor" => order_processor::run(app, invocation).await,
        "OrderStatus" => order_status::run(app, invocation).await,
        _ => return Ok(Response::new(Full::default())),
    };
    if same_log {
        conclusion.log(function, &id, started.elapsed());
    }
    let mut response = Response::new(Full::from(Bytes::new()));
    match conclusion.answer {
        Ok(answer) => *response.body_mut() = Full::from(answer.to_json()),
        Err(refusal) => *response.status_mut() = refusal.status,
    }
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
