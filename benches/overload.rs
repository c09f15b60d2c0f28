//! Overload by three times as many orders as the workers can do: how long accepted orders take, and how soon others are refused.
//!
//! `cargo bench --bench overload`; `-- --help` for options. First a load below the workers' capacity; then, without a pause, three
//! times the capacity. The work takes seconds, so that waiting for a worker dominates, not the speed of this machine.

#![expect(unreachable_pub, dead_code, reason = "helpers are public to the modules of this binary, and not all are used by each")]

#[path = "support/client.rs"]
mod client;
#[path = "support/process.rs"]
mod process;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use functions_host::handler::free_port;
use hyper::StatusCode;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::client::{Connection, Failure, Payload, milliseconds, order, quantile};
use crate::process::{Directory, Program};

/// Stages of the built-in work.
const STAGES: f64 = 4.0;
/// The normal load, as a share of the workers' capacity.
const NORMAL: f64 = 0.7;
/// Pause between two reads of a status.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Longest wait for the host to start, and for an order to end.
const TIMEOUT: Duration = Duration::from_mins(3);
/// Largest time to completion under overload, as a multiple of the normal one.
const TARGET: f64 = 1.5;

/// Overload: times to completion, and refusals.
#[derive(Debug, Parser)]
struct Arguments {
    /// Seconds of each load.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seconds of each of the four stages of the work.
    #[arg(long, default_value_t = 2.0)]
    delay: f64,
    /// Orders that are worked on at the same time, as set in `host.json`.
    #[arg(long, default_value_t = 32.0)]
    workers: f64,
    /// The overload, as a multiple of the workers' capacity.
    #[arg(long, default_value_t = 3.0)]
    overload: f64,
    /// Where data directories are made [default: Cargo's target directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Passed by Cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let measured = runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(measure(&Arguments::parse())));
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("overload: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: &Arguments) -> Result<(), Failure> {
    let capacity = arguments.workers / (STAGES * arguments.delay);
    println!("work of {} s, {} at a time: {capacity} orders/s", STAGES * arguments.delay, arguments.workers);
    let directory = Directory::new(arguments.dir.as_deref())?;
    let port = free_port()?;
    let mut program = start(arguments, directory.path(), port)?;
    program.accepts(port).await?;
    let authority = format!("127.0.0.1:{port}");
    is_ready(&authority).await?;
    let normal = offer(arguments, &authority, "normal", capacity * NORMAL).await?;
    let overload = offer(arguments, &authority, "overload", capacity * arguments.overload).await?;
    let (normal, overload) = (followed(normal).await?, followed(overload).await?);
    normal.print("normal");
    overload.print("overload");
    let slowest = overload.share(0.95) / normal.share(0.95);
    println!(
        "time to completion under overload, to normal: p50 {:.2}x, p95 {slowest:.2}x (target: <= {TARGET}x)",
        overload.share(0.5) / normal.share(0.5)
    );
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let used = overload.took.len() as f64 / (capacity * seconds(arguments));
    println!("accepted, to the workers' capacity: {used:.2}x");
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a few seconds")]
fn seconds(arguments: &Arguments) -> f64 {
    arguments.seconds as f64
}

/// The outcome of a load.
#[derive(Default)]
struct Outcome {
    /// Seconds from submission to end, of accepted orders.
    took: Vec<f64>,
    /// Milliseconds from request to answer, of refused orders.
    refused: Vec<f64>,
}

impl Outcome {
    fn share(&self, share: f64) -> f64 {
        quantile(self.took.iter().copied(), share)
    }

    fn print(&self, name: &str) {
        println!(
            "{name}: {} accepted, to completion p50 {:.2} s, p95 {:.2} s; {} refused, p50 {:.1} ms, p99 {:.1} ms",
            self.took.len(),
            self.share(0.5),
            self.share(0.95),
            self.refused.len(),
            quantile(self.refused.iter().copied(), 0.5),
            quantile(self.refused.iter().copied(), 0.99)
        );
    }
}

async fn is_ready(authority: &str) -> Result<(), Failure> {
    let started = Instant::now();
    while Connection::open(authority).await?.get("/admin/host/status").await?.0 != StatusCode::OK {
        if started.elapsed() > TIMEOUT {
            return Err("the host does not answer".into());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

type Orders = JoinSet<Result<Fate, Failure>>;

/// Submits `rate` orders per second, evenly, and follows each to its end.
async fn offer(arguments: &Arguments, authority: &str, name: &'static str, rate: f64) -> Result<Orders, Failure> {
    let mut orders = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    let started = Instant::now();
    for number in 0.. {
        ticks.tick().await;
        if started.elapsed().as_secs() >= arguments.seconds {
            break;
        }
        let authority = authority.to_owned();
        orders.spawn(async move { tokio::time::timeout(TIMEOUT, one(&authority, &format!("{name}-{number}"))).await? });
    }
    Ok(orders)
}

async fn followed(mut orders: Orders) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::default();
    while let Some(order) = orders.join_next().await {
        match order?? {
            Fate::Took(seconds) => outcome.took.push(seconds),
            Fate::Refused(milliseconds) => outcome.refused.push(milliseconds),
        }
    }
    Ok(outcome)
}

fn start(arguments: &Arguments, data: &Path, port: u16) -> Result<Program, Failure> {
    let (port, delay) = (port.to_string(), format!("{}ms", arguments.delay * 1e3));
    // A fortieth of the work's duration: before a backlog is noticed, several times that much arrives.
    let max_age = format!("{}ms", (arguments.delay * STAGES * 1e3 / 40.0).round());
    let data = data.to_string_lossy();
    let command = ["local", "--app", env!("CARGO_MANIFEST_DIR"), "--port", &port, "--data", &data];
    let settings = [("WORK_DELAY", &*delay), ("ADMISSION_MAX_AGE", &max_age), ("RATE_LIMIT", "0")];
    Ok(Program::start(Path::new(env!("CARGO_BIN_EXE_waybill")), &command, &settings)?)
}

/// The outcome of one order: seconds to its end, or milliseconds to its refusal.
enum Fate {
    Took(f64),
    Refused(f64),
}

async fn one(authority: &str, id: &str) -> Result<Fate, Failure> {
    let mut connection = Connection::open(authority).await?;
    let sent = Instant::now();
    let (status, body) = connection.post("/api/orders", Payload::sized(order(id))).await?;
    let body: Value = serde_json::from_slice(&body)?;
    match status {
        StatusCode::SERVICE_UNAVAILABLE if body["outcome"] == "not_accepted" => return Ok(Fate::Refused(milliseconds(sent.elapsed()))),
        StatusCode::ACCEPTED => {}
        _ => return Err(format!("an order was answered {status}").into()),
    }
    let path = format!("/api/orders/{}/status", body["trackingId"].as_str().unwrap_or_default());
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        let (_, body) = connection.get(&path).await?;
        let shown: Value = serde_json::from_slice(&body)?;
        let moment = |name: &str| shown[name].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        if let (Some(submitted), Some(completed)) = (moment("submittedAt"), moment("completedAt")) {
            return Ok(Fate::Took(completed.duration_since(submitted).as_secs_f64()));
        }
    }
}
